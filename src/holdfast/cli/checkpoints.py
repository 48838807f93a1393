"""Commands around checkpoints: what a run had done at a place of its journal, and differences."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.output import write_json
from holdfast.cli.where import Limit, ask, every, filled, group, show_list, show_one
from holdfast.cli.words import Json
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("What a run had done at a place of its journal: list, look, compare.")
RunId = Annotated[str, typer.Argument(help="Id of the run.")]
Pointer = Annotated[str, typer.Option(help="JSON pointer to a part of it, such as /steps.")]
_COLUMNS: Final = ("id", "parent", "cause", "step", "at", "size")


@words.command("list", epilog=EXIT_CODES)
def list_(context: typer.Context, run_id: RunId, limit: Limit = 100, as_json: Json = False) -> None:
    """
    List the checkpoints of a run: places at which it can be forked.

    \b
    Example:
      holdfast checkpoint list report-7 --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        path = f"{service.path('runs', run_id)}/checkpoints"
        return show_list(await every(service, path, limit, {}), _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def show(
    context: typer.Context,
    run_id: RunId,
    checkpoint: Annotated[str, typer.Argument(help="Its id, or latest.")] = "latest",
    pointer: Pointer = "",
    as_json: Json = False,
) -> None:
    """
    Show what a run had done at a checkpoint.

    \b
    Example:
      holdfast checkpoint show report-7 latest --pointer /steps --store sqlite:///agent.db --json
    """

    async def work(service: "Service") -> Exit:
        path = f"{service.path('runs', run_id)}/checkpoints/{checkpoint}"
        found = await service.request("GET", path, params=filled(pointer=pointer))
        return show_one(found, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def diff(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FROM", help="RUN@ID, or RUN@latest.")],
    to: Annotated[str, typer.Argument(help="RUN@ID, of this run or another one.")],
    pointer: Pointer = "",
) -> None:
    """
    Print what differs between two checkpoints, as a JSON patch.

    \b
    Example:
      holdfast checkpoint diff report-7@3 report-8@latest --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        asked = {"from": source, "to": to, **filled(pointer=pointer)}
        write_json(await service.request("GET", "/v1/diff", params=asked))
        return Exit.DONE

    ask(context, work)
