"""
What can be set when a store is opened, with limits on everything.

A store is named by a URL: `sqlite:///relative.db`, `sqlite:////absolute.db`,
`sqlite:///:memory:` or `postgresql://user@host/database?schema=holdfast`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast.core.errors import InvalidValueError
from holdfast.store.keyring import Keyring


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    Limits and choices of one opening; every one has a sane default.

    Attributes:
        read_only: open for reading; nothing is migrated, nothing written.
        strict: sync the high-water mark with each commit (SQLite), so that even a swallowed
            flush is noticed; costs about a second sync per commit.
        allow_unsafe: accept settings that weaken the promises; the weaker promise is reported.
        queue_items: units that may wait for the writer.
        queue_bytes: bytes of units that may wait.
        queue_wait: seconds a caller waits for room before `QueueFullError`.
        batch_units: units per transaction at most.
        batch_bytes: bytes per transaction, about, at most.
        busy_wait: seconds to wait for another process's transaction.
        readers: connections that serve reads.
        checkpoint_pages: pages of log after which SQLite writes them home.
        outcome_retention: seconds for which outcomes of units can be asked for.
        lease_ttl: seconds of silence of this opening until others may take its work over.
        sessions_in_memory: sessions that are kept after they were used.
        runs_kept_for: seconds for which runs are kept that ended; for ever if not given.
        runs_kept: how many runs that ended are kept, the newest; all if not given.
        keyring: keys by which values are encrypted, or the file they are in; the file that the
            environment variable `HOLDFAST_KEYRING` names if it is not given, and none without it.
        free_bytes_min: bytes that have to be free on the disk of an SQLite store for new work to be
            taken over HTTP; 0 for none.
        clock_skew_max: seconds by which the wall clock may be off before that is said; 0 to say
            nothing.
        boot_budget: seconds a boot may take before it fails; the next one goes on from there.
    """

    read_only: bool = False
    strict: bool = False
    allow_unsafe: bool = False
    queue_items: int = 20_000
    queue_bytes: int = 128 * 1024 * 1024
    queue_wait: float = 5.0
    batch_units: int = 2_000
    batch_bytes: int = 8 * 1024 * 1024
    busy_wait: float = 10.0
    readers: int = 2
    checkpoint_pages: int = 4_000
    outcome_retention: float = 3_600.0
    lease_ttl: float = 30.0
    sessions_in_memory: int = 10_000
    free_bytes_min: int = 64 * 1024 * 1024
    clock_skew_max: float = 10.0
    boot_budget: float = 600.0
    runs_kept_for: float | None = None
    runs_kept: int | None = None
    keyring: Keyring | str | Path | None = None

    def __post_init__(self) -> None:
        """
        Refuse limits that cannot work.

        Raises:
            InvalidValueError: a limit is not positive.
        """
        counts = ("queue_items", "queue_bytes", "batch_units", "batch_bytes", "readers")
        for name in (*counts, "sessions_in_memory"):
            if getattr(self, name) < 1:
                raise InvalidValueError(what=name, reason=f"is {getattr(self, name)}, at least 1")
        for name in ("runs_kept_for", "runs_kept", "free_bytes_min", "clock_skew_max"):
            if (getattr(self, name) or 0) < 0:
                raise InvalidValueError(what=name, reason=f"is {getattr(self, name)}, at least 0")


def chosen_options(options: Options | None, limits: Mapping[str, Any]) -> Options:
    """
    Return options as they are, or those of single limits.

    Raises:
        InvalidValueError: both were given, or there is no such limit.
    """
    if options is not None and limits:
        raise InvalidValueError(what="options", reason="give options or single limits, not both")
    try:
        return options or Options(**limits)
    except TypeError as error:
        raise InvalidValueError(what="option", reason=str(error).partition(") ")[2]) from error


def sqlite_path(url: str) -> Path | None:
    """
    Return the absolute path a `sqlite:` URL names, or None for a store in memory.

    Raises:
        InvalidValueError: it is not such a URL.
    """
    prefix = "sqlite:///"
    if not url.startswith(prefix) or len(url) == len(prefix):
        raise InvalidValueError(
            what="store", reason=f"{url!r} is not sqlite:///FILE or sqlite:///:memory:"
        )
    name = unquote(url.removeprefix(prefix))
    return None if name == ":memory:" else Path(name).expanduser().absolute()


def scheme(url: str) -> str:
    """
    Return which database a URL names: `sqlite` or `postgresql`.

    Raises:
        InvalidValueError: neither.
    """
    found = urlsplit(url).scheme
    if found == "sqlite":
        return "sqlite"
    if found in ("postgresql", "postgres"):
        return "postgresql"
    raise InvalidValueError(
        what="store", reason=f"{url!r} begins neither with sqlite:/// nor with postgresql://"
    )
