"""
What the command line says, and where: data to stdout, all else to stderr.

Nothing that comes from a store or a file name is taken for markup, and control characters in
it never reach a terminal.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CELL_MAX: Final = 200


def notes() -> Console:
    """Return the console for progress and messages."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Say something to the person who runs the command."""
    notes().print(printable(text))


def printable(text: str) -> str:
    """Return text with control characters, lone surrogates and overrides made visible."""
    visible = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return visible.encode(errors="backslashreplace").decode()


def write_json(value: object) -> None:
    """Write a value as one line of JSON to stdout; bytes become base64, NaN becomes null."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def write_text(text: str) -> None:
    """Write text of Holdfast's own to stdout, as it is."""
    sys.stdout.write(text + "\n")


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table to stdout; whole and plain where nobody looks."""
    console = Console(markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=10_000)
    console.print(table)


def short_json(value: object) -> str:
    """Return a value as JSON, cut to the width of a cell."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _CELL_MAX else f"{text[:_CELL_MAX]}…"


def _cell(value: object) -> Text:
    return Text("" if value is None else printable(str(value)))
