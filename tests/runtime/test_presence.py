"""Proof of life and death: who is taken for dead, and what the one who was not can still do."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import holdfast
from holdfast import PutRecord, Unit
from holdfast.core import codec
from holdfast.core.clock import SystemClock
from holdfast.core.errors import StaleGenerationError
from holdfast.core.refusal import NotReadyError
from holdfast.core.unit import GrantLease
from holdfast.core.world import World
from holdfast.store.owner import Owner, process_start, proven_dead, this_owner
from holdfast.testing.clock import ManualClock
from tests.runtime.process import Process, RefusedError

HERE = this_owner(SystemClock())
# In real time, because PostgreSQL judges leases by its own clock. Long enough for a loaded machine;
# the heir looks for the dead three times per lease.
OWNER_TTL, HEIR_TTL = 2.0, 4.5


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its input ends."""
    program = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    process = subprocess.Popen(program, stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def owner_of(pid: int) -> Owner:
    """Return a process of this machine as an owner."""
    return msgspec.structs.replace(HERE, pid=pid, started=process_start(pid))


def test_a_process_that_lives_is_never_proven_dead(child: subprocess.Popen[bytes]) -> None:
    """H10. Itself, a child, and one of another user."""
    for pid in (os.getpid(), child.pid, 1):
        assert not proven_dead(owner_of(pid), HERE)


def test_a_process_that_is_gone_is_dead(child: subprocess.Popen[bytes]) -> None:
    """F1, H1."""
    owner = owner_of(child.pid)
    child.kill()
    child.communicate()
    assert proven_dead(owner, HERE)


def test_a_zombie_is_dead(child: subprocess.Popen[bytes]) -> None:
    """H1. Killed, and nobody has asked for its status: its number is there, it is not."""
    owner = owner_of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    os.kill(child.pid, 0)
    assert proven_dead(owner, HERE)


def test_a_reused_number_does_not_keep_the_dead_alive(child: subprocess.Popen[bytes]) -> None:
    """H1. The same number, begun at another time, is another process."""
    owner = owner_of(child.pid)
    assert owner.started is not None
    before = msgspec.structs.replace(owner, started=owner.started - 1)
    assert proven_dead(before, HERE)


@pytest.mark.parametrize(
    "where", [{"boot": "boot:other"}, {"pid_namespace": "pid:[1]"}, {"pid_namespace": ""}]
)
def test_where_a_process_cannot_be_looked_up_nothing_is_proven(
    child: subprocess.Popen[bytes], where: dict[str, str]
) -> None:
    """H10, F16. Another boot or machine, another container: only the lease can tell."""
    owner = msgspec.structs.replace(owner_of(child.pid), **where)
    child.kill()
    child.communicate()
    assert not proven_dead(owner, HERE)
    unknown = msgspec.structs.replace(owner, boot="boot:unknown")
    assert not proven_dead(unknown, msgspec.structs.replace(HERE, boot="boot:unknown"))


def test_a_clean_opening_and_closing_leaves_no_presence(store_url: str) -> None:
    """H6. Entered with one unit, left with one."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            present = await rt.records.list("holdfast.runtime")
            assert [record.key[0] for record in present] == [rt.opened.incarnation.hex()]
            lease = await rt.leases.find(f"holdfast/runtime/{present[0].key[0]}")
            assert lease is not None and lease.incarnation == rt.opened.incarnation
        if "memory" in store_url:
            return
        async with holdfast.open(store_url, read_only=True) as rt:
            assert await rt.records.list("holdfast.runtime") == []
            assert rt.health().ready

    asyncio.run(run())


def test_a_zombie_with_work_is_rescued_and_one_that_lives_is_not(kept_url: str) -> None:
    """H1, H10. By processes: killed and not waited for, while a neighbour works on."""
    with Process(kept_url) as dead, Process(kept_url) as alive:
        dead.call("begin", key="a")
        alive.call("begin", key="b")
        dead.child.kill()
        os.waitid(os.P_PID, dead.child.pid, os.WEXITED | os.WNOWAIT)
        with Process(kept_url) as heir:
            assert heir.call("crashed") == [["a", "interrupted"]]
        alive.call("settle", key="b")


def test_an_owner_frozen_longer_than_its_lease_is_overtaken_and_stops(kept_url: str) -> None:
    """F15, H10. Its work goes to the neighbour; awake, it can neither write nor settle."""
    with (
        Process(kept_url, lease_ttl=OWNER_TTL) as owner,
        Process(kept_url, lease_ttl=HEIR_TTL) as heir,
    ):
        owner.call("begin", key="a", policy="resume")
        owner.call("work", key="a")
        owner.freeze()
        heir.call("ended", stream="holdfast/ledger/1")
        assert heir.call("claim", key="a") == [2, 2]
        heir.call("work", key="a")
        owner.thaw()
        for call in ("work", "settle"):
            with pytest.raises(RefusedError, match=r"stale_generation|lease_expired|not_ready"):
                owner.call(call, key="a")
        # It has stopped: also what needs no fence is refused, and it says why.
        with pytest.raises(RefusedError, match="not_ready"):
            owner.call("put", value="after")
        assert owner.call("phase") == "failed"
        heir.call("settle", key="a")


def test_a_runtime_with_nothing_in_flight_enters_anew(kept_url: str) -> None:
    """F15. Frozen, taken for dead, awake: it has lost nothing and goes on under a new lease."""
    with (
        Process(kept_url, lease_ttl=OWNER_TTL) as owner,
        Process(kept_url, lease_ttl=HEIR_TTL) as heir,
    ):
        owner.call("begin", key="a")
        owner.call("settle", key="a")
        owner.freeze()
        heir.call("ended", stream="holdfast/ledger/1")
        owner.thaw()
        assert owner.call("begin", key="b") == 1
        assert owner.call("renew", key="b") is None
        assert heir.call("crashed") == []
        owner.call("settle", key="b")


def test_a_clone_waits_for_the_leases_it_was_copied_with(tmp_path: Path) -> None:
    """F13. Its owners live, elsewhere; each copy ends up with work and owners of its own."""
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    with Process(f"sqlite:///{first / 'a.db'}") as owner:
        owner.call("begin", key="a", policy="resume")
        owner.freeze()
        shutil.copytree(first, second)
        owner.thaw()
        clone = f"sqlite:///{second / 'a.db'}"
        with Process(clone) as heir:
            # Nothing there proves that the owner is not at work on this very copy.
            assert heir.call("crashed") == []
            with pytest.raises(RefusedError, match="entry_held"):
                heir.call("begin", key="a")
        assert asyncio.run(_crashed_later(clone, seconds=31.0)) == ["resumable"]
        owner.call("work", key="a")
        owner.call("settle", key="a")


async def _crashed_later(url: str, seconds: float) -> list[str]:
    """Return what is found by a start whose machine has gone on for so long."""
    clock = ManualClock()
    real = SystemClock()
    clock.domain, clock.store_seconds = real.store_time()
    clock.wall_time = real.wall()
    clock.advance(seconds)
    async with holdfast.open(url, world=World(clock=clock)) as rt:
        return [info.state.value for info in await rt.ledger.interrupted()]


def test_clocks_that_jump_make_no_second_owner(tmp_path: Path) -> None:
    """F16. Ahead: overtaken and refused. Back: the takeover comes later. Never two at once."""
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def run(jump: float) -> None:
        clock, other = ManualClock(), ManualClock()
        # Foreign to each other's processes, so that only the leases can tell.
        async with holdfast.open(url, world=World(clock=clock)) as rt:
            await _disguise(rt)
            entry = await rt.ledger.begin("a", policy=holdfast.RESUME, fresh_for=1e6)
            other.advance(jump)
            async with holdfast.open(url, world=World(clock=other)) as heir:
                found = [info.state.value for info in await heir.ledger.interrupted()]
                if jump < 30.0:
                    assert found == []
                    await entry.settle()
                    return
                assert found == ["resumable"]
                async with await heir.ledger.claim("a"):
                    with pytest.raises(StaleGenerationError):
                        await entry.settle()
                    with pytest.raises(NotReadyError):
                        await rt.records.put("k", "a", 1)

    for jump in (-5 * 3600.0, 0.0, 29.0, 31.0, 9 * 3600.0):
        asyncio.run(run(jump))


async def _disguise(rt: holdfast.Runtime) -> None:
    """Make a runtime's process one of another machine."""
    record = (await rt.records.list("holdfast.runtime"))[0]
    value = {**record.value, "owner": {**record.value["owner"], "boot": "boot:elsewhere"}}
    await rt._store.commit(Unit((PutRecord(record.kind, record.key, codec.encode(value)),)))


def test_of_many_who_prove_one_death_exactly_one_is_granted(store_url: str) -> None:
    """F14, C5, H5. The proof names a generation; whoever comes second meets the next one."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            held = await rt.leases.grant("a", 3600.0, holder="dead")
            over = held.generation
            grants = (Unit((GrantLease("a", 60.0, f"{n}", over=over),)) for n in range(9))
            answers = await asyncio.gather(*map(rt.commit, grants), return_exceptions=True)
            granted = [one for one in answers if not isinstance(one, BaseException)]
            assert len(granted) == 1
            assert granted[0].leases[0].generation == 2
            with pytest.raises(StaleGenerationError):
                await held.renew()

    asyncio.run(run())
