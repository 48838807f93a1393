"""Claims about units: all or nothing, also among others in one batch."""

import asyncio

from holdfast.core import codec
from holdfast.core.errors import (
    ConflictError,
    HoldfastError,
    InvalidValueError,
    LeaseHeldError,
    SequenceConflictError,
    StreamClosedError,
    StreamNotFoundError,
    VersionConflictError,
)
from holdfast.core.event import Event
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Committed,
    GrantLease,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    TrimStream,
    Unit,
    Write,
)
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, holds, refused

__all__ = ["UnitContract"]

ONE = codec.encode(1)
BLOB = PutBlob.of(b"of the unit")
EVENT = Event.of("t", 1)


class UnitContract:
    """What units promise."""

    @asynchronous
    async def test_everything_in_a_unit_is_written(self, open_store: Opener) -> None:
        """L6. Several streams, records, a lease, a blob, a snapshot; later writes see earlier."""
        async with open_store() as rt:
            answer = await rt.commit(Unit(_everything()))
            places = [(stream, row.sequence) for stream, row in answer.events]
            equal(places, [("a", 1), ("a", 2), ("b", 1)], "places of the events")
            versions = [(row.key, row.version) for row in answer.records]
            equal(versions, [(("a",), 1), (("b",), 1), (("a",), 2)], "versions")
            equal([row.generation for row in answer.leases], [1], "generation")
            equal(await _seen(rt), (2, 1, {"n": 2}, 1, True, b"of the unit", b"s"), "found")
            holds((await rt.history("b").info()).closed, "the other stream is closed")

    @asynchronous
    async def test_a_refused_unit_leaves_nothing(self, open_store: Opener) -> None:
        """L6, C4. Whatever was before the write that is refused, nothing of it is there."""
        held = GrantLease("held", 60.0, "me")
        refusals: list[tuple[Unit, type[HoldfastError]]] = [
            (Unit(_everything(), (AtSequence("a", 1),)), SequenceConflictError),
            (Unit(_everything(), (AtVersion("k", ("a",), 3),)), VersionConflictError),
            (Unit((*_everything(), Append("b", (EVENT,)))), StreamClosedError),
            (Unit((*_everything(), TrimStream("c", 1))), StreamNotFoundError),
            (Unit((*_everything(), held)), LeaseHeldError),
        ]
        async with open_store() as rt:
            await rt.commit(Unit((held,)))
            for unit, kind in refusals:
                with refused(kind):
                    await rt.commit(unit)
                equal(await _seen(rt), (0, 0, None, 0, False, None, None), f"after {kind.code}")
            await rt.commit(Unit(_everything()))
            equal(await rt.verify(), [], "findings")

    @asynchronous
    async def test_a_refused_unit_takes_only_itself_down(self, open_store: Opener) -> None:
        """X16. Of units that wait together each gets its own answer."""
        async with open_store() as rt:
            units = [
                Unit((Append("s", (Event.of("t", n),)),), (AtSequence("s", n // 2),))
                for n in range(40)
            ]
            answers = await asyncio.gather(*map(rt.commit, units), return_exceptions=True)
            good = [isinstance(answer, Committed) for answer in answers]
            bad = [isinstance(answer, SequenceConflictError) for answer in answers]
            equal(good, [n % 2 == 0 for n in range(40)], "committed")
            equal(bad, [n % 2 == 1 for n in range(40)], "refused")
            data = [event.data for event in await rt.history("s").read()]
            equal(data, list(range(0, 40, 2)), "events")

    @asynchronous
    async def test_a_unit_with_a_strange_value_harms_no_other(self, open_store: Opener) -> None:
        """F22, C4. Made by hand, past all checks: it is refused alone, or can be read again."""
        poison: list[Write] = [
            Append("\ud800", (EVENT,)),
            Append("s" * 70_000, (EVENT,)),
            Append("strange", (Event("\0", ONE),)),
            Append("strange", (Event("\ud800", ONE),)),
            PutRecord("\0", ("a",), ONE),
            PutRecord("k", (), ONE),
            PutRecord("k", ("\ud800",), ONE),
            PutRecord("k", ("strange",), ONE, tag="\0"),
            PatchRecord("k", ("strange",), tag="\ud800"),
            GrantLease("\ud800", 60.0, "me"),
            GrantLease("strange", 60.0, "\0"),
            PutSnapshot("\ud800", "s", 0, 0, "raw", b""),
        ]
        plain = Unit((PatchRecord("k", ("n",), add={"n": 1}),))
        async with open_store() as rt:
            for bad in poison:
                units = [plain, Unit((bad, PatchRecord("k", ("x",), add={"n": 1}))), plain]
                answers = await asyncio.gather(*map(rt.commit, units), return_exceptions=True)
                kinds = [type(answer) for answer in (answers[0], answers[2])]
                equal(kinds, [Committed, Committed], f"answers beside {bad!r:.60}")
                kept = await rt.records.find("k", "x")
                if isinstance(answers[1], Committed):
                    await rt.records.delete("k", "x")
                else:
                    holds(isinstance(answers[1], HoldfastError), f"{bad!r:.60}: {answers[1]!r}")
                equal(kept is not None, isinstance(answers[1], Committed), f"{bad!r:.60}: whole")
            equal((await rt.records.get("k", "n")).value, {"n": 2 * len(poison)}, "counter")
            equal(await rt.verify(), [], "findings")

    @asynchronous
    async def test_units_that_wait_together_see_each_other(self, open_store: Opener) -> None:
        """X16. The second of two builds on the first, also before either is durable."""
        async with open_store() as rt:
            units = [
                Unit(
                    (PatchRecord("k", ("a",), add={"n": 1}), Append("s", (EVENT,))),
                    (AtVersion("k", ("a",), n), AtSequence("s", n)),
                )
                for n in range(30)
            ]
            answers = await asyncio.gather(*map(rt.commit, units))
            versions = [answer.records[0].version for answer in answers]
            equal(versions, list(range(1, 31)), "versions")
            equal((await rt.records.get("k", "a")).value, {"n": 30}, "value")

    @asynchronous
    async def test_an_expectation_alone_can_be_asked(self, open_store: Opener) -> None:
        """X16. A unit without writes says whether something holds now."""
        async with open_store() as rt:
            await rt.commit(Unit((), (AtSequence("s", 0), AtVersion("k", ("a",), 0))))
            with refused(SequenceConflictError):
                await rt.commit(Unit((), (AtSequence("s", 1),)))
            with refused(InvalidValueError):
                await rt.commit(Unit((), id=b"short"))

    @asynchronous
    async def test_two_openings_interleave_without_a_gap(self, open_store: Opener) -> None:
        """A4, X5. Sequences stay dense and every conflict is noticed while both write."""
        open_store.need_keeping()
        async with open_store() as one, open_store() as two:

            async def write(rt: Runtime, author: str) -> int:
                won = 0
                for _ in range(25):
                    last = await rt.history("s").read(limit=1_000)
                    try:
                        await rt.history("s").append(author, expected=len(last))
                    except ConflictError:
                        continue
                    won += 1
                return won

            won = await asyncio.gather(write(one, "one"), write(two, "two"))
            events = await one.history("s").read()
            equal([event.sequence for event in events], list(range(1, sum(won) + 1)), "sequences")
            counts = [sum(event.type == author for event in events) for author in ("one", "two")]
            equal(counts, list(won), "events by author")
            holds(min(won) > 0, "both got to write")
            equal(await two.verify(), [], "findings")


def _everything() -> tuple[Write, ...]:
    return (
        Append("a", (EVENT, EVENT)),
        Append("b", (EVENT,)),
        CloseStream("b"),
        PutRecord("k", ("a",), codec.encode({"n": 1})),
        PutRecord("k", ("b",), ONE),
        PatchRecord("k", ("a",), add={"n": 1}),
        GrantLease("lease", 60.0, "me"),
        BLOB,
        PutSnapshot.of("n", "a", 2, b"s"),
    )


async def _seen(rt: Runtime) -> tuple[object, ...]:
    record = await rt.records.find("k", "a")
    other = await rt.records.find("k", "b")
    snapshot = await rt.snapshots.latest("n")
    blob: bytes | None = None
    try:
        blob = await rt.blobs.get(BLOB.digest.hex())
    except HoldfastError as error:
        equal(error.code, "blob_not_found", "error")
    return (
        len(await rt.history("a").read()),
        len(await rt.history("b").read()),
        record and record.value,
        0 if other is None else other.version,
        await rt.leases.find("lease") is not None,
        blob,
        snapshot and snapshot.data,
    )
