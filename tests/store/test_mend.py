"""Mending: a record that is damaged is replaced by one unit, and by nothing else (X3, R7)."""

import asyncio
from contextlib import closing
from typing import Any

import apsw
import pytest

import holdfast
from holdfast import AtVersion, MendRecord, PatchRecord, PutRecord, Unit
from holdfast.core import codec
from holdfast.core.errors import DamagedError, VersionConflictError

ONE = codec.encode({"n": 1})
TWO = codec.encode({"n": 2})


def execute(url: str, text: str) -> None:
    """Change a stored row behind the store's back."""
    if url.startswith("sqlite"):
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as db:
            db.execute(text.replace("TABLE", "record"))
        return
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text.replace("TABLE", "holdfast.record").encode())


DAMAGES = [
    "UPDATE TABLE SET value = digest WHERE kind = 'k'",
    "UPDATE TABLE SET version = version + 1 WHERE kind = 'k'",
    "UPDATE TABLE SET kind = 'l' WHERE kind = 'k'",
    "UPDATE TABLE SET key = digest WHERE kind = 'k'",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_mended_once(store_url: str, damage: str) -> None:
    """R7, X3. Nothing else gets past the damage; of two who mend it the second is refused."""
    if ":memory:" in store_url:
        pytest.skip("nobody else can reach a store in memory")

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            await rt.records.put("k", "a", {"n": 0})
            await rt.records.put("k", "other", {"n": 0})
        execute(store_url, damage.replace("'k'", "'k' AND version = 1"))
        async with holdfast.open(store_url) as rt:
            await broken(rt)
            mend = Unit((MendRecord("k", ("a",), ONE), PatchRecord("m", ("x",), {"n": ONE})))
            refused = Unit((MendRecord("k", ("a",), ONE),), (AtVersion("m", ("x",), 7),))
            with pytest.raises(VersionConflictError):
                await rt.commit(refused)
            await broken(rt)
            mended = (await rt.commit(mend)).records[0]
            with pytest.raises(VersionConflictError) as conflict:
                await rt.commit(mend)
            assert conflict.value.actual == mended.version > 2**50
            assert (await rt.records.get("k", "a")).value == {"n": 1}
            await rt.commit(
                Unit((PutRecord("k", ("a",), TWO),), (AtVersion("k", ("a",), mended.version),))
            )
            await rt.commit(Unit((MendRecord("k", ("other",), ONE),)))
            assert await rt.verify() == []

    async def broken(rt: holdfast.Runtime) -> None:
        units: list[Any] = [(PutRecord("k", ("a",), ONE),), (PatchRecord("k", ("a",)),)]
        for writes in units:
            with pytest.raises(DamagedError):
                await rt.commit(Unit(writes))
        assert not any(row.value == {"n": 1} for row in await rt.records.list("m"))

    asyncio.run(run())


def test_a_record_that_is_absent_or_deleted_is_mended_like_a_new_one(store_url: str) -> None:
    """R7. An intact one is a conflict, and so is one that the same unit made."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            mend = MendRecord("k", ("a",), ONE, "tag")
            with pytest.raises(VersionConflictError):
                await rt.commit(Unit((mend, mend)))
            row = (await rt.commit(Unit((mend,)))).records[0]
            assert (row.version, row.tag) == (1, "tag")
            await rt.records.delete("k", "a")
            assert (await rt.commit(Unit((mend,)))).records[0].version == 3

    asyncio.run(run())
