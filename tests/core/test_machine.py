"""
Machines by rule and by property: what the table decides, what it refuses, how it draws itself.
"""

from typing import Any

import pydot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.context import Changes, Context, Derived, merged
from holdfast.core.errors import EncodeError, InvalidValueError
from holdfast.core.machine import Machine, Transition
from holdfast.core.refusal import InvalidMachineError, MergeConflictError, NoTransitionError

names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(st.text(max_size=3), plain, max_size=5)


def no_work(*_: object) -> None:
    """Do nothing."""


def line(*states: str, name: str = "line") -> Machine:
    """Return a machine that goes through states in order and ends in `done`."""
    machine = Machine(name, initial=states[0], final={"done"})
    for state, following in zip(states, [*states[1:], "done"], strict=True):
        machine.on(state, to=following)(no_work)
    return machine


def faults(machine: Machine) -> str:
    """Return what the machine says is wrong with it."""
    with pytest.raises(InvalidMachineError) as caught:
        machine.check()
    return "; ".join(caught.value.faults)


def test_the_first_way_that_fits_outcome_and_guard_is_taken() -> None:
    """R2."""
    machine = Machine("m", initial="a", final={"x", "y", "z"})
    many = Transition("y", "some", lambda ctx: len(ctx["found"]) > 1)
    machine.on("a", to=[many, Transition("x", "some"), Transition("z")])(no_work)
    machine.check()
    assert machine.next("a", "some", Context({"found": [1, 2]})) == "y"
    assert machine.next("a", "some", Context({"found": [1]})) == "x"
    assert machine.next("a", None, Context()) == "z"
    with pytest.raises(NoTransitionError, match="'other'"):
        machine.next("a", "other", Context())


@given(st.lists(st.tuples(st.sampled_from([None, "p", "q"]), st.booleans()), min_size=1), st.data())
def test_a_decision_is_that_of_reading_the_table_downwards(
    rows: list[tuple[str | None, bool]], data: st.DataObject
) -> None:
    """R2: whatever the table, the decision is the first row that fits, or a named refusal."""
    ways = [
        Transition(f"t{number}", outcome, lambda _, holds=holds: holds)
        for number, (outcome, holds) in enumerate(rows)
    ]
    machine = Machine("m", initial="a", final={way.to for way in ways})
    machine.on("a", to=ways)(no_work)
    outcome = data.draw(st.sampled_from([None, "p", "q"]))
    fits = [f"t{n}" for n, (when, holds) in enumerate(rows) if when == outcome and holds]
    if fits:
        assert machine.next("a", outcome, Context()) == fits[0]
    else:
        with pytest.raises(NoTransitionError):
            machine.next("a", outcome, Context())


def test_a_table_with_faults_is_refused_with_all_of_them() -> None:
    machine = Machine("m", initial="a", final={"done"})
    machine.on("a", to=["missing", "b"] and [Transition("missing"), Transition("b")])(no_work)
    machine.on("b", to="b")(no_work)
    machine.on("lonely", to="done")(no_work)
    told = faults(machine)
    assert "leads to 'missing', which is not declared" in told
    assert "the way to 'b' is never taken" in told
    assert "state 'lonely' cannot be reached" in told
    assert "from state 'b' no final state can be reached" in told
    with pytest.raises(InvalidMachineError, match="declared twice"):
        machine.on("a", to="done")(no_work)
    with pytest.raises(InvalidValueError, match="'/'"):
        machine.on("a/b", to="done")(no_work)
    assert "initial state 'b' is not declared" in faults(Machine("m", initial="b", final={"c"}))


def test_branches_lead_to_their_join_and_nowhere_else() -> None:
    """R6."""
    machine = Machine("m", initial="fork", final={"done"})
    machine.parallel("fork", ["left", "right"], join="join")
    machine.on("left", to="join")(no_work)
    machine.on("right", to="done")(no_work)
    machine.on("join", to="done")(no_work)
    told = faults(machine)
    assert "branch 'right' of 'fork' ends in 'done', not in its join" in told
    assert "branch 'right' of 'fork' never reaches 'join'" in told
    assert "'left'" not in told


def test_a_question_with_a_time_has_a_default_among_its_choices() -> None:
    machine = Machine("m", initial="a", final={"x", "y"})
    for options in ({"timeout": 5.0}, {"default": "yes"}, {"timeout": 5.0, "default": "maybe"}):
        with pytest.raises(InvalidValueError):
            machine.ask("a", "Go on?", to={"yes": "x", "no": "y"}, **options)  # type: ignore[arg-type]
    machine.ask("a", "Go on?", to={"yes": "x", "no": "y"}, timeout=5.0, default="no")
    machine.check()
    assert machine.next("a", "no", Context()) == "y"


