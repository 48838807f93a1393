"""
The words of the command line: one function per command, options and help; the work is elsewhere.

The store is named by `--store URL` or the environment variable HOLDFAST_STORE.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import (
    artifacts,
    backups,
    care,
    checkpoints,
    dashboards,
    health,
    inspection,
    keys,
    ledger,
    operations,
    questions,
    runs,
    serve,
    sessions,
    token,
    upkeep,
    where,
    workers,
)
from holdfast.cli.demo import KILLS, Wish, run_demo
from holdfast.cli.exits import EXIT_CODES, finish, finish_async
from holdfast.cli.words import STORE_HELP, Json, Store
from holdfast.core.exits import Exit

app = typer.Typer(
    name="holdfast",
    no_args_is_help=True,
    # Rich tracebacks show local variables, and those may hold stored content.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    help="Look after a Holdfast store, and see it survive kill -9.",
)

app.add_typer(dashboards.words, name="dashboards")
app.add_typer(backups.words, name="backup")
app.add_typer(token.words, name="token")
app.add_typer(runs.words, name="run")
app.add_typer(operations.words, name="operation")
app.add_typer(questions.words, name="question")
app.add_typer(checkpoints.words, name="checkpoint")
app.add_typer(artifacts.words, name="artifact")
app.add_typer(sessions.words, name="session")
app.add_typer(ledger.words, name="ledger")
app.add_typer(workers.words, name="worker")
app.command("restore", epilog=EXIT_CODES)(backups.restore)
serve.add_to(app)
app.add_typer(keys.app, name="key")
for word in (health.health, care.doctor, care.gc, care.query):
    app.command(epilog=EXIT_CODES)(word)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        app(args=arguments, prog_name="holdfast")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(Exit.UNEXPECTED)
    return int(Exit.DONE)


@app.command(epilog=EXIT_CODES)
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Folder of text files; without one, Python's standard library.",
        ),
    ] = None,
    store: Annotated[
        str, typer.Option("--store", help=f"{STORE_HELP}; without it, a temporary SQLite file.")
    ] = "",
    kills: Annotated[int, typer.Option(min=0, max=1000, help="How often to kill.")] = KILLS,
    seed: Annotated[int | None, typer.Option(help="Draws when to kill; repeats a run.")] = None,
    files: Annotated[int | None, typer.Option(min=1, help="How many files at most.")] = None,
    report: Annotated[str, typer.Option(help="JSON report; '' for none.")] = "build/demo.json",
    plant: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """
    Ingest a folder in a worker that is killed with SIGKILL again and again, then compare.

    \b
    Example:
      holdfast demo ~/texts --kills 50 --seed 7
    """
    wish = Wish(folder, store, kills, seed, files, report, plant)
    finish(lambda: run_demo(wish))


@app.command(epilog=EXIT_CODES)
def verify(
    store: Annotated[str, typer.Argument(envvar="HOLDFAST_STORE", help=STORE_HELP)],
    level: Annotated[str, typer.Option(help="quick, standard or full.")] = "full",
    sample: Annotated[
        str, typer.Option(help="Share of streams, blobs, snapshots: 5% (drawn), 2/7 (that one).")
    ] = "",
    as_json: Json = False,
) -> None:
    """
    Read everything in a store and name each damage: stream, sequence, reason.

    \b
    Example:
      holdfast verify sqlite:///agent.db
      holdfast verify sqlite:///agent.db --level standard --sample 2/7 --json
    """
    finish_async(inspection.verify(store, level, sample, as_json=as_json), check=True)


@app.command(epilog=EXIT_CODES)
def streams(
    store: Store,
    prefix: Annotated[str, typer.Option(help="How the names begin.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 100,
    after: Annotated[str | None, typer.Option(help="Name behind which to go on.")] = None,
    as_json: Json = False,
) -> None:
    """
    List streams in the order of their names.

    \b
    Example:
      holdfast streams --store sqlite:///agent.db --prefix chat/ --json
    """
    finish_async(inspection.list_streams(store, prefix, limit, after, as_json=as_json))


@app.command(epilog=EXIT_CODES)
def events(
    stream: Annotated[str, typer.Argument(help="Name of the stream.")],
    store: Store,
    after: Annotated[int, typer.Option(min=0, help="Sequence behind which to begin.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="How many at most.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more; end: Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """
    Show the events of a stream.

    \b
    Example:
      holdfast events chat/user-42 --store sqlite:///agent.db --after 10 --follow --json
    """
    finish_async(
        inspection.show_events(store, stream, after, limit, follow=follow, as_json=as_json)
    )


@app.command(epilog=EXIT_CODES)
def info(store: Store, as_json: Json = False) -> None:
    """
    Say what a store is: id, epoch, schema, durability, software.

    \b
    Example:
      holdfast info --store sqlite:///agent.db
    """
    finish_async(inspection.show_info(store, as_json=as_json))


@app.command(epilog=EXIT_CODES)
def migrate(
    store: Store,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """
    Bring the schema of a store up to date; every opening for writing does the same.

    \b
    Example:
      holdfast migrate --store sqlite:///agent.db --dry-run
    """
    finish_async(upkeep.migrate(store, dry_run=dry_run, as_json=as_json))


@app.command("export", epilog=EXIT_CODES)
def export_(
    output: Annotated[Path, typer.Option("--output", dir_okay=False, help="File to write.")],
    stream: Annotated[str | None, typer.Argument(help="Name of a stream.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Id of a run.")] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="CLASS/KEY of a session, or a JSON list.")
    ] = None,
    url: where.Url = "",
    store: where.StoreOf = "",
    token_file: where.TokenFile = None,
    token: where.Token = "",
) -> None:
    """
    Write one stream, run or session into a file: all of it or nothing, readable by you only.

    The file is plain text, also if the store is encrypted. A service exports runs and sessions;
    what may read payloads may do so.

    \b
    Example:
      holdfast export chat/user-42 --store sqlite:///agent.db --output user-42.ndjson
      holdfast export --run report-7 --store sqlite:///agent.db --output report-7.ndjson
      holdfast export --session Chat/user-42 --url http://127.0.0.1:8321 --output chat.ndjson
    """
    if [stream, run_id, session].count(None) != 2:
        raise typer.BadParameter("name one stream, or one run with --run, or one --session")
    asked = where.checked(where.Where(url, store, token_file, token))
    if run_id is not None:
        finish_async(upkeep.export_run(asked, run_id, output))
    if session is not None:
        finish_async(upkeep.export_session(asked, session, output))
    if asked.url:
        raise typer.BadParameter("a service exports runs and sessions; a stream needs --store")
    finish_async(upkeep.export_stream(store, stream or "", output))


@app.command("import", epilog=EXIT_CODES)
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An export.")],
    url: where.Url = "",
    store: where.StoreOf = "",
    token_file: where.TokenFile = None,
    token: where.Token = "",
) -> None:
    """
    Check an export and bring in what it holds, which must not be there yet.

    A run that was under way arrives paused. An import that was killed goes on where it stopped
    when it is run again.

    \b
    Example:
      holdfast import user-42.ndjson --store postgresql://localhost/agent
      holdfast import report-7.ndjson --url http://127.0.0.1:8321 --token-file holdfast.token
    """
    asked = where.checked(where.Where(url, store, token_file, token))
    finish_async(upkeep.import_file(asked, file))
