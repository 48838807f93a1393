"""
Power cuts on real ext4 and xfs, by the shutdown call that file-system developers test with.

Needs root, loop devices and mkfs; where they are missing the tests are skipped with the reason.
"""

import secrets

import pytest

from holdfast.testing.process.filesystem import Cuts, cut_power, unavailable

pytestmark = pytest.mark.lab

CYCLES = 20


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    """A file system whose power can be cut here."""
    name = str(request.param)
    if reason := unavailable(name):
        pytest.skip(f"no power cuts on a real {name}: {reason}")
    return name


def test_a_store_on_a_real_file_system_loses_nothing_to_a_power_cut(kind: str) -> None:
    """X1, X2, F3 to F5."""
    found = cut_power(Cuts(kind=kind, cycles=CYCLES, seed=secrets.randbelow(2**31)))
    print(found)
    assert found.sound, "\n".join(found.failures)
    assert (found.cycles, found.acknowledged > CYCLES) == (CYCLES, True)


def test_a_store_that_syncs_rarely_loses_work_on_a_real_file_system(kind: str) -> None:
    """Planted: synchronous=NORMAL."""
    assert cut_power(Cuts(kind=kind, cycles=6, seed=1, plant="synchronous-normal")).lost
