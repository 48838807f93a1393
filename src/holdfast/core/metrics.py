"""
The one catalogue of metrics: name, kind, unit, labels, and the notice that feeds each.

Whoever has something to measure tells a notice (`core.telemetry`), and declares here which
metrics it feeds. Adapters read this table and nothing else, so do the documentation, the
dashboards' test and the alerts' test.

Invariants: base units (seconds, bytes), said at the end of the name; a counter ends in `_total`;
no label is an identifier; what is a moment is a timestamp, so that its age is `time() - x`. A
metric of scope `store` says the same in every process on one store (take the maximum over a
fleet), one of scope `process` is that process's own (sum over it).
"""

from typing import Final, Literal

import msgspec

from holdfast.core import codec
from holdfast.core.ledger import CRASHED
from holdfast.core.run import ATTENTION, LIVE

PREFIX: Final = "holdfast_"
Kind = Literal["counter", "gauge", "histogram"]
Scope = Literal["process", "store"]

_LATENCY: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_WORK: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
_LIFE: Final = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0)
_BYTES: Final = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
_OUTCOMES: Final = ("succeeded", "failed", "cancelled")
_CRASHED: Final = tuple(state.value for state in CRASHED)
GATES: Final = (
    *("store", "heartbeat", "disk", "engines", "restored"),
    *("commits", "flush", "damage", "snapshots", "clock"),
)


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """
    One metric.

    Attributes:
        name: without the prefix.
        kind: counter, gauge or histogram.
        help: one sentence.
        area: what it is about, by which it is listed.
        of: the notice that feeds it; empty if it is sampled when somebody asks for metrics.
        number: which number of the notice; a counter without one counts notices.
        labels: names of its labels.
        values: of labels whose values are known; series of these begin with zero.
        buckets: of a histogram.
        scope: `process` or `store`.
    """

    name: str
    kind: Kind
    help: str
    area: str
    of: str = ""
    number: str = ""
    labels: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]] = {}
    buckets: tuple[float, ...] = _LATENCY
    scope: Scope = "process"

    @property
    def full_name(self) -> str:
        """Its name as it is exposed."""
        return PREFIX + self.name

    @property
    def unit(self) -> str:
        """Its unit, by its name; empty for a plain number."""
        words = self.name.removesuffix("_total").split("_")
        return next((unit for unit in ("seconds", "bytes") if unit in words), "")


def _counter(name: str, help: str, of: str, number: str = "", **more: object) -> Metric:
    return _metric("counter", name, help, of=of, number=number, **more)


def _histogram(name: str, help: str, of: str, number: str = "seconds", **more: object) -> Metric:
    return _metric("histogram", name, help, of=of, number=number, **more)


def _gauge(name: str, help: str, of: str = "", number: str = "", **more: object) -> Metric:
    return _metric("gauge", name, help, of=of, number=number, **more)


def _sampled(name: str, help: str, **more: object) -> Metric:
    return _metric("gauge", name, help, scope="store", **more)


def _metric(kind: str, name: str, help: str, **more: object) -> Metric:
    return codec.convert({"kind": kind, "name": name, "help": help, "area": "", **more}, Metric)


