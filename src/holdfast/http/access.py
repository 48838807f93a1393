"""
Who asks: the token of a request, compared in constant time, and what it allows.

A program sends its token in the header `Authorization`; a browser, which can send no header with an
`EventSource`, has a cookie that it got for a token or a code. The header counts before the cookie.
Nothing of it ever stands in an address, where logs would keep it.

Invariants: whoever has a valid token is never kept out because somebody else guesses; whoever
guesses is slowed down.
"""

import hashlib
import hmac
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, NamedTuple

from starlette.requests import Request

from holdfast.core.access import ROLES, Right
from holdfast.core.denial import ForbiddenError, TooManyError, UnauthorizedError
from holdfast.core.errors import HoldfastError
from holdfast.http.operation import Operation
from holdfast.http.site import Site
from holdfast.runtime.tokens import Token

COOKIE: Final = "holdfast"


class Principal(NamedTuple):
    """
    Who asks.

    Attributes:
        name: of the token; what the audit says.
        rights: what it allows.
        token: it, as it is kept; None for nobody.
    """

    name: str
    rights: frozenset[Right]
    token: Token | None = None


NOBODY = Principal("", frozenset())


async def identify(site: Site, request: Request, operation: Operation) -> Principal:
    """
    Return who asks.

    Raises:
        UnauthorizedError: no valid token came.
        ForbiddenError: the token does not allow this.
        TooManyError: too many bad tokens came from there, or requests with this one.
    """
    if operation.right is None:
        return NOBODY
    who = await prove(site, request, text_of(request))
    if operation.right not in who.rights:
        raise ForbiddenError(needed=operation.right.value, reason=f"{who.name} does not have it")
    if site.rates is not None:
        site.rates.take(who.name, "requests a second of one caller")
    return who


async def prove(site: Site, request: Request, text: str) -> Principal:
    """
    Return who has a token.

    Raises:
        UnauthorizedError: it is not valid.
        TooManyError: too many bad tokens came from there.
    """
    if not text:
        raise UnauthorizedError(reason="no token came with the request")
    known = site.settings.token
    if known is not None and same(text, known):
        return Principal("admin", ROLES["admin"], of_file(known))
    try:
        rt = site.runtime(request.scope)
        token = await rt.tokens.check(text, root="" if known is None else of_file(known).id)
    except UnauthorizedError:
        site.guesses.take(address_of(request), "bad tokens from one address")
        raise
    return Principal(token.label or token.id, token.rights, token)


async def is_known(site: Site, request: Request) -> bool:
    """Return whether a valid token came with a request that needs none."""
    try:
        await prove(site, request, text_of(request))
    except HoldfastError:
        return False
    return True


@contextmanager
def admitted(site: Site, who: Principal) -> Generator[None]:
    """
    Count a request of somebody while it is answered.

    Raises:
        TooManyError: there are as many as one caller may have.
    """
    if site.under_way[who.name] >= site.settings.requests_each:
        raise TooManyError(what="requests at once", limit=site.settings.requests_each)
    site.under_way[who.name] += 1
    try:
        yield
    finally:
        site.under_way[who.name] -= 1
        if not site.under_way[who.name]:
            del site.under_way[who.name]


def text_of(request: Request) -> str:
    """Return the token that came: that of the header, else that of the cookie."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        return token.strip() if scheme.lower() == "bearer" else ""
    return request.cookies.get(COOKIE, "")


def address_of(request: Request) -> str:
    """Return where a request comes from."""
    return request.client.host if request.client else ""


def same(one: str, two: str) -> bool:
    """Compare two secrets in a time that says nothing about them."""
    return hmac.compare_digest(_digest(one), _digest(two))


def of_file(token: str) -> Token:
    """Return the token of the file as one of the store would be; another file has another id."""
    return Token(id=f"file-{_digest(token).hex()[:16]}", role="admin", payloads=True, label="admin")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
