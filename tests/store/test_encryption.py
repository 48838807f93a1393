"""Encrypted stores: nothing readable, nothing exchangeable, nothing lost when keys change."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest

import holdfast
from holdfast import BUFFERED, PatchRecord, Run, Runtime, Unit, field, state
from holdfast.core import codec
from holdfast.core.errors import (
    DamagedError,
)
from holdfast.core.event import EventRow, chained_digest
from holdfast.core.exits import Exit, exit_of
from holdfast.core.sealing import SEALED, KeyMissingError, KeyWrongError
from holdfast.core.unit import PutSnapshot
from holdfast.runtime.locked import verify_locked
from holdfast.runtime.transfer import export_stream, import_stream
from holdfast.store.keyring import Keyring
from tests.runtime.canary import in_files, traces

CANARY = f"canary-{secrets.token_hex(16)}"
KEPT = 40


@state(version=1)
class Chat:
    """A session of both tiers that are kept."""

    text: str = ""
    draft: str = field(default="", tier=BUFFERED)


async def say(run: Run, text: str) -> str:
    """Do a step, keep an artifact, and return what is large enough for a blob."""
    await run.step("one", lambda: text)
    await run.attach("a.txt", text.encode())
    return text * 2_000


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A keyring with one key, in a folder that no store is in."""
    file = tmp_path / "keys" / "agent.keys"
    assert Keyring.create(file, "k1") == "k1"
    return file


@pytest.fixture
def url(kept_url: str, tmp_path: Path) -> str:
    """Address of a store in a folder of its own."""
    if kept_url.startswith("sqlite"):
        (tmp_path / "store").mkdir()
        return f"sqlite:///{tmp_path / 'store' / 'store.db'}"
    return kept_url


async def fill(rt: Runtime, text: str = CANARY) -> None:
    """Write into everything that is sealed."""
    await rt.history("s").append("t", {"text": text}, meta={"by": text})
    await rt.history("s").append("t", [text])
    for number in range(KEPT):
        await rt.records.put("k", str(number), {"text": text, "n": number}, tag="even")
    await rt.commit(Unit((PatchRecord("k", ("0",), add={"n": 5}),)))
    await rt.blobs.put(text.encode())
    await rt.blobs.put(text.encode() * 500)
    await rt.snapshots.put("snap", "s", 2, text.encode() * 3)
    async with rt.session(Chat, "c") as chat:
        async with chat.edit() as value:
            value.text = value.draft = text
        await rt.flush()
    async with rt.ledger.begin("w", note=text) as entry:
        await entry.settle([text])
    assert await (await rt.runs.start(say, text, run_id="r")).result() == text * 2_000


async def read(rt: Runtime, text: str = CANARY) -> None:
    """See that everything is there as it was written."""
    events = await rt.history("s").read()
    assert [event.data for event in events] == [{"text": text}, [text]]
    assert events[0].metadata == {"by": text}
    assert [e.data for e in await rt.feed.read(limit=2)] == [{"text": text}, [text]]
    found = await rt.records.list("k", limit=KEPT + 1, tag="even")
    assert {one.key[0]: one.value["n"] for one in found} == {
        str(number): number + 5 * (number == 0) for number in range(KEPT)
    }
    assert {one.value["text"] for one in found} == {text}
    assert {one.version for one in found} == {1, 2}, "a rotation is no write of a program"
    digest = codec.content_digest(text.encode()).hex()
    assert await rt.blobs.get(digest) == text.encode()
    snapshot = await rt.snapshots.latest("snap")
    assert snapshot is not None and snapshot.data == text.encode() * 3
    async with rt.session(Chat, "c") as chat:
        assert (chat.value.text, chat.value.draft) == (text, text)
    entry = await rt.ledger.find("w")
    assert entry is not None and entry.outcome == [text]
    assert await rt.runs.result("r") == text * 2_000
    (artifact,) = await rt.runs.artifacts.list("r")
    assert await rt.runs.artifacts.read(artifact.id) == text.encode()


