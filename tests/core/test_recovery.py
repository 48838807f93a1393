"""The table of phases, and recovery as values."""

from collections.abc import Iterator

import pytest

from holdfast.core.clock import SystemClock
from holdfast.core.recovery import NEXT, Phase, Plan, Report, Step, plain
from holdfast.runtime.health import Life

UP = list(Phase)[: list(Phase).index(Phase.READY) + 1]
OVER = (Phase.CLOSED, Phase.FAILED)


def walks(walked: tuple[Phase, ...]) -> Iterator[tuple[Phase, ...]]:
    """Yield every way a life can take from here on; a phase that comes again ends it."""
    followers = NEXT[walked[-1]]
    for follower in followers:
        if follower in walked:
            yield (*walked, follower)
        else:
            yield from walks((*walked, follower))
    if not followers:
        yield walked


def test_a_life_is_ready_once_and_only_after_every_phase_before_it() -> None:
    """X7. Every way through the table there is; nothing follows what is over."""
    found = list(walks((Phase.OPENING,)))
    for walked in found:
        assert len(set(walked)) == len(walked), walked
        if Phase.READY in walked:
            assert list(walked[: len(UP)]) == UP, walked
        if Phase.DRAINING in walked:
            assert walked[walked.index(Phase.DRAINING) - 1] is Phase.READY, walked
        for over in OVER:
            if over in walked:
                assert set(walked[walked.index(over) :]) <= set(OVER), walked
    assert any(Phase.DRAINING in walked for walked in found)


@pytest.mark.parametrize("phase", Phase)
def test_a_life_refuses_what_the_table_does_not_know(phase: Phase) -> None:
    """X7. It stays where it is."""
    life = Life(SystemClock())
    life.phase = phase
    for follower in set(Phase) - NEXT[phase]:
        with pytest.raises(RuntimeError):
            life.move(follower)
    assert life.phase is phase


def test_every_phase_can_fail_or_close_and_has_a_place_in_the_table() -> None:
    """X7. Nobody is caught in a phase."""
    assert set(NEXT) == set(Phase)
    for phase in Phase:
        assert phase in OVER or Phase.FAILED in NEXT[phase]
        assert phase is Phase.CLOSED or {Phase.CLOSED, Phase.DRAINING} & NEXT[phase]


def test_the_first_reason_of_a_failure_stays() -> None:
    """X7. What fails afterwards, because of it, does not hide it."""
    life = Life(SystemClock())
    life.fail(ValueError("first"))
    life.fail(ValueError("second"))
    assert str(life.failure) == "first" and life.phase is Phase.FAILED


@pytest.mark.parametrize(
    ("part", "clean"), [("identities", True), ("ledger", False)], ids=["restored", "rescued"]
)
def test_a_start_is_clean_if_nobody_had_to_be_rescued(part: str, clean: bool) -> None:
    """X8. Bringing back an index is no sign of a crash; taking over work is."""
    plan = Plan((Step(part, "do", count=3),))
    report = Report.of(plan, {part: {"done": 3}}, frozenset({"ledger"}))
    assert report.clean is clean
    assert plain(report) == {
        "clean": clean,
        "steps": [{"part": part, "what": "do", "name": "", "count": 3}],
        "parts": {part: {"done": 3}},
    }
    assert plan.count == 3 and plan.of("other") == ()
