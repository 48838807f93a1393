"""
The house rules, broken on purpose.

A small tree keeps every rule. Each case changes it in one way, and the rule has to say where:
a guard that never barks guards nothing.
"""

from pathlib import Path

import pytest

from tests.house import RULES, Tree

P = "src/holdfast"
ERRORS = '''"""Errors."""


class HoldfastError(Exception):
    """Root."""

    code = "holdfast"
    status = 500


class LostError(HoldfastError):
    """Something was lost."""

    code = "lost"
'''
GOOD = {
    f"{P}/__init__.py": (
        '"""The surface."""\n\nfrom holdfast.core.errors import LostError\n\n'
        '__all__ = ["LostError"]\n'
    ),
    f"{P}/core/__init__.py": '"""Rules."""\n',
    f"{P}/core/errors.py": ERRORS,
    f"{P}/core/clock.py": '"""Time."""\n\nimport time\n\nNOW = time.time\n',
    f"{P}/core/failpoint.py": (
        '"""Points."""\n\nfrom holdfast.core import clock\n\nPOINTS = ("a.b",)\nNOW = clock.NOW\n'
    ),
    f"{P}/runtime/__init__.py": '"""Services."""\n',
    f"{P}/runtime/runtime.py": (
        '"""The composition root."""\n\n'
        "from holdfast.core import failpoint\nfrom holdfast.runtime import service\n"
        "from holdfast.store.sqlite import driver\n\nUSED = failpoint, service, driver\n"
    ),
    f"{P}/runtime/service.py": '"""The loop."""\n\nimport asyncio\n\nPAUSE = asyncio.sleep\n',
    f"{P}/store/__init__.py": '"""Where things are kept."""\n',
    f"{P}/store/sqlite/__init__.py": '"""A driver."""\n',
    f"{P}/store/sqlite/driver.py": '"""A driver."""\n',
    f"{P}/store/sql/sqlite/lease.sql": "-- name: find\nSELECT 1 WHERE :key = :key; -- :not_one\n",
    f"{P}/store/sql/postgres/lease.sql": "-- name: find rows\nSELECT 1 WHERE :key::text = :key;\n",
    f"{P}/store/migrations/sqlite/0001_start.sql": "",
    f"{P}/store/migrations/postgres/0001_start.sql": "",
    f"{P}/blocking.py": '"""A portal."""\n\nfrom holdfast.runtime import runtime\n\nA = runtime\n',
    f"{P}/cli/__init__.py": '"""The command."""\n\nprint("fine here")\n',
    f"{P}/testing/__init__.py": '"""The kit."""\n\nLOOK = "SELECT 1 FROM event"\n',
    "docs/errors.md": "- `holdfast`: root\n- `lost`: something was lost\n",
    "tests/test_points.py": '"""Tests."""\n\nPOINT = "a.b"\nNO_SQL = "SELECT 1"\n',
}

SERVICE = f"{P}/runtime/service.py"
RUNTIME = f"{P}/runtime/runtime.py"
SURFACE = f"{P}/__init__.py"
SQLITE = f"{P}/store/sql/sqlite"
MIGRATIONS = f"{P}/store/migrations"

