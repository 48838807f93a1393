"""Leases in a user's hands; the rules are in `core.lease`."""

import platform
from types import TracebackType
from typing import Self

from holdfast.core.errors import ClosedError
from holdfast.core.unit import Fence, GrantLease, LeaseRow, ReleaseLease, RenewLease, Unit
from holdfast.store.store import Store


class Lease:
    """
    A lease that was granted to this runtime; leaving its block releases it.

    Attributes:
        token: the fencing token; put it into `Unit.expects` of every write that only the owner
            may do, and hand it to foreign systems that can compare it.
    """

    def __init__(self, store: Store, row: LeaseRow, ttl: float) -> None:
        """Take the row as granted."""
        self._store = store
        self._ttl = ttl
        self.token = Fence(row.key, row.generation, row.incarnation)

    @property
    def generation(self) -> int:
        """Number of this grant; grows with each, never reused."""
        return self.token.generation

    async def renew(self, ttl: float | None = None) -> None:
        """
        Extend the lease to `ttl` seconds from now (default: as granted).

        Raises:
            LeaseExpiredError: its end was reached; stop working.
            StaleGenerationError: somebody else owns it; stop working.
        """
        write = RenewLease(self.token.key, self.generation, self._ttl if ttl is None else ttl)
        await self._store.commit(Unit((write,)))

    async def release(self) -> None:
        """
        Give the lease back.

        Raises:
            StaleGenerationError: somebody else took over already.
        """
        await self._store.commit(Unit((ReleaseLease(self.token.key, self.generation),)))

    async def __aenter__(self) -> Self:
        """Return the lease."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release it."""
        await self.release()


class Leases:
    """All leases of a store."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def grant(self, key: str, ttl: float, *, holder: str = "") -> Lease:
        """
        Take a lease that is free or expired.

        Args:
            key: what it is the right to.
            ttl: seconds until it expires unless renewed.
            holder: who takes it, for error messages of others.

        Raises:
            LeaseHeldError: somebody holds it; says who and for how long.
        """
        if self._store.opened is None:
            raise ClosedError(store=self._store.driver.location)
        write = GrantLease(key, ttl, holder or platform.node())
        committed = await self._store.commit(Unit((write,)))
        return Lease(self._store, committed.leases[0], ttl)

    async def find(self, key: str) -> LeaseRow | None:
        """Return what the store knows of a lease, or None if it was never granted."""
        return await self._store.read(lambda reader: reader.lease(key))
