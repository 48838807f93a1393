"""Commands around sessions: long-lived keyed state."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.where import Limit, ask, every, group, show_list, show_one
from holdfast.cli.words import Json
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("Long-lived keyed state: list sessions, look at one.")
_COLUMNS: Final = ("id", "kind", "version", "archived", "created_at")


@words.command("list", epilog=EXIT_CODES)
def list_(context: typer.Context, limit: Limit = 100, as_json: Json = False) -> None:
    """
    List sessions.

    \b
    Example:
      holdfast session list --store sqlite:///agent.db --json
    """

    async def work(service: "Service") -> Exit:
        found = await every(service, "/v1/sessions", limit, {})
        return show_list(found, _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def show(
    context: typer.Context,
    session_id: Annotated[str, typer.Argument(help="Id, as `session list` shows it.")],
    as_json: Json = False,
) -> None:
    """
    Show one session with its fields.

    \b
    Example:
      holdfast session show Chat/user-42 --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        found = await service.request("GET", service.path("sessions", session_id))
        return show_one(found, as_json=as_json)

    ask(context, work)
