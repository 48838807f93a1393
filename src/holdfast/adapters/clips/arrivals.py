"""
Facts of a state that is restored, on their way into an engine: many, of few templates, and
nobody looks at them meanwhile.

A run of facts with consecutive indices is asserted without hearing of each. CLIPS lets no
condition assert or retract meanwhile; and every fact that comes uses an index up, whoever asserts
it, and a retraction is heard: so if the last of a run, which is heard, has its index and nothing
else happened, all of them are what was put.

What has come stays until the end: so symbols and multifields that were put once are taken again
from the fact that holds them.

Invariants: until it is released it holds on to the engine; no fact goes meanwhile.
"""

from collections.abc import Sequence
from typing import Any, Final

from clips._clips import ffi, lib

from holdfast.adapters.clips.builder import Builder, slot_error
from holdfast.adapters.clips.facts import Facts, Template, packed, unpacked
from holdfast.adapters.clips.library import Listener
from holdfast.adapters.clips.values import write
from holdfast.core.refusal import NotRestoredError

_put_slot: Final = lib.FBPutSlot
_get_slot: Final = lib.GetFactSlot
_assert_built: Final = lib.FBAssert
_create_string: Final = lib.CreateString
_create_integer: Final = lib.CreateInteger
_create_float: Final = lib.CreateFloat
_ORDERED: Final = ("",)
"""Slots of an ordered fact: one, without a name."""
_DISTINCT: Final = 5_000
"""Values that are kept at hand at most; who has more has few of them twice."""

Kept = tuple[int, str, bytes]
"""Index, template and packed values of a fact."""


class Arrivals:
    """Brings facts into one engine; release it when all are there."""

    def __init__(self, raw: Any, facts: Facts, listener: Listener, builder: Builder) -> None:
        """Take the engine, what is in it, who hears what comes, and who asserts ordered facts."""
        self._raw = raw
        self._facts = facts
        self._listener = listener
        self._builder = builder
        self._box: Any = ffi.new("CLIPSValue *")
        self._prepared: dict[str, tuple[Any, Any]] = {}
        self._came: dict[int, tuple[Any, Template, bytes]] = {}
        self._at_hand: dict[bytes, Any] = {}

    def release(self) -> None:
        """Let the engine's builders go."""
        for _, prepared in self._prepared.values():
            if prepared is not None:
                lib.FBDispose(prepared)
        self._prepared.clear()
        self._at_hand.clear()

    def bring(self, run: Sequence[Kept]) -> None:
        """
        Assert facts with consecutive indices.

        Raises:
            NotRestoredError: they do not get their indices, or more came or went.
            InvalidValueError: a slot does not take its value.
        """
        came = self._came
        self._listener.deafen()
        try:
            for index, template, kept in run[:-1]:
                known, builder = self._prepared.get(template) or self._prepare(template)
                if builder is None:
                    self._put_heard(index, template, kept)
                else:
                    came[index] = self._put(known, builder, kept), known, kept
            self._put_heard(*run[-1])
        finally:
            self._listener.hear()
        self._facts.take(came)
        came.clear()

    def _put_heard(self, index: int, template: str, kept: bytes) -> None:
        """Assert a fact, and see that it was the only one, and that all before it were too."""
        known, builder = self._prepared.get(template) or self._prepare(template)
        self._listener.hear()
        try:
            if builder is None:
                self._builder.ordered(template, unpacked(kept)[0][1])
            else:
                self._put(known, builder, kept)
            heard, gone = self._listener.changes()
        finally:
            self._listener.deafen()
        if gone or list(heard) != [index]:
            raise NotRestoredError(
                reason=f"instead of fact {index} came {[*heard]}, went {[*gone]}"
            )
        if known is None:
            known = self._facts.template_of(heard[index])
            self._prepared[template] = known, builder
        self._came[index] = heard[index], known, kept

    def _address(self, index: int) -> Any:
        """Return the `Fact *` of a fact that is there."""
        came = self._came.get(index)
        return self._facts.address(index) if came is None else came[0]

    def _prepare(self, template: str) -> tuple[Any, Any]:
        """Return what is known of a template, and what builds its facts; None if it is ordered."""
        found = lib.FindDeftemplate(self._raw, template.encode())
        known = None if found == ffi.NULL else self._facts.template(found)
        builder = None
        if known is not None and known.names != _ORDERED:
            builder = lib.CreateFactBuilder(self._raw, template.encode())
        self._prepared[template] = known, builder
        return known, builder

    def _put(self, known: Template, builder: Any, kept: bytes) -> Any:
        """Assert a fact by its values in the order of its slots, and return it."""
        raw, box, at_hand = self._raw, self._box, self._at_hand
        new: list[tuple[bytes | None, bytes, Any]] = []
        for slot, value in zip(known.slots, unpacked(kept), strict=True):
            kind, put = type(value), box  # pyright: ignore[reportUnknownVariableType]
            if kind is str:
                box.value = _create_string(raw, value.encode())
            elif kind is int:
                box.value = _create_integer(raw, value)
            elif kind is float:
                box.value = _create_float(raw, value)
            elif kind is list:
                key = packed(value)
                if (put := at_hand.get(key)) is None:
                    put = write(raw, value, self._address, ffi.new("CLIPSValue *"))
                    new.append((slot, key, put))
            else:
                write(raw, value, self._address, box)
            if code := _put_slot(builder, slot, put):
                raise slot_error(known.name, (slot or b"").decode(), code)
        fact = _assert_built(builder)
        if not fact:
            raise NotRestoredError(reason=f"a fact of {known.name} could not be asserted")
        if new and len(at_hand) < _DISTINCT:
            for slot, key, put in new:
                _get_slot(fact, slot, put)  # What the fact holds stays; what was made for it goes.
                at_hand[key] = put
        return fact
