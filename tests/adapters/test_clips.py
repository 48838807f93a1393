"""CLIPS: every value to the last bit, nothing fires twice, nothing is lost without a word."""

import asyncio
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from clips import Strategy

import holdfast
from holdfast.adapters.clips import ClipsEngine, Fact, Hands, InstanceName, Symbol
from holdfast.adapters.clips.library import Looking
from holdfast.adapters.clips.memory import ClipsMemory
from holdfast.core.engine import stream_of
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import EvaluationError, NotCapturedError
from holdfast.core.world import World
from holdfast.testing.clock import ManualClock
from tests.adapters.policy import HOLDER, LOGICAL, NOW, attach, look

VALUES = [
    "plain",
    "",
    'two words "quoted" \\ and\nlines\t;not a comment (or)',
    "ünïcödé \U0001f600",
    Symbol("sym"),
    Symbol("odd symbol with spaces ?x"),
    Symbol("TRUE"),
    Symbol("123"),
    InstanceName("instance"),
    0,
    -(2**63),
    2**63 - 1,
    0.1 + 0.2,
    math.pi,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    struct.unpack("d", struct.pack("Q", 0x7FF8000000000123))[0],
    b"\xff not UTF-8",
]


def test_facts_of_every_value_come_back_to_the_bit(kept_url: str) -> None:
    """N1. Same values, same order, same multiplicity, same indices; by journal and by snapshot."""

    def fill(clips: Hands) -> int:
        clips.set_fact_duplication(True)
        for value in VALUES:
            clips.assert_fact("holder", v=value, m=[value, value])
            clips.assert_fact("ordered", value, 1, Symbol("s"))
        clips.retract(3)
        clips.assert_fact("ordered")
        clips.assert_fact("holder", v=1)
        clips.assert_fact("holder", v=1)
        clips.assert_fact("holder", v=clips.facts("holder")[0], m=[clips.facts()[4]])
        return len(clips.facts())

    def bits(clips: Hands) -> list[Any]:
        exact = []
        for fact in clips.facts():
            for value in (*fact.values.values(), *fact.values.get("m", ())):
                kind = type(value).__name__
                exact.append(
                    struct.pack("d", value).hex() if kind == "float" else [kind, repr(value)]
                )
        return exact

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, HOLDER)
            assert (await policy.request(fill)).value == 2 * len(VALUES) + 3
            before = await policy.request(look)
            exact = await policy.request(bits)
            for fact, value in zip(VALUES[:1], VALUES[:1], strict=True):
                assert fact == value
        for _ in range(2):
            async with holdfast.open(kept_url) as rt:
                policy = await attach(rt, HOLDER)
                after = await policy.request(look)
                assert after.value == before.value and after.facts == before.facts
                assert (await policy.request(bits)).value == exact.value
                await policy.snapshot()

    asyncio.run(run())


FIRING = """
(deftemplate seen (slot what))
(defrule note (seen (what ?w)) => (assert (noted ?w)))
(defrule once (noted ?w) ?gone <- (trigger ?w) => (retract ?gone) (assert (done ?w)))
"""


def test_nothing_fires_because_of_a_restore(kept_url: str) -> None:
    """N3. What fired does not again; what was retracted stays so; what is pending fires once."""

    def first(clips: Hands) -> int:
        clips.assert_fact("trigger", 1)
        clips.assert_fact("seen", what=1)
        clips.run()
        clips.assert_fact("seen", what=2)
        return len(clips.fired())

    def run_on(clips: Hands) -> list[str]:
        clips.run()
        return list(clips.fired())

    async def run() -> None:
        for key in ("journal", "snapshot"):
            async with holdfast.open(kept_url) as rt:
                policy = await attach(rt, FIRING)
                assert (await policy.request(first, key=key)).value == 2
                if key == "snapshot":
                    await policy.snapshot(key)
            async with holdfast.open(kept_url) as rt:
                policy = await attach(rt, FIRING)
                before = await policy.request(look, key=key)
                assert [1, "trigger", "{'': (1,)}"] not in before.value
                assert (await policy.request(run_on, key=key)).value == ["note: f-5"]
                assert (await policy.request(run_on, key=key)).value == []

    asyncio.run(run())


