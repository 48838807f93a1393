"""The shipped contract suite once more, on stores that are encrypted: nobody sees a difference."""

from pathlib import Path

import pytest

import holdfast
from holdfast.testing import contract


@pytest.fixture
def open_store(kept_url: str, tmp_path: Path) -> contract.Opener:
    """How each kind of store that stays is opened, with a key."""
    keyring = tmp_path / "agent.keys"
    holdfast.Keyring.create(keyring)
    return contract.Opener(
        lambda **options: holdfast.open(kept_url, keyring=keyring, **options), keeps=True
    )


class TestStreams(contract.StreamContract): ...


class TestFollowing(contract.FollowContract): ...


class TestRecords(contract.RecordContract): ...


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
