"""
What every store has to do, as tests that somebody with a store of their own can run.

The claims are about behaviour: what is refused, what is found again, what nobody may see. Make
a module for your tests, say how your store is opened, and take the classes over:

    import pytest
    from holdfast.testing import contract

    @pytest.fixture
    def open_store(tmp_path):
        url = f"sqlite:///{tmp_path / 'store.db'}"
        return contract.Opener(lambda **options: holdfast.open(url, **options))

    class TestStreams(contract.StreamContract): ...
    class TestRecords(contract.RecordContract): ...

`contract.ALL` lists the classes. Each test opens the store through the fixture, so give each
an empty one. A store that ends with its process is `contract.Opener(..., keeps=False)`; claims
about opening again are then skipped, and say so. A driver of your own goes in as
`Opening(Store(driver, options, world), 30.0, Redactor())`.

Random claims show their seed when they fail; set `HOLDFAST_SEED` to replay one.
"""

from holdfast.testing.contract.blob import BlobContract, SnapshotContract
from holdfast.testing.contract.claim import Opener
from holdfast.testing.contract.conformance import ConformanceContract
from holdfast.testing.contract.follow import FollowContract
from holdfast.testing.contract.key import KeyContract
from holdfast.testing.contract.lease import LeaseContract
from holdfast.testing.contract.outcome import OutcomeContract
from holdfast.testing.contract.record import RecordContract
from holdfast.testing.contract.run import PipelineContract, RunContract
from holdfast.testing.contract.stream import StreamContract
from holdfast.testing.contract.unit import UnitContract
from holdfast.testing.contract.value import ValueContract
from holdfast.testing.contract.verify import VerifyContract

ALL = (
    StreamContract,
    FollowContract,
    RecordContract,
    LeaseContract,
    BlobContract,
    SnapshotContract,
    UnitContract,
    OutcomeContract,
    KeyContract,
    ValueContract,
    VerifyContract,
    ConformanceContract,
    RunContract,
    PipelineContract,
)

__all__ = [
    "ALL",
    "BlobContract",
    "ConformanceContract",
    "FollowContract",
    "KeyContract",
    "LeaseContract",
    "Opener",
    "OutcomeContract",
    "PipelineContract",
    "RecordContract",
    "RunContract",
    "SnapshotContract",
    "StreamContract",
    "UnitContract",
    "ValueContract",
    "VerifyContract",
]
