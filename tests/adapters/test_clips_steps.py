"""CLIPS: upkeep of many facts goes in short steps, and what fails half-way leaves nothing."""

import asyncio
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from clips import Strategy

import holdfast
from holdfast.adapters.clips import ClipsEngine, Hands
from holdfast.adapters.clips.arrivals import Arrivals
from holdfast.adapters.clips.capture import Head, agenda_of
from holdfast.adapters.clips.memory import ClipsMemory
from holdfast.core import codec
from holdfast.core.refusal import EngineLostError, EvaluationError, NotRestoredError
from holdfast.runtime.engines.snapshot import Cadence
from tests.adapters.policy import NOW


def test_upkeep_of_many_facts_is_cut_into_short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """N13. No step of a capture or a restore looks at more facts or activations than `STEP`."""
    rules = """(deftemplate t (slot n) (multislot m))
    (defrule even (t (n ?n&:(evenp ?n))) => (assert (seen ?n)))"""
    memory = ClipsEngine(rules).fresh()
    memory.begin(1, NOW, 0.0)
    for number in range(1_050):
        memory.hands.assert_fact("t", n=number, m=[number, "x"])
        if number == 500:
            memory.hands.run()
            memory.hands.retract(3)
            for _ in range(450):
                memory.hands.retract(memory.hands.assert_fact("gap", 1))
    memory.end()
    looked: list[str] = []

    def counting(name: str, steps: Callable[..., Iterator[Any]]) -> None:
        def counted(*given: Any) -> Iterator[Any]:
            for each in steps(*given):
                looked.append(name)
                yield each

        monkeypatch.setattr(module, name, counted)

    module = importlib.import_module("holdfast.adapters.clips.capture")
    counting("activations", module.activations)
    counting("listed", module.listed)
    parts: list[bytes] = []
    for part in memory.capture():
        assert len(looked) <= module.STEP, f"one step looks at {len(looked)}: {set(looked)}"
        looked.clear()
        parts += [part] if part else []
    back = ClipsEngine(rules).fresh()
    before = 0
    for _ in back.restore(parts):
        assert len(looked) <= module.STEP
        looked.clear()
        assert back.facts.next - before <= 2 * module.STEP, "facts, and indices to use up"
        before = back.facts.next
    assert len(looked) <= module.STEP, "nor does what comes after the last pause"
    looked.clear()
    assert [part for part in back.capture() if part] == parts
    assert back.facts.next == memory.facts.next and len(parts) == 1 + 13
    for each in (memory, back):
        each.close()


