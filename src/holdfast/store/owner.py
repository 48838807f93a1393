"""
Who has a store open, in words that prove life or death.

An owner is a process on a machine in one boot: host, boot id, process-id namespace, process id
and the start time of that process. A reused process id has another start time; another boot has
another id; a number of another namespace says nothing here.

Death is proven only where it can be looked up: same boot, same namespace, and the process is not
there, is a zombie, or began at another time. Everything else (another host, no `/proc`) is left
to the lease. So a proof may be missing, but it is never wrong.
"""

import json
import os
import platform
from functools import cache
from pathlib import Path

import msgspec

from holdfast.core.clock import Clock

NOT_KNOWN = "boot:unknown"


class Owner(msgspec.Struct, frozen=True):
    """
    A process as others can look it up.

    Attributes:
        host: name of the machine, for people.
        boot: id of its boot.
        pid: process id.
        pid_namespace: in which that number means something; empty if that is not known.
        started: when the process began, in clock ticks since boot; None if that is not known.
    """

    host: str
    boot: str
    pid: int
    pid_namespace: str
    started: int | None


def this_owner(clock: Clock) -> Owner:
    """Return this process."""
    pid = os.getpid()
    started, namespace = _this_process(pid)
    return Owner(platform.node(), clock.store_time().domain, pid, namespace, started)


@cache
def _this_process(pid: int) -> tuple[int | None, str]:
    """Return what does not change as long as this process lives."""
    return process_start(pid), _pid_namespace()


# A fork may have the same number, in a namespace of its own.
os.register_at_fork(after_in_child=_this_process.cache_clear)


def describe_owner(clock: Clock) -> str:
    """Return this process as JSON."""
    return json.dumps(msgspec.to_builtins(this_owner(clock)))


def proven_dead(owner: Owner, here: Owner) -> bool:
    """Return whether a process is gone for certain, as seen from another one."""
    if not owner.pid_namespace or owner.boot == NOT_KNOWN:
        return False
    if (owner.boot, owner.pid_namespace) != (here.boot, here.pid_namespace):
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # It is there, and somebody else's; the lease decides.
    found = _stat(owner.pid)
    if found is None:
        return False
    state, threads, started = found
    ended = state in "ZX" and threads <= 1  # A first thread may end before the others.
    return ended or (owner.started is not None and started != owner.started)


def process_start(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it is not there."""
    found = _stat(pid)
    return None if found is None else found[2]


def _stat(pid: int) -> tuple[str, int, int] | None:
    """Return state, number of threads and start of a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name may hold spaces and parentheses; fields are counted behind the last one.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[17]), int(fields[19])


def _pid_namespace() -> str:
    """Return the namespaces that give a process id and its start their meaning."""
    try:
        return " ".join(str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "time"))
    except OSError:
        return ""
