"""
What a working memory costs that survives its process, beside clipspy that keeps nothing.

A session of the policy is ten turns of eight facts, then it begins anew, so that no memory grows
for ever. All sides do the same: `plain` asks an environment per session in a loop, `reassert`
clears it for every request and asserts the whole session again, as who keeps facts elsewhere has
to. Neither has callers that wait, and neither survives anything. clipspy keeps something of what
it asserted after it was retracted, and is slower by it with every request (178 µs at first, 636 µs
after 5,000 on one environment), so no environment of its is asked often.

Sizes are the plan's: `runs` sessions, `replayed` requests, snapshots up to `kept` facts, or up to
`BENCH_FACTS` (1000000 takes minutes).
"""

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import clips
from clips import Symbol

import holdfast
from bench.append import Commits
from bench.measure import Rate, Result, Stopwatch, middle, percentile
from bench.place import Place, opening
from bench.report import Bar
from holdfast import BUFFERED, DURABLE, Tier
from holdfast.adapters.clips import ClipsEngine, Hands
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.snapshot import Cadence

POLICY = """
(deftemplate agent (slot turn) (slot name) (slot role))
(deftemplate intent (slot turn) (slot action) (slot target))
(deftemplate source (slot turn) (slot name) (slot label))
(deftemplate exposure (slot turn) (slot channel) (slot label))
(deftemplate decision (slot turn) (slot kind) (slot reason))
(defrule leak
  (intent (turn ?t) (action send))
  (source (turn ?t) (name ?name) (label ?label))
  (exposure (turn ?t) (channel public) (label ?label))
  =>
  (assert (decision (turn ?t) (kind deny) (reason ?name))))
(defrule guest
  (agent (turn ?t) (name ?name) (role guest))
  (intent (turn ?t) (action send))
  =>
  (assert (decision (turn ?t) (kind ask) (reason ?name))))
(defrule grant
  (declare (salience -10))
  (intent (turn ?t))
  (not (decision (turn ?t)))
  =>
  (assert (decision (turn ?t) (kind allow) (reason "nothing is against it"))))
"""
READINGS = """
(deftemplate reading
  (slot number (type INTEGER)) (slot sensor (type STRING)) (slot level (type FLOAT))
  (multislot tags))
(deftemplate alarm (slot number) (slot cause))
(deftemplate cleared (slot number))
(defrule high
  (reading (number ?n) (level ?level&:(> ?level 0.985)))
  =>
  (assert (alarm (number ?n) (cause high))))
(defrule urgent
  (reading (number ?n) (tags $? urgent $?))
  =>
  (assert (alarm (number ?n) (cause urgent))))
(defrule open
  (alarm (number ?n))
  (not (cleared (number ?n)))
  =>
  (assert (call ?n)))
"""
TURNS = 10
SIZES = (1_000, 10_000, 100_000, 1_000_000)
FILL = 500
TICK = 0.001
NEVER = 1_000_000_000
BY_HAND = Cadence(requests=NEVER, seconds=NEVER, idle=NEVER, on_close=False)
"""Snapshots are made when a row makes one, and not otherwise."""


def _ratio(result: Result) -> float:
    return result.ratio


def _value(result: Result) -> float:
    return result.value


BARS = (
    *(
        Bar(f"{what} ≥ 0.5 x plain clipspy", name, "plain", "", _ratio, lambda r: r >= 0.5)
        for what, name in (("durable", "engine"), ("buffered", "engine_buffered"))
    ),
    Bar(
        "100,000 facts are back in < 2 s",
        "engine_snapshot_restore_100000",
        "",
        "",
        _value,
        lambda ms: ms < 2_000,
    ),
)

Facts = list[tuple[str, dict[str, Any]]]


def verdicts(results: list[Result]) -> list[str]:
    """Say of every bar of engines that was measured whether it is met."""
    return [
        f"{'met    ' if bar.holds(value) else 'NOT MET'}  {one.store:<10}  {bar.text}: {value:.2f}"
        for bar in BARS
        for one in results
        if one.name == bar.name and bar.against in ("", one.against)
        for value in (bar.value(one),)
    ]


# The policy, and who asks it.


