"""
The judge: what clients were told, against an uninterrupted run and against the audit.

The uninterrupted run is of the same requests, on another store, in this process, and makes no
snapshot. So a decision that depends on a crash, a restore or a snapshot differs from it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from examples.broker.client import Asking, Attempt

TOLD: Final = ("decision", "rule", "reason", "exposed", "fired", "facts", "tier")
"""What a client is told of a request and depends on nothing but the requests before it."""


class Probe(NamedTuple):
    """
    What a broker said of itself while half of its sessions were back, and afterwards.

    Attributes:
        before: status and body of `/readyz`.
        healthz: status of `/healthz` at that time.
        touching: statuses and codes of what touches sessions, at that time.
        after: status of `/readyz` at the end of the restore; None if it was killed before.
    """

    before: tuple[int, dict[str, Any]]
    healthz: int
    touching: list[tuple[int, str]]
    after: int | None


class Quiet(NamedTuple):
    """
    An uninterrupted run.

    Attributes:
        answers: what each request was told, by id; of one that failed, its code.
        sessions: what each session has seen in the end, with the digest of its facts.
    """

    answers: Mapping[str, dict[str, Any]]
    sessions: Mapping[str, dict[str, Any]]


class Evidence(NamedTuple):
    """
    What came out of a run with kills.

    Attributes:
        said: what was asked, session by session.
        attempts: what clients sent and were told.
        again: the same for requests that were sent once more in the end.
        sessions: what the last broker said of each session.
        restored: the same, after the store was opened by another process.
        audit: data of the events of the audit stream, in order.
        journals: ids of the requests in the journal of each session, as far as it is kept.
        rebased: how often a memory went on from a snapshot, as far as journals are kept.
        probes: what brokers said of themselves while they came back.
        damaged: what verifying the store found.
    """

    said: Sequence[Sequence[Asking]]
    attempts: Sequence[Attempt]
    again: Sequence[Attempt]
    sessions: Mapping[str, dict[str, Any]]
    restored: Mapping[str, dict[str, Any]]
    audit: Sequence[dict[str, Any]]
    journals: Mapping[str, Sequence[str]]
    rebased: int
    probes: Sequence[Probe]
    damaged: Sequence[str]


def judge(run: Evidence, quiet: Quiet) -> list[str]:
    """Return which promises are broken, in words."""
    return [
        *run.damaged,
        *answers_are_those_of_a_quiet_run(run, quiet),
        *what_was_answered_is_answered_again(run),
        *sessions_end_as_in_a_quiet_run(run, quiet),
        *the_audit_has_each_request_once(run),
        *the_exposure_is_the_fold_of_the_audit(run),
        *journals_have_each_request_once(run),
        *nobody_is_served_before_it_is_ready(run),
    ]


def answers_are_those_of_a_quiet_run(run: Evidence, quiet: Quiet) -> Iterator[str]:
    """Every request came to an end, and each answer it got is the one of a quiet run."""
    final = [attempt for attempt in run.attempts if attempt.final]
    ended = {attempt.asking.id for attempt in final}
    for asking in _all(run):
        if asking.id not in ended:
            yield f"{asking.id} was never answered"
    for attempt in final:
        expected = quiet.answers[attempt.asking.id]
        for name in _differing(attempt.answer, expected):
            ours, theirs = attempt.answer.get(name), expected.get(name)
            yield f"{attempt.asking.id}: {name} is {ours!r:.80}, in a quiet run {theirs!r:.80}"


def what_was_answered_is_answered_again(run: Evidence) -> Iterator[str]:
    """A request that comes again gets the answer of the first time, and is not done."""
    first = _answers(run)
    for attempt in run.again:
        told = first[attempt.asking.id]
        if any(True for _ in _differing(attempt.answer, told)):
            yield f"{attempt.asking.id} is answered otherwise when it comes again"
        if "decision" in told and attempt.answer.get("repeated") is not True:
            yield f"{attempt.asking.id} was done again"


def sessions_end_as_in_a_quiet_run(run: Evidence, quiet: Quiet) -> Iterator[str]:
    """What a session has seen is the same in a quiet run, here, and for whoever restores it."""
    for session, expected in quiet.sessions.items():
        for who, told in (("the broker", run.sessions), ("the store", run.restored)):
            if told.get(session) != expected:
                yield f"{session} of {who} is {told.get(session)}, in a quiet run {expected}"


def the_audit_has_each_request_once(run: Evidence) -> Iterator[str]:
    """Exactly one event for each request that was decided, in order, saying the same."""
    told = {id: answer for id, answer in _answers(run).items() if "decision" in answer}
    counts = Counter(event["id"] for event in run.audit)
    for id in told.keys() | counts.keys():
        if counts[id] != (id in told):
            yield f"{id} is in the audit {counts[id]} times"
    for session in run.said:
        asked = [asking.id for asking in session if asking.id in told]
        kept = [event["id"] for event in run.audit if event["key"] == [session[0].session]]
        if kept != asked:
            yield f"{session[0].session}: the audit has another order"
    for event in run.audit:
        answer = {**event["answer"], "facts": event["facts"].hex()}
        if any(told.get(event["id"], {}).get(name) != answer[name] for name in answer):
            yield f"{event['id']}: the audit says otherwise than the client was told"
        if event["fired"] != len(event["answer"]["fired"]):
            yield f"{event['id']}: the audit counts other rules than fired"


def the_exposure_is_the_fold_of_the_audit(run: Evidence) -> Iterator[str]:
    """Adding up what the audit says was exposed gives what the session has seen."""
    for session, told in run.sessions.items():
        fold: dict[str, int] = {}
        for event in run.audit:
            if event["key"] == [session]:
                fold |= event["answer"]["exposed"]
        if fold != told["exposure"] or sum(fold.values()) != told["seen"]:
            yield f"{session} has seen {told['seen']}, by the audit {sum(fold.values())}"


def journals_have_each_request_once(run: Evidence) -> Iterator[str]:
    """No request is in a journal twice."""
    for session, ids in run.journals.items():
        for id, count in Counter(ids).items():
            if count > 1:
                yield f"{session}: {id} is in the journal {count} times"


def nobody_is_served_before_it_is_ready(run: Evidence) -> Iterator[str]:
    """A broker that comes back says so, lives, and touches nothing; then it is ready."""
    if not any(probe.after for probe in run.probes):
        yield "nobody saw a broker come back"
    for probe in run.probes:
        status, body = probe.before
        done, total = body.get("progress", {}).get("sessions", (0, 0))
        if status != 503 or body.get("phase") != "restoring" or not body.get("reason"):
            yield f"/readyz of a broker that comes back says {status} {body}"
        if not 0 < done < total:
            yield f"/readyz of a broker that comes back has {done} of {total} sessions"
        if probe.healthz != 200:
            yield f"/healthz of a broker that comes back says {probe.healthz}"
        if set(probe.touching) != {(503, "not_ready")}:
            yield f"a broker that comes back answers {probe.touching}"
        if probe.after not in (200, None):
            yield f"/readyz of a broker that is back says {probe.after}"


def _all(run: Evidence) -> Iterator[Asking]:
    for session in run.said:
        yield from session


def _answers(run: Evidence) -> dict[str, dict[str, Any]]:
    return {each.asking.id: each.answer for each in run.attempts if each.final}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in (*TOLD, "code") if one.get(name) != other.get(name))
