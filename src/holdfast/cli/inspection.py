"""Commands that only look: verify, streams, events, info. The store is opened for reading."""

import re
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec

import holdfast
from holdfast import RecordedEvent
from holdfast.cli.output import printable, say, short_json, write_json, write_rows
from holdfast.cli.progress import shown
from holdfast.core import codec
from holdfast.core.errors import InvalidValueError, UncheckedError
from holdfast.core.exits import Exit
from holdfast.core.sealing import KeyMissingError
from holdfast.runtime.attachment import PAGE_EVENTS
from holdfast.runtime.history import History, StreamInfo
from holdfast.runtime.locked import Opened, verify_locked
from holdfast.runtime.runtime import Depth, Finding


async def verify(store: str, level: str, sample: str, *, as_json: bool) -> Exit:
    """Check as much as is asked for; name what is damaged."""
    depth = depth_of(level, sample)
    with shown("verify") as tell:
        tell(depth.level, 0)
        try:
            findings, opened = await _verified(store, depth)
        except UncheckedError as error:
            show_findings([Finding(w, n, r, s) for w, n, s, r in error.findings], as_json=as_json)
            raise
    software, durability = opened.software, opened.durability
    show_findings(findings, as_json=as_json)
    if findings:
        say(f"{len(findings)} damaged: {store_name(store)} ({software}, {durability})")
        return Exit.DAMAGED
    share = "" if depth.of == 1 else f", part {depth.part} of {depth.of}"
    say(f"all well: {store_name(store)} ({software}, {durability}{share})")
    return Exit.DONE


async def _verified(store: str, depth: Depth) -> tuple[Sequence[Finding], Opened]:
    """Check with the key, or what can be checked without one."""
    try:
        async with holdfast.open(store, read_only=True) as rt:
            return await rt.verify(depth), rt.opened
    except KeyMissingError:
        say("without the key: digests and chains are checked, not what is sealed")
        return await verify_locked(store, depth)


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Show damage; nothing if there is none."""
    if as_json:
        for finding in findings:
            write_json(msgspec.structs.asdict(finding))
    elif findings:
        columns = ("what", "name", "sequence", "reason")
        write_rows(columns, [(one.what, one.name, one.sequence, one.reason) for one in findings])


def depth_of(level: str, sample: str) -> Depth:
    """
    Return how much to read, from the words `quick|standard|full` and `5%` or `2/7`.

    Raises:
        InvalidValueError: they say nothing.
    """
    share = re.fullmatch(r"(\d+)/(\d+)|(\d+(?:\.\d+)?)%", sample or "1/1")
    if share is None:
        raise InvalidValueError(what="--sample", reason="is a share such as 5% or 2/7")
    part, of = int(share[1] or 0), int(share[2] or 0)
    if share[3] is not None:
        of = round(100 / float(share[3])) if float(share[3]) else 0
        part = 1 + secrets.randbelow(max(1, of))
    if not 1 <= part <= of:
        raise InvalidValueError(what="--sample", reason="is a share such as 5% or 2/7")
    try:
        return codec.convert({"level": level, "part": part, "of": of}, Depth)
    except msgspec.ValidationError as error:
        reason = "is quick, standard or full"
        raise InvalidValueError(what="--level", reason=reason) from error


async def list_streams(
    store: str, prefix: str, limit: int, after: str | None, *, as_json: bool
) -> Exit:
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
    return Exit.DONE


async def show_events(
    store: str, stream: str, after: int, limit: int | None, *, follow: bool, as_json: bool
) -> Exit:
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
    return Exit.DONE


async def show_info(store: str, *, as_json: bool) -> Exit:
    """Say what a store is."""
    async with holdfast.open(store, read_only=True) as rt:
        opened, lineage, paused = rt.opened, rt.lineage, rt.restored.paused
    found = {
        "store": store_name(store),
        "store_id": opened.store_id.hex(),
        "epoch": opened.epoch,
        "lineage": lineage,
        "paused": paused,
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
    return Exit.DONE


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
