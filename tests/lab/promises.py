"""
What a store has to hold after the program of `tests.lab.nouns`, by what that noted.

Each entry of the ledger is followed as a set of rows that may be there: what was tried may have
happened, what was answered did. Whatever a dead runtime left in flight has, once a runtime is
ready, the one state that follows from its terms; the table for that is written down here once
more, so that a mistake in the rules of the product shows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from holdfast import ASK, REPORT, RESUME, EntryState, Runtime
from holdfast.runtime.work.rescue import RESCUES
from tests.lab.nouns import DESK, DESK_NAME, LATCHED, MAILS, REACHED, SCOPE, TERMS, Talk

RUNNING, HALTING, NOTHING = "running", "running, asked to stop", "nothing"
_BY_POLICY: Final = {RESUME: "resumable", ASK: "asking", REPORT: "interrupted"}
_AT_REST: Final = ("settled", "interrupted", "suspended", "asking", "stopped", "expired")


class Row(NamedTuple):
    """What an entry may be."""

    generation: int = 0
    attempt: int = 0
    state: str = NOTHING


def left_behind(key: str, row: Row) -> Row:
    """Return what becomes of an entry whose runtime died."""
    terms = TERMS[key]
    if row.state == HALTING:
        return row._replace(state="stopped")
    if row.state != RUNNING:
        return row
    if key in ("suspend", "stale"):
        return row._replace(state={"suspend": "suspended", "stale": "expired"}[key])
    if row.attempt >= terms.attempts:
        return row._replace(state="quarantined")
    return row._replace(state=_BY_POLICY[terms.policy])


def _begun(row: Row) -> Row | None:
    if row.state in (NOTHING, *_AT_REST):
        return Row(row.generation + 1, 1, RUNNING)
    return None


def _claimed(row: Row) -> Row | None:
    if row.state == "resumable":
        return Row(row.generation + 1, row.attempt + 1, RUNNING)
    return None


def _settled(row: Row) -> Row | None:
    return row._replace(state="settled") if row.state in (RUNNING, HALTING) else None


def _stopped(row: Row) -> Row | None:
    return row._replace(state=HALTING) if row.state == RUNNING else None


def _resolved(row: Row) -> Row | None:
    return row._replace(state="settled") if row.state == "quarantined" else None


_OPS: Final[dict[str, Callable[[Row], Row | None]]] = {
    "begin": _begun,
    "claim": _claimed,
    "settle": _settled,
    "stop": _stopped,
    "resolve": _resolved,
}


class Told:
    """What follows from the notes of all lives, in order."""

    def __init__(self, notes: Iterable[Sequence[Any]]) -> None:
        self.rows: dict[str, set[Row]] = {key: {Row()} for key in TERMS}
        self.keys: dict[str, str] = {}
        self.tried: set[str] = set()
        self.said: dict[str, list[int]] = {}
        self.last: dict[str, list[int]] = {}
        self.latch: set[bool] = {False}
        self._after: dict[str, set[Row]] = {}
        for op, *rest in notes:
            getattr(self, f"_note_{op}", self._note_entry)(op, *rest)
        self._note_ready("ready")

    def _note_ready(self, _: str) -> None:
        for key, rows in self.rows.items():
            self.rows[key] = {left_behind(key, row) for row in rows}

    def _note_entry(self, op: str, phase: str, key: str, *handed_out: int) -> None:
        if phase == "try":
            after = {after for row in self.rows[key] if (after := _OPS[op](row))}
            self._after[key] = after
            self.rows[key] |= after
            return
        sure = self._after[key]
        if handed_out:
            sure = {row for row in sure if (row.generation, row.attempt) == handed_out}
        assert sure, f"{op} of {key!r} was answered with {handed_out}, may be {self._after[key]}"
        self.rows[key] = sure

    def _note_uncertain(self, _: str, key: str) -> None:
        assert key in TERMS

    def _note_reach(self, _: str, phase: str, name: str, *key: str) -> None:
        self.tried.add(name)
        if phase == "done":
            known = self.keys.setdefault(name, key[0])
            assert known == key[0], f"{name} led to {known}, then to {key[0]}"

    def _note_edit(self, _: str, phase: str, name: str, said: int, last: int = 0) -> None:
        self.tried.add(name)
        low_high = self.said.setdefault(name, [0, 0])
        low_high[phase == "try"] = said
        if phase == "try":
            kept = self.last.setdefault(name, [0, 0])
            kept[1] = max(kept[1], last)

    def _note_flush(self, _: str, phase: str, name: str, last: int) -> None:
        self.last[name][0] = last

    def _note_latch(self, _: str, phase: str, is_set: bool) -> None:
        self.latch = {is_set} if phase == "done" else self.latch | {is_set}


async def invariant(rt: Runtime, acknowledged: list[Any]) -> None:
    """Hold a store that was opened again against the notes of the program."""
    told = Told(acknowledged)
    await _sessions(rt, told)
    await _entries(rt, told)
    await _effects(rt)
    await _reports(rt)
    latch = await rt.latches.find(SCOPE, LATCHED)
    assert (latch is not None) in told.latch, f"the latch is {latch}, may be {told.latch}"


async def _sessions(rt: Runtime, told: Told) -> None:
    """L1, L2, L6, L7. Each identity leads to its one session, and that is whole."""
    listed = {info.key[0] for info in await rt.sessions.list(Talk)}
    assert len(listed) <= len(told.tried), f"{len(listed)} sessions of {sorted(told.tried)}"
    for name, identities in [*REACHED.items(), (DESK, (DESK_NAME,))]:
        found = {(await rt.sessions.find(Talk, [one])).candidates for one in identities}
        assert len(found) == 1, f"the identities of {name} lead to different sessions: {found}"
        (candidates,) = found
        known = told.keys.get(name)
        if known is None:
            assert len(candidates) <= (name in told.tried), f"{name} leads to {candidates}"
        else:
            assert candidates == ((known,),), f"{name} was {known}, leads to {candidates}"
        for key in candidates:
            async with rt.session(Talk, key) as talk:
                _is_whole(name, talk.value, told)


def _is_whole(name: str, talk: Talk, told: Told) -> None:
    low, high = told.said.get(name, (0, 0))
    assert low <= talk.said <= max(low, high), f"{name} said {talk.said}, not {low} to {high}"
    assert talk.left == talk.right == talk.said, f"{name}: a group of two moments: {talk}"
    low, high = told.last.get(name, (0, 0))
    assert low <= talk.last <= high, f"{name} is of flush {talk.last}, not {low} to {high}"
    moments = {talk.last, talk.low, talk.high, talk.tokens / 3}
    assert len(moments) == 1, f"{name}: a flush of several moments: {talk}"


async def _entries(rt: Runtime, told: Told) -> None:
    """H1, H3, H5, H7, H8, H9. Exactly what was in flight is listed, each in its one state."""
    listed = {info.key[0]: info for info in await rt.ledger.list()}
    assert listed.keys() <= told.rows.keys(), f"nobody began {listed.keys() - told.rows.keys()}"
    for key, rows in told.rows.items():
        found = Row()
        if key in listed:
            info = listed[key]
            found = Row(info.generation, info.attempt, info.state.value)
        assert found in rows, f"entry {key!r} is {found}, may be {rows}"
    crashed = {info.key[0] for info in await rt.ledger.interrupted()}
    at_rest = (EntryState.SETTLED, EntryState.RUNNING)
    assert crashed == {key for key, info in listed.items() if info.state not in at_rest}
    desk = listed.get("resume")
    if desk is not None and isinstance(desk.outcome, int):
        async with rt.session(Talk, DESK) as talk:
            assert talk.value.said == desk.outcome, "settled, and the session does not say so"


async def _effects(rt: Runtime) -> None:
    """H12. No effect was repeated."""
    sent = [event.data for event in await rt.history(MAILS).read()]
    assert len(sent) == len(set(sent)), f"an effect was repeated: {sent}"


async def _reports(rt: Runtime) -> None:
    """X8. What a crash interrupted was reported once, with what became of it."""
    reported: Counter[tuple[str, int]] = Counter()
    states: dict[tuple[str, int], str] = {}
    for event in await rt.history(RESCUES).read():
        assert sum(event.data["rescued"].values()) == len(event.data["entries"])
        reported.update((key[0], generation) for key, generation, _ in event.data["entries"])
        states |= {(key[0], number): state for key, number, state in event.data["entries"]}
    assert set(reported.values()) <= {1}, f"reported more than once: {reported}"
    for info in await rt.ledger.interrupted():
        said = states.get((info.key[0], info.generation))
        assert said == info.state.value, f"{info.key} is {info.state.value}, reported as {said}"
    report = rt.health().report
    assert report is not None, "ready, and nothing is said of the recovery"
    for key, generation, state in report.parts["ledger"]["entries"]:
        assert states[key[0], generation] == state, f"{key} is reported twice and differently"