def run(url: str, work: Callable[[Runtime], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Open a store, work, and close it."""

    async def whole() -> Any:
        async with holdfast.open(url, functions=[say], busy_wait=60.0, **options) as rt:
            return await work(rt)

    return asyncio.run(whole())


async def look(rt: Runtime) -> None:
    """Read everything, and see that all fits."""
    await read(rt)
    assert await rt.verify() == []


def test_nothing_that_was_written_can_be_read_in_the_store_and_all_of_it_with_the_key(
    url: str, ring: Path
) -> None:
    """Issue 7 (AEAD encryption). Events, records, blobs, snapshots, sessions, ledger, runs."""

    async def work(rt: Runtime) -> None:
        await fill(rt)
        assert traces(url, CANARY) == [], "while it is open, too"
        await look(rt)

    run(url, work, keyring=ring)
    assert traces(url, CANARY) == []
    run(url, look, keyring=Keyring.from_file(ring))
    run(url, look, keyring=str(ring), read_only=True)


def test_the_key_is_asked_for_before_anything_is_served(
    url: str, ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7. Missing and wrong keys are errors of their own; reading only needs them as well."""
    run(url, fill, keyring=ring)
    other, more = tmp_path / "other.keys", tmp_path / "more.keys"
    Keyring.create(other, "k1")
    Keyring.create(more, "k2")
    for read_only in (True, False):
        with pytest.raises(KeyMissingError, match="'k1' is needed: no keyring") as missing:
            run(url, look, read_only=read_only)
        with pytest.raises(KeyMissingError, match="k1"):
            run(url, look, keyring=more, read_only=read_only)
        with pytest.raises(KeyWrongError, match="'k1'") as wrong:
            run(url, look, keyring=other, read_only=read_only)
    assert exit_of(missing.value) is exit_of(wrong.value) is Exit.KEY_REFUSED
    line = ring.read_text().split()[1]
    assert line not in str(wrong.value) + str(missing.value) + repr(Keyring.from_file(ring))
    monkeypatch.setenv("HOLDFAST_KEYRING", str(ring))
    run(url, look)
    monkeypatch.delenv("HOLDFAST_KEYRING")
    monkeypatch.setenv("MY_KEYS", ring.read_text().strip() + ",")
    run(url, look, keyring=Keyring.from_env("MY_KEYS"))


def test_a_store_is_verified_without_the_key_and_every_flipped_bit_is_found(
    ring: Path, tmp_path: Path
) -> None:
    """X3, issue 7. Digests and chains are over what is stored."""
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    run(url, fill, keyring=ring)
    findings, opened = asyncio.run(verify_locked(url))
    assert findings == [] and opened.epoch == 1
    places = (
        ("event", "payload", "rowid"),
        ("record", "value", "rowid"),
        ("blob", "stored", "rowid"),
        ("snapshot", "stored", "rowid"),
    )
    for table, column, id in places:
        raw = apsw.Connection(str(file))
        # Of another file: the trigger is what keeps an honest program from doing it.
        raw.execute("DROP TRIGGER IF EXISTS event_is_immutable")
        row, value = next(
            iter(raw.execute(f"SELECT {id}, {column} FROM {table} WHERE format > 255 LIMIT 1"))
        )
        damaged = value[:-1] + bytes([value[-1] ^ 1])
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE {id} = ?", (damaged, row))
        found = {one.what.partition(" ")[0] for one in asyncio.run(verify_locked(url))[0]}
        assert {"event": "stream"}.get(table, table) in found, table
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE {id} = ?", (value, row))
        raw.close()


def resealed(raw: apsw.Connection, table: str, id: Any, columns: list[Any]) -> None:
    """Write a row with a digest that fits, as somebody can who has no key."""
    names = {"record": "kind, key, version, tag, value, written_at, format"}[table].split(", ")
    sets = ", ".join(f"{name} = ?" for name in names)
    digest = codec.digest(*columns)
    raw.execute(f"UPDATE {table} SET {sets}, digest = ? WHERE id = ?", (*columns, digest, id))


@pytest.mark.parametrize("what", ["value of another record", "older value", "another tag"])
def test_a_record_whose_value_was_exchanged_is_damaged_though_its_digest_fits(
    what: str, ring: Path, tmp_path: Path
) -> None:
    """Issue 7. A seal is bound to kind, key, version and tag."""
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    select = "SELECT id, kind, key, version, tag, value, written_at, format FROM record "

    def rows(raw: apsw.Connection) -> list[list[Any]]:
        return [list(row) for row in raw.execute(select + "WHERE kind = 'k' ORDER BY key")]

    async def two(rt: Runtime) -> None:
        await rt.records.put("k", "1", {"owner": "ann"}, tag="open")
        await rt.records.put("k", "2", {"owner": "eve"}, tag="open")

    run(url, two, keyring=ring)
    raw = apsw.Connection(str(file))
    before = rows(raw)
    run(url, lambda rt: rt.records.put("k", "1", {"owner": "bob"}, tag="open"), keyring=ring)
    one, other = rows(raw)
    if what == "value of another record":
        one[5] = other[5]
    elif what == "older value":
        one[5] = before[0][5]
    else:
        one[4] = "closed"
    resealed(raw, "record", one[0], one[1:])
    raw.close()
    assert asyncio.run(verify_locked(url))[0] == [], "who has no key cannot know"

    async def find(rt: Runtime) -> None:
        with pytest.raises(DamagedError, match="sealed"):
            await rt.records.get("k", "1")
        assert (await rt.records.get("k", "2")).value == {"owner": "eve"}
        (finding,) = await rt.verify()
        assert (finding.what, finding.name) == ("record k", "('1',)")

    run(url, find, keyring=ring)


def test_an_event_in_the_place_of_another_is_damaged_though_the_whole_chain_fits(
    ring: Path, tmp_path: Path
) -> None:
    """Issue 7. A seal is bound to stream, sequence and type; what is before it still reads."""
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"

    async def write(rt: Runtime) -> None:
        for number in range(4):
            await rt.history("s").append("t", {"number": number})

    run(url, write, keyring=ring)
    raw = apsw.Connection(str(file))
    (trigger,) = next(
        iter(raw.execute("SELECT sql FROM sqlite_schema WHERE name = 'event_is_immutable'"))
    )
    raw.execute("DROP TRIGGER event_is_immutable")
    select = (
        "SELECT position, origin, sequence, type, payload, meta, recorded_at, digest, format "
        "FROM event WHERE origin = (SELECT origin FROM stream WHERE name = CAST('s' AS BLOB)) "
        "ORDER BY sequence"
    )
    rows = [EventRow(*row) for row in raw.execute(select)]
    payloads = [row.payload for row in rows]
    payloads[1], payloads[2] = payloads[2], payloads[1]
    head = next(iter(raw.execute("SELECT * FROM stream WHERE name = CAST('s' AS BLOB)")))
    id, name, origin, last, _, first, anchor, closed, _ = head
    previous = anchor
    for row, payload in zip(rows, payloads, strict=True):
        said = (row.position, row.origin, row.sequence, row.type, payload, row.meta)
        moved = EventRow(*said, row.recorded_at, b"", row.format)
        previous = chained_digest(previous, moved)
        raw.execute(
            "UPDATE event SET payload = ?, digest = ? WHERE position = ?",
            (payload, previous, row.position),
        )
    seal = codec.digest(name.decode(), origin, last, previous, first, anchor, closed)
    raw.execute("UPDATE stream SET last_digest = ?, digest = ? WHERE id = ?", (previous, seal, id))
    raw.execute(trigger)
    raw.close()
    assert asyncio.run(verify_locked(url))[0] == [], "who has no key cannot know"

    async def find(rt: Runtime) -> None:
        assert [one.data for one in await rt.history("s").read()] == [{"number": 0}]
        with pytest.raises(DamagedError, match="sealed") as damage:
            await rt.history("s").read(after=1)
        assert damage.value.sequence == 2
        assert (await rt.history("s").read(after=3))[0].data == {"number": 3}
        assert [one.sequence for one in await rt.verify()] == [2, 3]

    run(url, find, keyring=ring)


def test_what_was_written_before_a_store_was_encrypted_still_reads(url: str, ring: Path) -> None:
    """Issue 7. Mixed stores; a rotation seals what can be written again."""
    run(url, fill)
    assert traces(url, CANARY) != []

    async def switch(rt: Runtime) -> None:
        await look(rt)
        await rt.records.put("k", "fresh", 1)
        rotated = await rt.keys.rotate()
        assert rotated.resealed > KEPT and rotated.damaged == 0
        assert (await rt.keys.rotate()).resealed == 0, "nothing is left to do"
        await rt.records.delete("k", "fresh")
        await look(rt)

    run(url, switch, keyring=ring)
    run(url, look, keyring=ring)


def test_a_rotation_goes_over_to_the_new_key_and_the_old_one_is_not_needed_any_more(
    url: str, ring: Path
) -> None:
    """Issue 7. Old and new key while it goes on, then the new one alone; nothing else changes."""
    old = Keyring.from_file(ring).find("k1")
    run(url, fill, keyring=ring)
    Keyring.create(ring, "k2")

    async def rotate(rt: Runtime) -> Any:
        return await rt.keys.rotate()

    rotated = run(url, rotate, keyring=ring)
    assert (rotated.wrapped, rotated.newest, rotated.damaged) == (1, 2, 0)
    assert rotated.resealed > KEPT + 3
    assert [(one.number, one.by) for one in run(url, listed, keyring=ring)] == [
        (1, "k2"),
        (2, "k2"),
    ]
    lines = ring.read_text().splitlines()
    assert old is not None
    ring.write_text(lines[1] + "\n")
    run(url, look, keyring=ring)
    ring.write_text(lines[0] + "\n")
    with pytest.raises(KeyMissingError, match="k2"):
        run(url, look, keyring=ring)


async def listed(rt: Runtime) -> Any:
    """Return the data keys."""
    return await rt.keys.list()


def test_who_has_the_store_open_goes_on_while_another_process_rotates(url: str, ring: Path) -> None:
    """Issue 7. The file of the keyring is read again when a key is met that is not known."""

    async def work(rt: Runtime) -> None:
        await fill(rt)
        Keyring.create(ring, "k2")
        await asyncio.to_thread(
            run, url, lambda other: other.keys.rotate(), keyring=Keyring.from_file(ring)
        )
        await read(rt)
        await rt.commit(Unit((PatchRecord("k", ("1",), add={"n": 0}),)))
        await rt.records.put("k", "1", {"text": CANARY, "n": 1}, tag="even")
        assert await rt.verify() == []

    run(url, work, keyring=ring)


@pytest.mark.parametrize("point", ["commit.begun", "commit.written", "commit.committed"])
def test_a_rotation_that_is_killed_is_begun_again_and_every_value_reads_at_any_time(
    point: str, url: str, ring: Path
) -> None:
    """Issue 7. SIGKILL in each of its first units, in a store that was not encrypted before."""
    run(url, fill)
    Keyring.create(ring, "k2")
    kills = 0
    for nth in (1, 1, 2, 3, 4):
        program = [sys.executable, "-m", "tests.store.rotator", url, str(ring), point, str(nth)]
        kills += subprocess.run(program, timeout=120).returncode == -9
        run(url, look, keyring=ring)
        assert asyncio.run(verify_locked(url))[0] == []
    assert kills > 3

    async def finish(rt: Runtime) -> None:
        assert (await rt.keys.rotate()).damaged == 0
        assert (await rt.keys.rotate()).resealed == 0

    run(url, finish, keyring=ring)
    run(url, look, keyring=ring)


def test_an_export_of_an_encrypted_store_is_plain_private_and_whole(
    url: str, ring: Path, tmp_path: Path
) -> None:
    """X13, issue 7. What leaves the store is plain text; only its owner can read the file."""
    file = tmp_path / "exports" / "s.ndjson"
    file.parent.mkdir()

    async def write(rt: Runtime) -> None:
        await fill(rt)
        await export_stream(rt, "s", file)
        await rt.transfers.export_run("r", tmp_path / "exports" / "r.ndjson")

    run(url, write, keyring=ring)
    # A name, a kind and JSON in base64: the text itself is found by who decodes it.
    assert file.stat().st_mode & 0o777 == 0o600

    async def bring(rt: Runtime) -> None:
        assert (await import_stream(rt, file)).appended == 2
        await rt.transfers.import_file(tmp_path / "exports" / "r.ndjson")
        assert (await rt.history("s").read())[0].data == {"text": CANARY}

    (tmp_path / "sealed").mkdir()
    other = f"sqlite:///{tmp_path / 'other.db'}"
    run(other, bring)
    Keyring.create(ring, "k9")
    run(f"sqlite:///{tmp_path / 'sealed' / 'other.db'}", bring, keyring=ring)
    assert in_files(tmp_path / "sealed", CANARY) == []


def test_several_who_encrypt_a_store_at_once_make_one_data_key(url: str, ring: Path) -> None:
    """Issue 7. Of two first openings one makes the key."""

    async def whole() -> None:
        async def one(name: str) -> int:
            async with holdfast.open(url, keyring=ring, busy_wait=60.0) as rt:
                await rt.records.put("k", name, name)
                return len(await rt.keys.list())

        assert await asyncio.gather(*[one(str(number)) for number in range(4)]) == [1] * 4

    run(url, listed)  # The tables are there; only the key is made at once.
    asyncio.run(whole())


def test_rows_say_by_their_format_that_they_are_sealed(ring: Path, tmp_path: Path) -> None:
    """Issue 7. The records of the data keys are not; deleted records have nothing to seal."""
    file = tmp_path / "store.db"

    async def work(rt: Runtime) -> None:
        await fill(rt)
        await rt.records.delete("k", "7")
        snap = PutSnapshot.of("x", "s", 1, b"x")
        await rt.commit(Unit((snap,)))

    run(f"sqlite:///{file}", work, keyring=ring)
    raw = apsw.Connection(str(file))
    plain = raw.execute(f"SELECT kind FROM record WHERE format < {SEALED} AND value NOT NULL")
    assert {kind for (kind,) in plain} == {"holdfast.key"}
    for table in ("event", "blob", "snapshot"):
        (count,) = next(iter(raw.execute(f"SELECT COUNT(*) FROM {table} WHERE format < {SEALED}")))
        assert count == 0, table
    raw.close()
