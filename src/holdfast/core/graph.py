"""
Graphs: stages and edges as values, and which edge is taken.

A graph is what a DOT file in the Attractor dialect says (`core.dot` reads it). Its rules are
here, without any run: what a condition means, which edge follows an outcome, what is wrong with
a graph. Where the public specification of the dialect leaves a choice or contradicts itself,
the choice is named at the function that makes it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

Value = str | int | float | bool
Status = Literal["success", "partial_success", "retry", "fail", "skipped"]
SUCCEEDED: Final = ("success", "partial_success")

KINDS: Final = {
    "Mdiamond": "start",
    "Msquare": "exit",
    "box": "codergen",
    "hexagon": "wait.human",
    "diamond": "conditional",
    "component": "parallel",
    "tripleoctagon": "parallel.fan_in",
    "parallelogram": "tool",
    "house": "stack.manager_loop",
}
"""What the shape of a node means, unless it has a type."""

_NAMED: Final = {"start": "start", "Start": "start", "exit": "exit", "end": "exit"}

_CLAUSE: Final = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(?:(!=|=)\s*(.*?))?\s*")
_ACCELERATOR: Final = re.compile(r"\s*(?:\[(\w+)\]\s*|(\w)\)\s*|(\w) - \s*)(.*)", re.DOTALL)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Node(msgspec.Struct, frozen=True):
    """
    A stage.

    Attributes:
        id: its name in the graph.
        attributes: what the file says about it, defaults of its surroundings included.
        classes: its classes, from `class` and from the labels of the subgraphs around it.
    """

    id: str
    attributes: dict[str, Value]
    classes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How it is shown."""
        return str(self.attributes.get("label", self.id))

    @property
    def kind(self) -> str:
        """What handles it: its type, or what its shape stands for."""
        told = self.attributes.get("type")
        if told:
            return str(told)
        if "shape" in self.attributes:
            return KINDS.get(str(self.attributes["shape"]), "codergen")
        return _NAMED.get(self.id, "codergen")

    @property
    def attempts(self) -> int:
        """How often it is executed at most; `max_retries` counts the ones after the first."""
        return 1 + max(0, int(self.attributes.get("max_retries", 0)))

    def seconds(self, name: str) -> float | None:
        """Return an attribute that says how long something may take, in seconds."""
        value = self.attributes.get(name)
        if value is None or isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", value)
        return None if found is None else int(found[1]) * _UNITS[found[2]]


class Edge(msgspec.Struct, frozen=True):
    """
    A way from one stage to the next.

    Attributes:
        begin: where it starts.
        end: where it leads.
        attributes: what the file says about it.
    """

    begin: str
    end: str
    attributes: dict[str, Value]

    @property
    def label(self) -> str:
        """Its caption, by which an outcome can prefer it."""
        return str(self.attributes.get("label", ""))

    @property
    def condition(self) -> str:
        """When it may be taken; empty for always."""
        return str(self.attributes.get("condition", "")).strip()

    @property
    def weight(self) -> int:
        """The heavier of two edges is taken."""
        return int(self.attributes.get("weight", 0))


class Graph(msgspec.Struct, frozen=True):
    """
    A whole file.

    Attributes:
        name: name of the digraph.
        attributes: what it says about the graph itself.
        nodes: its stages by id, in the order of the file.
        edges: its edges, in the order of the file.
    """

    name: str
    attributes: dict[str, Value]
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]

    def ways(self, node: str) -> list[Edge]:
        """Return the edges that leave a node."""
        return [edge for edge in self.edges if edge.begin == node]

    def retry_targets(self, node: Node | None) -> list[str]:
        """Return where to go on when a node failed, best first; without one, the graph's."""
        told = self.attributes if node is None else node.attributes
        named = [str(told.get(name, "")) for name in ("retry_target", "fallback_retry_target")]
        return [target for target in named if target in self.nodes]


class StageOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of a stage.

    Attributes:
        status: `success`, `partial_success`, `retry` (try it again), `fail`, or `skipped` (go on
            as if it had not been there).
        preferred_label: label of the edge to take.
        suggested_next_ids: nodes to go to, if an edge leads there.
        context_updates: fields to set.
        notes: what a person wants to know.
        failure_reason: why, if it failed.
        score: what a fan-in ranks branches by.
    """

    status: Status = "success"
    preferred_label: str = ""
    suggested_next_ids: tuple[str, ...] = ()
    context_updates: dict[str, Any] = {}
    notes: str = ""
    failure_reason: str = ""
    score: float = 0.0


def holds(condition: str, outcome: StageOutcome, fields: Mapping[str, Any]) -> bool:
    """Return whether a condition is true; every clause of it has to be."""
    return all(_clause_holds(clause, outcome, fields) for clause in _clauses(condition))


def _clauses(condition: str) -> list[str]:
    return [clause for clause in condition.split("&&") if clause.strip()]


def _clause_holds(clause: str, outcome: StageOutcome, fields: Mapping[str, Any]) -> bool:
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        return False
    key, operator, literal = found.groups()
    actual = _resolve(key, outcome, fields)
    if operator is None:
        return bool(actual)
    wanted = literal[1:-1] if len(literal) > 1 and literal[0] == literal[-1] == '"' else literal
    return (actual == wanted) is (operator == "=")


def _resolve(key: str, outcome: StageOutcome, fields: Mapping[str, Any]) -> str:
    if key == "outcome":
        return outcome.status
    if key == "preferred_label":
        return outcome.preferred_label
    for name in (key, key.removeprefix("context.")):
        value = fields.get(name)
        if value is not None:
            return str(value).lower() if isinstance(value, bool) else str(value)
    return ""


def choose(edges: Sequence[Edge], outcome: StageOutcome, fields: Mapping[str, Any]) -> Edge | None:
    """
    Return the edge that follows an outcome, or None.

    A condition that holds goes first, then the preferred label, then the suggested nodes, then
    weight, then the name of the target. An edge whose condition does not hold is never taken.
    After a failure an edge without a condition is taken only by `after_failure`.
    """
    passing = [edge for edge in edges if edge.condition and holds(edge.condition, outcome, fields)]
    if passing:
        return _best(passing)
    free = [edge for edge in edges if not edge.condition]
    if outcome.preferred_label:
        for edge in free:
            if folded(edge.label) == folded(outcome.preferred_label):
                return edge
    for node in outcome.suggested_next_ids:
        for edge in free:
            if edge.end == node:
                return edge
    return _best(free)


def after_failure(graph: Graph, node: Node, failed: StageOutcome, fields: Mapping[str, Any]) -> str:
    """
    Return where a graph goes on after a stage failed; empty if nowhere.

    An edge whose condition holds, then the node's retry targets, then an edge without a
    condition if it leads to a conditional node: that is there to look at the outcome. Any other
    edge without a condition is for success only.
    """
    edges = graph.ways(node.id)
    passing = [edge for edge in edges if edge.condition and holds(edge.condition, failed, fields)]
    if passing:
        return _best(passing).end  # type: ignore[union-attr]
    targets = graph.retry_targets(node)
    if targets:
        return targets[0]
    looks = [edge for edge in edges if graph.nodes[edge.end].kind == "conditional"]
    found = _best([edge for edge in looks if not edge.condition])
    return "" if found is None else found.end


def _best(edges: Sequence[Edge]) -> Edge | None:
    return min(edges, key=lambda edge: (-edge.weight, edge.end), default=None)


def accelerator(label: str) -> tuple[str, str]:
    """Return the key by which a choice is picked, and the choice without it."""
    found = _ACCELERATOR.fullmatch(label)
    if found is None:
        text = label.strip()
        return text[:1].upper(), text
    return (found[1] or found[2] or found[3]).upper(), found[4].strip()


def folded(label: str) -> str:
    """Return a label as it is compared: without its key, in one case."""
    return accelerator(label)[1].lower()


class Diagnostic(msgspec.Struct, frozen=True):
    """
    Something about a graph that an author wants to know.

    Attributes:
        rule: name of the rule.
        severity: `error` (it is not run) or `warning`.
        message: what is wrong.
        node: the node it is about, or empty.
    """

    rule: str
    severity: Literal["error", "warning"]
    message: str
    node: str = ""


def diagnose(graph: Graph, handled: Iterable[str]) -> list[Diagnostic]:
    """
    Return what is wrong with a graph.

    Args:
        graph: the graph.
        handled: kinds of nodes for which there is a handler.
    """
    return [*_ends(graph), *_edges(graph), *_nodes(graph, frozenset(handled))]


def _ends(graph: Graph) -> Iterable[Diagnostic]:
    starts = [node.id for node in graph.nodes.values() if node.kind == "start"]
    exits = [node.id for node in graph.nodes.values() if node.kind == "exit"]
    if len(starts) != 1:
        yield Diagnostic("start_node", "error", f"{len(starts)} start nodes, exactly one is needed")
    if len(exits) != 1:
        yield Diagnostic(
            "terminal_node", "error", f"{len(exits)} exit nodes, exactly one is needed"
        )
    for edge in graph.edges:
        if edge.end in starts:
            message = f"an edge from {edge.begin} leads to it"
            yield Diagnostic("start_no_incoming", "error", message, edge.end)
        if edge.begin in exits:
            message = f"an edge to {edge.end} leaves it"
            yield Diagnostic("exit_no_outgoing", "error", message, edge.begin)
    found, ahead = set(starts), list(starts)
    while ahead:
        node = graph.nodes[ahead.pop()]
        ways = [edge.end for edge in graph.ways(node.id)]
        for target in [*ways, *graph.retry_targets(node), *graph.retry_targets(None)]:
            if target not in found:
                found.add(target)
                ahead.append(target)
    for lost in sorted(graph.nodes.keys() - found):
        yield Diagnostic("reachability", "error", "cannot be reached from the start", lost)


def _edges(graph: Graph) -> Iterable[Diagnostic]:
    for edge in graph.edges:
        for clause in _clauses(edge.condition):
            if _CLAUSE.fullmatch(clause) is None:
                message = f"condition of the edge to {edge.end}: {clause.strip()!r} is no clause"
                yield Diagnostic("condition_syntax", "error", message, edge.begin)


def _nodes(graph: Graph, handled: frozenset[str]) -> Iterable[Diagnostic]:
    for node in graph.nodes.values():
        if node.kind not in handled:
            message = f"nothing handles {node.kind!r}"
            yield Diagnostic("type_known", "error", message, node.id)
        for name in ("retry_target", "fallback_retry_target"):
            if node.attributes.get(name, "") not in {"", *graph.nodes}:
                message = f"{name} is no node of the graph"
                yield Diagnostic("retry_target_exists", "warning", message, node.id)
        gate = node.attributes.get("goal_gate") is True
        if gate and not graph.retry_targets(node) and not graph.retry_targets(None):
            message = "a goal gate that nothing retries"
            yield Diagnostic("goal_gate_has_retry", "warning", message, node.id)
        if node.kind == "codergen" and not {"prompt", "label"} & node.attributes.keys():
            message = "neither prompt nor label"
            yield Diagnostic("prompt_on_llm_nodes", "warning", message, node.id)
