"""Commands that only look: verify, streams, events, info. The store is opened for reading."""

import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

import holdfast
from holdfast import RecordedEvent
from holdfast.cli.exits import Ending
from holdfast.cli.output import printable, say, short_json, write_json, write_rows
from holdfast.runtime.history import PAGE_EVENTS, History, StreamInfo


async def verify(store: str, *, as_json: bool) -> Ending:
    """Check everything; name what is damaged."""
    async with holdfast.open(store, read_only=True) as rt:
        findings = await rt.verify()
        software, durability = rt.opened.software, rt.opened.durability
    if as_json:
        for finding in findings:
            write_json(msgspec.structs.asdict(finding))
    elif findings:
        columns = ("what", "name", "sequence", "reason")
        write_rows(columns, [(one.what, one.name, one.sequence, one.reason) for one in findings])
    if findings:
        say(f"{len(findings)} damaged: {store_name(store)} ({software}, {durability})")
        return Ending.BROKEN
    say(f"all well: {store_name(store)} ({software}, {durability})")
    return Ending.DONE


async def list_streams(
    store: str, prefix: str, limit: int, after: str | None, *, as_json: bool
) -> Ending:
    """List streams."""
    async with holdfast.open(store, read_only=True) as rt:
        found = await rt.streams(prefix, after=after, limit=limit)
    if as_json:
        for stream in found:
            write_json(_described(stream))
    else:
        rows = [(one.name, one.first_sequence, one.last_sequence, _state(one)) for one in found]
        write_rows(("stream", "first", "last", "state"), rows)
    if len(found) == limit:
        say(f"there may be more; go on with --after {found[-1].name!r}")
    return Ending.DONE


async def show_events(
    store: str, stream: str, after: int, limit: int | None, *, follow: bool, as_json: bool
) -> Ending:
    """Show the events of a stream, and wait for more if asked to."""
    async with holdfast.open(store, read_only=True) as rt:
        history = rt.history(stream)
        if not follow:
            await history.info()
        left = limit
        async for event in history.follow(after) if follow else _read(history, after):
            _show(event, as_json=as_json)
            if left is not None and (left := left - 1) == 0:
                break
    return Ending.DONE


async def show_info(store: str, *, as_json: bool) -> Ending:
    """Say what a store is."""
    async with holdfast.open(store, read_only=True) as rt:
        opened = rt.opened
    found = {
        "store": store_name(store),
        "store_id": opened.store_id.hex(),
        "epoch": opened.epoch,
        "schema": opened.schema,
        "transactions": opened.number,
        "durability": opened.durability,
        "software": opened.software,
        "notes": "; ".join(opened.notes),
    }
    if as_json:
        write_json(found)
    else:
        write_rows(
            ("", ""), [(name, short_json(value).strip('"')) for name, value in found.items()]
        )
    return Ending.DONE


def store_name(store: str) -> str:
    """Return a store's URL as it may be shown: without a password."""
    scheme, _, rest = re.sub("password=[^&]*", "password=", store).partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{place}"


async def _read(history: History, after: int) -> AsyncIterator[RecordedEvent]:
    while page := await history.read(after, PAGE_EVENTS):
        for event in page:
            yield event
            after = event.sequence


def _show(event: RecordedEvent, *, as_json: bool) -> None:
    moment = datetime.fromtimestamp(event.recorded_at, UTC).isoformat(timespec="milliseconds")
    if not as_json:
        line = f"{event.sequence:>8}  {moment}  {event.type}  {short_json(event.data)}"
        sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
        return
    write_json(
        {
            "stream": event.stream,
            "sequence": event.sequence,
            "position": event.position,
            "type": event.type,
            "recorded_at": moment,
            "data": event.data,
            "meta": event.metadata,
            "digest": event.digest.hex(),
        }
    )


def _described(stream: StreamInfo) -> dict[str, object]:
    return {
        "stream": stream.name,
        "first_sequence": stream.first_sequence,
        "last_sequence": stream.last_sequence,
        "closed": stream.closed,
        "damaged_at": stream.damaged_at,
        "last_digest": stream.last_digest.hex(),
    }


def _state(stream: StreamInfo) -> str:
    if stream.damaged_at is not None:
        return f"damaged at {stream.damaged_at}"
    return "closed" if stream.closed else "open"
