"""Rules about the store's SQL: two dialects that say the same, migrations in order."""

import re

from tests.house.tree import PACKAGE, Finding, Findings, Tree, missing

DIALECTS = ("sqlite", "postgres")
HEADING = re.compile(r"^-- name: (\w+)(?: rows)?$")
HEADING_LIKE = re.compile(r"^\s*--\s*name\b", re.IGNORECASE)
PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
MIGRATION = re.compile(r"(\d{4})_[a-z0-9]+(?:_[a-z0-9]+)*\.sql")


def _statements(path: str, text: str) -> tuple[dict[str, tuple[int, set[str]]], list[Finding]]:
    """Return line and parameters of each statement of a .sql file, and malformed headings."""
    found: dict[str, tuple[int, set[str]]] = {}
    wrong: list[Finding] = []
    parameters: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if heading := HEADING.match(line):
            parameters = set()
            if heading[1] in found:
                wrong.append(Finding(path, number, f"statement {heading[1]} is there twice"))
            found[heading[1]] = number, parameters
        elif HEADING_LIKE.match(line):
            wrong.append(Finding(path, number, "is no heading; write `-- name: word`"))
        else:
            parameters.update(PARAMETER.findall(line.partition("--")[0]))
    return found, wrong


def dialects_agree(tree: Tree) -> Findings:
    """Hold both dialects to the same files, statements and parameters."""
    folders = [f"{PACKAGE}/store/sql/{dialect}" for dialect in DIALECTS]
    yield from (missing(folder) for folder in folders if not (tree.root / folder).is_dir())
    for name in sorted({p.name for f in folders for p in (tree.root / f).glob("*.sql")}):
        sides = []
        for path in (f"{folder}/{name}" for folder in folders):
            text = tree.text(path)
            if text is None:
                yield missing(path)
                continue
            found, wrong = _statements(path, text)
            yield from wrong
            sides.append((path, found))
        if len(sides) == len(DIALECTS):
            yield from _differences(*sides[0], *sides[1])


def _differences(
    left_path: str,
    left: dict[str, tuple[int, set[str]]],
    right_path: str,
    right: dict[str, tuple[int, set[str]]],
) -> Findings:
    for path, here, other_path, there in (
        (left_path, left, right_path, right),
        (right_path, right, left_path, left),
    ):
        for name, (line, parameters) in here.items():
            if name not in there:
                yield Finding(path, line, f"statement {name} is missing in {other_path}")
            elif more := sorted(parameters - there[name][1]):
                yield Finding(path, line, f"{name}: parameters {more} are not in {other_path}")


def migrations_are_numbered(tree: Tree) -> Findings:
    """Number migrations 1, 2, 3 with the same names in both dialects."""
    names: list[set[str]] = []
    for dialect in DIALECTS:
        folder = f"{PACKAGE}/store/migrations/{dialect}"
        found = sorted(path.name for path in (tree.root / folder).glob("*"))
        found = [name for name in found if not name.startswith("__")]
        if not found:
            yield missing(f"{folder}/0001_*.sql")
        for number, name in enumerate(found, 1):
            match = MIGRATION.fullmatch(name)
            if match is None:
                yield Finding(f"{folder}/{name}", 1, "is not named NNNN_what_it_does.sql")
            elif int(match[1]) != number:
                yield Finding(f"{folder}/{name}", 1, f"has a gap or twin before it, not {number}")
        names.append(set(found))
    for dialect, here, there in zip(DIALECTS, names, reversed(names), strict=True):
        for name in sorted(here - there):
            path = f"{PACKAGE}/store/migrations/{dialect}/{name}"
            yield Finding(path, 1, "is missing in the other dialect")
