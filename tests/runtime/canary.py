"""Looks for a text in everything a store keeps: files byte by byte, or every column of tables."""

from pathlib import Path


def traces(url: str, canary: str) -> list[str]:
    """Return the places of a store where a text stands, in whatever form databases keep it."""
    if url.startswith("sqlite:///"):
        return in_files(Path(url.removeprefix("sqlite:///")).parent, canary)
    return _in_tables(url, canary)


def in_files(folder: Path, canary: str) -> list[str]:
    """Return the files below a folder that hold a text, also in hexadecimal."""
    forms = (canary.encode(), canary.encode().hex().encode())
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(form in path.read_bytes() for form in forms)]


def _in_tables(url: str, canary: str) -> list[str]:
    import psycopg

    found: list[str] = []
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            # Bytes come in hexadecimal in the text form of a whole row.
            rows = connection.execute(f'SELECT t::text FROM "{schema}"."{table}" AS t').fetchall()
            forms = (canary, canary.encode().hex())
            if any(form in text for (text,) in rows for form in forms):
                found.append(f"{schema}.{table}")
    assert tables, "there is nothing to look at"
    return found
