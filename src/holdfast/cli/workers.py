"""Commands around workers: the runtimes that have a store open."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.where import Reason, ask, group, show_list, show_one
from holdfast.cli.words import Json
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("Runtimes on a store: list them, let one take no runs any more.")
WorkerId = Annotated[str, typer.Argument(help="Id, as `worker list` shows it.")]
_COLUMNS: Final = ("id", "host", "pid", "epoch", "silent", "drained_at")


@words.command("list", epilog=EXIT_CODES)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """
    List the runtimes that have the store open.

    \b
    Example:
      holdfast worker list --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        return show_list(await service.workers.list(), _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def drain(
    context: typer.Context, worker_id: WorkerId, reason: Reason = "", as_json: Json = False
) -> None:
    """
    Let a runtime take no runs any more; what it executes goes on.

    \b
    Example:
      holdfast worker drain 5f2d... --url http://127.0.0.1:8321 --reason "new machine"
    """

    async def work(service: "Service") -> Exit:
        return show_one(await service.workers.drain(worker_id, reason=reason), as_json=as_json)

    ask(context, work, changes=True)


@words.command(epilog=EXIT_CODES)
def resume(
    context: typer.Context, worker_id: WorkerId, reason: Reason = "", as_json: Json = False
) -> None:
    """
    Let a runtime take runs again.

    \b
    Example:
      holdfast worker resume 5f2d... --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        return show_one(await service.workers.resume(worker_id, reason=reason), as_json=as_json)

    ask(context, work, changes=True)
