"""Claims about following: no seam between what is there and what comes, whenever one joins."""

import asyncio
from collections.abc import AsyncIterator

from holdfast.core.errors import ClosedError, TooOldError
from holdfast.core.event import RecordedEvent
from holdfast.runtime.history import History
from holdfast.testing.contract.claim import Opener, asynchronous, equal, refused

__all__ = ["FollowContract"]

WRITERS = 4
EVENTS_EACH = 15


async def _all(events: AsyncIterator[RecordedEvent]) -> list[RecordedEvent]:
    return [event async for event in events]


async def _first(events: AsyncIterator[RecordedEvent], count: int) -> list[RecordedEvent]:
    found: list[RecordedEvent] = []
    async for event in events:
        found.append(event)
        if len(found) == count:
            break
    return found


class FollowContract:
    """What followers are promised."""

    @asynchronous
    async def test_followers_get_everything_once_whenever_they_join(
        self, open_store: Opener
    ) -> None:
        """A4, A5. A follower joins behind each append, while others write; none sees a seam."""
        async with open_store() as rt:
            history = rt.history("a")
            followers: list[asyncio.Future[tuple[list[RecordedEvent]]]] = []

            async def write() -> None:
                for _ in range(EVENTS_EACH):
                    event = await history.append("t")
                    followers.append(asyncio.gather(_all(history.follow(event.sequence))))
                    followers.append(asyncio.gather(_all(history.follow())))

            await asyncio.gather(*(write() for _ in range(WRITERS)))
            await history.close()
            everything = await history.read()
            equal(len(everything), WRITERS * EVENTS_EACH, "events")
            results = [found for (found,) in await asyncio.gather(*followers)]
            for found in results:
                after = found[0].sequence - 1 if found else len(everything)
                equal(found, everything[after:], f"what a follower behind {after} got")
            joined = {len(found) for found in results}
            equal(joined, set(range(len(everything) + 1)), "places at which somebody joined")

    @asynchronous
    async def test_a_follower_exactly_at_the_end_gets_what_comes(self, open_store: Opener) -> None:
        """A5. Joining at the end, also of a stream that has not begun, misses nothing."""
        async with open_store() as rt:
            history = rt.history("a")
            for count in range(5):
                waiting = asyncio.gather(_first(history.follow(count), 1))
                await _let_wait(history)
                event = await history.append("t", count)
                equal(await waiting, [[event]], f"what came behind {count}")

    @asynchronous
    async def test_a_follower_of_a_closed_stream_ends(self, open_store: Opener) -> None:
        """A5. A clean end: for who waits, for who comes later, for a stream without events."""
        async with open_store() as rt:
            history = rt.history("a")
            waiting = asyncio.gather(_all(history.follow()), _all(history.follow(2)))
            await _let_wait(history)
            events = await history.append_all([history.event("t"), history.event("t")])
            await history.close()
            equal(await waiting, [events, list[RecordedEvent]()], "what waiting followers got")
            equal(await _all(history.follow(1)), events[1:], "what a late follower got")
            empty = rt.history("b")
            waiting_for_none = asyncio.gather(_all(empty.follow()))
            await _let_wait(empty)
            await empty.close()
            (found,) = await waiting_for_none
            equal(len(found), 0, "what a follower of nothing got")

    @asynchronous
    async def test_a_follower_left_behind_by_a_trim_is_told(self, open_store: Opener) -> None:
        """A5. Events that went are never passed over in silence."""
        async with open_store() as rt:
            history = rt.history("a")
            await history.append_all([history.event("t") for _ in range(3)])
            await history.trim(3)
            with refused(TooOldError) as refusal:
                await _first(history.follow(1), 1)
            equal(refusal.error.first_sequence, 3, "first sequence")

    @asynchronous
    async def test_the_feed_is_followed_over_all_streams(self, open_store: Opener) -> None:
        """A4. Every event of every stream, once, by growing position."""
        async with open_store() as rt:
            total = 3 * EVENTS_EACH

            async def write(name: str) -> None:
                for _ in range(EVENTS_EACH):
                    await rt.history(name).append("t")

            early = asyncio.gather(_first(rt.feed.follow(), total))
            await asyncio.gather(*(write(name) for name in "abc"))
            late = await _first(rt.feed.follow(), total)
            equal(await early, [late], "the early follower's events")
            positions = [event.position for event in late]
            equal(positions, sorted(set(positions)), "positions")
            places = sorted((event.stream, event.sequence) for event in late)
            expected = [(name, n + 1) for name in "abc" for n in range(EVENTS_EACH)]
            equal(places, expected, "places")

    @asynchronous
    async def test_followers_are_told_when_the_store_closes(self, open_store: Opener) -> None:
        """A5. Nobody waits for ever for a store that was closed."""
        async with open_store() as rt:
            event = await rt.history("a").append("t")
            followers = [_all(rt.history("a").follow(event.sequence)) for _ in range(20)]
            waiting = asyncio.gather(*followers, _all(rt.feed.follow(event.position)))
            await _let_wait(rt.history("a"))
        with refused(ClosedError):
            await waiting


async def _let_wait(history: History) -> None:
    """Give followers that were just started the time of a read, so that they wait by now."""
    for _ in range(3):
        await history.read()
