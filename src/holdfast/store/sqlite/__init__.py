"""The SQLite store: one file (or memory), one writing connection per process."""

from holdfast.store.sqlite.driver import SqliteDriver

__all__ = ["SqliteDriver"]
