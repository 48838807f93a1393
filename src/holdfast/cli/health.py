"""The command `health`: whether a service takes work, and what it waits for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from holdfast.cli.exits import finish_async
from holdfast.cli.output import say, write_json, write_rows
from holdfast.cli.where import Token, TokenFile, Where, token_of
from holdfast.cli.words import Json
from holdfast.core.clock import SystemClock
from holdfast.core.errors import InvalidValueError
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    import httpx

_BETWEEN: Final = 0.5
_ANSWER_MOST: Final = 10.0
_REFUSED: Final = InvalidValueError(what="URL", reason="is not http://… or https://…")


def health(
    url: Annotated[
        str, typer.Argument(envvar="HOLDFAST_URL", help="Address of a service.")
    ] = "http://127.0.0.1:8080",
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until it is ready; 0 looks once.")
    ] = 0.0,
    token_file: TokenFile = None,
    token: Token = "",
    as_json: Json = False,
) -> None:
    """
    Say whether a service takes work: its phase, how far it is, and every gate.

    Ends with 0 if it is ready, with 5 if not, and with 124 if it was not within --wait.

    \b
    Example:
      holdfast health http://127.0.0.1:8080 --wait 60
    """
    finish_async(_health(url, wait, _headers(token_file, token), as_json=as_json))


def _headers(token_file: Path | None, token: str) -> dict[str, str]:
    found = token_of(Where("", "", token_file, token))
    return {} if found is None else {"Authorization": f"Bearer {found}"}


async def _health(url: str, wait: float, headers: dict[str, str], *, as_json: bool) -> Exit:
    # Only now: commands that ask nobody need no client.
    import httpx

    from holdfast.client.connection import pause

    clock, told = SystemClock(), ""
    until = clock.monotonic() + wait
    try:
        http = httpx.AsyncClient(base_url=url, headers=headers)
    except httpx.InvalidURL as error:
        raise _REFUSED from error
    if http.base_url.scheme not in ("http", "https"):
        raise _REFUSED
    async with http:
        while True:
            left = until - clock.monotonic()
            found = await _look(http, min(_ANSWER_MOST, max(left, 1.0)))
            if found["ready"] or (left := until - clock.monotonic()) <= 0:
                break
            if (words := _words(found)) != told:
                told = words
                say(words)
            await pause(min(_BETWEEN, left))
    _show(found, as_json=as_json)
    if found["ready"]:
        return Exit.DONE
    return Exit.TIMEOUT if wait else Exit.UNAVAILABLE


async def _look(http: "httpx.AsyncClient", seconds: float) -> dict[str, Any]:
    """Return what a service says of itself, or that none did."""
    import httpx
    import msgspec

    try:
        answer = await http.get("/readyz", timeout=seconds)
    except httpx.TransportError as error:
        reason = f"nobody answers ({type(error).__name__})"
        return {"status": "unreachable", "ready": False, "reason": reason}
    try:
        found = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict) or "ready" not in found:
        reason = f"what answers with {answer.status_code} is no Holdfast"
        return {"status": "unknown", "ready": False, "reason": reason}
    return found  # pyright: ignore[reportUnknownVariableType]


def _words(found: dict[str, Any]) -> str:
    """Return where a service is, and how far."""
    progress: dict[str, list[int]] = found.get("progress", {})
    parts = [f"{name} {done}/{total}" for name, (done, total) in progress.items() if total]
    return ": ".join(one for one in (found["status"], ", ".join(parts)) if one)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        write_json(found)
        return
    rows = [("service", "ready" if found["ready"] else _words(found), found.get("reason"))]
    rows += [
        (f"gate {gate['name']}", "open" if gate["ok"] else "closed", gate.get("reason"))
        for gate in found.get("gates", [])
    ]
    write_rows(("", "state", "reason"), rows)
