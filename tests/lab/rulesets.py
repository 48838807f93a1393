"""
Rules and requests drawn from a seed, for engines that are crashed.

A *suite* is a set of traits, such as `not` or `strategy`; rules and operations have what it
names. Every operation is drawn from the seed and from what is in the memory, so that two
memories which are equal are asked the same, and two which are not soon show it.
"""

from random import Random
from typing import Any, Final

from clips import SalienceEvaluation, Strategy

from holdfast.adapters.clips import Hands, Symbol
from holdfast.adapters.clips.capture import agenda_of, focus_of, globals_of
from holdfast.adapters.clips.facts import unpacked
from holdfast.adapters.clips.memory import ClipsMemory

SUITES: Final = (
    "plain",
    "not",
    "exists",
    "not exists",
    "or",
    "multifield",
    "logical",
    "logical not",
    "strategy",
    "strategy random",
    "random function",
    "duplicates",
    "reset",
    "salience",
    "globals",
    "modules",
    "or multifield strategy random function duplicates reset salience",
    "not exists or multifield logical strategy random function duplicates reset salience globals",
)
_TEMPLATES: Final = """
(defmodule MAIN (export ?ALL))
(deftemplate MAIN::t0 (slot a) (slot b) (multislot m))
(deftemplate MAIN::t1 (slot a) (slot b) (multislot m))
(deftemplate MAIN::t2 (slot a) (slot b) (multislot m))
(defglobal MAIN ?*g* = 0)
(defglobal MAIN ?*h* = 1)
"""
_OTHER: Final = "(defmodule OTHER (import MAIN ?ALL))"


def rules_of(rng: Random, suite: str) -> str:
    """Return rules with the traits of a suite."""
    texts = [_TEMPLATES]
    for number in range(rng.randint(2, 6)):
        if "modules" in suite and number == 1:
            texts.append(_OTHER)
        texts.append(_rule(rng, suite, number))
    return "\n".join(texts)


def _rule(rng: Random, suite: str, number: int) -> str:
    patterns = [_pattern(rng, suite, at) for at in range(rng.randint(1, 3))]
    if "logical" in suite and rng.random() < 0.5:
        patterns[0] = f"(logical {patterns[0]})"
    if "globals" in suite and rng.random() < 0.5:
        patterns.append("(test (> ?*g* 2))")
    plain = patterns[0].startswith("(t")
    if bound := plain and rng.random() < 0.5:
        patterns[0] = f"?f <- {patterns[0]}"
    actions = []
    for _ in range(rng.randint(1, 2)):
        action, bound = _action(rng, suite, number, bound)
        actions.append(action)
    salience = f"(declare (salience {rng.randint(-2, 2)}))" if rng.random() < 0.4 else ""
    if "salience" in suite and rng.random() < 0.5:
        salience = "(declare (salience (+ ?*h* 0)))"
    return f"(defrule r{number} {salience} {' '.join(patterns)} => {' '.join(actions)})"


def _pattern(rng: Random, suite: str, at: int) -> str:
    value, other = rng.choice(("?x", "?y", "1", "2")), rng.choice(("?x", "?z", "3"))
    text = f"(t{rng.choice('012')} (a {value}) (b {other}))"
    if "multifield" in suite and rng.random() < 0.4:
        middle = rng.choice(("?x", "1", "2"))
        text = f"(t{rng.choice('012')} (a {value}) (m $?p{at} {middle} $?q{at}))"
    kind = rng.random()
    if at and kind < 0.25 and "not" in suite:
        return f"(not {text})"
    if at and kind < 0.4 and "exists" in suite:
        return f"(exists {text})"
    if kind < 0.3 and "or " in f"{suite} ":
        return f"(or {text} (t{rng.choice('012')} (a {value})))"
    return text


def _action(rng: Random, suite: str, number: int, bound: bool) -> tuple[str, bool]:
    """Return an action, and whether the fact that was bound can still be used."""
    kind = rng.random()
    if kind < 0.35:
        values = f"(a {rng.randint(1, 3)}) (b {rng.randint(1, 4)})"
        return f"(assert (t{rng.choice('012')} {values}))", bound
    if kind < 0.5:
        return f"(assert (note {number} {rng.randint(1, 3)}))", bound
    if kind < 0.65 and bound:
        return "(retract ?f)", False
    if kind < 0.8 and bound:
        return f"(modify ?f (b {rng.randint(1, 6)}))", False
    if "function" in suite and kind < 0.9:
        return "(assert (heard (ask)))", bound
    if "random" in suite and kind < 0.95:
        return "(assert (drawn (mod (random) 3)))", bound
    return "(bind ?*g* (+ ?*g* 1))", bound


def play(hands: Hands, seed: str, suite: str) -> list[str]:
    """Do what a seed says to a memory; return what fired."""
    rng = Random(seed)
    for _ in range(rng.randint(1, 4)):
        _operate(hands, rng, suite)
    return list(hands.fired())


def _operate(hands: Hands, rng: Random, suite: str) -> None:
    kind, facts = rng.random(), hands.facts()
    if kind < 0.45 or not facts:
        members = [rng.randint(1, 3) for _ in range(rng.randint(0, 3))]
        values = {"a": rng.randint(1, 3), "b": rng.randint(1, 4), "m": members}
        hands.assert_fact(f"t{rng.choice('012')}", **values)
    elif kind < 0.55:
        hands.retract(rng.choice(facts))
    elif kind < 0.65:
        fact = rng.choice(facts)
        if fact.template.startswith("t"):
            hands.modify(fact, b=rng.randint(1, 6))
    elif kind < 0.88:
        hands.run(rng.choice((1, 2, 5, 20)))
    else:
        _set(hands, rng, suite, kind)


def _set(hands: Hands, rng: Random, suite: str, kind: float) -> None:
    if kind < 0.91 and "strategy" in suite:
        hands.set_strategy(rng.choice(list(Strategy)))
    elif kind < 0.93:
        hands.set_global("g", rng.randint(0, 5))
    elif kind < 0.95 and "duplicates" in suite:
        hands.set_fact_duplication(rng.random() < 0.5)
    elif kind < 0.96 and "reset" in suite:
        hands.reset()
    elif kind < 0.98 and "salience" in suite:
        hands.set_global("h", rng.randint(-2, 2))
        hands.set_salience_evaluation(rng.choice(list(SalienceEvaluation)))
    elif kind < 0.99 and "modules" in suite:
        hands.focus("OTHER")
    else:
        hands.assert_fact("seen", rng.randint(1, 3), Symbol("x"), 0.1)


def state_of(memory: ClipsMemory) -> list[Any]:
    """Return everything that can be seen of a memory, in plain values."""
    facts = sorted(memory.facts.by_index.items())
    return [
        [[index, held.template.name, repr(unpacked(held.kept))] for index, held in facts],
        memory.facts.next,
        [[module, pending] for module, pending in agenda_of(memory)],
        focus_of(memory),
        repr(globals_of(memory)),
    ]
