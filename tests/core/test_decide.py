"""
The rules by property: whatever the units and however they are cut into batches, the answers and
the effects are those of the plain oracle, unit by unit. No store, no clock.
"""

from copy import deepcopy
from itertools import count, pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import StoreTime
from holdfast.core.commit import Decision, Moment, State, decide, needs
from holdfast.core.event import Event, EventRow, Head, first_damage, fresh_head
from holdfast.core.unit import Append, LeaseRow, PutBlob, RecordRow, Unit
from holdfast.testing.oracle import Oracle, agrees
from tests.core.units import ME, events, units

NOW = StoreTime("domain", 1_000.0)
LATER = StoreTime("domain", 2_000.0)
programs = st.lists(units, max_size=25)
cuts = st.sets(st.integers(1, 24))


class Tables:
    """What a store keeps of decisions, as dictionaries."""

    def __init__(self, *, exact_positions: bool = False) -> None:
        self.exact_positions = exact_positions
        self.positions = count(1)
        self.rows: list[EventRow] = []
        self.heads: dict[str, Head] = {}
        self.records: dict[object, RecordRow] = {}
        self.leases: dict[str, LeaseRow] = {}
        self.blobs: dict[bytes, PutBlob] = {}
        self.answers: list[object] = []

    def commit(self, batch: list[Unit], now: StoreTime) -> Decision:
        """Decide a batch on what it needs and nothing else, and keep the effects."""
        wanted = needs(batch)
        state = State(
            {name: self.heads.get(name) for name in wanted.streams},
            {key: self.records.get(key) for key in wanted.records},
            {key: self.leases.get(key) for key in wanted.leases},
            {place: digest for place in wanted.anchors if (digest := self.digest(*place))},
        )
        before = deepcopy(state)
        taken = self.positions
        if self.exact_positions:
            taken = iter([next(self.positions) for _ in range(wanted.positions)])
        decision = decide(batch, state, Moment(5.0, now, ME), taken)
        assert state == before, "deciding changed what was loaded"
        self.rows += decision.events
        self.heads |= decision.heads
        self.records |= decision.records
        self.leases |= decision.leases
        for digest, blob in decision.blobs.items():
            self.blobs.pop(digest, None)
            if blob is not None:
                self.blobs[digest] = blob
        self.answers += decision.answers
        return decision

    def digest(self, stream: str, sequence: int) -> bytes | None:
        head = self.heads.get(stream)
        found = [r for r in self.rows if head and (r.origin, r.sequence) == (head.origin, sequence)]
        return found[0].digest if found else None

    def content(self) -> object:
        return self.rows, self.heads, self.records, self.leases, self.blobs


def run(program: list[Unit], cut: set[int], *, exact_positions: bool = False) -> Tables:
    """Run a program in batches; half-way, short leases end."""
    tables = Tables(exact_positions=exact_positions)
    half = len(program) // 2
    edges = sorted({0, half, len(program)} | {at for at in cut if at < len(program)})
    for start, end in pairwise(edges):
        tables.commit(program[start:end], NOW if end <= half else LATER)
    return tables


@given(programs, cuts)
def test_however_units_are_batched_the_answers_and_rows_are_the_same(
    program: list[Unit], cut: set[int]
) -> None:
    """X16. One by one, all at once, or cut anywhere: equal to the last digest."""
    one_by_one = run(program, set(range(1, 25)))
    for tables in (run(program, cut), run(program, set())):
        assert tables.content() == one_by_one.content()
        assert [str(a) for a in tables.answers] == [str(a) for a in one_by_one.answers]


@given(programs, cuts)
def test_the_rules_say_what_the_oracle_says(program: list[Unit], cut: set[int]) -> None:
    """X16, L6. Answers and content; positions are taken from no more than were asked for."""
    tables = run(program, cut, exact_positions=True)
    oracle = Oracle(NOW, ME)
    for number, unit in enumerate(program):
        if number == len(program) // 2:
            oracle.now = LATER
        expected = oracle.apply(unit)
        assert agrees(tables.answers[number], expected), (number, expected, tables.answers[number])
    state = oracle.state
    ends = {
        name: (len(line.events), line.trimmed + 1, line.closed)
        for name, line in state.streams.items()
    }
    found = {h.name: (h.last_sequence, h.first_sequence, h.closed) for h in tables.heads.values()}
    assert found == ends
    assert {key: (r.version, r.tag, r.value) for key, r in tables.records.items()} == state.records
    held = {
        r.key: (r.generation, r.incarnation, r.holder, (r.domain, r.expires_at))
        for r in tables.leases.values()
    }
    assert held == state.leases
    assert tables.blobs == state.blobs


@given(programs, cuts)
def test_chains_are_whole_and_positions_grow(program: list[Unit], cut: set[int]) -> None:
    """X3, A4. Every stream is a chain from its anchor to its head, also where it was trimmed."""
    tables = run(program, cut, exact_positions=True)
    positions = [row.position for row in tables.rows]
    assert positions == sorted(set(positions))
    for head in tables.heads.values():
        rows = [row for row in tables.rows if row.origin == head.origin]
        anchor = fresh_head(head.name, head.origin).anchor
        assert first_damage(head.name, rows, 0, anchor) is None
        assert head.last_digest == (rows[-1].digest if rows else anchor)
        kept = rows[head.first_sequence - 1 :]
        assert first_damage(head.name, kept, head.first_sequence - 1, head.anchor) is None


@given(st.lists(st.lists(events, min_size=1).map(tuple), min_size=1, max_size=4), st.data())
def test_a_chain_shows_any_changed_field(
    parts: list[tuple[Event, ...]], data: st.DataObject
) -> None:
    """X3. No stored field of an event can differ without its digest saying so."""
    tables = Tables()
    tables.commit([Unit((Append("ab"[n % 2], part),)) for n, part in enumerate(parts)], NOW)
    row = data.draw(st.sampled_from(tables.rows))
    name = data.draw(st.sampled_from(row.__struct_fields__))
    old = getattr(row, name)
    new = {int: 1 << 40, float: -1.0, str: "z", bytes: b"z", type(None): b""}[type(old)]
    at = next(i for i, other in enumerate(tables.rows) if other is row)
    changed = [*tables.rows]
    changed[at] = msgspec.structs.replace(row, **{name: new})
    damages = []
    for head in tables.heads.values():
        rows = [r for r in changed if r.origin == head.origin]
        anchor = fresh_head(head.name, head.origin).anchor
        damages.append(first_damage(head.name, rows, 0, anchor))
        damages.append(len(rows) != head.last_sequence or None)
    assert any(damages)
