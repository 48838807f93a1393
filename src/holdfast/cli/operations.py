"""Commands around many runs at once: order, see how far it is, stop it."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from holdfast.cli import progress, runs
from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.output import say
from holdfast.cli.where import (
    Limit,
    Plain,
    Reason,
    ask,
    every,
    filled,
    group,
    show_list,
    show_one,
)
from holdfast.cli.words import Json, taking
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("Operations on many runs: see how far one is, what became of each run, stop it.")
OperationId = Annotated[str, typer.Argument(help="Id of the operation.")]
_COLUMNS: Final = ("id", "action", "status", "selected", "done", "refused", "gone", "created_at")
_ITEM_COLUMNS: Final = ("run_id", "outcome", "code", "reason", "became")


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `run bulk`."""

    context: typer.Context
    action: Annotated[str, typer.Argument(help="cancel, pause, resume, retry or remove.")]
    run_ids: Annotated[list[str] | None, typer.Argument(help="Runs, instead of a filter.")] = None
    status: Annotated[str, typer.Option(help="Those in this status.")] = ""
    function: Annotated[str, typer.Option(help="Those of this function.")] = ""
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None
    session: Annotated[str, typer.Option(help="Those of the session of this id.")] = ""
    attention: Annotated[bool, typer.Option("--attention", help="That need somebody.")] = False
    all: Annotated[bool, typer.Option("--all", help="All there are.")] = False
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None
    expect: Annotated[int | None, typer.Option(min=0, help="Begin only if so many.")] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False
    wait: Annotated[bool, typer.Option(help="Stay until it is over.")] = True
    reason: Reason = ""
    as_json: Json = False

    @property
    def asked(self) -> Plain:
        """What the service is asked for."""
        labels = [one.replace("=", ":", 1) for one in self.label or []]
        filter = filled(
            status=self.status,
            function=self.function,
            label=labels,
            session=self.session,
            attention=self.attention or None,
        )
        if bool(self.run_ids) + bool(filter) + self.all != 1:
            raise typer.BadParameter("name runs, or say which by a filter, or --all")
        asked = filled(limit=self.limit, expected_count=self.expect, reason=self.reason)
        return asked | ({"ids": self.run_ids} if self.run_ids else {"filter": filter})


@runs.words.command(epilog=EXIT_CODES)
@taking(Selection)
def bulk(**chosen: Any) -> None:
    """
    Do something to many runs: those of a filter as it is now, or those that are named.

    It goes on if this command is ended, and over restarts; see `holdfast operation`. Ends with 4 if
    runs refused, with 7 if it was cancelled.

    \b
    Example:
      export HOLDFAST_URL=http://127.0.0.1:8321
      holdfast run bulk cancel --status waiting --label kind=old --dry-run
      holdfast run bulk cancel --status waiting --label kind=old --expect 12 --reason "too old"
    """
    said = Selection(**chosen)
    asked = said.asked

    async def work(service: "Service") -> Exit:
        if said.dry_run:
            plan = await service.operations.plan(said.action, **asked)
            return _show_plan(plan, as_json=said.as_json)
        begun = await service.operations.begin(said.action, **asked)
        if not said.wait:
            return show_one(begun, as_json=said.as_json)
        return await _watched(service, begun, as_json=said.as_json)

    ask(said.context, work, changes=True)


@words.command("list", epilog=EXIT_CODES)
def list_(context: typer.Context, limit: Limit = 100, as_json: Json = False) -> None:
    """
    List operations, the newest first.

    \b
    Example:
      holdfast operation list --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        found = await every(service, "/v1/operations", limit, {})
        return show_list(found, _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def show(context: typer.Context, operation_id: OperationId, as_json: Json = False) -> None:
    """
    Show one operation: how many runs it was done to, and the first that refused.

    \b
    Example:
      holdfast operation show bulk-1f3a --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        return show_one(await service.operations.get(operation_id), as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def items(
    context: typer.Context,
    operation_id: OperationId,
    outcome: Annotated[str, typer.Option(help="open, done, refused or gone.")] = "",
    limit: Limit = 1_000,
    as_json: Json = False,
) -> None:
    """
    List what became of each run of an operation.

    \b
    Example:
      holdfast operation items bulk-1f3a --outcome refused --json --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        path = f"{service.path('operations', operation_id)}/items"
        found = await every(service, path, limit, filled(outcome=outcome))
        return show_list(found, _ITEM_COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def watch(context: typer.Context, operation_id: OperationId, as_json: Json = False) -> None:
    """
    Stay until an operation is over; the exit code says how it ended.

    \b
    Example:
      holdfast operation watch bulk-1f3a --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        found = await service.operations.get(operation_id)
        return await _watched(service, found, as_json=as_json)

    ask(context, work, changes=True)


@words.command(epilog=EXIT_CODES)
def cancel(
    context: typer.Context, operation_id: OperationId, reason: Reason = "", as_json: Json = False
) -> None:
    """
    Ask an operation to end; what was done to runs stays done.

    \b
    Example:
      holdfast operation cancel bulk-1f3a --reason "wrong filter" --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        found = await service.operations.cancel(operation_id, reason=reason)
        return show_one(found, as_json=as_json)

    ask(context, work, changes=True)


async def _watched(service: "Service", begun: Plain, *, as_json: bool) -> Exit:
    """Show how far an operation is until it is over; then what came of it."""
    say(f"operation {begun['id']}: {begun['action']} {begun['selected']} runs")
    found = begun
    with progress.shown(begun["action"], "runs") as tell:
        async for found in service.operations.follow(begun["id"]):
            tell(found["status"], found["selected"] - found["open"])
    show_one(found, as_json=as_json)
    if found["status"] == "cancelled":
        return Exit.RUN_CANCELLED
    if found["status"] == "failed":
        return Exit.RUN_FAILED
    return Exit.CONFLICT if found["refused"] else Exit.DONE


def _show_plan(plan: Plain, *, as_json: bool) -> Exit:
    if as_json:
        return show_one(plan, as_json=True)
    counts = ", ".join(f"{count} {status}" for status, count in plan["by_status"].items())
    say(f"would {plan['action']} {plan['selected']} runs: {counts or 'none'}; the first of them:")
    return show_list(plan["sample"], ("id", "function", "status"), as_json=False)
