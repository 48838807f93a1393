"""Where it is measured: a folder on a disk, and both stores in it."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

import holdfast
from bench.bare import Bare, BarePostgres, BareSqlite
from bench.measure import sync_rate
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.runtime.opening import Opening
from holdfast.testing.server import PostgresServer

STORES = ("sqlite", "postgresql")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    How long and how often.

    Attributes:
        seconds: length of one slice.
        rounds: slices of each thing.
        events: length of the long stream in `growth` and `memory`.
        sessions: dirty sessions in `flush`.
        kept: sessions in the store that `boot` opens.
        entries: work in flight there.
        runs, steps: runs side by side, and steps of each, in the rows beside DBOS; at most.
        replayed: steps of the run that `replay` reads back.
        repeats: how often it does; making the peer's takes long.
        inflight: runs in a step when `inflight` comes back.
        subscribers: sockets that follow one stream.
        streamed: events that arrive meanwhile.
        streamed_alone: events whose delay is measured, one after the other.
        listed: runs in the store that `api` asks about.
    """

    seconds: float = 0.5
    rounds: int = 3
    events: int = 1_000_000
    sessions: int = 10_000
    kept: int = 100_000
    entries: int = 10_000
    runs: int = 100
    steps: int = 500
    replayed: int = 10_000
    repeats: int = 1
    inflight: int = 10_000
    subscribers: int = 1_000
    streamed: int = 100_000
    streamed_alone: int = 500
    listed: int = 100_000


class Place:
    """A folder with both databases."""

    def __init__(self, folder: Path, server: PostgresServer | None, plan: Plan) -> None:
        """Take a folder that exists, and a server with its data in it."""
        self.folder = folder
        self.plan = plan
        self._server = server

    def url(self, store: str) -> str:
        """Return the address of a new, empty store."""
        name = f"ours_{uuid4().hex[:8]}"
        if store == "sqlite":
            return f"sqlite:///{(self.folder / name).absolute()}.db"
        return f"{self._running().url}&schema={name}"

    def server_url(self) -> str:
        """Return the address of the server, for who keeps a schema of its own there."""
        return self._running().url

    def bare(self, store: str) -> Bare:
        """Return the bare database of a store."""
        return BareSqlite(self.folder) if store == "sqlite" else BarePostgres(self._running().url)

    def sync_rate(self) -> float:
        """Return the disk's own rate of syncs right now."""
        return sync_rate(self.folder)

    def _running(self) -> PostgresServer:
        if self._server is None:
            raise RuntimeError("PostgreSQL was not started")
        return self._server


@contextmanager
def place(folder: Path, stores: tuple[str, ...], plan: Plan) -> Generator[Place]:
    """Make a folder of one's own below `folder`, with a server if it is needed."""
    own = (folder / uuid4().hex[:8]).absolute()
    own.mkdir(parents=True)
    server = PostgresServer(own / "postgresql") if "postgresql" in stores else None
    try:
        if server is not None:
            server.start()
        yield Place(own, server, plan)
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(own)


def opening(url: str, on_commit: Callable[[], None]) -> Opening:
    """Return a store to be opened that calls `on_commit` in its thread after each commit."""
    failpoints = Failpoints()
    failpoints.arm("commit.committed", on_commit)
    return holdfast.open(url, world=World(failpoints=failpoints))
