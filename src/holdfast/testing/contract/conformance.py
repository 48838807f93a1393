"""
The conformance properties, as far as the kernel goes (C1, C4, C5, C6; X14).

- C1 prefix continuation: who holds the first n goes on with n + 1, over openings and trims.
- C4 validity: whatever was accepted can be loaded; what cannot be is refused at once.
- C5 consume-once: what can be had once is had by exactly one of k racers, k up to 32, over 1,000
  rounds. For racing processes see `holdfast.testing.process.race`.
- C6 recovery determinism: opening again gives the same state, again and again.

C2, effects exactly once, and C3, fork determinism, are claims about runs; see `RunContract`.
"""

import asyncio
from random import Random
from typing import Any, Final

from holdfast.core.errors import EncodeError
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, holds, identical, seeded
from holdfast.testing.process.race import CLAIMS, LOST

__all__ = ["ConformanceContract"]

ROUNDS: Final = 1_000
RACERS: Final = 32
OPENINGS: Final = 4
VALUES: Final = 200


class ConformanceContract:
    """What a store has to conform to, whatever is built on it."""

    @asynchronous
    async def test_readers_go_on_behind_what_they_hold(self, open_store: Opener) -> None:
        """C1. Nothing that a reader holds comes again, nothing acknowledged is left out."""
        open_store.need_keeping()
        with seeded() as rng:
            held: list[list[object]] = [[] for _ in range(8)]
            written: list[object] = []
            for _ in range(OPENINGS):
                async with open_store() as rt:
                    history = rt.history("a")
                    for _ in range(30):
                        written.append((await history.append("t", len(written))).data)
                        reader = rng.choice(held)
                        page = await history.read(len(reader), rng.randint(1, 20))
                        reader += [event.data for event in page]
                    await history.trim(1 + min(map(len, held)))
            for reader in held:
                equal(reader, written[: len(reader)], "what a reader holds")

    @asynchronous
    async def test_whatever_was_accepted_can_be_loaded(self, open_store: Opener) -> None:
        """C4. Random values, also ones that no store keeps exactly: refused, or equal later."""
        open_store.need_keeping()
        accepted: dict[str, Any] = {}
        with seeded() as rng:
            async with open_store() as rt:
                for number in range(VALUES):
                    value = _value(rng, 4)
                    try:
                        await rt.records.put("k", str(number), value)
                    except EncodeError:
                        continue
                    accepted[str(number)] = value
            holds(20 < len(accepted) < VALUES, f"{len(accepted)} of {VALUES} were accepted")
            async with open_store() as rt:
                for key, value in accepted.items():
                    identical((await rt.records.get("k", key)).value, value, f"value {key}")
                equal(len(await rt.records.list("k", limit=VALUES)), len(accepted), "records")

    @asynchronous
    async def test_of_k_racers_exactly_one_is_served(self, open_store: Opener) -> None:
        """C5. A lease, a record, a stream, work of a runtime that died."""
        with seeded() as rng:
            async with open_store() as rt:
                for number in range(ROUNDS):
                    kind = rng.choice(sorted(CLAIMS))
                    await _race(rt, f"{kind}/{number}", kind, rng.randint(2, RACERS))

    @asynchronous
    async def test_opening_again_gives_the_same_state(self, open_store: Opener) -> None:
        """C6. Recovery decides nothing anew: everything that can be read is as it was."""
        open_store.need_keeping()
        with seeded() as rng:
            async with open_store() as rt:
                await _fill(rt, rng)
                before = await _everything(rt)
            for opening in range(OPENINGS):
                async with open_store() as rt:
                    found = await _everything(rt)
                for number, (one, other) in enumerate(zip(before, found, strict=False)):
                    equal(one, other, f"part {number} of the state after opening {opening}")
                equal(len(found), len(before), f"parts of the state after opening {opening}")


async def _race(rt: Runtime, thing: str, kind: str, racers: int) -> None:
    claim = CLAIMS[kind]
    if claim.lay is not None:
        await claim.lay(rt, thing)
    answers = await asyncio.gather(
        *(claim.take(rt, thing, str(n)) for n in range(racers)), return_exceptions=True
    )
    won = [str(n) for n, one in enumerate(answers) if not isinstance(one, BaseException)]
    lost = [one for one in answers if isinstance(one, LOST)]
    equal((len(won), len(lost)), (1, racers - 1), f"winners and losers of {racers} for {thing}")
    equal(await claim.taken(rt, thing), won[0], f"who has {thing}")


def _value(rng: Random, depth: int) -> Any:
    """Return a random value; about a third hold something that cannot be stored exactly."""
    kind = rng.randrange(14 if depth else 10)
    if kind == 0:
        # Each is refused: kinds that would come back as others, and a number that is too large.
        return rng.choice(((1, 2), {1}, 2**64, object(), "\ud800", {1: "a"}, 1j))
    if kind >= 12:
        return {_text(rng): _value(rng, depth - 1) for _ in range(rng.randrange(4))}
    if kind >= 10:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return rng.choice(
        (
            None,
            True,
            rng.randrange(-(2**63), 2**63),
            rng.choice((0.0, -0.0, float("inf"), float("nan"), 5e-324, rng.random())),
            rng.randbytes(rng.randrange(50)),
            _text(rng),
        )
    )


def _text(rng: Random) -> str:
    return "".join(chr(rng.choice((0, 34, 65, 97, 0xE9, 0x301, 0x1F600))) for _ in range(4))


async def _fill(rt: Runtime, rng: Random) -> None:
    for number in range(120):
        name = rng.choice("abc")
        await rt.history(name).append("t", rng.randbytes(rng.randrange(300)))
        await rt.records.put("k", str(rng.randrange(20)), {"n": number})
        if number % 40 == 39:
            last = (await rt.history("a").info()).last_sequence
            await rt.history("a").trim(max(1, last - 5))
            await rt.records.delete("k", (await rt.records.list("k"))[0].key)
            await rt.snapshots.put("s", "a", 1, rng.randbytes(2_000))
    await rt.history("b").close()


async def _everything(rt: Runtime) -> list[object]:
    streams = await rt.streams()
    found: list[object] = [*streams, await rt.snapshots.latest("s")]
    for stream in streams:
        found += await rt.history(stream.name).read(stream.first_sequence - 1)
    return [*found, *await rt.records.list("k"), *await rt.feed.read()]
