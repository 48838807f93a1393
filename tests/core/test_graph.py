"""
Graphs in the Attractor dialect: what is read, what is refused, which way a graph takes.

The walk at the end executes a loaded graph without any store, as the rules say it; the way a
pipeline takes has to be the same.
"""

import asyncio
import inspect
from dataclasses import dataclass
from typing import Any

import pydot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.attractor import END, load_graph
from holdfast.core.context import Context
from holdfast.core.dot import read_graph
from holdfast.core.errors import DecodeError
from holdfast.core.graph import Edge, Graph, Node, StageOutcome, choose, diagnose, holds
from holdfast.core.machine import Machine
from holdfast.core.refusal import GoalGateError, InvalidMachineError, StageFailedError

SAMPLE = r"""
// one line
digraph Feature {
    graph [goal="Say \"hi\"", default_fidelity=full,
           model_stylesheet="* { llm_model: small; }
                             .loop-a { llm_model: big; reasoning_effort: low }
                             #check { llm_model: huge }"]
    rankdir = LR
    node [timeout=900s]
    edge [weight=1]
    start [shape=Mdiamond]; done [shape=Msquare]
    subgraph cluster_one {
        label = "Loop A!"
        node [timeout="30m", retries.more=-2]
        plan [prompt="To $goal:\n\tplan", class="x, y"]
        check [llm_model=own, ratio=-.5, goal_gate=true]
    }
    /* over
       lines */
    start -> plan -> check [label="next", weight=3]
    check -> done [condition="outcome=success && context.tests!=0"]
    check -> plan
}
"""


def test_a_file_is_read_with_defaults_scopes_classes_and_styles() -> None:
    graph = read_graph(SAMPLE)
    assert (graph.name, graph.attributes["goal"]) == ("Feature", 'Say "hi"')
    assert graph.attributes["rankdir"] == "LR"
    plan, check = graph.nodes["plan"], graph.nodes["check"]
    assert plan.attributes["prompt"] == 'To Say "hi":\n\tplan'
    assert (plan.classes, check.classes) == (("x", "y", "loop-a"), ("loop-a",))
    assert (plan.attributes["llm_model"], plan.attributes["reasoning_effort"]) == ("big", "low")
    assert check.attributes["llm_model"] == "own"
    assert (check.attributes["ratio"], check.attributes["retries.more"]) == (-0.5, -2)
    assert check.attributes["goal_gate"] is True
    assert (plan.seconds("timeout"), graph.nodes["start"].seconds("timeout")) == (1800.0, 900.0)
    told = [(edge.begin, edge.end, edge.label, edge.weight) for edge in graph.edges]
    assert told == [
        ("start", "plan", "next", 3),
        ("plan", "check", "next", 3),
        ("check", "done", "", 1),
        ("check", "plan", "", 1),
    ]
    assert [graph.nodes[name].kind for name in ("start", "plan", "done")] == [
        "start",
        "codergen",
        "exit",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("graph { a -- b }", "line 1"),
        ("strict digraph g { }", "one digraph"),
        ("digraph g {\n a -> b\n} junk", "line 3: something stands behind"),
        ("digraph g { } digraph h { }", "stands behind"),
        ("digraph g {\n\n a -- b }", "line 3: not a word"),
        ("digraph g { a [label=<b>] }", "not a word"),
        ('digraph g { "a b" -> c }', "bare name"),
        ("digraph g { a.b -> c }", "bare name"),
        ("digraph g { a [x=1 y=2] }", "',' is needed"),
        ("digraph g { a -> }", "bare name"),
        ("digraph g { a", "'}' is needed"),
        ('digraph g { a [label="open }', "not a word"),
        ("digraph g { a [n=9lives] }", "not a word"),
        ('digraph g { graph [model_stylesheet="* { color: red }"] }', "has no meaning"),
        ("digraph g {" * 1 + "subgraph {" * 99, "deeper"),
    ],
)
def test_what_is_not_in_the_dialect_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_graph(text)
    assert reason in str(caught.value)


@settings(max_examples=300)
@given(st.text(st.sampled_from('digraph {}[]=;,->"\\/*ab.1s\n')) | st.text())
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    """R7: a typed error, never another one."""
    for candidate in (text, f"digraph g {{{text}}}"):
        try:
            read_graph(candidate)
        except DecodeError:
            continue


names = st.sampled_from(["a", "b", "c", "d"])
labels = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pydot calls old names of pyparsing.
@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, labels), st.lists(st.tuples(names, names, st.integers(-5, 5))))
def test_another_reader_of_dot_finds_the_same_nodes_and_edges(
    nodes: dict[str, str], edges: list[tuple[str, str, int]]
) -> None:
    lines = [f"{name} [label={quoted(label)}]" for name, label in nodes.items()]
    lines += [f"{begin} -> {end} [weight={weight}]" for begin, end, weight in edges]
    text = "digraph g {\n" + "\n".join(lines) + "\n}"
    found = pydot.graph_from_dot_data(text)
    assert found is not None
    graph = read_graph(text)
    assert [(edge.begin, edge.end, str(edge.weight)) for edge in graph.edges] == [
        (edge.get_source(), edge.get_destination(), edge.get("weight").strip('"'))
        for edge in sorted(found[0].get_edges(), key=lambda edge: edge.get_sequence())
    ]
    told = {node.get_name(): node.get("label") for node in found[0].get_nodes()}
    assert {name: quoted(graph.nodes[name].label) for name in nodes} == told


