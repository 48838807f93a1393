"""
Layer L1 of the crash lab: a state machine over the public nouns, against the plain oracle.

Each rule does something through the API that users hold in their hands and gives the same unit
to the oracle; answers, refusals and everything that can be read have to agree, on every store,
over clean closes and new openings. What fails is shrunk to the shortest program.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import holdfast
from holdfast.core import codec
from holdfast.core.errors import (
    BlobNotFoundError,
    HoldfastError,
    StreamNotFoundError,
    TooOldError,
)
from holdfast.core.event import Event, RecordedEvent
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Committed,
    DeleteBlob,
    DeleteRecord,
    Fence,
    GrantLease,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    ReleaseLease,
    RenewLease,
    TrimStream,
    Unit,
)
from holdfast.core.world import World
from holdfast.runtime.lease import Lease
from holdfast.runtime.runtime import Runtime
from holdfast.testing.clock import ManualClock
from holdfast.testing.oracle import Line, Oracle, Refused, Told, agrees

pytestmark = pytest.mark.lab

T = TypeVar("T")
EXAMPLES = {"memory": 30, "sqlite": 20, "postgresql": 8}
STEPS = 50
# What has to have been refused, or the programs are too tame.
REFUSED = {"lease_held", "sequence_conflict", "version_conflict"}
TTL = 600.0
names = st.sampled_from(["a", "b"])
keys = st.sampled_from(["k", "l"])
numbers = st.integers(0, 4)
values = st.sampled_from([None, 1, "x", {"n": 1}, {"n": 1.5, "s": "t"}])
blobs = st.sampled_from([b"", b"one", b"two" * 900])
tags = st.sampled_from([None, "red", "blue"])
_numbers = count()


class Machine(RuleBasedStateMachine):
    """The public API on one store, beside the oracle."""

    url: ClassVar[Callable[[], str]]
    keeps: ClassVar[bool]
    own_clock: ClassVar[bool]
    reached: ClassVar[Counter[str]]

    def __init__(self) -> None:
        """Open an empty store."""
        super().__init__()
        self.clock = ManualClock()
        self.oracle = Oracle(self.clock.store_time(), b"")
        self.followers: dict[str, tuple[AsyncIterator[RecordedEvent], int]] = {}
        self.tokens: list[Lease] = []
        self.runner = asyncio.Runner()
        self.address = type(self).url()
        self._open()

    def teardown(self) -> None:
        """Compare once more after a new opening, then close."""
        try:
            if self.keeps:
                self.reopen()
                self.everything_can_be_read()
            self._do(self.opening.__aexit__(None, None, None))
        finally:
            self.runner.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something to its end."""
        return self.runner.run(work)

    def _open(self) -> None:
        """Open the store."""
        self.followers.clear()
        self.opening = holdfast.open(self.address, world=World(clock=self.clock))
        self.rt: Runtime = self._do(self.opening.__aenter__())
        self.oracle.incarnation = self.rt.opened.incarnation

    def _tell(self, unit: Unit, work: Coroutine[Any, Any, T]) -> T | None:
        """Do something and compare whether, and why, it is refused."""
        expected = self.oracle.apply(unit)
        try:
            answer = self._do(work)
        except HoldfastError as error:
            assert agrees(error, expected), (unit, expected, error)
            self.reached[error.code] += 1
            return None
        assert isinstance(expected, Told), (unit, expected, answer)
        return answer

    def _commit(self, *writes: Any, expects: tuple[Any, ...] = ()) -> None:
        """Commit a unit for which there is no other word."""
        unit = Unit(writes, expects)
        answer = self._tell(unit, self.rt.commit(unit))
        assert answer is None or isinstance(answer, Committed)

    def _line(self, stream: str) -> Line:
        """Return what the oracle has of a stream."""
        return self.oracle.state.streams.get(stream, Line())

    # Streams.

    @initialize(counts=st.tuples(numbers, numbers))
    def begin(self, counts: tuple[int, int]) -> None:
        """Let streams be there already."""
        for stream, events in zip("ab", counts, strict=True):
            self.append_all(stream, [1] * (events * 2))

    @rule(stream=names, data=values, expected=st.none() | numbers)
    def append(self, stream: str, data: object, expected: int | None) -> None:
        """Append one event."""
        history = self.rt.history(stream)
        event = Event.of("said", data)
        expects = () if expected is None else (AtSequence(stream, expected),)
        unit = Unit((Append(stream, (event,)),), expects)
        answer = self._tell(unit, history.append("said", data, expected=expected))
        if answer is not None:
            assert (answer.sequence, answer.data) == (len(self._line(stream).events), data)

    @rule(stream=names, all_data=st.lists(values, max_size=4))
    def append_all(self, stream: str, all_data: list[object]) -> None:
        """Append several events, or none."""
        events = tuple(Event.of("said", data) for data in all_data)
        unit = Unit((Append(stream, events),))
        answer = self._tell(unit, self.rt.history(stream).append_all(events))
        assert answer is None or len(answer) == len(events)

    @rule(stream=names, chance=numbers)
    def close(self, stream: str, chance: int) -> None:
        """Close a stream, now and then."""
        if chance == 0:
            self._tell(Unit((CloseStream(stream),)), self.rt.history(stream).close())

    @rule(stream=names, before=st.integers(2, 6))
    def trim(self, stream: str, before: int) -> None:
        """Remove the beginning of a stream."""
        self._tell(Unit((TrimStream(stream, before),)), self.rt.history(stream).trim(before))

    @rule(stream=names, after=numbers, limit=st.integers(1, 5))
    def read(self, stream: str, after: int, limit: int) -> None:
        """Read a page."""
        line = self._line(stream)
        try:
            found = self._do(self.rt.history(stream).read(after, limit))
        except TooOldError as error:
            assert after < line.trimmed
            self.reached[error.code] += 1
            assert error.first_sequence == line.trimmed + 1
            return
        assert after >= line.trimmed
        assert _said(found) == line.events[after : after + limit]

    @rule(stream=names)
    def follow(self, stream: str) -> None:
        """Let a follower go on: nothing twice, nothing left out."""
        line = self._line(stream)
        follower, after = self.followers.pop(stream, (None, 0))
        if follower is None or after < line.trimmed:
            after = line.trimmed
            follower = self.rt.history(stream).follow(after)
        left = len(line.events) - after
        assert _said(self._do(_take(follower, left, closed=line.closed))) == line.events[after:]
        if not line.closed:
            self.followers[stream] = (follower, len(line.events))

    # Records.

    @rule(key=keys, value=values, tag=tags, expected=st.none() | numbers)
    def put(self, key: str, value: object, tag: str | None, expected: int | None) -> None:
        """Write a record, at a version or at any."""
        expects = () if expected is None else (AtVersion("kind", (key,), expected),)
        unit = Unit((PutRecord("kind", (key,), codec.encode(value), tag),), expects)
        work = self.rt.records.put("kind", key, value, tag=tag, expected=expected)
        answer = self._tell(unit, work)
        if answer is not None:
            assert answer.version == self.oracle.state.records["kind", (key,)].version

    @rule(key=keys, amount=st.sampled_from([1, -2, 0.5]), drop=st.booleans())
    def patch(self, key: str, amount: float, drop: bool) -> None:
        """Add to a field, and drop another."""
        removed = ("s",) if drop else ()
        self._commit(PatchRecord("kind", (key,), {}, {"n": amount}, removed))

    @rule(key=keys, expected=st.none() | numbers)
    def delete(self, key: str, expected: int | None) -> None:
        """Delete a record, at a version or at any."""
        expects = () if expected is None else (AtVersion("kind", (key,), expected),)
        unit = Unit((DeleteRecord("kind", (key,)),), expects)
        self._tell(unit, self.rt.records.delete("kind", key, expected=expected))

    # Leases.

    @rule(key=keys)
    def grant(self, key: str) -> None:
        """Take a lease."""
        unit = Unit((GrantLease(key, TTL, "me"),))
        answer = self._tell(unit, self.rt.leases.grant(key, TTL, holder="me"))
        if answer is not None:
            assert answer.generation == self.oracle.state.leases[key].generation
            self.tokens.append(answer)

    @rule(index=numbers)
    def write_fenced(self, index: int) -> None:
        """Write with a token, new or old."""
        if self.tokens:
            token = self.tokens[-1 - index % len(self.tokens)].token
            event = Event.of("fenced", token.generation)
            self._commit(Append("a", (event,)), expects=(token,))

    @rule(index=numbers, give_back=st.booleans())
    def renew_or_release(self, index: int, give_back: bool) -> None:
        """Renew a lease or give it back, new or old, also one of a former opening."""
        if self.tokens:
            token: Fence = self.tokens[-1 - index % len(self.tokens)].token
            if give_back:
                self._commit(ReleaseLease(token.key, token.generation))
            else:
                self._commit(RenewLease(token.key, token.generation, TTL))

    @rule(seconds=st.sampled_from([TTL / 2, TTL]))
    def wait(self, seconds: float) -> None:
        """Let time pass, where the store asks us for the time."""
        if not self.own_clock:
            self.clock.advance(seconds)
            self.oracle.now = self.clock.store_time()

    # Bytes.

    @rule(data=blobs)
    def put_blob(self, data: bytes) -> None:
        """Keep bytes."""
        digest = self._tell(Unit((PutBlob.of(data),)), self.rt.blobs.put(data))
        assert digest == PutBlob.of(data).digest.hex()

    @rule(data=blobs)
    def delete_blob(self, data: bytes) -> None:
        """Remove bytes."""
        digest = PutBlob.of(data).digest
        self._tell(Unit((DeleteBlob(digest),)), self.rt.blobs.delete(digest.hex()))

    @rule(stream=names, sequence=numbers, data=blobs)
    def put_snapshot(self, stream: str, sequence: int, data: bytes) -> None:
        """Keep a snapshot of a stream."""
        unit = Unit((PutSnapshot.of("s" + stream, stream, sequence, data),))
        self._tell(unit, self.rt.snapshots.put("s" + stream, stream, sequence, data))

    @rule()
    def reopen(self) -> None:
        """Close the store in good order and open it again."""
        if self.keeps:
            self._do(self.opening.__aexit__(None, None, None))
            self._open()

    @invariant()
    def everything_can_be_read(self) -> None:
        """Compare what can be read with what the oracle has."""
        self._do(self._compare())

    async def _compare(self) -> None:
        state = self.oracle.state
        live = {k: kept for (_, k), kept in state.records.items() if kept.value is not None}
        found = await self.rt.records.list("kind")
        assert {r.key: (r.version, r.tag, codec.encode(r.value)) for r in found} == {
            key: tuple(kept) for key, kept in live.items()
        }
        for stream in ("a", "b"):
            line = state.streams.get(stream)
            try:
                info = await self.rt.history(stream).info()
            except StreamNotFoundError:
                assert line is None
                continue
            assert line is not None
            assert (info.last_sequence, info.closed) == (len(line.events), line.closed)
            newest = await self.rt.snapshots.latest("s" + stream)
            kept = state.snapshots.get("s" + stream, {})
            assert (newest.sequence if newest else None) == max(kept, default=None)
        for key, held in state.leases.items():
            row = await self.rt.leases.find(key)
            assert row is not None
            assert (row.generation, row.incarnation) == held[:2]
        for data in (b"", b"one"):
            digest = PutBlob.of(data).digest
            try:
                assert await self.rt.blobs.get(digest.hex()) == data
            except BlobNotFoundError:
                assert digest not in state.blobs
            else:
                assert digest in state.blobs


