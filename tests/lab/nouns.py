"""
A program of all nouns for the crash lab: sessions, identities, latches, the ledger, in lives.

Each life opens the store (and knocks before it is ready), goes on with what the life before left
in flight, talks, begins new work, and ends with work in flight, so that the next one has to
rescue it. Killed anywhere and started again it goes on until `LIVES` of them came to their end.

What it tries and what was answered it notes: `[op, "try", ...]` before, `[op, "done", ...]`
after. `tests.lab.promises` says what a store has to hold by these notes.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import holdfast
from holdfast import ASK, BUFFERED, REPORT, RESUME, SUSPEND, EntryState, Runtime
from holdfast.core.errors import StoreError
from holdfast.core.ledger import Terms
from holdfast.core.recovery import Phase
from holdfast.core.refusal import EffectUncertainError, NotReadyError
from holdfast.runtime.sessions.session import Session
from holdfast.runtime.work.entry import Entry
from holdfast.testing.trials.trial import Lab

LIVES: Final = 3
EDITS: Final = 2
# A session that is found by a header or by a weaker fingerprint, and one with a key of its own.
REACHED: Final = {"hdr:a": ("hdr:a", "fp:a"), "hdr:b": ("hdr:b", "fp:b")}
DESK: Final = "desk"
DESK_NAME: Final = "desk:1"
SCOPE: Final = "model"
LATCHED: Final = "scripted"
MAILS: Final = "mails"
TERMS: Final[Mapping[str, Terms]] = {
    "ask": Terms(policy=ASK),
    "poison": Terms(policy=RESUME, attempts=2),
    "report": Terms(policy=REPORT),
    "resume": Terms(policy=RESUME),
    "settled": Terms(policy=RESUME),
    "stale": Terms(policy=RESUME, fresh_for=1e-9),
    "stopped": Terms(policy=RESUME),
    "suspend": Terms(policy=SUSPEND),
}


@holdfast.state(version=1)
class Talk:
    """
    What is kept of a conversation.

    `said` counts edits and is durable, the two fields of `pair` are equal to it. `last` counts
    the edits whose buffered fields are here; `low` and `high` are equal to it, `tokens` is three
    times as much.
    """

    said: int = 0
    left: int = holdfast.field(default=0, group="pair")
    right: int = holdfast.field(default=0, group="pair")
    last: int = holdfast.field(default=0, tier=BUFFERED)
    tokens: int = holdfast.field(default=0, tier=BUFFERED, kind="counter")
    low: int = holdfast.field(default=0, tier=BUFFERED, group="warmth")
    high: int = holdfast.field(default=0, tier=BUFFERED, group="warmth")

    def turn(self) -> None:
        """Say one thing more."""
        self.said += 1
        self.left = self.right = self.said
        self.last += 1
        self.low = self.high = self.last
        self.tokens += 3


async def work(lab: Lab) -> None:
    """Live until enough lives came to their end."""
    while await Program(lab).live():
        pass


def _nothing() -> None:
    """Let a thread have a turn."""


class Program:
    """One life."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._rt: Runtime

    async def live(self) -> bool:
        """Open the store and work; return whether there is another life to live."""
        async with self._lab.open(wait_ready=False) as rt:
            self._rt = rt
            await self._knock()
            await rt.ready()
            self._lab.acknowledged(["ready"])
            ended = len(await rt.history("lives").read())
            if ended >= LIVES:
                return False
            await self._go_on()
            await self._talk()
            await self._latch(ended)
            for key in TERMS:
                await self._begin(key)
            await rt.history("lives").append("ended", ended)
        return ended + 1 < LIVES

    async def _knock(self) -> None:
        """Ask for a change of state in each phase before it is ready."""
        knocked: set[Phase] = set()
        while (phase := self._rt.health().phase) not in (Phase.READY, Phase.FAILED):
            if phase not in knocked:
                knocked.add(phase)
                try:
                    await self._rt.records.put("knock", "door", phase.value)
                except NotReadyError:
                    pass
                else:
                    raise AssertionError(f"a change of state was accepted while {phase.value}")
            # By way of a thread: a loop that is never idle leaves the threads of the store
            # hardly a turn, on some machines so few that a boot takes minutes.
            await asyncio.to_thread(_nothing)

    # The ledger.

    async def _go_on(self) -> None:
        """Go on with what may go on, and have a person decide about what may not."""
        for info in await self._rt.ledger.list(EntryState.RESUMABLE):
            (key,) = info.key
            self._lab.acknowledged(["claim", "try", key])
            entry = await self._rt.ledger.claim(key)
            self._lab.acknowledged(["claim", "done", key, entry.generation, entry.attempt])
            await self._mail(key, entry)
            if key == "resume":
                await self._reply(key, entry)
        for info in await self._rt.ledger.list(EntryState.QUARANTINED):
            (key,) = info.key
            self._lab.acknowledged(["resolve", "try", key])
            await self._rt.ledger.resolve(key, "given up", by="operator")
            self._lab.acknowledged(["resolve", "done", key])

    async def _mail(self, key: str, entry: Entry) -> None:
        """Do something to the outside, marked before and after."""
        try:
            async with entry.effect("mail") as mail:
                if not mail.done:
                    await self._rt.history(MAILS).append("sent", mail.key)
        except EffectUncertainError:
            self._lab.acknowledged(["uncertain", key])

    async def _reply(self, key: str, entry: Entry) -> None:
        """Settle in the unit that changes a session."""
        self._lab.acknowledged(["reach", "try", DESK])
        async with self._rt.session(Talk, DESK, [DESK_NAME]) as desk:
            self._lab.acknowledged(["reach", "done", DESK, DESK])
            said = desk.value.said + 1
            self._lab.acknowledged(["edit", "try", DESK, said, desk.value.last + 1])
            self._lab.acknowledged(["settle", "try", key])
            async with desk.edit(entry.settlement(said)) as draft:
                draft.turn()
            assert desk.committed is not None
            entry.note_settled(desk.committed)
            self._lab.acknowledged(["edit", "done", DESK, said])
            self._lab.acknowledged(["settle", "done", key])

    async def _begin(self, key: str) -> None:
        """Begin work, unless it is in flight from a claim; settle or stop some of it."""
        found = await self._rt.ledger.find(key)
        if found is not None and found.state is EntryState.RUNNING:
            return
        self._lab.acknowledged(["begin", "try", key])
        entry = await self._rt.ledger.start((key,), TERMS[key])
        self._lab.acknowledged(["begin", "done", key, entry.generation, entry.attempt])
        if key == "settled":
            self._lab.acknowledged(["settle", "try", key])
            await entry.settle("done")
            self._lab.acknowledged(["settle", "done", key])
        elif key == "stopped":
            self._lab.acknowledged(["stop", "try", key])
            await self._rt.ledger.stop(key, "enough")
            self._lab.acknowledged(["stop", "done", key])

    # Sessions and latches.

    async def _talk(self) -> None:
        """Reach both sessions, say something in each, and write what is buffered."""
        talks: dict[str, Session[Talk]] = {}
        for name, identities in REACHED.items():
            self._lab.acknowledged(["reach", "try", name])
            talks[name] = await self._rt.sessions.reach(Talk, identities)
            self._lab.acknowledged(["reach", "done", name, *talks[name].key])
        for _ in range(EDITS):
            for name, talk in talks.items():
                said, last = talk.value.said + 1, talk.value.last + 1
                self._lab.acknowledged(["edit", "try", name, said, last])
                async with talk.edit() as draft:
                    draft.turn()
                self._lab.acknowledged(["edit", "done", name, said])
            await self._flush()
            for name, talk in talks.items():
                self._lab.acknowledged(["flush", "done", name, talk.value.last])

    async def _flush(self) -> None:
        """Flush; what a full disk refused is tried once more, and is not there before."""
        try:
            await self._rt.flush()
        except StoreError:
            await self._rt.flush()

    async def _latch(self, ended: int) -> None:
        """Set a latch, or take it off, in turn."""
        self._lab.acknowledged(["latch", "try", ended % 2 == 0])
        if ended % 2:
            await self._rt.latches.reset(SCOPE, LATCHED)
        else:
            await self._rt.latches.set(SCOPE, LATCHED, "too slow", ttl=3_600.0)
        self._lab.acknowledged(["latch", "done", ended % 2 == 0])
