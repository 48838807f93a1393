"""What other openings commit is noticed, so that who follows a stream is woken."""

from pathlib import Path

from holdfast.core.event import Event
from holdfast.core.unit import Append, CloseStream, Unit
from holdfast.core.world import World
from holdfast.runtime.runtime import make_driver
from holdfast.store.options import Options
from holdfast.store.port import Driver
from holdfast.store.sqlite.driver import SqliteDriver


def _append(driver: Driver, stream: str) -> None:
    unit_id = World().ids.unit(driver.last_number())
    driver.commit([Unit((Append(stream, (Event.of("said"),)),), (), unit_id)])


def test_what_came_between_opening_and_the_first_own_commit_is_told(tmp_path: Path) -> None:
    """C1. Found by seed 491 of the simulation: a follower waited for events that were there."""
    one, two = (SqliteDriver(tmp_path / "a.db", Options(), World()) for _ in range(2))
    one.open()
    try:
        two.open()
        two.wait_foreign(0.0)
        _append(one, "theirs")
        _append(two, "ours")
        told = two.wait_foreign(0.0)
        assert told.foreign
        assert "theirs" in told.streams
    finally:
        two.close()
        one.close()


def test_what_we_committed_ourselves_is_no_news(kept_url: str) -> None:
    """C1, A4. Among the events of others too; ours were told when they were committed."""
    one, two = (make_driver(kept_url, Options(), World()) for _ in range(2))
    one.open()
    try:
        two.open()
        two.wait_foreign(0.0)
        _append(two, "ours")
        assert two.wait_foreign(0.0).streams == ()
        _append(two, "ours")
        _append(one, "theirs")
        _append(two, "ours")
        _append(one, "shared")
        _append(two, "shared")
        assert sorted(two.wait_foreign(0.0).streams) == ["shared", "theirs"]
        assert two.wait_foreign(0.0).streams == ()
        assert sorted(one.wait_foreign(0.0).streams) == ["ours", "shared"]
    finally:
        two.close()
        one.close()


def test_what_has_no_event_is_news_also_behind_a_commit_of_ours(kept_url: str) -> None:
    """A4, C1. A closed stream; who follows it ends. On PostgreSQL also if no hint came of it."""
    one, two = (make_driver(kept_url, Options(), World()) for _ in range(2))
    one.open()
    try:
        two.open()
        _append(one, "theirs")
        two.wait_foreign(0.0)
        one.commit([Unit((CloseStream("theirs"),), (), World().ids.unit(one.last_number()))])
        _append(two, "ours")
        told = two.wait_foreign(0.0)
        assert told.foreign
        assert told.streams == ()
        assert not two.wait_foreign(0.0).foreign
    finally:
        two.close()
        one.close()
