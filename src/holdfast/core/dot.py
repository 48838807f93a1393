"""
Reads DOT files in the Attractor dialect: one digraph, bare node names, typed attributes.

The dialect is a strict subset of DOT, and this reads nothing else: what a lenient reader would
guess at or pass over (undirected edges, text behind the graph, HTML, ports) is an error with its
line. Durations such as `900s` are values here, which they are not in DOT.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from holdfast.core.errors import DecodeError
from holdfast.core.graph import Edge, Graph, Node, Value

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:\\.|[^"\\])*")
      | (?P<number>-?(?:\d+(?:ms|[smhd])|\d*\.\d+|\d+)(?![\w.]))
      | (?P<word>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
      | (?P<mark>->|[{}\[\]=,;])""",
    re.VERBOSE | re.DOTALL,
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ESCAPES: Final = {"n": "\n", "t": "\t"}
_RULE: Final = re.compile(r"\s*(\*|[.#][\w-]+)\s*\{([^{}]*)\}\s*")
_STYLED: Final = ("llm_model", "llm_provider", "reasoning_effort")
_DEPTH_MAX: Final = 32

Attributes = dict[str, Value]


def read_graph(text: str) -> Graph:
    """
    Return the graph of a file, with `$goal` and its stylesheet applied.

    Raises:
        DecodeError: it is not in the dialect; says the line.
    """
    return _Reader(text).graph()