def _said(events: list[RecordedEvent]) -> list[tuple[str, bytes, bytes | None]]:
    return [(event.type, event.payload, event.meta) for event in events]


async def _take(
    follower: AsyncIterator[RecordedEvent], events: int, *, closed: bool
) -> list[RecordedEvent]:
    """Return so many events; the follower of a closed stream has to end behind them."""
    async with asyncio.timeout(60):
        found = [await anext(follower) for _ in range(events)]
        if closed:
            assert await anext(follower, None) is None
    return found


# What fails is made as short as possible first, which may take five minutes.
@pytest.mark.timeout(600)
def test_the_public_api_does_what_the_oracle_says(
    store_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """R11, C1, F14, X16. Any program of forty calls, on every store, over openings."""
    kind = request.node.callspec.params["store_url"]

    def fresh() -> str:
        number = next(_numbers)
        if kind == "postgresql":
            return f"{store_url}&schema=m{number}"
        return store_url if kind == "memory" else f"sqlite:///{tmp_path / str(number)}.db"

    class Here(Machine):
        url = staticmethod(fresh)
        keeps = kind != "memory"
        own_clock = kind == "postgresql"
        reached: ClassVar[Counter[str]] = Counter()

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES[kind],
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(kind, sorted(Here.reached.items()))
    # Each of them occurs a dozen times and more in so many programs.
    assert kind != "memory" or Here.reached.keys() >= REFUSED


def test_the_oracle_refuses_what_the_store_refuses() -> None:
    """R11. A machine whose oracle never refuses would agree with anything."""
    oracle = Oracle(ManualClock().store_time(), b"me")
    assert isinstance(oracle.apply(Unit((TrimStream("a", 1),))), Refused)
