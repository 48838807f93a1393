"""Streams: what a reader is told, and from where on it reads."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from holdfast import Event
from holdfast.core.denial import UnauthorizedError
from holdfast.core.errors import DamagedError
from holdfast.core.unit import TrimStream, Unit
from holdfast.http import access, events, frames
from holdfast.http.frames import SSE, Asked, Frames, check_order
from holdfast.http.stream import PAGE_BYTES, PAGE_FIRST, PAGE_MOST
from holdfast.runtime.attachment import Attachment, Page
from tests.http.served import Served, serving
from tests.http.wire import Wire

PATH = "/v1/runs/r/events"
NDJSON = "application/x-ndjson"


def numbers(first: int, last: int) -> list[str]:
    """Return ids."""
    return [f"1.{number}" for number in range(first, last + 1)]


@serving()
async def test_a_reader_is_told_where_it_begins_and_where_it_ends(served: Served) -> None:
    """A4, A5. First that it is open, then every event, then that it caught up, then the end."""
    last = await served.counted(40)
    async with Wire(served.app, PATH) as wire:
        await wire.end()
    frames = wire.frames()
    assert frames[0]["retry"] and frames[0]["event"] == "stream.open"
    opened = frames[0]["data"]
    assert (opened["after"], opened["earliest"], opened["head"]) == ("1.0", "1.1", f"1.{last}")
    assert [one.get("id") for one in frames[1:-1]] == numbers(1, last)
    assert frames[-1]["event"] == "stream.end"
    assert wire.headers["content-type"].startswith("text/event-stream")
    assert "no-transform" in wire.headers["cache-control"]
    assert wire.headers["x-accel-buffering"] == "no"
    assert "content-length" not in wire.headers


@serving()
async def test_the_header_counts_before_the_address(served: Served) -> None:
    """A4. A browser that comes again sends the old address with a fresh header."""
    last = await served.counted(20)
    async with Wire(served.app, PATH + "?after=1.2", last_event_id="1.10") as wire:
        await wire.end()
    assert wire.ids() == numbers(11, last)
    async with Wire(served.app, PATH + "?after=1.2") as wire:
        await wire.end()
    assert wire.ids() == numbers(3, last)


@serving()
async def test_a_browser_that_has_everything_is_told_to_stop(served: Served) -> None:
    """A5. 204 behind the last event; with the event before it, the last one comes again."""
    last = await served.counted(3)
    async with Wire(served.app, PATH, last_event_id=f"1.{last}") as wire:
        await wire.end()
    assert wire.status == 204
    async with Wire(served.app, PATH, last_event_id=f"1.{last - 1}") as wire:
        await wire.end()
    assert (wire.status, wire.ids()) == (200, [f"1.{last}"])


@pytest.mark.parametrize(
    ("cursor", "reason"), [("7.3", "another lineage"), ("1.5000", "beyond the end")]
)
@serving()
async def test_a_reader_from_elsewhere_is_told_that_it_begins_anew(
    served: Served, cursor: str, reason: str
) -> None:
    """A4, 2.11. In the stream as a frame, for a page of JSON as 410; never a wait for ever."""
    last = await served.counted(5)
    async with Wire(served.app, PATH, last_event_id=cursor) as wire:
        await wire.end()
    [reset] = wire.named("stream.reset")
    assert reason in reset["data"]["reason"] and reset["data"]["earliest"] == "1.1"
    assert wire.ids() == numbers(1, last)
    async with Wire(served.app, PATH, accept=NDJSON, last_event_id=cursor) as wire:
        await wire.end()
    assert '"control":"stream.reset"' in wire.text
    async with Wire(served.app, f"{PATH}?after={cursor}", accept="application/json") as wire:
        await wire.end()
    assert wire.status == 410 and json.loads(wire.text)["code"] == "cursor_reset"


@serving()
async def test_a_reader_whom_retention_overtook_is_told(served: Served) -> None:
    """A4, 2.11. Behind what was removed it goes on with what is there, and says so."""
    last = await served.counted(20)
    await served.rt._store.commit(Unit((TrimStream("run/r", 8),)))
    async with Wire(served.app, PATH, last_event_id="1.3") as wire:
        await wire.end()
    [reset] = wire.named("stream.reset")
    assert reset["data"]["earliest"] == "1.8"
    assert wire.ids() == numbers(8, last)
    async with Wire(served.app, PATH) as wire:
        await wire.end()
    assert wire.ids() == numbers(8, last)
    assert not wire.named("stream.reset")


@serving()
async def test_what_a_filter_leaves_out_moves_the_cursor(served: Served) -> None:
    """2.8. An id alone for a browser, a line for a program; no event for either."""
    last = await served.counted(10)
    async with Wire(served.app, PATH + "?types=run.started") as wire:
        await wire.end()
    assert wire.ids() == ["1.1"]
    assert f"\nid: 1.{last}\n\n" in wire.text
    async with Wire(served.app, PATH + "?types=run.started", accept=NDJSON) as wire:
        await wire.end()
    lines = [json.loads(line) for line in wire.text.splitlines()]
    assert {"control": "stream.cursor", "id": f"1.{last}"} in lines


@serving(heartbeat=0.02)
async def test_a_reader_that_waits_hears_that_the_stream_lives(served: Served) -> None:
    """2.8. A heartbeat is an event that a program sees, with the id that it has."""
    rt = served.rt
    run = await rt.runs.start("tests.http.functions.open_ended", run_id="r")
    async with Wire(served.app, PATH) as wire:
        await wire.until("event: stream.heartbeat", 3)
        await wire.until("event: stream.caught_up")
        await rt.runs.signal("r", "word", 7)
        await run.result()
        await wire.end()
    heartbeats = wire.named("stream.heartbeat")
    known = {"1.0", *wire.ids()}
    assert all(one["id"] in known and one["data"]["head"] for one in heartbeats)
    assert len(wire.named("stream.caught_up")) == 1
    assert wire.frames()[-1]["event"] == "stream.end"


@serving(heartbeat=0.02)
async def test_a_token_that_is_revoked_ends_open_streams(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 5. Who asks is asked for again with every heartbeat."""
    rt = served.rt
    await rt.runs.start("tests.http.functions.open_ended", run_id="r")
    async with Wire(served.app, PATH) as wire:
        await wire.until("stream.heartbeat")

        async def refuse(*_: object) -> None:
            raise UnauthorizedError(reason="the token was revoked")

        monkeypatch.setattr(access, "identify", refuse)
        await wire.end()
    last = wire.frames()[-1]
    assert (last["event"], last["data"]["code"]) == ("stream.error", "unauthorized")


