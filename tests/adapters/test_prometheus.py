"""
Metrics as Prometheus reads them: the numbers are what happened, over a SIGKILL and a restart.
"""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import holdfast
from holdfast.adapters.prometheus import OTHER, VALUES_MAX, Metrics, exposition
from holdfast.core.metrics import CATALOGUE, PREFIX
from holdfast.core.telemetry import Notice
from holdfast.runtime import backup
from tests.adapters.measured import KIND, RUN_IDS, finish, live_and_die, report

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: bytes) -> Samples:
    """Return what Prometheus's own parser reads: name and labels to value."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            place = (sample.name, frozenset(sample.labels.items()))
            assert place not in found, "a series is there twice"
            found[place] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[PREFIX + name, frozenset(labels.items())]


def next_life(url: str) -> bytes:
    """Go on where a process died, to the end of all runs; return what Prometheus is told."""

    async def live() -> bytes:
        async with holdfast.open(url, telemetry=[Metrics()], functions=[report]) as rt:
            await finish(rt)
            return await exposition(rt)

    return asyncio.run(live())


@pytest.fixture
def lives(kept_url: str, tmp_path: Path) -> tuple[bytes, bytes]:
    """What a life that was killed told just before that, and what the next one told."""
    live_and_die(kept_url, tmp_path)
    return (tmp_path / "metrics").read_bytes(), next_life(kept_url)


def test_the_numbers_are_what_happened_over_a_kill(lives: tuple[bytes, bytes]) -> None:
    """Issue 7, metrics: runs, recoveries and questions are counted as they were."""
    before, after = (parsed(text) for text in lives)
    assert value(before, "runs_started_total", kind=KIND) == 3
    assert value(before, "runs_finished_total", kind=KIND, outcome="succeeded") == 1
    assert value(before, "runs", kind=KIND, state="waiting") == 2
    assert value(before, "questions_open") == 2
    assert value(before, "questions_asked_total") == 3
    assert value(before, "questions_answered_total") == 1
    assert value(before, "recoveries_total", result="clean") == 1
    assert value(before, "steps_finished_total", step="plan-#", outcome="succeeded") == 3

    assert value(after, "recoveries_total", result="rescued") == 1
    assert value(after, "recoveries_total", result="clean") == 0
    assert value(after, "recovered_runs_total", verdict="resumed") == 1
    assert value(after, "effects_total", kind="run", verdict="resumable") == 1
    assert value(after, "step_retries_total", reason="interrupted") == 1
    assert value(after, "runs_started_total", kind=KIND) == 0
    assert value(after, "runs_finished_total", kind=KIND, outcome="succeeded") == 2
    assert value(after, "runs_finished_total", kind=KIND, outcome="failed") == 0
    assert value(after, "run_duration_seconds_count", kind=KIND) == 2
    assert value(after, "questions_answered_total") == 1
    assert value(after, "question_answer_seconds_count") == 1
    assert value(after, "answer_conflicts_total") == 1


def test_what_the_store_and_the_process_say_is_sampled(lives: tuple[bytes, bytes]) -> None:
    """Issue 7, metrics: gauges are read when somebody asks, not counted per event."""
    after = parsed(lives[1])
    assert value(after, "questions_open") == 0
    assert value(after, "questions_oldest_timestamp_seconds") == 0
    assert value(after, "runs_oldest_timestamp_seconds", state="waiting") == 0
    assert value(after, "inflight_unresolved", state="resumable") == 0
    assert value(after, "store_size_bytes", file="main") > 0
    assert value(after, "ready", gate="store") == 1
    assert value(after, "worker_slots", state="free") > 0
    assert value(after, "startup_ready_seconds") > 0
    assert value(after, "recovery_duration_seconds_count") == 1
    commits = value(after, "store_commit_seconds_count")
    assert commits == value(after, "store_sync_seconds_count") > 0
    assert value(after, "store_units_total") >= commits
    assert value(after, "events_appended_total") > 0


def test_no_label_is_an_identifier(lives: tuple[bytes, bytes]) -> None:
    """Issue 7, metrics: labels are bounded; runs, questions and sessions are in none of them."""
    names = {metric.full_name for metric in CATALOGUE}
    for text in lives:
        for name, labels in parsed(text):
            whole = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            assert whole in names, f"{name} is not in the catalogue"
            for _, word in labels:
                assert not any(run_id in word for run_id in RUN_IDS)
                assert "?" not in word and "1010" not in word


def test_series_whose_labels_are_known_begin_with_zero() -> None:
    """Issue 7, metrics: what never happened is told as zero, so that a first time is seen."""
    samples = parsed(generate_latest(Metrics().registry))
    for metric in CATALOGUE:
        if metric.kind == "counter" and set(metric.labels) == set(metric.values):
            series = [key for key in samples if key[0] == metric.full_name]
            expected = [len(metric.values[label]) for label in metric.labels]
            assert len(series) == (expected or [1])[0], metric.name
    assert set(samples.values()) == {0.0}
    sampled = {metric.full_name for metric in CATALOGUE if not metric.of}
    assert not sampled & {name for name, _ in samples}, "told before anybody looked"


def test_labels_that_programs_make_up_are_bounded() -> None:
    """Issue 7, metrics: a program that makes up names cannot fill the memory of a server."""
    metrics = Metrics()
    for number in range(VALUES_MAX + 50):
        metrics.notice(Notice("run.started", {"kind": f"kind-{number}"}))
    samples = parsed(generate_latest(metrics.registry))
    kinds = [labels for name, labels in samples if name == f"{PREFIX}runs_started_total"]
    assert len(kinds) == VALUES_MAX + 1
    assert value(samples, "runs_started_total", kind=OTHER) == 50


def test_a_registry_that_shows_other_metrics_shows_ours_too(tmp_path: Path) -> None:
    """Issue 7, metrics: a collector on the registry of an application."""
    registry = CollectorRegistry()
    Counter("orders", "Orders.", registry=registry).inc()
    metrics = Metrics(registry)

    async def run() -> bytes:
        url = f"sqlite:///{tmp_path / 'store.db'}"
        async with holdfast.open(url, telemetry=[metrics], redact=["password"]) as rt:
            await rt.history("chat").append("added", {"password": "secret"})
            return await exposition(rt)

    samples = parsed(asyncio.run(run()))
    assert samples["orders_total", frozenset()] == 1
    assert value(samples, "events_appended_total") == 2  # And the report of the recovery.
    assert value(samples, "redactions_total", rule="password") == 1


def test_a_runtime_without_metrics_gets_them_with_the_first_scrape(store_url: str) -> None:
    """Issue 7, metrics: the route works whoever opened the runtime."""

    async def run() -> tuple[bytes, bytes]:
        async with holdfast.open(store_url) as rt:
            first = await exposition(rt)
            await rt.history("chat").append("added")
            return first, await exposition(rt)

    first, second = (parsed(text) for text in asyncio.run(run()))
    assert value(first, "events_appended_total") == 0
    assert value(second, "events_appended_total") == 1


def test_the_age_of_the_newest_backup_is_told(kept_url: str, tmp_path: Path) -> None:
    """Issue 7, metrics: 0 before there is one, and where one cannot be read; so alerts fire."""
    folder = tmp_path / "backups"
    name = "backup_last_success_timestamp_seconds"

    async def run() -> list[float]:
        async with holdfast.open(kept_url, telemetry=[Metrics(backups=folder)]) as rt:
            found = [value(parsed(await exposition(rt)), name)]
            made = await backup.create(kept_url, folder)
            found.append(value(parsed(await exposition(rt)), name) - made.manifest.made_at)
            (Path(made.path) / backup.MANIFEST).write_text("{}")
            return [*found, value(parsed(await exposition(rt)), name)]

    assert asyncio.run(run()) == [0.0, 0.0, 0.0]
    assert name not in "".join(key for key, _ in parsed(generate_latest(Metrics().registry)))
