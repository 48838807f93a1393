"""
Operations on many runs: what is ordered, and what became of each run of the selection.

An operation is a run like any other. Beside it stand two kinds of records: the order, found by
when it was given, newest first; and an item for each run that was selected, which first says that
it is open and then, from the unit that did it on, what became of it.
"""

from typing import Any, Final, Literal

import msgspec

from holdfast.core.key import Key

FUNCTION: Final = "holdfast.bulk"
KIND: Final = "holdfast.bulk"
ITEM_KIND: Final = "holdfast.bulk.item"
SELECTED_MAX: Final = 10_000

Action = Literal["cancel", "pause", "resume", "retry", "remove"]
Outcome = Literal["open", "done", "refused", "gone"]
OVER: Final = ("done", "refused", "gone")
_FOREVER: Final = 10**17


class Order(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    What is to be done to many runs.

    Attributes:
        action: what.
        mode: of a cancellation; `now` interrupts the step under way, `after_step` lets it end.
        force: whether runs go on with other code; of a resumption.
        reason, by: why, and who wants it.
        sought: by what the runs were selected, as it was said; None if they were named.
        selected: how many they are.
    """

    action: Action
    mode: Literal["now", "after_step"] = "now"
    force: bool = False
    reason: str = ""
    by: str = ""
    sought: dict[str, Any] | None = None
    selected: int = 0


class Item(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    One run of a selection.

    Attributes:
        run_id: which run.
        outcome: `open` until something became of it; `gone` if there was no such run any more.
        code, reason: of the error with which it was refused.
        became: the new run, of a retry that made one.
    """

    run_id: str
    outcome: Outcome = "open"
    code: str = ""
    reason: str = ""
    became: str = ""


def order_key(created: float, id: str) -> Key:
    """Return where the order of an operation is kept: the newest one first."""
    return (f"{_FOREVER - int(created * 1_000_000):018d}", id)


def item_key(id: str, number: int) -> Key:
    """Return where an item is kept; they are numbered from 0."""
    return (id, f"{number:07d}")
