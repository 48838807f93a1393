"""
The state of a memory as parts, and back.

Facts go back in the order of their indices, with the gaps between them, so that the next one
gets the number it would have got. What is on the agenda then are all matches; those that are
not in the capture had fired, so they are deleted. Whether the rest is what it was, order
included, is not believed but compared: who restores captures again.

What a capture would lose it refuses by name: facts that live by other facts (who supports whom
cannot be read), objects, addresses, conditions that would be evaluated with other values.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
from clips._clips import ffi, lib

from holdfast.adapters.clips.arrivals import Arrivals
from holdfast.adapters.clips.facts import packed, unpacked
from holdfast.adapters.clips.library import liner, listed, unasked
from holdfast.adapters.clips.values import read
from holdfast.core import codec
from holdfast.core.deadline import Deadline
from holdfast.core.errors import HoldfastError
from holdfast.core.refusal import NotCapturedError, NotRestoredError

if TYPE_CHECKING:
    from holdfast.adapters.clips.memory import ClipsMemory

STEP: Final = 100
"""Facts of a part; of facts and activations, how many are looked at between two pauses."""
_GAP: Final = "holdfast-gap"
_BURN: Final = (
    f"(deffunction holdfast-burn (?n) (loop-for-count (?i 1 ?n) do (retract (assert ({_GAP})))))"
)


_Facts = list[tuple[int, str, msgspec.Raw]]
_Run = list[tuple[int, str, bytes]]
_SEED_MAX: Final = 2**31 - 1
_NAMES_A_FACT: Final = msgspec.msgpack.encode(["f", 0])[:-1]
"""How the address of a fact begins; what does not hold this names no fact."""


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
    relations: list[str] = []
    """Of ordered facts, also without one: who sees a relation asserts into the module it is in."""


def capture(memory: "ClipsMemory") -> Iterator[bytes]:
    """Give the state: a head, then facts in the order of their indices; empty parts are pauses."""
    yield from _check(memory)
    there = memory.facts.by_index
    indices = sorted(there)
    agenda: dict[str, list[str]] = {}
    for number, (module, line) in enumerate(agenda_of(memory), 1):
        agenda.setdefault(module, []).append(line)
        if number % STEP == 0:
            yield b""
    yield msgspec.msgpack.encode(_head(memory, list(agenda.items())))
    for start in range(0, len(indices), STEP):
        some = [(index, there[index]) for index in indices[start : start + STEP]]
        yield packed([[index, each.template.name, msgspec.Raw(each.kept)] for index, each in some])


def _head(memory: "ClipsMemory", agenda: list[tuple[str, list[str]]]) -> Head:
    return Head(
        len(memory.facts.by_index),
        memory.facts.next,
        lib.GetStrategy(memory.raw),
        lib.GetSalienceEvaluation(memory.raw),
        bool(lib.GetFactDuplication(memory.raw)),
        _name(lib.GetCurrentModule(memory.raw)),
        focus_of(memory),
        globals_of(memory),
        sorted(memory.deadlines.items()),
        agenda,
        sorted(_relations(memory)),
    )


def _relations(memory: "ClipsMemory") -> Iterator[str]:
    """Give the relations of ordered facts by their modules, but for that of a restore."""
    for module in in_each(memory):
        each = lib.GetNextDeftemplate(memory.raw, ffi.NULL)
        while each != ffi.NULL:
            name = ffi.string(lib.DeftemplateName(each)).decode()
            if lib.ImpliedDeftemplate(each) and name != _GAP:
                yield f"{_name(module)}::{name}"
            each = lib.GetNextDeftemplate(memory.raw, each)


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
    indices = sorted(memory.facts.by_index)
    yield from _check_list(memory, indices)
    for start in range(0, len(indices), STEP):
        some = indices[start : start + STEP]
        if (index := memory.facts.differing(some)) is not None:
            raise NotCapturedError(reason=f"fact {index} is not what was put there")
        _check_addresses(memory, some)
        yield b""


def _check_list(memory: "ClipsMemory", indices: list[int]) -> Iterator[bytes]:
    """CLIPS 6.4 loses facts from its own list after some modifications; never keep that."""
    facts = map(lib.FactIndex, listed(memory.raw))
    for start in range(0, len(indices) + 1, STEP):
        if list(islice(facts, STEP)) != indices[start : start + STEP]:
            raise NotCapturedError(reason="the engine lists other facts than it holds")
        yield b""


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
    with unasked(memory.env):
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


def agenda_of(memory: "ClipsMemory") -> Iterator[tuple[str, str]]:
    """Give what is pending, in order, in the engine's own words, each with its module."""
    for module in in_each(memory):
        name = _name(module)
        for _, line in activations(memory):
            yield name, line


