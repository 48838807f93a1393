"""
The text of rules, as far as keeping a working memory has to understand it.

CLIPS reads its own language; here it is only cut into constructs and words, so that rules which
no journal could repeat are refused by name before anything runs: what asks the clock, the
terminal or a file answers otherwise the second time, and what changes the rules while they run
would make a working memory of rules that nobody has.

Invariant: the fingerprint of rules is that of their constructs in order, since the order in
which rules are built decides the order of what they do.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Final

import msgspec

from holdfast.core.refusal import RulesRefusedError

# A string, a comment, a parenthesis, or a word.
_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|;[^\n]*|[()]|[^\s()";]+', re.DOTALL)
_ASKS_OUTSIDE: Final = (
    "asks the world outside, so a replay would get another answer; "
    "define it in Python, and its answers are kept"
)
_CHANGES_RULES: Final = "changes what the rules are while they run; attach other rules instead"
_ENDS: Final = "works on the engine behind Holdfast's back; do it from Python"
_OUTSIDE: Final = (
    "time local-time gm-time get-char read readline read-number open close system "
    "operating-system remove rename chdir"
)
_CHANGING: Final = (
    "build load load* batch batch* bload bsave clear save undefrule undeftemplate "
    "undeffunction undefglobal"
)
_ENDING: Final = "exit reset seed load-facts bload-facts save-facts bsave-facts"
_REFUSED: Final = (
    dict.fromkeys(_OUTSIDE.split(), _ASKS_OUTSIDE)
    | dict.fromkeys(_CHANGING.split(), _CHANGES_RULES)
    | dict.fromkeys(_ENDING.split(), _ENDS)
)


class Rules(msgspec.Struct, frozen=True):
    """
    Rules, cut into constructs.

    Attributes:
        constructs: in order, with their text.
        reasons: why a memory of these rules can have no snapshot, by rule; empty if it can.
        supporting: rules whose facts live by the facts they stand on.
        templates: names of the templates that have slots.
        modules: whether there are others than MAIN.
    """

    constructs: tuple[str, ...]
    reasons: tuple[str, ...]
    supporting: frozenset[str]
    templates: frozenset[str]
    modules: bool

    def fingerprint(self, *more: str) -> str:
        """Return the name of these rules: equal for equal constructs in equal order."""
        words = [" ".join(words_of(construct)) for construct in self.constructs]
        encoded = msgspec.msgpack.encode([words, *more])
        return blake2b(encoded, digest_size=16).hexdigest()


def parsed(text: str) -> Rules:
    """
    Return the rules in a text.

    Raises:
        RulesRefusedError: they are not closed, or call what cannot be kept.
    """
    constructs = tuple(_constructs(text))
    reasons: list[str] = []
    supporting: set[str] = set()
    templates: set[str] = set()
    modules = False
    for construct in constructs:
        words = words_of(construct)
        _check(words)
        modules = modules or words[1] == "defmodule"
        if words[1] == "deftemplate":
            templates |= {words[2], words[2].removeprefix("MAIN::")}
        if words[1] == "defrule":
            left = words[: words.index("=>")] if "=>" in words else words
            reasons += _reasons(words[2], _conditions(left))
            if "logical" in left:
                supporting.add(words[2].rpartition("::")[2])
    return Rules(constructs, tuple(reasons), frozenset(supporting), frozenset(templates), modules)


def words_of(text: str) -> list[str]:
    """Return the words of a text: parentheses, strings and names, without comments."""
    return [word for word in _TOKEN.findall(text) if not word.startswith(";")]


def check_expression(text: str) -> None:
    """
    Return if an expression may be evaluated in a memory that is kept.

    Raises:
        RulesRefusedError: it calls what cannot be kept.
    """
    _check(words_of(text))


def _check(words: list[str]) -> None:
    where = f"{words[1]} {words[2]}" if len(words) > 2 else " ".join(words)
    for before, word in pairwise(words):
        if before == "(" and word in _REFUSED:
            raise RulesRefusedError(where=where, reason=f"calls ({word}), which {_REFUSED[word]}")


def _conditions(left: list[str]) -> list[str]:
    """Return a left-hand side without its declarations, which say nothing of what matches."""
    if "declare" not in left:
        return left
    at = left.index("declare")
    depth = 1
    for end in range(at, len(left)):
        depth += (left[end] == "(") - (left[end] == ")")
        if not depth:
            return left[: at - 1] + left[end + 1 :]
    return left


def _reasons(name: str, left: list[str]) -> Iterator[str]:
    """Say what of a rule's conditions would not come out the same when facts come in anew."""
    for word in left:
        if word.startswith("?*"):
            yield f"the conditions of rule {name} read the global {word}"
            return


def _constructs(text: str) -> Iterator[str]:
    depth = start = 0
    for found in _TOKEN.finditer(text):
        word = found.group()
        if word == "(":
            if not depth:
                start = found.start()
            depth += 1
        elif word == ")":
            depth -= 1
            if depth < 0:
                raise RulesRefusedError(where="the text", reason="closes more than it opens")
            if not depth:
                yield text[start : found.end()]
        elif not depth and not word.startswith(";"):
            raise RulesRefusedError(where=f"the word {word[:40]!r}", reason="stands alone")
    if depth:
        raise RulesRefusedError(where="the text", reason=f"leaves {depth} parentheses open")
