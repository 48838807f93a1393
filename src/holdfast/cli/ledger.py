"""Commands around the ledger: work in flight, and what is known of its outcome."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.where import (
    Limit,
    Reason,
    ask,
    every,
    filled,
    group,
    show_list,
    show_one,
    value_of,
)
from holdfast.cli.words import Json
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("Work in flight, and what is known of its outcome.")
_COLUMNS: Final = ("key", "kind", "state", "owner", "attempt", "began_at")


@words.command("list", epilog=EXIT_CODES)
def list_(
    context: typer.Context,
    state: Annotated[str, typer.Option(help="Only in this state.")] = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """
    List work in flight.

    \b
    Example:
      holdfast ledger list --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        found = await every(service, "/v1/inflight", limit, filled(state=state))
        return show_list(found, _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def resolve(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="What it is work on; a JSON list if it has parts.")],
    outcome: Annotated[str, typer.Argument(help="resume lets it go on; else what it came to.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """
    Say what became of work that nobody does any more.

    \b
    Example:
      holdfast ledger resolve user-42 done --reason "seen in the mailbox" --store sqlite:///agent.db
    """
    parts = value_of(key) if key.startswith("[") else [key]
    body = filled(key=parts, outcome=outcome, reason=reason)

    async def work(service: "Service") -> Exit:
        found = await service.request("POST", "/v1/inflight/resolve", body)
        return show_one(found, as_json=as_json)

    ask(context, work, changes=True)
