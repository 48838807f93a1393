"""
The judge: what clients, model and killer saw, against what the gateway says afterwards.

It looks from outside. Nothing here opens the store; a promise is broken if those who talked to
the gateway can tell.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from examples.gateway.client import Attempt, Conversation
from examples.gateway.model import FRAGILE, Call

LATE = 0.5
"""Seconds a flush may take, on a machine that does other things as well."""


class Evidence(NamedTuple):
    """
    What came out of one run.

    Attributes:
        script: who wanted to say what.
        attempts: what clients sent and got, in order.
        calls: what the model was asked, in order.
        reported: session and generation of what recoveries reported as interrupted.
        kills: when the gateway was killed.
        sessions: what the gateway remembers of each conversation, by key.
        known: what came back at the end for each conversation and each way to be known.
        flush_interval: seconds of buffered state that a crash may cost.
    """

    script: Sequence[Conversation]
    attempts: Sequence[Attempt]
    calls: Sequence[Call]
    reported: Sequence[tuple[str, int]]
    kills: Sequence[float]
    sessions: dict[str, dict[str, Any]]
    known: dict[int, list[Attempt]]
    flush_interval: float

    def of(self, conversation: Conversation) -> dict[str, Any]:
        """Return what is remembered of a conversation; nothing if there is nothing."""
        keys = sorted(self.keys(conversation))
        return self.sessions.get(keys[0], {}) if keys else {}

    def keys(self, conversation: Conversation) -> set[str]:
        """Return the keys that clients were told for a conversation."""
        return {
            attempt.answer["session"]
            for attempt in [*self.attempts, *self.known[conversation.number]]
            if attempt.conversation == conversation.number and attempt.status == 200
        }

    def broken(self, conversation: Conversation) -> int:
        """Return how many attempts of a conversation broke."""
        return sum(
            each.broken and each.conversation == conversation.number for each in self.attempts
        )


def judge(run: Evidence, quiet: Evidence) -> list[str]:
    """
    Return which promises are broken, in words.

    Args:
        run: the run with kills.
        quiet: a run of the same script without any.
    """
    return [
        *nothing_acknowledged_is_lost(run),
        *totals_are_equal(run, quiet),
        *every_name_finds_its_session(run),
        *no_turn_ran_twice(run),
        *the_breaker_stays_open(run),
        *the_interrupted_are_reported(run),
    ]


def nothing_acknowledged_is_lost(run: Evidence) -> Iterator[str]:
    """Every answer that a client was given is in the transcript, once, as it was given."""
    kept = [turn for chat in run.sessions.values() for turn in chat["transcript"]]
    times = Counter(turn["turn"] for turn in kept)
    answers = {turn["turn"]: turn["answer"] for turn in kept}
    for attempt in run.attempts:
        if attempt.status == 200 and answers.get(attempt.turn) != attempt.answer["answer"]:
            yield f"{attempt.turn} was answered and is not in the transcript like that"
    yield from (f"{turn} is there {count} times" for turn, count in times.items() if count > 1)


def totals_are_equal(run: Evidence, quiet: Evidence) -> Iterator[str]:
    """Durable state is that of a quiet run; buffered state lacks one flush interval at most."""
    for conversation in run.script:
        ours, theirs = run.of(conversation), quiet.of(conversation)
        if conversation.model == FRAGILE:
            continue
        name = f"conversation {conversation.number}"
        if not ours:
            yield f"{name} is forgotten"
            continue
        if _said(ours) != _said(theirs) or ours["turns"] != theirs["turns"]:
            yield f"{name}: {ours['turns']} turns, not the {theirs['turns']} of a quiet run"
        costs = {turn["turn"]: turn["cost"] for turn in theirs["transcript"]}
        paid = sum(costs.values())
        if (theirs["cost"], theirs["warm"]) != (paid, theirs["turns"]):
            yield f"{name}: a quiet run that ended in good order lost buffered state"
        lost, bound = paid - ours["cost"], _at_risk(run, costs)
        if not 0 <= lost <= bound:
            yield f"{name}: {lost} of {paid} micro-dollars lost, at most {bound} may be"
        averages = ours["input_tokens"], ours["output_tokens"]
        if None in averages and averages != (None, None):
            yield f"{name}: half a calibration came back: {averages}"
        elif averages[0] is not None and averages[1] != 2 * averages[0]:
            yield f"{name}: the calibration is of two moments: {averages}"
        if ours["warm"] > ours["turns"]:
            yield f"{name}: {ours['warm']} messages are warm of {ours['turns']}"


def every_name_finds_its_session(run: Evidence) -> Iterator[str]:
    """A conversation is one session under all its names; conversations stay apart."""
    owners: dict[str, int] = {}
    for conversation in run.script:
        keys, name = run.keys(conversation), f"conversation {conversation.number}"
        if len(keys) > 1 or (not keys and conversation.model != FRAGILE):
            yield f"{name} is {len(keys)} sessions"
        for key in keys:
            if owners.setdefault(key, conversation.number) != conversation.number:
                yield f"{name} was merged with conversation {owners[key]}"
        *named, nameless = run.known[conversation.number]
        if conversation.twin and nameless.answer.get("code") != "ambiguous_identity":
            yield f"{name} begins like another and was taken for it: {nameless.answer}"
        for attempt in named if conversation.twin else [*named, nameless]:
            if conversation.model != FRAGILE and not attempt.answer.get("replayed"):
                yield f"{name} was not found again by a name: {attempt.answer}"
    if len(run.sessions) != len(run.script):
        yield f"{len(run.sessions)} sessions for {len(run.script)} conversations"


def no_turn_ran_twice(run: Evidence) -> Iterator[str]:
    """The model hears of a turn again only if an earlier attempt broke, never as the same."""
    broken = Counter(attempt.turn for attempt in run.attempts if attempt.broken)
    for turn, count in Counter(call.turn for call in run.calls).items():
        if count > 1 + broken[turn]:
            yield f"{turn} ran {count} times and broke {broken[turn]} times"
    for call, count in Counter(run.calls).items():
        if count > 1:
            yield f"{call} was made {count} times"


def the_breaker_stays_open(run: Evidence) -> Iterator[str]:
    """A model that fails is asked once, unless a kill came between the question and the latch."""
    for conversation in run.script:
        if conversation.model == FRAGILE:
            asked = sum(call.turn in conversation.turns for call in run.calls)
            broken = run.broken(conversation)
            if not 0 < asked <= 1 + broken:
                yield f"a model that fails was asked {asked} times, {broken} attempts broke"


def the_interrupted_are_reported(run: Evidence) -> Iterator[str]:
    """What the model was asked and nobody was told is reported; nothing else is."""
    ended = {
        (key, turn["generation"])
        for key, chat in run.sessions.items()
        for turn in chat["transcript"]
    }
    reported = set(run.reported)
    fragile = {turn for each in run.script if each.model == FRAGILE for turn in each.turns}
    for call in run.calls:
        name = (call.session, call.generation)
        if name not in ended | reported and call.turn not in fragile:
            yield f"{call} was interrupted and not reported"
    yield from (f"{name} was reported and is in the transcript" for name in ended & reported)
    for conversation in run.script:
        broken = run.broken(conversation)
        keys = run.keys(conversation)
        told = sum(key in keys for key, _ in reported)
        if told > broken:
            yield f"conversation {conversation.number}: {told} reported, {broken} broke"


def _said(chat: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["turn"], turn["answer"]) for turn in chat["transcript"]]


def _at_risk(run: Evidence, costs: dict[str, int]) -> int:
    """Return the cost of turns that may have been committed within an interval before a kill."""
    reach = run.flush_interval + LATE
    risky = {
        attempt.turn
        for attempt in run.attempts
        for killed_at in run.kills
        if attempt.sent_at <= killed_at <= attempt.ended_at + reach
    }
    return sum(cost for turn, cost in costs.items() if turn in risky)