def test_time_to_live_goes_on_over_a_restart(kept_url: str) -> None:
    """N4. Ten seconds, eight before the crash: two are left, whatever the wall clock says."""

    def short(clips: Hands) -> None:
        clips.assert_fact("short", 1, ttl=10.0)
        clips.assert_fact("holder", v=1)

    def templates(clips: Hands) -> list[str]:
        return sorted({fact.template for fact in clips.facts()})

    async def run() -> None:
        clock = ManualClock()

        async def there(key: str) -> list[str]:
            async with holdfast.open(kept_url, world=World(clock=clock), lease_ttl=1e6) as rt:
                policy = await attach(rt, HOLDER, ttl={"holder": 20.0})
                found: list[str] = (await policy.request(templates, key=key)).value
                return found

        async with holdfast.open(kept_url, world=World(clock=clock), lease_ttl=1e6) as rt:
            policy = await attach(rt, HOLDER, ttl={"holder": 20.0})
            for key in ("journal", "snapshot"):
                await policy.request(short, key=key)
            await policy.snapshot("snapshot")
        clock.advance(8.0)
        clock.wall_time -= 1e6
        for key in ("journal", "snapshot"):
            assert await there(key) == ["holder", "short"]
        clock.advance(1.9)
        assert await there("journal") == ["holder", "short"]
        clock.advance(0.2)
        for key in ("journal", "snapshot"):
            assert await there(key) == ["holder"]
        clock.domain = "boot:another"
        clock.wall_time += 1e6 - 1
        assert await there("journal") == ["holder"]
        clock.advance(12.0)
        for key in ("journal", "snapshot"):
            assert await there(key) == []

    asyncio.run(run())


def test_indices_go_on_behind_facts_that_came_and_went_at_once(kept_url: str) -> None:
    """N2. What rules asserted and retracted in one run has used its index up, snapshot or not."""
    rules = """(deftemplate tick (slot n)) (deftemplate source (slot n))
    (defrule weigh (tick (n ?n)) => (assert (source (n ?n))))
    (defrule forget (declare (salience -1)) ?t <- (tick (n ?n)) ?s <- (source (n ?n))
      => (retract ?t ?s))"""

    def tick(clips: Hands, number: int) -> list[str]:
        clips.assert_fact("tick", n=number)
        clips.run()
        return list(clips.fired())

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules)
            for number in range(8):
                found = []
                for key in ("plain", "snapshots"):
                    if number == 4:
                        await policy.request(lambda clips: clips.reset(), key=key)
                    found.append((await policy.request(tick, number, key=key)).value)
                assert found[0] == found[1]
                await policy.snapshot("snapshots")
            assert found[0] == ["weigh: f-7", "forget: f-7,f-8"]

    asyncio.run(run())


def test_functions_are_asked_once_and_their_failures_undo_the_request(kept_url: str) -> None:
    """N2, N12, H12. A replay gives what was heard; an error in a rule undoes the whole request."""
    rules = "(defrule ask (question ?q) => (assert (answer ?q (outside ?q))))"
    asked: list[int] = []

    def outside(question: int) -> Any:
        asked.append(question)
        if question == 13:
            raise LookupError("unlucky")
        return [question, 0.1 + 0.2, Symbol("s")] if question == 1 else object()

    def ask(clips: Hands, question: int) -> list[str]:
        clips.assert_fact("question", question)
        clips.run()
        return [repr(fact.values) for fact in clips.facts("answer")]

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules, functions={"outside": outside})
            first = await policy.request(ask, 1)
            assert first.value == ["{'': (1, 1, 0.30000000000000004, 's')}"]
            for question, reason in ((13, "outside raised LookupError"), (2, "EncodeError")):
                with pytest.raises(EvaluationError, match=reason):
                    await policy.request(ask, question)
            assert asked == [1, 13, 2]
            assert [row[1] for row in (await policy.request(look)).value] == ["question", "answer"]
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules, functions={"outside": outside})
            again = await policy.request(look)
            assert [row[1] for row in again.value] == ["question", "answer"] and asked == [1, 13, 2]

    asyncio.run(run())


