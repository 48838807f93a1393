"""
A machine draws itself, from its table: as Mermaid for pages, as DOT for Graphviz.

Names and captions are quoted, so that no name can change the drawing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # A machine draws itself, so it imports this.
    from holdfast.core.machine import Machine, State


def mermaid(machine: "Machine") -> str:
    """Return the machine as a Mermaid state diagram."""
    ids = _ids(machine)
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_plain(name)}" as {short}' for name, short in ids.items()]
    lines.append(f"    [*] --> {ids[machine.initial]}")
    for begin, end, caption in _arrows(machine):
        text = f" : {_plain(caption)}" if caption else ""
        lines.append(f"    {ids[begin]} --> {ids[end]}{text}")
    lines += [f"    {ids[name]} --> [*]" for name in sorted(machine.final)]
    return "\n".join(lines) + "\n"


def dot(machine: "Machine") -> str:
    """Return the machine as a DOT digraph."""
    lines = [f"digraph {_quoted(machine.name)} {{", "    rankdir=LR;"]
    for state in machine.states.values():
        lines.append(f"    {_quoted(state.name)} [shape={_figure(machine, state)}];")
    lines += [f"    {_quoted(name)} [shape=doublecircle];" for name in sorted(machine.final)]
    for begin, end, caption in _arrows(machine):
        label = f" [label={_quoted(caption)}]" if caption else ""
        lines.append(f"    {_quoted(begin)} -> {_quoted(end)}{label};")
    return "\n".join(lines) + "\n}\n"


def _ids(machine: "Machine") -> dict[str, str]:
    names = [*machine.states, *sorted(machine.final)]
    return {name: f"s{number}" for number, name in enumerate(names)}


def _arrows(machine: "Machine") -> Iterator[tuple[str, str, str]]:
    for state in machine.states.values():
        if state.branches is not None:
            for branch in state.branches.names:
                yield state.name, branch, "branch"
            yield state.name, state.branches.join, "join"
        for way in state.transitions:
            yield state.name, way.to, way.caption
        if state.failed is not None:
            yield state.name, state.failed, "failed"


def _figure(machine: "Machine", state: "State") -> str:
    if state.name == machine.initial:
        return "ellipse, style=bold"
    if state.question is not None:
        return "hexagon"
    return "component" if state.branches is not None else "box"


def _quoted(text: str) -> str:
    """Return a DOT string; a backslash would begin an escape, so it is doubled."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


def _plain(text: str) -> str:
    """Return text with every character that means something to Mermaid as an entity."""
    return "".join(
        letter if letter.isalnum() or letter in " _-.,()[]" else f"#{ord(letter)};"
        for letter in text
    )
