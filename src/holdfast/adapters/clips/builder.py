"""
Facts on their way into an engine: asserted by a caller, or by a replay.

What is asserted most, a fact of a template by its slots, is taken over without a look at it: if
the engine says that it came, and nothing else did, it is what was put. Anything else is left to
whoever notes what changed.

Invariants: a fact that was refused leaves nothing behind in the engine's builder; a template is
known by its name alone only where there are no modules, since the current one decides what a
name means.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from clips._clips import ffi, lib
from clips.common import environment_builder

from holdfast.adapters.clips.facts import Facts, Held, Template
from holdfast.adapters.clips.library import Listener
from holdfast.adapters.clips.values import SlotRefusedError, is_exact, put_slots, read, write
from holdfast.adapters.clips.voices import Voices
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import EvaluationError

_index_of: Final = lib.FactIndex
_set_template: Final = lib.FBSetDeftemplate
_assert_built: Final = lib.FBAssert
_ASSERTING: Final = (
    "(deffunction {name} ($?v) (bind ?f (assert ({relation} $?v))) "
    "(if ?f then (fact-index ?f) else -1))"
)


class Builder:
    """Asserts facts in one engine."""

    def __init__(
        self, raw: Any, facts: Facts, listener: Listener, voices: Voices, *, modules: bool
    ) -> None:
        """
        Take the engine and who knows what is in it.

        Args:
            raw: the engine.
            facts: what is there.
            listener: who hears what came.
            voices: who hears what went wrong.
            modules: whether there are others than MAIN.
        """
        self._raw = raw
        self._facts = facts
        self._listener = listener
        self._voices = voices
        self._modules = modules
        self._builder: Any = environment_builder(raw, "fact")
        self._box: Any = ffi.new("CLIPSValue *")
        self._building = ""
        self._built: dict[str, Template] = {}
        self._relations: dict[str, tuple[Any, bytes]] = {}

    def close(self) -> None:
        """Refer to the engine no more."""
        self._raw = self._builder = None

    def value(self, kept: Any) -> Any:
        """Return a value in a box that the engine takes."""
        return write(self._raw, kept, self._facts.address, ffi.new("CLIPSValue *"))

    def by_slots(self, template: str, slots: Mapping[str, Any]) -> tuple[Held | None, int]:
        """
        Assert a fact, and return it with its index.

        Nothing has to be noted any more, unless there is no fact: then something else happened,
        or the engine knows more of it than was said.
        """
        fact, common = self._put(template, zip(map(str.encode, slots), slots.values(), strict=True))
        known = self._built.get(template) or self._known(template, fact)
        # All of them are slots of it, or the engine had refused them.
        whole = len(known.names) == len(slots)
        exact = whole and (common or all(map(is_exact, slots.values())))
        if exact and (index := self._listener.came_alone(fact)):
            return self._facts.put(index, Held(fact, known, slots)), index
        return None, _index_of(fact)

    def _known(self, template: str, fact: Any) -> Template:
        known = self._facts.template_of(fact)
        if not self._modules:
            self._built[template] = known
        return known

    def _put(self, template: str, slots: Iterable[tuple[bytes, Any]]) -> tuple[Any, bool]:
        """Assert a fact; return it, and whether its values are of the kinds there is most of."""
        builder = self._builder
        if template != self._building:
            self._building = ""
            if _set_template(builder, template.encode()) != lib.FBE_NO_ERROR:
                raise InvalidValueError(
                    what=f"template {template!r}",
                    reason="is not defined with slots; ordered facts take values, not slots",
                )
            if not self._modules:
                self._building = template
        try:
            common = put_slots(self._raw, builder, slots, self._facts.address, self._box)
        except SlotRefusedError as error:
            lib.FBAbort(builder)
            raise slot_error(template, error.slot, error.code) from None
        except BaseException:
            lib.FBAbort(builder)
            raise
        fact = _assert_built(builder)
        if not fact:
            self._refuse(template)
        return fact, common

    def asserted(self, fact: Any, what: str) -> int:
        """
        Return the index of a fact that the engine was to assert.

        Raises:
            EvaluationError: there is none.
        """
        return int(_index_of(fact)) if fact else self._refuse(what)

    def _refuse(self, what: str) -> NoReturn:
        self._voices.fail(f"{what} could not be asserted")
        raise EvaluationError(reason=self._voices.failure)

    # Ordered facts.

    def ordered(self, relation: str, values: list[Any]) -> int:
        """Assert an ordered fact, and return its index; what changed has to be noted."""
        builder = environment_builder(self._raw, "function")
        module, name = self._relations.get(relation) or self._asserting(relation)
        lib.FCBReset(builder)
        for value in values:
            lib.FCBAppend(builder, self.value(value))
        box = ffi.new("CLIPSValue *")
        # From another module it would not be found, not even by its full name.
        current = lib.SetCurrentModule(self._raw, module) if self._modules else None
        code = lib.FCBCall(builder, name, box)
        if current is not None:
            lib.SetCurrentModule(self._raw, current)
        if code != lib.FCBE_NO_ERROR or self._voices.failure:
            self._refuse(f"({relation} ...)")
        return int(read(box, relation))

    def relate(self, relation: str) -> None:
        """Let there be a relation of ordered facts, `module::name`, if there is none yet."""
        if lib.FindDeftemplate(self._raw, relation.encode()) == ffi.NULL:
            self._asserting(relation)

    def _asserting(self, relation: str) -> tuple[Any, bytes]:
        """
        Return the function that asserts facts of a relation, and its module.

        CLIPS has no builder for them. It stands beside the relation, in the module that has it; a
        relation that nobody has begins in the current one.
        """
        module, _, bare = relation.rpartition("::")
        found = lib.FindDeftemplate(self._raw, relation.encode())
        if found == ffi.NULL:
            name = module.encode() or ffi.string(lib.DefmoduleName(lib.GetCurrentModule(self._raw)))
        elif lib.ImpliedDeftemplate(found):
            name = ffi.string(lib.DeftemplateModule(found))
        else:
            raise InvalidValueError(
                what=f"relation {relation!r}", reason="is a template; give its slots by name"
            )
        place = lib.FindDefmodule(self._raw, name)
        if place == ffi.NULL:
            raise InvalidValueError(
                what=f"relation {relation!r}", reason=f"there is no module {module}"
            )
        function = f"holdfast-assert-{bare}"
        if lib.FindDeffunction(self._raw, name + b"::" + function.encode()) == ffi.NULL:
            self._define(place, function, bare)
        if not self._modules:
            self._relations[relation] = place, function.encode()
        return place, function.encode()

    def _define(self, module: Any, function: str, relation: str) -> None:
        current = lib.SetCurrentModule(self._raw, module)
        code = lib.Build(self._raw, _ASSERTING.format(name=function, relation=relation).encode())
        lib.SetCurrentModule(self._raw, current)
        if code != lib.BE_NO_ERROR:
            self._refuse(f"({relation} ...)")


def slot_error(template: str, slot: str, code: int) -> InvalidValueError:
    """Return what says why a slot does not take a value."""
    reasons = {
        lib.PSE_SLOT_NOT_FOUND_ERROR: "is no slot of it",
        lib.PSE_TYPE_ERROR: "takes another type",
        lib.PSE_RANGE_ERROR: "is out of its range",
        lib.PSE_ALLOWED_VALUES_ERROR: "takes other values only",
        lib.PSE_CARDINALITY_ERROR: "takes another number of values",
    }
    reason = reasons.get(code, f"does not take the value (code {code})")
    return InvalidValueError(what=f"slot {slot!r} of {template!r}", reason=reason)
