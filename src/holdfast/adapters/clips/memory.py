"""
One working memory of CLIPS: operations go in one way, whoever asks for them.

A caller's function, a replay and a restore all come down to `_execute`, which does one
operation in plain values. What it changed is heard from the engine, and a digest of all facts
is kept up to date: the sum of one digest per fact, so that the order does not count and a change
costs what changed.

Invariants: an operation that raised before it changed anything is not in the request; one that
may have changed something makes the request fail as a whole; `facts` is what the engine holds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final, NoReturn, cast

import clips
import msgspec
from clips._clips import ffi, lib
from clips.common import CLIPSError

from holdfast.adapters.clips.builder import Builder, slot_error
from holdfast.adapters.clips.capture import activations, capture, in_each, restore
from holdfast.adapters.clips.facts import DIGEST_BYTES, Facts
from holdfast.adapters.clips.hands import Hands
from holdfast.adapters.clips.library import Listener, listener, unasked
from holdfast.adapters.clips.rules import Rules
from holdfast.adapters.clips.values import (
    Fact,
    FactAddress,
    decoded,
    encoded_slots,
    read,
)
from holdfast.adapters.clips.voices import Function, Outlet, Voices
from holdfast.core.clock import StoreTime
from holdfast.core.deadline import Deadline, ending_in, rebased, remaining
from holdfast.core.engine import Request
from holdfast.core.errors import HoldfastError, InvalidValueError
from holdfast.core.refusal import EvaluationError, NotRestoredError, RulesRefusedError


class ClipsMemory:
    """
    One engine with its facts.

    Attributes:
        env: clipspy's environment.
        facts: what is there.
        builder: asserts facts.
        deadlines: of facts that end by themselves, by index.
        voices: functions that rules call.
        listener: who hears what happens.
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
        self.env.add_router(Outlet(self.voices))
        self.listener: Listener = listener(self.env, rules.supporting)
        self.facts = Facts(self.listener)
        self.builder = Builder(
            self.raw, self.facts, self.listener, self.voices, modules=rules.modules
        )
        self.deadlines: dict[int, Deadline] = {}
        self.hands = Hands(self)
        self._ttl = ttl
        self._operations: list[Any] = []
        self._now: tuple[StoreTime, float] = (StoreTime("", 0.0), 0.0)
        self._is_raw = True
        self._is_closed = False

    def _build(self, functions: dict[str, Function]) -> None:
        with unasked(self.env):
            for name, function in functions.items():
                self.env.define_function(self.voices.function(name, function), name)
            wrong = next((one for one in self.rules.constructs if not self._built(one)), "")
        if wrong:
            self._refuse(wrong)

    def _built(self, construct: str) -> bool:
        return bool(lib.Build(self.raw, construct.encode()) == lib.BE_NO_ERROR)

    def _refuse(self, construct: str) -> NoReturn:
        """Build once more what cannot be built, for the engine's words."""
        words = "the engine does not say why"
        try:
            self.env.build(construct)
        except CLIPSError as error:
            words = str(error)
        raise RulesRefusedError(
            where=" ".join(construct.split()[:2]), reason=f"cannot be built: {words}"
        )

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
            self._limit(new)
        return result

    def assert_slots(self, template: str, slots: dict[str, Any]) -> Fact:
        """Assert a fact, and keep that; the operation there is most of, in fewest steps."""
        held, index = self.builder.by_slots(template, slots)
        self._operations.append(["a", template, slots])
        if held is None:
            self._limit(self.note())
            return self.shown(index)
        if self._ttl:
            self._limit([index])
            return self.shown(index)
        return Fact(index, held.template.name, held)

    def _limit(self, new: Sequence[int]) -> None:
        """Give new facts the time to live of their templates."""
        for index in new:
            seconds = self._ttl.get(self.facts.get(index).template.name)
            if seconds is not None:
                self.do(["t", index, self.deadline(seconds)])

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
                self._redo(operation)
        except (HoldfastError, CLIPSError, LookupError, TypeError, ValueError) as error:
            raise NotRestoredError(reason=f"an operation fails: {error}") from error
        if self.voices.failure or self.voices.left:
            reason = self.voices.failure or f"{self.voices.left} answers were not asked for"
            raise NotRestoredError(reason=reason)
        self._operations = request.operations
        return self._request()

    def close(self) -> None:
        """Let the engine go; it ends here, in this thread, with all it holds."""
        if not self._is_closed:
            self._is_closed = True
            self.listener.close()
            self.facts.clear()
            # Who still has hands to work with finds nothing, instead of freed memory.
            self.builder.close()
            self.env = self.raw = None

    def __del__(self) -> None:
        """Let go of the engine also if nobody said so."""
        if not getattr(self, "_is_closed", True):
            self.close()

    # Operations.

    def _execute(self, operation: list[Any]) -> Any:
        return getattr(self, _METHODS[operation[0]])(*operation[1:])

    def _redo(self, operation: list[Any]) -> None:
        if operation[0] != "a":
            self._execute(operation)
        elif self.builder.by_slots(*operation[1:])[0] is not None:
            return
        self.note()

    def _do_assert(self, template: str, slots: dict[str, Any]) -> int:
        return self.builder.by_slots(template, slots)[1]

    def _do_ordered(self, relation: str, values: list[Any]) -> int:
        return self.builder.ordered(relation, values)

    def _do_string(self, text: str) -> int:
        fact = lib.AssertString(self.raw, text.encode())
        return self.builder.asserted(fact, "the text")

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
                code = lib.FMPutSlot(modifier, slot.encode(), self.builder.value(value))
                if code != lib.PSE_NO_ERROR:
                    raise slot_error(held.template.name, slot, code)
            return self.builder.asserted(lib.FMModify(modifier), f"fact {index}")
        finally:
            lib.FMDispose(modifier)

    def _do_run(self, limit: int | None) -> int:
        fired = int(lib.Run(self.raw, -1 if limit is None else limit))
        if self.voices.failure:
            raise EvaluationError(reason=self.voices.failure)
        return fired

    def _do_reset(self) -> None:
        self.deadlines.clear()
        self.facts.begin_anew(self.listener.reset())

    def _do_eval(self, text: str) -> Any:
        box = ffi.new("CLIPSValue *")
        if lib.Eval(self.raw, text.encode(), box) != lib.EE_NO_ERROR or self.voices.failure:
            self.voices.fail(f"{text[:60]} could not be evaluated")
            raise EvaluationError(reason=self.voices.failure)
        return decoded(read(box, "the result"))

    def _do_global(self, name: str, value: Any) -> None:
        lib.DefglobalSetValue(self.global_of(name), self.builder.value(value))

    def _do_strategy(self, number: int) -> None:
        lib.SetStrategy(self.raw, number)

    def _do_salience(self, number: int) -> None:
        lib.SetSalienceEvaluation(self.raw, number)

    def _do_duplication(self, allowed: bool) -> None:
        lib.SetFactDuplication(self.raw, allowed)

    def _do_focus(self, module: str) -> None:
        lib.Focus(self.module(module))

    # Facts.

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
        held = self.facts.get(index)
        return Fact(index, held.template.name, held, self.deadlines.get(index))

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
                index = self.assert_slots(fact.template, slots).index
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

    def restore(self, parts: Iterable[bytes]) -> Iterator[None]:
        """Take a state, part by part and step by step."""
        self._is_raw = False
        return restore(self, parts)


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
