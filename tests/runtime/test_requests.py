"""Requests from outside: of all with one key one has an effect, and each effect is noted once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import pytest

import holdfast
from holdfast import AtVersion, PutRecord, Runtime, Unit
from holdfast.core import codec
from holdfast.core.denial import KeyBusyError, KeyReusedError
from holdfast.core.errors import LimitError, VersionConflictError
from holdfast.core.world import World
from holdfast.runtime.requests import KEY_CHARACTERS_MAX, KIND, Answer, Note
from holdfast.testing.clock import ManualClock

KEY = ("ann", "thing_put", "k")
DAY = 86_400.0
Work = Callable[[], Awaitable[Answer]]


def during(
    url: str, work: Callable[[Runtime], Awaitable[Any]], clock: ManualClock | None = None
) -> None:
    """Do something with an open store."""

    async def run() -> None:
        world = World() if clock is None else World(clock=clock)
        async with holdfast.open(url, world=world, redact=["reason"]) as rt, asyncio.timeout(60):
            await work(rt)

    asyncio.run(run())


class Asking:
    """
    Requests that each add one to a record.

    Attributes:
        done: how often that was tried.
    """

    def __init__(self, rt: Runtime) -> None:
        """Take the runtime."""
        self._rt = rt
        self.done = 0

    async def once(
        self, content: bytes = b"same", key: tuple[str, ...] = KEY, work: Work | None = None
    ) -> tuple[Answer, bool]:
        """Ask with a key."""
        note = Note("ann", "thing_put", 1.0, reason="because")
        return await self._rt.requests.once(key, content, note, work or self.add, self.again)

    async def add(self) -> Answer:
        """Add one."""
        self.done += 1
        before = await self.count()
        await self._rt.records.put("thing", "a", before + 1)
        return Answer(201, b"made", {"Location": "/a"})

    async def again(self) -> Answer:
        """Answer by how things are now."""
        return Answer(200, b"%d" % await self.count(), {})

    async def count(self) -> int:
        """Return what was added so far."""
        found = await self._rt.records.find("thing", "a")
        return 0 if found is None else int(found.value)

    async def notes(self) -> list[str]:
        """Return which actions were noted."""
        return [event.type for event in await self._rt.requests.audit.read()]


def test_the_answer_to_a_key_is_kept_and_its_effect_is_not_repeated(store_url: str) -> None:
    """Section 2.6. Status, body and headers are those of the first time; noted once."""

    async def work(rt: Runtime) -> None:
        asking = Asking(rt)
        first = await asking.once()
        assert first == (Answer(201, b"made", {"Location": "/a"}), False)
        assert await asking.once() == (first[0], True)
        assert (await asking.count(), asking.done) == (1, 1)
        assert await asking.notes() == ["thing_put"]
        await asking.once(key=("bob", "thing_put", "k"))
        await asking.once(key=("ann", "thing_drop", "k"))
        assert await asking.count() == 3, "a key is of who asks, and for what"

    during(store_url, work)


def test_a_key_with_other_content_is_refused_while_its_first_is_known(store_url: str) -> None:
    """Section 2.6. Nothing is done, nothing is noted, and the first answer stays."""

    async def work(rt: Runtime) -> None:
        asking = Asking(rt)
        first, _ = await asking.once()
        with pytest.raises(KeyReusedError):
            await asking.once(b"other")
        assert await asking.once() == (first, True)
        assert (asking.done, await asking.notes()) == (1, ["thing_put"])

    during(store_url, work)


def test_who_lost_the_answer_gets_the_present_state(kept_url: str) -> None:
    """Section 2.6, X8. Between the effect and the answer the process died, or the work failed."""

    async def lost(rt: Runtime) -> None:
        asking = Asking(rt)

        async def dies() -> Answer:
            await asking.add()
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await asking.once(work=dies)
        await rt.records.put("thing", "a", 41)

    async def asked_again(rt: Runtime) -> None:
        asking = Asking(rt)
        with pytest.raises(KeyReusedError):
            await asking.once(b"other")
        assert await asking.once() == (Answer(200, b"41", {}), True)
        assert (asking.done, await asking.notes()) == (0, ["thing_put"])

    during(kept_url, lost)
    during(kept_url, asked_again)


def test_a_request_that_was_refused_may_be_sent_again_with_its_key(store_url: str) -> None:
    """Section 2.6. What had no effect leaves no key and no note."""

    async def work(rt: Runtime) -> None:
        asking = Asking(rt)

        async def refused() -> Answer:
            write = PutRecord("thing", ("a",), codec.encode(9))
            await rt.commit(Unit((write,), (AtVersion("thing", ("a",), 7),)))
            raise AssertionError("it was committed")

        with pytest.raises(VersionConflictError) as conflict:
            await asking.once(work=refused)
        assert conflict.value.kind == "thing", "it is not the key that was taken"
        assert await asking.notes() == []
        assert (await asking.once())[0].status == 201
        assert await asking.notes() == ["thing_put"]

    during(store_url, work)


def test_a_request_without_an_effect_keeps_its_answer_and_is_not_noted(store_url: str) -> None:
    """Section 2.6. Such as the cancellation of what is cancelled; the same answer once more."""

    async def work(rt: Runtime) -> None:
        asking = Asking(rt)

        async def nothing() -> Answer:
            return Answer(204, b"", {})

        assert await asking.once(work=nothing) == (Answer(204, b"", {}), False)
        assert await asking.once() == (Answer(204, b"", {}), True)
        assert (asking.done, await asking.notes()) == (0, [])

    during(store_url, work)


def test_of_two_at_once_in_one_process_the_second_is_told_to_come_later(store_url: str) -> None:
    """Section 2.6. 409 while the first is worked on; afterwards it gets the answer."""

    async def work(rt: Runtime) -> None:
        asking, begun, go_on = Asking(rt), asyncio.Event(), asyncio.Event()

        async def slow() -> Answer:
            begun.set()
            await go_on.wait()
            return await asking.add()

        first = asyncio.create_task(asking.once(work=slow))
        await begun.wait()
        with pytest.raises(KeyBusyError):
            await asking.once()
        go_on.set()
        answer, _ = await first
        assert await asking.once() == (answer, True)
        assert asking.done == 1

    during(store_url, work)


def test_of_two_at_once_in_two_runtimes_one_has_an_effect(kept_url: str) -> None:
    """Section 2.6, X5. The other one finds the key taken, writes nothing, and answers again."""

    async def work(rt: Runtime) -> None:
        async with holdfast.open(kept_url) as there:
            here, other = Asking(rt), Asking(there)

            async def overtaken() -> Answer:
                # As in another process: nothing of this request goes along.
                await asyncio.create_task(other.once(), context=Context())
                return await here.add()

            answer, replayed = await here.once(work=overtaken)
            assert (answer, replayed) == (Answer(201, b"made", {"Location": "/a"}), True)
            assert await here.count() == 1
            assert await here.notes() == ["thing_put"]

    during(kept_url, work)


def test_a_note_is_of_the_unit_of_its_effect_and_of_that_alone(store_url: str) -> None:
    """Section 7 point 15. In its transaction, redacted; whoever commits does not see it."""

    async def work(rt: Runtime) -> None:
        note = Note("ann", "thing_put", 1.0, reason="hunter2")
        seen: list[Any] = []

        async def two() -> Answer:
            write = PutRecord("thing", ("a",), codec.encode(1))
            seen.append(await rt.commit(Unit((write,))))
            seen.append(await rt.commit(Unit((write,))))
            return Answer(200, b"", {})

        await rt.requests.noted(note, two)
        await rt.commit(Unit((PutRecord("thing", ("a",), codec.encode(2)),)))
        (event,) = await rt.requests.audit.read()
        assert event.data["actor"] == "ann" and event.data["action"] == "thing_put"
        assert "hunter2" not in str(event.data)
        for committed in seen:
            assert [one.kind for one in committed.records] == ["thing"]
            assert list(committed.events) == []

    during(store_url, work)


def test_what_goes_on_behind_a_request_is_not_noted_as_its_own(store_url: str) -> None:
    """Section 7 point 15. A task that it began and that commits later carries nothing along."""

    async def work(rt: Runtime) -> None:
        go_on, tasks = asyncio.Event(), list[asyncio.Task[Any]]()

        async def later() -> None:
            await go_on.wait()
            await rt.records.put("thing", "late", 1)

        async def begins() -> Answer:
            tasks.append(asyncio.create_task(later()))
            return Answer(200, b"", {})

        await rt.requests.noted(Note("ann", "thing_put", 1.0), begins)
        go_on.set()
        await asyncio.gather(*tasks)
        assert await rt.requests.audit.read() == []

    during(store_url, work)


def test_a_key_is_kept_for_two_days_and_forgotten_behind_them(kept_url: str) -> None:
    """Section 2.6. A client has so long to ask again; growth is bounded."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        asking = Asking(rt)
        first, _ = await asking.once()
        for number in (1, 2):
            clock.advance(DAY)
            await asking.once(key=("ann", "thing_put", f"day {number}"))
            assert await asking.once() == (first, True), f"{number} days later"
        clock.advance(DAY)
        await asking.once(key=("ann", "thing_put", "day 3"))
        kept = {one.key[-1] for one in await rt.records.list(KIND, limit=10)}
        assert kept == {"day 1", "day 2", "day 3"}
        assert (await asking.once())[1] is False, "it is a new request by now"

    during(kept_url, work, clock)


def test_a_key_has_255_characters_at_most(store_url: str) -> None:
    """Section 2.6. One more is refused, with the limit."""

    async def work(rt: Runtime) -> None:
        asking = Asking(rt)
        await asking.once(key=("ann", "thing_put", "k" * KEY_CHARACTERS_MAX))
        with pytest.raises(LimitError) as refused:
            await asking.once(key=("ann", "thing_put", "k" * (KEY_CHARACTERS_MAX + 1)))
        assert (refused.value.size, refused.value.limit) == (256, 255)
        assert asking.done == 1

    during(store_url, work)
