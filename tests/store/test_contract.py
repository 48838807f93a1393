"""The shipped contract suite, run on every store that Holdfast has (R11, X14)."""

import pytest

import holdfast
from holdfast.testing import contract


@pytest.fixture
def open_store(store_url: str) -> contract.Opener:
    """How each kind of store is opened; one in memory begins empty each time."""
    return contract.Opener(
        lambda **options: holdfast.open(store_url, **options), keeps=":memory:" not in store_url
    )


class TestStreams(contract.StreamContract): ...


class TestFollowing(contract.FollowContract): ...


class TestRecords(contract.RecordContract): ...


class TestLeases(contract.LeaseContract): ...


class TestBlobs(contract.BlobContract): ...


class TestSnapshots(contract.SnapshotContract): ...


class TestUnits(contract.UnitContract): ...


class TestOutcomes(contract.OutcomeContract): ...


class TestKeys(contract.KeyContract): ...


class TestValues(contract.ValueContract): ...


class TestVerifying(contract.VerifyContract): ...


class TestConformance(contract.ConformanceContract): ...


class TestRuns(contract.RunContract): ...


class TestPipelines(contract.PipelineContract): ...


def test_no_part_of_the_contract_is_left_out() -> None:
    """R11. Each class of the suite is run here."""
    run = {base for one in globals().values() if isinstance(one, type) for base in one.__bases__}
    assert set(contract.ALL) <= run
