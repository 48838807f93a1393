r"""
A recorder for any program: its system calls, seen by `strace`, as the acts of a disk.

    recording = record(folder, [sys.executable, "program.py"])

What the program prints on its standard output becomes notes: the line `acknowledged 7` is the
note `("acknowledged", 7)`. So the same recording that `disk.disk` makes from inside
of SQLite is made from outside, of the real files, with every folder sync as it really happens.

Promises:
- An act is placed where its call returned, in the order in which the kernel finished them.
- A sync during which the same file was written does not count: nobody knows what it covered.
- A call that changes the folder in a way not known here raises, and is never left out.
- Not seen: what is written through a memory map (SQLite does so only with its -shm file, which
  a crash forgets). `write` is followed for one process; several have to use `pwrite`.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from holdfast.testing.disk.acts import (
    Act,
    Created,
    FolderMade,
    FolderSynced,
    Noted,
    Recording,
    Removed,
    Renamed,
    Synced,
    SyncFailed,
    Truncated,
    Written,
    read_image,
)

__all__ = ["StraceUnavailableError", "UnknownCallError", "parse", "record"]

_UNKNOWN: Final = (
    "writev,pwritev,pwritev2,copy_file_range,sendfile,splice,fallocate,link,linkat,"
    "symlink,symlinkat,truncate"
)
_TRACED: Final = (
    "openat,open,creat,pwrite64,write,lseek,ftruncate,fsync,fdatasync,rename,renameat,renameat2,"
    f"unlink,unlinkat,rmdir,mkdir,mkdirat,{_UNKNOWN}"
)
# With -xx every string is hexadecimal, so that no text can look like the frame around it.
_HEX: Final = r"(?:\\x[0-9a-f]{2})*"
_LINE: Final = re.compile(r"(\d+) +(.*)")
_CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(?:<|\s|$)", re.DOTALL)
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_OPEN_FILE: Final = re.compile(rf"(?:(\d+)|AT_FDCWD)<({_HEX})>(\(deleted\))?")
_STRING: Final = re.compile(rf'"({_HEX})"')
_UNFINISHED: Final = " <unfinished ...>"


class StraceUnavailableError(RuntimeError):
    """Programs cannot be traced here; the message says why and what to do."""


class UnknownCallError(RuntimeError):
    """The program changed the folder by a call that is not known; the message is the line."""


def record(
    folder: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Recording:
    """
    Run a program to its end and return what it did in a folder.

    Args:
        folder: root of all recorded names; what it holds at first counts as certain.
        command: the program and its arguments.
        environment: what to add to the environment.

    Raises:
        StraceUnavailableError: there is no strace, or it may not trace.
        subprocess.CalledProcessError: the program failed; what it said is in the note.
        UnknownCallError: it changed the folder in a way not known here.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise StraceUnavailableError("strace is missing; install it: apt-get install strace")
    start = read_image(folder)
    with tempfile.NamedTemporaryFile(mode="r", prefix="holdfast-strace-") as log:
        options = ["-f", "-y", "-xx", "-s", "1000000000", "-e", f"trace={_TRACED}"]
        whole = [strace, *options, "-o", log.name, "--", *command]
        done = subprocess.run(
            whole, env={**os.environ, **(environment or {})}, capture_output=True, text=True
        )
        lines = log.read().splitlines()
    if not any(_CALL.search(line) for line in lines):
        raise StraceUnavailableError(f"strace may not trace here: {done.stderr.strip()}")
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, list(command))
        error.add_note(done.stderr)
        raise error
    return Recording(start, list(parse(lines, folder, start)))


def parse(lines: Sequence[str], folder: Path, start: Mapping[str, bytes]) -> list[Act]:
    """
    Return the acts in a folder from the lines of `strace -f -y -xx`.

    Raises:
        UnknownCallError: the folder was changed in a way not known here.
    """
    trace = _Trace(os.path.realpath(folder), set(start))
    for pid, text, since in _whole(lines, trace.acts):
        trace.take(pid, text, since)
    return trace.acts


def _whole(lines: Sequence[str], acts: list[Act]) -> Iterator[tuple[int, str, int]]:
    """Put calls together that others interrupted; say how many acts there were at the begin."""
    begun: dict[int, tuple[str, int]] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        pid, text = int(found[1]), found[2]
        if text.endswith(_UNFINISHED):
            begun[pid] = text.removesuffix(_UNFINISHED), len(acts)
        elif resumed := _RESUMED.match(text):
            first, since = begun.pop(pid)
            yield pid, first + resumed[1], since
        else:
            yield pid, text, len(acts)


@dataclass(slots=True)
class _Call:
    """One finished call."""

    line: str
    name: str
    arguments: str
    result: int
    since: int
    paths: list[str] = field(default_factory=list[str])
    number: int = -1
    deleted: bool = False
    strings: list[bytes] = field(default_factory=list[bytes])

    @property
    def last_number(self) -> int:
        return int(self.arguments.rpartition(",")[2].strip().partition(" ")[0])