@serving(heartbeat=3_600.0)
async def test_streams_end_when_the_service_does(served: Served) -> None:
    """2.10. Each reader is asked to come again, not all at the same moment."""
    await served.rt.runs.start("tests.http.functions.open_ended", run_id="r")
    async with Wire(served.app, PATH) as one, Wire(served.app, PATH, accept=NDJSON) as two:
        await one.until("stream.caught_up")
        await two.until("stream.caught_up")
        await asyncio.gather(one.until("run.waiting"), two.until("run.waiting"))
        for _ in range(100):
            await asyncio.sleep(0)  # They wait for more, and nothing but a nudge ends that.
        served.site.close_streams()
        await asyncio.gather(one.end(), two.end())
    assert one.frames()[-1]["event"] == "stream.closing"
    assert 2_000 <= one.frames()[-1]["data"]["retry_ms"] < 4_000
    assert '"control":"stream.closing","reason":"drain"' in two.text
    assert not served.site.streams


@serving(heartbeat=0.02, stream_seconds_max=0.05)
async def test_a_stream_that_is_old_asks_its_reader_to_come_again(served: Served) -> None:
    """2.10. Connections are recycled."""
    rt = served.rt
    await rt.runs.start("tests.http.functions.open_ended", run_id="r")
    async with Wire(served.app, PATH) as wire:
        await wire.end()
    assert wire.frames()[-1]["data"]["reason"] == "age"


