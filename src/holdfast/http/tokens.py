"""
Tokens over HTTP: made, listed, revoked; and swapped for a cookie that a browser keeps.

What is shown once is never stored: neither a token that is made nor a cookie is part of an answer
that is kept for requests that come again.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import TokenNotFoundError, UnauthorizedError
from holdfast.core.errors import InvalidValueError
from holdfast.http import access
from holdfast.http.access import COOKIE, Principal
from holdfast.http.answers import answer
from holdfast.http.call import Call
from holdfast.http.operation import Operation
from holdfast.runtime.requests import Answer, Note
from holdfast.runtime.tokens import CODE_SECONDS, Token

COOKIE_SECONDS: Final = 12 * 3_600.0
_NAME: Final = msgspec.Meta(max_length=200)


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What is swapped for a cookie: one of the two.

    Attributes:
        token: a token.
        code: that was made for this, and counts once.
    """

    token: Annotated[str, msgspec.Meta(max_length=500)] = ""
    code: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A token that is to be made.

    Attributes:
        role: `viewer`, `answerer`, `operator` or `admin`.
        label: for people.
        payloads: it may see content; what its role has if not given.
        expires_in: seconds for which it counts; for ever if not given.
    """

    role: str
    label: Annotated[str, _NAME] = ""
    payloads: bool | None = None
    expires_in: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Made(msgspec.Struct, frozen=True):
    """
    A token that was made.

    Attributes:
        text: it; shown this once.
        token: what is kept of it.
    """

    text: str
    token: Token


class Code(msgspec.Struct, frozen=True):
    """
    A code that was made.

    Attributes:
        code: it; counts once.
        expires_in: seconds for which it counts.
    """

    code: str
    expires_in: float


class Who(msgspec.Struct, frozen=True):
    """
    Who is logged in.

    Attributes:
        name: of the token.
        rights: what it allows.
    """

    name: str
    rights: list[str]


class TokenPage(msgspec.Struct, frozen=True):
    """
    All tokens.

    Attributes:
        items: they.
    """

    items: list[Token]


async def login(call: Call) -> Response:
    """Swap a token or a code for a cookie that a browser keeps, and that no script can read."""
    given = call.body(Login)
    tokens, site = call.rt.tokens, call.site
    if given.code:
        root = site.settings.token
        parent = "" if root is None else access.of_file(root).id
        try:
            token = await tokens.redeem(given.code, root=parent)
        except UnauthorizedError:
            site.guesses.take(access.address_of(call.request), "bad codes from one address")
            raise
        who = Principal(token.label or token.id, token.rights, token)
    else:
        who = await access.prove(site, call.request, given.token)
    if who.token is None:
        raise UnauthorizedError(reason="no token came with the request")
    made = await _noted(call, who.name, lambda: _for_browser(call, who.name, who.token))
    response = answer(Who(who.name, sorted(who.rights)))
    response.set_cookie(
        COOKIE,
        made,
        max_age=int(COOKIE_SECONDS),
        path=f"{call.root}/",
        secure=call.request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


async def logout(call: Call) -> Response:
    """End the cookie that came, here and everywhere."""
    text = call.request.cookies.get(COOKIE, "")
    if text:
        token = (await access.prove(call.site, call.request, text)).token
        if token is not None and token.parent:
            await _noted(call, call.who.name, lambda: _revoked(call, token.id))
    response = Response(None, 204)
    response.delete_cookie(COOKIE, path=f"{call.root}/", httponly=True, samesite="strict")
    return response


async def make_code(call: Call) -> Code:
    """Make a code that a browser swaps for a cookie; it allows what the caller may."""
    if call.who.token is None:
        raise UnauthorizedError(reason="no token came with the request")
    token = call.who.token
    made = await _noted(call, call.who.name, lambda: call.rt.tokens.code(token))
    return Code(made, CODE_SECONDS)


async def create(call: Call) -> Response:
    """Make a token; its text is shown this once."""
    wanted = call.body(Wanted)
    kept: list[Token] = []

    async def work() -> str:
        text, token = await call.rt.tokens.create(
            wanted.role,
            label=wanted.label,
            payloads=wanted.payloads,
            expires_in=wanted.expires_in,
            by=call.who.name,
        )
        kept.append(token)
        return text

    text = await _noted(call, call.who.name, work)
    return answer(Made(text, kept[0]), 201)


async def listed(call: Call) -> TokenPage:
    """Return all tokens, without what makes them valid."""
    return TokenPage(list(await call.rt.tokens.list()))


async def revoke(call: Call) -> Token:
    """End a token and what was made from it; other processes see it within seconds."""
    return await call.rt.tokens.revoke(call.param("token_id"))


async def _for_browser(call: Call, name: str, parent: Token | None) -> str:
    if parent is None:
        return ""
    text, _ = await call.rt.tokens.create(
        parent.role,
        label=name,
        payloads=parent.payloads,
        expires_in=COOKIE_SECONDS,
        parent=parent.parent or parent.id,
        by=name,
    )
    return text


async def _revoked(call: Call, id: str) -> str:
    await call.rt.tokens.revoke(id)
    return id


async def _noted(call: Call, actor: str, work: Callable[[], Awaitable[str]]) -> str:
    """Do something whose answer is kept nowhere; who did it is written down."""
    made: list[str] = []

    async def unkept() -> Answer:
        made.append(await work())
        return Answer(200, b"", {})

    note = Note(
        actor=actor,
        action=call.operation.name,
        at=call.clock.wall(),
        address=access.address_of(call.request),
        request=call.id,
    )
    await call.rt.requests.noted(note, unkept)
    return made[0]


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/login",
        name="login",
        summary="Swap a token or a code for a cookie",
        handler=login,
        right=None,
        body=Login,
        answer=Who,
        errors=(UnauthorizedError,),
        tag="access",
    ),
    Operation(
        method="POST",
        path="/v1/logout",
        name="logout",
        summary="End the cookie",
        handler=logout,
        status=204,
        tag="access",
    ),
    Operation(
        method="POST",
        path="/v1/codes",
        name="code_create",
        summary="Make a code that a browser swaps for a cookie",
        handler=make_code,
        answer=Code,
        tag="access",
    ),
    Operation(
        method="POST",
        path="/v1/tokens",
        name="token_create",
        summary="Make a token",
        handler=create,
        right=Right.ADMIN,
        body=Wanted,
        answer=Made,
        status=201,
        errors=(InvalidValueError,),
        tag="access",
    ),
    Operation(
        method="GET",
        path="/v1/tokens",
        name="token_list",
        summary="All tokens",
        handler=listed,
        right=Right.ADMIN,
        answer=TokenPage,
        tag="access",
    ),
    Operation(
        method="POST",
        path="/v1/tokens/{token_id}/revoke",
        name="token_revoke",
        summary="End a token",
        handler=revoke,
        right=Right.ADMIN,
        answer=Token,
        changes=True,
        errors=(TokenNotFoundError,),
        tag="access",
    ),
)
