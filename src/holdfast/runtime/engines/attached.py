"""
An engine in a user's hands: requests, and the working memories they go to.

A memory is loaded when somebody asks for it and stays for a while; of many, the ones that were
used last stay. What is let go was durable, or is written first, so that it comes back equal.

Invariants: of one memory at most one is loaded here; one that was dropped is loaded anew only
when everything that was done to it before is in the store.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.engine import ANSWERS, KIND, Answered, Audited, check_key
from holdfast.core.errors import HoldfastError
from holdfast.core.key import Key, as_key, encode_key, prefix_end
from holdfast.core.tier import BUFFERED
from holdfast.runtime.engines.audit import audited, trim
from holdfast.runtime.engines.copy import Progress, untold
from holdfast.runtime.engines.engine import Engine
from holdfast.runtime.engines.live import Answer, Live
from holdfast.runtime.engines.load import load
from holdfast.runtime.engines.place import Migrate, Place
from holdfast.runtime.engines.settings import EngineSettings
from holdfast.runtime.engines.snapshot import Making
from holdfast.runtime.service import breathe, carry_on

BACKLOG: Final = 10_000
"""Events of a buffered memory that may wait to be written; who adds to more waits."""
_BREATH: Final = 16
log = logging.getLogger("holdfast")
ALONE: Final[Key] = ()


def keep_all(contents: list[Any]) -> list[Any]:
    """Take over everything; a migration that is often enough."""
    return contents


class MemoryStatus(msgspec.Struct, frozen=True):
    """
    How one working memory is kept.

    Attributes:
        key: which one; empty if the engine has one alone.
        sequence: of the last request in its journal.
        unsaved: events of its journal that are not durable yet.
        snapshot: sequence of the snapshot it stands on; 0 if on none.
        tail: requests since then: what a start would have to do again.
        reason: why the last snapshot was not made; empty if it was, or none was due.
    """

    key: Key
    sequence: int
    unsaved: int
    snapshot: int
    tail: int
    reason: str


class AttachedEngine:
    """
    An engine whose working memories survive this process.

    Attributes:
        name: by which it was attached.
        engine: its rules.
        settings: how it is kept.
        tier: `DURABLE`: a request is answered when it is in the store; `BUFFERED`: at once, and
            a crash loses at most one flush interval.
        lost: buffered events that were answered and could not be written.
    """

    def __init__(self, place: Place, settings: EngineSettings) -> None:
        """Take what it is kept by, and how; `place` has an empty key."""
        self.name = place.name
        self.engine: Engine = place.engine
        self.settings = settings
        self.tier = settings.tier
        self.cadence = settings.cadence
        self._place = place._replace(pause=settings.cadence.pause, migrate=settings.migrate)
        self._lives: dict[Key, Live] = {}
        self._loading: dict[Key, asyncio.Future[Live]] = {}
        self._reasons: dict[Key, str] = {}
        self._telemetry = place.store.world.telemetry
        self._clock = place.store.world.clock
        self.lost = 0

    def place(self, key: Key = ALONE) -> Place:
        """Return a working memory by what it is kept by."""
        return self._place._replace(key=key)

    async def request(
        self, work: Callable[..., Any], *args: Any, key: str | Key = ALONE, id: str = ""
    ) -> Answer:
        """
        Let a function work on a memory; when this returns, what it did is kept by the tier.

        The function runs at once and alone, in this thread, and must not wait for anything. If
        it raises, or a rule does, nothing of it was done.

        Args:
            work: gets the memory's `hands`, then `args`; returns what is decided.
            args: handed on, redacted: what may not be stored cannot be done again.
            key: which memory: a string, or a tuple of strings; one begins when it is asked for.
            id: under which the request is done once: asked for again, it is answered again, as
                long as its journal is kept (see `Cadence`: the time of `kept` snapshots).

        Raises:
            EvaluationError: a rule, or a function that it calls, failed.
            EncodeError: the answer, or a value given to the engine, cannot be kept exactly.
            EngineBehindError: another runtime changed the memory; repeat it.
            RulesChangedError, EngineLostError: the memory cannot be loaded.
            OutcomeUnknownError: the commit failed; open the store anew, and repeat it by its id.
        """
        if not self._telemetry.listens:
            return await self._request(work, args, key, id)
        began = self._clock.monotonic()
        answer = await self._request(work, args, key, id)
        labels = {"engine": self.name, "durability": answer.tier.value}
        self._telemetry.tell("engine.requested", labels, {"seconds": self._seconds(began)})
        return answer

    async def _request(
        self, work: Callable[..., Any], args: tuple[Any, ...], key: str | Key, id: str
    ) -> Answer:
        path = as_key(key)
        self._place.store.check_admitted()  # Before anything is loaded for it.
        while True:
            live = self._lives.get(path)
            if live is None or live.gone:
                live = await self._loaded(path)
            if id and (known := await self._known(live, id)) is not None:
                return known
            if live.gone:
                continue
            self._place.store.check_admitted()
            reply = live.perform(work, args, id)
            if isinstance(reply, Answer):
                answer: Answer | None = reply
            else:
                # Who gives an id may have somebody else wait for the same.
                answer = await (asyncio.shield(reply) if id else reply)
            if live.unsaved > BACKLOG:
                await live.settled()
            elif live.sequence % _BREATH == 0:
                await breathe()  # Who is answered at once must not keep everybody else waiting.
            if answer is not None:
                return answer

    async def _known(self, live: Live, id: str) -> Answer | None:
        """Return what the request of this id was answered in an earlier life."""
        key = (self.name, *live.place.key, id)
        row = await self._place.store.read(lambda reader: reader.record(ANSWERS, key))
        if row is None or row.value is None:
            return None
        said = codec.decode_as(row.value, Answered, "answer")
        return Answer(
            said.value, said.sequence, said.fired, said.facts.hex(), self.tier, repeated=True
        )

    # Which memories are loaded.

    async def load(self, key: str | Key = ALONE, progress: Progress = untold) -> None:
        """Load a memory if it is not; requests do this by themselves."""
        await self._loaded(as_key(key), progress)

    async def _loaded(self, key: Key, progress: Progress = untold) -> Live:
        check_key(self.name, key)
        while True:
            live = self._lives.get(key)
            if live is not None and not live.gone:
                return live
            if key not in self._loading:
                loading = carry_on(self._load(key, live, progress), lambda: self._forget(key))
                self._loading[key] = loading
            return await asyncio.shield(self._loading[key])

    def _forget(self, key: Key) -> None:
        self._loading.pop(key, None)

    async def _load(self, key: Key, before: Live | None, progress: Progress) -> Live:
        if before is not None:
            await self._let_go(before)
        place, began = self.place(key), self._clock.monotonic()
        live = Live(place, await load(place, progress=progress), self.tier)
        seconds = {"seconds": self._seconds(began)}
        self._telemetry.tell("engine.restored", {"engine": self.name}, seconds)
        self._lives[key] = live
        await self._make_room(live)
        return live

    async def _let_go(self, live: Live) -> None:
        """Write what is left of a memory, and release it."""
        with suppress(HoldfastError):  # Told to those who waited; what counts is in the store.
            await live.settled()
        if self.tier is BUFFERED:
            self.lost += live.lost
        self._lives.pop(live.place.key, None)
        await live.close()

    async def _make_room(self, kept: Live) -> None:
        spare = [live for live in self._lives.values() if live is not kept]
        spare.sort(key=lambda live: live.used_at)
        for live in spare[: max(0, len(self._lives) - self.settings.in_memory)]:
            await self._evict(live)

    async def evict(self, key: str | Key) -> None:
        """Let a memory go, written first; the next request loads it again."""
        live = self._lives.get(as_key(key))
        if live is not None:
            await self._evict(live)

    async def _evict(self, live: Live) -> None:
        await live.settled()
        # Nobody can come in between: from here on nothing is waited for.
        if not live.unsaved and live.following is None and not live.gone:
            self._lives.pop(live.place.key, None)
            await live.close()

    async def reload(self, engine: Engine, migrate: Migrate = keep_all) -> None:
        """
        Go on with other rules; each memory is migrated when it is asked for next.

        Args:
            engine: the other rules.
            migrate: takes the contents of a memory (facts), and returns those that go over;
                nothing fires because of it.
        """
        for live in list(self._lives.values()):
            await live.settled()
            live.gone = True
        self.engine = engine
        self._place = self._place._replace(engine=engine, migrate=migrate)

    async def keys(self, *, after: str | Key | None = None, limit: int = 1_000) -> list[Key]:
        """
        Return the keys of memories that are kept, loaded or not, in their order.

        Args:
            after: behind which to go on.
            limit: how many at most.
        """
        begin = encode_key((self.name,))
        first = begin if after is None else encode_key((self.name, *as_key(after))) + b"\0"
        rows = await self._place.store.read(
            lambda reader: reader.records(KIND, first, prefix_end(begin), limit, None)
        )
        return [row.key[1:] for row in rows]

    # What is kept.

    async def flush(self) -> None:
        """
        Write what is not durable; a barrier.

        Raises:
            HoldfastError: it could not be written.
        """
        lives = list(self._lives.values())
        for live in lives:
            live.write_on()  # All of them, so that they share what a write costs.
        for live in lives:
            await live.settled()

    async def snapshot(self, key: str | Key = ALONE) -> int:
        """
        Make a snapshot of a memory now; the cadence does this by itself.

        Returns:
            The sequence it includes.

        Raises:
            NotCapturedError: the memory holds what a snapshot would lose; its journal keeps it.
        """
        live = await self._loaded(as_key(key))
        async with live.making:
            return await self._make(live)

    async def _make(self, live: Live) -> int:
        making, began = Making(live, self.cadence), self._clock.monotonic()
        try:
            made = await making.run()
        except HoldfastError as error:
            self._telemetry.tell("engine.snapshot", {"engine": self.name, "result": "refused"})
            self._reasons[live.place.key] = str(error)
            raise
        self._reasons.pop(live.place.key, None)
        numbers = {"seconds": self._seconds(began), "bytes": making.size_bytes}
        labels = {"engine": self.name, "result": "made"}
        self._telemetry.tell("engine.snapshot", labels, {**numbers, "pause": making.pause})
        return made

    def _seconds(self, began: float) -> float:
        return self._clock.monotonic() - began

    async def keep_up(self) -> None:
        """Make the snapshots that are due, and trim what is not kept of the audit."""
        clock = self._place.store.world.clock
        for live in list(self._lives.values()):
            async with live.making:  # Another one may just be made; then it is not due any more.
                if not live.gone and self.cadence.due(live, clock.monotonic()):
                    await self._try(live)
        await trim(self._place, self.settings.audit)

    async def audited(self, key: str | Key = ALONE) -> Audited:
        """Return what was trimmed of the audit of a memory, see `AuditKept`."""
        return await audited(self.place(as_key(key)))

    async def _try(self, live: Live) -> None:
        try:
            await self._make(live)
        except HoldfastError as error:
            log.info("event=no_snapshot memory=%s reason=%s", live.place.words, error)

    async def finish(self) -> None:
        """
        Write everything, and make the snapshots that a good end wants.

        Raises:
            HoldfastError: something could not be written.
        """
        await self.flush()
        if self.cadence.on_close:
            for live in list(self._lives.values()):
                async with live.making:
                    if live.tail >= self.cadence.least and not live.gone:
                        await self._try(live)

    async def release(self) -> None:
        """Release the memories, written or not."""
        for live in list(self._lives.values()):
            await live.close()
        self._lives.clear()

    def memories(self) -> Iterator[MemoryStatus]:
        """Give the memories that are loaded, and how they are kept."""
        for key, live in self._lives.items():
            reason = self._reasons.get(key, "")
            yield MemoryStatus(key, live.sequence, live.unsaved, live.base, live.tail, reason)
