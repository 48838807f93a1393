"""
The rules of runs, tried with every order of events that they allow.

The view is compared with an oracle that knows nothing of folds: it is told in plain words what
each event does, and keeps a dictionary.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import DecodeError, InvalidValueError
from holdfast.core.journal import (
    EVENTS,
    Answered,
    Cancelling,
    ChildEnded,
    Dispatched,
    Diverged,
    Failed,
    Failure,
    Pausing,
    Payload,
    Queued,
    Received,
    Resumed,
    SignalReceived,
    Started,
    StepResolved,
    StepSucceeded,
    Succeeded,
    TimerFired,
    Waiting,
    encode_said,
    read_payload,
)
from holdfast.core.refusal import RunStateError
from holdfast.core.run import (
    ARRIVALS,
    CHANGES,
    TERMINAL,
    Retry,
    RunView,
    Status,
    arrive,
    begun,
    check_change,
    decode_view,
    encode_view,
    fold,
    wait_ended_by,
)

NONE = msgspec.Raw(b"\xc0")
STARTED = Started("f", "1", 1.0, "seed", labels={"a": "b"}, queue="q", priority=3)
SAMPLES: dict[str, Payload] = {
    "run.dispatched": Dispatched(1, 2.0, "r"),
    "artifact.received": Received(1, "r!1", "name", b"d" * 32, 3, "text/plain", 3.0),
    "run.waiting": Waiting(["question:a?1", "timer:1"], 3.0),
    "run.diverged": Diverged(3.0, "step a#1", "step b#1"),
    "run.queued": Queued(4.0, "timer:1"),
    "run.paused": Pausing(5.0, "why", "ann"),
    "run.resumed": Resumed(6.0, "bob"),
    "run.cancelling": Cancelling(7.0, "after_step", "enough", "ann"),
    "run.succeeded": Succeeded(8.0, msgspec.Raw(b"\x01")),
    "run.failed": Failed(8.0, Failure("ValueError")),
    "run.cancelled": Pausing(8.0, "enough", "ann"),
    "run.pausing": Pausing(3.0, "later", "ann"),
    "question.answered": Answered(1, "a?1", NONE, 3.0),
    "question.expired": Answered(1, "a?1", NONE, 3.0),
    "timer.fired": TimerFired("timer:1", 3.0),
    "signal.received": SignalReceived("word", NONE, 3.0),
    "child.ended": ChildEnded("a/1", "succeeded", 3.0),
    "step.resolved": StepResolved("post", 1, "done", 3.0),
    "step.succeeded": StepSucceeded("a", 1, 2.0, 3.0),
}
# Said once more in other words: from where an event may come, and where it leads.
ORACLE = """
queued     run.dispatched running
running    run.dispatched running
cancelling run.dispatched cancelling
running    run.waiting    waiting
running    run.diverged   waiting
waiting    run.queued     queued
running    run.queued     queued
running    run.paused     paused
queued     run.paused     paused
waiting    run.paused     paused
paused     run.resumed    queued
waiting    run.resumed    queued
running    run.cancelling cancelling
running    run.succeeded  succeeded
running    run.failed     failed
queued     run.cancelled  cancelled
waiting    run.cancelled  cancelled
paused     run.cancelled  cancelled
cancelling run.cancelled  cancelled
"""
TABLE = {(a, b): c for a, b, c in (line.split() for line in ORACLE.strip().splitlines())}


def told(types: list[str]) -> dict[str, Any] | None:
    """Return what a run is after these events, or None if one of them must not be."""
    run: dict[str, Any] = {"status": "queued", "inbox": 0, "attempt": 0, "waits": [], "mark": None}
    for type in types:
        if type in ARRIVALS:
            run["inbox"] += 1
        elif type != "step.succeeded":
            if (run["status"], type) not in TABLE:
                return None
            run["status"] = TABLE[run["status"], type]
            if type == "run.dispatched":
                run["attempt"] = 1
            run["waits"] = {
                "run.waiting": ["question:a?1", "timer:1"],
                "run.diverged": ["diverged:step b#1"],
            }.get(type, [])
    return run


@given(st.lists(st.sampled_from(sorted(SAMPLES)), max_size=12))
def test_the_view_is_what_was_told(types: list[str]) -> None:
    """A1. Every order of events: the fold says what the oracle says, or refuses where it does."""
    view = begun(STARTED)
    expected = told(types)
    try:
        for type in types:
            view = fold(view, type, SAMPLES[type])
    except RuntimeError:
        assert expected is None
        return
    assert expected is not None
    found = {name: getattr(view, name) for name in expected}
    assert found == {**expected, "status": Status(expected["status"])}
    assert decode_view(encode_view(view)) == view


def legal(view: RunView) -> list[str]:
    """Return the events that may follow."""
    changes = [type for type, table in CHANGES.items() if view.status in table]
    return changes if view.is_terminal else [*changes, *sorted(ARRIVALS), "step.succeeded"]


@given(st.data())
def test_whatever_is_allowed_keeps_the_rules(data: st.DataObject) -> None:
    """A7, A16. Along any allowed history: waits only while waiting, terminal is final."""
    view = begun(STARTED)
    for _ in range(12):
        if not (types := legal(view)):
            break
        type = data.draw(st.sampled_from(types))
        after = fold(view, type, SAMPLES[type])
        assert bool(after.waits) == (after.status is Status.WAITING)
        assert bool(after.ended) == after.is_terminal
        assert (after.status in (Status.CANCELLING,)) <= bool(after.mode)
        assert after.inbox == view.inbox + (type in ARRIVALS)
        assert (after.function, after.labels, after.queue) == ("f", {"a": "b"}, "q")
        view = after
    if view.is_terminal:
        for type in CHANGES:
            with pytest.raises(RuntimeError):
                fold(view, type, SAMPLES[type])
            with pytest.raises(RunStateError) as refused:
                check_change("r", view, type, "changed")
            assert refused.value.fields()["state"] == view.status.value


def test_every_status_can_be_left_but_the_terminal_ones() -> None:
    """A7. The table is the oracle's; it has no dead ends and no way out of an end."""
    table = {(a.value, type): b.value for type, to in CHANGES.items() for a, b in to.items()}
    assert table == TABLE
    left = {status for table in CHANGES.values() for status in table}
    reached = {status for table in CHANGES.values() for status in table.values()}
    assert left == set(Status) - TERMINAL
    assert reached == set(Status)