class _Scope:
    """Defaults of a graph or subgraph, and the classes its nodes get."""

    def __init__(self, outer: "_Scope | None") -> None:
        self.nodes: Attributes = dict(outer.nodes) if outer else {}
        self.edges: Attributes = dict(outer.edges) if outer else {}
        self.attributes: Attributes = {}
        self.named: list[str] = []
        self.depth: int = outer.depth + 1 if outer else 0


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._nodes: dict[str, Attributes] = {}
        self._classes: dict[str, list[str]] = {}
        self._edges: list[Edge] = []

    def graph(self) -> Graph:
        if self._take()[1] != "digraph":
            raise self._wrong("a file is one digraph, not strict and not undirected")
        name = self._name()
        scope = _Scope(None)
        self._body(scope)
        if self._at < len(self._tokens) - 1:
            raise self._wrong("something stands behind the graph")
        nodes = self._styled(scope.attributes)
        return Graph(name, scope.attributes, nodes, tuple(self._edges))

    def _body(self, scope: _Scope) -> None:
        if scope.depth > _DEPTH_MAX:
            raise self._wrong(f"subgraphs deeper than {_DEPTH_MAX}")
        self._expect("{")
        while not self._skip("}"):
            self._statement(scope)
            self._skip(";")

    def _statement(self, scope: _Scope) -> None:
        kind, word, _ = self._look()
        if kind == "end":
            raise self._wrong("'}' is needed")
        following = self._tokens[self._at + 1][1]
        if word in ("graph", "node", "edge") and following == "[":
            self._take()
            kept = {"graph": scope.attributes, "node": scope.nodes, "edge": scope.edges}[word]
            kept.update(self._attributes())
        elif word == "subgraph":
            self._take()
            self._subgraph(scope)
        elif following == "=":
            key = self._word()
            self._expect("=")
            scope.attributes[key] = self._value()
        else:
            self._chain(scope)

    def _subgraph(self, scope: _Scope) -> None:
        if self._look()[1] != "{":
            self._name()
        inner = _Scope(scope)
        self._body(inner)
        label = str(inner.attributes.get("label", ""))
        derived = re.sub(r"[^a-z0-9-]", "", label.lower().replace(" ", "-"))
        for name in inner.named:
            if derived:
                self._classes[name].append(derived)
        scope.named += inner.named

    def _chain(self, scope: _Scope) -> None:
        names = [self._name()]
        while self._skip("->"):
            names.append(self._name())
        told = self._attributes() if self._look()[1] == "[" else {}
        for name in names:
            if name not in self._nodes:
                self._nodes[name] = dict(scope.nodes)
                self._classes[name] = []
            scope.named.append(name)
        if len(names) == 1:
            self._nodes[names[0]].update(told)
        for begin, end in pairwise(names):
            self._edges.append(Edge(begin, end, {**scope.edges, **told}))

    def _attributes(self) -> Attributes:
        self._expect("[")
        found: Attributes = {}
        while not self._skip("]"):
            key = self._word()
            self._expect("=")
            found[key] = self._value()
            if self._look()[1] != "]":
                self._expect(",")
        return found

    def _styled(self, graph: Attributes) -> dict[str, Node]:
        rules = list(self._rules(str(graph.get("model_stylesheet", ""))))
        goal = str(graph.get("goal", ""))
        nodes: dict[str, Node] = {}
        for name, own in self._nodes.items():
            own_classes = [part.strip() for part in str(own.get("class", "")).split(",")]
            listed = tuple(dict.fromkeys([*filter(None, own_classes), *self._classes[name]]))
            matching = {"*": 0, **{f".{one}": 1 for one in listed}, f"#{name}": 2}
            styled: Attributes = {}
            fitting = [rule for rule in rules if rule[0] in matching]
            for _, properties in sorted(fitting, key=lambda rule: matching[rule[0]]):
                styled.update(properties)
            whole = {**styled, **own}
            if "default_max_retry" in graph:
                whole.setdefault("max_retries", graph["default_max_retry"])
            if isinstance(whole.get("prompt"), str):
                whole["prompt"] = str(whole["prompt"]).replace("$goal", goal)
            nodes[name] = Node(name, whole, listed)
        return nodes

    def _rules(self, sheet: str) -> Iterator[tuple[str, Attributes]]:
        at = 0
        while sheet[at:].strip():
            found = _RULE.match(sheet, at)
            if found is None:
                raise DecodeError(what="model_stylesheet", reason="is no list of rules")
            at = found.end()
            properties: Attributes = {}
            for part in filter(str.strip, found[2].split(";")):
                key, _, value = (side.strip() for side in part.partition(":"))
                if key not in _STYLED or not value:
                    raise DecodeError(what="model_stylesheet", reason=f"{key!r} has no meaning")
                properties[key] = value.strip('"')
            yield found[1], properties

    def _value(self) -> Value:
        kind, text, _ = self._look()
        self._at += 1
        if kind == "string":
            return re.sub(r"\\(.)", _unescaped, text[1:-1], flags=re.DOTALL)
        if kind == "word":
            return {"true": True, "false": False}.get(text, text)
        if kind == "number":
            if text[-1].isalpha():
                return text
            return float(text) if "." in text else int(text)
        self._at -= 1
        raise self._wrong("a value is needed")

    def _word(self) -> str:
        kind, text, _ = self._look()
        if kind != "word":
            raise self._wrong("a name is needed")
        self._at += 1
        return text

    def _name(self) -> str:
        if _NAME.fullmatch(self._look()[1]) is None:
            raise self._wrong("a bare name of letters, digits and _ is needed")
        return self._word()

    def _expect(self, mark: str) -> None:
        if not self._skip(mark):
            raise self._wrong(f"{mark!r} is needed")

    def _skip(self, mark: str) -> bool:
        if self._look()[:2] != ("mark", mark):
            return False
        self._at += 1
        return True

    def _take(self) -> tuple[str, str, int]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _look(self) -> tuple[str, str, int]:
        return self._tokens[min(self._at, len(self._tokens) - 1)]

    def _wrong(self, reason: str) -> DecodeError:
        return DecodeError(what=f"graph, line {self._look()[2]}", reason=reason)


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[1] if found[1] in '"\\' else found[0])


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise DecodeError(what=f"graph, line {line}", reason="not a word of the dialect")
        if found.lastgroup != "blank":
            yield str(found.lastgroup), found[0], line
        line += found[0].count("\n")
        at = found.end()
    yield "end", "", line
