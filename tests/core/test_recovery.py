"""The table of phases, and recovery as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import SystemClock
from holdfast.core.recovery import NEXT, Phase, Plan, Report, Step, plain
from holdfast.runtime.health import Life

UP = list(Phase)[: list(Phase).index(Phase.READY) + 1]
OVER = (Phase.CLOSED, Phase.FAILED)


@given(st.lists(st.sampled_from(Phase), max_size=30))
def test_a_life_follows_the_table_whatever_is_asked_of_it(wanted: list[Phase]) -> None:
    """X7. Ready only after every phase before it, never again once it was left."""
    life, walked = Life(SystemClock()), [Phase.OPENING]
    for phase in wanted:
        if phase in NEXT[life.phase]:
            life.move(phase)
            walked.append(phase)
        else:
            with pytest.raises(RuntimeError):
                life.move(phase)
        assert life.phase is walked[-1]
    assert len(set(walked)) == len(walked)
    if Phase.READY in walked:
        assert walked[: len(UP)] == UP
    if Phase.DRAINING in walked:
        assert walked[walked.index(Phase.DRAINING) - 1] is Phase.READY
    for over in OVER:
        if over in walked:
            assert set(walked[walked.index(over) :]) <= set(OVER)


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
