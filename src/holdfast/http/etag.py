"""
ETags: which version of a thing somebody has seen, so that nothing is changed that was not seen.

A tag is opaque to clients: the revision of a record, or the digest of bytes.
"""

import re
from typing import Final

from holdfast.core.denial import (
    MalformedError,
    PreconditionFailedError,
    PreconditionRequiredError,
)
from holdfast.http.call import Call

_TAG: Final = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')


def etag(version: object) -> str:
    """Return the tag of a version."""
    return f'"{version}"'


def is_seen(call: Call, version: object) -> bool:
    """Return whether the caller has this version already (`If-None-Match`)."""
    said = call.header("if-none-match")
    return said is not None and (said.strip() == "*" or str(version) in _tags(said))


def check_match(call: Call, version: object, *, needed: bool = False) -> bool:
    """
    Return if a thing is at the version that `If-Match` names; whether it named one.

    Raises:
        PreconditionRequiredError: it is needed and was not sent.
        PreconditionFailedError: the thing is at another version.
        MalformedError: the header holds no tag.
    """
    said = call.header("if-match")
    if said is None:
        if needed:
            raise PreconditionRequiredError(header="If-Match")
        return False
    if said.strip() == "*":
        return False
    tags = _tags(said)
    if not tags:
        raise MalformedError(what="If-Match", reason='is not a tag such as "3"')
    if str(version) not in tags:
        raise PreconditionFailedError(expected=", ".join(tags), actual=str(version))
    return True


def _tags(said: str) -> list[str]:
    return _TAG.findall(said)