# Rule, file that changes, its new text or what is put behind it, or None where it goes, and
# the beginning of what the rule has to say.
CASES = [
    ("files_are_short", SERVICE, "x = 1\n" * 500, f"{SERVICE}:505: file has 505 lines"),
    (
        "functions_are_short",
        SERVICE,
        "def go():\n    '''A\n    docstring.'''\n" + "    x = 1\n" * 60,
        f"{SERVICE}:6: go has 61 lines",
    ),
    (
        "functions_are_short",
        SERVICE,
        "async def go(a, b, c, d, e, f, /, g, *, h, **i): ...\n",
        f"{SERVICE}:6: go has 9 parameters",
    ),
    (
        "classes_are_small",
        SERVICE,
        "class A:\n" + "".join(f"    def f{n}(self): ...\n" for n in range(21)),
        f"{SERVICE}:6: A has 21 public methods",
    ),
    ("modules_are_nouns", f"{P}/runtime/_utils.py", '"""All."""\n', f"{P}/runtime/_utils.py:1: "),
    ("modules_are_nouns", f"{P}/common/unit.py", '"""All."""\n', f"{P}/common/unit.py:1: 'common'"),
    ("modules_have_docstrings", "bench/append.py", "x = 1\n", "bench/append.py:1: has no"),
    (
        "modules_have_docstrings",
        f"{P}/http/app.py",
        '"""App."""\n',
        f"{P}/http/__init__.py:1: is missing",
    ),
    ("the_clock_is_read_in_one_place", RUNTIME, "a = time.monotonic()\n", f"{RUNTIME}:8: reads"),
    ("the_clock_is_read_in_one_place", RUNTIME, "from time import time_ns\n", f"{RUNTIME}:8: imp"),
    ("the_clock_is_read_in_one_place", RUNTIME, "datetime.datetime.now(utc)\n", f"{RUNTIME}:8: re"),
    ("types_are_learned_by_one_thread", RUNTIME, "msgspec.convert(a, B)\n", f"{RUNTIME}:8: calls"),
    (
        "types_are_learned_by_one_thread",
        RUNTIME,
        "msgspec.json.decode(a, type=B)\n",
        f"{RUNTIME}:8: msgspec.json.decode of a type",
    ),
    ("one_loop_sleeps", RUNTIME, "asyncio.sleep(1)\n", f"{RUNTIME}:8: uses asyncio.sleep"),
    ("one_loop_sleeps", RUNTIME, "group.create_task(go())\n", f"{RUNTIME}:8: uses group.create_"),
    ("one_loop_sleeps", RUNTIME, "from asyncio import sleep\n", f"{RUNTIME}:8: imports"),
    ("sql_lives_in_sql_files", RUNTIME, 'a = "SELECT 1"\n', f"{RUNTIME}:8: SQL outside"),
    ("sql_lives_in_sql_files", RUNTIME, 'a = f"""\n  PRAGMA {b}"""\n', f"{RUNTIME}:8: SQL outside"),
    ("sql_lives_in_sql_files", RUNTIME, "a = 'delete from b'\n", f"{RUNTIME}:8: SQL outside"),
    ("nothing_prints", RUNTIME, "print(1)\n", f"{RUNTIME}:8: prints"),
    ("nothing_asserts", RUNTIME, "assert 1\n", f"{RUNTIME}:8: asserts"),
    ("core_imports_little", f"{P}/core/errors.py", "import time\n", f"{P}/core/errors.py:15: core"),
    ("core_imports_little", f"{P}/core/clock.py", "import apsw\n", f"{P}/core/clock.py:6: core"),
    (
        "only_the_runtime_names_a_driver",
        f"{P}/cli/__init__.py",
        "from holdfast.store import sqlite\n",
        f"{P}/cli/__init__.py:4: imports the driver",
    ),
    (
        "only_the_runtime_names_a_driver",
        f"{P}/store/sqlite/driver.py",
        "A = 'holdfast.store.postgres'\n",
        f"{P}/store/sqlite/driver.py:2: imports the driver holdfast.store.postgres",
    ),
    (
        "dialects_agree",
        f"{SQLITE}/lease.sql",
        "-- name: more\n",
        f"{SQLITE}/lease.sql:3: statement",
    ),
    (
        "dialects_agree",
        f"{SQLITE}/lease.sql",
        "-- name: find\n",
        f"{SQLITE}/lease.sql:3: statement",
    ),
    ("dialects_agree", f"{SQLITE}/lease.sql", "AND :other\n", f"{SQLITE}/lease.sql:1: find: para"),
    (
        "dialects_agree",
        f"{SQLITE}/lease.sql",
        "--name: a\n",
        f"{SQLITE}/lease.sql:3: is no heading",
    ),
    ("dialects_agree", f"{SQLITE}/lease.sql", None, f"{SQLITE}:1: is missing"),
    ("dialects_agree", f"{SQLITE}/run.sql", "", f"{P}/store/sql/postgres/run.sql:1: is missing"),
    ("migrations_are_numbered", f"{MIGRATIONS}/sqlite/0003_a.sql", "", f"{MIGRATIONS}/sqlite/0003"),
    ("migrations_are_numbered", f"{MIGRATIONS}/sqlite/0002_a.sql", "", f"{MIGRATIONS}/sqlite/0002"),
    ("migrations_are_numbered", f"{MIGRATIONS}/sqlite/2.sql", "", f"{MIGRATIONS}/sqlite/2.sql:1"),
    (
        "migrations_are_numbered",
        f"{MIGRATIONS}/sqlite/0001_start.sql",
        None,
        f"{MIGRATIONS}/sqlite",
    ),
    ("public_names_are_listed", SURFACE, "def open(): ...\n", f"{SURFACE}:6: open is not in"),
    ("public_names_are_listed", SURFACE, None, f"{SURFACE}:1: is missing"),
    ("public_names_use_our_words", SURFACE, None, f"{SURFACE}:1: is missing"),
    ("errors_are_documented", f"{P}/core/errors.py", None, f"{P}/core/errors.py:1: is missing"),
    ("errors_are_documented", "docs/errors.md", None, "docs/errors.md:1: is missing"),
    (
        "errors_are_documented",
        f"{P}/core/errors.py",
        "class GoneError(LostError):\n    '''Gone.'''\n",
        f"{P}/core/errors.py:15: GoneError has no code of its own",
    ),
    (
        "errors_are_documented",
        f"{P}/core/errors.py",
        "class GoneError(LostError):\n    '''Gone.'''\n    code = 'lost'\n",
        f"{P}/core/errors.py:15: GoneError: the code 'lost' is taken",
    ),
    (
        "errors_are_documented",
        f"{P}/core/errors.py",
        "class GoneError(LostError):\n    '''Gone.'''\n    code = 'gone'\n",
        f"{P}/core/errors.py:15: GoneError: docs/errors.md has no line",
    ),
    (
        "errors_are_documented",
        f"{P}/core/refusal.py",
        "class GoneError(LostError):\n    '''Gone.'''\n    code = 'gone'\n",
        f"{P}/core/refusal.py:1: GoneError: docs/errors.md has no line",
    ),
    (
        "failpoints_are_exercised",
        f"{P}/core/failpoint.py",
        None,
        f"{P}/core/failpoint.py:1: is mis",
    ),
    ("failpoints_are_exercised", "tests/test_points.py", None, f"{P}/core/failpoint.py:5: crash"),
    ("modules_are_used", f"{P}/runtime/flush.py", '"""Idle."""\n', f"{P}/runtime/flush.py:1: not"),
]

