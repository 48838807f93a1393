"""The database itself refuses to change history, also to who comes without Holdfast."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw
import psycopg
import pytest

import holdfast

Execute = Callable[[str], object]

REFUSED = [
    ("UPDATE event SET payload = payload", "never changed"),
    ("UPDATE event SET sequence = sequence + 100 WHERE sequence = 4", "never changed"),
    ("DELETE FROM event WHERE sequence = 4", "trimmed prefix"),
    ("DELETE FROM event", "trimmed prefix"),
    ("UPDATE lease SET generation = generation - 1", "never go back"),
    ("DELETE FROM lease", "leases stay"),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[], Execute]]:
    """A store and a way to a raw connection to it."""
    if request.param == "sqlite":
        file = tmp_path / "store.db"
        return f"sqlite:///{file}", lambda: apsw.Connection(str(file)).execute
    url = str(request.getfixturevalue("postgres_url"))

    def connect() -> Execute:
        raw = psycopg.connect(url, autocommit=True, options="-c search_path=holdfast")
        request.addfinalizer(raw.close)
        return raw.execute

    return url, connect


@pytest.mark.parametrize(("statement", "reason"), REFUSED)
def test_the_database_refuses_to_change_history(
    opened: tuple[str, Callable[[], Execute]], statement: str, reason: str
) -> None:
    """X3, H3. By triggers, so that a slip in a console or a script cannot do it either."""
    url, connect = opened

    async def content() -> object:
        async with holdfast.open(url) as rt:
            assert await rt.verify() == []
            return await rt.history("s").read(2), (await rt.leases.find("a")), await rt.streams()

    async def fill() -> None:
        async with holdfast.open(url) as rt:
            await rt.history("s").append_all([rt.history("s").event("t", n) for n in range(6)])
            await rt.history("s").trim(3)
            await rt.leases.grant("a", 60.0)

    asyncio.run(fill())
    before = asyncio.run(content())
    with pytest.raises((apsw.Error, psycopg.Error), match=reason):
        connect()(statement)
    assert asyncio.run(content()) == before
