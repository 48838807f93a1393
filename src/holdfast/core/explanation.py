"""
Why a run is where it is, in a sentence: what a person asks first who sees that nothing happens.

The sentence follows from the view alone and quotes nothing that was stored but ids and names.
"""

from collections.abc import Callable
from typing import Final

from holdfast.core.run import RunView, Status

_WAITS: Final[dict[str, Callable[[str, RunView], str]]] = {
    "question": lambda which, _: f"an answer to question {which}",
    "timer": lambda _, __: "a time to come, by a timer",
    "retry": lambda which, _: f"its next attempt at step {which}, which failed before",
    "signal": lambda which, _: f"a signal {which!r} from outside",
    "child": lambda which, _: f"the end of its child run {which}",
    "no_code": lambda _, view: (
        f"a runtime that knows the function {view.function}; none that looked at it does"
    ),
    "version_mismatch": lambda _, view: (
        f"a runtime with version {view.version or 'none'} of {view.function}, or to be resumed "
        "with force"
    ),
    "diverged": lambda which, view: (
        f"somebody to look: its code asked for {which} where it did {view.expected} before"
    ),
    "uncertain_effect": lambda which, _: (
        f"somebody to say what became of step {which}, which may have happened before a crash"
    ),
}
_STATES: Final[dict[Status, str]] = {
    Status.RUNNING: "A runtime executes it.",
    Status.CANCELLING: "It was asked to end and is doing so.",
    Status.SUCCEEDED: "It came to its result.",
    Status.FAILED: "It ended with an error.",
    Status.CANCELLED: "It was ended from outside.",
}


def explain(view: RunView) -> str:
    """Return why a run is where it is."""
    if view.status is Status.WAITING:
        said = [_wait(one, view) for one in view.waits]
        return f"It waits for {', or for '.join(said)}." if said else "It waits."
    if view.status is Status.QUEUED:
        place = f" in queue {view.queue!r}" if view.queue else ""
        return f"It goes on{place} as soon as a runtime takes it."
    if view.status is Status.PAUSED:
        by = f" by {view.by}" if view.by else ""
        return f"It was paused{by} and rests until it is resumed."
    return _STATES[view.status]


def _wait(wait: str, view: RunView) -> str:
    kind, _, which = wait.partition(":")
    words = _WAITS.get(kind)
    return f"{kind} {which}".strip() if words is None else words(which, view)