# Rule, file, a piece of its text, what stands there instead, what the rule has to say.
SWAPS = [
    (
        "public_names_are_listed",
        SURFACE,
        '["LostError"]',
        '["Gone", "LostError"]',
        f"{SURFACE}:1: __all__ names Gone",
    ),
    (
        "public_names_are_listed",
        SURFACE,
        '["LostError"]',
        '["z", "a"]',
        f"{SURFACE}:5: __all__ is not sorted",
    ),
    (
        "public_names_are_listed",
        f"{P}/core/errors.py",
        '    """Something was lost."""\n',
        "",
        f"{SURFACE}:1: LostError has no docstring",
    ),
    (
        "public_names_use_our_words",
        SURFACE,
        '["LostError"]',
        '["JobLostError"]',
        f"{SURFACE}:5: JobLostError: we do not say 'job'",
    ),
    (
        "errors_are_documented",
        f"{P}/core/errors.py",
        "500",
        "200",
        f"{P}/core/errors.py:4: HoldfastError has no HTTP status",
    ),
    (
        "failpoints_are_exercised",
        f"{P}/core/failpoint.py",
        "POINTS",
        "NAMES",
        f"{P}/core/failpoint.py:1: has no list POINTS",
    ),
]


def planted(root: Path, files: dict[str, str]) -> Tree:
    """Write files below a folder and return them as a tree."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


def found(rule: str, tree: Tree) -> list[str]:
    """Return what a rule says about a tree."""
    return [str(finding) for finding in RULES[rule](tree)]


@pytest.mark.parametrize("rule", RULES)
def test_a_good_tree_keeps_the_rule(rule: str, tmp_path: Path) -> None:
    assert found(rule, planted(tmp_path, GOOD)) == []


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_tree_is_judged_without_a_crash(rule: str, tmp_path: Path) -> None:
    found(rule, Tree(tmp_path))


@pytest.mark.parametrize(("rule", "path", "more", "said"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_says_what_breaks_it(
    rule: str, path: str, more: str | None, said: str, tmp_path: Path
) -> None:
    files = dict(GOOD)
    text = files.pop(path, "")
    tree = planted(tmp_path, files if more is None else files | {path: text + more})
    assert [line[: len(said)] for line in found(rule, tree)][:1] == [said]


@pytest.mark.parametrize(
    ("rule", "path", "old", "new", "said"), SWAPS, ids=[case[0] for case in SWAPS]
)
def test_a_rule_says_what_is_wrong_in_place(
    rule: str, path: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    tree = planted(tmp_path, GOOD | {path: GOOD[path].replace(old, new)})
    assert [line[: len(said)] for line in found(rule, tree)][:1] == [said]


def test_every_rule_is_broken_by_some_case() -> None:
    assert {case[0] for case in [*CASES, *SWAPS]} == set(RULES)