def _facts_of(turn: int) -> Facts:
    """Return what a request of this turn asserts: an agent, an intent, sources, exposure."""
    labels = [Symbol(word) for word in ("open", "internal", "secret", "open")]
    return [
        (
            "agent",
            {"turn": turn, "name": "ada", "role": Symbol("guest" if turn % 5 == 4 else "user")},
        ),
        ("intent", {"turn": turn, "action": Symbol("send"), "target": f"list-{turn}@example.org"}),
        *(
            ("source", {"turn": turn, "name": f"document {turn}.{at}", "label": label})
            for at, label in enumerate(labels)
        ),
        *(
            ("exposure", {"turn": turn, "channel": Symbol(channel), "label": label})
            for channel, label in (("private", labels[2]), ("public", labels[2 - turn % 2]))
        ),
    ]


ASSERTED = [_facts_of(turn) for turn in range(TURNS)]
OPERATIONS = len(ASSERTED[0]) + 1 + 1 / TURNS
"""Of a request, on average: its facts, a run, and a reset in one of ten."""


def decide(hands: Hands, turn: int) -> list[str]:
    """Do a turn on a memory that is kept."""
    if not turn:
        hands.reset()
    for template, slots in ASSERTED[turn]:
        hands.assert_fact(template, **slots)
    hands.run()
    return [fact["reason"] for fact in hands.facts("decision", turn=turn)]


class Plain:
    """An environment of clipspy as it is."""

    def __init__(self, rules: str) -> None:
        """Build the rules."""
        self.env = clips.Environment()
        for construct in filter(None, rules.strip().split("\n(def")):
            self.env.build(construct if construct.startswith("(def") else f"(def{construct}")
        self._templates = {each.name: each for each in self.env.templates()}

    def take(self, facts: Facts) -> None:
        """Assert facts."""
        for template, slots in facts:
            self._templates[template].assert_fact(**slots)

    def decide(self, turn: int) -> list[str]:
        """Do a turn on what is there."""
        if not turn:
            self.env.reset()
        self.take(ASSERTED[turn])
        return self._decided(turn)

    def reassert(self, turn: int) -> list[str]:
        """Clear it, and do all turns so far."""
        self.env.reset()
        for facts in ASSERTED[: turn + 1]:
            self.take(facts)
        return self._decided(turn)

    def _decided(self, turn: int) -> list[str]:
        self.env.run()
        found = self._templates["decision"].facts()
        return [fact["reason"] for fact in found if fact["turn"] == turn]


class Sessions:
    """Sessions side by side on one side of the comparison, each in its own turn."""

    def __init__(self, count: int) -> None:
        """Begin so many."""
        self.turns = [0] * count
        self.decided = 0

    def next(self, session: int) -> int:
        """Return the turn of a session, and go on to the next one."""
        turn = self.turns[session]
        self.turns[session] = (turn + 1) % TURNS
        return turn

    def ask(self, asked: list[Callable[[int], list[str]]], seconds: float) -> Rate:
        """Ask plain environments one after the other, all at least once."""
        watch, count = Stopwatch(), 0
        while not count or watch.seconds < seconds:
            for session, ask in enumerate(asked):
                self.decided += len(ask(self.next(session)))
            count += len(asked)
        return watch.rate(count)

    async def request(self, policy: AttachedEngine, seconds: float) -> Rate:
        """Let a caller per session ask and wait; at the end everything is durable."""
        watch, counts = Stopwatch(), [0] * len(self.turns)

        async def call(session: int) -> None:
            key = f"session-{session}"
            while not counts[session] or watch.seconds < seconds:
                answer = await policy.request(decide, self.next(session), key=key)
                self.decided += len(answer.value)
                counts[session] += 1
                await asyncio.sleep(
                    0
                )  # A buffered request waits for nothing, so nobody else would.

        await asyncio.gather(*map(call, range(len(self.turns))))
        await policy.flush()
        return watch.rate(sum(counts))


async def _same(policy: AttachedEngine, plain: Plain) -> None:
    """Refuse to compare what decides differently; leaves both at the first turn."""
    for turn in range(TURNS):
        ours = (await policy.request(decide, turn, key="same")).value
        theirs = plain.decide(turn)
        if sorted(ours) != sorted(theirs) or not ours:
            raise RuntimeError(f"turn {turn}: {ours} here, {theirs} there")
        if sorted(plain.reassert(turn)) != sorted(theirs):
            raise RuntimeError(f"turn {turn}: decided otherwise when asserted anew")
    await policy.evict("same")


# A request.


