"""
Listening: where a service is reached, and who may reach it there.

The socket is bound and listens before anything else is done, so that whoever comes while a store
is restored is let in and told so. Without a token nobody listens, and what others may reach is
named by hand: a service on a machine is not alone there.

Invariants: the file of a token is readable by its owner alone, and holds one whole token.
"""

import logging
import os
import secrets
import socket
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from holdfast.core.errors import InvalidValueError

log = logging.getLogger("holdfast")
BACKLOG: Final = 1_024
TOKEN_CHARACTERS_MIN: Final = 16
_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


def check_exposure(host: str, *, has_token: bool) -> None:
    """
    Return if a service may listen at an address.

    Raises:
        InvalidValueError: others can reach it there, and it would let everybody in.
    """
    if has_token:
        return
    where = "" if is_loopback(host) else f" at {host}, which others can reach"
    raise InvalidValueError(
        what="--token-file",
        reason=f"is missing: nobody listens{where} without a token; "
        "add `--token-file holdfast.token`, which is made if it is not there",
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 takes any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    made.setblocking(False)
    return made


def bound_at(path: Path) -> socket.socket:
    """
    Return a socket that listens at a path, for its owner alone.

    Raises:
        InvalidValueError: somebody listens there, or something else is in the way.
    """
    if path.exists() or path.is_symlink():
        _clear(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(before)
    made.listen(BACKLOG)
    made.setblocking(False)
    return made


def _clear(path: Path) -> None:
    """Take away the socket of a process that is gone, and nothing else."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise InvalidValueError(what="--uds", reason=f"{path} is there and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise InvalidValueError(what="--uds", reason=f"somebody listens at {path}")
    path.unlink()


def address_of(listening: socket.socket) -> str:
    """Return where a socket is reached, as a URL."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def token_of(file: Path) -> str:
    """
    Return the token in a file; a file that is not there is made, with a random one.

    Raises:
        InvalidValueError: the file holds none that is long enough.
    """
    if not file.exists():
        _make(file)
    if file.stat().st_mode & 0o077:
        log.warning("event=token_file_open file=%s fix='chmod 600'", file)
    token = file.read_text(encoding="utf-8").strip()
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise InvalidValueError(
            what="--token-file",
            reason=f"{file} holds no token of {TOKEN_CHARACTERS_MIN} characters or more; "
            "remove it, and one is made",
        )
    return token


def _make(file: Path) -> None:
    """Write a token into a file that is whole when it is there."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as out:
            out.write(f"hf_{secrets.token_urlsafe(32)}\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, file)  # Whoever was first made the token that counts.
        except FileExistsError:
            log.info("event=token_file_found file=%s", file)
    finally:
        draft.unlink()
