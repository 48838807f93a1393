"""
What a caller's function works with: clipspy's words, each of them kept.

Facts come out as values (`Fact`), never as clipspy's own objects: those keep what was retracted
for ever, and end the process when they are used after their engine.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from clips import SalienceEvaluation, Strategy
from clips._clips import ffi, lib

from holdfast.adapters.clips.rules import check_expression
from holdfast.adapters.clips.values import Fact, decoded, encoded, encoded_slots, read
from holdfast.core.errors import InvalidValueError

if TYPE_CHECKING:
    from holdfast.adapters.clips.memory import ClipsMemory

_RELATION: Final = re.compile(r"[A-Za-z_][\w.:/+*-]*")


class Hands:
    """Works on one memory, within one request."""

    def __init__(self, memory: "ClipsMemory") -> None:
        """Take the memory; it is the engine's side, and changing it there is not kept."""
        self.memory = memory

    def assert_fact(
        self, template: str, /, *values: Any, ttl: float | None = None, **slots: Any
    ) -> Fact:
        """
        Assert a fact: by slots, or by values if it is an ordered one.

        Args:
            template: its name.
            values: of an ordered fact.
            ttl: seconds after which it is retracted; they go on over a restart.
            slots: of a template; those left out get their defaults.

        Raises:
            InvalidValueError: the template or a slot does not take it.
            EncodeError: a value cannot be kept exactly.
            EvaluationError: a condition failed on it.
        """
        if slots or template in self._templates():
            fact = self.memory.assert_slots(template, encoded_slots(slots))
            if ttl is None:
                return fact
            index = fact.index
        else:
            if _RELATION.fullmatch(template) is None:
                raise InvalidValueError(what=f"relation {template!r}", reason="is not a plain word")
            ordered = [encoded(value, f"value {at}") for at, value in enumerate(values)]
            index = self.memory.do(["o", template, ordered])
        if ttl is not None:
            self.memory.do(["t", index, self.memory.deadline(ttl)])
        return self.memory.shown(index)

    def _templates(self) -> frozenset[str]:
        return self.memory.rules.templates

    def assert_string(self, text: str) -> Fact:
        """Assert a fact written as CLIPS writes it."""
        check_expression(text)
        return self.memory.shown(self.memory.do(["as", text]))

    def retract(self, fact: Fact | int) -> None:
        """
        Retract a fact.

        Raises:
            InvalidValueError: it is not there.
        """
        self.memory.do(["r", _index(fact)])

    def modify(self, fact: Fact | int, /, **slots: Any) -> Fact:
        """Change slots of a fact; it keeps its index, and rules see a new one."""
        kept = encoded_slots(slots)
        return self.memory.shown(self.memory.do(["m", _index(fact), kept]))

    def run(self, limit: int | None = None) -> int:
        """
        Fire rules until none is left, or so many; return how many fired.

        Raises:
            EvaluationError: a rule or a function failed; the request is undone as a whole.
        """
        return int(self.memory.do(["run", limit]))

    def reset(self) -> None:
        """Retract all facts, assert those of the rules, set globals back."""
        self.memory.do(["reset"])

    def eval(self, text: str) -> Any:
        """
        Evaluate an expression of CLIPS and return its value.

        Raises:
            RulesRefusedError: it calls what cannot be kept.
            EvaluationError: it failed.
        """
        check_expression(text)
        return self.memory.do(["e", text])

    def facts(self, template: str | None = None, **slots: Any) -> list[Fact]:
        """Return facts in the order of their indices: of a template, with these values."""
        memory = self.memory
        facts = memory.facts
        some = facts.by_index if template is None else facts.by_template.get(template, ())
        found = facts.having(sorted(some), encoded_slots(slots)) if slots else sorted(some)
        return [memory.shown(index) for index in found]

    def fired(self) -> Sequence[str]:
        """Return what fired in this request, as `rule: f-1,f-2`, in order."""
        return tuple(self.memory.listener.fired)

    def get_global(self, name: str) -> Any:
        """
        Return the value of a global.

        Raises:
            InvalidValueError: it is not defined.
        """
        box = ffi.new("CLIPSValue *")
        lib.DefglobalGetValue(self.memory.global_of(name), box)
        return decoded(read(box, name))

    def set_global(self, name: str, value: Any) -> None:
        """Set a global."""
        self.memory.do(["g", name, encoded(value, name)])

    def set_strategy(self, strategy: Strategy) -> None:
        """Choose how the agenda is ordered."""
        self.memory.do(["s", int(strategy)])

    def set_salience_evaluation(self, when: SalienceEvaluation) -> None:
        """Choose when saliences are evaluated."""
        self.memory.do(["se", int(when)])

    def set_fact_duplication(self, allowed: bool) -> None:
        """Choose whether a fact may be there twice."""
        self.memory.do(["d", bool(allowed)])

    def focus(self, module: str) -> None:
        """Let the rules of a module fire first."""
        self.memory.do(["f", module])


def _index(fact: Fact | int) -> int:
    return fact if isinstance(fact, int) else fact.index