def test_a_restore_that_fails_in_the_middle_leaves_no_facts(
    kept_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N5. Half of the facts were in the engine; nobody gets it, and the next attempt has all."""
    rules = "(deftemplate t (slot n))"
    once = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, kept=1)

    def fill(clips: Hands) -> None:
        for number in range(250):
            clips.assert_fact("t", n=number)

    bring = Arrivals.bring

    def failing(self: Arrivals, run: Sequence[tuple[int, str, bytes]]) -> None:
        index, *what = run[-1]
        if index != 200:
            return bring(self, run)
        with pytest.raises(NotRestoredError, match="instead of fact 201 came") as refused:
            bring(self, [*run[:-1], (201, *what)])
        raise refused.value

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            policy = await rt.engines.attach("policy", ClipsEngine(rules), cadence=once)
            await policy.request(fill)
            await policy.snapshot()
        async with holdfast.open(kept_url) as rt:
            with monkeypatch.context() as planted:
                planted.setattr(Arrivals, "bring", failing)
                with pytest.raises(EngineLostError, match="1 snapshots do not fit"):
                    await rt.engines.attach("policy", ClipsEngine(rules), cadence=once)
            assert "damaged" in " ".join(rt.health().degraded)
            policy = await rt.engines.attach("policy", ClipsEngine(rules), cadence=once)
            assert (await policy.request(lambda clips: len(clips.facts("t")))).value == 250

    asyncio.run(run())


@pytest.mark.parametrize("happens", ["(assert (extra))", "(retract 2)"])
def test_what_happens_by_itself_while_facts_come_back_is_noticed(happens: str) -> None:
    """N5. Facts come back without hearing of each: what a condition does is refused by CLIPS."""
    rules = f"""(deftemplate t (slot n))
    (defglobal ?*does* = FALSE)
    (deffunction does (?n) (if (and ?*does* (= ?n 30)) then {happens}) TRUE)
    (defrule r (t (n ?n)) (test (does ?n)) => (assert (seen ?n)))"""
    engine = ClipsEngine(rules)
    memory, back = engine.fresh(), engine.fresh()
    memory.begin(1, NOW, 0.0)
    for number in range(60):
        memory.hands.assert_fact("t", n=number)
    memory.end()
    parts = [part for part in memory.capture() if part]
    head = codec.decode_as(parts[0], Head, "head")
    does = [(name, ["s", "TRUE"]) for name, _ in head.globals]
    again = [msgspec.msgpack.encode(msgspec.structs.replace(head, globals=does)), *parts[1:]]
    with pytest.raises(NotRestoredError, match="during pattern-matching"):
        for _ in back.restore(again):
            pass
    for each in (memory, back):
        each.close()


def test_a_fact_that_takes_another_along_is_noted_with_it() -> None:
    """N3. What lived by its absence is gone at once, for whoever looks in the same request."""
    rules = """(deftemplate b (slot x)) (deftemplate c (slot x))
    (defrule r (logical (c (x 1)) (not (b))) => (assert (a 1)))"""
    memory = ClipsEngine(rules).fresh()
    memory.begin(1, NOW, 0.0)
    clips = memory.hands
    clips.assert_fact("c", x=1)
    clips.run()
    assert [fact.index for fact in clips.facts("a")] == [2]
    assert clips.assert_fact("b", x=1).index == 3
    assert clips.facts("a") == []
    before = memory.end().facts
    fresh = ClipsEngine(rules).fresh()
    fresh.begin(1, NOW, 0.0)
    fresh.hands.assert_fact("b", x=1)
    fresh.hands.assert_fact("c", x=1)
    assert fresh.end().facts == before, "the digest is that of what is there"
    for each in (memory, fresh):
        each.close()


def test_what_is_pending_comes_back_in_the_same_order_by_chance() -> None:
    """N2, N8. Whatever was drawn before: a strategy set later sorts what is pending alike."""
    engine = ClipsEngine("(deftemplate holder (slot v)) (defrule r (holder (v ?v)) =>)")
    memory = engine.fresh()
    memory.begin(1, NOW, 0.0)
    for number in range(12):
        memory.hands.assert_fact("holder", v=number)
        memory.hands.retract(memory.hands.assert_fact("holder", v=-number - 1))
    memory.end()
    parts = [part for part in memory.capture() if part]
    orders: list[list[tuple[str, str]]] = []
    for drawn in (7, 8):
        back = engine.fresh()
        back.listener.seed(drawn)
        for _ in back.restore(parts):
            pass
        back.begin(2, NOW, 0.0)
        back.hands.set_strategy(Strategy.RANDOM)
        orders.append(list(agenda_of(back)))
        back.close()
    assert len(orders[0]) == 12
    assert orders[0] == orders[1]


MODULES = """
(defmodule MAIN (export ?ALL))
(deftemplate MAIN::t (slot v))
(defrule MAIN::r (t (v ?v)) => (assert (note ?v)))
(defmodule OTHER (import MAIN ?ALL))
"""


def again(engine: ClipsEngine, memory: ClipsMemory) -> ClipsMemory:
    """Return another memory with the state of one."""
    back = engine.fresh()
    for _ in back.restore([part for part in memory.capture() if part]):
        pass
    return back


def asserted(memory: ClipsMemory, module: str, relation: str) -> str:
    """Assert a fact from a module; return the name of its relation, or why it is refused."""
    memory.begin(9, NOW, 0.0)
    try:
        memory.hands.focus(module)
        return memory.hands.assert_fact(relation, 2).template
    except EvaluationError as error:
        return str(error)
    finally:
        with suppress(EvaluationError):
            memory.end()


def test_a_relation_stays_in_its_module_when_no_fact_of_it_is_left() -> None:
    """N2, N5. Who asserts from another module means the same one, also after a restore."""
    engine = ClipsEngine(MODULES)
    memory = engine.fresh()
    memory.begin(1, NOW, 0.0)
    for relation in ("seen", "holdfast-seen"):
        memory.hands.retract(memory.hands.assert_fact(relation, 1))
    memory.end()
    back = again(engine, memory)
    assert asserted(back, "OTHER", "holdfast-seen") == "holdfast-seen"
    assert [asserted(one, "OTHER", "seen") for one in (memory, back)] == ["seen", "seen"]
    assert [asserted(one, "MAIN", "seen") for one in (memory, back)] == ["seen", "seen"]


def test_a_relation_of_one_module_is_refused_in_one_that_it_could_not_tell_it_from() -> None:
    """N2. With the engine's reason, and by the restored memory as well."""
    engine = ClipsEngine(MODULES)
    memory = engine.fresh()
    assert asserted(memory, "OTHER", "seen") == "OTHER::seen"
    refused = [asserted(one, "MAIN", "seen") for one in (again(engine, memory), memory)]
    assert refused[0] == refused[1]
    assert "import/export conflict" in refused[0]


def test_a_relation_of_rules_can_be_asserted_from_each_module_that_sees_it() -> None:
    """In any order: what asserts it stands where the relation is."""
    memory = ClipsEngine(MODULES).fresh()
    assert [asserted(memory, module, "note") for module in ("OTHER", "MAIN")] == ["note", "note"]


def test_a_relation_of_a_module_that_is_not_there_is_named() -> None:
    """N11. A state that speaks of one is refused, and the engine is not asked for it."""
    engine = ClipsEngine(MODULES)
    head, *facts = [part for part in engine.fresh().capture() if part]
    other = msgspec.structs.replace(codec.decode_as(head, Head, "head"), relations=["GONE::seen"])
    with pytest.raises(NotRestoredError, match="no module GONE"):
        for _ in engine.fresh().restore([msgspec.msgpack.encode(other), *facts]):
            pass
