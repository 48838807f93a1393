"""Changing stored rows behind the back of a store, as decay does."""

from contextlib import closing
from typing import Any

import apsw


def execute(url: str, text: str) -> list[Any]:
    """Run SQL on a store from outside; its tables stand in braces."""
    if url.startswith("sqlite"):
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as db:
            return list(db.execute(text.format(record="record")))
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text.format(record="holdfast.record").encode())
        return cursor.fetchall() if cursor.description else []


def damage(url: str, kind: str, column: str = "value") -> None:
    """Damage all records of a kind."""
    execute(url, f"UPDATE {{record}} SET {column} = digest WHERE kind = '{kind}'")
