"""The watch looks in one thread while a commit is under way in another: nothing is missed."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from holdfast.core.errors import VersionConflictError
from holdfast.core.event import Event
from holdfast.core.unit import Append, AtVersion, Unit
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.sqlite.driver import SqliteDriver

DRIVER = str(Path(inspect.getfile(SqliteDriver)).parent)


class _Between:
    """Calls something once, in front of the nth instruction of the driver."""

    def __init__(self, nth: int, call: Callable[[], object]) -> None:
        self._left = nth
        self._call = call
        self.called = False
        self.gave: object = None

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(DRIVER):
                return None
            frame.f_trace_opcodes = True
        elif event == "opcode" and not self.called:
            self._left -= 1
            if not self._left:
                self.called = True
                self.gave = self._call()
        return self

    def __enter__(self) -> "_Between":
        sys.settrace(self)
        return self

    def __exit__(self, *how: object) -> None:
        sys.settrace(None)


class _Two:
    """A store that is open twice: one commits, the other one is to hear of it."""

    def __init__(self, path: Path) -> None:
        self.theirs, self.ours = (SqliteDriver(path, Options(), World()) for _ in range(2))

    def __enter__(self) -> "_Two":
        self.theirs.open()
        self.ours.open()
        return self

    def __exit__(self, *how: object) -> None:
        self.ours.close()
        self.theirs.close()

    def append(self, driver: SqliteDriver) -> None:
        unit_id = World().ids.unit(driver.last_number())
        driver.commit([Unit((Append("said", (Event.of("said"),)),), (), unit_id)])

    def be_refused(self) -> None:
        """Expect what is not so: that sees what others did, and commits nothing."""
        unit_id = World().ids.unit(self.ours.last_number())
        expects = AtVersion("kind", ("key",), 7)
        said = Append("said", (Event.of("said"),))
        answers = self.ours.commit([Unit((said,), (expects,), unit_id)])
        assert isinstance(answers.units[0], VersionConflictError)

    def hears(self) -> bool:
        """Look once, without waiting."""
        self.ours.interrupt_wait()
        return self.ours.wait_foreign(0.0).foreign


COMMITS: dict[str, Callable[[_Two], None]] = {
    "is refused": _Two.be_refused,
    "commits": lambda two: two.append(two.ours),
}


def _interleave(
    two: _Two, outer: Callable[[], object], inner: Callable[[], object], least: int
) -> None:
    """Do one in front of every instruction of the other; what they committed is heard of."""
    nth, called = 0, True
    while called:
        nth += 1
        two.append(two.theirs)
        with _Between(nth, inner) as between:
            gave = outer()
        heard = two.hears() or gave or between.gave
        assert heard, f"lost in front of instruction {nth}"
        called = between.called
    assert nth > least, "it was not seen at work"


@pytest.mark.parametrize("commit", COMMITS)
def test_a_look_at_any_moment_of_a_commit_takes_no_news_away(tmp_path: Path, commit: str) -> None:
    """C1, A9. A refused commit leaves no trace by which a later look would be reminded."""
    with _Two(tmp_path / "a.db") as two:
        _interleave(two, lambda: COMMITS[commit](two), two.hears, least=100)


@pytest.mark.parametrize("commit", COMMITS)
def test_a_commit_at_any_moment_of_a_look_takes_no_news_away(tmp_path: Path, commit: str) -> None:
    """C1, A9. The other way round."""
    with _Two(tmp_path / "a.db") as two:
        _interleave(two, two.hears, lambda: COMMITS[commit](two), least=50)