def test_the_fingerprint_is_that_of_the_table() -> None:
    """A12: another table is told from the one a run was started with."""
    assert line("a", "b").fingerprint == line("a", "b").fingerprint
    others = [line("b", "a"), line("a"), line("a", "b", name="other"), line("a", "c")]
    assert len({machine.fingerprint for machine in [line("a", "b"), *others]}) == 5


@given(fields, fields)
def test_changes_lead_from_the_fields_before_to_those_after(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    """R8: exact for everything accepted, to the last bit."""
    context, wanted = Context(before), Context(after)
    changes = wanted.changed_since(context.encoded())
    context.apply(changes)
    assert context.encoded() == wanted.encoded()
    assert not set(changes.set) & set(changes.drop)


def test_a_copy_shares_nothing_and_what_cannot_be_stored_is_refused() -> None:
    """R8."""
    context = Context({"list": [1]})
    twin = context.copy()
    twin["list"].append(2)
    assert context["list"] == [1]
    for value in (object(), (1, 2), {1: 2}, {"deep": [{1}]}):
        context["field"] = value
        with pytest.raises(EncodeError, match=r"ctx\.field"):
            context.copy()


def test_a_derived_field_is_built_when_asked_and_anew_when_its_fields_change() -> None:
    """R8: a derived field is never stored."""
    built: list[int] = []

    def count(ctx: Context) -> int:
        built.append(len(ctx["words"]))
        return built[-1] + len(ctx.input)

    context = Context({"words": ["a"]}, input="xx", derived={"n": Derived("n", count, ("words",))})
    assert (context["n"], context["n"], built) == (3, 3, [1])
    context["other"] = 1
    twin = context.copy()
    twin["words"].append("b")
    assert (twin["n"], context["n"], built) == (4, 3, [1, 2])
    assert "n" not in context.changed_since({}).set
    context["n"] = 5
    with pytest.raises(InvalidValueError, match="derived"):
        context.encoded()


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1)), max_size=4))
def test_branches_merge_to_their_union_or_are_refused(parts: list[dict[str, int]]) -> None:
    """R6: branch results merge deterministically."""
    told = [(f"b{number}", Changes(part)) for number, part in enumerate(parts)]
    values: dict[str, set[int]] = {}
    for part in parts:
        for name, value in part.items():
            values.setdefault(name, set()).add(value)
    if any(len(found) > 1 for found in values.values()):
        with pytest.raises(MergeConflictError):
            merged(told)
    else:
        union = {name: min(found) for name, found in values.items()}
        assert merged(told) == merged(told[::-1]) == Changes(dict(sorted(union.items())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pydot calls old names of pyparsing.
@settings(max_examples=40, deadline=None)
@given(st.lists(names, min_size=1, max_size=5, unique=True), names)
def test_a_drawing_is_the_table_whatever_the_names(states: list[str], name: str) -> None:
    machine = Machine(name, initial=states[0], final={"(end)"})
    table = list(zip(states, [*states[1:], "(end)"], strict=True))
    for state, following in table:
        machine.on(state, to={"ok": following})(no_work)
    found = pydot.graph_from_dot_data(machine.dot())
    assert found is not None
    assert len(found[0].get_edges()) == len(table)
    ids = {quoted(state): n for n, state in enumerate([*states, "(end)"])}
    edges = [(ids[edge.get_source()], ids[edge.get_destination()]) for edge in found[0].get_edges()]
    assert edges == [(number, number + 1) for number in range(len(states))]
    lines = machine.mermaid().splitlines()
    assert len(lines) == 1 + len(ids) + 1 + len(table) + 1
    assert [one.strip() for one in lines if " --> s" in one and "[*]" not in one] == [
        f"s{number} --> s{number + 1} : ok" for number in range(len(states))
    ]


def quoted(text: str) -> str:
    """Return a string of DOT."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.replace("\n", "\\n").replace("\r", "\\r")


def test_a_drawing_shows_guards_questions_branches_and_failures() -> None:
    machine = Machine("m", initial="fork", final={"done"})
    machine.parallel("fork", ["left", "right"], join="gate")
    machine.on("left", to=[Transition("gate", when=callable), Transition("left")])(no_work)
    machine.on("right", to="gate", failed="gate")(no_work)
    machine.ask("gate", "Good?", to={"yes": "done", "no": "fork"})
    machine.check()
    assert '"gate" [shape=hexagon]' in machine.dot()
    assert '"left" -> "gate" [label="[callable]"]' in machine.dot()
    assert '"right" -> "gate" [label="failed"]' in machine.dot()
    assert "s0 --> s1 : branch" in machine.mermaid()
    assert "s3 --> s0 : no" in machine.mermaid()