def quoted(text: str) -> str:
    """Return a string of DOT."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", True),
        ("outcome=success", True),
        ("outcome != success", False),
        ("outcome=success && context.tests=true", True),
        ("tests=true && context.missing=x", False),
        ("context.missing!=x", True),
        ("context.deep.name=yes", True),
        ('preferred_label="Go on"', True),
        ("context.zero", True),
        ("context.empty", False),
    ],
)
def test_a_condition_means_what_the_dialect_says(condition: str, expected: bool) -> None:
    fields = {"tests": True, "context.deep.name": "yes", "zero": 0, "empty": ""}
    assert holds(condition, StageOutcome(preferred_label="Go on"), fields) is expected


def edge(end: str, **attributes: Any) -> Edge:
    """Return an edge to a node."""
    return Edge("here", end, attributes)


def test_an_edge_is_chosen_by_condition_label_suggestion_weight_and_name() -> None:
    """A1: the same outcome takes the same way."""
    edges = [
        edge("light", weight=1),
        edge("b", weight=5),
        edge("a", weight=5),
        edge("never", condition="outcome=fail", weight=99),
        edge("labelled", label="[Y] Yes, deploy"),
    ]

    def chosen(**outcome: Any) -> str | None:
        found = choose(edges, StageOutcome(**outcome), {})
        return found and found.end

    assert chosen() == "a"
    assert chosen(suggested_next_ids=("nowhere", "light")) == "light"
    assert chosen(preferred_label="yes, DEPLOY", suggested_next_ids=("light",)) == "labelled"
    assert chosen(status="fail", preferred_label="yes, deploy") == "never"
    assert choose(edges[3:4], StageOutcome(), {}) is None


def test_a_graph_with_errors_is_refused_and_warnings_are_told() -> None:
    text = """digraph g { start [shape=Mdiamond] exit [shape=Msquare]
        gate [goal_gate=true, retry_target=nobody, label=x] lost [label=x]
        odd [type=unheard_of] start -> gate -> odd -> exit -> start
        gate -> exit [condition="a ~ b"] }"""
    with pytest.raises(InvalidMachineError) as caught:
        load_graph(text, print)
    rules = [fault.split()[0].rstrip(":") for fault in caught.value.faults]
    assert sorted(rules) == [
        "condition_syntax",
        "exit_no_outgoing",
        "reachability",
        "start_no_incoming",
        "type_known",
    ]
    warnings = [found.rule for found in diagnose(read_graph(text), ["codergen"])]
    assert {"retry_target_exists", "goal_gate_has_retry"} <= set(warnings)


@dataclass
class Visit:
    """A step, as a handler sees it."""

    attempt: int = 1


async def walk(machine: Machine, answers: tuple[str, ...] = ()) -> tuple[list[str], Context]:
    """Execute a machine in memory, by the rules alone."""
    ctx, path, left = Context(), [], list(answers)

    async def go(state: str, fields: Context, until: str) -> None:
        while state != until:
            path.append(state)
            assert len(path) <= machine.budget
            row = machine.states[state]
            outcome: Any = None
            if row.branches is not None:
                assert row.branches.merge is not None
                copies = {name: fields.copy() for name in row.branches.names}
                for name, copy in copies.items():
                    await go(name, copy, row.branches.join)
                row.branches.merge(fields, {name: dict(copies[name]) for name in copies})
            else:
                if row.question is not None and row.question.into:
                    fields[row.question.into] = left.pop(0)
                assert row.handler is not None
                for attempt in range(1, int((row.options or {}).get("attempts", 1)) + 1):
                    try:
                        outcome = row.handler(Visit(attempt), fields)
                        outcome = await outcome if inspect.isawaitable(outcome) else outcome
                        break
                    except (RuntimeError, StageFailedError):
                        if attempt == row.options["attempts"]:  # type: ignore[index]
                            raise
            state = machine.next(state, outcome, fields)

    await go(machine.initial, ctx, END)
    return path, ctx


def drive(text: str, script: dict[str, list[Any]], answers: tuple[str, ...] = ()) -> Any:
    """Walk a graph whose stages return (or raise) what the script says, visit by visit."""

    def stage(step: Visit, node: Node, ctx: Context) -> Any:
        told = script.get(node.id, [])
        result = told.pop(0) if told else None
        if isinstance(result, Exception):
            raise result
        return result

    return asyncio.run(walk(load_graph(text, stage), answers))


HEAD = "digraph g { start [shape=Mdiamond] exit [shape=Msquare] node [label=x] "


def test_a_failed_stage_takes_its_fail_edge_then_its_retry_target_or_the_graph_fails() -> None:
    """A1."""
    fail = StageOutcome(status="fail", failure_reason="no luck")
    text = HEAD + 'start -> a -> exit a -> fix [condition="outcome=fail"] fix -> exit }'
    assert drive(text, {"a": [fail]})[0] == ["start", "a", "fix", "exit"]
    text = HEAD + "start -> a -> b -> exit b [retry_target=a] }"
    assert drive(text, {"b": [fail]})[0] == ["start", "a", "b", "a", "b", "exit"]
    with pytest.raises(StageFailedError, match="no luck"):
        drive(HEAD + "start -> a -> exit }", {"a": [fail]})
    gate = 't [shape=diamond] start -> a -> t t -> exit [condition="outcome=success"] t -> a'
    assert drive(f"{HEAD}{gate} }}", {"a": [fail]})[0] == ["start", "a", "t", "a", "t", "exit"]


def test_a_stage_is_tried_again_as_often_as_it_says_and_not_once_more() -> None:
    """A3: retry counters."""
    again = StageOutcome(status="retry")
    text = HEAD + "start -> a -> exit a [max_retries=2%s] }"
    assert drive(text % "", {"a": [again, RuntimeError("x"), "fine"]})[1]["last_response"] == "fine"
    with pytest.raises(StageFailedError):
        drive(text % "", {"a": [again, again, again, "too late"]})
    default = text.replace("node [label", "graph [default_max_retry=1] node [label")
    default = default.replace("max_retries=2", "x=2") % ""
    assert drive(default, {"a": [again, "fine"]})[1]["last_response"] == "fine"
    with pytest.raises(StageFailedError):
        drive(default, {"a": [again, again, "too late"]})
    _, ctx = drive(text % ", allow_partial=true", {"a": [again, again, again]})
    assert ctx["outcome"] == "partial_success"


def test_a_goal_gate_sends_back_until_it_succeeded_or_ends_the_graph() -> None:
    """A3: goal gates."""
    fail = StageOutcome(status="fail")
    text = (
        HEAD
        + """make -> check [label=x] start -> make  check [goal_gate=true%s]
        check -> exit [condition="outcome=fail"] check -> exit }"""
    )
    retried = drive(text % ", retry_target=make", {"check": [fail, fail]})[0]
    assert retried == ["start", *["make", "check", "exit"] * 3]
    with pytest.raises(GoalGateError):
        drive(text % "", {"check": [fail]})


def test_a_person_takes_one_of_the_edges() -> None:
    text = (
        HEAD
        + """gate [shape=hexagon, label="Ship it?", timeout=5m, human.default_choice=fix]
        start -> gate gate -> exit [label="[A] Approve"] gate -> fix [label="F) Fix it"]
        fix -> gate }"""
    )
    path, ctx = drive(text, {}, ("Fix it", "Approve"))
    assert path == ["start", "gate", "fix", "gate", "exit"]
    assert (ctx["human.gate.selected"], ctx["human.gate.label"]) == ("A", "Approve")
    question = load_graph(text, print).states["gate"].question
    assert question is not None
    assert (question.choices, question.default, question.timeout) == (
        ("Approve", "Fix it"),
        "Fix it",
        300.0,
    )
    with pytest.raises(InvalidMachineError, match="need labels"):
        load_graph(text.replace("F) Fix it", "A - Approve"), print)


def test_branches_run_apart_and_the_fan_in_takes_the_best() -> None:
    """R6."""
    text = (
        HEAD
        + """fork [shape=component%s] join [shape=tripleoctagon] start -> fork
        fork -> a -> a2 -> join fork -> b -> join fork -> c -> join join -> exit
        join -> salvage [condition="outcome=fail"] salvage -> exit }"""
    )
    good = StageOutcome(score=2.0, context_updates={"n": 1})
    fail = StageOutcome(status="fail")
    path, ctx = drive(text % "", {"a": [fail], "b": [good], "c": [StageOutcome(score=1.0)]})
    assert path == ["start", "fork", "a", "b", "c", "join", "exit"]
    assert ctx["parallel.fan_in.best_id"] == "b"
    assert ctx["internal.outcomes"]["fork"] == "partial_success"
    assert "n" not in ctx
    assert ctx["parallel.results"][1]["context"]["n"] == 1
    path, ctx = drive(text % ", join_policy=k_of_n, k=2", {"a": [fail], "b": [fail], "c": [fail]})
    assert path[-2:] == ["salvage", "exit"]
    assert ctx["internal.outcomes"]["fork"] == "fail"
    with pytest.raises(InvalidMachineError, match="fan-in in common"):
        load_graph(HEAD + "f [shape=component] start -> f f -> a -> exit f -> exit }", print)


def test_a_loop_restart_begins_with_empty_fields() -> None:
    text = (
        HEAD
        + """start -> a -> exit a -> start2 [loop_restart=true, condition="context.n=1"]
        start2 -> a }"""
    )
    path, ctx = drive(text, {"a": [{"n": 1}]})
    assert path == ["start", "a", "start2", "a", "exit"]
    assert "n" not in ctx


def test_a_graph_of_one_way_is_a_graph() -> None:
    graph = Graph("g", {}, {}, ())
    assert [found.rule for found in diagnose(graph, [])] == ["start_node", "terminal_node"]
