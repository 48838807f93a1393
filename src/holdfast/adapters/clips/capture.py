"""
The state of a memory as parts, and back.

Facts go back in the order of their indices, with the gaps between them, so that the next one
gets the number it would have got. What is on the agenda then are all matches; those that are
not in the capture had fired, so they are deleted. Whether the rest is what it was, order
included, is not believed but compared: who restores captures again.

What a capture would lose it refuses by name: facts that live by other facts (who supports whom
cannot be read), objects, addresses, conditions that would be evaluated with other values.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from clips._clips import ffi, lib

from holdfast.adapters.clips.facts import unpacked
from holdfast.adapters.clips.library import liner
from holdfast.adapters.clips.values import read
from holdfast.core import codec
from holdfast.core.deadline import Deadline
from holdfast.core.errors import HoldfastError
from holdfast.core.refusal import NotCapturedError, NotRestoredError

if TYPE_CHECKING:
    from holdfast.adapters.clips.memory import ClipsMemory

PART_FACTS: Final = 100
_BURN: Final = (
    "(deffunction holdfast-burn (?n) "
    "(loop-for-count (?i 1 ?n) do (retract (assert (holdfast-gap)))))"
)


_Facts = list[tuple[int, str, msgspec.Raw]]
_NAMES_A_FACT: Final = msgspec.msgpack.encode(["f", 0])[:-1]
"""How the address of a fact begins; what does not hold this names no fact."""
_packed = msgspec.msgpack.Encoder().encode


class Head(msgspec.Struct, frozen=True):
    """Everything but the facts."""

    facts: int
    next: int
    strategy: int
    salience: int
    duplication: bool
    module: str
    focus: list[str]
    globals: list[tuple[str, Any]]
    deadlines: list[tuple[int, Deadline]]
    agenda: list[tuple[str, list[str]]]


def capture(memory: "ClipsMemory") -> Iterator[bytes]:
    """Give the state: a head, then facts in the order of their indices."""
    yield from _check(memory)
    facts = sorted(memory.facts.by_index.items())
    head = Head(
        len(facts),
        memory.facts.next,
        lib.GetStrategy(memory.raw),
        lib.GetSalienceEvaluation(memory.raw),
        bool(lib.GetFactDuplication(memory.raw)),
        _name(lib.GetCurrentModule(memory.raw)),
        focus_of(memory),
        globals_of(memory),
        sorted(memory.deadlines.items()),
        agenda_of(memory),
    )
    yield msgspec.msgpack.encode(head)
    for start in range(0, len(facts), PART_FACTS):
        some = facts[start : start + PART_FACTS]
        yield _packed([[index, each.template, msgspec.Raw(each.kept)] for index, each in some])


def _check(memory: "ClipsMemory") -> Iterator[bytes]:
    """Look at everything a capture would rely on, with pauses."""
    if memory.rules.reasons:
        raise NotCapturedError(reason=memory.rules.reasons[0])
    if memory.listener.supported:
        first = min(memory.listener.supported)
        raise NotCapturedError(reason=f"fact {first} lives by what a rule found (logical)")
    if not memory.listener.hears_all:
        raise NotCapturedError(reason="this build of CLIPS does not tell which indices it used")
    if lib.GetNextInstance(memory.raw, ffi.NULL) != ffi.NULL:
        raise NotCapturedError(reason="there are objects")
    _check_list(memory)
    yield b""
    indices = sorted(memory.facts.by_index)
    for start in range(0, len(indices), PART_FACTS):
        some = indices[start : start + PART_FACTS]
        if (index := memory.facts.differing(some)) is not None:
            raise NotCapturedError(reason=f"fact {index} is not what was put there")
        _check_addresses(memory, some)
        yield b""


def _check_list(memory: "ClipsMemory") -> None:
    """CLIPS 6.4 loses facts from its own list after some modifications; never keep that."""
    listed: list[int] = []
    fact = lib.GetNextFact(memory.raw, ffi.NULL)
    while fact != ffi.NULL:
        listed.append(lib.FactIndex(fact))
        fact = lib.GetNextFact(memory.raw, fact)
    if listed != sorted(memory.facts.by_index):
        raise NotCapturedError(reason="the engine lists other facts than it holds")


def _check_addresses(memory: "ClipsMemory", some: list[int]) -> None:
    there = memory.facts.by_index
    for index in some:
        if _NAMES_A_FACT not in there[index].kept:
            continue
        for value in _members(unpacked(there[index].kept)):
            if isinstance(value, list) and value[0] == "f" and value[1] not in there:
                raise NotCapturedError(
                    reason=f"fact {index} names fact {value[1]}, which was retracted"
                )


def _members(values: list[Any]) -> Iterator[Any]:
    for value in values:
        yield value
        if isinstance(value, list) and value[0] == "m":
            yield from value[1]


def _name(module: Any) -> str:
    return str(ffi.string(lib.DefmoduleName(module)).decode())


def _modules(memory: "ClipsMemory") -> Iterator[Any]:
    module = lib.GetNextDefmodule(memory.raw, ffi.NULL)
    while module != ffi.NULL:
        yield module
        module = lib.GetNextDefmodule(memory.raw, module)


def focus_of(memory: "ClipsMemory") -> list[str]:
    box = ffi.new("CLIPSValue *")
    lib.Eval(memory.raw, b"(get-focus-stack)", box)
    return [item[1] for item in read(box, "focus")[1]]


def globals_of(memory: "ClipsMemory") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    box = ffi.new("CLIPSValue *")
    for module in in_each(memory):
        each = lib.GetNextDefglobal(memory.raw, ffi.NULL)
        while each != ffi.NULL:
            name = f"{_name(module)}::{ffi.string(lib.DefglobalName(each)).decode()}"
            lib.DefglobalGetValue(each, box)
            found.append((name, read(box, f"global {name}")))
            each = lib.GetNextDefglobal(memory.raw, each)
    return found


def in_each(memory: "ClipsMemory") -> Iterator[Any]:
    """Give every module while it is the current one."""
    current = lib.GetCurrentModule(memory.raw)
    try:
        for module in list(_modules(memory)):
            lib.SetCurrentModule(memory.raw, module)
            yield module
    finally:
        lib.SetCurrentModule(memory.raw, current)


def agenda_of(memory: "ClipsMemory") -> list[tuple[str, list[str]]]:
    """Return what is pending, by module, in order, in the engine's own words."""
    found: list[tuple[str, list[str]]] = []
    for module in in_each(memory):
        found.append((_name(module), [line for _, line in activations(memory)]))
    return found


