"""
Who may do what: rights, and the roles that bundle them.

Reading what is stored and seeing *what* was stored are two rights: somebody who looks after a
service has to see that a run waits, not what a customer wrote.

Invariants: a role is a set of rights and nothing else; a right that is not given is denied.
"""

from enum import StrEnum
from typing import Final


class Right(StrEnum):
    """What may be allowed."""

    READ = "read"
    """See runs, sessions, questions and their states, without their content."""

    PAYLOADS = "payloads"
    """See content: inputs, results, event data, answers, artifacts, session fields."""

    ANSWER = "answer"
    """Answer questions."""

    OPERATE = "operate"
    """Start, cancel, pause, resume, fork, signal; resolve what is uncertain."""

    ADMIN = "admin"
    """Manage tokens, read the audit, delete."""


ROLES: Final[dict[str, frozenset[Right]]] = {
    "viewer": frozenset({Right.READ}),
    "answerer": frozenset({Right.READ, Right.PAYLOADS, Right.ANSWER}),
    "operator": frozenset({Right.READ, Right.PAYLOADS, Right.ANSWER, Right.OPERATE}),
    "admin": frozenset(Right),
}
"""Rights by role."""
