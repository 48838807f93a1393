"""
Where a command asks: a service under an address, or a store, which is served in this process.

Both are asked the same way, as a client of the service, so that a command says the same of both,
and so that there is one set of rules for what may be done.
"""

import itertools
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup

import holdfast
from holdfast.cli.exits import EXIT_CODES, finish_async
from holdfast.cli.output import say, short_json, write_json, write_rows
from holdfast.cli.words import STORE_HELP
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

Plain = dict[str, Any]
Work = Callable[["Service"], Coroutine[Any, Any, Exit]]
_PAGE_MAX: Final = 500
_ANYWHERE: Final = ("--url", "--store", "--token-file")
_ANYWHERE_WITH: Final = tuple(f"{word}=" for word in _ANYWHERE)
_HINT: Final = "--url, --store and --token-file may stand before or behind the command."

Url = Annotated[str, typer.Option("--url", envvar="HOLDFAST_URL", help="Address of a service.")]
StoreOf = Annotated[
    str, typer.Option("--store", envvar="HOLDFAST_STORE", help=f"{STORE_HELP}, without a service.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="HOLDFAST_TOKEN_FILE",
        exists=True,
        dir_okay=False,
        help="File that holds the token for the service.",
    ),
]
Token = Annotated[
    str, typer.Option(envvar="HOLDFAST_TOKEN", hidden=True, help="Better: --token-file.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")]


class Where(NamedTuple):
    """
    Where a command asks.

    Attributes:
        url: of a service; empty for none.
        store: URL of a store.
        token_file, token: what allows it.
    """

    url: str
    store: str
    token_file: Path | None
    token: str


class Group(TyperGroup):
    """Commands of a noun; where to ask may be said before or behind the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put what says where to ask in front, where the group reads it."""
        # The class of the context depends on the version of typer: some carry their own click.
        front: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word in _ANYWHERE:
                front += [word, *itertools.islice(words, 1)]
            else:
                (front if word.startswith(_ANYWHERE_WITH) else rest).append(word)
        return super().parse_args(ctx, [*front, *rest])


def group(about: str) -> typer.Typer:
    """Return a group of commands that ask a service, or a store."""
    return typer.Typer(
        cls=Group,
        no_args_is_help=True,
        rich_markup_mode=None,
        callback=choose,
        epilog=f"{_HINT}\n\n{EXIT_CODES}",
        help=about,
    )


def where_of(context: typer.Context) -> Where:
    """Return where the group of this command was told to ask."""
    return checked(context.find_object(Where))


def checked(found: Where | None) -> Where:
    """Return where to ask, if that is one place."""
    if found is None or not (found.url or found.store):
        raise typer.BadParameter("name a service with --url, or a store with --store")
    if found.url and found.store:
        raise typer.BadParameter("name a service with --url or a store with --store, not both")
    return found


def choose(
    context: typer.Context,
    url: Url = "",
    store: StoreOf = "",
    token_file: TokenFile = None,
    token: Token = "",
) -> None:
    """Remember where the commands of a group ask."""
    context.obj = Where(url, store, token_file, token)


def ask(context: typer.Context, work: Work, *, changes: bool = False) -> NoReturn:
    """
    Do a command's work as a client, and end with its exit code.

    Args:
        context: of the command, which knows where to ask.
        work: what is done.
        changes: it changes something; a store is opened for reading otherwise.
    """
    where = where_of(context)

    async def done() -> Exit:
        async with asked(where, changes=changes) as service:
            return await work(service)

    finish_async(done())


@asynccontextmanager
async def asked(where: Where, *, changes: bool) -> "AsyncGenerator[Service]":
    """Connect to a service, or serve a store in this process."""
    # Only now: commands that ask nobody need neither client nor server.
    from holdfast.client import connect

    if where.url:
        async with connect(where.url, token=token_of(where)) as service:
            yield service
        return
    import httpx

    from holdfast.http import Settings, app

    token = secrets.token_hex(16)
    async with holdfast.open(where.store, read_only=not changes) as rt:
        inside = httpx.ASGITransport(app(rt, Settings(token=token)))
        async with connect("http://localhost", token=token, transport=inside) as service:
            yield service


def token_of(where: Where) -> str | None:
    """Return the token that allows to ask, if one was given."""
    if where.token_file is not None:
        return where.token_file.read_text(encoding="utf-8").strip()
    return where.token or None


async def every(service: "Service", path: str, limit: int, params: Plain) -> list[Plain]:
    """Return the items of a listing, so many at most."""
    found: list[Plain] = []
    async for item in service.items(path, limit=min(limit, _PAGE_MAX), **params):
        if len(found) == limit:
            say(f"there are more; raise --limit above {limit}")
            break
        found.append(item)
    return found


def show_list(items: Sequence[Plain], columns: Sequence[str], *, as_json: bool) -> Exit:
    """Write items: whole as JSON, or some of their fields as a table."""
    if as_json:
        for item in items:
            write_json(item)
    else:
        write_rows(columns, [[_cell(item.get(name)) for name in columns] for item in items])
    return Exit.DONE


def show_one(item: Plain, *, as_json: bool) -> Exit:
    """Write one thing: as JSON, or a field a line."""
    if as_json:
        write_json(item)
    else:
        write_rows(("", ""), [(name, _cell(value)) for name, value in item.items()])
    return Exit.DONE


def value_of(word: str) -> Any:
    """Return what a word of the command line means: JSON if it is some, else the text itself."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def filled(**params: Any) -> Plain:
    """Return those parameters that were given."""
    return {name: value for name, value in params.items() if value not in (None, "", [], ())}


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return short_json(value)  # pyright: ignore[reportUnknownArgumentType]
    return round(value, 3) if isinstance(value, float) else value
