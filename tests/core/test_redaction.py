"""What is secret is found at any depth and replaced; what is not stays the very same object."""

import copy
import pickle
import re
from collections import namedtuple
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast import Redaction, Secret
from holdfast.core import codec
from holdfast.core.errors import InvalidValueError
from holdfast.core.redaction import COMMON, Redactor

Pair = namedtuple("Pair", ("left", "right"))


@dataclass(frozen=True)
class Login:
    """A user's own type."""

    user: str
    password: str
    notes: list[str] = field(default_factory=list[str])


class Call(msgspec.Struct):
    """Another one."""

    url: str
    login: Login | None = None


class Word(str):
    """A text of a foreign language."""


class Tone(StrEnum):
    """A member that cannot become another text."""

    LOUD = "hunter2-loud"


def test_names_are_redacted_at_any_depth_whatever_their_case() -> None:
    """X12. Dicts, lists, tuples, dataclasses, Structs; the value handed in is not changed."""
    redact = Redactor(Redaction(names=["password"]))
    login = Login("ann", "hunter2")
    value = {"a": [{"PassWord": 1}, (Call("u", login), Pair(login, {"password": None}))]}
    cleaned = redact(value)
    assert "hunter2" not in repr(cleaned)
    assert cleaned["a"][0] == {"PassWord": "[redacted]"}
    call, pair = cleaned["a"][1]
    assert call.login == Login("ann", "[redacted]")
    assert type(pair) is Pair and pair.right == {"password": "[redacted]"}
    assert login.password == "hunter2" and value["a"][0] == {"PassWord": 1}


def test_patterns_reach_into_every_text_also_into_keys_and_sets() -> None:
    """X12. A shallow pass misses what is nested; this one does not."""
    redact = Redactor(Redaction(patterns={"pin": r"pin-\d+"}))
    value: dict[str, Any] = {
        "pin-1": "x",
        "t": ("see pin-22 and pin-333", {"pin-4"}, frozenset({"pin-5"})),
        "l": Login("ann", "p", ["pin-6"]),
        "w": Word("pin-7"),
        "s": Tone.LOUD,
    }
    cleaned = redact(value)
    assert re.search(r"pin-\d", repr(cleaned)) is None
    assert cleaned["t"][0] == "see [redacted:pin] and [redacted:pin]"
    assert type(cleaned["w"]) is Word and cleaned["w"] == "[redacted:pin]"
    assert cleaned["s"] is Tone.LOUD
    assert Redactor(Redaction(patterns={"p": "hunter2"}))(Tone.LOUD) == "[redacted:p]-loud"


def test_without_a_rule_and_without_a_finding_the_same_object_comes_back() -> None:
    """X12. Nothing is copied for nothing."""
    value = {"a": [1, "text", (Login("a", "b"), Pair(1, {"x"}))]}
    assert Redactor()(value) is value
    redact = Redactor(Redaction(names=["token"], patterns={"pin": r"pin-\d+"}))
    assert redact(value) is value
    assert redact.counts() == {}


def test_of_a_pattern_with_a_group_named_secret_only_that_is_replaced() -> None:
    """X12. What stands around it is what people need to understand the text."""
    redact = Redactor(Redaction(patterns={"door": r"code (?P<secret>\d+)!"}))
    assert redact("the code 1234! opens") == "the code [redacted:door]! opens"


def test_keyed_placeholders_tell_equal_secrets_and_nothing_else() -> None:
    """X12. The typed placeholder keeps equality, by a keyed hash."""
    rules = Redaction(names=["password"], patterns={"pin": r"pin-\d+"}, keyed=True)
    redact, other = Redactor(rules), Redactor(rules)
    assert redact("pin-1") == "[redacted:pin]", "no key yet: no hash"
    redact.key, other.key = b"k" * 32, b"o" * 32
    one, two = redact(["pin-1 pin-2 pin-1", {"password": "pin-1"}])
    first, second, third = one.split()
    assert re.fullmatch(r"\[redacted:pin:[0-9a-f]{16}\]", first)
    assert first == third != second
    assert first != other("pin-1")
    assert two["password"].split(":")[2] == first.split(":")[2]
    assert redact({"password": [1]}) == redact({"password": [1]}) != redact({"password": [2]})
    assert redact([one, two]) == [one, two], "a placeholder stays as it is"


def test_values_of_environment_variables_are_found_wherever_they_stand() -> None:
    """X12. What the program was given in its environment is not to be kept."""
    rules = Redaction(environment=["API_KEY", "NOT_SET"])
    redact = Redactor(rules, {"API_KEY": "s3cr.t+value"})
    assert redact("key=s3cr.t+value;") == "key=[redacted:API_KEY];"
    assert redact("s3crxt+value") == "s3crxt+value", "the value is no pattern"
    with pytest.raises(InvalidValueError, match="everywhere"):
        Redactor(rules, {"API_KEY": "abc"})


