"""
Sessions out of one store and into another (X13): as a whole or not at all, never ambiguous.

The sessions are real ones; exports and imports go through the command line, which does not know
their classes.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast import BUFFERED, field, state
from holdfast.runtime.transfer_file import read_parts
from holdfast.runtime.transfer_session import read_session
from tests.cli.exported import IMPORT, read_meddled
from tests.cli.invocation import invoke, run
from tests.cli.test_transfer import killed

KEY = ("user/42", "a")
NAME = '["Chat","user/42","a"]'


@state(version=3, history=True)
class Chat:
    """A session with a slot of each kind."""

    title: str = ""
    seen: int = field(default=0, tier=BUFFERED)
    warm: float = field(default=0.5, tier=BUFFERED, group="calibration")


@state(version=1)
class Note:
    """A session without a history."""

    title: str = ""


async def note(url: str, title: str) -> None:
    """Make a note, or change it."""
    async with (
        holdfast.open(url) as rt,
        rt.session(Note, "n") as session,
        session.edit() as draft,
    ):
        draft.title = title


async def talk(url: str, title: str = "lighthouses", *, key: Any = KEY, by: str = "hdr:1") -> None:
    """Make a session, or change it."""
    async with (
        holdfast.open(url) as rt,
        rt.session(Chat, key, identities=[by]) as session,
        session.edit() as chat,
    ):
        chat.title = title
        chat.seen += 1
        chat.warm = float("inf")


async def look(url: str) -> dict[str, Any]:
    """Return all that one sees of the session."""
    async with holdfast.open(url) as rt:
        assert await rt.verify() == []
        session = rt.session(Chat, KEY)
        await session.load()
        (info,) = await rt.sessions.list(Chat, archived=True) or await rt.sessions.list(Chat)
        return {
            "value": session.value,
            "info": info,
            "found": await rt.sessions.find(Chat, ["hdr:1"]),
            "history": [(one.type, one.data) for one in await session.history.read()],
        }


def export(store: str, target: Path, name: str = NAME) -> None:
    done = invoke("export", "--session", name, "--output", target, store=store)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("archived", [False, True])
def test_a_session_comes_back_exactly(archived: bool, empty: str, tmp_path: Path) -> None:
    """X13: fields of every tier, identities, history, and whether it is archived."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(talk(origin, "first"))
    run(talk(origin))

    async def archive() -> None:
        async with holdfast.open(origin) as rt:
            await rt.sessions.archive(Chat, KEY)

    if archived:
        run(archive())
    export(origin, target)
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    before = run(look(origin))
    assert run(look(empty)) == before
    assert (before["value"].title, before["value"].seen) == ("lighthouses", 2)
    assert before["value"].warm == float("inf")
    assert before["info"].archived is archived
    assert before["found"].key == (None if archived else KEY)
    assert len(before["history"]) >= 2
    again = invoke("import", target, store=empty)
    assert again.returncode == 0
    assert "was there already; nothing was imported" in again.stderr


def test_a_session_that_is_there_is_not_touched(empty: str, tmp_path: Path) -> None:
    """X13: another one of that key, or one that was changed since, is refused."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(talk(origin))
    export(origin, target)
    run(talk(empty, "another"))
    before = run(look(empty))
    done = invoke("import", target, store=empty)
    assert (done.returncode, run(look(empty))) == (4, before)
    assert "session Chat/user/42/a: there is one with this key" in done.stderr
    run(talk(origin, "changed"))
    assert invoke("import", target, store=origin).returncode == 4
    run(note(origin, "first"))
    export(origin, target, "Note/n")
    run(note(origin, "changed"))
    assert invoke("import", target, store=origin).returncode == 4


def test_an_identity_of_another_session_is_never_made_ambiguous(empty: str, tmp_path: Path) -> None:
    """X13: an import that would make two sessions answer to one identity is refused."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(talk(origin))
    export(origin, target)
    run(talk(empty, key="zoe"))
    done = invoke("import", target, store=empty)
    assert done.returncode == 4
    assert "holdfast.identity Chat/hdr:1 belongs to another session here" in done.stderr

    async def find() -> object:
        async with holdfast.open(empty) as rt:
            return (await rt.sessions.find(Chat, ["hdr:1"])).key, len(await rt.sessions.list(Chat))

    assert run(find()) == (("zoe",), 1)


def head_of(path: Path) -> bytes:
    """Return the head of the session that was exported."""
    with path.open("rb") as file:
        return read_parts(file, path).records[0].value


def test_an_imported_session_is_a_new_one(tmp_path: Path) -> None:
    """X13: what tells it from a session of that key that was closed is drawn anew."""
    store, target = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "export"
    run(talk(store))
    export(store, target)
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    assert invoke("import", target, store=copy).returncode == 0
    export(copy, tmp_path / "again")
    one, two = (msgspec.msgpack.decode(head_of(path)) for path in (target, tmp_path / "again"))
    assert one.pop("born") != two.pop("born")
    assert one == two


@pytest.mark.parametrize("point", ["commit.written", "commit.committed"])
def test_a_killed_import_of_a_session_is_finished_by_running_it_again(
    point: str, empty: str, tmp_path: Path
) -> None:
    """X1, X13: a session is one unit, so after a kill it is there as a whole or not at all."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(talk(origin))
    export(origin, target)
    killed(IMPORT, empty, target, point, "1")
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    assert ("was there already" in done.stderr) is (point == "commit.committed")
    assert run(look(empty)) == run(look(origin))


def test_a_session_that_changes_while_it_is_read_is_read_again(empty: str) -> None:
    """X13: slots and history are of one moment."""
    run(talk(empty))
    parts = read_meddled(
        empty, "head", talk(empty, "changed"), lambda reader: read_session(reader, ("Chat", *KEY))
    )
    durable = next(one for one in parts.records if one.kind == "session.Chat.durable")
    assert msgspec.msgpack.decode(durable.value)["title"] == "changed"


def test_a_history_alone_is_refused_and_an_unknown_session_is_not_found(tmp_path: Path) -> None:
    """X13: the stream of a session is not the session; the next step is named."""
    store, target = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "export"
    run(talk(store, key="zoe"))
    stream = invoke("export", "holdfast/session/Chat/zoe", "--output", target, store=store)
    assert stream.returncode == 0, stream.stderr
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    done = invoke("import", target, store=copy)
    assert done.returncode == 2
    assert "exported with `holdfast export --session`" in done.stderr
    words = ["export", "--session", "Chat/nobody", "--output", tmp_path / "x"]
    assert invoke(*words, store=store).returncode == 3
