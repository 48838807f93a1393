"""
The broker under fire: clients keep asking while it is killed again and again.

It dies at failpoints around a commit and in the boot, at moments, while half of its sessions
are back, and right after it made a snapshot. `trial` compares what clients were told with an
uninterrupted run of the same requests.
"""

import asyncio
import secrets
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

import holdfast
from examples.broker.app import answered
from examples.broker.client import Asking, Client, script
from examples.broker.judge import Evidence, Probe, Quiet, judge
from examples.broker.policy import NAME, decide, engine, exposure
from examples.broker.process import Process
from holdfast import HoldfastError, RecordedEvent, Runtime
from holdfast.core.engine import AUDITS, REBASED, REQUESTED, Request, stream_of
from holdfast.core.errors import TooOldError
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.snapshot import Cadence

SESSIONS: Final = 6
PER_LIFE, PER_SNAPSHOT = 10, 54
"""Requests that are answered in a life at most, and in one that makes a snapshot about."""
COMMITTING: Final = (
    "commit.taken",
    "commit.loaded",
    "commit.decided",
    "commit.written",
    "commit.committed",
    "commit.answered",
)
BOOTING: Final = ("boot.locked", "boot.connected", "boot.migrated", "boot.entered")
HELD, SNAPSHOT, MOMENT = "held", "snapshot", "moment"
SNAPSHOT_EVERY: Final = 8
HALF: Final = SESSIONS // 2
NTH: Final = 10
EARLY, SOON = (0.3, 1.0), 0.05
LIMIT: Final = 300.0


class Death(NamedTuple):
    """
    How a broker dies.

    Attributes:
        place: a failpoint; `held`: half restored; `snapshot`: after it made one; `moment`.
        nth: when it comes to the failpoint for the n-th time; at `held`, 0 to let it go on.
        early: seconds after the start; 0 for some answers later.
    """

    place: str
    nth: int = 1
    early: float = 0.0


class Trial(NamedTuple):
    """
    What a trial came to.

    Attributes:
        kills: how many there were.
        troubles: promises that did not hold, in words.
        counts: how often what happened.
        detail: what was done, in a line.
    """

    kills: int
    troubles: list[str]
    counts: Counter[str]
    detail: str


