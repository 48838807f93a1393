"""
Graphs: files in the Attractor dialect that are started as they come.

    rt.graphs.handle(stage)
    run = await rt.graphs.start(text, run_id="release-7")

A graph that is started is a run of one function, with the text as its argument. So what was
captured at the start is what goes on after a crash, whatever became of the file, and whoever knows
how stages are handled may go on with it.

Invariant: what cannot be run is refused before anything is stored, with every fault named.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from holdfast.core.attractor import OWN_KINDS, Stage, load_graph
from holdfast.core.context import Context
from holdfast.core.denial import FunctionNotFoundError
from holdfast.core.dot import read_graph
from holdfast.core.graph import Diagnostic, Graph, diagnose
from holdfast.core.refusal import InvalidMachineError
from holdfast.core.run import Status
from holdfast.runtime.pipelines.steplog import StepLog, read_fields, read_log
from holdfast.runtime.pipelines.walk import Place, Walk
from holdfast.runtime.runs.handle import RunHandle
from holdfast.runtime.runs.run import Run
from holdfast.runtime.runs.runs import Runs
from holdfast.runtime.runs.view import Views

FUNCTION: Final = "holdfast.graph"


class GraphCheckpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Where a graph is.

    Attributes:
        run_id: the run that goes through it.
        status: how that is.
        done: the node that was done last; None before the first.
        next: the node that comes next.
        branches: the same for every branch under way, by its way.
        completed: nodes that were done, in order, as often as they were.
        reason: why it waits, rests or ended.
    """

    run_id: str
    status: Status
    done: str | None
    next: str
    branches: dict[str, Any]
    completed: list[str]
    reason: str = ""


class Graphs:
    """The graphs on a store."""

    def __init__(self, views: Views, runs: Runs) -> None:
        """Take the runs that graphs are."""
        self._views = views
        self._runs = runs
        self._kinds: tuple[str, ...] | None = None

    def handle(self, stage: Stage, handlers: Mapping[str, Stage] | None = None) -> None:
        """
        Say how stages are handled; graphs go on here from now on, also those of before.

        Args:
            stage: handles the nodes of kind `codergen` and `tool`; gets step, node and context.
            handlers: handlers of other kinds of nodes, by type; also instead of `stage`.
        """
        more = dict(handlers or {})

        async def walk(run: Run, text: str, fields: dict[str, Any]) -> dict[str, Any]:
            machine = load_graph(text, stage, handlers=more)
            ctx = Context(input=None, derived=machine.derived)
            ctx.update(fields)
            await Walk(machine, run).go(machine.initial, ctx, machine.final, Place())
            return dict(ctx)

        self._kinds = ("codergen", "tool", *more)
        self._runs.register(walk, name=FUNCTION)

    def check(self, text: str) -> tuple[Graph, list[Diagnostic]]:
        """
        Return a graph with what is to be said of it: rule, severity, node, message.

        Raises:
            DecodeError: it is not in the dialect.
        """
        graph = read_graph(text)
        return graph, diagnose(graph, [*OWN_KINDS, *(self._kinds or ())])

    async def start(
        self,
        text: str,
        *,
        fields: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        key: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> RunHandle:
        """
        Start a graph; when this returns, it is durable and goes on by itself.

        Args:
            text: a digraph in the Attractor dialect of DOT.
            fields: of its context at the start.
            run_id: its id; drawn if not given.
            key: starting again with the same key returns the same run.
            labels: words by which it is found.

        Raises:
            FunctionNotFoundError: nobody said how stages are handled here; see `handle`.
            DecodeError: the text is not in the dialect.
            InvalidMachineError: it cannot be run; names every fault.
            RunExistsError: there is, or was, a run with this id.
        """
        if self._kinds is None:
            raise FunctionNotFoundError(function=FUNCTION, known=self._views.functions.names())
        graph, found = self.check(text)
        errors = [one for one in found if one.severity == "error"]
        faults = [f"{one.rule} {one.node}: {one.message}" for one in errors]
        if faults:
            raise InvalidMachineError(machine=graph.name, faults=tuple(faults))
        return await self._runs.start(
            FUNCTION,
            text,
            dict(fields or {}),
            run_id=run_id,
            key=key,
            labels={**(labels or {}), "graph": graph.name},
        )

    async def text(self, run_id: str) -> str:
        """
        Return the text with which a graph was started.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return str((await self._views.plain_args(run_id))[0])

    async def context(self, run_id: str) -> dict[str, Any]:
        """
        Return the fields of its context as they are now, branches under way aside.

        Raises:
            RunNotFoundError: there is no such run.
        """
        fields: dict[str, Any] = dict((await self._views.plain_args(run_id))[1])
        return await read_fields(self._views.store, self._views.blobs, run_id, fields)

    async def log(self, run_id: str) -> list[StepLog]:
        """Return every attempt at a node, in the order in which they ended."""
        return await read_log(self._views.store, self._views.blobs, run_id)

    async def checkpoint(self, run_id: str) -> GraphCheckpoint:
        """
        Say where it is: what is done, and what comes next.

        Raises:
            RunNotFoundError: there is no such run.
        """
        info = await self._runs.get(run_id)
        mark: dict[str, Any] = info.mark or {"done": None, "next": ""}
        log = await self.log(run_id)
        error = f"{info.error.type}: {info.error.message}" if info.error else ""
        return GraphCheckpoint(
            run_id,
            info.status,
            mark["done"],
            mark["next"],
            mark.get("branches", {}),
            [one.state for one in log if one.finished_at is not None and not one.error],
            error or info.why or ", ".join(info.waits),
        )
