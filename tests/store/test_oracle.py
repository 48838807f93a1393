"""
Every store against the plain oracle: random units, many at once, in batches as they come, with
openings in between. What is answered and what is found at the end is what the oracle says.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import holdfast
from holdfast.core.clock import StoreTime
from holdfast.core.errors import HoldfastError
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.runtime.runtime import Outcome, Runtime
from holdfast.testing.clock import ManualClock
from holdfast.testing.oracle import Oracle, Refused, agrees
from tests.core.units import SHORT, as_of, units

# A group of units that wait together, how much time passes after it, whether to open anew.
groups = st.tuples(
    st.lists(units, min_size=1, max_size=12),
    st.sampled_from([0.0, 0.0, SHORT / 2, SHORT]),
    st.booleans(),
)
programs = st.lists(groups, min_size=1, max_size=5)
_numbers = count()
EXAMPLES = {"memory": 40, "sqlite": 25, "postgresql": 20}


@pytest.fixture
def fresh(store_url: str, tmp_path: Path) -> Callable[[], str]:
    """A function that names an empty store each time it is called."""

    def name() -> str:
        if store_url.startswith("postgresql"):
            return f"{store_url}&schema=s{next(_numbers)}"
        return (
            f"sqlite:///{tmp_path / str(next(_numbers))}.db"
            if "memory" not in store_url
            else store_url
        )

    return name


def test_a_store_does_what_the_oracle_says(
    fresh: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    """R11, X16, C1. Answers, outcomes and content, over batches and openings."""
    kind = request.node.callspec.params["store_url"]

    @settings(
        max_examples=EXAMPLES[kind],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(programs)
    def compare(program: list[Any]) -> None:
        asyncio.run(_compare(fresh(), program))

    compare()


async def _compare(url: str, program: list[Any]) -> None:
    clock = ManualClock()
    own_clock = url.startswith("postgresql")
    oracle = Oracle(clock.store_time(), b"")
    left = list(program)
    while left:
        async with holdfast.open(url, world=World(clock=clock)) as rt:
            oracle.incarnation = rt.opened.incarnation
            again = False
            while left and not again:
                group, seconds, again = left.pop(0)
                again = again and "memory" not in url
                await _run_group(rt, oracle, group, own_clock)
                if not own_clock:
                    clock.advance(seconds)
                    oracle.now = clock.store_time()
            await _check_content(rt, oracle, own_clock)
    if "memory" not in url:
        async with holdfast.open(url, world=World(clock=clock)) as rt:
            await _check_content(rt, oracle, own_clock)


async def _run_group(rt: Runtime, oracle: Oracle, group: list[Unit], own_clock: bool) -> None:
    ready = [as_of(unit, rt.opened.incarnation) for unit in group]
    named = [Unit(unit.writes, unit.expects, rt.unit_id()) for unit in ready]
    answers = await asyncio.gather(*map(rt.commit, named), return_exceptions=True)
    for unit, answer in zip(named, answers, strict=True):
        expected = oracle.apply(unit)
        assert agrees(answer, expected, own_clock=own_clock), (unit, expected, answer)
        wanted = Outcome.ABSENT if isinstance(expected, Refused) else Outcome.COMMITTED
        assert await rt.outcome(unit.id) is wanted


async def _check_content(rt: Runtime, oracle: Oracle, own_clock: bool) -> None:
    state = oracle.state
    assert [info.name for info in await rt.streams()] == sorted(state.streams, key=str.encode)
    for name, line in state.streams.items():
        events = await rt.history(name).read(line.trimmed)
        found = [(event.type, event.payload, event.meta) for event in events]
        assert found == line.events[line.trimmed :]
        info = await rt.history(name).info()
        assert (info.first_sequence, info.closed) == (line.trimmed + 1, line.closed)
    for (kind, key), kept in state.records.items():
        row = await rt._store.read(lambda reader, kind=kind, key=key: reader.record(kind, key))
        assert row is not None and (row.version, row.tag, row.value) == kept
    for key, held in state.leases.items():
        lease = await rt.leases.find(key)
        assert lease is not None
        assert (lease.generation, lease.incarnation, lease.holder) == held[:3]
        assert own_clock or StoreTime(lease.domain, lease.expires_at) == held.until
    await _check_bytes(rt, oracle)
    assert await rt.verify() == []


async def _check_bytes(rt: Runtime, oracle: Oracle) -> None:
    for blob in (b"one", b"two" * 900):
        digest = holdfast.PutBlob.of(blob).digest
        try:
            assert await rt.blobs.get(digest.hex()) == blob
        except HoldfastError:
            assert digest not in oracle.state.blobs
        else:
            assert digest in oracle.state.blobs
    for name in "nm":
        kept = oracle.state.snapshots.get(name, {})
        rows = await rt._store.read(lambda reader, name=name: reader.snapshots(name, 10))
        assert [row.sequence for row in rows] == sorted(kept, reverse=True)
        assert all(row.stored == kept[row.sequence].stored for row in rows)
