"""Workers: the runtimes that have the store open, as their presence records say."""

import msgspec

from holdfast.core import codec
from holdfast.core.key import prefix_end
from holdfast.runtime.presence import KIND, Present
from holdfast.store.store import Store

LISTED_MAX = 10_000


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """
    A runtime that did not say goodbye.

    Attributes:
        id: its incarnation, in hexadecimal.
        host, pid: where it is.
        epoch: number of its opening.
        seen_at: wall time of its last heartbeat.
        silent: seconds since then; one that is silent for long is taken for dead.
        here: it is the one that answers.
    """

    id: str
    host: str
    pid: int
    epoch: int
    seen_at: float
    silent: float
    here: bool


class Workers:
    """The runtimes on one store."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def list(self) -> list[Worker]:
        """Return the runtimes that did not say goodbye, by their ids."""
        rows = await self._store.read(
            lambda reader: reader.records(KIND, b"", prefix_end(b""), LISTED_MAX, None)
        )
        opened, now = self._store.opened, self._store.world.clock.wall()
        here = "" if opened is None else opened.incarnation.hex()
        found: list[Worker] = []
        for row in rows:
            present = codec.decode_as(row.value or b"", Present, "presence")
            found.append(
                Worker(
                    id=row.key[0],
                    host=present.owner.host,
                    pid=present.owner.pid,
                    epoch=present.epoch,
                    seen_at=present.seen,
                    silent=max(0.0, now - present.seen),
                    here=row.key[0] == here,
                )
            )
        return found
