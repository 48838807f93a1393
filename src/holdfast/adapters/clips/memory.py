"""
One working memory of CLIPS: operations go in one way, whoever asks for them.

A caller's function, a replay and a restore all come down to `_execute`, which does one
operation in plain values. What it changed is heard from the engine, and a digest of all facts
is kept up to date: the sum of one digest per fact, so that the order does not count and a change
costs what changed.

Invariants: an operation that raised before it changed anything is not in the request; one that
may have changed something makes the request fail as a whole; `facts` is what the engine holds.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final, cast

import clips
import msgspec
from clips._clips import ffi, lib
from clips.common import CLIPSError, environment_builder

from holdfast.adapters.clips.capture import Head, activations, capture, in_each, restore
from holdfast.adapters.clips.facts import DIGEST_BYTES, Facts
from holdfast.adapters.clips.hands import Hands
from holdfast.adapters.clips.library import Listener, listener
from holdfast.adapters.clips.rules import Rules
from holdfast.adapters.clips.values import (
    Fact,
    FactAddress,
    decoded,
    encoded_slots,
    put_slots,
    read,
    write,
)
from holdfast.adapters.clips.voices import Function, Outlet, Voices
from holdfast.core.clock import StoreTime
from holdfast.core.deadline import Deadline, ending_in, rebased, remaining
from holdfast.core.engine import Request
from holdfast.core.errors import HoldfastError, InvalidValueError
from holdfast.core.refusal import EvaluationError, NotRestoredError, RulesRefusedError

_ASSERTING: Final = (
    "(deffunction {name} ($?v) (bind ?f (assert ({relation} $?v))) "
    "(if ?f then (fact-index ?f) else -1))"
)


class ClipsMemory:
    """
    One engine with its facts.

    Attributes:
        env: clipspy's environment.
        facts: what is there.
        deadlines: of facts that end by themselves, by index.
        voices: functions that rules call.
        listener: who hears what happens.
        coming: the head of the state that is being restored, if one is.
    """

    def __init__(
        self,
        rules: Rules,
        functions: dict[str, Function],
        ttl: dict[str, float],
        output: Callable[[str], None],
    ) -> None:
        """
        Make an engine with these rules.

        Raises:
            RulesRefusedError: CLIPS does not take them.
        """
        self.env: Any = clips.Environment()
        self.raw: Any = self.env._env
        self.rules = rules
        self.voices = Voices(output)
        self._build(functions)
        # After the rules: while CLIPS parses, it asks every router about every character.
        self._builder: Any = environment_builder(self.raw, "fact")
        self._box: Any = ffi.new("CLIPSValue *")
        self.env.add_router(Outlet(self.voices))
        self.listener: Listener = listener(self.env, rules.supporting)
        self.facts = Facts(self.listener)
        self.deadlines: dict[int, Deadline] = {}
        self.hands = Hands(self)
        self._ttl = ttl
        self._relations: set[str] = set()
        self._slots: dict[str, tuple[bytes | None, ...]] = {}
        self._operations: list[Any] = []
        self._now: tuple[StoreTime, float] = (StoreTime("", 0.0), 0.0)
        self.coming: Head | None = None
        self._is_raw = True
        self._is_closed = False

    def _build(self, functions: dict[str, Function]) -> None:
        for name, function in functions.items():
            self.env.define_function(self.voices.function(name, function), name)
        for construct in self.rules.constructs:
            try:
                self.env.build(construct)
            except CLIPSError as error:
                raise RulesRefusedError(
                    where=" ".join(construct.split()[:2]), reason=f"cannot be built: {error}"
                ) from error

    def plain(self, value: Any) -> Any:
        """Return an answer in plain values: symbols become strings, facts become dicts."""
        match value:
            case Fact():
                return {slot or "values": self.plain(item) for slot, item in value.values.items()}
            case FactAddress():
                return value.index
            case str():
                return str.__str__(value)
            case list() | tuple():
                return [self.plain(item) for item in cast(list[Any], value)]
            case dict():
                return self._plain_dict(value)  # pyright: ignore[reportUnknownArgumentType]
            case _:
                return value

    def _plain_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        return {self.plain(key): self.plain(item) for key, item in value.items()}

    # Requests.

    def begin(self, seed: int, now: StoreTime, wall: float) -> None:
        """Begin a request; facts whose time is over go first."""
        self._wake(seed)
        self.voices.live()
        self._now = (now, wall)
        for index, deadline in sorted(self.deadlines.items()):
            if remaining(deadline, now, wall) <= 0:
                self.do(["x", index])
            elif deadline.domain != now.domain:
                self.do(["t", index, list(msgspec.structs.astuple(rebased(deadline, now, wall)))])

    def _wake(self, seed: int) -> None:
        self._operations = []
        self.listener.begin()
        self.listener.seed(seed)
        if self._is_raw:
            self._is_raw = False
            self._do_reset()
            self.note()

    def do(self, operation: list[Any]) -> Any:
        """Do one operation of a caller, and keep it."""
        result = self._execute(operation)
        self._operations.append(operation)
        new = self.note()
        if self._ttl and operation[0] != "t":
            for index in new:
                seconds = self._ttl.get(self.facts.get(index).template)
                if seconds is not None:
                    self.do(["t", index, self.deadline(seconds)])
        return result

    def deadline(self, seconds: float) -> list[Any]:
        """Return the end of what ends in so many seconds, as it is kept."""
        return list(msgspec.structs.astuple(ending_in(seconds, *self._now)))

    def end(self) -> Request:
        """
        Return what was done since `begin`.

        Raises:
            EvaluationError: rules or functions failed.
        """
        if self.voices.failure:
            raise EvaluationError(reason=self.voices.failure)
        return self._request()

    def _request(self) -> Request:
        fired = self.listener.fired
        trace = blake2b("\n".join(fired).encode(), digest_size=DIGEST_BYTES).digest()
        return Request(self._operations, self.voices.heard, len(fired), trace, self.facts.digest)

    def redo(self, request: Request, seed: int) -> Request:
        """
        Do a request again.

        Raises:
            NotRestoredError: it cannot be done here.
        """
        self._wake(seed)
        self.voices.replay(request.heard)
        try:
            for operation in request.operations:
                self._execute(operation)
                self.note()
        except (HoldfastError, CLIPSError, LookupError, TypeError, ValueError) as error:
            raise NotRestoredError(reason=f"an operation fails: {error}") from error
        if self.voices.failure or self.voices.left:
            reason = self.voices.failure or f"{self.voices.left} answers were not asked for"
            raise NotRestoredError(reason=reason)
        self._operations = request.operations
        return self._request()

    def close(self) -> None:
        """Let the engine go; it ends with the last who refers to it."""
        if not self._is_closed:
            self._is_closed = True
            self.listener.close()
            self.facts.clear()

    def __del__(self) -> None:
        """Let go of the engine also if nobody said so."""
        if not getattr(self, "_is_closed", True):
            self.close()

    # Operations.

    def _execute(self, operation: list[Any]) -> Any:
        return getattr(self, _METHODS[operation[0]])(*operation[1:])

    def _do_assert(self, template: str, slots: dict[str, Any]) -> int:
        index = self._put(template, [(slot.encode(), value) for slot, value in slots.items()])
        self.facts.give(index, slots)
        return index

    def _put(self, template: str, slots: Iterable[tuple[bytes | None, Any]]) -> int:
        builder = self._builder
        if lib.FBSetDeftemplate(builder, template.encode()) != lib.FBE_NO_ERROR:
            raise InvalidValueError(
                what=f"template {template!r}",
                reason="is not defined with slots; ordered facts take values, not slots",
            )
        try:
            refused = put_slots(self.raw, builder, slots, self._address, self._box)
            if refused is not None:
                raise _slot_error(template, *refused)
        except BaseException:
            lib.FBAbort(builder)
            raise
        return self._asserted(lib.FBAssert(builder), template)

    def _asserted(self, fact: Any, what: str) -> int:
        if not fact:
            self.voices.fail(f"{what} could not be asserted")
            raise EvaluationError(reason=self.voices.failure)
        return int(lib.FactIndex(fact))

    def _do_ordered(self, relation: str, values: list[Any]) -> int:
        builder = environment_builder(self.raw, "function")
        name = self._asserting(relation)
        lib.FCBReset(builder)
        for value in values:
            lib.FCBAppend(builder, self.value(value))
        box = ffi.new("CLIPSValue *")
        code = lib.FCBCall(builder, name.encode(), box)
        if code != lib.FCBE_NO_ERROR or self.voices.failure:
            self.voices.fail(f"({relation} ...) could not be asserted")
            raise EvaluationError(reason=self.voices.failure)
        return int(read(box, relation))

    def _asserting(self, relation: str) -> str:
        """Return the function that asserts facts of a relation; CLIPS has no builder for them."""
        module, mark, bare = relation.rpartition("::")
        name = f"{module}{mark}holdfast-assert-{bare}"
        if name not in self._relations:
            current = lib.GetCurrentModule(self.raw)
            text = _ASSERTING.format(name=name, relation=bare)
            code = lib.Build(self.raw, text.encode())
            lib.SetCurrentModule(self.raw, current)
            if code != lib.BE_NO_ERROR:
                self.voices.forgive()
                raise InvalidValueError(
                    what=f"relation {relation!r}", reason="is a template; give its slots by name"
                )
            self._relations.add(name)
        return name

    def _do_string(self, text: str) -> int:
        fact = lib.AssertString(self.raw, text.encode())
        return self._asserted(fact, "the text")

    def _do_retract(self, index: int) -> None:
        if lib.Retract(self.facts.get(index).address) != lib.RE_NO_ERROR:
            self.voices.fail(f"fact {index} could not be retracted")
            raise EvaluationError(reason=self.voices.failure)

    def _do_expire(self, index: int) -> None:
        if index in self.facts.by_index:
            self._do_retract(index)
        self.deadlines.pop(index, None)

    def _do_limit(self, index: int, deadline: list[Any]) -> None:
        self.facts.get(index)
        self.deadlines[index] = Deadline(*deadline)

    def _do_modify(self, index: int, slots: dict[str, Any]) -> int:
        held = self.facts.get(index)
        # One per operation: it holds on to its fact, also when rules have retracted that.
        modifier = lib.CreateFactModifier(self.raw, held.address)
        if modifier == ffi.NULL:
            raise InvalidValueError(what=f"fact {index}", reason="has no slots to modify")
        try:
            for slot, value in slots.items():
                code = lib.FMPutSlot(modifier, slot.encode(), self.value(value))
                if code != lib.PSE_NO_ERROR:
                    raise _slot_error(held.template, slot.encode(), code)
            return self._asserted(lib.FMModify(modifier), f"fact {index}")
        finally:
            lib.FMDispose(modifier)

    def _do_run(self, limit: int | None) -> int:
        fired = int(lib.Run(self.raw, -1 if limit is None else limit))
        if self.voices.failure:
            raise EvaluationError(reason=self.voices.failure)
        return fired

    def _do_reset(self) -> None:
        lib.Reset(self.raw)
        self.deadlines.clear()
        self.listener.supported.clear()
        self.facts.begin_anew()

    def _do_eval(self, text: str) -> Any:
        box = ffi.new("CLIPSValue *")
        if lib.Eval(self.raw, text.encode(), box) != lib.EE_NO_ERROR or self.voices.failure:
            self.voices.fail(f"{text[:60]} could not be evaluated")
            raise EvaluationError(reason=self.voices.failure)
        return decoded(read(box, "the result"))

    def _do_global(self, name: str, value: Any) -> None:
        lib.DefglobalSetValue(self.global_of(name), self.value(value))

    def _do_strategy(self, number: int) -> None:
        lib.SetStrategy(self.raw, number)

    def _do_salience(self, number: int) -> None:
        lib.SetSalienceEvaluation(self.raw, number)

    def _do_duplication(self, allowed: bool) -> None:
        lib.SetFactDuplication(self.raw, allowed)

    def _do_focus(self, module: str) -> None:
        lib.Focus(self.module(module))

    # Facts.

    def value(self, kept: Any) -> Any:
        """Return a value in a box that the engine takes."""
        return write(self.raw, kept, self._address, ffi.new("CLIPSValue *"))

    def _address(self, index: int) -> Any:
        return self.facts.get(index).address

    def global_of(self, name: str) -> Any:
        """
        Return a global.

        Raises:
            InvalidValueError: there is none of this name.
        """
        found = lib.FindDefglobal(self.raw, name.encode())
        if found == ffi.NULL:
            raise InvalidValueError(what=f"global {name!r}", reason="is not defined")
        return found

    def module(self, name: str) -> Any:
        """
        Return a module.

        Raises:
            InvalidValueError: there is none of this name.
        """
        found = lib.FindDefmodule(self.raw, name.encode())
        if found == ffi.NULL:
            raise InvalidValueError(what=f"module {name!r}", reason="is not defined")
        return found

    def note(self) -> list[int]:
        """Take over what the engine changed; return the facts that are new."""
        new, gone = self.facts.note()
        if self.deadlines:
            for index in gone:
                self.deadlines.pop(index, None)
        return new

    def shown(self, index: int) -> Fact:
        """Return a fact as a caller sees it."""
        return self.facts.shown(index, self.deadlines.get(index))

    def put(self, template: str, values: list[Any]) -> int:
        """Assert a fact by its values as they are kept, in the order of its slots."""
        slots = self._slots.get(template)
        if slots is None:
            found = lib.FindDeftemplate(self.raw, template.encode())
            slots = (None,) if found == ffi.NULL else self.facts.template(found).slots
            self._slots[template] = slots
        if slots == (None,):
            return self._do_ordered(template, values[0][1])
        return self._put(template, zip(slots, values, strict=True))

    def take_over(self, index: int, kept: bytes) -> None:
        """Note a fact that was just put there; a capture compares it with what is there."""
        came, gone = self.listener.changes()
        if len(came) != 1 or index not in came or gone:
            raise NotRestoredError(reason=f"fact {index} did more than to be there")
        self.facts.add(index, came[index], kept)

    # Other rules.

    def contents(self) -> list[Fact]:
        """Return the facts, in the order of their indices."""
        return [self.shown(index) for index in sorted(self.facts.by_index)]

    def take(self, contents: list[Fact]) -> None:
        """Assert facts of other rules; those of these rules alone are not among them."""
        for index in sorted(self.facts.by_index):
            self.do(["r", index])
        for fact in contents:
            slots = encoded_slots(fact.values)
            if "" in slots:
                index = self.do(["o", fact.template, slots[""][1]])
            else:
                index = self.do(["a", fact.template, slots])
            if fact.deadline is not None:
                self.do(["t", index, list(msgspec.structs.astuple(fact.deadline))])
        self.do(["q"])

    def _do_quiet(self) -> None:
        for module in in_each(self):
            del module
            for activation, _ in activations(self):
                lib.DeleteActivation(activation)

    # Snapshots.

    def capture(self) -> Iterator[bytes]:
        """Give the whole state, part by part; empty parts are pauses."""
        return capture(self)

    def restore(self, part: bytes) -> None:
        """Take one part of a state."""
        self._is_raw = False
        restore(self, part)


_METHODS: Final = {
    "a": "_do_assert",
    "o": "_do_ordered",
    "as": "_do_string",
    "r": "_do_retract",
    "x": "_do_expire",
    "t": "_do_limit",
    "m": "_do_modify",
    "run": "_do_run",
    "reset": "_do_reset",
    "e": "_do_eval",
    "g": "_do_global",
    "s": "_do_strategy",
    "se": "_do_salience",
    "d": "_do_duplication",
    "f": "_do_focus",
    "q": "_do_quiet",
}


def _slot_error(template: str, slot: bytes | None, code: int) -> InvalidValueError:
    reasons = {
        lib.PSE_SLOT_NOT_FOUND_ERROR: "is no slot of it",
        lib.PSE_TYPE_ERROR: "takes another type",
        lib.PSE_RANGE_ERROR: "is out of its range",
        lib.PSE_ALLOWED_VALUES_ERROR: "takes other values only",
        lib.PSE_CARDINALITY_ERROR: "takes another number of values",
    }
    reason = reasons.get(code, f"does not take the value (code {code})")
    return InvalidValueError(what=f"slot {(slot or b'').decode()!r} of {template!r}", reason=reason)