async def requests(place: Place, store: str, name: str, tier: Tier) -> list[Result]:
    """Measure requests with a journal, plain ones and those that assert everything, in turn."""
    count, seconds = place.plan.runs, place.plan.seconds
    found: dict[str, list[Rate]] = {"ours": [], "plain": [], "reassert": []}
    syncs: list[float] = []
    batches: list[float] = []
    commits = Commits()
    plain = [Plain(POLICY) for _ in range(count)]
    kept = [each.decide for each in plain]
    anew = [each.reassert for each in [Plain(POLICY) for _ in range(count)]]
    sessions = {side: Sessions(count) for side in found}
    async with opening(place.url(store), commits.add) as rt:
        policy = await rt.engines.attach(
            "policy", ClipsEngine(POLICY), tier=tier, cadence=BY_HAND, in_memory=count + 1
        )
        await _same(policy, Plain(POLICY))
        await sessions["ours"].request(policy, 0)
        for _ in range(place.plan.rounds):
            before = commits.count
            found["ours"].append(await sessions["ours"].request(policy, seconds))
            batches.append(found["ours"][-1].count / max(1, commits.count - before))
            syncs.append(place.sync_rate())
            found["plain"].append(sessions["plain"].ask(kept, seconds / 2))
            found["reassert"].append(sessions["reassert"].ask(anew, seconds / 2))
    ours = middle(found.pop("ours"))
    return [
        _rates(
            name,
            store,
            ours,
            (side, middle(rates)),
            fsync_per_s=mean(syncs),
            callers=count,
            batch=mean(batches),
            note=f"{len(ASSERTED[0])} facts and a run; a session is {TURNS} requests",
        )
        for side, rates in found.items()
    ]


def _rates(name: str, store: str, ours: Rate, against: tuple[str, Rate], **more: Any) -> Result:
    side, theirs = against
    more = {"unit": "requests/s", **more}
    return Result(
        name=name,
        store=store,
        value=ours.per_s,
        against=side,
        against_value=theirs.per_s,
        ratio=ours.per_s / theirs.per_s,
        cpu_us=ours.cpu_us,
        against_cpu_us=theirs.cpu_us,
        **more,
    )


async def engine(place: Place, store: str) -> list[Result]:
    """Measure requests that are in the store when they are answered."""
    return await requests(place, store, "engine", DURABLE)


async def engine_buffered(place: Place, store: str) -> list[Result]:
    """Measure requests that are answered at once; the flush at the end is counted."""
    return await requests(place, store, "engine_buffered", BUFFERED)


# The journal, done again.


