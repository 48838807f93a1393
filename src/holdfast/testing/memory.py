"""
SQLite without statistics of its memory, for processes that open tens of thousands of stores.

SQLite counts every allocation under one lock, which a test never asks for and which takes a
twentieth of the time. That can only be changed for a whole process, and while it has no
connection open; so Holdfast leaves it alone, and the processes of the crash lab begin with it.
"""

import apsw

__all__ = ["leave_uncounted"]


def leave_uncounted() -> None:
    """Let SQLite count no memory in this process from now on; no connection may be open."""
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)
    apsw.initialize()
