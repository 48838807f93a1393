"""Layer L0 of the crash lab: every order of a few processes, by the rules of core."""

import pytest

from holdfast.testing.orders.model import Searched, search
from holdfast.testing.orders.protocol import BROKEN, Bounds, Protocol
from holdfast.testing.orders.takeover import BROKEN_TAKEOVERS, Limits, Takeover, search_takeover

pytestmark = pytest.mark.lab

# The longest way to the mistake; if one is found only later, the search lost its order.
ACTS_MAX = 6
SMALL = Bounds(workers=2)


@pytest.fixture(scope="module")
def small() -> Searched:
    """Every order of two workers; the lab searches those of three."""
    return search(bounds=SMALL)


def test_every_order_of_two_workers_keeps_one_owner(small: Searched) -> None:
    """F13, F14, F15, F16. No state breaks an invariant, and in each somebody can go on."""
    searched = small
    print(searched)
    assert searched.broken == "", str(searched)
    assert searched.states > 30_000, "the search lost a rule or a fault"
    assert searched.depth > 15


@pytest.mark.parametrize("protocol", BROKEN, ids=lambda one: one.name)
def test_a_protocol_with_a_known_mistake_is_refuted(protocol: Protocol) -> None:
    """F14, F15, F16. The shortest way to the mistake is shown."""
    searched = search(protocol, SMALL)
    print(searched)
    assert searched.broken
    assert 2 <= len(searched.trace) <= ACTS_MAX
    assert f"1. {searched.trace[0]}" in str(searched)


@pytest.mark.parametrize(
    "bounds", [Bounds(workers=2, clones=0), Bounds(workers=2, boots=0), Bounds(workers=1)]
)
def test_fewer_faults_reach_fewer_states(bounds: Bounds, small: Searched) -> None:
    """F13. Each fault adds states, so that none is a rule that never applies."""
    assert search(bounds=bounds).states < small.states


def test_every_order_of_three_runtimes_keeps_one_owner_of_work() -> None:
    """H3, H5, H7, H8, H10, C5. Death, silence and rescues that break off, at every place."""
    searched = search_takeover()
    print(searched)
    assert searched.broken == "", str(searched)
    assert searched.states > 200_000, "the search lost a rule or a fault"
    assert searched.depth > 20


@pytest.mark.parametrize("takeover", BROKEN_TAKEOVERS, ids=lambda one: one.name)
def test_a_takeover_with_a_known_mistake_is_refuted(takeover: Takeover) -> None:
    """H3, H7, H8, H10, C5. The shortest way to the mistake is shown."""
    searched = search_takeover(takeover)
    print(searched)
    assert searched.broken
    assert 2 <= len(searched.trace) <= ACTS_MAX + 2


@pytest.mark.parametrize("limits", [Limits(runtimes=2), Limits(deaths=1), Limits(silences=0)])
def test_fewer_deaths_and_silences_reach_fewer_states(limits: Limits) -> None:
    """H10. Each of them adds states, so that none is a rule that never applies."""
    searched = search_takeover(limits=limits)
    assert searched.broken == ""
    assert searched.states < 200_000
