"""Commands that look after a store from the outside: `doctor`, `gc`, `query`."""

import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

import holdfast
from holdfast.cli.exits import finish_async
from holdfast.cli.inspection import store_name
from holdfast.cli.output import say, short_json, write_json, write_rows
from holdfast.cli.words import Json, Store
from holdfast.core.errors import InvalidValueError
from holdfast.core.exits import Exit
from holdfast.runtime import backup as backups
from holdfast.runtime import doctor as doctors
from holdfast.runtime import query as queries

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_RUNS_AT_ONCE = 1_000


def doctor(
    store: Store,
    folder: Annotated[
        Path | None, typer.Option("--backups", file_okay=False, help="Folder of the backups.")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure what a sync costs.")] = False,
    as_json: Json = False,
) -> None:
    """
    Say what may go wrong with a store; fast, changes nothing. Ends with 9 if something is wrong.

    \b
    Example:
      holdfast doctor --store sqlite:///agent.db --backups backups --probe
    """
    finish_async(_doctor(store, folder, probe=probe, as_json=as_json), check=True)


def gc(
    store: Store,
    older: Annotated[
        str, typer.Option("--runs-older", help="Runs that ended so long ago: 90m, 12h, 30d.")
    ] = "",
    keep: Annotated[
        int | None, typer.Option("--runs-kept", min=0, help="Keep so many that ended last.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--backups", file_okay=False, help="Remove unfinished ones here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """
    Remove runs that ended, with their journals and bytes nobody else names, and leftovers.

    \b
    Example:
      holdfast gc --store sqlite:///agent.db --runs-older 30d --dry-run
    """
    finish_async(_gc(store, older, keep, folder, dry_run=dry_run))


def query(
    text: Annotated[str, typer.Argument(help="One statement that reads, in the store's own SQL.")],
    store: Store,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Rows at most.")] = queries.LIMIT,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds at most.")] = queries.SECONDS,
    as_json: Json = False,
) -> None:
    """
    Ask a store in SQL; nothing can be changed, and time and rows are limited.

    \b
    Example:
      holdfast query "SELECT type, COUNT(*) FROM event GROUP BY type" --store sqlite:///agent.db
    """
    finish_async(_query(store, text, limit, timeout, as_json=as_json))


async def _doctor(store: str, folder: Path | None, *, probe: bool, as_json: bool) -> Exit:
    found = await doctors.examine(store, backups=folder, probe=probe)
    if as_json:
        for one in found:
            write_json(msgspec.structs.asdict(one))
    elif found:
        columns = ("severity", "id", "evidence", "consequence", "remedy")
        write_rows(
            columns,
            [(one.severity, one.id, one.evidence, one.consequence, one.remedy) for one in found],
        )
    wrong = sum(one.severity == "error" for one in found)
    say(f"{store_name(store)}: {len(found)} findings, {wrong} of them errors")
    return Exit.DAMAGED if wrong else Exit.DONE


async def _gc(
    store: str, older: str, keep: int | None, folder: Path | None, *, dry_run: bool
) -> Exit:
    count, seconds = 0, _seconds(older)
    if seconds is not None or keep is not None:
        async with holdfast.open(store, read_only=dry_run) as rt:
            while some := await rt.runs.retain(
                seconds, newest=keep, limit=_RUNS_AT_ONCE, dry_run=dry_run
            ):
                count += some
                if dry_run or some < _RUNS_AT_ONCE:
                    break
    say(f"{count} runs {'would be removed' if dry_run else 'removed'}")
    if folder is not None and not dry_run:
        left = backups.remove_unfinished(folder)
        say(f"{len(left)} unfinished backups removed")
    return Exit.DONE


async def _query(store: str, text: str, limit: int, seconds: float, *, as_json: bool) -> Exit:
    answer = await queries.query(store, text, limit=limit, seconds=seconds)
    if as_json:
        for row in answer.rows:
            write_json(dict(zip(answer.columns, row, strict=True)))
    else:
        write_rows(answer.columns, [list(map(_cell, row)) for row in answer.rows])
    if answer.more:
        say(f"there are more rows; --limit was {limit}")
    return Exit.DONE


def _cell(value: object) -> str:
    return value if isinstance(value, str) else short_json(value)


def _seconds(words: str) -> float | None:
    if not words:
        return None
    found = re.fullmatch(r"(\d+)([smhd])", words)
    if found is None:
        raise InvalidValueError(what="--runs-older", reason="is a time such as 90m, 12h or 30d")
    return int(found[1]) * _UNITS[found[2]]
