"""
A graph in the Attractor dialect as a machine: one state per node, one handler for its stages.

    machine = load_graph(text, stage)

    async def stage(step, node, ctx):
        return StageOutcome(context_updates={"plan": await ask_model(node.attributes["prompt"])})

The machine routes: conditions, labels, weights, retries, goal gates, human gates, parallel
branches and their fan-in. What a stage does is the handler's affair. All that routing depends on
(outcomes, visits, the answer of a person) is in the context, so it survives with the fields.

Where a stage fails without any way on, its branch ends as failed, or the run fails.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.context import Context
from holdfast.core.dot import read_graph
from holdfast.core.errors import InvalidValueError
from holdfast.core.graph import (
    SUCCEEDED,
    Edge,
    Graph,
    Node,
    StageOutcome,
    accelerator,
    after_failure,
    choose,
    diagnose,
)
from holdfast.core.machine import Machine
from holdfast.core.refusal import GoalGateError, InvalidMachineError, StageFailedError

END: Final = "(end)"
"""The final state; no node can have this name."""
OUTCOMES: Final = "internal.outcomes"
RESULTS: Final = "parallel.results"
_RANKS: Final = {"success": 0, "partial_success": 1, "retry": 2, "fail": 3}
_RESPONSE_CHARACTERS: Final = 200
_LOOKS: Final = 10
OWN_KINDS: Final = (
    "start",
    "exit",
    "conditional",
    "wait.human",
    "parallel",
    "parallel.fan_in",
)

Stage = Callable[..., Any]
"""Async or plain; gets step, node and context; returns an outcome, a text, fields or None."""


def load_graph(
    text: str,
    stage: Stage,
    *,
    handlers: Mapping[str, Stage] | None = None,
    budget: int = 1_000,
) -> Machine:
    """
    Return the machine of a graph file.

    Args:
        text: a digraph in the Attractor dialect of DOT.
        stage: handles the nodes of kind `codergen` and `tool`.
        handlers: handlers of other kinds of nodes, by type; also instead of `stage`.
        budget: stages one run may go through.

    Raises:
        DecodeError: the text is not in the dialect.
        InvalidMachineError: the graph cannot be run; names every fault.
    """
    graph = read_graph(text)
    by_kind = {"codergen": stage, "tool": stage, **(handlers or {})}
    faults = [
        f"{found.rule} {found.node}: {found.message}".replace(" :", ":")
        for found in diagnose(graph, [*OWN_KINDS, *by_kind])
        if found.severity == "error"
    ]
    if faults:
        raise InvalidMachineError(machine=graph.name, faults=tuple(faults))
    return _Building(graph, by_kind, budget).machine()


class _Building:
    """The way from a graph to its machine."""

    def __init__(self, graph: Graph, handlers: Mapping[str, Stage], budget: int) -> None:
        self.graph = graph
        self.handlers = handlers
        self.joins = {
            node.id: self._join(node) for node in graph.nodes.values() if node.kind == "parallel"
        }
        self.homes = {
            node: join for name, join in self.joins.items() for node in self._inside(name)
        }
        start = next(node.id for node in graph.nodes.values() if node.kind == "start")
        self._machine = Machine(
            graph.name, initial=start, final={END}, budget=budget, on_failure="fail"
        )

    def machine(self) -> Machine:
        for node in self.graph.nodes.values():
            if node.kind == "parallel":
                self._parallel(node)
            elif node.kind == "wait.human":
                self._gate(node)
            else:
                self._stage(node)
        self._machine.check()
        return self._machine

    def _stage(self, node: Node) -> None:
        targets = [edge.end for edge in self.graph.ways(node.id)]
        targets += self.graph.retry_targets(node)
        if node.id in self.homes:
            targets.append(self.homes[node.id])
        if node.kind == "exit":
            gates = [gate for gate in self.graph.nodes.values() if _is_gate(gate)]
            for gate in gates:
                targets += self.graph.retry_targets(gate)
            targets += [*self.graph.retry_targets(None), END] if gates else [END]
        work = self._exit if node.kind == "exit" else partial(self._visit, node)
        # A last attempt that was interrupted is looked at once more, to route what became of it.
        tries = node.attempts if node.kind in self.handlers else 1
        spare = 0 if tries == 1 else _LOOKS
        options: dict[str, Any] = {
            "attempts": tries + spare,
            "timeout": node.seconds("timeout"),
        }
        effect = node.attributes.get("effect")
        if effect is not None:
            options["effect"] = effect
        self._machine.on(node.id, to={name: name for name in dict.fromkeys(targets)}, **options)(
            work
        )

    async def _visit(self, node: Node, step: Any, ctx: Context) -> str:
        ctx["current_node"] = node.id
        if 1 < node.attempts < step.attempt:
            # A crash took the last attempt: that counts, so nothing is tried once more.
            reason = "every attempt was interrupted or failed"
            outcome = StageOutcome(status="fail", failure_reason=reason)
        else:
            outcome = await self._handled(node, step, ctx)
        if outcome.notes:
            ctx.note(outcome.notes)
        if outcome.status == "retry" and step.attempt < node.attempts:
            raise StageFailedError(
                stage=node.id, reason=outcome.failure_reason or "asks for a retry"
            )
        if outcome.status == "retry":
            outcome = _exhausted(node, outcome)
        return self._settle(node, outcome, ctx)

    async def _handled(self, node: Node, step: Any, ctx: Context) -> StageOutcome:
        handler = self.handlers.get(node.kind)
        if handler is None:
            return self._own(node, ctx)
        try:
            told = handler(step, node, ctx)
            return _outcome(node, await told if inspect.isawaitable(told) else told)
        except Exception as error:
            if step.attempt < node.attempts:
                raise
            return StageOutcome(status="fail", failure_reason=str(error))

    def _own(self, node: Node, ctx: Context) -> StageOutcome:
        """Handle the kinds that only route: what went before is what a conditional looks at."""
        if node.kind == "parallel.fan_in":
            return _fan_in(ctx)
        if node.kind == "conditional" and "outcome" in ctx:
            preferred = str(ctx.get("preferred_label", ""))
            return StageOutcome(status=ctx["outcome"], preferred_label=preferred)
        return StageOutcome()

    def _settle(self, node: Node, outcome: StageOutcome, ctx: Context) -> str:
        """Write down what became of a stage and return the next one."""
        ctx.update(outcome.context_updates)
        if outcome.status != "skipped":
            ctx["outcome"] = outcome.status
            ctx["score"] = outcome.score
            if node.kind != "conditional":
                ctx[OUTCOMES] = {**ctx.get(OUTCOMES, {}), node.id: outcome.status}
        ctx["preferred_label"] = outcome.preferred_label
        ctx["failure_reason"] = outcome.failure_reason
        if outcome.status == "fail" and node.kind != "conditional":
            target = after_failure(self.graph, node, outcome, ctx)
        else:
            edge = choose(self.graph.ways(node.id), outcome, ctx)
            target = "" if edge is None else self._follow(edge, ctx)
        if not target and node.id in self.homes:
            return self.homes[node.id]
        if not target:
            raise StageFailedError(stage=node.id, reason=outcome.failure_reason or "no edge fits")
        return target

    def _follow(self, edge: Edge, ctx: Context) -> str:
        if edge.attributes.get("loop_restart") is True:
            ctx.clear()
        return edge.end

    def _exit(self, step: Any, ctx: Context) -> str:
        """End, unless a goal gate that was visited did not succeed."""
        for name, status in ctx.get(OUTCOMES, {}).items():
            gate = self.graph.nodes[name]
            if _is_gate(gate) and status not in SUCCEEDED:
                targets = self.graph.retry_targets(gate) or self.graph.retry_targets(None)
                if not targets:
                    raise GoalGateError(graph=self.graph.name, node=name)
                return targets[0]
        return END

    def _gate(self, node: Node) -> None:
        edges = {accelerator(edge.label or edge.end)[1]: edge for edge in self.graph.ways(node.id)}
        if len(edges) < len(self.graph.ways(node.id)) or not edges:
            fault = f"human gate {node.id}: its edges need labels, each another"
            raise InvalidMachineError(machine=self.graph.name, faults=(fault,))
        default = self._default(node, edges)
        self._machine.ask(
            node.id,
            node.label,
            to={choice: edge.end for choice, edge in edges.items()},
            timeout=None if default is None else node.seconds("timeout"),
            default=default if node.seconds("timeout") else None,
            into="human.gate.label",
            then=partial(self._answered, node, edges),
        )

    def _default(self, node: Node, edges: Mapping[str, Edge]) -> str | None:
        """Return the choice when time is over; without one the gate waits on."""
        told = str(node.attributes.get("human.default_choice", ""))
        fits = [name for name, edge in edges.items() if told in (edge.end, edge.label, name)]
        return fits[0] if fits and node.seconds("timeout") else None

    def _answered(self, node: Node, edges: Mapping[str, Edge], step: Any, ctx: Context) -> str:
        choice = ctx["human.gate.label"]
        ctx["human.gate.selected"] = accelerator(edges[choice].label or edges[choice].end)[0]
        ctx["current_node"] = node.id
        ctx["outcome"] = "success"
        ctx["preferred_label"] = choice
        ctx[OUTCOMES] = {**ctx.get(OUTCOMES, {}), node.id: "success"}
        self._follow(edges[choice], ctx)
        return str(choice)

    def _parallel(self, node: Node) -> None:
        policy = node.attributes.get("error_policy", "continue")
        self._machine.parallel(
            node.id,
            [edge.end for edge in self.graph.ways(node.id)],
            join=self.joins[node.id],
            on_failure="cancel" if policy == "fail_fast" else "await",
            merge=partial(_merge, node),
        )

    def _inside(self, parallel: str) -> set[str]:
        """Return the nodes between a fan-out and its fan-in."""
        found: set[str] = set()
        ahead = [edge.end for edge in self.graph.ways(parallel)]
        while ahead:
            name = ahead.pop()
            if name not in found and name != self.joins[parallel]:
                found.add(name)
                ahead += [edge.end for edge in self.graph.ways(name)]
        return found

    def _join(self, node: Node) -> str:
        """Return the fan-in at which all branches of a node meet."""
        reached: list[set[str]] = []
        for edge in self.graph.ways(node.id):
            found, ahead, seen = set[str](), [edge.end], set[str]()
            while ahead:
                name = ahead.pop()
                if self.graph.nodes[name].kind == "parallel.fan_in":
                    found.add(name)
                elif name not in seen:
                    seen.add(name)
                    ahead += [way.end for way in self.graph.ways(name)]
            reached.append(found)
        shared = set[str].intersection(*reached) if reached else set[str]()
        if len(shared) != 1:
            fault = f"parallel {node.id}: its branches need one fan-in in common"
            raise InvalidMachineError(machine=self.graph.name, faults=(fault,))
        return shared.pop()


def _is_gate(node: Node) -> bool:
    return node.attributes.get("goal_gate") is True


def _outcome(node: Node, told: Any) -> StageOutcome:
    if isinstance(told, StageOutcome):
        return told
    fields: dict[str, Any] = {"last_stage": node.id}
    if isinstance(told, str):
        fields["last_response"] = told[:_RESPONSE_CHARACTERS]
    elif isinstance(told, Mapping):
        fields.update(told)  # pyright: ignore[reportUnknownArgumentType] checked when it is stored
    elif told is not None:
        raise InvalidValueError(
            what=f"stage {node.id}", reason=f"returned {type(told).__name__}, not an outcome"
        )
    return StageOutcome(context_updates=fields)


def _exhausted(node: Node, outcome: StageOutcome) -> StageOutcome:
    if node.attributes.get("allow_partial") is True:
        return StageOutcome(
            status="partial_success",
            context_updates=outcome.context_updates,
            notes="retries exhausted",
        )
    reason = outcome.failure_reason or "retries exhausted"
    return StageOutcome(
        status="fail", context_updates=outcome.context_updates, failure_reason=reason
    )


class _Result(msgspec.Struct, frozen=True):
    """What became of one branch, as it stands in the context."""

    id: str
    status: str
    score: float
    last_stage: str
    context: dict[str, Any]

    @property
    def won(self) -> bool:
        return self.status in SUCCEEDED


def _merge(node: Node, ctx: Context, branches: dict[str, dict[str, Any]]) -> None:
    """Tell the results of the branches; what they changed stays with them."""
    results = [
        _Result(
            name,
            str(fields.get("outcome", "success")),
            float(fields.get("score", 0.0)),
            str(fields.get("current_node", name)),
            {key: fields[key] for key in sorted(fields) if ctx.get(key) != fields[key]},
        )
        for name, fields in branches.items()
    ]
    if node.attributes.get("error_policy") == "ignore":
        results = [one for one in results if one.won] or results
    ctx[RESULTS] = msgspec.to_builtins(results)
    ctx["outcome"] = _joined(node, sum(one.won for one in results), len(results))
    ctx[OUTCOMES] = {**ctx.get(OUTCOMES, {}), node.id: ctx["outcome"]}


def _joined(node: Node, won: int, count: int) -> str:
    policy = node.attributes.get("join_policy", "wait_all")
    if policy == "wait_all":
        return "success" if won == count else "partial_success"
    needed = 1.0
    if policy == "k_of_n":
        needed = float(node.attributes.get("k", count))
    elif policy == "quorum":
        needed = float(node.attributes.get("quorum", 0.5)) * count
    return "success" if won >= needed else "fail"


def _fan_in(ctx: Context) -> StageOutcome:
    """Choose the best branch: by status, then score, then name."""
    results = codec.convert(ctx.get(RESULTS, []), list[_Result])
    if not results:
        return StageOutcome(status="fail", failure_reason="no parallel results")
    best = min(results, key=lambda one: (_RANKS.get(one.status, 3), -one.score, one.id))
    fields: dict[str, Any] = {
        "parallel.fan_in.best_id": best.id,
        "parallel.fan_in.best_outcome": best.status,
    }
    failed = best.status == "fail"
    return StageOutcome(
        status="fail" if failed else "success",
        context_updates=fields,
        failure_reason="every branch failed" if failed else "",
    )