def activations(memory: "ClipsMemory") -> Iterator[tuple[Any, str]]:
    """Give what is pending in the current module; what was given may be deleted."""
    line_of = liner(memory.env)
    each = lib.GetNextActivation(memory.raw, ffi.NULL)
    while each != ffi.NULL:
        following = lib.GetNextActivation(memory.raw, each)
        yield each, line_of(each)
        each = following


# Back.


def restore(memory: "ClipsMemory", parts: Iterable[bytes]) -> Iterator[None]:
    """
    Take a head, then facts until all are there, step by step.

    Raises:
        NotRestoredError: they are not such parts, or something else came of them.
    """
    try:
        yield from _restore(memory, iter(parts))
    except (msgspec.ValidationError, LookupError, TypeError, ValueError) as error:
        raise NotRestoredError(reason=f"not a part of a state: {error}") from error
    except NotRestoredError:
        raise
    except HoldfastError as error:
        raise NotRestoredError(reason=str(error)) from error


def _restore(memory: "ClipsMemory", parts: Iterator[bytes]) -> Iterator[None]:
    head = codec.decode_as(next(parts, b""), Head, "state")
    _begin(memory, head)
    yield
    arrivals = Arrivals(memory.raw, memory.facts, memory.listener, memory.builder)
    try:
        for part in parts:
            yield from _take(memory, arrivals, codec.decode_as(part, _Facts, "facts"))
            yield
    finally:
        arrivals.release()
    if len(memory.facts.by_index) != head.facts:
        raise NotRestoredError(
            reason=f"{len(memory.facts.by_index)} facts came of it, there were {head.facts}"
        )
    yield from _finish(memory, head)


def _begin(memory: "ClipsMemory", head: Head) -> None:
    memory.voices.silence("conditions call a function, whose answer may have changed")
    with unasked(memory.env):
        lib.Eval(memory.raw, b"(retract *)", ffi.new("CLIPSValue *"))
        lib.Build(memory.raw, _BURN.encode())
    lib.SetStrategy(memory.raw, head.strategy)
    lib.SetSalienceEvaluation(memory.raw, head.salience)
    lib.SetFactDuplication(memory.raw, True)
    for relation in head.relations:
        memory.builder.relate(relation)
    for name, value in head.globals:
        lib.DefglobalSetValue(memory.global_of(name), memory.builder.value(value))


def _take(memory: "ClipsMemory", arrivals: Arrivals, facts: _Facts) -> Iterator[None]:
    run: _Run = []
    following = memory.facts.next
    for index, template, kept in facts:
        if index != following:
            _bring(memory, arrivals, run)
            run = []
            yield from _burn(memory, index)
        run.append((index, template, bytes(kept)))
        following = index + 1
    _bring(memory, arrivals, run)


def _bring(memory: "ClipsMemory", arrivals: Arrivals, run: _Run) -> None:
    if run:
        # CLIPS draws a number for whatever becomes pending, and goes by it once the strategy is
        # random; all engines of a process draw from one generator.
        memory.listener.seed(run[0][0] & _SEED_MAX)
        arrivals.bring(run)


def _burn(memory: "ClipsMemory", until: int) -> Iterator[None]:
    """Use up indices, so that the next fact gets this one."""
    while (gap := min(until - memory.facts.next, STEP)) > 0:
        before = memory.facts.next
        lib.Eval(memory.raw, b"(holdfast-burn %d)" % gap, ffi.new("CLIPSValue *"))
        memory.note()
        if memory.facts.next != before + gap:
            raise NotRestoredError(reason=f"index {before} could not be used up")
        yield


def _finish(memory: "ClipsMemory", head: Head) -> Iterator[None]:
    if memory.voices.failure:
        raise NotRestoredError(reason=memory.voices.failure)
    yield from _burn(memory, head.next)
    pending = dict(head.agenda)
    for module in in_each(memory):
        yield from _reconcile(memory, pending.get(_name(module), []))
    lib.ClearFocusStack(memory.raw)
    for name in reversed(head.focus):
        lib.Focus(memory.module(name))
    lib.SetCurrentModule(memory.raw, memory.module(head.module))
    lib.SetFactDuplication(memory.raw, head.duplication)
    memory.deadlines = dict(head.deadlines)
    memory.voices.live()


def _reconcile(memory: "ClipsMemory", pending: list[str]) -> Iterator[None]:
    """Delete what had fired; what is left has to be what was pending."""
    wanted = set(pending)
    left: list[str] = []
    for number, (activation, line) in enumerate(activations(memory), 1):
        if line in wanted:
            left.append(line)
        else:
            lib.DeleteActivation(activation)
        if number % STEP == 0:
            yield
    if left != pending:
        raise NotRestoredError(
            reason=f"{len(pending)} activations were pending, {len(left)} are, or in another order"
        )
