"""Latches: scope, age, expiry, reset, and what restarts and clocks do to them."""

import asyncio

import pytest

import holdfast
from holdfast.core.errors import InvalidValueError
from holdfast.core.world import World
from holdfast.testing.clock import ManualClock


def test_a_latch_concerns_its_own_key_only(store_url: str) -> None:
    """L9. One bad key never disables others; a scope is not a prefix of another."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            await rt.latches.set("model", "gpt", "five failures")
            await rt.latches.set("model", ("gpt", "eu"), "slow")
            await rt.latches.set("models", "other", "no")
            clock.advance(30.0)
            found = await rt.latches.find("model", "gpt")
            assert found is not None
            assert (found.reason, found.age, found.remaining) == ("five failures", 30.0, None)
            assert await rt.latches.find("model", "claude") is None
            assert [one.key for one in await rt.latches.list("model")] == [("gpt",), ("gpt", "eu")]
            assert await rt.latches.reset("model", "gpt")
            assert not await rt.latches.reset("model", "gpt")
            assert [one.key for one in await rt.latches.list("model")] == [("gpt", "eu")]
            with pytest.raises(InvalidValueError):
                await rt.latches.set("model", "x", "y", ttl=0.0)

    asyncio.run(run())


def test_what_is_left_of_a_latch_survives_restarts_and_clocks(store_url: str) -> None:
    """L9, X10. A wall clock set back extends nothing, one set forward in a boot ends nothing."""
    if ":memory:" in store_url:
        pytest.skip("a store in memory ends with its only opening")

    async def left(clock: ManualClock) -> float | None:
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            found = await rt.latches.find("breaker", "a")
            listed = await rt.latches.list("breaker")
            assert (found is None) == (listed == [])
            return None if found is None else found.remaining

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            await rt.latches.set("breaker", "a", "tripped", ttl=100.0)
        clock.advance(30.0)
        assert await left(clock) == 70.0
        clock.wall_time += 1e6
        assert await left(clock) == 70.0
        clock.domain = "boot 2"
        clock.wall_time -= 2e6
        assert await left(clock) == 100.0, "what was written down was left then"
        clock.wall_time += 50.0
        assert await left(clock) == 100.0, "this boot has its own time now"
        clock.advance(99.0)
        assert await left(clock) == 1.0
        clock.advance(1.0)
        assert await left(clock) is None

    asyncio.run(run())
