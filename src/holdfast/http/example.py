"""
Examples: how each operation is asked, in one story that a test plays through.

Runs of `expenses.approve` check an amount, ask somebody, and pay; `Chat` is a class of sessions,
`policy` an engine with a memory for each of them. Left out is what nobody can know beforehand:
ids of tokens, artifacts, operations and workers, the version of a run that is to be removed, and a
file that was exported.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """
    How an operation is asked, and what it answers.

    Attributes:
        params: values for the path.
        query: behind the question mark.
        body: plain value, sent as JSON; bytes are sent as they are.
        status: of the answer.
    """

    params: dict[str, str] = {}
    query: dict[str, str | int] = {}
    body: Any = None
    status: int = 200


_GRAPH: Final = (
    "digraph review { start [shape=Mdiamond]; done [shape=Msquare]; "
    'gate [shape=hexagon, label="Ship it?"]; start -> gate; '
    'gate -> done [label="Yes"]; gate -> done [label="No"] }'
)
_APPROVE: Final[dict[str, Any]] = {
    "function": "expenses.approve",
    "args": [120],
    "labels": {"team": "sales"},
}


def _of_run(run_id: str, body: Any = None, status: int = 200, **query: str | int) -> Example:
    return Example(params={"run_id": run_id}, query=query, body=body, status=status)


def _of_session(name: str, body: Any = None, status: int = 200) -> Example:
    return Example(params={"session_id": f"Chat/{name}"}, body=body, status=status)


_ACCESS: Final = {
    "login": Example(body={"token": "not one that was made here"}, status=401),
    "token_create": Example(
        body={"role": "viewer", "label": "a wall screen", "expires_in": 86_400}, status=201
    ),
}
_RUNS: Final = {
    "run_start": Example(body={**_APPROVE, "run_id": "expense-7"}, status=201),
    "run_put": _of_run("expense-8", _APPROVE, 201),
    "run_list": Example(query={"status": "running", "limit": 10}),
    "run_get": _of_run("expense-1"),
    "run_cancel": _of_run("expense-2", {"reason": "asked for twice"}, 202),
    "run_pause": _of_run("expense-3", {"reason": "the account is closed today"}, 202),
    "run_resume": _of_run("expense-4", {"reason": "it is open again"}, 202),
    "run_retry": _of_run("expense-5", {"reason": "the bank answers again"}, 201),
    "run_signal": Example(
        params={"run_id": "expense-6", "name": "receipt"}, body={"value": "R-120"}, status=202
    ),
    "run_fork": _of_run(
        "expense-9",
        {"patch": {"check#1": "over budget"}, "new_id": "expense-10", "reason": "what if?"},
        201,
    ),
    "step_resolve": Example(
        params={"run_id": "expense-11", "step": "pay#1"},
        body={"verdict": "done", "value": "paid", "reason": "the bank has it"},
        status=202,
    ),
    "run_export": _of_run("expense-9"),
    "run_events": _of_run("expense-1", limit=10),
    "event_get": Example(params={"run_id": "expense-1", "seq": "1"}),
    "feed": Example(query={"types": "run.started", "limit": 10}),
    "checkpoint_list": _of_run("expense-1"),
    "checkpoint_get": Example(params={"run_id": "expense-1", "checkpoint": "latest"}),
    "diff": Example(query={"from": "expense-1@1", "to": "expense-1@latest"}),
    "artifact_list": _of_run("expense-1"),
    "artifact_named": Example(params={"run_id": "expense-1", "name": "receipt.txt"}),
    "artifact_put": Example(
        params={"run_id": "expense-1", "name": "note.txt"}, body=b"seen", status=201
    ),
}
_QUESTIONS: Final = {
    "question_list": Example(query={"order": "deadline"}),
    "run_questions": _of_run("expense-1"),
    "question_get": Example(params={"question_id": "expense-1?1"}),
    "question_answer": Example(
        params={"question_id": "expense-12?1"}, body={"value": "yes", "comment": "within budget"}
    ),
    "question_claim": Example(params={"question_id": "expense-1?1"}, body={"seconds": 120}),
}
_MANY: Final = {
    "bulk_start": Example(
        body={"action": "cancel", "filter": {"status": "waiting"}, "dry_run": True}, status=200
    ),
    "operation_list": Example(),
}
_STATE: Final = {
    "session_list": Example(query={"archived": False}),
    "session_get": _of_session("ann"),
    "session_runs": Example(params={"session_id": "Chat/ann"}, query={"status": "waiting"}),
    "session_export": _of_session("ann"),
    "session_archive": _of_session("bob", {"reason": "has not come for a month"}),
    "session_restore": _of_session("cleo", {"reason": "is back"}),
    "session_close": _of_session("dan", status=204),
    "entry_list": Example(query={"state": "interrupted"}),
    "entry_resolve": Example(
        body={"key": ["turn", "1"], "outcome": "lost", "reason": "nobody waits for it"}
    ),
    "worker_list": Example(),
    "queue_list": Example(),
    "schedule_list": Example(),
    "engine_list": Example(),
    "engine_keys": Example(params={"engine": "policy"}),
    "engine_snapshots": Example(params={"engine": "policy"}, query={"key": "ann", "limit": 3}),
    "engine_snapshot": Example(params={"engine": "policy"}, body={"key": ["ann"]}, status=202),
    "engine_evict": Example(params={"engine": "policy"}, body={"key": ["bob"]}, status=202),
    "info": Example(),
    "audit": Example(),
    "problem": Example(params={"code": "run_not_found"}),
}
_PIPELINES: Final = {
    "pipeline_start": Example(body={"dot_source": _GRAPH, "id": "review-1"}, status=201),
    **{
        f"pipeline_{what}": _of_run("review-2")
        for what in ("get", "events", "checkpoint", "context", "graph", "questions")
    },
    "pipeline_answer": Example(
        params={"run_id": "review-3", "question_id": "review-3?1"}, body={"value": "Yes"}
    ),
    "pipeline_cancel": _of_run("review-4", {"reason": "nobody reviews today"}, 202),
    "pipeline_resume": _of_run("review-5", {}, 202),
}
EXAMPLES: Final[Mapping[str, Example]] = {
    **_ACCESS,
    **_RUNS,
    **_QUESTIONS,
    **_MANY,
    **_STATE,
    **_PIPELINES,
}
"""By the name of the operation."""
