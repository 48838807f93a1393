"""Claims about streams: appending, reading, closing, trimming, listing, the feed."""

from holdfast.core.errors import (
    InvalidValueError,
    LimitError,
    SequenceConflictError,
    StreamClosedError,
    StreamNotFoundError,
    TooOldError,
)
from holdfast.core.event import RecordedEvent
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, holds, refused

__all__ = ["StreamContract"]


class StreamContract:
    """What streams promise."""

    @asynchronous
    async def test_appended_events_are_read_back_in_order(self, open_store: Opener) -> None:
        """A4. Sequences are 1, 2, 3 …; what is read equals what append returned."""
        async with open_store() as rt:
            history = rt.history("a")
            written = [await history.append(f"t{n}", {"n": n}, meta={"by": n}) for n in range(5)]
            written += await history.append_all([history.event("more", n) for n in range(5)])
            equal(await history.read(), written, "events")
            equal([event.sequence for event in written], list(range(1, 11)), "sequences")
            equal([event.data for event in written[5:]], list(range(5)), "data")
            equal(written[3].metadata, {"by": 3}, "meta")
            equal((written[3].type, written[3].stream), ("t3", "a"), "type and stream")
            equal(await rt.history("b").read(), [], "another stream")

    @asynchronous
    async def test_a_page_continues_exactly_behind_any_sequence(self, open_store: Opener) -> None:
        """A4. For every `after=n` the reader gets n+1 onwards, whatever the page size."""
        async with open_store() as rt:
            history = rt.history("a")
            all_events = await history.append_all([history.event("t", n) for n in range(12)])
            for after in range(13):
                for limit in (1, 3, 12, 100):
                    page = await history.read(after, limit)
                    equal(page, all_events[after : after + limit], f"after {after}, {limit}")
            with refused(InvalidValueError):
                await history.read(-1)
            with refused(LimitError):
                await history.read(0, 0)

    @asynchronous
    async def test_an_append_can_expect_a_sequence(self, open_store: Opener) -> None:
        """A4, X16. A wrong expectation names the real sequence and writes nothing."""
        async with open_store() as rt:
            history = rt.history("a")
            await history.append("t", expected=0)
            await history.append("t", expected=1)
            for wrong in (0, 1, 3):
                with refused(SequenceConflictError) as refusal:
                    await history.append("no", expected=wrong)
                error = refusal.error
                equal((error.stream, error.expected, error.actual), ("a", wrong, 2), "error")
            equal([event.type for event in await history.read()], ["t", "t"], "events")

    @asynchronous
    async def test_a_closed_stream_takes_nothing_more(self, open_store: Opener) -> None:
        """A7. Closing is for good; closing again changes nothing; reading goes on."""
        async with open_store() as rt:
            history = rt.history("a")
            await history.append("t")
            await history.close()
            await history.close()
            with refused(StreamClosedError) as refusal:
                await history.append("late")
            equal((refusal.error.stream, refusal.error.sequence), ("a", 1), "error")
            equal([event.type for event in await history.read()], ["t"], "events")
            holds((await history.info()).closed, "info says that the stream is closed")
            await rt.history("never begun").close()
            with refused(StreamClosedError):
                await rt.history("never begun").append("late")

    @asynchronous
    async def test_trimmed_events_are_named_as_too_old(self, open_store: Opener) -> None:
        """X9. Reading before the first event kept says which one that is; numbering goes on."""
        async with open_store() as rt:
            history = rt.history("a")
            events = await history.append_all([history.event("t", n) for n in range(6)])
            await history.trim(4)
            for after in (0, 1, 2):
                with refused(TooOldError) as refusal:
                    await history.read(after)
                equal((refusal.error.after, refusal.error.first_sequence), (after, 4), "error")
            equal(await history.read(3), events[3:], "what is kept")
            await history.trim(2)
            equal((await history.info()).first_sequence, 4, "first after a trim further back")
            await history.trim(7)
            equal((await history.append("t")).sequence, 7, "sequence after trimming all")
            equal([event.sequence for event in await history.read(6)], [7], "read after it")
            with refused(TooOldError):
                await history.read(5)

    @asynchronous
    async def test_a_trim_beyond_the_end_is_refused(self, open_store: Opener) -> None:
        """X9. Retention never invents events, nor a stream."""
        async with open_store() as rt:
            await rt.history("a").append("t")
            with refused(InvalidValueError):
                await rt.history("a").trim(3)
            with refused(StreamNotFoundError):
                await rt.history("b").trim(1)
            with refused(StreamNotFoundError):
                await rt.history("b").info()

    @asynchronous
    async def test_streams_are_listed_by_prefix_page_by_page(self, open_store: Opener) -> None:
        """R11. In the order of the names' bytes; every name once, whatever the page size."""
        names = sorted(["", "a", "a/1", "a/10", "a/2", "a0", "b", "é", "e\u0301", "\U0001f600"])
        names.sort(key=str.encode)
        async with open_store() as rt:
            for name in reversed(names):
                await rt.history(name).append("t")
            for prefix in ("", "a", "a/", "a/1", "é", "none"):
                expected = [name for name in names if name.startswith(prefix)]
                for limit in (1, 2, 100):
                    equal(await _listed(rt, prefix, limit), expected, f"{prefix!r} by {limit}")

    @asynchronous
    async def test_the_feed_has_every_event_once_by_position(self, open_store: Opener) -> None:
        """A4. Positions grow over all streams; pages join without a seam."""
        async with open_store() as rt:
            written: list[RecordedEvent] = []
            for n in range(20):
                written.append(await rt.history(f"s{n % 3}").append("t", n))
            positions = [event.position for event in written]
            equal(positions, sorted(set(positions)), "positions")
            for limit in (1, 7, 100):
                found: list[RecordedEvent] = []
                while page := await rt.feed.read(found[-1].position if found else 0, limit):
                    found += page
                equal(found, written, f"feed by {limit}")

    @asynchronous
    async def test_an_opening_finds_equal_streams(self, open_store: Opener) -> None:
        """C1. Nothing acknowledged is dropped, nothing comes back changed or twice."""
        open_store.need_keeping()
        async with open_store() as rt:
            await rt.history("a").append_all([rt.history("a").event("t", n) for n in range(9)])
            await rt.history("a").trim(3)
            await rt.history("b").append("t", {"x": [1.5, None, b"\0"]}, meta={"m": True})
            await rt.history("b").close()
            before = await _content(rt)
        async with open_store() as rt:
            equal(await _content(rt), before, "content after opening again")
            equal((await rt.history("a").append("t", expected=9)).sequence, 10, "next sequence")
            newest = (await rt.feed.read())[-1]
            equal((newest.stream, newest.sequence), ("a", 10), "newest by position")
            with refused(StreamClosedError):
                await rt.history("b").append("late")

    @asynchronous
    async def test_redacted_fields_are_stored_nowhere(self, open_store: Opener) -> None:
        """X12. A secret is replaced before anything is stored, at any depth and in meta."""
        async with open_store(redact=["Password"]) as rt:
            data = {"user": "ann", "in": [{"PASSWORD": "s3cret"}]}
            event = await rt.history("a").append("t", data, meta={"password": "s3cret"})
            equal(event.data, {"user": "ann", "in": [{"PASSWORD": "[redacted]"}]}, "data")
            equal(event.metadata, {"password": "[redacted]"}, "meta")
            equal(data["in"], [{"PASSWORD": "s3cret"}], "the caller's own value")
            record = await rt.records.put("k", "a", data)
            holds("s3cret" not in repr(record), "the record holds no secret")


async def _listed(rt: Runtime, prefix: str, limit: int) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while page := await rt.streams(prefix, after=after, limit=limit):
        holds(len(page) <= limit, "a page keeps to its limit")
        found += [info.name for info in page]
        after = found[-1]
    return found


async def _content(rt: Runtime) -> list[object]:
    infos = await rt.streams()
    events = [await rt.history(info.name).read(info.first_sequence - 1) for info in infos]
    return [infos, events, await rt.feed.read()]