class _Trace:
    """The acts so far, and what is needed to understand the next call."""

    def __init__(self, root: str, names: set[str]) -> None:
        self.acts: list[Act] = []
        self._root = root
        self._names = names
        self._places: dict[int, int] = {}
        self._said: dict[int, bytes] = {}
        self._ways: dict[str, Callable[[_Call, str], None]] = {
            "ftruncate": self._truncate,
            "pwrite64": self._pwrite,
            "write": self._write,
            "fsync": self._sync,
            "fdatasync": self._sync,
        }

    def take(self, pid: int, text: str, since: int) -> None:
        found = _CALL.match(text)
        if found is None or found[3] == "?":
            return  # A signal, an end, or a call that a kill cut off.
        call = _Call(text, found[1], found[2], int(found[3], 0), since)
        # What is written is no path, and the second string of a call is never a folder's.
        head = _OPEN_FILE.match(call.arguments)
        call.strings = [_bytes(one) for one in _STRING.findall(call.arguments)]
        if call.name in {"rename", "renameat", "renameat2"}:
            self._rename(call)
        elif call.name in {"open", "openat", "creat"}:
            self._open(call)
        elif call.name in {"unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"}:
            self._change_name(call)
        elif head is not None and head[1] is not None:
            call.number, call.deleted = int(head[1]), head[3] is not None
            self._use(pid, call, os.fsdecode(_bytes(head[2])))

    def _use(self, pid: int, call: _Call, path: str) -> None:
        """A call on an open file."""
        name = self._relative(path)
        if call.name == "write" and call.number == 1 and name is None:
            self._say(pid, call.strings[0][: call.result])
        elif call.name == "lseek":
            self._places[call.number] = call.result
        elif name is None or call.deleted:
            return
        elif call.name in self._ways:
            self._ways[call.name](call, name)
        elif call.result >= 0:
            raise UnknownCallError(call.line[:300])

    def _say(self, pid: int, data: bytes) -> None:
        *lines, self._said[pid] = (self._said.get(pid, b"") + data).split(b"\n")
        for line in lines:
            words = line.decode().split()
            self.acts.append(Noted(tuple(int(w) if w.isdigit() else w for w in words)))

    def _open(self, call: _Call) -> None:
        if call.result < 0:
            return
        self._places[call.result] = 0
        name = self._relative(self._target(call, 0))
        if name is None or name + "/" in self._names or not name:
            return
        if name not in self._names and ("O_CREAT" in call.arguments or call.name == "creat"):
            self._names.add(name)
            self.acts.append(Created(name))
        elif "O_TRUNC" in call.arguments or call.name == "creat":
            self.acts.append(Truncated(name, 0))
        if "O_APPEND" in call.arguments:
            raise UnknownCallError(call.line[:300])

    def _truncate(self, call: _Call, name: str) -> None:
        if call.result == 0:
            self.acts.append(Truncated(name, call.last_number))

    def _pwrite(self, call: _Call, name: str) -> None:
        if call.result > 0:
            self.acts.append(Written(name, call.last_number, call.strings[0][: call.result]))

    def _write(self, call: _Call, name: str) -> None:
        if call.result > 0:
            place = self._places[call.number]
            self._places[call.number] = place + call.result
            self.acts.append(Written(name, place, call.strings[0][: call.result]))

    def _sync(self, call: _Call, name: str) -> None:
        if not name or name + "/" in self._names:
            self.acts += [FolderSynced(name)] if call.result == 0 else []
        elif call.result < 0:
            self.acts.append(SyncFailed(name))
        elif not any(
            isinstance(act, Written | Truncated) and act.name == name
            for act in self.acts[call.since :]
        ):
            self.acts.append(Synced(name))

    def _rename(self, call: _Call) -> None:
        name, target = (self._relative(self._target(call, place)) for place in (0, 1))
        if call.result < 0 or (name is None and target is None):
            return
        if name is None or target is None or name + "/" in self._names:
            raise UnknownCallError(call.line[:300])
        self._names.discard(name)
        self._names.add(target)
        self.acts.append(Renamed(name, target))

    def _change_name(self, call: _Call) -> None:
        name = self._relative(self._target(call, 0))
        if call.result < 0 or name is None:
            return
        if call.name.startswith("mkdir"):
            self._names.add(name + "/")
            self.acts.append(FolderMade(name))
            return
        if call.name == "rmdir" or "AT_REMOVEDIR" in call.arguments:
            name += "/"
        self._names.discard(name)
        self.acts.append(Removed(name))

    def _target(self, call: _Call, place: int) -> str:
        """Return the path a string argument stands for, from the folder before it if relative."""
        path = Path(os.fsdecode(call.strings[place]))
        before = [_bytes(found[1]) for found in _OPEN_FILE.findall(call.arguments)]
        if before:
            path = Path(os.fsdecode(before[min(place, len(before) - 1)])) / path
        if not path.is_absolute():
            # An old call without a folder; where the program stands is not known.
            raise UnknownCallError(call.line[:300])
        return str(path.parent.resolve() / path.name)

    def _relative(self, path: str) -> str | None:
        if path == self._root:
            return ""
        if not path.startswith(self._root + "/") or path.endswith("-shm"):
            return None
        return path[len(self._root) + 1 :]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
