"""Commands around backups: `backup create|list|verify|drill`, and `restore`."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from holdfast.cli.exits import EXIT_CODES, finish, finish_async
from holdfast.cli.inspection import show_findings, store_name
from holdfast.cli.output import say, write_json, write_rows
from holdfast.cli.progress import shown
from holdfast.cli.words import BackupPath, Backups, Json, Store
from holdfast.core.exits import Exit
from holdfast.runtime import backup as backups
from holdfast.runtime import restore as restores

words = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    help="Make copies of a store while it is used; check them, and try that they come back.",
)


@words.command(epilog=EXIT_CODES)
def create(
    store: Store,
    to: Backups,
    verify: Annotated[bool, typer.Option(help="Read it all again behind it.")] = True,
    as_json: Json = False,
) -> None:
    """
    Copy a store as it is at one moment; others may go on writing.

    \b
    Example:
      holdfast backup create --store sqlite:///agent.db --to backups
    """
    finish_async(_create(store, to, verify=verify, as_json=as_json))


@words.command("list", epilog=EXIT_CODES)
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder of the backups.")], as_json: Json = False
) -> None:
    """
    List the backups in a folder, oldest first.

    \b
    Example:
      holdfast backup list backups --json
    """
    finish(lambda: _list(folder, as_json=as_json))


@words.command(epilog=EXIT_CODES)
def verify(backup: BackupPath, as_json: Json = False) -> None:
    """
    Compare a backup with its manifest and check every row; writes nothing.

    \b
    Example:
      holdfast backup verify backups/2026-11-22T01-02-03Z
    """
    finish_async(_verify(backup, as_json=as_json), check=True)


@words.command(epilog=EXIT_CODES)
def drill(
    backup: BackupPath,
    scratch: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with room for a copy."),
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Restore a backup to a scratch folder, recover it with nothing executed, and say how long.

    \b
    Example:
      holdfast backup drill backups/2026-11-22T01-02-03Z --scratch /var/tmp
    """
    finish_async(_drill(backup, scratch, as_json=as_json), check=True)


def restore(
    store: Store,
    backup: Annotated[
        Path | None, typer.Argument(help="Folder of a backup, or of many: the newest.")
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Let a restored store go on.")] = False,
    by: Annotated[str, typer.Option(help="Who confirms, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """
    Make a store from a backup where none is; it rests until it is confirmed.

    Nothing is executed before: no run, no timer, no work that was in flight. Look what the
    backup does not know of, cancel what must not happen again, then confirm.

    \b
    Example:
      holdfast restore backups/2026-11-22T01-02-03Z --store sqlite:///agent.db
      holdfast restore --confirm --store sqlite:///agent.db
    """
    if (backup is None) != confirm:
        raise typer.BadParameter("name a backup, or --confirm what was restored")
    if backup is None:
        finish_async(_confirm(store, by or getpass.getuser()))
    finish_async(_restore(backup, store, as_json=as_json))


async def _create(store: str, folder: Path, *, verify: bool, as_json: bool) -> Exit:
    with shown("backup") as tell:
        made = await backups.create(store, folder, tell=tell)
        found = await backups.verify(Path(made.path), tell=tell) if verify else []
    if as_json:
        write_json(_described(made))
    show_findings(found, as_json=as_json)
    events = made.manifest.rows.get("event", 0)
    say(f"{made.path}: {events} events, {made.manifest.size_bytes} bytes")
    _say_keys(made.manifest.keys)
    if found:
        say(f"{len(found)} damaged, in the store as in its copy; run `holdfast verify`")
    return Exit.DAMAGED if found else Exit.DONE


def _list(folder: Path, *, as_json: bool) -> Exit:
    found = backups.list_backups(folder)
    if as_json:
        for one in found:
            write_json(_described(one))
        return Exit.DONE
    rows = [
        (
            one.manifest.name,
            _moment(one.manifest.made_at),
            one.manifest.store,
            one.manifest.rows.get("event", 0),
            one.manifest.size_bytes,
        )
        for one in found
    ]
    write_rows(("name", "made", "of", "events", "bytes"), rows)
    return Exit.DONE


async def _verify(path: Path, *, as_json: bool) -> Exit:
    path = backups.newest(path)
    with shown("verify") as tell:
        found = await backups.verify(path, tell=tell)
    show_findings(found, as_json=as_json)
    say(f"{len(found)} damaged: {path}" if found else f"all well: {path}")
    return Exit.DAMAGED if found else Exit.DONE


async def _drill(path: Path, scratch: Path | None, *, as_json: bool) -> Exit:
    path = backups.newest(path)
    with shown("drill") as tell:
        done = await restores.drill(path, scratch, tell=tell)
    if as_json:
        write_json(msgspec.to_builtins(done))
    else:
        seconds = (done.restore_seconds, done.recovery_seconds, done.verify_seconds)
        names = ("restored", "recovered", "read and checked")
        rows = zip(names, (f"{one:.3f}" for one in seconds), strict=True)
        write_rows(("part", "seconds"), list(rows))
        show_findings(done.findings, as_json=False)
    say(f"{len(done.findings)} damaged" if done.findings else "it comes back")
    return Exit.DAMAGED if done.findings else Exit.DONE


async def _restore(path: Path, store: str, *, as_json: bool) -> Exit:
    with shown("restore") as tell:
        done = await restores.restore(backups.newest(path), store, tell=tell)
    if as_json:
        write_json(msgspec.to_builtins(done))
    say(f"{store_name(store)} is as it was in {done.backup}; lineage {done.lineage}")
    _say_keys(done.keys)
    say("it is paused; look, cancel what must not happen again, then:")
    say(f"holdfast restore --confirm --store {store_name(store)}")
    return Exit.DONE


async def _confirm(store: str, by: str) -> Exit:
    if await restores.confirm(store, by):
        say(f"{store_name(store)} goes on")
    else:
        say(f"{store_name(store)} was not paused")
    return Exit.DONE


def _say_keys(keys: tuple[str, ...]) -> None:
    """Say which keys have to be kept elsewhere."""
    if keys:
        say(f"encrypted: nobody reads it without key {', '.join(keys)}")


def _described(backup: backups.Backup) -> dict[str, Any]:
    return {"path": backup.path, **msgspec.to_builtins(backup.manifest)}


def _moment(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")