def trial(url: str, seed: int | None = None, *, kills: int = 40) -> Trial:
    """
    Run the same script quietly and with kills, and judge.

    Args:
        url: of the store.
        seed: decides what is asked and how it dies; drawn if not given, and printed.
        kills: how many there are, six or more.
    """
    drawn = secrets.randbelow(2**32) if seed is None else seed
    print(f"broker: seed {drawn}", flush=True)
    random = Random(drawn)
    dying = deaths(random, kills)
    said = script(random, SESSIONS, requests(dying) // SESSIONS)
    with tempfile.TemporaryDirectory(prefix="broker-") as folder:
        quiet = asyncio.run(undisturbed(f"sqlite:///{folder}/quiet.db", said))
        lab = Lab(url, Path(folder, "log"), said, dying, random)
        run = asyncio.run(lab.run())
    return Trial(len(lab.died), judge(run, quiet), *told(run, lab.died))


def deaths(random: Random, number: int) -> list[Death]:
    """Draw how it dies; in every trial it is held twice, killed early, and makes snapshots."""
    drawn = [
        Death(MOMENT),
        Death(HELD),
        Death(MOMENT, early=random.uniform(*EARLY)),
        Death(HELD, 0),
        Death(SNAPSHOT),
        Death("commit.committed", NTH // 2),
    ]
    while len(drawn) < number:
        kinds = (
            Death(random.choice(COMMITTING), random.randint(1, NTH)),
            Death(random.choice(BOOTING)),
            Death(MOMENT, early=random.choice((0.0, random.uniform(*EARLY)))),
        )
        often = len(drawn) % SNAPSHOT_EVERY == 0
        drawn.append(Death(SNAPSHOT) if often else random.choices(kinds, (4, 1, 1))[0])
    return drawn


def requests(deaths: Sequence[Death]) -> int:
    """Return how many requests last until the last death, about."""
    return sum(PER_SNAPSHOT if death.place == SNAPSHOT else PER_LIFE for death in deaths)


def told(run: Evidence, died: Sequence[str]) -> tuple[Counter[str], str]:
    """Return what happened, counted, and in a line."""
    final = [attempt for attempt in run.attempts if attempt.final]
    counts = Counter[str]()
    for attempt in final:
        counts[attempt.answer.get("rule") or attempt.answer.get("decision", "failed")] += 1
    counts["repeated"] = sum(each.answer.get("repeated", False) for each in final)
    counts["broken"] = sum(not each.status for each in run.attempts)
    counts["rebased"] = run.rebased
    counts["requests"] = sum(map(len, run.said))
    done = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    where = ", ".join(f"{number} {place}" for place, number in sorted(Counter(died).items()))
    return counts, f"{len(died)} kills ({where}); {done}"


async def undisturbed(url: str, said: Sequence[Sequence[Asking]]) -> Quiet:
    """Decide everything in one process, without a kill and without a snapshot."""
    answers: dict[str, dict[str, Any]] = {}
    async with holdfast.open(url) as rt:
        # None is due, so no memory goes on from one.
        cadence = Cadence(requests=10**9, on_close=False)
        policy = await rt.engines.attach(NAME, engine(), cadence=cadence)
        for asking in [asking for session in said for asking in session]:
            answers[asking.id] = await _decided(policy, asking)
        return Quiet(answers, {each[0].session: await _seen(policy, each) for each in said})


async def _decided(policy: AttachedEngine, asking: Asking) -> dict[str, Any]:
    work = (decide, asking.id, asking.sources)
    try:
        answer = await policy.request(*work, key=asking.session, id=asking.id)
    except HoldfastError as error:
        return {"code": error.code}
    return answered(asking.session, asking.id, answer)


async def _seen(policy: AttachedEngine, session: Sequence[Asking]) -> dict[str, Any]:
    answer = await policy.request(exposure, key=session[0].session)
    return {**answer.value, "facts": answer.facts, "tier": answer.tier}


class Lab:
    """
    One run with kills.

    Attributes:
        died: how it died, in order.
    """

    def __init__(
        self,
        url: str,
        log: Path,
        said: Sequence[Sequence[Asking]],
        deaths: Sequence[Death],
        random: Random,
    ) -> None:
        """Take where, what is asked, and how it dies."""
        self._url = url
        self._said = said
        self._deaths = deaths
        self._random = random
        self._process = Process(url, log)
        self._client = Client(self._process.url)
        self._probes: list[Probe] = []
        self.died: list[str] = []

    async def run(self) -> Evidence:
        """Have everything asked, through all deaths, and collect the evidence."""
        try:
            async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as both:
                both.create_task(self._client.ask_all(self._said))
                for death in self._deaths:
                    await self._live(death)
                self._client.thought = 0  # Nobody hunts it any more.
                await self._process.start()
            return await self._collect()
        except TimeoutError:
            said = self._process.log.read_text()
            raise RuntimeError(f"the broker hangs; it said: {said}") from None
        finally:
            await self._client.close()
            await self._process.close()

    async def _live(self, death: Death) -> None:
        """Have it live until it dies."""
        await self._process.start(*_options(death))
        if death.place == HELD:
            await self._hold(lets_go=not death.nth)
        if death.place != HELD or not death.nth:
            await self._die(death)
        reached = self._process.ended and "." in death.place
        await self._process.kill()
        self.died.append(death.place if reached or "." not in death.place else MOMENT)

    async def _die(self, death: Death) -> None:
        """Wait until it died by itself, or it is time to kill it."""
        ended = asyncio.create_task(self._process.wait())
        timely = asyncio.create_task(self._time(death))
        await asyncio.wait((ended, timely), return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, timely):
            task.cancel()
        await asyncio.gather(ended, timely, return_exceptions=True)

    async def _time(self, death: Death) -> None:
        """Wait until it is time to kill it."""
        if death.early:
            await asyncio.sleep(death.early)
            return
        goal = len(self._said) * len(self._said[0])
        if death.place == SNAPSHOT:
            # Made by the broker itself, by its cadence, beside requests.
            before: dict[str, int] = {}
            await self._client.look_until(
                "/v1/sessions",
                lambda status, body: (
                    self._client.answered == goal or (status == 200 and _grown(before, body))
                ),
            )
        else:
            goal = min(goal, self._client.answered + PER_LIFE)
            await self._client.until(lambda: self._client.answered >= goal)
        await asyncio.sleep(self._random.uniform(0, SOON))

    async def _hold(self, *, lets_go: bool) -> None:
        """Look at a broker of whose sessions only half are back, and perhaps let it go on."""
        client = self._client
        before = await client.look_until(
            "/readyz", lambda status, body: status == 200 or _restored(body) == HALF
        )
        healthz, _ = await client.look("/healthz")
        touching = [await client.look(path) for path in ("/v1/sessions", "/v1/sessions/s0")]
        touching.append((await client.send(self._said[0][0]))[1:])
        after = None
        if lets_go:
            self._process.release()
            after, _ = await client.look_until("/readyz", lambda status, _: status == 200)
        codes = [(status, said.get("code", "")) for status, said in touching]
        self._probes.append(Probe(before, healthz, codes, after))

    async def _collect(self) -> Evidence:
        """Ask the last broker for everything it knows, end it, and open its store."""
        client, last = self._client, [session[-1] for session in self._said]
        await client.look_until("/readyz", lambda status, _: status == 200)
        attempts = list(client.attempts)
        again = [await client.insist(asking) for asking in last]
        names = [asking.session for asking in last]
        sessions = {name: (await client.look(f"/v1/sessions/{name}"))[1] for name in names}
        await self._process.stop()
        async with holdfast.open(self._url) as rt:
            audit = [event.data for event in await _events(rt, f"{AUDITS}{NAME}")]
            journals = {name: await _events(rt, stream_of(NAME, (name,))) for name in names}
            damaged = [str(finding) for finding in await rt.verify()]
            policy = await rt.engines.attach(NAME, engine())
            restored = {each[0].session: await _seen(policy, each) for each in self._said}
        return Evidence(
            self._said,
            attempts,
            again,
            sessions,
            restored,
            audit,
            {name: _ids(journal) for name, journal in journals.items()},
            sum(event.type == REBASED for journal in journals.values() for event in journal),
            self._probes,
            damaged,
        )


def _options(death: Death) -> list[str]:
    if death.place == HELD:
        return ["--hold", str(HALF)]
    return ["--die", death.place, str(death.nth)] if "." in death.place else []


def _restored(readyz: dict[str, Any]) -> int | None:
    """Return how many sessions are back; None if they all are, or none is looked for yet."""
    done, total = readyz.get("progress", {}).get("sessions", (0, 0))
    return int(done) if total else None


def _grown(before: dict[str, int], sessions: dict[str, dict[str, Any]]) -> bool:
    """Return whether a session has a younger snapshot than when this was asked first."""
    now = {name: int(kept["snapshot"]) for name, kept in sessions.items()}
    known = bool(before)
    for name, snapshot in now.items():
        before.setdefault(name, snapshot)
    return known and any(now[name] > before[name] for name in now)


async def _events(rt: Runtime, stream: str) -> list[RecordedEvent]:
    """Read a stream as far as it is kept."""
    found: list[RecordedEvent] = []
    history, after = rt.history(stream), 0
    while True:
        try:
            page = await history.read(after)
        except TooOldError as error:
            after = error.first_sequence - 1
            continue
        if not page:
            return found
        found += page
        after = page[-1].sequence


def _ids(journal: Sequence[RecordedEvent]) -> list[str]:
    said = [msgspec.convert(each.data, Request) for each in journal if each.type == REQUESTED]
    return [request.id for request in said]
