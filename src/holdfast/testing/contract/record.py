"""Claims about records: versions, conflicts, patches, deletion, lists."""

import asyncio
from typing import Any

from holdfast.core import codec
from holdfast.core.errors import (
    EncodeError,
    InvalidValueError,
    LimitError,
    RecordNotFoundError,
    VersionConflictError,
)
from holdfast.core.key import Key
from holdfast.core.unit import AtVersion, PatchRecord, Unit
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, identical, refused

__all__ = ["RecordContract"]

WRITERS = 5
ROUNDS = 6


class RecordContract:
    """What records promise."""

    @asynchronous
    async def test_a_record_is_found_as_it_was_put(self, open_store: Opener) -> None:
        """R11. Kinds and keys are kept apart; a missing record is an error by name."""
        async with open_store() as rt:
            first = await rt.records.put("k", "a", {"n": 1}, tag="new")
            second = await rt.records.put("k", ("a",), {"n": 2})
            equal((first.version, first.tag, first.value), (1, "new", {"n": 1}), "first")
            equal((second.version, second.tag), (2, None), "second")
            equal(await rt.records.get("k", "a"), second, "found")
            for kind, key in (("other", ("a",)), ("k", ("a", "")), ("k", ("",))):
                equal(await rt.records.find(kind, key), None, f"{kind} {key}")
            with refused(RecordNotFoundError) as refusal:
                await rt.records.get("k", "b")
            equal((refusal.error.kind, refusal.error.key), ("k", ("b",)), "error")
            with refused(InvalidValueError):
                await rt.records.put("k", (), 1)

    @asynchronous
    async def test_a_write_can_expect_a_version(self, open_store: Opener) -> None:
        """R10. The wrong version gets a conflict that names the real one; nothing is mixed."""
        async with open_store() as rt:
            await rt.records.put("k", "a", "one", expected=0)
            await rt.records.put("k", "a", "two", expected=1)
            for wrong in (0, 1, 3):
                with refused(VersionConflictError) as refusal:
                    await rt.records.put("k", "a", "no", expected=wrong)
                equal((refusal.error.expected, refusal.error.actual), (wrong, 2), "error")
                with refused(VersionConflictError):
                    await rt.records.delete("k", "a", expected=wrong)
            equal((await rt.records.get("k", "a")).value, "two", "value")
            with refused(VersionConflictError) as refusal:
                await rt.records.put("k", "b", 1, expected=1)
            equal(refusal.error.actual, 0, "version of an absent record")

    @asynchronous
    async def test_of_writers_at_one_version_one_wins(self, open_store: Opener) -> None:
        """R10, C5. Each version has one author; who lost knows it."""
        async with open_store() as rt:

            async def write(author: int, version: int) -> int | None:
                try:
                    await rt.records.put("k", "a", [author] * 3, expected=version)
                except VersionConflictError:
                    return None
                return author

            for version in range(ROUNDS):
                tries = await asyncio.gather(*(write(n, version) for n in range(WRITERS)))
                winners = [author for author in tries if author is not None]
                equal(len(winners), 1, f"winners of version {version + 1}")
                record = await rt.records.get("k", "a")
                equal((record.version, record.value), (version + 1, winners * 3), "record")

    @asynchronous
    async def test_two_openings_cannot_write_the_same_version(self, open_store: Opener) -> None:
        """R10. What one opening wrote is seen by the other, also if it looked before."""
        open_store.need_keeping()
        async with open_store() as one, open_store() as two:
            await one.records.put("k", "a", 1, expected=0)
            await two.records.put("k", "a", 2, expected=1)
            with refused(VersionConflictError) as refusal:
                await one.records.put("k", "a", 3, expected=1)
            equal(refusal.error.actual, 2, "version that the other wrote")
            await one.records.put("k", "a", 4, expected=2)
            equal((await two.records.get("k", "a")).value, 4, "value seen by the other")

    @asynchronous
    async def test_a_patch_changes_the_named_fields_only(self, open_store: Opener) -> None:
        """R8. Other fields keep their bits; tags stay unless named; absent counts as empty."""
        async with open_store() as rt:
            kept = {"nan": float("nan"), "zero": -0.0, "deep": [{"b": b"\xff"}], "n": 2}
            await rt.records.put("k", "a", {**kept, "old": 1}, tag="t")
            await _patch(rt, "a", set={"new": codec.encode([1])}, add={"n": 3}, remove=("old",))
            record = await rt.records.get("k", "a")
            identical(record.value, {**kept, "n": 5, "new": [1]}, "patched")
            equal((record.version, record.tag), (2, "t"), "version and tag")
            await _patch(rt, "a", tag="u")
            equal((await rt.records.get("k", "a")).tag, "u", "tag")
            await _patch(rt, "b", add={"n": 1, "x": 0.5}, remove=("none",))
            equal((await rt.records.get("k", "b")).value, {"n": 1, "x": 0.5}, "made by a patch")

    @asynchronous
    async def test_concurrent_additions_add_up(self, open_store: Opener) -> None:
        """L7. Counters of many writers lose nothing and count nothing twice."""
        async with open_store() as rt:
            work = [_patch(rt, "a", add={"n": n}) for n in range(1, 41)]
            await asyncio.gather(*work)
            record = await rt.records.get("k", "a")
            equal((record.value, record.version), ({"n": 820}, 40), "counter")

    @asynchronous
    async def test_a_patch_that_makes_no_sense_is_refused(self, open_store: Opener) -> None:
        """R8. No list is patched, no text counted up, no counter wraps around."""
        async with open_store() as rt:
            await rt.records.put("k", "list", [1])
            await rt.records.put("k", "dict", {"text": "s", "on": True, "big": 2**63})
            with refused(EncodeError):
                await _patch(rt, "list", add={"n": 1})
            for name, amount in (("text", 1), ("on", 1), ("big", 2**63)):
                with refused(EncodeError):
                    await _patch(rt, "dict", add={name: amount})
            expected = {"text": "s", "on": True, "big": 2**63}
            identical((await rt.records.get("k", "dict")).value, expected, "unchanged")

    @asynchronous
    async def test_a_deleted_record_is_gone_but_its_versions_are_not_used_again(
        self, open_store: Opener
    ) -> None:
        """R10, R11. A later record is never mistaken for the deleted one."""
        async with open_store() as rt:
            old = await rt.records.put("k", "a", 1, tag="t")
            await rt.records.delete("k", "a")
            equal(await rt.records.find("k", "a"), None, "found after deletion")
            equal(await rt.records.list("k"), [], "listed after deletion")
            equal(await rt.records.list("k", tag="t"), [], "listed by tag after deletion")
            await rt.records.delete("k", "a")
            await rt.records.delete("k", "never there")
            await rt.records.delete("k", "a", expected=0)
            new = await rt.records.put("k", "a", 2, expected=0)
            equal(new.version > old.version + 1, True, "the version went on over the deletion")
            expects = (AtVersion("k", ("a",), old.version),)
            with refused(VersionConflictError):
                await rt.commit(Unit((PatchRecord("k", ("a",)),), expects))
            await rt.records.delete("k", "a", expected=new.version)
            await _patch(rt, "a", add={"n": 1})
            equal((await rt.records.get("k", "a")).value, {"n": 1}, "patch after deletion")

    @asynchronous
    async def test_records_are_listed_by_kind_prefix_and_tag(self, open_store: Opener) -> None:
        """R11. In key order, by whole parts of the key, page by page, every record once."""
        keys: list[Key] = [("a",), ("a", ""), ("a", "b"), ("a", "b", "c"), ("a", "\0"), ("ab",)]
        keys += [("a\0b",), ("",), ("b",), ("é",), ("e\u0301",), ("a", "é")]
        async with open_store() as rt:
            for number, key in enumerate(keys):
                await rt.records.put("k", key, number, tag="odd" if number % 2 else None)
                await rt.records.put("other", key, number, tag="odd")
            for tag in (None, "odd", "none"):
                chosen = {key for n, key in enumerate(keys) if tag in (None, "odd" if n % 2 else 0)}
                for prefix in ((), ("a",), ("a", "b"), ("none",)):
                    expected = sorted(key for key in chosen if key[: len(prefix)] == prefix)
                    for limit in (1, 5, 100):
                        found = await _listed(rt, prefix, limit, tag)
                        equal(sorted(found), expected, f"{tag} {prefix} by {limit}")
            everything = await _listed(rt, (), 3, None)
            equal(everything, await _listed(rt, (), 100, None), "order, whatever the page size")
            equal(everything[:2], [("",), ("a",)], "order: first parts first")
            with refused(LimitError):
                await rt.records.list("k", limit=0)

    @asynchronous
    async def test_an_opening_finds_equal_records(self, open_store: Opener) -> None:
        """C1, L8. Values, versions, tags and deletions are as they were."""
        open_store.need_keeping()
        async with open_store() as rt:
            for n, value in enumerate((None, 0, {}, {"f": None}, {"f": 0})):
                await rt.records.put("k", ("a", str(n)), value, tag=f"t{n}")
            await rt.records.delete("k", ("a", "1"))
            before = await rt.records.list("k")
        async with open_store() as rt:
            equal(await rt.records.list("k"), before, "records after opening again")
            identical([record.value for record in before], [None, {}, {"f": None}, {"f": 0}])
            equal((await rt.records.put("k", ("a", "1"), 0, expected=0)).version, 3, "version")


async def _patch(rt: Runtime, key: str, **changes: Any) -> None:
    await rt.commit(Unit((PatchRecord("k", (key,), **changes),)))


async def _listed(rt: Runtime, prefix: Key, limit: int, tag: str | None) -> list[Key]:
    found: list[Key] = []
    after: Key | None = None
    while page := await rt.records.list("k", prefix=prefix, after=after, limit=limit, tag=tag):
        found += [record.key for record in page]
        after = found[-1]
    return found
