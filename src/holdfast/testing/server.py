"""
A real PostgreSQL for tests: a direct child of this process, killed when a test says so.

    with PostgresServer(settings={"synchronous_commit": "off"}) as server:
        server.start()
        connect(server.url)
        server.kill()
        server.start()

Promises:
- `stop` and `kill` return only when the postmaster and all its children are gone and reaped, so
  the next `start` meets no zombie and no shared memory of the life before. What a reboot would
  clear (shared memory, pid file, socket) is cleared.
- Nothing outside its folders outlives a server: dynamic shared memory is kept in the data folder.
- For root the server runs as `nobody`; `holdfast.testing.programs` sees to that.
- A new data folder is a copy of a template made once by `initdb`; so all servers of a machine
  share PostgreSQL's system identifier, unless `fresh=True`.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from holdfast.core.clock import SystemClock
from holdfast.testing.programs import (
    COMPLETE,
    PostgresUnavailableError,
    environment,
    installation,
)

__all__ = ["PostgresServer", "PostgresUnavailableError"]

_SETTINGS = {"dynamic_shared_memory_type": "mmap", "log_checkpoints": "off"}
_PORT = 5432
_POLL = 0.005
_LOG_TAIL_BYTES = 2_000
# A socket's path may have 107 bytes on Linux and 103 on macOS; its name takes 16 of them.
_SOCKET_FOLDER_MAX = 80
# Lines of postmaster.pid, counted from zero: who runs, its shared memory ("key id"), its status.
_PID_LINE, _SHARED_MEMORY_LINE, _STATUS_LINE = 0, 6, 7
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_IPC_RMID = 0
# Whether this process adopts orphans is one setting for all threads; see `_adopting_orphans`.
_adoption = threading.Lock()


class PostgresServer:
    """
    One PostgreSQL server and its data.

    Attributes:
        folder: holds `data` and `log`.
        settings: name and value of server settings; a change counts from the next start.
        port: names the socket, and is the TCP port with `tcp=True`; stays over restarts.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        fresh: bool = False,
    ) -> None:
        """
        Prepare the data; nothing runs yet.

        Args:
            folder: where the data lives and stays; without it, a temporary folder that
                `close` removes. Data found there is used as it is.
            settings: server settings such as `{"fsync": "off"}`.
            tcp: listen on a free port of 127.0.0.1 as well.
            fresh: run `initdb` instead of copying the template.

        Raises:
            PostgresUnavailableError: the wheel is missing, or the folder cannot be used.
        """
        self._installation = installation()
        self._own = Path(tempfile.mkdtemp(prefix="hf-", dir=_short_folder()))
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = dict(settings or {})
        self.port = _free_port() if tcp else _PORT
        self._tcp = tcp
        self.folder = folder or self._own
        try:
            self._prepare(fresh)
        except BaseException:
            shutil.rmtree(self._own, ignore_errors=True)
            raise

    def __enter__(self) -> "PostgresServer":
        """Return the server; it is started by `start`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove what is temporary."""
        self.close()

    @property
    def data(self) -> Path:
        """Return PostgreSQL's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Return the file with everything the server said, over all its lives."""
        return self.folder / "log"

    @property
    def url(self) -> str:
        """Return the address of the database `postgres`, through the socket."""
        return self.url_of("postgres")

    @property
    def running(self) -> bool:
        """Return whether the postmaster is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """
        Return the process id of the postmaster.

        Raises:
            RuntimeError: the server was not started.
        """
        return self._started().pid

    def url_of(self, database: str, *, tcp: bool = False) -> str:
        """
        Return the address of a database, through the socket or over TCP.

        Raises:
            ValueError: TCP is asked for, but the server does not listen there.
        """
        if tcp and not self._tcp:
            raise ValueError("this server has no TCP port; make it with PostgresServer(tcp=True)")
        name = quote(database, safe="")
        if tcp:
            return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"
        host = quote(str(self._own), safe="/")
        return f"postgresql:///{name}?host={host}&port={self.port}&user=postgres"

    def start(self, *, wait: bool = True) -> None:
        """
        Start the server; with `wait`, return when it accepts connections.

        Raises:
            RuntimeError: it runs already.
            PostgresUnavailableError: it ended or was not ready in time.
        """
        if self.running:
            raise RuntimeError(f"the server runs already as process {self.pid}")
        account = self._installation.account
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                user=account.uid,
                group=account.gid,
                extra_groups=account.groups,
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float = 60.0) -> None:
        """
        Return when the server accepts connections, after recovery if it needs one.

        Raises:
            RuntimeError: the server was not started.
            PostgresUnavailableError: it ended, or was not ready within `timeout` seconds.
        """
        process = self._started()
        clock = SystemClock()
        deadline = clock.monotonic() + timeout
        while not self._is_ready(process.pid):
            try:
                code = process.wait(_POLL)
            except subprocess.TimeoutExpired:
                if clock.monotonic() < deadline:
                    continue
                raise self._unavailable(f"was not ready within {timeout:g} s") from None
            raise self._unavailable(f"ended with {code}")

    def wait_end(self, timeout: float = 60.0) -> int:
        """
        Return the exit code once the postmaster has ended of its own or by another's doing.

        Raises:
            RuntimeError: the server was not started.
            PostgresUnavailableError: it still runs after `timeout` seconds.
        """
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._unavailable(f"did not end within {timeout:g} s") from None

    def stop(self, timeout: float = 60.0) -> None:
        """
        Shut down in order: connections are ended, a checkpoint is written. Twice is fine.

        Raises:
            PostgresUnavailableError: it took longer than `timeout` seconds and was killed.
        """
        if not self.running:
            return
        self._started().send_signal(signal.SIGINT)
        try:
            self.wait_end(timeout)
        except PostgresUnavailableError:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill every process of the server as `kill -9` would; twice is fine."""
        if not self.running:
            return
        process = self._started()
        with _adopting_orphans():
            children = _kill_children(process.pid)
            process.kill()
            process.wait()
            for child in children:
                _await_end(child)
        self._forget()

    def restart(self) -> None:
        """Stop if running, then start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """
        End the server and remove the temporary folder.

        A folder given by the caller stays, so the server there is stopped in order; one whose
        data goes anyway is killed.
        """
        try:
            if self.folder == self._own:
                self.kill()
            else:
                self.stop()
        finally:
            shutil.rmtree(self._own, ignore_errors=True)

    def _prepare(self, fresh: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        account = self._installation.account
        account.check_may_enter(self.folder)
        if not (self.data / "PG_VERSION").exists():
            if fresh:
                account.own(self.folder)
                self._installation.initdb(self.data)
            else:
                template = self._installation.template()
                ignore = shutil.ignore_patterns(COMPLETE)
                shutil.copytree(template, self.data, symlinks=True, ignore=ignore)
        for folder in {self.folder, self._own}:
            account.own(folder)

    def _command(self) -> list[str]:
        listen = "127.0.0.1" if self._tcp else ""
        fixed = {
            "listen_addresses": listen,
            "port": str(self.port),
            "unix_socket_directories": str(self._own),
        }
        command = [str(self._installation.programs / "postgres"), "-D", str(self.data)]
        for name, value in (_SETTINGS | self.settings | fixed).items():
            command += ["-c", f"{name}={value}"]
        return command

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the server was not started; call start() first")
        return self._process

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _is_ready(self, pid: int) -> bool:
        # What `pg_ctl --wait` reads; a file left by an earlier life names another process.
        lines = self._pid_file()
        return (
            len(lines) > _STATUS_LINE
            and lines[_PID_LINE].strip() == str(pid)
            and lines[_STATUS_LINE].strip() in {"ready", "standby"}
        )

    def _forget(self) -> None:
        # All processes are known to be dead, so nothing may make the next start believe
        # otherwise, and a machine has room for few shared memory segments only.
        lines = self._pid_file()
        if len(lines) > _SHARED_MEMORY_LINE and (words := lines[_SHARED_MEMORY_LINE].split()):
            ctypes.CDLL(None).shmctl(int(words[-1]), _IPC_RMID, None)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for path in self._own.glob(".s.PGSQL.*"):
            path.unlink(missing_ok=True)

    def _unavailable(self, what: str) -> PostgresUnavailableError:
        tail = self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        message = f"PostgreSQL in {self.folder} {what}; its log ends:\n{tail}"
        return PostgresUnavailableError(message)


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= _SOCKET_FOLDER_MAX else "/tmp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _adopting_orphans() -> Generator[None]:
    """
    Make children of a killed child ours, so that they can be waited for and reaped.

    Without it they go to process 1, which in a container often reaps nobody: zombies pile up.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    with _adoption:
        before = ctypes.c_int()
        libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            yield
        finally:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def _kill_children(pid: int) -> set[int]:
    """Stop a process so that it makes no more children, kill those it has, return them."""
    os.kill(pid, signal.SIGSTOP)
    killed: set[int] = set()
    while more := _children(pid) - killed:
        for child in more:
            os.kill(child, signal.SIGKILL)
        killed |= more
    return killed


def _children(pid: int) -> set[int]:
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        pairs = (line.split() for line in listing.splitlines())
        return {int(child) for child, parent in pairs if int(parent) == pid}
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {number for number in numbers if _state(number)[1:] == [str(pid)]}


def _state(pid: int) -> list[str]:
    """Return state and parent of a process as Linux tells them; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []


def _await_end(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        # Somebody else reaps it, or will not: dead is enough.
        pause = threading.Event()
        while _is_alive(pid):
            pause.wait(_POLL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return _state(pid)[:1] != ["Z"]
