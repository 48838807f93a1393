"""
A program of four working memories for the crash lab: two of the tiny engine, one whose engine
leaks what it restores, and one of CLIPS; their snapshots are few, their journals trimmed.

In every memory it does requests by their ids until all are done; some come while another is
under way that raises half-way. Started again it goes on with those that are missing, and asks
once more for the last one. `work_on_damaged` is the same, but before it goes on it damages a
snapshot or an event of one memory; from then on that memory is whole, or nobody gets it.

The invariant is not Holdfast's arithmetic but the script's: every acknowledged request is there
with what its function answered, none is there twice, each fact fired once, in the order told.
"""

import asyncio
import os
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

from holdfast import Runtime
from holdfast.adapters.clips import ClipsEngine, Hands
from holdfast.core.engine import stream_of
from holdfast.core.errors import DamagedError
from holdfast.core.key import Key
from holdfast.core.refusal import EngineLostError, EvaluationError, NotCapturedError
from holdfast.runtime.engines.attached import Answer, AttachedEngine
from holdfast.runtime.engines.snapshot import Cadence
from holdfast.testing.trials.trial import Lab
from tests.lab.pile import Pile, PileEngine

MEMORIES: Final = (("pile", ("a",)), ("pile", ("b",)), ("leaky", ()), ("rules", ()))
REQUESTS: Final = 9
_SNAPSHOT_EVERY: Final = 3
_BESIDE_A_FAILURE: Final = 4
_BY_HAND: Final = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, kept=2)
_BEGAN, _DAMAGED = "began", "damaged"
# What is said of a memory that cannot be brought back.
REFUSALS: Final = (DamagedError, EngineLostError)
SOMETIMES: Final = (
    "a damaged journal was refused",
    "a request was asked for again",
    "a snapshot was damaged",
    "an event was damaged",
)
# How many of the damages are to snapshots, if there are any.
_SNAPSHOTS: Final = 0.7
_BEHIND: Final = (
    "SELECT event.position, event.payload FROM event JOIN stream USING (origin) "
    "WHERE stream.name = ? AND event.sequence > ? ORDER BY event.sequence"
)
RULES: Final = """
(deftemplate order (slot n) (slot at))
(defglobal ?*bills* = 0)
(defrule bill (order (n ?n)) => (bind ?*bills* (+ ?*bills* 1)) (assert (billed ?n ?*bills*)))
(defrule tell (declare (salience -1)) (billed ?n ?) => (assert (told ?n (ask))))
"""


def outside() -> int:
    """Return a number that nobody was told before."""
    return 2**55 + int.from_bytes(os.urandom(6))


def uncalled() -> int:
    """Fail: what a function answered is kept, and it is not called again."""
    raise AssertionError("a function was called in a replay")


# Made once, by the process that forks all others.
_ENGINES: Final = {ask: ClipsEngine(RULES, functions={"ask": ask}) for ask in (outside, uncalled)}


async def attached(rt: Runtime, name: str, ask: Any = outside) -> AttachedEngine:
    """Attach the engine of a name."""
    if name == "rules":
        engine: Any = _ENGINES[ask]
    else:
        engine = PileEngine(ask, leaks=name == "leaky")
    return await rt.engines.attach(name, engine, cadence=_BY_HAND)


# What is done.


def name_of(number: int) -> str:
    """Return the fact of a request; their order is not that of the requests."""
    return f"{number * 7 % 10}-{number}"


def do(hands: Any, number: int) -> Any:
    """Do the request of a number."""
    if not isinstance(hands, Pile):
        return _order(hands, number)
    hands.put(name_of(number), 2 * number + 1)
    heard = hands.ask(f"heard {number}") if number % 2 else 0
    return [heard, hands.fire(min(1, number % 3))]


def _order(hands: Hands, number: int) -> Any:
    hands.assert_fact("order", n=number, at=len(hands.facts("order")))
    hands.run(1 + number % 3)
    return _told(hands)


def _told(hands: Hands) -> list[list[Any]]:
    return [list(fact.values[""]) for fact in hands.facts("told")]


