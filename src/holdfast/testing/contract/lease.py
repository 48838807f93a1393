"""
Claims about leases: one owner, and no harm from a stale one.

A lease of a microsecond is over by the next unit, on any clock, so nothing here waits.
"""

import asyncio

from holdfast.core.errors import (
    InvalidValueError,
    LeaseExpiredError,
    LeaseHeldError,
    StaleGenerationError,
)
from holdfast.core.unit import (
    Append,
    Committed,
    Fence,
    GrantLease,
    ReleaseLease,
    RenewLease,
    Unit,
)
from holdfast.runtime.lease import Lease
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, holds, refused

__all__ = ["LeaseContract"]

LONG = 3_600.0
MOMENT = 1e-6
RACERS = 16


class LeaseContract:
    """What leases promise."""

    @asynchronous
    async def test_a_held_lease_names_its_holder_and_its_end(self, open_store: Opener) -> None:
        """F14, A9. Who asks second hears who holds it, and for how long at most."""
        async with open_store() as rt:
            lease = await rt.leases.grant("a", LONG, holder="ann")
            with refused(LeaseHeldError) as refusal:
                await rt.leases.grant("a", LONG, holder="bob")
            error = refusal.error
            equal((error.key, error.holder, error.generation), ("a", "ann", 1), "error")
            holds(0 < error.remaining <= LONG, f"remaining time: {error.remaining}")
            equal(lease.generation, 1, "generation")
            row = await rt.leases.find("a")
            equal(row and (row.holder, row.generation), ("ann", 1), "what the store knows")
            equal(await rt.leases.find("b"), None, "a lease that was never granted")

    @asynchronous
    async def test_of_many_who_ask_at_once_one_is_granted(self, open_store: Opener) -> None:
        """F14, C5. Exactly one owner per key and generation."""
        async with open_store() as rt:
            for generation in range(1, 4):
                tries = await asyncio.gather(
                    *(rt.leases.grant("a", LONG, holder=str(n)) for n in range(RACERS)),
                    return_exceptions=True,
                )
                granted = [one for one in tries if isinstance(one, Lease)]
                lost = [one for one in tries if isinstance(one, LeaseHeldError)]
                equal((len(granted), len(lost)), (1, RACERS - 1), "granted and refused")
                equal(granted[0].generation, generation, "generation")
                await granted[0].release()

    @asynchronous
    async def test_only_the_holder_writes_behind_a_fence(self, open_store: Opener) -> None:
        """F15, A9, X5. Another generation, incarnation or key passes no fence."""
        async with open_store() as rt:
            async with await rt.leases.grant("a", LONG) as lease:
                token = lease.token
                await _append(rt, token)
                wrong = [
                    Fence("a", token.generation + 1, token.incarnation),
                    Fence("a", token.generation - 1, token.incarnation),
                    Fence("a", token.generation, bytes(16)),
                    Fence("b", token.generation, token.incarnation),
                ]
                for fence in wrong:
                    with refused(StaleGenerationError):
                        await _append(rt, fence)
            with refused(StaleGenerationError):
                await _append(rt, token)
            equal(len(await rt.history("work").read()), 1, "writes that passed")

    @asynchronous
    async def test_an_expired_lease_is_its_owners_no_more(self, open_store: Opener) -> None:
        """F15. Whoever slept past the end cannot write, renew, or disturb the next owner."""
        async with open_store() as rt:
            old = await rt.leases.grant("a", MOMENT, holder="old")
            with refused(LeaseExpiredError) as refusal:
                await _append(rt, old.token)
            equal((refusal.error.key, refusal.error.generation), ("a", 1), "error")
            with refused(LeaseExpiredError):
                await old.renew(LONG)
            new = await rt.leases.grant("a", LONG, holder="new")
            equal(new.generation, 2, "generation of the next owner")
            with refused(StaleGenerationError):
                await _append(rt, old.token)
            with refused(StaleGenerationError):
                await old.renew()
            with refused(StaleGenerationError):
                await old.release()
            await _append(rt, new.token)
            equal(len(await rt.history("work").read()), 1, "writes that passed")

    @asynchronous
    async def test_a_renewed_lease_goes_on_under_its_generation(self, open_store: Opener) -> None:
        """A9. Renewing moves the end and nothing else; it can be made shorter."""
        async with open_store() as rt:
            lease = await rt.leases.grant("a", LONG, holder="ann")
            before = await rt.leases.find("a")
            await lease.renew(2 * LONG)
            after = await rt.leases.find("a")
            holds(before is not None and after is not None, "the lease is known")
            if before is not None and after is not None:
                equal((after.generation, after.holder), (1, "ann"), "generation and holder")
                holds(after.expires_at >= before.expires_at + LONG / 2, "the end moved")
            await lease.renew(MOMENT)
            equal((await rt.leases.grant("a", LONG)).generation, 2, "granted after the end")

    @asynchronous
    async def test_generations_are_never_used_again(self, open_store: Opener) -> None:
        """H3, F15. Not after a release, not after the end, not by another key."""
        async with open_store() as rt:
            seen: list[int] = []
            for turn in range(6):
                lease = await rt.leases.grant("a", MOMENT if turn % 2 else LONG)
                seen.append(lease.generation)
                if turn % 2 == 0:
                    await lease.release()
            equal(seen, [1, 2, 3, 4, 5, 6], "generations")
            for generation in seen:
                for write in (ReleaseLease("a", generation), RenewLease("a", generation, LONG)):
                    if generation < 6:
                        with refused(StaleGenerationError):
                            await rt.commit(Unit((write,)))
            equal((await rt.leases.grant("b", LONG)).generation, 1, "another key")

    @asynchronous
    async def test_of_many_who_prove_a_death_one_is_granted(self, open_store: Opener) -> None:
        """C5, F14, H10. The proof names a generation; the second meets the next and is refused."""
        async with open_store() as rt:
            dead = await rt.leases.grant("a", LONG, holder="dead")
            for wrong in (dead.generation + 1, dead.generation - 1):
                with refused(LeaseHeldError):
                    await rt.commit(Unit((GrantLease("a", LONG, "heir", over=wrong),)))
            heirs = [Unit((GrantLease("a", LONG, f"{n}", over=1),)) for n in range(RACERS)]
            tries = await asyncio.gather(*map(rt.commit, heirs), return_exceptions=True)
            granted = [one for one in tries if isinstance(one, Committed)]
            lost = [one for one in tries if isinstance(one, LeaseHeldError)]
            equal((len(granted), len(lost)), (1, RACERS - 1), "granted and refused")
            equal(granted[0].leases[0].generation, 2, "generation of the heir")
            with refused(StaleGenerationError):
                await _append(rt, dead.token)
            with refused(StaleGenerationError):
                await dead.renew()

    @asynchronous
    async def test_a_time_to_live_has_limits(self, open_store: Opener) -> None:
        """X16. Nothing is granted for no time, for ever, or for what is no number."""
        async with open_store() as rt:
            for ttl in (0.0, -1.0, float("inf"), float("nan")):
                with refused(InvalidValueError):
                    await rt.leases.grant("a", ttl)
            equal(await rt.leases.find("a"), None, "nothing was granted")

    @asynchronous
    async def test_another_opening_is_another_owner(self, open_store: Opener) -> None:
        """F13, F15, X5. Who opens the store anew owns nothing of the former opening."""
        open_store.need_keeping()
        async with open_store() as rt:
            former = await rt.leases.grant("a", LONG, holder="former")
        async with open_store() as rt:
            with refused(LeaseHeldError) as refusal:
                await rt.leases.grant("a", LONG)
            equal(refusal.error.holder, "former", "holder")
            for write in (ReleaseLease("a", 1), RenewLease("a", 1, LONG)):
                with refused(StaleGenerationError):
                    await rt.commit(Unit((write,)))
            with refused(StaleGenerationError):
                await _append(rt, Fence("a", former.generation, rt.opened.incarnation))

    @asynchronous
    async def test_two_openings_never_own_one_key(self, open_store: Opener) -> None:
        """F14, X5. The fence is looked up where the write is, not in what one remembers."""
        open_store.need_keeping()
        async with open_store() as one, open_store() as two:
            old = await one.leases.grant("a", MOMENT)
            new = await two.leases.grant("a", LONG)
            await _append(two, new.token)
            with refused(StaleGenerationError):
                await _append(one, old.token)
            with refused(LeaseHeldError):
                await one.leases.grant("a", LONG)
            await new.release()
            equal((await one.leases.grant("a", LONG)).generation, 3, "generation")
            with refused(StaleGenerationError):
                await _append(two, new.token)


async def _append(rt: Runtime, fence: Fence) -> None:
    event = rt.history("work").event("done")
    await rt.commit(Unit((Append("work", (event,)),), (fence,)))
