"""
Who has a store open, in words that prove life or death.

An owner is a process on a machine in one boot: host, boot id, process id and the start time of
that process. A reused process id has another start time; another boot has another id.
"""

import json
import os
import platform
from pathlib import Path

from holdfast.core.clock import Clock


def describe_owner(clock: Clock) -> str:
    """Return this process as JSON: host, boot, pid and start time in clock ticks since boot."""
    return json.dumps(
        {
            "host": platform.node(),
            "boot": clock.store_time().domain,
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
        }
    )


def process_start(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name may hold spaces and parentheses; fields are counted behind the last one.
    return int(stat.rpartition(")")[2].split()[19])
