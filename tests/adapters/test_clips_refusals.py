"""CLIPS: what cannot be kept is refused by its name, and never dropped."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast.adapters.clips import ClipsEngine, Hands
from holdfast.core.errors import EncodeError, InvalidValueError
from holdfast.core.refusal import NotCapturedError, RulesRefusedError
from tests.adapters.policy import HOLDER, LOGICAL, attach, look

GLOBAL = """
(defglobal ?*line* = 3)
(defrule over (n ?x&:(> ?x ?*line*)) => (assert (over ?x)))
"""
OBJECTS = """
(defclass THING (is-a USER) (slot a))
"""
ASKING = """
(defrule test (n ?x&:(outside ?x)) => (assert (yes ?x)))
"""
KEPT_BY_JOURNAL = [
    (LOGICAL, lambda c: c.assert_fact("base", 1) and c.run(), r"lives by what a rule found"),
    (GLOBAL, lambda c: c.assert_fact("n", 5) and c.run(), r"rule over read the global \?\*line\*"),
    (OBJECTS, lambda c: c.eval("(make-instance [a] of THING (a 1))") and 1, r"there are objects"),
    (ASKING, lambda c: c.assert_fact("n", 5) and c.run(), r"conditions call a function"),
    (
        HOLDER,
        lambda c: (c.assert_fact("holder", v=c.assert_fact("gone", 1)), c.retract(1)) and 1,
        r"fact 2 names fact 1, which was retracted",
    ),
]


@pytest.mark.parametrize(
    ("rules", "work", "reason"),
    KEPT_BY_JOURNAL,
    ids=["logical", "global", "cool", "ask", "address"],
)
def test_what_a_snapshot_would_lose_is_named_and_stays_in_the_journal(
    kept_url: str, rules: str, work: Callable[[Hands], Any], reason: str
) -> None:
    """N3, C4. Refused with its name, never dropped; the memory comes back all the same."""

    async def run() -> None:
        functions = {"outside": lambda value: value > 3}
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules, functions=functions)
            await policy.request(lambda clips: bool(work(clips)))
            with pytest.raises(NotCapturedError, match=reason):
                await policy.snapshot()
            before = await policy.request(look)
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules, functions=functions)
            after = await policy.request(look)
            assert (after.value, after.facts) == (before.value, before.facts)
            if rules is LOGICAL:
                await policy.request(lambda clips: clips.retract(1))
                assert (await policy.request(look)).value == []
                await policy.snapshot()

    asyncio.run(run())


REFUSED = [
    ("(defrule r => (assert (at (time))))", r"defrule r calls \(time\)"),
    ('(deffunction f () (system "ls"))', r"deffunction f calls \(system\)"),
    ("(defrule r => (exit))", r"calls \(exit\)"),
    ('(defrule r => (build "(defrule x =>)"))', r"calls \(build\)"),
    ("(defrule r (a) => (assert (b))", r"leaves 1 parentheses open"),
    ("(defrule r (a) => (assert (b))))", r"closes more than it opens"),
    ("hello (defrule r (a) => (assert (b)))", r"'hello' stands alone"),
    ("(defrule r (a ?x) => (assert (b ?y)))", r"\(defrule r cannot be built"),
]


@pytest.mark.parametrize(("rules", "reason"), REFUSED)
def test_rules_that_no_journal_can_repeat_are_refused_by_name(rules: str, reason: str) -> None:
    """R8, C4. Before anything runs; a word in a string or a comment is not a call."""
    with pytest.raises(RulesRefusedError, match=reason):
        ClipsEngine(rules)
    ClipsEngine('(defrule r "(time)" (a "(exit)") => (assert (b "(system)"))) ; (time)')


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("cut\0here", "holds a NUL"),
        (2**63, "more than 64 bits"),
        (object(), "is a object, which CLIPS lacks"),
        ([1, [2]], "list in a list"),
        ("lone \ud800", "lone surrogate"),
    ],
)
def test_values_that_clips_would_change_are_refused_at_the_door(
    store_url: str, value: Any, reason: str
) -> None:
    """R8, C4, N12. The slot is named; the request did nothing."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            policy = await attach(rt, HOLDER)
            for slots in ({"v": value}, {"m": [1, value]}):
                if not isinstance(slots.get("v", 1), list):
                    with pytest.raises(EncodeError, match=reason):
                        await policy.request(lambda c, s=slots: c.assert_fact("holder", **s).index)
            assert (await policy.request(look)).value == []

    asyncio.run(run())


def test_mistakes_are_told_with_the_name_and_change_nothing(store_url: str) -> None:
    """N12. An unknown template, slot, fact, global, module."""
    mistakes: list[tuple[Callable[[Hands], Any], str]] = [
        (lambda c: c.assert_fact("holder", nothing=1), "slot 'nothing' of 'holder': is no slot"),
        (lambda c: c.assert_fact("nowhere", v=1), "template 'nowhere': is not defined"),
        (lambda c: c.assert_fact("no word)(", 1), "is not a plain word"),
        (lambda c: c.retract(17), "fact 17: is not there"),
        (lambda c: c.modify(1, nothing=1), "slot 'nothing' of 'holder'"),
        (lambda c: c.set_global("x", 1), "global 'x': is not defined"),
        (lambda c: c.focus("X"), "module 'X': is not defined"),
    ]

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            policy = await attach(rt, HOLDER)
            await policy.request(lambda c: c.assert_fact("holder", v=1).index)
            for mistake, words in mistakes:
                with pytest.raises(InvalidValueError) as told:
                    await policy.request(mistake)
                assert words in str(told.value)
            with pytest.raises(RulesRefusedError, match=r"calls \(exit\)"):
                await policy.request(lambda c: c.eval("(exit)"))
            assert len((await policy.request(look)).value) == 1

    asyncio.run(run())
