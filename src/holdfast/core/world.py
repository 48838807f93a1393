"""
The outside, as far as rules and stores may see it: time, randomness, files, failpoints.

Everything a test wants to set is in here and is handed in when a store is opened, so that
nothing is looked up in a global and a simulation controls all of it.
"""

from dataclasses import dataclass, field

from holdfast.core.clock import Clock, SystemClock
from holdfast.core.failpoint import Failpoints
from holdfast.core.files import Files
from holdfast.core.ids import Ids
from holdfast.core.telemetry import Telemetry


@dataclass(slots=True, kw_only=True)
class World:
    """
    What a store asks of the outside.

    Attributes:
        clock: wall, store and monotonic time.
        ids: source of identifiers.
        failpoints: places where a test may interfere.
        files: the small files beside an SQLite store; None for those of this machine.
        vfs: name of the SQLite VFS to open with; empty for the default of the system.
        telemetry: who is told what happens.
    """

    clock: Clock = field(default_factory=SystemClock)
    ids: Ids = field(default_factory=Ids)
    failpoints: Failpoints = field(default_factory=Failpoints)
    files: Files | None = None
    vfs: str = ""
    telemetry: Telemetry = field(default_factory=Telemetry)