@serving()
async def test_large_events_come_whole_in_small_pages(served: Served) -> None:
    """2.10. A page is bounded in bytes, and all of it arrives."""
    run = await served.rt.runs.start("tests.http.functions.large", 60, 60_000, run_id="r")
    await run.result()
    last = (await served.rt.runs.history("r").info()).last_sequence
    async with Wire(served.app, PATH) as wire:
        await wire.end()
    assert wire.ids() == numbers(1, last)
    assert 200_000 < wire.largest <= 256 * 1024, "a page goes out in parts"
    async with Wire(served.app, PATH + "?limit=1000", accept="application/json") as wire:
        await wire.end()
    assert json.loads(wire.text)["ended"]


@serving()
async def test_who_waits_learns_that_the_store_is_closed(served: Served) -> None:
    """2.10, X7. Also where nothing happens in the log any more: nobody waits for ever."""
    with served.rt.history("quiet").attach() as reader:
        await reader.read(0, 1)
        waiting = asyncio.ensure_future(reader.wait())
        await served.rt.close()
        async with asyncio.timeout(30):
            assert await waiting


def limits_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many events each page is asked for."""
    read, limits = Attachment.read, list[int]()

    async def noted(self: Attachment, after: int, limit: int) -> Page:
        limits.append(limit)
        return await read(self, after, limit)

    monkeypatch.setattr(Attachment, "read", noted)
    return limits


@serving()
async def test_pages_grow_to_their_bound_and_shrink_with_what_is_in_them(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9, 2.10. Small events come by hundreds, never by more; large ones a few at a time."""
    small, large = served.rt.history("small"), served.rt.history("large")
    await small.append_all([Event.of("note", 1)] * 6 * PAGE_MOST)
    limits = limits_of(monkeypatch)
    async with Wire(served.app, "/v1/events?after=earliest&stream=small") as wire:
        await wire.until("stream.caught_up")
    assert len(wire.ids()) == 6 * PAGE_MOST
    async with Wire(served.app, "/v1/events?after=earliest&stream=small&types=none") as wire:
        await wire.until("stream.caught_up")
    assert max(limits) == PAGE_MOST
    head = await served.rt.feed.head()
    for _ in range(8):
        await large.append_all([Event.of("note", "x" * PAGE_BYTES)] * 8)
    limits.clear()
    async with Wire(served.app, f"/v1/events?after=1.f{head}&stream=large") as wire:
        await wire.until("stream.caught_up")
    assert len(wire.ids()) == 64
    assert limits[-2:] == [1, 1]


