"""
The house test: the rules of `tests/house`, applied to this repository.

A rule fails with `path:line: message` for each place that breaks it. An exception names rule,
path, a part of the message and the reason; one that is no longer needed fails as well.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house import RULES, Finding, Tree

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Allowed:
    """One place that may break a rule, and why."""

    rule: str
    path: str
    part: str
    reason: str

    def covers(self, rule: str, finding: Finding) -> bool:
        """Return whether this exception is about the finding."""
        return (rule, finding.path) == (self.rule, self.path) and self.part in finding.message


EXCEPTIONS = (
    Allowed(
        "core_imports_little",
        "src/holdfast/core/codec.py",
        "core imports zstandard",
        "compression turns bytes into bytes: no I/O, and part of what a stored value means",
    ),
    Allowed(
        "core_imports_little",
        "src/holdfast/core/codec.py",
        "core imports threading",
        "a lock around what msgspec learns of types, which threads share: no I/O, no thread made",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/sqlite/connection.py",
        "'PRAGMA ",
        "settings of a SQLite connection, made before any statement and unknown to PostgreSQL",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/sqlite/connection.py",
        "'SELECT CAST(type AS BLOB)",
        "SQLite's own catalogue; PostgreSQL has no counterpart to keep in step",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/sqlite/connection.py",
        "'WITH found (",
        "wraps any named query to read text that is damaged; SQLite alone stores such text",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/sqlite/check.py",
        "'PRAGMA ",
        "SQLite's own check of its file; PostgreSQL has no counterpart to keep in step",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/sql/__init__.py",
        "'SELECT * FROM (VALUES'",
        "repeats the VALUES list of a statement that is in its file",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/postgres/connection.py",
        "'CREATE SCHEMA",
        "the schema's name is an identifier, which no parameter can stand for",
    ),
    Allowed(
        "sql_lives_in_sql_files",
        "src/holdfast/store/postgres/driver.py",
        "'LISTEN ",
        "the channel's name is an identifier, which no parameter can stand for",
    ),
    Allowed(
        "dialects_agree",
        "src/holdfast/store/sql/sqlite/event.sql",
        "append_events: parameters",
        "PostgreSQL takes events by COPY, whose columns are the parameters",
    ),
    Allowed(
        "dialects_agree",
        "src/holdfast/store/sql/sqlite/protocol.sql",
        "is missing",
        "how transactions side by side keep out of each other's way; SQLite has one at a time",
    ),
    Allowed(
        "functions_are_short",
        "src/holdfast/runtime/opening.py",
        "open has 10 parameters",
        "the one call every program makes; each word of it is a keyword, the limits are in Options",
    ),
    Allowed(
        "public_names_use_our_words",
        "src/holdfast/__init__.py",
        "AtVersion",
        "the version of a record is a word of the design; the list bans it for sequences",
    ),
    Allowed(
        "public_names_use_our_words",
        "src/holdfast/__init__.py",
        "Blob",
        "blobs are what units write; an artifact is a named one, which comes with runs",
    ),
)


@pytest.fixture(scope="module")
def findings() -> dict[str, list[Finding]]:
    """What each rule finds in this repository."""
    tree = Tree(ROOT)
    return {name: sorted(rule(tree)) for name, rule in RULES.items()}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_rule_holds(rule: str, findings: dict[str, list[Finding]]) -> None:
    broken = [
        str(finding)
        for finding in findings[rule]
        if not any(allowed.covers(rule, finding) for allowed in EXCEPTIONS)
    ]
    if broken:
        pytest.fail("\n".join([str(RULES[rule].__doc__), *broken]), pytrace=False)


@pytest.mark.parametrize("allowed", EXCEPTIONS, ids=lambda one: f"{one.rule}-{one.path}")
def test_an_exception_is_still_needed(allowed: Allowed, findings: dict[str, list[Finding]]) -> None:
    assert allowed.reason
    if not any(allowed.covers(allowed.rule, one) for one in findings.get(allowed.rule, [])):
        pytest.fail(f"remove this exception, nothing needs it: {allowed}", pytrace=False)
