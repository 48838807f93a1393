"""`holdfast token`: who may ask a service what."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

import holdfast
from holdfast.cli.exits import EXIT_CODES, finish_async
from holdfast.cli.output import say, write_json, write_rows, write_text
from holdfast.cli.words import Json, Store
from holdfast.core.exits import Exit

words = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    help="Make, list and revoke the tokens with which a service is asked.",
)
_DAY = 86_400.0


@words.command(epilog=EXIT_CODES)
def create(
    store: Store,
    role: Annotated[str, typer.Option(help="viewer, answerer, operator or admin.")],
    label: Annotated[str, typer.Option(help="For people: who has it.")] = "",
    payloads: Annotated[
        bool | None, typer.Option(help="It may see content; without it, what the role has.")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="Days for which it counts.")] = None,
    as_json: Json = False,
) -> None:
    """
    Make a token; it is printed this once, the store keeps a hash.

    \b
    Example:
      holdfast token create --store sqlite:///agent.db --role viewer --label dashboard --days 90
    """
    finish_async(_create(store, role, label, payloads, days, as_json=as_json))


@words.command("list", epilog=EXIT_CODES)
def list_(store: Store, as_json: Json = False) -> None:
    """
    List tokens: id, role, label, when they end, when they were used last.

    \b
    Example:
      holdfast token list --store sqlite:///agent.db --json
    """
    finish_async(_list(store, as_json=as_json))


@words.command(epilog=EXIT_CODES)
def revoke(
    store: Store, token_id: Annotated[str, typer.Argument(help="As `token list` shows it.")]
) -> None:
    """
    End a token, and the cookies that were made from it; servers see it within seconds.

    \b
    Example:
      holdfast token revoke 9f3a0c1255d0 --store sqlite:///agent.db
    """
    finish_async(_revoke(store, token_id))


async def _create(
    store: str,
    role: str,
    label: str,
    payloads: bool | None,
    days: float | None,
    *,
    as_json: bool,
) -> Exit:
    seconds = None if days is None else days * _DAY
    async with holdfast.open(store) as rt:
        text, token = await rt.tokens.create(
            role, label=label, payloads=payloads, expires_in=seconds, by="command line"
        )
    if as_json:
        write_json({"text": text, "token": msgspec.to_builtins(token)})
    else:
        write_text(text)
    say(f"token {token.id} of role {token.role}; it is not shown again")
    return Exit.DONE


async def _list(store: str, *, as_json: bool) -> Exit:
    async with holdfast.open(store, read_only=True) as rt:
        found = await rt.tokens.list()
    if as_json:
        for one in found:
            write_json(msgspec.to_builtins(one))
        return Exit.DONE
    write_rows(
        ("id", "role", "content", "label", "ends", "used"),
        [
            (
                one.id,
                one.role,
                "yes" if one.payloads else "no",
                one.label,
                _day(one.expires_at),
                _day(one.used_at),
            )
            for one in found
        ],
    )
    return Exit.DONE


async def _revoke(store: str, token_id: str) -> Exit:
    async with holdfast.open(store) as rt:
        token = await rt.tokens.revoke(token_id)
    say(f"token {token.id} of role {token.role} is revoked")
    return Exit.DONE


def _day(wall: float | None) -> str:
    return "never" if wall is None else f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M}"