@pytest.mark.parametrize(
    ("rule", "text", "left"),
    [
        ("bearer", "Authorization: Bearer {}", "Authorization: Bearer "),
        ("basic", "authorization: basic dXNlcjpwYXNz", "authorization: basic "),
        ("aws-id", "id AKIAIOSFODNN7EXAMPLE.", "id "),
        ("aws-secret", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_"),
        ("token", "ghp_" + "a1B2" * 9, ""),
        ("token", "use sk-proj-abcdefghij0123456789 now", "use "),
        ("jwt", "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4", ""),
        ("url-password", "postgresql://ann:{}@db.example/x", "postgresql://ann:"),
        ("assigned", "https://h/?user=a&api_key={}&b=1", "https://h/?user=a&api_key="),
        ("assigned", "DB_PASSWORD={} next", "DB_PASSWORD="),
        ("private-key", "x -----BEGIN RSA PRIVATE KEY-----\nMII{}\n", "x "),
    ],
)
def test_the_common_rules_find_what_they_are_called(rule: str, text: str, left: str) -> None:
    """X12. One switch for what most programs meet."""
    canary = "Zq8Zq8Zq8Zq8Zq8Z"
    redact = Redactor(Redaction(common=True))
    cleaned = redact(text.format(canary))
    assert f"[redacted:{rule}]" in cleaned
    assert cleaned.startswith(left)
    assert canary not in cleaned
    assert redact.counts() == {rule: 1}


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of bad news",
        "https://example.org/a:b/c?x=1",
        "a basic understanding of everything",
        "AKIA is a prefix",
        "skate, risk-free, task-oriented",
        "BEGIN PRIVATE talk",
        "the password is not told",
        "mail ann@example.org: now",
    ],
)
def test_the_common_rules_leave_ordinary_words_alone(text: str) -> None:
    """X12. A rule that is in the way is switched off, and then it protects nobody."""
    assert Redactor(Redaction(common=True)).text(text) == text


@pytest.mark.parametrize("rule", COMMON)
def test_no_common_rule_takes_long_over_a_text_made_to_be_slow(rule: str) -> None:
    """X12. Texts come from strangers: a hundred thousand characters of bait are no way in."""
    pattern = re.compile(COMMON[rule])
    baits = (
        "bearer " * 9,
        "a" * 40,
        "://a:",
        "eyJ",
        "-----BEGIN PRIVATE KEY-----",
        "token=",
        "sk-",
    )
    for bait in baits:
        # The limit of the test run stops what would be slow: quadratic is minutes here.
        pattern.sub("", bait * (200_000 // len(bait)))


def test_bytes_are_looked_into_only_if_that_is_asked_for() -> None:
    """X12. Bytes are content; a rule for them has to be switched on."""
    patterns = {"pin": r"pin-(?P<secret>\d+)"}
    assert Redactor(Redaction(patterns=patterns))(b"pin-123") == b"pin-123"
    redact = Redactor(Redaction(patterns=patterns, in_bytes=True))
    assert redact([b"\xff pin-123 \x00"]) == [b"\xff pin-[redacted:pin] \x00"]
    assert redact.content(b"pin-1") == b"pin-[redacted:pin]"
    data = b"nothing"
    assert redact.content(data) is data


def test_a_secret_is_shown_nowhere_and_stored_as_a_placeholder() -> None:
    """X12. A secret type; also without any rule."""
    secret = Secret("hunter2")
    shown = [repr(secret), str(secret), f"{secret:>40}", repr([secret]), repr({"a": secret})]
    assert "hunter2" not in "".join(shown)
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("hunter3") and secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1
    assert copy.deepcopy([secret])[0] is secret
    with pytest.raises(InvalidValueError):
        pickle.dumps(secret)
    assert codec.decode(codec.encode({"k": [secret]})) == {"k": ["[redacted:secret]"]}
    assert codec.decode(codec.encode(secret)) == "[redacted:secret]"
    redact = Redactor(Redaction(names=["password"]))
    assert redact({"a": secret, "password": secret}) == {
        "a": "[redacted:secret]",
        "password": "[redacted]",
    }
    assert redact.counts() == {"secret": 1, "password": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": "password"},
        {"environment": "HOME"},
        {"patterns": {"a b": "x"}},
        {"patterns": {"open": "("}},
        {"patterns": {"empty": "x*"}},
    ],
)
def test_rules_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    """X12. A rule that protects nothing must not look like one."""
    with pytest.raises(InvalidValueError):
        Redaction(**wrong)
    with pytest.raises(InvalidValueError):
        holdfast.open("sqlite:///:memory:", redact="password")
