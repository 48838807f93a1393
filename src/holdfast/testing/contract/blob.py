"""Claims about blobs and snapshots: bytes come back as they were, or not at all."""

from hashlib import sha256

from holdfast.core.errors import BlobNotFoundError, InvalidValueError, SnapshotAheadError
from holdfast.testing.contract.claim import Opener, asynchronous, equal, holds, refused, seeded

__all__ = ["BlobContract", "SnapshotContract"]


class BlobContract:
    """What blobs promise."""

    @asynchronous
    async def test_bytes_come_back_as_they_were(self, open_store: Opener) -> None:
        """R4, A14. Named by their SHA-256; short or long, compressible or not, kept once."""
        with seeded() as rng:
            samples = [b"", b"\0", b"text" * 50_000, rng.randbytes(100_000), b"x" * 1_024]
            async with open_store() as rt:
                for data in samples:
                    digest = await rt.blobs.put(data)
                    equal(digest, sha256(data).hexdigest(), "name")
                    equal(await rt.blobs.put(data), digest, "name of the same bytes")
                for data in samples:
                    found = await rt.blobs.get(sha256(data).hexdigest())
                    holds(found == data, f"{len(data)} bytes came back equal")

    @asynchronous
    async def test_a_blob_that_is_not_there_is_named(self, open_store: Opener) -> None:
        """R11. Also after deletion; deleting twice is fine; what is no digest is refused."""
        async with open_store() as rt:
            digest = await rt.blobs.put(b"data")
            other = await rt.blobs.put(b"other")
            for _ in range(2):
                await rt.blobs.delete(digest)
                with refused(BlobNotFoundError) as refusal:
                    await rt.blobs.get(digest)
                equal(refusal.error.digest, digest, "error")
            equal(await rt.blobs.get(other), b"other", "another blob")
            await rt.blobs.put(b"data")
            equal(await rt.blobs.get(digest), b"data", "put again")
            for wrong in ("", "no digest", digest[:-2], "../" + digest):
                with refused(InvalidValueError):
                    await rt.blobs.get(wrong)

    @asynchronous
    async def test_an_opening_finds_blobs_again(self, open_store: Opener) -> None:
        """C1. Acknowledged bytes are there."""
        open_store.need_keeping()
        async with open_store() as rt:
            digest = await rt.blobs.put(b"keep " * 1_000)
        async with open_store() as rt:
            equal(await rt.blobs.get(digest), b"keep " * 1_000, "bytes")


class SnapshotContract:
    """What snapshots promise."""

    @asynchronous
    async def test_the_newest_snapshots_are_kept(self, open_store: Opener) -> None:
        """X9. The one of the highest sequence is the latest, in whatever order they came."""
        async with open_store() as rt:
            history = rt.history("s")
            await history.append_all([history.event("t") for _ in range(9)])
            equal(await rt.snapshots.latest("n"), None, "before the first")
            for sequence in (2, 9, 4, 7):
                await rt.snapshots.put("n", "s", sequence, b"%d" % sequence * 2_000)
            await rt.snapshots.put("other", "s", 0, b"empty")
            found = await rt.snapshots.latest("n")
            holds(found is not None, "there is one")
            if found is not None:
                equal((found.name, found.stream, found.sequence), ("n", "s", 9), "latest")
                equal(found.data, b"9" * 2_000, "its bytes")
            await rt.snapshots.put("n", "s", 9, b"again", keep=1)
            again = await rt.snapshots.latest("n")
            equal(again and again.data, b"again", "replaced")
            equal(await rt.verify(), [], "findings")

    @asynchronous
    async def test_a_snapshot_ahead_of_its_stream_is_refused(self, open_store: Opener) -> None:
        """C4, N9. Nothing claims to include events that do not exist."""
        async with open_store() as rt:
            await rt.history("s").append("t")
            for stream, sequence, actual in (("s", 2, 1), ("none", 1, 0)):
                with refused(SnapshotAheadError) as refusal:
                    await rt.snapshots.put("n", stream, sequence, b"")
                equal(refusal.error.actual, actual, "sequence of the stream")
            equal(await rt.snapshots.latest("n"), None, "nothing was kept")
            with refused(InvalidValueError):
                await rt.snapshots.put("n", "s", 1, b"", keep=0)

    @asynchronous
    async def test_an_opening_finds_the_latest_snapshot(self, open_store: Opener) -> None:
        """C1. A snapshot and the tail behind it are the whole."""
        open_store.need_keeping()
        async with open_store() as rt:
            history = rt.history("s")
            await history.append_all([history.event("t", n) for n in range(6)])
            await rt.snapshots.put("n", "s", 4, b"0123")
            await history.trim(5)
        async with open_store() as rt:
            found = await rt.snapshots.latest("n")
            equal(found and (found.sequence, found.data), (4, b"0123"), "snapshot")
            equal([event.data for event in await rt.history("s").read(4)], [4, 5], "tail")
