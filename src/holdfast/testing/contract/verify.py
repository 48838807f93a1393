"""Claims about verifying: it finds nothing in what was only ever written through the store."""

import asyncio

from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal

__all__ = ["VerifyContract"]


class VerifyContract:
    """What `verify` promises about an undamaged store."""

    @asynchronous
    async def test_an_undamaged_store_has_no_findings(self, open_store: Opener) -> None:
        """X3, X13. Empty, filled, trimmed, deleted from, and opened again."""
        async with open_store() as rt:
            equal(await rt.verify(), [], "findings in an empty store")
            await _fill(rt)
            equal(await rt.verify(), [], "findings in a full one")
        if open_store.keeps:
            async with open_store() as rt:
                equal(await rt.verify(), [], "findings after opening again")

    @asynchronous
    async def test_verifying_beside_writers_finds_nothing(self, open_store: Opener) -> None:
        """X3, X13. A trim or an append in between is no damage."""
        async with open_store() as rt:

            async def write(name: str) -> None:
                history = rt.history(name)
                for n in range(40):
                    event = await history.append("t", n)
                    if n % 5 == 4:
                        await history.trim(event.sequence - 1)

            async def look() -> None:
                for _ in range(8):
                    equal(await rt.verify(), [], "findings beside writers")

            await asyncio.gather(look(), *(write(name) for name in "abc"))


async def _fill(rt: Runtime) -> None:
    for name in ("a", "b", "c"):
        history = rt.history(name)
        await history.append_all([history.event("t", n) for n in range(700)])
    await rt.history("b").trim(650)
    await rt.history("c").trim(701)
    await rt.history("c").close()
    for n in range(20):
        await rt.records.put("k", str(n), n)
    await rt.records.delete("k", "3")
    await (await rt.leases.grant("a", 60.0)).release()
    digest = await rt.blobs.put(b"x" * 5_000)
    await rt.blobs.put(b"y")
    await rt.blobs.delete(digest)
    for sequence in (1, 2, 3, 4, 5):
        await rt.snapshots.put("n", "a", sequence, b"s" * 3_000)
