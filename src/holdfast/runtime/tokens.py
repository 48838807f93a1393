"""
Tokens: by which somebody outside proves who asks; kept as hashes, with what they allow.

A token is `hf_ID_SECRET`: the id finds its record, the secret is compared with a hash. It is drawn
at random and long, so a fast hash is enough; who reads the store learns no token. A *code* is a
token that counts once and for a minute, to be swapped for one that a browser keeps.

Invariants: the text of a token is nowhere in the store; one that was revoked or has expired, or
whose parent was, allows nothing, here at once and in other processes within `SEEN_AFTER` seconds;
a code is redeemed by one.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.access import ROLES, Right
from holdfast.core.denial import TokenNotFoundError, UnauthorizedError
from holdfast.core.errors import HoldfastError, InvalidValueError, VersionConflictError
from holdfast.core.key import prefix_end
from holdfast.core.unit import AtVersion, DeleteRecord, PatchRecord, PutRecord, RecordRow, Unit
from holdfast.runtime.damage import Damages
from holdfast.runtime.service import Service
from holdfast.store.store import Store

KIND: Final = "holdfast.token"
PREFIX: Final = "hf"
SEEN_AFTER: Final = 1.0
CODE_SECONDS: Final = 60.0
_WRITE_USED_EVERY: Final = 30.0
_KNOWN_MAX: Final = 10_000
_LISTED_MAX: Final = 10_000
_LABEL_MAX: Final = 200
_INVALID: Final = "the token is not valid"


class Token(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A token as it is listed: everything but its secret.

    Attributes:
        id: its id, which stands in its text.
        role: bundle of rights.
        payloads: it may see content.
        label: for people.
        created_at, created_by: when, and by whom.
        expires_at: wall time from which on it allows nothing; None for never.
        used_at: wall time of its last use, up to half a minute late; None for never.
        parent: token it was made from; it ends with that one.
        once: it is a code, and ends with its first use.
    """

    id: str
    role: str
    payloads: bool
    label: str = ""
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float | None = None
    used_at: float | None = None
    parent: str = ""
    once: bool = False

    @property
    def rights(self) -> frozenset[Right]:
        """What it allows."""
        rights = ROLES[self.role] - {Right.PAYLOADS}
        return rights | {Right.PAYLOADS} if self.payloads else rights


class _Kept(msgspec.Struct, frozen=True):
    hash: str
    token: Token


class _Known(msgspec.Struct, frozen=True):
    kept: _Kept | None
    version: int
    read_at: float