@pytest.mark.parametrize("type", sorted(ARRIVALS))
def test_what_arrives_ends_the_wait_for_it_and_no_other(type: str) -> None:
    """A10. Who waits for just this is queued in the same unit; anybody else stays as they are."""
    said = SAMPLES[type]
    wait = wait_ended_by(type, said)
    running = fold(begun(STARTED), "run.dispatched", SAMPLES["run.dispatched"])
    for waits in (["timer:99"], [wait] if wait else ["timer:98"]):
        view = fold(running, "run.waiting", Waiting(waits, 3.0))
        events, after = arrive(view, type, said, 9.0)
        ends = wait in waits
        assert [one for one, _ in events] == [type, *(["run.queued"] if ends else [])]
        assert after.status is (Status.QUEUED if ends else Status.WAITING)
    events, after = arrive(running, type, said, 9.0)
    assert (len(events), after.status, after.inbox) == (1, Status.RUNNING, 1)


@pytest.mark.parametrize("type", sorted(SAMPLES))
def test_a_payload_is_read_back_as_it_was_written(type: str) -> None:
    """X3. Also by name, so that others can read a journal."""
    said = SAMPLES[type]
    again = read_payload(type, encode_said(said))
    assert encode_said(again) == encode_said(said)
    assert isinstance(msgspec.msgpack.decode(encode_said(said)), dict)


def test_what_is_no_event_of_a_journal_is_an_error() -> None:
    """X3. Unknown types and other shapes are not skipped."""
    assert set(SAMPLES) <= set(EVENTS)
    for type, payload in (("run.unheard", b"\x80"), ("run.dispatched", b"\x01"), ("x", b"")):
        with pytest.raises(DecodeError):
            read_payload(type, payload)


@given(
    st.builds(
        Retry,
        attempts=st.integers(1, 9),
        backoff=st.floats(0, 100),
        factor=st.floats(1, 10),
        longest=st.floats(0, 1000),
        jitter=st.floats(0, 1),
    ),
    st.integers(1, 10_000),
    st.floats(0, 1),
)
def test_a_pause_is_within_its_bounds(retry: Retry, attempt: int, chance: float) -> None:
    """A3. However many attempts, whatever the chance."""
    pause = retry.pause(attempt, chance)
    assert 0 <= pause <= retry.longest * (1 + retry.jitter) + 1e-6


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"backoff": -1}, {"factor": 0.5}, {"jitter": 2}, {"longest": -1}]
)
def test_a_retry_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    """C4. When it is made, not when a step fails."""
    with pytest.raises(InvalidValueError):
        Retry(**wrong)
