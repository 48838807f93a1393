"""
The statements of both dialects, read from `.sql` files by name.

A statement begins with `-- name: word`; `rows` behind the word means that it takes a set of
rows. Parameters are `:word`. Both dialects hold the same names with the same parameters, so
that the drivers differ in how they bind, not in what they say. Comments before a statement
belong to it.

Invariants: names are unique within a dialect; a parameter list is in order of first use.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

_HEADING = re.compile(r"^-- name: (\w+)( rows)?$", re.MULTILINE)
_COMMENT = re.compile(r"--[^\n]*\n")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
_VALUES = re.compile(r"VALUES\s*(\([^()]*\))")
_AMONG = re.compile(r"IN \(SELECT value FROM carray\((:[a-z_]+)\)\)")


@dataclass(frozen=True)
class Statement:
    """
    One statement as its file holds it.

    Attributes:
        name: what the drivers call it.
        text: the SQL, without comments and without a closing semicolon.
        parameters: names of its parameters in order of first use.
        rows: whether it takes a set of rows.
    """

    name: str
    text: str
    parameters: tuple[str, ...]
    rows: bool

    @cached_property
    def of_one(self) -> str:
        """
        The text for an array of one, which is then bound as a plain value.

        To prepare and to run it costs half as much, and mostly there is one.
        """
        return _AMONG.sub(r"= \1", self.text)

    @cache  # noqa: B019 there are as many as a dialect has, each for a few counts
    def repeated(self, count: int) -> str:
        """
        Return the text for up to `count` rows, with `?` for each value.

        Rows whose first value is NULL are passed over, so that one prepared statement serves
        sets of many sizes.
        """
        values = _VALUES.search(self.text)
        if values is None:
            raise ValueError(f"{self.name} has no VALUES list")
        one = _PARAMETER.sub("?", "".join(values.group(1).split()))
        if count == 1:
            many = f"VALUES {one}"
        else:
            many = f"SELECT * FROM (VALUES {','.join([one] * count)}) WHERE column1 IS NOT NULL"
        return f"{self.text[: values.start()]}{many}{self.text[values.end() :]}"

    def numbered(self) -> str:
        """Return the text with psycopg's named placeholders."""
        return _PARAMETER.sub(r"%(\1)s", self.text.replace("%", "%%"))


@cache
def statements(dialect: str) -> dict[str, Statement]:
    """
    Return all statements of a dialect by name.

    Raises:
        ValueError: two statements share a name.
    """
    found: dict[str, Statement] = {}
    folder = files("holdfast.store.sql") / dialect
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        for statement in _parse(entry.read_text(encoding="utf-8")):
            if statement.name in found:
                raise ValueError(f"{dialect}: statement {statement.name} is there twice")
            found[statement.name] = statement
    return found


def split_script(script: str) -> list[str]:
    """
    Return the statements of a migration, one by one.

    A migration keeps each statement apart by a semicolon at a line's end followed by a blank
    line (or the end), so bodies of triggers and functions may hold semicolons.
    """
    pieces = re.split(r";\s*\n(?=\s*\n|\s*$)", _COMMENT.sub("", script) + "\n")
    return [piece.strip() for piece in pieces if piece.strip()]


def _parse(text: str) -> list[Statement]:
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    found: list[Statement] = []
    for heading, end in zip(headings, ends, strict=True):
        body = _COMMENT.sub("", text[heading.end() : end] + "\n").strip().rstrip(";")
        parameters = tuple(dict.fromkeys(_PARAMETER.findall(body)))
        found.append(Statement(heading.group(1), body, parameters, bool(heading.group(2))))
    return found
