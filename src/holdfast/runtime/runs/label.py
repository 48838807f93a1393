"""
Labels: words by which runs are found.

A name that begins with `holdfast.` is Holdfast's own. One is in use: the session that a run belongs
to, so that it is kept, forked, exported and found like every other label.
"""

from collections.abc import Mapping
from typing import Final

from holdfast.core.errors import InvalidValueError
from holdfast.core.key import Key, as_key, encode_key, quoted_key

RESERVED: Final = "holdfast."
SESSION: Final = "holdfast.session"


def belonging(session: Key | None) -> dict[str, str]:
    """
    Return the label of runs that belong to a session; no label for no session.

    Args:
        session: class and key, as sessions are named where they are stored.

    Raises:
        InvalidValueError: nothing can be called so.
    """
    if session is None:
        return {}
    name = as_key(session)
    if len(name) < 2:
        raise InvalidValueError(what="session", reason="is named by its class and its key")
    encode_key(name)
    return {SESSION: quoted_key(name)}


def labelled(labels: Mapping[str, str], session: Key | None) -> dict[str, str]:
    """
    Return the labels of a run that begins.

    Raises:
        InvalidValueError: one is Holdfast's own, or no session can be called so.
    """
    for name in labels:
        if name.startswith(RESERVED):
            raise InvalidValueError(what=f"label {name!r}", reason="is kept by Holdfast for itself")
    return {**labels, **belonging(session)}