_RUNS: Final = (
    _sampled(
        "runs",
        "Runs that did not end.",
        labels=("kind", "state"),
        values={"state": LIVE},
    ),
    _counter("runs_started_total", "Runs that were started.", "run.started", labels=("kind",)),
    _counter(
        "runs_finished_total",
        "Runs that ended.",
        "run.finished",
        labels=("kind", "outcome"),
        values={"outcome": _OUTCOMES},
    ),
    _histogram(
        "run_duration_seconds",
        "From the start of a run to its end, waits included.",
        "run.finished",
        labels=("kind",),
        buckets=_LIFE,
    ),
    _histogram(
        "run_queue_wait_seconds",
        "From queued to taken: schedule-to-start.",
        "run.dispatched",
        "waited",
        labels=("kind",),
        buckets=_WORK,
    ),
    _sampled(
        "runs_oldest_timestamp_seconds",
        "When the run that is longest in a state came into it; 0 if none is.",
        labels=("state",),
        values={"state": LIVE},
    ),
    _sampled(
        "runs_attention",
        "Runs that wait for an operator.",
        labels=("reason",),
        values={"reason": ATTENTION},
    ),
)
_STEPS: Final = (
    _counter(
        "steps_finished_total",
        "Steps that ended, by name with numbers and ids left out.",
        "step.finished",
        labels=("step", "outcome"),
        values={"outcome": ("succeeded", "failed")},
    ),
    _histogram(
        "step_duration_seconds",
        "The attempt of a step that ended it.",
        "step.finished",
        labels=("step",),
        buckets=_WORK,
    ),
    _counter(
        "step_retries_total",
        "Attempts that were not the first one.",
        "step.retried",
        labels=("reason",),
        values={"reason": ("error", "timeout", "interrupted")},
    ),
)
_RECOVERY: Final = (
    _counter(
        "recoveries_total",
        "Starts: after a good end, after a crash, or failed.",
        "recovery.finished",
        labels=("result",),
        values={"result": ("clean", "rescued", "failed")},
    ),
    _histogram(
        "recovery_duration_seconds",
        "From the opening of the store to the durable report.",
        "recovery.finished",
        buckets=_WORK,
    ),
    _counter(
        "recovered_runs_total",
        "Runs taken over from a runtime that died: to go on, or to be cancelled.",
        "run.recovered",
        labels=("verdict",),
        values={"verdict": ("resumed", "cancelled")},
    ),
    _sampled("crash_loop_runs", "Runs paused because attempt after attempt crashed."),
    _gauge(
        "startup_ready_seconds",
        "From the opening to ready, at this start.",
        "runtime.ready",
        "seconds",
    ),
)
_LEDGER: Final = (
    _sampled("inflight_effects", "Entries of the ledger in flight.", labels=("kind",)),
    _sampled(
        "inflight_oldest_timestamp_seconds",
        "When the entry that is in flight longest was begun; 0 if none is.",
    ),
    _sampled(
        "inflight_unresolved",
        "Entries whose runtime died, by what became of them.",
        labels=("state",),
        values={"state": _CRASHED},
    ),
    _counter("effects_begun_total", "Entries begun or claimed.", "entry.begun", labels=("kind",)),
    _counter(
        "effects_total",
        "Entries that ended, or were found after a crash, by verdict.",
        "entry.judged",
        "count",
        labels=("kind", "verdict"),
        values={"verdict": ("done", "failed", *_CRASHED)},
    ),
    _counter(
        "leases_expired_total", "Dead runtimes taken over after their lease.", "lease.expired"
    ),
    _counter(
        "fencing_rejections_total",
        "Units of a stale owner that were refused.",
        "unit.fenced",
        "count",
    ),
)
_STORE: Final = (
    _histogram("store_commit_seconds", "One transaction, from load to commit.", "store.committed"),
    _histogram("store_sync_seconds", "The commit of a transaction.", "store.committed", "sync"),
    _counter("store_units_total", "Units that were committed.", "store.committed", "units"),
    _counter(
        "store_busy_total", "Transactions that had to begin anew or gave up.", "store.busy", "count"
    ),
    _counter(
        "store_errors_total",
        "Transactions that failed, by the code of the error.",
        "store.failed",
        labels=("class",),
        values={
            "class": (
                "outcome_unknown",
                "poisoned",
                "store_full",
                "store_busy",
                "store_unavailable",
                "damaged",
            )
        },
    ),
    _sampled("store_size_bytes", "Size of the store.", labels=("file",)),
    _sampled("store_free_bytes", "Free bytes on the disk of an SQLite store."),
    _counter("events_appended_total", "Events appended.", "store.committed", "events"),
    _counter("event_bytes_total", "Bytes of their payloads.", "store.committed", "event_bytes"),
    _histogram(
        "compaction_seconds", "Bringing the log of an SQLite store home.", "store.compacted"
    ),
    _gauge(
        "verify_last_success_timestamp_seconds",
        "When this process last verified the store and found nothing.",
        "store.verified",
        "clean_at",
    ),
    _sampled(
        "backup_last_success_timestamp_seconds",
        "When the newest backup was made; 0 if there is none; only with a folder of backups.",
    ),
    _gauge(
        "verify_findings",
        "Damages the last verification of this process found.",
        "store.verified",
        "findings",
    ),
)
_FLUSH: Final = (
    _counter(
        "flushes_total",
        "Flushes of buffered fields.",
        "flush.finished",
        labels=("result",),
        values={"result": ("written", "failed")},
    ),
    _histogram("flush_seconds", "One flush.", "flush.finished"),
    _counter("flush_sessions_total", "Sessions that were written.", "flush.finished", "sessions"),
    _gauge(
        "flush_unsaved_seconds",
        "How long the oldest change had not been durable at the last flush.",
        "flush.finished",
        "oldest",
    ),
    _counter("flush_late_total", "Looks that found the last flush too long ago.", "flush.late"),
)
_ENGINES: Final = (
    _counter(
        "engine_requests_total",
        "Requests, by the durability that was given.",
        "engine.requested",
        labels=("engine", "durability"),
        values={"durability": ("durable", "buffered")},
    ),
    _histogram(
        "engine_request_seconds",
        "One request, until its answer.",
        "engine.requested",
        labels=("engine",),
    ),
    _counter(
        "engine_snapshots_total",
        "Snapshots that were made, or could not be.",
        "engine.snapshot",
        labels=("engine", "result"),
        values={"result": ("made", "refused")},
    ),
    _histogram(
        "engine_snapshot_seconds",
        "The making of one snapshot, beside the requests.",
        "engine.snapshot",
        labels=("engine",),
        buckets=_WORK,
    ),
    _histogram(
        "engine_snapshot_bytes",
        "Stored bytes of one snapshot.",
        "engine.snapshot",
        "bytes",
        labels=("engine",),
        buckets=_BYTES,
    ),
    _histogram(
        "engine_snapshot_pause_seconds",
        "The longest stretch for which one snapshot held up requests.",
        "engine.snapshot",
        "pause",
        labels=("engine",),
    ),
    _histogram(
        "engine_restore_seconds",
        "Bringing one working memory back.",
        "engine.restored",
        labels=("engine",),
        buckets=_WORK,
    ),
)
_PEOPLE: Final = (
    _sampled("questions_open", "Questions that wait for an answer."),
    _sampled(
        "questions_oldest_timestamp_seconds",
        "When the question that is open longest was asked; 0 if none is open.",
    ),
    _sampled("questions_due", "Open questions with less than a fifth of their time left."),
    _counter("questions_asked_total", "Questions that were asked.", "question.asked"),
    _counter("questions_answered_total", "Questions somebody answered.", "question.answered"),
    _histogram(
        "question_answer_seconds",
        "From a question to its answer.",
        "question.answered",
        buckets=_LIFE,
    ),
    _counter("questions_expired_total", "Questions whose time was over.", "question.expired"),
    _counter("answer_conflicts_total", "Answers that came second.", "question.conflict"),
)
_PROCESS: Final = (
    _gauge("ready", "1 if a gate of readiness is open.", labels=("gate",), values={"gate": GATES}),
    _gauge("draining", "1 while the runtime is on its way out."),
    _histogram(
        "event_loop_lag_seconds", "How late the loop was, looked at twice a second.", "loop.lag"
    ),
    _gauge(
        "worker_slots",
        "Room for runs side by side in this process.",
        labels=("state",),
        values={"state": ("free", "taken")},
    ),
    _gauge("build_info", "1, with what is running.", labels=("version", "python", "database")),
    _gauge("telemetry_failures", "How often a telemetry hook raised since the start."),
)
_STREAMS: Final = (
    _gauge(
        "stream_clients",
        "Clients that follow a stream.",
        "stream.clients",
        "clients",
        labels=("transport",),
        values={"transport": ("sse", "ndjson")},
    ),
    _counter(
        "stream_events_total",
        "Events sent to clients: history, or live.",
        "stream.sent",
        "events",
        labels=("mode",),
        values={"mode": ("history", "live")},
    ),
    _histogram(
        "stream_lag_seconds", "From the commit of an event to its frame.", "stream.sent", "lag"
    ),
    _counter(
        "stream_resets_total", "Clients told to begin anew.", "stream.reset", labels=("reason",)
    ),
    _counter("stream_closes_total", "Streams ended by us.", "stream.closed", labels=("reason",)),
)
_API: Final = (
    _counter(
        "http_requests_total",
        "Requests that were answered.",
        "http.answered",
        labels=("route", "method", "code"),
    ),
    _histogram(
        "http_request_duration_seconds",
        "From a request to its answer.",
        "http.answered",
        labels=("route",),
    ),
    _counter("idempotent_replays_total", "Requests answered as before.", "http.replayed"),
)
_SAFETY: Final = (
    _counter(
        "auth_failures_total",
        "Requests without the right.",
        "auth.failed",
        labels=("reason",),
        values={"reason": ("unauthorized", "forbidden")},
    ),
    _counter(
        "rejected_requests_total",
        "Requests refused by a rule.",
        "request.rejected",
        labels=("rule",),
        values={"rule": ("host_refused", "cross_site")},
    ),
    _counter(
        "redactions_total",
        "Values replaced before they were stored.",
        "value.redacted",
        "count",
        labels=("rule",),
    ),
    _counter("limit_hits_total", "Requests that met a limit.", "limit.hit", labels=("limit",)),
)


def _in(area: str, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    return tuple(msgspec.structs.replace(metric, area=area) for metric in metrics)


CATALOGUE: Final[tuple[Metric, ...]] = (
    *_in("runs", _RUNS),
    *_in("steps", _STEPS),
    *_in("recovery", _RECOVERY),
    *_in("ledger", _LEDGER),
    *_in("store", _STORE),
    *_in("flush", _FLUSH),
    *_in("engines", _ENGINES),
    *_in("people", _PEOPLE),
    *_in("process", _PROCESS),
    *_in("streams", _STREAMS),
    *_in("api", _API),
    *_in("safety", _SAFETY),
)
