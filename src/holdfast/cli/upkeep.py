"""Commands that change a store or move a stream: migrate, export, import."""

from pathlib import Path

import holdfast
from holdfast.cli.exits import Ending
from holdfast.cli.output import say, write_json, write_text
from holdfast.runtime import transfer
from holdfast.runtime.schema import pending


async def migrate(store: str, *, dry_run: bool, as_json: bool) -> Ending:
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
    return Ending.DONE


async def export_stream(store: str, stream: str, output: Path) -> Ending:
    """Write one stream into a file."""
    async with holdfast.open(store, read_only=True) as rt:
        header = await transfer.export_stream(rt, stream, output)
    say(f"{header.count} events of {stream} are in {output}")
    return Ending.DONE


async def import_stream(store: str, file: Path) -> Ending:
    """Append an export to the stream of the same name."""
    transfer.check_export(file)
    async with holdfast.open(store) as rt:
        done = await transfer.import_stream(rt, file)
    say(f"{done.appended} events appended to {done.stream}, {done.present} were there already")
    return Ending.DONE
