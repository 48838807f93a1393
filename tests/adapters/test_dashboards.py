"""
What ships for Grafana and Prometheus speaks of metrics that exist, in words that parse.

Every expression is parsed by Prometheus's own grammar and compared with the catalogue: names,
suffixes that fit the kind, labels, and the values of labels that are known.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

import holdfast
from holdfast.core.metrics import CATALOGUE, PREFIX, Metric

FOLDER = Path(holdfast.__file__).parent / "adapters" / "dashboards"
SRC = FOLDER.parent.parent
DOCS = Path(__file__).parent.parent.parent / "docs" / "telemetry.md"
BOARDS = sorted(path.name for path in FOLDER.glob("*.json"))
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SELECTOR = re.compile(r"holdfast_(\w+)(\{[^}]*\})?(\[)?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\bby \(([^)]*)\)")
TELLS = re.compile(r'(?:tell|Reading)\(\s*"([a-z._]+)"')
SPELLED = {"question.asked", "question.answered", "question.expired"}
"""Told under a name that is put together."""
OF_PROMETHEUS = {"le", "instance"}
NAMED = {metric.name + suffix: metric for metric in CATALOGUE for suffix in SUFFIXES[metric.kind]}


def board(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def rules() -> Iterator[dict[str, Any]]:
    for group in ALERTS["groups"]:
        yield from group["rules"]


def expressions() -> Iterator[tuple[str, str]]:
    """Give every expression, and where it stands."""
    for name in BOARDS:
        for panel in board(name)["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
    for rule in rules():
        yield f"alerts.yaml: {rule['alert']}", rule["expr"]


def check(expression: str) -> set[str]:
    """Return the metrics an expression speaks of; fails if it says what the catalogue does not."""
    plain = expression.replace("$__rate_interval", "5m")
    promql_parser.parse(plain)
    used: dict[str, Metric] = {}
    for name, selected, ranged in SELECTOR.findall(plain):
        assert name in NAMED, f"holdfast_{name} is not in the catalogue"
        metric = NAMED[name]
        used[metric.name] = metric
        if metric.kind != "gauge":
            assert ranged, f"{name} only grows; take its rate or increase"
        for label, _, value in MATCHER.findall(selected):
            assert label in metric.labels, f"{name} has no label {label}"
            for word in value.split("|"):
                assert word in metric.values.get(label, (word,)), f"{label} is never {word}"
    labels = OF_PROMETHEUS.union(*(metric.labels for metric in used.values()))
    for group in GROUPED.findall(plain):
        assert {label.strip() for label in group.split(",")} <= labels, group
    return set(used)


@pytest.mark.parametrize(("place", "expression"), list(expressions()), ids=lambda word: word[:50])
def test_an_expression_speaks_of_metrics_that_exist(place: str, expression: str) -> None:
    """Issue 7: every metric named in a dashboard or alert is in the catalogue."""
    assert check(expression), place


@pytest.mark.parametrize(
    "expression",
    [
        "sum(holdfast_runs_startd_total)",
        "sum(holdfast_runs_started_total)",
        "sum(rate(holdfast_runs_started_total[5m])",
        'max(holdfast_runs{state="sleeping"})',
        "max by (run_id) (holdfast_runs)",
        "rate(holdfast_store_commit_seconds[5m])",
    ],
)
def test_an_expression_that_is_wrong_is_noticed(expression: str) -> None:
    """Issue 7: the check above finds names, kinds, brackets, values and labels that are wrong."""
    with pytest.raises((AssertionError, ValueError)):
        check(expression)


def test_every_metric_is_on_a_dashboard() -> None:
    """Issue 7: what is counted is shown somewhere."""
    boards = [one for place, one in expressions() if not place.startswith("alerts")]
    shown = set[str]().union(*map(check, boards))
    assert shown == {metric.name for metric in CATALOGUE}


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_one_for_grafana(name: str) -> None:
    """Issue 7: unique ids, no panel upon another, no data source of somebody's own."""
    found = board(name)
    assert found["uid"] == f"holdfast-{name.removesuffix('.json')}"
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken
        taken |= cells


def test_schedule_to_start_and_slots_come_first() -> None:
    """Issue 7: the two numbers operators use most are in the first row."""
    first = [panel for panel in board("overview.json")["panels"] if panel["gridPos"]["y"] == 0]
    shown = [check(target["expr"]) for panel in first for target in panel["targets"]]
    assert {"run_queue_wait_seconds"} in shown and {"worker_slots"} in shown


def test_alerts_say_how_bad_it_is_and_what_to_do() -> None:
    """Issue 7: rules as Prometheus reads them, each with a summary and an action."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 15
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"] in ({"severity": "warning"}, {"severity": "critical"})
        assert set(rule["annotations"]) == {"summary", "action"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        assert f"`{rule['alert']}`" in DOCS.read_text(), f"{rule['alert']} is not documented"


def test_what_feeds_a_metric_is_told_somewhere() -> None:
    """Issue 7: the catalogue declares only what is told, or sampled."""
    source = "".join(path.read_text() for path in SRC.rglob("*.py"))
    told = {*TELLS.findall(source), *SPELLED}
    for metric in CATALOGUE:
        assert (metric.of or metric.name) in told, metric.name


def test_metrics_are_named_as_prometheus_wants() -> None:
    """Issue 7: base units at the end, counters in `_total`, labels that are no identifiers."""
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert re.fullmatch(r"[a-z_]+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|count|sum|bucket)$", metric.name)
        assert metric.kind != "histogram" or metric.unit, f"{metric.name} has no unit"
        assert metric.kind != "histogram" or list(metric.buckets) == sorted(set(metric.buckets))
        assert not {"id", "run", "run_id", "session", "key", "user"} & set(metric.labels)
        assert metric.of or metric.kind == "gauge", f"{metric.name} is never fed"
        assert metric.help.endswith("."), metric.name


def test_the_documentation_lists_the_catalogue() -> None:
    """Issue 7: every metric in the catalogue is documented, by a table made of it."""
    table = [f"| `{PREFIX}{metric.name}` | {row(metric)} |" for metric in CATALOGUE]
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    assert lines == table, "\n" + "\n".join(table)


def row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"{metric.kind} | {labels} | {metric.scope} | {metric.help}"