def test_an_error_inside_a_rule_undoes_the_request(store_url: str) -> None:
    """N12. CLIPS goes on after an error as if nothing were; a request does not."""
    rules = "(defrule add (number ?a) => (assert (before)) (assert (sum (+ ?a 1))) (assert (x)))"

    def number(clips: Hands, value: Any) -> int:
        clips.assert_fact("number", value)
        return clips.run()

    def swallows(clips: Hands) -> None:
        clips.assert_fact("number", Symbol("none"))
        try:
            clips.run()
        except EvaluationError:
            clips.assert_fact("as if nothing were".replace(" ", "-"))

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            policy = await attach(rt, rules)
            await policy.request(number, 1)
            before = await policy.request(look)
            for work in (lambda c: number(c, Symbol("no")), swallows):
                with pytest.raises(EvaluationError, match=r"ARGACCES|Function"):
                    await policy.request(work)
                assert (await policy.request(look)).facts == before.facts

    asyncio.run(run())


def test_clipspys_words_are_kept(kept_url: str) -> None:
    """N2. Modify, reset, globals, strategy, focus, modules, eval, assert by text."""
    rules = """
    (defmodule MAIN (export ?ALL)) (deftemplate MAIN::holder (slot v))
    (deffacts begin (started)) (defglobal ?*g* = 1)
    (defrule plain (holder (v ?v)) => (bind ?*g* (+ ?*g* ?v)))
    (defmodule OTHER (import MAIN ?ALL)) (defrule OTHER::other (holder (v ?v)) => (assert (o ?v)))
    """

    def works(clips: Hands) -> Any:
        fact = clips.assert_string("(holder (v 1))")
        fact = clips.modify(fact, v=2)
        clips.set_strategy(Strategy.BREADTH)
        clips.focus("OTHER")
        fired = clips.run(1)
        clips.set_global("g", 5)
        return [fired, clips.eval("(+ 1 2)"), clips.get_global("g"), fact["v"], *clips.fired()]

    def goes_on(clips: Hands) -> Any:
        clips.run()
        return [clips.get_global("g"), *clips.fired(), *(fact.template for fact in clips.facts())]

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules)
            for key in ("journal", "snapshot"):
                first = await policy.request(works, key=key)
                assert first.value == [1, 3, 5, 2, "other: f-2"]
            await policy.snapshot("snapshot")
        async with holdfast.open(kept_url) as rt:
            policy = await attach(rt, rules)
            for key in ("journal", "snapshot"):
                after = await policy.request(goes_on, key=key)
                assert after.value == [7, "plain: f-2", "started", "holder", "OTHER::o"]
                await policy.request(lambda clips: clips.reset(), key=key)
                assert (await policy.request(look, key=key)).value == [[1, "started", "{'': ()}"]]

    asyncio.run(run())


def test_facts_go_over_to_other_rules_and_nothing_fires(kept_url: str) -> None:
    """N10. A hot reload keeps the facts, with what is left of their time."""
    other = HOLDER + "(defrule all (holder (v ?v)) => (assert (saw ?v)))"

    def ask(clips: Hands) -> list[Any]:
        clips.run()
        return [fact.template for fact in clips.facts()]

    def over(facts: list[Fact]) -> list[Fact]:
        return [fact for fact in facts if fact.template == "holder"]

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(kept_url, world=World(clock=clock), lease_ttl=1e6) as rt:
            policy = await attach(rt, HOLDER)
            await policy.request(lambda c: c.assert_fact("holder", v=1, ttl=10.0).index)
            await policy.request(lambda c: c.assert_fact("holder", v=2).index)
            await policy.request(lambda c: c.assert_fact("loose", 2).index)
            await policy.reload(ClipsEngine(other), over)
            assert (await policy.request(ask)).value == ["holder", "holder"]
        clock.advance(11.0)
        async with holdfast.open(kept_url, world=World(clock=clock), lease_ttl=1e6) as rt:
            policy = await attach(rt, other)
            assert (await policy.request(ask)).value == ["holder"]

    asyncio.run(run())


def test_the_fingerprint_is_that_of_the_constructs_in_order(tmp_path: Path) -> None:
    """N10. Layout and comments do not count; order, content and functions do."""
    one, two = "(defrule a (x) => (assert (y)))", "(defrule b (x) => (assert (z)))"
    file = tmp_path / "rules.clp"
    file.write_text(f"; a comment\n{one}\n\n   {two}")
    same = {ClipsEngine(one + two).fingerprint, ClipsEngine(file).fingerprint}
    assert len(same) == 1
    others = [
        ClipsEngine(two + one),
        ClipsEngine(one),
        ClipsEngine(one + two, functions={"f": int}),
    ]
    assert len({engine.fingerprint for engine in others} | same) == 4


