"""`holdfast serve`: a store over HTTP, with the functions, engines and machines of a program."""

import asyncio
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from holdfast.cli.exits import EXIT_CODES, finish
from holdfast.cli.output import say
from holdfast.cli.where import filled
from holdfast.cli.words import taking
from holdfast.core.errors import InvalidValueError, MissingExtraError
from holdfast.core.exits import Exit
from holdfast.core.machine import Machine

_STORE_HELP: Final = "sqlite:///FILE or postgresql://…"
_PARTS: Final = ("functions", "engines", "machines")


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command: more than a function should have, so a value of their own."""

    store: Annotated[str, typer.Option("--store", envvar="HOLDFAST_STORE", help=_STORE_HELP)]
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token of an administrator; made if it is not there."),
    ] = None
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any that is free.")] = 8080
    uds: Annotated[
        Path | None, typer.Option(help="Path of a socket to listen at, instead of a port.")
    ] = None
    program: Annotated[
        str, typer.Option("--app", metavar="MODULE:NAME", help="Functions, engines and machines.")
    ] = ""
    host_name: Annotated[
        list[str] | None, typer.Option(help="Name under which it is reached, besides loopback.")
    ] = None
    origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages that may use it, besides its own.")
    ] = None
    drain_delay: Annotated[
        float, typer.Option(min=0, help="Seconds it still serves after SIGTERM.")
    ] = 0.0
    drain_deadline: Annotated[
        float, typer.Option(min=0, help="Seconds that steps under way have then.")
    ] = 30.0
    outage_grace: Annotated[
        float, typer.Option(min=0, help="Seconds a probe stays green while a store is away.")
    ] = 0.0
    free_bytes_min: Annotated[
        int | None,
        typer.Option(min=0, help="Bytes that have to be free on the disk for work to begin."),
    ] = None
    clock_skew_max: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds the wall clock may be off before that is said."),
    ] = None


@taking(Words)
def serve(**chosen: Any) -> None:
    """
    Serve a store over HTTP: it listens at once, and says how far it is while the store comes back.

    SIGTERM ends it in good order: readiness off, streams closed, steps to their next checkpoint,
    leases given back. A second signal hands over at once what is under way.

    \b
    Example:
      holdfast serve --store sqlite:///agent.db --token-file holdfast.token --app jobs:functions
      curl -H "Authorization: Bearer $(cat holdfast.token)" http://127.0.0.1:8080/v1/runs
    """
    finish(lambda: _serve(Words(**chosen)))


def _serve(words: Words) -> Exit:
    try:
        from holdfast.http.serve import Serving, announcement
        from holdfast.http.serve import serve as serve_http
        from holdfast.http.site import Settings
    except ModuleNotFoundError as error:
        raise MissingExtraError(feature="holdfast serve", extra="http") from error
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    limits = {"free_bytes_min": words.free_bytes_min, "clock_skew_max": words.clock_skew_max}
    serving = Serving(
        url=words.store,
        token_file=words.token_file,
        host=words.host,
        port=words.port,
        uds=words.uds,
        offer=offer_of(words.program),
        settings=Settings(
            hosts=tuple(words.host_name or ()),
            origins=tuple(words.origin or ()),
            outage_grace=words.outage_grace,
        ),
        drain_delay=words.drain_delay,
        drain_deadline=words.drain_deadline,
        options=filled(**limits),
    )
    with serving.listen() as listening:
        say(announcement(listening, serving.url))
        drained = asyncio.run(serve_http(serving, listening))
    return Exit.HANDED_OVER if drained.unfinished else Exit.DONE


def offer_of(program: str) -> Any:
    """
    Return what a program offers: a list of functions, a dict by name, or something with parts.

    Raises:
        InvalidValueError: there is no such name, or it is something else.
    """
    from holdfast.http.serve import Offer

    if not program:
        return Offer()
    found = _found(program)
    if isinstance(found, dict):
        named: dict[str, Any] = found  # pyright: ignore[reportUnknownVariableType]
        return _sorted_out(named)
    if isinstance(found, list | tuple):
        listed: list[Any] = list(found)  # pyright: ignore[reportUnknownArgumentType]
        return _sorted_out({str(number): one for number, one in enumerate(listed)})
    parts = {name: getattr(found, name) for name in _PARTS if hasattr(found, name)}
    if not parts:
        raise InvalidValueError(
            what="--app",
            reason=f"names a {type(found).__name__}; needed is a list, a dict by name, "
            f"or something with {', '.join(_PARTS)}",
        )
    return Offer(
        functions=tuple(parts.get("functions", ())),
        engines=dict(parts.get("engines", {})),
        machines=tuple(parts.get("machines", ())),
    )


def _sorted_out(named: dict[str, Any]) -> Any:
    from holdfast.http.serve import Offer

    machines = [one for one in named.values() if isinstance(one, Machine)]
    engines = {name: one for name, one in named.items() if hasattr(one, "fingerprint")}
    engines = {name: one for name, one in engines.items() if not isinstance(one, Machine)}
    functions = [
        one
        for name, one in named.items()
        if callable(one) and name not in engines and not isinstance(one, Machine)
    ]
    return Offer(functions=tuple(functions), engines=engines, machines=tuple(machines))


def _found(program: str) -> Any:
    module, _, name = program.partition(":")
    if not module or not name:
        raise InvalidValueError(what="--app", reason="is MODULE:NAME, such as jobs:functions")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise
        raise InvalidValueError(what="--app", reason=f"there is no module {module!r}") from error
    if not hasattr(loaded, name):
        raise InvalidValueError(what="--app", reason=f"{module!r} has no {name!r}")
    return getattr(loaded, name)


def add_to(app: typer.Typer) -> None:
    """Give the command line this command."""
    app.command(epilog=EXIT_CODES)(serve)
