"""
Metrics for Prometheus, in its text format.

    from holdfast.adapters.prometheus import CONTENT_TYPE, Metrics, exposition

    async with holdfast.open(url, telemetry=[Metrics()]) as rt:
        body = await exposition(rt)        # bytes, to be answered as CONTENT_TYPE

An HTTP server calls `await exposition(rt)` for each scrape; it is safe to call at any time and as
often as one likes. A runtime that was opened without `Metrics()` gets one at the first call, and
counts from then on.

Invariants: every series is in the catalogue (`core.metrics`); series whose labels are known begin
with zero; a label that programs make up has at most `VALUES_MAX` values, whatever comes beyond is
counted together as `_other`; what the store says is marked `[store]` in its help, so that whoever
looks at many processes takes the maximum and not the sum.
"""

import asyncio
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Final

from holdfast.core.errors import HoldfastError, MissingExtraError
from holdfast.core.metrics import CATALOGUE, Metric
from holdfast.core.telemetry import Notice
from holdfast.runtime.backup import list_backups
from holdfast.runtime.gauges import Reading
from holdfast.runtime.runtime import Runtime

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError(feature="Prometheus", extra="metrics") from error

__all__ = ["CONTENT_TYPE", "Metrics", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
VALUES_MAX: Final = 100
OTHER: Final = "_other"
Values = tuple[str, ...]


class _Series:
    """One series: a number, or how many observations were in which bucket."""

    __slots__ = ("counts", "total", "value")

    def __init__(self, metric: Metric) -> None:
        self.value = 0.0
        self.total = 0
        self.counts = [0] * len(metric.buckets) if metric.kind == "histogram" else []

    def observe(self, metric: Metric, number: float) -> None:
        self.value += number
        self.total += 1
        place = bisect_left(metric.buckets, number)
        if place < len(self.counts):
            self.counts[place] += 1


class Metrics(Collector):
    """
    A hook that counts what happens, and a collector that shows it.

    Attributes:
        registry: where it is registered; `exposition` shows all of it.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, backups: Path | str | None = None
    ) -> None:
        """
        Register with a registry.

        Args:
            registry: one that shows other metrics, too; one of its own if not given.
            backups: folder of the backups of this store, to tell how old the newest one is.
        """
        self._backups = None if backups is None else Path(backups)
        self.registry = registry or CollectorRegistry()
        self._lock = threading.Lock()
        self._series: dict[str, dict[Values, _Series]] = {one.name: {} for one in CATALOGUE}
        self._seen: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for metric in CATALOGUE:
            if metric.of and not _open(metric):
                self._begin(metric, ())
        self.registry.register(self)

    def notice(self, notice: Notice) -> None:
        """Count what happened."""
        with self._lock:
            for metric in _FED.get(notice.name, ()):
                number = notice.numbers.get(metric.number) if metric.number else 1.0
                if number is not None:
                    self._feed(metric, notice.labels, number)

    def take(self, readings: Iterable[Reading]) -> None:
        """Show what was sampled in place of what was sampled before."""
        with self._lock:
            for metric in _SAMPLED:
                if not metric.labels:
                    self._series[metric.name].clear()
                for series in self._series[metric.name].values():
                    series.value = 0.0
            for reading in readings:
                self._feed(_NAMED[reading.name], reading.labels, float(reading.value))

    async def look(self, rt: Runtime) -> None:
        """Sample a runtime now; `exposition` does this by itself."""
        readings = [*await rt.gauges.read()]
        if self._backups is not None:
            readings.append(await _backed_up(self._backups))
        self.take(readings)

    def collect(self) -> Iterator[Family]:
        """Give everything as the library wants it."""
        with self._lock:
            families = [_family(metric, self._series[metric.name]) for metric in CATALOGUE]
        yield from (family for family in families if family.samples)

    def describe(self) -> Iterable[Family]:
        """Name the metrics, for the check of a registry that two have the same name."""
        return [_family(metric, {}) for metric in CATALOGUE]

    def _feed(self, metric: Metric, labels: Mapping[str, str], number: float) -> None:
        values = tuple(
            [self._bounded(metric, name, labels.get(name, "")) for name in metric.labels]
        )
        series = self._series[metric.name].get(values)
        if series is None:
            series = self._admit(metric, values)
        if metric.kind == "histogram":
            series.observe(metric, number)
        elif metric.kind == "counter":
            series.value += number
        else:
            series.value = number

    def _bounded(self, metric: Metric, label: str, value: str) -> str:
        if value in metric.values.get(label, ()):
            return value
        seen = self._seen[metric.name, label]
        if value not in seen and len(seen) >= VALUES_MAX:
            return OTHER
        seen.add(value)
        return value

    def _admit(self, metric: Metric, values: Values) -> _Series:
        """Begin a series, and with it those that differ in known labels alone."""
        named = dict(zip(metric.labels, values, strict=True))
        free = _open(metric)
        if free:
            some = tuple(named[label] for label in free)
            for other in CATALOGUE:
                if other.area == metric.area and _open(other) == free:
                    self._begin(other, some)
        return self._series[metric.name].setdefault(values, _Series(metric))

    def _begin(self, metric: Metric, some: Values) -> None:
        """Begin the series of a metric with some values for the labels that are not known."""
        given = dict(zip(_open(metric), some, strict=True))
        choices = [metric.values.get(label, (given.get(label, ""),)) for label in metric.labels]
        for values in product(*choices):
            self._series[metric.name].setdefault(values, _Series(metric))


_SAMPLED: Final = tuple(metric for metric in CATALOGUE if not metric.of)
_NAMED: Final = {metric.name: metric for metric in CATALOGUE}
_FED: Final[dict[str, Sequence[Metric]]] = {
    name: tuple(metric for metric in CATALOGUE if metric.of == name)
    for name in {metric.of for metric in CATALOGUE if metric.of}
}


async def exposition(rt: Runtime) -> bytes:
    """
    Return what is to be answered to a scrape; its type is `CONTENT_TYPE`.

    Args:
        rt: the runtime whose metrics are asked for.
    """
    metrics = next((hook for hook in rt.telemetry.hooks if isinstance(hook, Metrics)), None)
    if metrics is None:
        metrics = Metrics()
        rt.telemetry.add(metrics)
    await metrics.look(rt)
    return generate_latest(metrics.registry)


async def _backed_up(folder: Path) -> Reading:
    """Return when the newest backup was made; 0 if there is none, or none that can be read."""
    at = 0.0
    with suppress(HoldfastError, OSError):
        found = await asyncio.to_thread(list_backups, folder)
        at = max((one.manifest.made_at for one in found), default=0.0)
    return Reading("backup_last_success_timestamp_seconds", {}, at)


def _open(metric: Metric) -> Values:
    """Return the labels of a metric whose values are not known."""
    return tuple(label for label in metric.labels if label not in metric.values)


def _family(metric: Metric, series: dict[Values, _Series]) -> Family:
    words = f"[store] {metric.help}" if metric.scope == "store" else metric.help
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.full_name, words, labels=metric.labels)
        for values, one in series.items():
            histogram.add_metric(values, _buckets(metric, one), one.value)
        return histogram
    counter = metric.kind == "counter"
    made = CounterMetricFamily if counter else GaugeMetricFamily
    family = made(metric.full_name, words, labels=metric.labels)
    for values, one in series.items():
        family.add_metric(values, one.value)
    return family


def _buckets(metric: Metric, series: _Series) -> list[tuple[str, float]]:
    """Return the buckets as they are exposed: each with all that was below its bound."""
    found: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip(metric.buckets, series.counts, strict=True):
        below += count
        found.append((str(bound), below))
    return [*found, ("+Inf", series.total)]
