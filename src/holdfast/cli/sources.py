"""
Choosing what the demo ingests: text files below a folder, by package.

A file is text if it has no zero byte. What is left out is said aloud with its reason, never
dropped silently.
"""

import os
import stat
import sysconfig
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

import msgspec

from holdfast.cli.ingest import Package, measured

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
FILES_MAX: Final = 20_000
_PASSED_OVER: Final = {"__pycache__", "site-packages", "dist-packages", "node_modules"}


class Sources(msgspec.Struct):
    """
    What was found below a folder.

    Attributes:
        root: the folder.
        digests: digest of each chosen file by its path, in the order of choice.
        packages: the same files by folder.
        skipped: paths left out, by reason.
    """

    root: str
    digests: dict[str, str]
    packages: tuple[Package, ...]
    skipped: dict[str, list[str]]

    @property
    def files(self) -> int:
        """Return how many files were chosen."""
        return len(self.digests)


def standard_library() -> Path:
    """Return the folder with the Python sources of the running interpreter."""
    return Path(sysconfig.get_path("stdlib"))


def collect(root: Path, limit: int, suffix: str = "") -> Sources:
    """
    Choose up to `limit` files, one of each folder in turn, and take their digests.

    Args:
        root: folder to look through; links are not followed.
        limit: how many files at most.
        suffix: how names have to end.
    """
    found = Sources(str(root.resolve()), {}, (), {})
    folders: dict[str, list[str]] = {}
    for path in _walk(Path(found.root), found.skipped):
        if path.endswith(suffix):
            folders.setdefault(os.path.dirname(path) or ".", []).append(path)  # noqa: PTH120
    chosen: dict[str, list[str]] = {}
    for turn in zip_longest(*(folders[name] for name in sorted(folders))):
        for path in turn:
            if path is None:
                continue
            if len(found.digests) >= limit:
                _skip(found.skipped, f"beyond the first {limit}", path)
            elif digest := _digest(Path(found.root), path, found.skipped):
                found.digests[path] = digest
                chosen.setdefault(os.path.dirname(path) or ".", []).append(path)  # noqa: PTH120
    found.packages = tuple(Package(name, tuple(chosen[name])) for name in sorted(chosen))
    return found


def _walk(root: Path, skipped: dict[str, list[str]]) -> Iterator[str]:
    """Yield the paths of files relative to the root, in order."""

    def unreadable(error: OSError) -> None:
        _skip(skipped, "folder cannot be read", os.path.relpath(error.filename, root))

    for folder, names, files in os.walk(root, onerror=unreadable):
        names[:] = sorted(
            name for name in names if name not in _PASSED_OVER and not name.startswith(".")
        )
        for name in sorted(files):
            yield (Path(folder) / name).relative_to(root).as_posix()


def _digest(root: Path, path: str, skipped: dict[str, list[str]]) -> str:
    """Return the digest of a text file, or "" after saying why it is left out."""
    reason = ""
    try:
        path.encode()
        found = (root / path).lstat()
        if not stat.S_ISREG(found.st_mode):
            reason = "not a regular file"
        elif found.st_size > FILE_BYTES_MAX:
            reason = f"larger than {FILE_BYTES_MAX >> 20} MiB"
        else:
            content = (root / path).read_bytes()
            if b"\0" not in content:
                return measured(path, content, 0).sha256
            reason = "not text"
    except UnicodeEncodeError:
        reason = "name is not UTF-8"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    _skip(skipped, reason, path)
    return ""


def _skip(skipped: dict[str, list[str]], reason: str, path: str) -> None:
    # Printable, whatever bytes the name has.
    skipped.setdefault(reason, []).append(path.encode(errors="backslashreplace").decode())
