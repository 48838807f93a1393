"""
The peer's environment: made once, on first need, beside our own and apart from it.

A peer has other dependencies than we have; it must neither see ours nor change them.
"""

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

NAME = "dbos"
REQUIREMENT = "dbos==3.4.0"
FOLDER = Path(__file__).parent.parent / "build" / "peers"
INSTALL_SECONDS = 300


class PeerMissingError(RuntimeError):
    """The peer is not installed and cannot be."""


def _install(python: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*command, REQUIREMENT], check=True, capture_output=True, timeout=INSTALL_SECONDS
    )


def python_of_peer(folder: Path = FOLDER, install: Callable[[Path], None] = _install) -> Path:
    """
    Return the Python that has the peer, which is installed if it is not there.

    Raises:
        PeerMissingError: it could not be installed; names the line that does it by hand.
    """
    home = folder / REQUIREMENT.replace("==", "-")
    python, done = home / "bin" / "python", home / "done"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Tests and the bench may come at once.
        if done.exists():
            return python
        print(f"   {REQUIREMENT}: installing into {home}", file=sys.stderr, flush=True)
        try:
            venv.create(home, clear=True, with_pip=True)
            install(python)
        except (OSError, subprocess.SubprocessError) as error:
            line = f"{python} -m pip install {REQUIREMENT} && touch {done}"
            raise PeerMissingError(
                f"{REQUIREMENT} is not installed and the registry did not give it ({error}); "
                f"where there is one: {line}"
            ) from error
        done.touch()
        return python


def environment() -> dict[str, str]:
    """Return the environment variables of a side: ours, without what turns bytecode off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PYTHONPATH": str(Path(__file__).parent.parent)}
