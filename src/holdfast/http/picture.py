"""A graph as a picture in data: its nodes and edges, and where its pipeline is."""

import msgspec

from holdfast.core.graph import Graph
from holdfast.runtime.pipelines.graphs import GraphCheckpoint


class EdgeOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    An edge.

    Attributes:
        begin, end: nodes.
        label, condition: on it.
    """

    begin: str
    end: str
    label: str = ""
    condition: str = ""


class NodeOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A node.

    Attributes:
        id, label, kind: of the node.
        state: `done`, `next` or `pending`.
        visits: how often it was done.
    """

    id: str
    label: str
    kind: str
    state: str
    visits: int = 0


class GraphOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    A graph with where its pipeline is.

    Attributes:
        name: of the graph.
        nodes, edges: of it.
        dot_source: as it was posted.
    """

    name: str
    nodes: list[NodeOut]
    edges: list[EdgeOut]
    dot_source: str


def picture(graph: Graph, where: GraphCheckpoint, text: str) -> GraphOut:
    """Return a graph with the state of every node."""
    upcoming = {where.next, *(str(one.get("next")) for one in where.branches.values())}
    done = [one.rpartition("/")[2] for one in where.completed]
    nodes = [
        NodeOut(
            id=node.id,
            label=node.label,
            kind=node.kind,
            state="next" if node.id in upcoming else "done" if node.id in done else "pending",
            visits=done.count(node.id),
        )
        for node in graph.nodes.values()
    ]
    edges = [
        EdgeOut(begin=edge.begin, end=edge.end, label=edge.label, condition=edge.condition)
        for edge in graph.edges
    ]
    return GraphOut(name=graph.name, nodes=nodes, edges=edges, dot_source=text)
