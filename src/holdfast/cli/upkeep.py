"""Commands that change a store or move what is in it: migrate, export, import."""

from pathlib import Path

import msgspec

import holdfast
from holdfast.cli.output import say, write_json, write_text
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


async def export_run(store: str, run_id: str, output: Path) -> Exit:
    """Write one run with its children into a file."""
    async with holdfast.open(store, read_only=True) as rt:
        cover = await rt.transfers.export_run(run_id, output)
    say(f"run {run_id}: {_counted(cover)} are in {output}")
    return Exit.DONE


async def export_session(store: str, name: str, output: Path) -> Exit:
    """Write one session into a file."""
    kind, *key = _parts_of(name)
    async with holdfast.open(store, read_only=True) as rt:
        cover = await rt.transfers.export_session(kind, tuple(key), output)
    say(f"session {name}: {_counted(cover)} are in {output}")
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


async def import_file(store: str, file: Path) -> Exit:
    """Make what a file holds be there: a stream, a run, a session."""
    if transfer_file.is_bundle(file):
        return await _import_bundle(store, file)
    return await _import_stream(store, file)


async def _import_bundle(store: str, file: Path) -> Exit:
    transfer_file.read_parts(file)
    async with holdfast.open(store) as rt:
        done = await rt.transfers.import_file(file)
    name = f"{done.cover.what} {'/'.join(done.cover.name)}"
    if done.present:
        say(f"{name} was there already; nothing was imported")
        return Exit.DONE
    say(f"{name}: {_counted(done.cover)} imported")
    for run_id in done.resting:
        say(f"run {run_id} was under way and is paused here; `rt.runs.resume` lets it go on")
    return Exit.DONE


def _counted(cover: transfer_file.Cover) -> str:
    return f"{cover.streams} streams, {cover.records} records, {cover.blobs} blobs"


async def _import_stream(store: str, file: Path) -> Exit:
    transfer.check_export(file)
    async with holdfast.open(store) as rt:
        done = await transfer.import_stream(rt, file)
    say(f"{done.appended} events appended to {done.stream}, {done.present} were there already")
    return Exit.DONE