def fail(hands: Any) -> None:
    """Do something that fails half-way."""
    if isinstance(hands, Pile):
        hands.fail()
    hands.assert_fact("half", 1)
    raise EvaluationError(reason="asked to")


def look(hands: Any) -> Any:
    """Return everything that is there."""
    if isinstance(hands, Pile):
        return [hands.facts, hands.fired, hands.agenda]
    orders = [[fact["n"], fact["at"]] for fact in hands.facts("order")]
    billed = [list(fact.values[""]) for fact in hands.facts("billed")]
    return [orders, billed, _told(hands), len(hands.facts("half"))]


def done_of(seen: Any) -> list[int]:
    """Return the requests that are done in what was seen; of CLIPS those that are twice, twice."""
    if isinstance(seen[0], dict):
        return [n for n in range(REQUESTS) if name_of(n) in seen[0]]
    return [number for number, _ in seen[0]]


# The program.


async def work(lab: Lab) -> None:
    """Do all requests that are not done."""
    await _work(lab, "")


async def work_on_damaged(lab: Lab) -> None:
    """Work; who is called again damages something first, and may have to do without it."""
    began, damaged = lab.folder / _BEGAN, lab.folder / _DAMAGED
    if began.exists() and not damaged.exists():
        damaged.write_text(await _damage(lab))
    began.touch()
    await _work(lab, damaged.read_text() if damaged.exists() else "")


async def _work(lab: Lab, damaged: str) -> None:
    async with lab.open(flush_interval=3600.0) as rt:
        engines: dict[str, AttachedEngine] = {}
        scripts: list[Coroutine[Any, Any, None]] = []
        for name, key in MEMORIES:
            try:
                if name not in engines:
                    engines[name] = await attached(rt, name)
                seen = (await engines[name].request(look, key=key)).value
            except REFUSALS:
                assert stream_of(name, key) == damaged, f"{name} {key} is refused"
                lab.sometimes("a damaged journal was refused")
                continue
            scripts.append(_Script(lab, engines[name], key).play(done_of(seen)))
        for ended in await asyncio.gather(*scripts, return_exceptions=True):
            if ended is not None:
                raise ended


class _Script:
    """The requests to one memory."""

    def __init__(self, lab: Lab, engine: AttachedEngine, key: Key) -> None:
        self._lab = lab
        self._engine = engine
        self._key = key

    async def play(self, done: list[int]) -> None:
        """Do what is not done, and the last one again: it may have been answered, or not."""
        left = [*done[-1:], *(number for number in range(REQUESTS) if number not in done)]
        while left:
            at_once = 2 if left[0] % _BESIDE_A_FAILURE == 2 else 1
            some, left = left[:at_once], left[at_once:]
            if await self._some(some) and some[-1] % _SNAPSHOT_EVERY == 2:
                await self._snapshot()

    async def _some(self, numbers: list[int]) -> bool:
        """Do requests at once, a failure between them; return whether they are new."""
        first, *rest = [self._request(number) for number in numbers]
        beside = [self._fail(numbers[0])] if rest else []
        return all(await asyncio.gather(first, *beside, *rest))

    async def _request(self, number: int) -> bool:
        answer: Answer = await self._engine.request(do, number, key=self._key, id=str(number))
        told = [self._engine.name, list(self._key), answer.sequence, number, answer.value]
        self._lab.acknowledged(told)
        if answer.repeated:
            self._lab.sometimes("a request was asked for again")
        return not answer.repeated

    async def _fail(self, number: int) -> bool:
        try:
            await self._engine.request(fail, key=self._key, id=f"fail {number}")
        except EvaluationError:
            return True
        raise AssertionError("a request that raises was answered")

    async def _snapshot(self) -> None:
        try:
            await self._engine.snapshot(self._key)
        except NotCapturedError as error:
            assert self._engine.name == "leaky", error


# Damage.


async def _damage(lab: Lab) -> str:
    """Damage a stored snapshot, or an event behind the newest; return whose journal that is."""
    async with lab.open():
        pass  # What is in the log of the database goes into its file.
    with closing(apsw.Connection(str(lab.folder / Path(lab.url).name))) as store:
        store.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        # Another one wherever the life before was killed.
        ((last,),) = store.execute("SELECT max(position) FROM event")
        rng = Random(f"damage/{lab.seed}/{last}")
        stream = stream_of(*rng.choice(MEMORIES))
        what = _damaged(store, rng, stream)
    if not what:
        return ""
    lab.acknowledged(["damaged", what, stream])
    lab.sometimes(f"{what} was damaged")
    return stream if what == "an event" else ""


