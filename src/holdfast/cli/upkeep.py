"""
Commands that change a store or move what is in it: migrate, export, import.

Export and import ask a service, or open a store themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

import holdfast
from holdfast.cli.output import say, write_json, write_text
from holdfast.cli.where import Where, asked
from holdfast.core.errors import InvalidValueError
from holdfast.core.exits import Exit
from holdfast.runtime import transfer, transfer_file
from holdfast.runtime.schema import pending


async def migrate(store: str, *, dry_run: bool, as_json: bool) -> Exit:
    """Apply, or only print, the migrations that a store lacks."""
    steps = await pending(store)
    if as_json:
        for step in steps:
            write_json({"number": step.number, "name": step.name, "script": step.script})
    elif dry_run:
        for step in steps:
            write_text(f"-- {step.number:04d} {step.name}\n\n{step.script}")
    if not dry_run:
        async with holdfast.open(store):
            pass
    say(f"{len(steps)} migrations {'to apply' if dry_run else 'applied'}")
    return Exit.DONE


async def export_stream(store: str, stream: str, output: Path) -> Exit:
    """Write one stream into a file."""
    async with holdfast.open(store, read_only=True) as rt:
        header = await transfer.export_stream(rt, stream, output)
    say(f"{header.count} events of {stream} are in {output}")
    return Exit.DONE


async def export_run(where: Where, run_id: str, output: Path) -> Exit:
    """Write one run with its children into a file."""
    if where.url:
        async with asked(where, changes=False) as service:
            with transfer.writing(output) as file:
                await service.runs.export(run_id, file)
    else:
        async with holdfast.open(where.store, read_only=True) as rt:
            await rt.transfers.export_run(run_id, output)
    return _exported(f"run {run_id}", output)


async def export_session(where: Where, name: str, output: Path) -> Exit:
    """Write one session into a file."""
    kind, *key = _parts_of(name)
    if where.url:
        session_id = "/".join(quote(part, safe="") for part in (kind, *key))
        async with asked(where, changes=False) as service:
            with transfer.writing(output) as file:
                await service.sessions.export(session_id, file)
    else:
        async with holdfast.open(where.store, read_only=True) as rt:
            await rt.transfers.export_session(kind, tuple(key), output)
    return _exported(f"session {name}", output)


def _exported(name: str, output: Path) -> Exit:
    with output.open("rb") as file:
        cover = transfer_file.LineReader(file, output).cover()
    say(f"{name}: {_counted(cover.streams, cover.records, cover.blobs)} are in {output}")
    return Exit.DONE


def _parts_of(name: str) -> list[str]:
    """Return class and key of a session, written as CLASS/KEY/… or as a list in JSON."""
    try:
        parts = msgspec.json.decode(name, type=list[str]) if name[:1] == "[" else name.split("/")
    except msgspec.DecodeError:
        parts = []
    if len(parts) < 2:
        raise InvalidValueError(what="--session", reason="is CLASS/KEY, or a list of them in JSON")
    return parts


async def import_file(where: Where, file: Path) -> Exit:
    """Make what a file holds be there: a stream, a run, a session."""
    is_bundle = transfer_file.is_bundle(file)
    if where.url and not is_bundle:
        raise InvalidValueError(
            what=file.name, reason="is a stream; a service takes in runs and sessions only"
        )
    if where.url:
        return await _send_bundle(where, file)
    return await (_import_bundle if is_bundle else _import_stream)(where.store, file)


async def _send_bundle(where: Where, file: Path) -> Exit:
    async with asked(where, changes=True) as service:
        with file.open("rb") as bundle:
            done = await service.import_file(bundle)
    counted = _counted(done["streams"], done["records"], done["blobs"])
    return _arrived(f"{done['what']} {done['id']}", counted, done["resting"], done["present"])


async def _import_bundle(store: str, file: Path) -> Exit:
    with file.open("rb") as bundle:
        transfer_file.read_parts(bundle, file)
    async with holdfast.open(store) as rt:
        done = await rt.transfers.import_file(file)
    cover = done.cover
    counted = _counted(cover.streams, cover.records, cover.blobs)
    return _arrived(f"{cover.what} {'/'.join(cover.name)}", counted, done.resting, done.present)


def _arrived(name: str, counted: str, resting: Sequence[str], present: bool) -> Exit:
    if present:
        say(f"{name} was there already; nothing was imported")
        return Exit.DONE
    say(f"{name}: {counted} imported")
    for run_id in resting:
        say(f"run {run_id} was under way and is paused here; `holdfast run resume` lets it go on")
    return Exit.DONE


def _counted(streams: int, records: int, blobs: int) -> str:
    return f"{streams} streams, {records} records, {blobs} blobs"


async def _import_stream(store: str, file: Path) -> Exit:
    transfer.check_export(file)
    async with holdfast.open(store) as rt:
        done = await transfer.import_stream(rt, file)
    say(f"{done.appended} events appended to {done.stream}, {done.present} were there already")
    return Exit.DONE
