"""
Keeping secrets out of the store: what is secret is replaced before anything is encoded.

`Redaction` is what a program asks for: names of fields, patterns in texts, values of
environment variables, and every `Secret`. `Redactor` is that at work for one opening of a store:
it replaces, at any depth, and counts by rule.

    [redacted]                     the value of a named field
    [redacted:RULE]                what a pattern found, an environment variable, a `Secret`
    [redacted:RULE:9f3a0c12...]    the same with `keyed`: equal secrets, equal placeholders

The hash of a keyed placeholder is made with a random key that the store keeps to itself. Who has
the store has the key too, so a secret that can be guessed can be found out by trying.

Invariants: what is redacted never reaches the write queue, so it is in no event, record, log or
backup; the value handed in is not changed; what is a placeholder already stays as it is; without
rules nothing is looked at.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from hashlib import blake2b
from typing import Any, Final, cast

import msgspec

from holdfast.core import codec
from holdfast.core.errors import EncodeError, InvalidValueError, LimitError
from holdfast.core.secret import Secret

REDACTED: Final = "[redacted]"
SECRET: Final = "secret"
"""Name of the rule for `Secret`, and of the group of a pattern that alone is replaced."""
VALUE_CHARS_MIN: Final = 6
_HASH_BYTES: Final = 8
_RULE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLACEHOLDER: Final = re.compile(r"\[redacted(:[A-Za-z0-9_.-]{1,64}(:[0-9a-f]{16})?)?\]")

COMMON: Final[Mapping[str, str]] = {
    "private-key": r"(?s)-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----"
    r".*?(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY-----|\Z)",
    "bearer": r"(?i)\bbearer\s{1,5}(?P<secret>[a-z0-9._~+/-]{8,}=*)",
    "basic": r"(?i)\bauthorization[\"']?\s{0,5}[:=]\s{0,5}[\"']?basic\s{1,5}"
    r"(?P<secret>[a-z0-9+/]{4,}=*)",
    "aws-id": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "aws-secret": r"(?i)\baws_?secret_?(?:access_?)?key[\"']?\s{0,5}[:=]\s{0,5}[\"']?"
    r"(?P<secret>[a-z0-9/+]{40})",
    "token": r"\b(?:gh[opsur]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|sk-[A-Za-z0-9_-]{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,})",
    "jwt": r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "url-password": r"(?i)\b[a-z][a-z0-9+.-]{1,30}://[^\s/:@]{0,200}:(?P<secret>[^\s/@]{1,500})@",
    "assigned": r"(?i)(?:password|passwd|pwd|secret|token|api_?key|access_?key)="
    r"(?P<secret>[^\s&;\"']{1,500})",
}
"""Patterns that `Redaction(common=True)` looks for, by rule."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """
    What is to be replaced before it is stored.

    Attributes:
        names: fields whose values are replaced whatever they are, in any case: keys of dicts,
            fields of dataclasses and Structs.
        patterns: regular expressions by rule; what one matches is replaced, or only its group
            `secret` if it has one.
        environment: variables whose values are replaced wherever they stand; one that is not
            set is passed over.
        common: also look for bearer tokens, AWS keys, private keys, tokens of well-known
            services, passwords in URLs and assignments; see `COMMON`.
        keyed: placeholders tell whether two secrets were equal.
        in_bytes: look into bytes too, those of artifacts and blobs included.
    """

    names: Iterable[str] = ()
    patterns: Mapping[str, str | re.Pattern[str]] = dataclasses.field(
        default_factory=dict[str, str | re.Pattern[str]]
    )
    environment: Iterable[str] = ()
    common: bool = False
    keyed: bool = False
    in_bytes: bool = False

    def __post_init__(self) -> None:
        """
        Refuse what cannot be meant.

        Raises:
            InvalidValueError: a string where names were expected, or a rule that is no pattern.
        """
        for what in ("names", "environment"):
            if isinstance(getattr(self, what), str):
                raise InvalidValueError(what=what, reason="is one string; give a list of them")
        for rule, pattern in self.patterns.items():
            if not _RULE.fullmatch(rule):
                raise InvalidValueError(
                    what=f"rule {rule!r}", reason="is a word of letters, digits and -_."
                )
            try:
                found = re.compile(pattern).search("")
            except re.error as error:
                raise InvalidValueError(what=f"rule {rule}", reason=str(error)) from error
            if found is not None:
                raise InvalidValueError(what=f"rule {rule}", reason="matches nothing at all, too")

    @staticmethod
    def of(rules: "Iterable[str] | Redaction") -> "Redaction":
        """Return rules as they are, or those that go by these names of fields."""
        if isinstance(rules, Redaction):
            return rules
        return Redaction(names=rules if isinstance(rules, str) else tuple(rules))


class Redactor:
    """
    Rules at work in one opening of a store.

    Attributes:
        active: there is a rule; without one nothing is looked at.
        in_bytes: bytes are looked into.
        key: with which hashes are made; None while it is not known, or if none are wanted.
    """

    def __init__(
        self,
        rules: Redaction | None = None,
        environment: Mapping[str, str] | None = None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Take what is to be replaced.

        Args:
            rules: names, patterns and so on; none if not given.
            environment: where the values of environment variables are found.
            told: is told the rule, or the name of the field, each time something is replaced.

        Raises:
            InvalidValueError: a value is so short that it would be found everywhere.
        """
        rules = rules or Redaction()
        self._told = told
        self._names = frozenset(name.casefold() for name in rules.names)
        self._patterns = _patterns(rules, environment or {})
        self.keyed = rules.keyed
        self.in_bytes = rules.in_bytes
        self.active = bool(self._names or self._patterns or rules.keyed)
        self.key: bytes | None = None
        self._in_bytes = [
            (rule, re.compile(one.pattern.encode(), one.flags & ~re.UNICODE))
            for rule, one in self._patterns
            if rules.in_bytes
        ]
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return how often something was replaced since the opening, by rule or field name."""
        return dict(self._counts)

    def __call__(self, value: object) -> Any:
        """Return the value without secrets; the same object if there are none in it."""
        return self._clean(value) if self.active else value

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self._text(text) if self.active else text

    def field(self, name: str, value: object) -> Any:
        """Return the value of a field without secrets."""
        return self._field(name, value) if self.active else value

    def content(self, data: bytes) -> bytes:
        """Return bytes without secrets, if bytes are to be looked into."""
        return self._bytes(data) if self._in_bytes else data

    def _clean(self, value: object) -> object:
        kind = type(value)
        if kind is str:
            return self._text(cast(str, value))
        if kind in _PLAIN:
            return value
        if kind is bytes:
            return self.content(cast(bytes, value))
        if isinstance(value, Secret):
            return self._placeholder(SECRET, value.reveal())
        return self._inside(value)

    def _inside(self, value: object) -> object:
        """Clean what consists of parts; return the same object if no part changed."""
        if isinstance(value, str):
            said = self._text(str(value))
            # A word of another language stays one; a member of an enumeration cannot.
            kind = str if isinstance(value, Enum) else type(value)
            return value if said == value else kind(said)
        if isinstance(value, dict):
            return self._dict(cast(dict[object, object], value))
        if isinstance(value, list | tuple | set | frozenset):
            return self._items(cast(Any, value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value) if field.init]
            return self._fields(value, names, dataclasses.replace)
        if isinstance(value, msgspec.Struct):
            return self._fields(value, value.__struct_fields__, msgspec.structs.replace)
        return value

    def _dict(self, fields: dict[object, object]) -> dict[object, object]:
        cleaned = {
            self._clean(name): self._field(name, item)
            if isinstance(name, str)
            else self._clean(item)
            for name, item in fields.items()
        }
        same = len(cleaned) == len(fields) and all(
            cleaned.get(name) is item for name, item in fields.items()
        )
        return fields if same else cleaned

    def _items(self, items: Any) -> Any:
        cleaned = [self._clean(item) for item in items]
        if all(one is two for one, two in zip(cleaned, items, strict=True)):
            return items
        kind = cast(Any, type(items))
        return kind(*cleaned) if hasattr(kind, "_fields") else kind(cleaned)

    def _fields(self, value: Any, names: Iterable[str], replace: Callable[..., object]) -> object:
        changed: dict[str, object] = {}
        for name in names:
            before = getattr(value, name)
            after = self._field(name, before)
            if after is not before:
                changed[name] = after
        return replace(value, **changed) if changed else value

    def _field(self, name: str, value: object) -> object:
        if name.casefold() not in self._names:
            return self._clean(value)
        if isinstance(value, Secret):
            value = value.reveal()
        if isinstance(value, str) and _PLACEHOLDER.fullmatch(value):
            return value
        self._count(name.casefold())
        hashed = self._hash(value)
        word = name.casefold() if _RULE.fullmatch(name.casefold()) else "field"
        return f"[redacted:{word}:{hashed}]" if hashed else REDACTED

    def _text(self, text: str) -> str:
        for rule, pattern in self._patterns:
            if pattern.search(text) is not None:
                text = pattern.sub(partial(self._replaced, rule), text)
        return text

    def _replaced(self, rule: str, match: re.Match[str]) -> str:
        found = match.group(SECRET) if SECRET in match.re.groupindex else match.group()
        if not found or _PLACEHOLDER.fullmatch(found):
            return match.group()
        said = self._placeholder(rule, found)
        if SECRET not in match.re.groupindex:
            return said
        begin, end = match.span(SECRET)
        start = match.start()
        whole = match.group()
        return whole[: begin - start] + said + whole[end - start :]

    def _bytes(self, data: bytes) -> bytes:
        for rule, pattern in self._in_bytes:
            if pattern.search(data) is not None:
                data = pattern.sub(partial(self._cut, rule), data)
        return data

    def _cut(self, rule: str, match: re.Match[bytes]) -> bytes:
        named = SECRET in match.re.groupindex
        begin, end = match.span(SECRET if named else 0)
        start, whole = match.start(), match.group()
        found = whole[begin - start : end - start]
        if begin < 0 or _PLACEHOLDER.fullmatch(found.decode(errors="replace")):
            return whole
        said = self._placeholder(rule, found.decode(errors="surrogateescape")).encode()
        return whole[: begin - start] + said + whole[end - start :]

    def _placeholder(self, rule: str, found: str) -> str:
        self._count(rule)
        hashed = self._hash(found)
        return f"[redacted:{rule}:{hashed}]" if hashed else f"[redacted:{rule}]"

    def _count(self, rule: str) -> None:
        self._counts[rule] += 1
        self._told(rule)

    def _hash(self, value: object) -> str:
        """Return what equal values have in common; empty if that is not wanted, or cannot be."""
        if self.key is None or not self.keyed:
            return ""
        if isinstance(value, str):
            data = value.encode(errors="surrogateescape")
        else:
            try:
                data = codec.encode(value)
            except (EncodeError, LimitError):
                return ""
        return blake2b(data, key=self.key, digest_size=_HASH_BYTES).hexdigest()


_PLAIN: Final = frozenset({int, float, bool, type(None)})


def _patterns(
    rules: Redaction, environment: Mapping[str, str]
) -> list[tuple[str, re.Pattern[str]]]:
    """Return the patterns by rule; values that are known come first, since they are whole."""
    found: list[tuple[str, re.Pattern[str]]] = []
    for name in rules.environment:
        value = environment.get(name, "")
        if not value:
            continue
        if len(value) < VALUE_CHARS_MIN:
            reason = f"has fewer than {VALUE_CHARS_MIN} characters and would be found everywhere"
            raise InvalidValueError(what=f"variable {name}", reason=reason)
        rule = name if _RULE.fullmatch(name) else "environment"
        found.append((rule, re.compile(re.escape(value))))
    found += [(rule, re.compile(pattern)) for rule, pattern in rules.patterns.items()]
    if rules.common:
        found += [(rule, re.compile(pattern)) for rule, pattern in COMMON.items()]
    return found