@serving()
async def test_pages_that_readers_share_are_kept_only_so_many_and_so_large(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9. Those that were made last; in bytes, and in number."""
    monkeypatch.setattr(frames, "_PAGE_BYTES_KEPT", 1_000_000)
    event = await served.rt.history("notes").append("note", "x" * 100_000)
    kept, asked = Frames(), Asked("", True, "", None, True)
    for at in range(200):
        seen = msgspec.structs.replace(event, position=at + 1)
        kept.of(Page([seen], at + 1, 1, at + 1, False), asked, 1, SSE, at)
    held = sum(len(one.body) for one in kept._kept.values())
    assert 800_000 <= held <= 1_000_000
    for at in range(200):
        empty = Page([], at + 1, 1, at + 1, False)
        kept.of(empty, asked, 1, SSE, at)
    assert len(kept._kept) == frames._PAGES_KEPT


@serving()
async def test_a_program_cannot_pass_an_event_off_as_ours(served: Served) -> None:
    """2.8. Names of stored events never begin as those of frames that are not stored."""
    await served.rt.history("notes").append("stream.reset", {"reason": "none"})
    async with Wire(served.app, "/v1/events?after=earliest&stream=notes") as wire:
        await wire.until("stream.caught_up")
    assert not wire.named("stream.reset")
    assert [one["data"]["type"] for one in wire.named("event")] == ["stream.reset"]


@serving()
async def test_a_name_that_would_begin_a_line_of_its_own_is_not_sent(served: Served) -> None:
    """2.8, X12. Whatever a program names an event, it is no field of a frame."""
    wrong = "x\nid: 9.9\ndata: {}\n\nevent: stream.end"
    event = await served.rt.history("notes").append("x", 1)
    page = Page(
        [msgspec.structs.replace(event, type=wrong)], event.position, 1, event.position, False
    )
    asked = Asked("", True, "", None, True)
    body = Frames().of(page, asked, 1, SSE, 0).body.decode()
    assert [line.partition(": ")[0] for line in body.splitlines()] == ["id", "event", "data", ""]
    assert "event: event\n" in body


@serving()
async def test_readers_share_a_page_only_if_they_may_see_and_want_the_same(
    served: Served,
) -> None:
    """Section 7 point 9, 2.8. Of one log at one place: filters, content and form, in any order."""
    last = await served.counted(10)
    viewer, _ = await served.rt.tokens.create("viewer", label="ann")
    hidden = {"authorization": f"Bearer {viewer}"}
    for _ in range(2):
        for filters, ids in (("", numbers(1, last)), ("?types=run.started", ["1.1"])):
            for more in ({}, hidden):
                async with Wire(served.app, PATH + filters, **more) as wire:
                    await wire.end()
                assert wire.ids() == ids
                seen = [
                    one["data"].get("data") is not None
                    for one in wire.frames()
                    if "id" in one.get("data", {})
                ]
                assert any(seen) == (not more), (
                    "who may not see content was sent it, or the other way"
                )
                async with Wire(served.app, PATH + filters, accept=NDJSON, **more) as wire:
                    await wire.end()
                lines = [json.loads(line) for line in wire.text.splitlines()]
                assert [one["id"] for one in lines if "control" not in one] == ids


@serving(heartbeat=0.02)
async def test_who_lost_the_right_to_content_sees_none_from_then_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 5. With every heartbeat, in a stream that is open."""
    await served.rt.history("notes").append("before", {"text": "shown"})
    async with Wire(served.app, "/v1/events?after=earliest&stream=notes") as wire:
        await wire.until("shown")

        async def less(*_: object) -> access.Principal:
            return access.Principal("ann", access.ROLES["viewer"])

        monkeypatch.setattr(access, "identify", less)
        await wire.until("stream.heartbeat", wire.text.count("stream.heartbeat") + 3)
        await served.rt.history("notes").append("after", {"text": "hidden"})
        await wire.until("event: after")
    assert "hidden" not in wire.text


@serving()
async def test_a_reader_whom_retention_overtakes_in_the_middle_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A4, 2.11. Behind the first page what follows is removed; nothing is left out in silence."""
    last = await served.counted(60)
    read, reads = Attachment.read, list[int]()

    async def overtaken(self: Attachment, after: int, limit: int) -> Page:
        reads.append(after)
        if after and not any(reads[:-1]):
            await served.rt._store.commit(Unit((TrimStream("run/r", 50),)))
        return await read(self, after, limit)

    monkeypatch.setattr(Attachment, "read", overtaken)
    async with Wire(served.app, PATH) as wire:
        await wire.end()
    [reset] = wire.named("stream.reset")
    assert reset["data"]["earliest"] == "1.50" and "older" in reset["data"]["reason"]
    assert wire.ids() == [*numbers(1, PAGE_FIRST), *numbers(50, last)]


@serving()
async def test_pages_of_json_go_on_where_they_ended(served: Served) -> None:
    """2.2. As many as asked for, all of them, also where a filter leaves everything out."""
    last = await served.counted(300)

    async def page(query: str) -> Any:
        async with Wire(served.app, f"{PATH}?{query}", accept="application/json") as wire:
            await wire.end()
        assert wire.status == 200, wire.text
        return json.loads(wire.text)

    for limit in (1, 63, 64, 65, 100):
        found, cursor = list[str](), "earliest"
        while not (got := await page(f"limit={limit}&after={cursor}"))["ended"]:
            assert len(got["items"]) <= limit
            found += [one["id"] for one in got["items"]]
            cursor = got["cursor"]
        assert [*found, *(one["id"] for one in got["items"])] == numbers(1, last), limit
    nothing = await page("types=none")
    assert (nothing["items"], nothing["cursor"], nothing["head"]) == ([], f"1.{last}", f"1.{last}")
    assert (await page("after=latest"))["items"] == []


@serving()
async def test_a_page_of_json_is_bounded_in_bytes_and_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9. However many events were asked for."""
    monkeypatch.setattr(events, "PAGE_BYTES_MAX", 1_000)
    last = await served.counted(200)
    async with Wire(served.app, f"{PATH}?limit=1000", accept="application/json") as wire:
        await wire.end()
    page = json.loads(wire.text)
    assert len(page["items"]) < last and not page["ended"]
    assert page["cursor"] == page["items"][-1]["id"]


@serving()
async def test_a_page_of_json_looks_at_so_many_events_and_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9. However few of them a filter lets through; the cursor goes on behind what was seen."""
    monkeypatch.setattr(events, "_READS_MAX", 2)
    last = await served.counted(400)
    looks, cursor = 0, "earliest"
    while True:
        path = f"{PATH}?types=run.succeeded&limit=1000&after={cursor}"
        async with Wire(served.app, path, accept="application/json") as wire:
            await wire.end()
        page, looks = json.loads(wire.text), looks + 1
        cursor = page["cursor"]
        if page["ended"]:
            break
        assert page["items"] == []
    assert [one["id"] for one in page["items"]] == [f"1.{last}"]
    assert looks > 2


@serving()
async def test_one_event_is_that_one_or_none(served: Served) -> None:
    """2.2. Behind the end there is none, before what is kept not any more; never a neighbour."""
    last = await served.counted(10)
    await served.rt._store.commit(Unit((TrimStream("run/r", 5),)))
    for seq, status in ((4, 410), (5, 200), (last, 200), (last + 1, 404)):
        async with Wire(served.app, f"{PATH}/{seq}", accept="application/json") as wire:
            await wire.end()
        assert wire.status == status, (seq, wire.text)
        assert status != 200 or json.loads(wire.text)["seq"] == seq


@serving()
async def test_a_cursor_of_another_kind_of_log_is_refused(served: Served) -> None:
    """2.11. The feed counts positions, a run its own events: one is never taken for the other."""
    await served.counted(3)
    for path, cursor in ((PATH, "1.f2"), ("/v1/events", "1.2"), (PATH, "x"), (PATH, "1.-2")):
        async with Wire(served.app, path, last_event_id=cursor) as wire:
            await wire.end()
        assert wire.status == 400 and json.loads(wire.text)["code"] == "bad_cursor", cursor


@serving()
async def test_a_page_of_json_that_is_reset_says_where_to_begin(served: Served) -> None:
    """2.11. With its `earliest` a program gets all there is."""
    last = await served.counted(20)
    await served.rt._store.commit(Unit((TrimStream("run/r", 8),)))
    async with Wire(served.app, f"{PATH}?after=9.1", accept="application/json") as wire:
        await wire.end()
    said = json.loads(wire.text)["context"]
    assert wire.status == 410 and said["latest"] == f"1.{last}"
    again = f"{PATH}?limit=100&after={said['earliest']}"
    async with Wire(served.app, again, accept="application/json") as wire:
        await wire.end()
    assert [one["id"] for one in json.loads(wire.text)["items"]] == numbers(8, last)


@serving()
async def test_a_page_with_a_gap_is_never_sent(served: Served) -> None:
    """2.9. What is not what follows is damage, not an event."""
    await served.counted(9)
    asked = Asked("run/r", False, "", None, True)
    events = await served.rt.runs.history("r").read()
    check_order(Page(events, 11, 1, 11, False), 0, asked)
    for wrong in (events[1:], [events[0], events[2]], [events[1], events[0]]):
        with pytest.raises(DamagedError, match="order of"):
            check_order(Page(wrong, 11, 1, 11, False), 0, asked)