def test_a_name_means_the_template_of_the_module_that_is_current() -> None:
    """N1. Also when the same name was asserted in another module just before."""
    rules = "(defmodule MAIN) (defmodule A) (deftemplate A::t (slot x)) " + (
        "(defmodule B) (deftemplate B::t (slot x) (slot y))"
    )
    memory = ClipsEngine(rules).fresh()
    memory.begin(1, NOW, 0.0)
    found = []
    for module in ("A", "B", "A"):
        memory.hands.eval(f"(set-current-module {module})")
        fact = memory.hands.assert_fact("t", x=len(found))
        found.append((fact.template, fact.values["x"]))
    assert found == [("A::t", 0), ("B::t", 1), ("A::t", 2)]
    memory.close()


def test_facts_that_clips_lost_from_its_list_are_not_kept_as_if_all_were_well() -> None:
    """N3. CLIPS 6.4 can lose facts when it modifies one whose retraction takes others along."""
    rules = """(deftemplate T0 (slot a)) (deftemplate T1 (slot b))
    (defrule r (logical (T0 (a ?v))) => (assert (T1 (b 0))))"""
    memory = ClipsEngine(rules).fresh()
    memory.begin(1, NOW, 0.0)
    hands = memory.hands
    hands.assert_fact("other", 1)
    for value in (1, 2):
        hands.assert_fact("T0", a=value)
        hands.run()
    hands.retract(2)
    hands.modify(4, a=5)
    memory.listener.supported.clear()  # So that the list itself is what is looked at.
    with pytest.raises(NotCapturedError, match="lists other facts than it holds"):
        list(memory.capture())
    memory.close()


def test_thousands_of_requests_leave_nothing_behind(store_url: str) -> None:
    """N13. clipspy keeps every retracted fact; a memory here does not, so it stays quick."""

    def again(clips: Hands, number: int) -> int:
        for fact in clips.facts():
            clips.retract(fact)
        for at in range(20):
            clips.assert_fact("holder", v=number, m=[at])
        return clips.run()

    memory = ClipsEngine(HOLDER).fresh()
    held: list[int] = []
    for number in range(400):
        memory.begin(number, NOW, 0.0)
        again(memory.hands, number)
        memory.end()
        if number % 100 == 99:
            held.append(int(memory.env.eval("(mem-used)")))
    memory.close()
    assert max(held) - min(held) < 20_000, held


def test_looking_tells_the_same_as_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    """N2. Where the engine's hooks are missing, digests and traces are the same, only slower."""
    rules = FIRING + LOGICAL
    supported: list[set[int]] = []

    def play(memory: ClipsMemory) -> list[Any]:
        found: list[Any] = []
        for number in range(12):
            memory.begin(number, NOW, 0.0)
            hands = memory.hands
            hands.assert_fact("seen", what=number % 5)
            hands.assert_fact("base", number)
            hands.assert_fact("trigger", number % 3)
            hands.run(4)
            if number % 4 == 3:
                hands.modify(hands.facts("seen")[0], what=number)
                hands.retract(hands.facts("base")[0])
            done = memory.end()
            found.append((done.trace, done.facts, done.fired))
            supported.append(set(memory.listener.supported))
        memory.close()
        return found

    heard = play(ClipsEngine(rules).fresh())
    monkeypatch.setattr("holdfast.adapters.clips.library.hooks", lambda: None)
    memory = ClipsEngine(rules).fresh()
    assert isinstance(memory.listener, Looking)
    memory.begin(1, NOW, 0.0)
    with pytest.raises(NotCapturedError, match="does not tell which indices"):
        list(memory.capture())
    assert play(memory) == heard
    pairs = zip(supported[:12], supported[12:], strict=True)
    assert all(heard <= looked for heard, looked in pairs), "looking may say more, never less"


def test_journals_are_written_under_the_name_of_the_engine(store_url: str) -> None:
    """X6. The stream is readable, and nobody else can write it."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            policy = await attach(rt, HOLDER)
            await policy.request(lambda c: c.assert_fact("holder", v=1).index, key=("a", "b"))
            stream = stream_of("policy", ("a", "b"))
            types = [event.type for event in await rt.history(stream).read()]
            assert types == ["engine.begun", "engine.requested"]
            with pytest.raises(InvalidValueError, match="written by Holdfast alone"):
                await rt.history(stream).append("engine.requested", {})

    asyncio.run(run())
