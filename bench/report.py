"""The report: a table, the bars of the design, a file for programs."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.measure import Result

WIDTH = 150


class Bar(msgspec.Struct, frozen=True):
    """
    A bar: what has to hold of which line.

    Attributes:
        text: the bar in words.
        name: row.
        against: compared with this; empty for any.
        store: store; empty for any.
        value: what is judged of the line.
        holds: says whether it is met.
    """

    text: str
    name: str
    against: str
    store: str
    value: Callable[[Result], float]
    holds: Callable[[float], bool]


def _ratio(result: Result) -> float:
    return result.ratio


def _value(result: Result) -> float:
    return result.value


def _cpu(result: Result) -> float:
    return result.cpu_us or 0.0


BARS = (
    Bar("one caller ≥ 0.7 x bare", "append_1", "bare", "sqlite", _ratio, lambda r: r >= 0.7),
    Bar(
        "1,000 callers ≥ 0.5 x bare with 1,000 rows a commit",
        "append_1000",
        "bare_1000",
        "sqlite",
        _ratio,
        lambda r: r >= 0.5,
    ),
    Bar(
        "1,000 callers ≥ 15 x one caller",
        "gain_1000",
        "append_1",
        "sqlite",
        _ratio,
        lambda r: r >= 15,
    ),
    Bar(
        "1,000 callers ≥ 0.5 x bare COPY of the same size",
        "append_1000",
        "bare",
        "postgresql",
        _ratio,
        lambda r: r >= 0.5,
    ),
    Bar(
        "cost at 1,000,000 events as at 1,000 (± 20 %)",
        "growth",
        "",
        "",
        _ratio,
        lambda r: r <= 1.2,
    ),
    Bar("commit to subscriber p50 < 1 ms", "follow_p50", "", "", _value, lambda ms: ms < 1),
    Bar("1,000 subscribers without loss", "follow_1000", "", "", _value, lambda rate: rate > 0),
    Bar("flush of 10,000 sessions < 1 s", "flush", "", "", _value, lambda ms: ms < 1_000),
    Bar("the loop stands ≤ 10 ms meanwhile", "flush_stall", "", "", _value, lambda ms: ms <= 10),
    Bar("boot with 100,000 sessions < 2 s", "boot", "", "", _value, lambda ms: ms < 2_000),
    Bar("100 runs ≥ 20 x DBOS", "steps_100", "dbos", "sqlite", _ratio, lambda r: r >= 20),
    Bar("100 runs ≥ 10 x DBOS", "steps_100", "dbos", "postgresql", _ratio, lambda r: r >= 10),
    Bar("CPU per step ≤ 150 µs", "steps_100", "dbos", "", _cpu, lambda us: us <= 150),
    Bar("replay ≥ 100,000 steps/s", "replay", "dbos", "", _value, lambda rate: rate >= 100_000),
    Bar("boot with 10,000 runs < 2 s", "inflight", "", "", _value, lambda ms: ms < 2_000),
    Bar("first page of 100,000 runs < 300 ms", "api_first", "", "", _value, lambda ms: ms < 300),
    Bar("a filter looks for < 300 ms", "api_look", "", "", _value, lambda ms: ms < 300),
    Bar("1,000,000 events open < 1 s", "api_opened", "", "", _value, lambda ms: ms < 1_000),
    Bar("import < 100 ms", "import", "", "", _value, lambda ms: ms < 100),
    Bar("idle runtime < 40 MB", "memory", "", "sqlite", _value, lambda mb: mb < 40),
)


def gains(results: list[Result]) -> list[Result]:
    """Return how much many callers gain over one, per store."""
    found: list[Result] = []
    for one in results:
        many = [r for r in results if (r.name, r.store) == ("append_1000", one.store)]
        if one.name == "append_1" and one.against == "bare" and many:
            found.append(
                Result(
                    name="gain_1000",
                    store=one.store,
                    value=many[0].value,
                    unit="events/s",
                    against="append_1",
                    against_value=one.value,
                    ratio=many[0].value / one.value,
                    fsync_per_s=one.fsync_per_s,
                )
            )
    return found


def judge(results: list[Result]) -> list[tuple[str, str, float, bool]]:
    """Return bar, store, value and whether it is met, for every bar that was measured."""
    return [
        (bar.text, result.store, bar.value(result), bar.holds(bar.value(result)))
        for bar in BARS
        for result in results
        if result.name == bar.name
        and bar.against in ("", result.against)
        and bar.store in ("", result.store)
    ]


def write(path: Path, results: list[Result]) -> None:
    """Write the report for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")


def show(results: list[Result]) -> None:
    """Print the table, then which bars are met."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    table = Table(box=None, pad_edge=False)
    for column in ("row", "store", "against"):
        table.add_column(column)
    for column in ("ours", "theirs", "unit", "ratio", "batch", "CPU µs", "theirs", "fsync/s"):
        table.add_column(column, justify="right")
    for one in results:
        table.add_row(
            one.name,
            one.store,
            one.against,
            _number(one.value),
            _number(one.against_value),
            one.unit,
            f"{one.ratio:.2f}",
            _number(one.batch),
            _number(one.cpu_us),
            _number(one.against_cpu_us),
            _number(one.fsync_per_s),
        )
    console.print(table)
    console.print()
    for text, store, value, met in judge(results):
        console.print(f"{'met    ' if met else 'NOT MET'}  {store:<10}  {text}: {_number(value)}")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