class Tokens(Service):
    """The tokens of a store; also writes down when they were used."""

    def __init__(self, store: Store, damages: Damages) -> None:
        """Take the store, and where damage is noted."""
        super().__init__("tokens", _WRITE_USED_EVERY)
        self._store = store
        self._damages = damages
        self._clock = store.world.clock
        self._known: dict[str, _Known] = {}
        self._used: dict[str, float] = {}

    async def create(
        self,
        role: str,
        *,
        label: str = "",
        payloads: bool | None = None,
        expires_in: float | None = None,
        parent: str = "",
        by: str = "",
    ) -> tuple[str, Token]:
        """
        Make a token.

        Args:
            role: `viewer`, `answerer`, `operator` or `admin`.
            label: for people.
            payloads: it may see content; None for what its role has.
            expires_in: seconds for which it counts; None for ever.
            parent: token with which it ends.
            by: who makes it.

        Returns:
            Its text, which is shown this once, and what is kept.

        Raises:
            InvalidValueError: there is no such role, or the time is over.
        """
        if role not in ROLES:
            raise InvalidValueError(what="role", reason=f"is one of {', '.join(ROLES)}")
        if expires_in is not None and expires_in <= 0:
            raise InvalidValueError(what="expires_in", reason="is over before it begins")
        now = self._clock.wall()
        token = Token(
            id=secrets.token_hex(6),
            role=role,
            payloads=Right.PAYLOADS in ROLES[role] if payloads is None else payloads,
            label=label[:_LABEL_MAX],
            created_at=now,
            created_by=by,
            expires_at=None if expires_in is None else now + expires_in,
            parent=parent,
        )
        return await self._keep(token), token

    async def code(self, of: Token) -> str:
        """Return a code that is swapped, once and soon, for a token that allows the same."""
        id, now = secrets.token_hex(6), self._clock.wall()
        made = msgspec.structs.replace(
            of, id=id, parent=of.parent or of.id, once=True, created_at=now, used_at=None
        )
        ends = min(now + CODE_SECONDS, made.expires_at or now + CODE_SECONDS)
        return await self._keep(msgspec.structs.replace(made, expires_at=ends))

    async def check(self, text: str, *, root: str = "") -> Token:
        """
        Return the token of a text.

        Args:
            text: what came with a request.
            root: the parent that counts besides those in the store.

        Raises:
            UnauthorizedError: it is none, or allows nothing any more.
        """
        known = await self._proven(text)
        token = known.token
        if token.once:
            raise UnauthorizedError(reason=_INVALID)
        await self._check_parent(token, root)
        self._used[token.id] = self._clock.wall()
        return token

    async def redeem(self, text: str, *, root: str = "") -> Token:
        """
        Return the token that a code stands for; the code is gone afterwards.

        Raises:
            UnauthorizedError: it is none, or somebody redeemed it.
        """
        token = (await self._proven(text)).token
        if not token.once:
            raise UnauthorizedError(reason=_INVALID)
        await self._check_parent(token, root)
        version = self._known.pop(token.id).version
        try:
            expects = (AtVersion(KIND, (token.id,), version),)
            await self._store.commit(Unit((DeleteRecord(KIND, (token.id,)),), expects))
        except VersionConflictError as error:
            raise UnauthorizedError(reason=_INVALID) from error
        return token

    async def list(self) -> Sequence[Token]:
        """Return all tokens, oldest first; those that allow nothing any more included."""
        await self._write_used()
        rows: Sequence[RecordRow] = await self._damages.records(
            KIND, b"", prefix_end(b""), _LISTED_MAX, None
        )
        kept = [_kept(row) for row in rows]
        found = [one.token for one in kept if one is not None and not one.token.once]
        return sorted(found, key=lambda one: (one.created_at, one.id))

    async def revoke(self, id: str) -> Token:
        """
        End a token, and all that was made from it.

        Raises:
            TokenNotFoundError: there is none of this id.
        """
        row = await self._store.read(lambda reader: reader.record(KIND, (id,)))
        kept = None if row is None else _kept(row)
        if kept is None:
            raise TokenNotFoundError(token_id=id)
        await self._store.commit(Unit((DeleteRecord(KIND, (id,)),)))
        self._known.clear()
        self._used.pop(id, None)
        return kept.token

    async def tick(self) -> None:
        """Write down when tokens were used."""
        await self._write_used()

    async def _write_used(self) -> None:
        used, self._used = self._used, {}
        for id, at in used.items():
            # Revoked meanwhile, damaged, or the store is on its way out: it is only word.
            with suppress(HoldfastError):
                await self._write_use(id, at)

    async def _write_use(self, id: str, at: float) -> None:
        known = await self._look(id)
        if known.kept is None or (known.kept.token.used_at or 0.0) >= at:
            return
        token = msgspec.structs.replace(known.kept.token, used_at=at)
        value = {"token": codec.encode(msgspec.to_builtins(token))}
        unit = Unit((PatchRecord(KIND, (id,), value),), (AtVersion(KIND, (id,), known.version),))
        self._known.pop(id, None)
        await self._store.commit(unit)

    async def _keep(self, token: Token) -> str:
        secret = secrets.token_urlsafe(32)
        value = codec.encode(msgspec.to_builtins(_Kept(_hash(secret), token)))
        put = PutRecord(KIND, (token.id,), value)
        await self._store.commit(Unit((put,), (AtVersion(KIND, (token.id,), 0),)))
        self._known.pop(token.id, None)
        return f"{PREFIX}_{token.id}_{secret}"

    async def _proven(self, text: str) -> _Kept:
        """Return what is kept of a token whose text is whole."""
        prefix, _, rest = text.partition("_")
        id, _, secret = rest.partition("_")
        kept = (await self._look(id)).kept if prefix == PREFIX and id else None
        expected = kept.hash if kept is not None else ""
        is_same = hmac.compare_digest(_hash(secret), expected)
        if kept is None or not is_same or not self._counts(kept.token):
            raise UnauthorizedError(reason=_INVALID)
        return kept

    async def _check_parent(self, token: Token, root: str) -> None:
        if not token.parent or (root and token.parent == root):
            return
        parent = (await self._look(token.parent)).kept
        if parent is None or not self._counts(parent.token):
            raise UnauthorizedError(reason=_INVALID)

    def _counts(self, token: Token) -> bool:
        return token.expires_at is None or self._clock.wall() < token.expires_at

    async def _look(self, id: str) -> _Known:
        """Return what is known of an id, read again when it is no longer fresh."""
        now = self._clock.monotonic()
        known = self._known.get(id)
        if known is not None and now - known.read_at < SEEN_AFTER:
            return known
        row = await self._store.read(lambda reader: reader.record(KIND, (id,)))
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        found = _Known(None, 0, now) if row is None else _Known(_kept(row), row.version, now)
        self._known[id] = found
        return found


def _kept(row: RecordRow) -> _Kept | None:
    return None if row.value is None else codec.decode_as(row.value, _Kept, "token")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
