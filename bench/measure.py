"""What a measurement is: its result, and how two things are measured in turn."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

SYNC_BLOCK = b"\0" * 4096
SYNC_SECONDS = 0.05


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    One line of the report.

    Attributes:
        name: row, such as `append_1000`.
        store: `sqlite`, `postgresql`, or `-` where none is involved.
        value: what was measured of Holdfast, a median.
        unit: of both values.
        against: what it is compared with.
        against_value: median of that.
        ratio: value / against_value.
        fsync_per_s: 4 KiB appends with fdatasync a second, on the same disk between the rounds.
        callers: concurrent callers.
        bytes: size of a payload.
        batch: units per commit that the writer came to, on average.
        cpu_us: microseconds of CPU per operation, all threads of this process.
        against_cpu_us: the same of the other.
        note: anything else worth knowing.
    """

    name: str
    store: str
    value: float
    unit: str
    against: str
    against_value: float
    ratio: float
    fsync_per_s: float
    callers: int | None = None
    bytes: int | None = None
    batch: float | None = None
    cpu_us: float | None = None
    against_cpu_us: float | None = None
    note: str | None = None


class Rate(msgspec.Struct, frozen=True):
    """Operations of one slice of time: how many, how fast, and the CPU one of them took."""

    count: int
    per_s: float
    cpu_us: float


class Stopwatch:
    """Wall time and CPU time of this process since it was made."""

    def __init__(self) -> None:
        """Start."""
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the wall time so far."""
        return time.perf_counter() - self._wall

    def rate(self, count: int) -> Rate:
        """Return what `count` operations come to."""
        wall, cpu = self.seconds, time.process_time() - self._cpu
        return Rate(count, count / wall, cpu / max(count, 1) * 1e6)


def now() -> float:
    """Return a moment in seconds that is the same one in every process of this machine."""
    return time.monotonic()


def middle(rates: list[Rate]) -> Rate:
    """Return the medians."""
    return Rate(
        sum(rate.count for rate in rates),
        median(rate.per_s for rate in rates),
        median(rate.cpu_us for rate in rates),
    )


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def sync_rate(folder: Path, seconds: float = SYNC_SECONDS) -> float:
    """Return how many 4 KiB appends with fdatasync the disk does in a second right now."""
    path = folder / "sync"
    count = 0
    with path.open("wb", buffering=0) as file:
        watch = Stopwatch()
        while watch.seconds < seconds:
            file.write(SYNC_BLOCK)
            os.fdatasync(file.fileno())
            count += 1
        rate = watch.rate(count)
    path.unlink()
    return rate.per_s


def rss_mb(pid: int | str = "self") -> float:
    """Return the resident size of a process in MB; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    found = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) / 1000


def repeat(rounds: int, *steps: Callable[[], float]) -> list[float]:
    """Run the steps in turn, several rounds, and return the median of each."""
    found = [[step() for step in steps] for _ in range(rounds)]
    return [median(column) for column in zip(*found, strict=True)]