def _damaged(store: apsw.Connection, rng: Random, stream: str) -> str:
    """Damage the newest snapshot of a journal, or an event behind it; return which of the two."""
    snapshots = "SELECT rowid, stored, sequence FROM snapshot WHERE name = ? ORDER BY sequence"
    made = list(store.execute(snapshots, (stream.encode(),)))
    events = list(store.execute(_BEHIND, (stream.encode(), made[-1][2] if made else 0)))
    if made and (rng.random() < _SNAPSHOTS or not events):
        row, stored, _ = made[-1]
        store.execute("UPDATE snapshot SET stored = ? WHERE rowid = ?", (spoilt(rng, stored), row))
        return "a snapshot"
    if not events:
        return ""
    row, payload = rng.choice(events)
    store.execute("UPDATE event SET payload = ? WHERE position = ?", (spoilt(rng, payload), row))
    return "an event"


def spoilt(rng: Random, data: bytes) -> bytes:
    """Return bytes with one flipped, some zeroed, or the end cut off."""
    at = rng.randrange(len(data))
    match rng.choice(("flip", "zero", "cut")):
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case "zero" if any(data[at:]):
            return data[:at] + bytes(len(data) - at)
        case _:
            return data[:at]


# What has to hold.


async def invariant(rt: Runtime, acknowledged: list[Any]) -> None:
    """Look at every memory; who opens it here may not call a function."""
    damaged = {note[2]: note[1] for note in acknowledged if note[0] == "damaged"}
    engines: dict[str, AttachedEngine] = {}
    for name, key in MEMORIES:
        told = [note[2:] for note in acknowledged if note[:2] == [name, list(key)]]
        try:
            if name not in engines:
                engines[name] = await attached(rt, name, uncalled)
            seen = (await engines[name].request(look, key=key)).value
        except REFUSALS as error:
            assert damaged.get(stream_of(name, key)) == "an event", f"{name} {key}: {error}"
            continue
        judge = _judge_pile if isinstance(seen[0], dict) else _judge_rules
        judge(f"{name} {'/'.join(key)}".strip(), seen, sorted(told))
    if "a snapshot" in damaged.values():
        said = " ".join(rt.health().degraded)
        assert "damaged" in said, f"a snapshot was passed over, and nobody says so: {said!r}"


def _judge_pile(where: str, seen: Any, told: list[Any]) -> None:
    facts, fired, agenda = seen
    done = done_of(seen)
    for _, number, (heard, _) in told:
        assert number in done, f"{where}: request {number} is gone"
        assert facts.get(f"heard {number}", 0) == heard, f"{where}: {number} heard something else"
    for number in done:
        assert facts[name_of(number)] == 2 * number + 1, f"{where}: request {number} is there twice"
    asked = {f"heard {number}" for number in done if number % 2}
    assert set(facts) == asked | {name_of(number) for number in done}, f"{where}: {facts}"
    there = sorted([*fired, *agenda])
    assert there == sorted(map(name_of, done)), f"{where}: not each fired once: {fired} {agenda}"
    at = 0
    for _, number, (_, some) in told:
        at = fired.index(some[0], at) if some else at
        assert fired[at : at + len(some)] == some, f"{where}: {number} fired {some}, not {fired}"


def _judge_rules(where: str, seen: Any, told: list[Any]) -> None:
    orders, billed, answered, half = seen
    assert not half, f"{where}: something of a request that raised is there"
    for what, some in (("ordered", orders), ("billed", billed), ("told", answered)):
        numbers = [number for number, *_ in some]
        assert len(numbers) == len(set(numbers)), f"{where}: {what} twice: {some}"
    for _, number, said in told:
        assert number in done_of(seen), f"{where}: request {number} is gone"
        assert [one for one in said if one not in answered] == [], f"{where}: {said}, {answered}"
