"""
A keyring: the keys that a program brings along, by which the data keys of a store are wrapped.

A text with one key a line, `ID KEY`, the key as 32 bytes in base64; lines that begin with `#`
are for people. The last key is the current one. It comes from a file that only its owner can
read, or from an environment variable.

Invariants: a file that others could read is refused; a key is never shown, not by `repr` either.
"""

import os
import re
import secrets
import stat
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from holdfast.core.errors import InvalidValueError
from holdfast.core.failpoint import Failpoints
from holdfast.store.files import remove_leftovers, replace_file

KEY_BYTES: Final = 32
VARIABLE: Final = "HOLDFAST_KEYRING"
"""Environment variable with the path of the keyring that is used where none is given."""
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Keyring:
    """
    Keys by their ids; the last one is current.

    Attributes:
        source: where it is from, for people.
    """

    def __init__(self, keys: Mapping[str, bytes], source: str, path: Path | None = None) -> None:
        """
        Take keys in order; see `from_file` and `from_env`.

        Raises:
            InvalidValueError: there is none, or one is not of 32 bytes.
        """
        for id, key in keys.items():
            if not _ID.fullmatch(id) or len(key) != KEY_BYTES:
                raise InvalidValueError(what=f"key {id!r} of {source}", reason="is not 32 bytes")
        if not keys:
            raise InvalidValueError(what=source, reason="holds no key")
        self.source = source
        self._keys = dict(keys)
        self._path = path

    def __repr__(self) -> str:
        """Return where it is from, and the ids."""
        return f"Keyring({self.source!r}, {', '.join(self._keys)})"

    @staticmethod
    def from_file(path: str | Path) -> "Keyring":
        """
        Return the keys of a file.

        Raises:
            InvalidValueError: it is not there, holds no keys, or others could read it.
        """
        file = Path(path).expanduser()
        source = f"keyring {file}"
        try:
            with file.open("rb") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                text = opened.read().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValueError(what=source, reason="cannot be read") from error
        if stat.S_IMODE(mode) & 0o077:
            reason = f"can be read by others (mode {stat.S_IMODE(mode):o}); chmod 600 it"
            raise InvalidValueError(what=source, reason=reason)
        return Keyring(_parsed(text, source), source, file)

    @staticmethod
    def from_env(variable: str) -> "Keyring":
        """
        Return the keys in an environment variable; commas may stand for ends of lines.

        Raises:
            InvalidValueError: it is not set, or holds no keys.
        """
        source = f"variable {variable}"
        return Keyring(_parsed(os.environ.get(variable, ""), source), source)

    @staticmethod
    def create(path: str | Path, id: str = "", *, standby: bool = False) -> str:
        """
        Add a fresh key to a file, which is made if there is none; return its id.

        Args:
            path: the file; it is replaced as a whole.
            id: of the key; drawn if empty.
            standby: put it before the last one, so that everybody has it before it is current.

        Raises:
            InvalidValueError: the id is in use or no word, or the file is no keyring.
        """
        return _create_key(Path(path).expanduser(), id, standby=standby)

    @staticmethod
    def of(given: "Keyring | str | Path | None") -> "Keyring | None":
        """Return a keyring as it is or from its file; the one `HOLDFAST_KEYRING` names if none."""
        if given is None:
            given = os.environ.get(VARIABLE) or None
        return Keyring.from_file(given) if isinstance(given, str | Path) else given

    @property
    def current(self) -> str:
        """Id of the current key."""
        return next(reversed(self._keys))

    def find(self, id: str) -> bytes | None:
        """Return a key; of a file, also one that was added since."""
        if id not in self._keys:
            self.reload()
        return self._keys.get(id)

    def reload(self) -> None:
        """Read the file again, if it is from one; a file that cannot be used changes nothing."""
        if self._path is not None:
            try:
                self._keys = Keyring.from_file(self._path)._keys
            except InvalidValueError:
                return


def _create_key(file: Path, id: str, *, standby: bool) -> str:
    lines: list[str] = []
    if file.exists():
        Keyring.from_file(file)
        lines = file.read_text().splitlines()
    id = id or f"k{secrets.token_hex(4)}"
    if not _ID.fullmatch(id) or id in _parsed("\n".join(lines), str(file)):
        raise InvalidValueError(what=f"key {id!r}", reason="is in use, or is not a word")
    line = f"{id} {b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"
    if standby and not lines:
        raise InvalidValueError(what="--standby", reason="needs a key that is current meanwhile")
    lines.insert(_last(lines) if standby else len(lines), line)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_leftovers(file)
    replace_file(file, ("\n".join(lines) + "\n").encode(), Failpoints())
    return id


def _last(lines: list[str]) -> int:
    return max(place for place, line in enumerate(lines) if _is_key(line))


def _is_key(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parsed(text: str, source: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, line in enumerate(filter(_is_key, re.split(r"[\n,]", text)), 1):
        id, _, key = line.strip().partition(" ")
        if id in found:
            raise InvalidValueError(what=f"key {id!r} of {source}", reason="is there twice")
        try:
            found[id] = b64decode(key.strip(), validate=True)
        except BadBase64 as error:
            raise InvalidValueError(what=f"key {number} of {source}", reason="is none") from error
    return found