def activations(memory: "ClipsMemory") -> list[tuple[Any, str]]:
    """Return what is pending in the current module."""
    line_of = liner(memory.env)
    found: list[tuple[Any, str]] = []
    each = lib.GetNextActivation(memory.raw, ffi.NULL)
    while each != ffi.NULL:
        found.append((each, line_of(each)))
        each = lib.GetNextActivation(memory.raw, each)
    return found


# Back.


def restore(memory: "ClipsMemory", part: bytes) -> None:
    """
    Take one part: first the head, then facts until all are there.

    Raises:
        NotRestoredError: it is not such a part, or something else came of it.
    """
    try:
        if memory.coming is None:
            _begin(memory, codec.decode_as(part, Head, "state"))
        else:
            _take(memory, codec.decode_as(part, _Facts, "facts"))
        head = memory.coming
        if head is not None and len(memory.facts.by_index) >= head.facts:
            _finish(memory, head)
    except (msgspec.ValidationError, LookupError, TypeError, ValueError) as error:
        raise NotRestoredError(reason=f"not a part of a state: {error}") from error
    except NotRestoredError:
        raise
    except HoldfastError as error:
        raise NotRestoredError(reason=str(error)) from error


def _begin(memory: "ClipsMemory", head: Head) -> None:
    memory.coming = head
    memory.voices.silence("conditions call a function, whose answer may have changed")
    lib.Eval(memory.raw, b"(retract *)", ffi.new("CLIPSValue *"))
    lib.SetStrategy(memory.raw, head.strategy)
    lib.SetSalienceEvaluation(memory.raw, head.salience)
    lib.SetFactDuplication(memory.raw, True)
    lib.Build(memory.raw, _BURN.encode())
    for name, value in head.globals:
        lib.DefglobalSetValue(memory.global_of(name), memory.value(value))


def _take(memory: "ClipsMemory", facts: _Facts) -> None:
    for index, template, kept in facts:
        if index > memory.facts.next:
            _burn(memory, index)
        if memory.put(template, unpacked(kept)) != index:
            raise NotRestoredError(reason=f"fact {index} got another index")
        memory.take_over(index, bytes(kept))


def _burn(memory: "ClipsMemory", until: int) -> None:
    """Use up indices, so that the next fact gets this one."""
    gap = until - memory.facts.next
    if gap > 0:
        lib.Eval(memory.raw, b"(holdfast-burn %d)" % gap, ffi.new("CLIPSValue *"))
        memory.note()
        memory.facts.next = until


def _finish(memory: "ClipsMemory", head: Head) -> None:
    if memory.voices.failure:
        raise NotRestoredError(reason=memory.voices.failure)
    _burn(memory, head.next)
    pending = dict(head.agenda)
    for module in in_each(memory):
        _reconcile(memory, pending.get(_name(module), []))
    lib.ClearFocusStack(memory.raw)
    for name in reversed(head.focus):
        lib.Focus(memory.module(name))
    lib.SetCurrentModule(memory.raw, memory.module(head.module))
    lib.SetFactDuplication(memory.raw, head.duplication)
    memory.deadlines = dict(head.deadlines)
    memory.voices.live()


def _reconcile(memory: "ClipsMemory", pending: list[str]) -> None:
    """Delete what had fired; what is left has to be what was pending."""
    wanted = set(pending)
    for activation, line in activations(memory):
        if line not in wanted:
            lib.DeleteActivation(activation)
    left = [line for _, line in activations(memory)]
    if left != pending:
        raise NotRestoredError(
            reason=f"{len(pending)} activations were pending, {len(left)} are, or in another order"
        )
