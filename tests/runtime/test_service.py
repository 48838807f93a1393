"""The one loop of the runtime, and work that is carried to its end."""

import asyncio

import pytest

from holdfast.runtime.service import Errand, Service, unbroken


class Stubborn(Service):
    """Answers a cancellation with an error."""

    def __init__(self) -> None:
        super().__init__("stubborn", 0.0)
        self.ticking = asyncio.Event()

    async def tick(self) -> None:
        self.ticking.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("fails as it is ended") from None


def test_a_tick_that_fails_as_it_is_ended_does_not_hold_up_the_stop() -> None:
    """X7. Whoever stops a service gets it stopped."""

    async def whole() -> None:
        service = Stubborn()
        service.start()
        await service.ticking.wait()
        async with asyncio.timeout(10):
            await service.stop()
        assert service.failures == 1

    asyncio.run(whole())


def test_unbroken_work_ends_before_whoever_waits_is_cancelled() -> None:
    """A1. However often; what it came to counts, and so does the cancellation."""

    async def whole() -> None:
        gate, done = asyncio.Event(), list[str]()

        async def work() -> str:
            await gate.wait()
            done.append("done")
            return "result"

        waiting = asyncio.create_task(unbroken(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert done == ["done"]
        assert await unbroken(work()) == "result"

    asyncio.run(whole())


def test_an_errand_that_is_cancelled_before_it_began_says_what_becomes_of_it() -> None:
    """A13. It begins, and meets the cancellation at its first wait."""

    async def whole() -> None:
        errand, over = Errand("late"), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                over.set()

        errand.start(work)
        errand.cancel()
        async with asyncio.timeout(10):
            await over.wait()

    asyncio.run(whole())