async def engine_replay(place: Place, store: str) -> list[Result]:
    """Bring a memory back from its journal alone, from the opening of the store."""
    count, url = place.plan.replayed, place.url(store)
    async with holdfast.open(url) as rt:
        policy = await rt.engines.attach(
            "policy", ClipsEngine(POLICY), tier=BUFFERED, cadence=BY_HAND
        )
        for number in range(count):
            last = await policy.request(decide, number % TURNS)
        await policy.flush()
    syncs = place.sync_rate()
    watch = Stopwatch()
    async with _again(url, POLICY) as policy:
        ours = watch.rate(count)
        await _went_on(policy, last.facts)
    plain = [Plain(POLICY) for _ in range(place.plan.runs)]
    watch = Stopwatch()
    for number in range(count):
        plain[number // TURNS % len(plain)].decide(number % TURNS)
    theirs = watch.rate(count)
    note = f"{count:,} requests, {count * OPERATIONS:,.0f} operations"
    more: dict[str, Any] = {"fsync_per_s": syncs, "note": note}
    return [
        _rates("engine_replay", store, ours, ("plain", theirs), **more),
        _rates(
            "engine_replay_operations",
            store,
            _each(ours, OPERATIONS),
            ("plain", _each(theirs, OPERATIONS)),
            unit="operations/s",
            **more,
        ),
    ]


def _each(rate: Rate, parts: float) -> Rate:
    """Return the rate of what each counted thing consists of."""
    return Rate(round(rate.count * parts), rate.per_s * parts, rate.cpu_us / parts)


@asynccontextmanager
async def _again(url: str, rules: str) -> AsyncGenerator[AttachedEngine]:
    """Open a store again; the memory is back, and the runtime ready, when the block begins."""
    async with holdfast.open(url) as rt:
        yield await rt.engines.attach("policy", ClipsEngine(rules), cadence=BY_HAND)


async def _went_on(policy: AttachedEngine, facts: str) -> None:
    """Refuse a memory that holds something else."""
    answer = await policy.request(lambda _: None)
    if answer.facts != facts:
        raise RuntimeError("the memory that came back holds other facts")


# Snapshots.


def _reading(number: int) -> dict[str, Any]:
    tags = [Symbol("urgent" if number % 100 == 7 else "calm"), Symbol(f"zone-{number % 17}")]
    level = (number * 7919 % 1_000) / 1_000
    return {"number": number, "sensor": f"sensor {number:06}", "level": level, "tags": tags}


def fill(hands: Hands, start: int, stop: int) -> int:
    """Assert readings, and run."""
    for number in range(start, stop):
        hands.assert_fact("reading", **_reading(number))
    return hands.run()


def touch(hands: Hands) -> None:
    """Do a little that changes the memory, and undo it."""
    hands.retract(hands.assert_fact("cleared", number=1))


async def _delays(other: AttachedEngine, during: Awaitable[Any]) -> tuple[list[float], float]:
    """Return by how many ms requests every ms were late, and how many ms something took."""
    watch, delays = Stopwatch(), list[float]()
    task = asyncio.ensure_future(during)
    while not task.done() or not delays:
        due = Stopwatch()
        await asyncio.sleep(TICK)
        await other.request(touch, key="beside")
        delays.append((due.seconds - TICK) * 1e3)
    await task
    return delays, watch.seconds * 1e3


async def _snapshot(place: Place, store: str, count: int) -> list[Result]:
    """Fill a memory, make a snapshot beside requests of another one, and open the store again."""
    url, rules = place.url(store), ClipsEngine(READINGS)
    async with holdfast.open(url) as rt:
        policy = await rt.engines.attach("policy", rules, cadence=BY_HAND)
        other = await rt.engines.attach("other", rules, tier=BUFFERED, cadence=BY_HAND)
        for start in range(0, count, FILL):
            last = await policy.request(fill, start, min(start + FILL, count))
        facts = (await policy.request(lambda hands: len(hands.facts()))).value
        await other.load("beside")
        gc.collect()
        idle, _ = await _delays(other, asyncio.sleep(place.plan.seconds))
        late, made = await _delays(other, policy.snapshot())
        size = await _stored(policy)
    del policy, other, rt
    gc.collect()
    watch = Stopwatch()
    async with _again(url, READINGS) as policy:
        back = watch.seconds * 1e3
        await _went_on(policy, last.facts)
    saved, loaded, file = _beside(place.folder / "facts", count)
    note = f"{count:,} readings, {facts:,} facts"
    beside = (
        f"{len(late):,} requests of another memory, a ms after each other; "
        f"p99 {percentile(late, 0.99):.1f} ms, pause {BY_HAND.pause * 1e3:.0f} ms"
    )
    return [
        Result(
            name=f"engine_snapshot{what}_{count}",
            store=store,
            value=value,
            unit=unit,
            against=against,
            against_value=theirs,
            ratio=value / theirs,
            fsync_per_s=place.sync_rate(),
            note=more,
        )
        for what, value, unit, against, theirs, more in (
            ("", made, "ms", "save_facts", saved, note),
            ("_bytes", size / 1e3, "KB", "save_facts", file / 1e3, note),
            ("_held", max(late), "ms", "nothing being made", max(idle), beside),
            ("_restore", back, "ms", "load_facts", loaded, note),
        )
    ]


async def _stored(policy: AttachedEngine) -> int:
    """Return how many bytes the newest snapshot takes in the store."""
    place = policy._place
    rows = await place.store.read(lambda reader: reader.snapshots(place.stream, 1))
    return len(rows[0].stored)


def _beside(path: Path, count: int) -> tuple[float, float, int]:
    """Return ms and bytes of the engine's own file: made, and read into an engine with rules."""
    plain = Plain(READINGS)
    plain.take([("reading", _reading(number)) for number in range(count)])
    plain.env.run()
    watch = Stopwatch()
    plain.env.save_facts(str(path))
    saved, file = watch.seconds * 1e3, path.stat().st_size
    watch = Stopwatch()
    plain = Plain(READINGS)  # By a name: the engine does not outlive it.
    plain.env.load_facts(str(path))
    loaded = watch.seconds * 1e3
    path.unlink()
    return saved, loaded, file


def _sizes(place: Place) -> list[int]:
    most = int(os.environ.get("BENCH_FACTS", place.plan.kept))
    return [size for size in SIZES if size <= most] or [most]


async def engine_snapshot(place: Place, store: str) -> list[Result]:
    """Make snapshots of memories of some sizes, and come back from them."""
    results: list[Result] = []
    for count in _sizes(place):
        results += await _snapshot(place, store, count)
    return results
