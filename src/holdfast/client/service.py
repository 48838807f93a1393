"""
The service as a program sees it: nouns as in the library, answers as the service gives them.

Answers are plain values, so that what a newer service says besides is not lost; events are
`Event`. What has no method is asked for with `request`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx
import msgspec

from holdfast.client import transfer
from holdfast.client.connection import Connection, Options
from holdfast.client.engines import Engines
from holdfast.client.event import Event, Page
from holdfast.client.follow import Follower, OnReset
from holdfast.client.plain import Plain, pages, path_of, plain
from holdfast.client.sessions import Sessions
from holdfast.client.workers import Workers
from holdfast.core import codec


class Service:
    """
    A service that is connected to; made by `connect`.

    Attributes:
        runs: start, find, look at, change.
        operations: what is done to many runs at once.
        questions: that runs ask.
        artifacts: of runs.
        sessions: conversations.
        workers: the runtimes on the store.
        engines: working memories of foreign programs.
        events: of runs.
        feed: the events of all streams.
    """

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection
        self.runs = Runs(connection)
        self.operations = Operations(connection)
        self.questions = Questions(connection)
        self.artifacts = Artifacts(connection)
        self.sessions = Sessions(connection)
        self.workers = Workers(connection)
        self.engines = Engines(connection)
        self.events = Events(connection)
        self.feed = Feed(connection)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Any:
        """
        Ask for anything and return its JSON; see the OpenAPI document at `/v1/openapi.json`.

        Args:
            method: of HTTP.
            path: below the address of the service.
            body: plain value, sent as JSON.
            params: behind the question mark.
            headers: such as `If-Match`.
            key: idempotency key; drawn for what changes something.

        Raises:
            HoldfastError: what the service raised, by the same class.
            UnreachableError: nobody answered.
        """
        return await self._connection.plain(
            method, path, body=body, params=params, headers=headers, key=key
        )

    async def import_file(self, file: BinaryIO, *, key: str | None = None) -> Plain:
        """
        Let the service take in a run or a session that was exported; `present` if it was there.

        Args:
            file: the export, open for reading.
            key: idempotency key; drawn if not given.

        Raises:
            DamagedFileError: it is not whole; nothing was taken in.
            RunExistsError, AlreadyThereError: another one is there.
        """
        return dict(await transfer.send(self._connection, file, key))

    def items(self, path: str, **filters: Any) -> AsyncIterator[Plain]:
        """Yield the items of any listing, page after page."""
        return pages(self._connection, path, filters)

    @staticmethod
    def path(*parts: str) -> str:
        """Return the path of something by its names, which may hold anything."""
        return path_of(*parts)


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    options: Options | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[Service]:
    """
    Connect to a service; use it as `async with connect(url, token=token) as service:`.

    Args:
        url: under which it is mounted.
        token: that allows what is asked for.
        options: how long to wait, and how to follow.
        transport: of httpx, such as `httpx.ASGITransport(app)` for a service in process; that
            one hands out whole answers only, so it follows by pages.
    """
    chosen = options or Options()
    if isinstance(transport, httpx.ASGITransport):
        chosen = msgspec.structs.replace(chosen, streams=False)
    connection = Connection(url, token, chosen, transport)
    async with connection.http:
        yield Service(connection)


class Runs:
    """Runs: start, find, look at, change."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def start(
        self,
        function: str,
        *args: Any,
        run_id: str | None = None,
        key: str | None = None,
        **more: Any,
    ) -> Plain:
        """
        Start a run; when this returns, it is durable.

        Args:
            function: name under which it is registered there.
            args: its arguments, plain values.
            run_id: its id; drawn if not given.
            key: idempotency key; drawn if not given.
            more: `labels`, `session_id`, `queue`, `priority`.
        """
        body = {"function": function, "args": list(args), **more}
        if run_id is not None:
            body["run_id"] = run_id
        return await plain(self._connection, "POST", "/v1/runs", body, key)

    async def get(self, run_id: str) -> Plain:
        """Return a run."""
        return await plain(self._connection, "GET", path_of("runs", run_id))

    async def ended(self, run_id: str) -> Plain:
        """Return a run once it ended, however long that takes."""
        while True:
            found = await self._connection.plain(
                "GET", path_of("runs", run_id), params={"wait": "terminal", "timeout": 30}
            )
            if found.get("ended_at") is not None:
                return dict(found)

    async def list(self, **filters: Any) -> AsyncIterator[Plain]:
        """Yield runs by id, page after page: `status`, `function`, `label`, `session`, `q` ..."""
        async for one in pages(self._connection, "/v1/runs", filters):
            yield one

    async def cancel(self, run_id: str, *, mode: str = "now", reason: str = "") -> Plain:
        """Ask a run to end."""
        return await self._change(run_id, "cancel", {"mode": mode, "reason": reason})

    async def pause(self, run_id: str, *, reason: str = "") -> Plain:
        """Let a run rest."""
        return await self._change(run_id, "pause", {"reason": reason})

    async def resume(self, run_id: str, *, force: bool = False) -> Plain:
        """Let a run go on."""
        return await self._change(run_id, "resume", {"force": force})

    async def retry(self, run_id: str) -> Plain:
        """Try a run again that failed; return the new one."""
        return await self._change(run_id, "retry", {})

    async def signal(
        self, run_id: str, name: str, value: Any = None, *, key: str | None = None
    ) -> Plain:
        """Send something to a run."""
        path = f"{path_of('runs', run_id)}/signals/{quote(name, safe='')}"
        return await plain(self._connection, "POST", path, {"value": value}, key)

    async def fork(
        self,
        run_id: str,
        *,
        at: int | str | None = None,
        patch: Mapping[str, Any] | None = None,
        new_id: str | None = None,
        dry_run: bool = False,
    ) -> Plain:
        """Start a new run that takes over what a run did, or say what that would be."""
        asked: Plain = {"at": at, "patch": dict(patch or {}), "dry_run": dry_run}
        if new_id is not None:
            asked["new_id"] = new_id
        return await self._change(run_id, "fork", asked)

    async def export(self, run_id: str, file: BinaryIO) -> None:
        """Write a run with its children into a file that is open for writing, whole."""
        await transfer.fetch(self._connection, f"{path_of('runs', run_id)}/export", file)

    async def _change(self, run_id: str, verb: str, body: Plain) -> Plain:
        return await plain(self._connection, "POST", f"{path_of('runs', run_id)}/{verb}", body)


class Operations:
    """Operations on many runs: begin, look at, stop."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def begin(
        self,
        action: str,
        *,
        filter: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        key: str | None = None,
        **more: Any,
    ) -> Plain:
        """
        Begin to do something to many runs; when this returns, the selection is frozen.

        Args:
            action: `cancel`, `pause`, `resume`, `retry` or `remove`.
            filter: which runs, by the conditions of their list; `{}` is all of them.
            ids: which runs, by name, instead of a filter.
            key: idempotency key; drawn if not given.
            more: `limit`, `expected_count`, `reason`, `mode`, `force`.

        Raises:
            BulkCountError: they are not as many as expected.
            LimitError: they are more than one operation takes.
        """
        asked = _bulk(action, filter, ids, more)
        return dict((await plain(self._connection, "POST", "/v1/bulk", asked, key))["operation"])

    async def plan(
        self,
        action: str,
        *,
        filter: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        **more: Any,
    ) -> Plain:
        """Return to how many runs that would be done, where they are, and the first of them."""
        asked = {**_bulk(action, filter, ids, more), "dry_run": True}
        return dict((await plain(self._connection, "POST", "/v1/bulk", asked))["plan"])

    async def get(self, operation_id: str) -> Plain:
        """Return an operation."""
        return await plain(self._connection, "GET", path_of("operations", operation_id))

    async def follow(self, operation_id: str) -> AsyncGenerator[Plain]:
        """Yield an operation again and again as it goes on; the last time once it ended."""
        path, asked = path_of("operations", operation_id), {"wait": "change", "timeout": 5}
        found = await self.get(operation_id)
        yield found
        while found.get("ended_at") is None:
            found = dict(await self._connection.plain("GET", path, params=asked))
            yield found

    async def ended(self, operation_id: str) -> Plain:
        """Return an operation once it ended, however long that takes."""
        return [one async for one in self.follow(operation_id)][-1]

    async def list(self) -> AsyncIterator[Plain]:
        """Yield operations, the newest first, page after page."""
        async for one in pages(self._connection, "/v1/operations", {}):
            yield one

    async def items(self, operation_id: str, **filters: Any) -> AsyncIterator[Plain]:
        """Yield what became of each run of the selection: `outcome` ..."""
        path = f"{path_of('operations', operation_id)}/items"
        async for one in pages(self._connection, path, filters):
            yield one

    async def cancel(self, operation_id: str, *, reason: str = "") -> Plain:
        """Ask an operation to end; what was done stays done."""
        path = f"{path_of('operations', operation_id)}/cancel"
        return await plain(self._connection, "POST", path, {"reason": reason})


def _bulk(
    action: str,
    filter: Mapping[str, Any] | None,
    ids: Sequence[str] | None,
    more: Mapping[str, Any],
) -> Plain:
    return {
        "action": action,
        "filter": None if filter is None else dict(filter),
        "ids": None if ids is None else list(ids),
        **more,
    }


class Questions:
    """Questions that runs ask people."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def list(self, **filters: Any) -> AsyncIterator[Plain]:
        """Yield questions, page after page: `state`, `run_id` ..."""
        async for one in pages(self._connection, "/v1/questions", filters):
            yield one

    async def answer(
        self, question_id: str, value: Any, *, key: str | None = None, **more: Any
    ) -> Plain:
        """
        Answer a question; of several answers the first counts.

        Raises:
            AnswerConflictError: it has another answer.
        """
        path = f"{path_of('questions', question_id)}/answer"
        return await plain(self._connection, "POST", path, {"value": value, **more}, key)


class Artifacts:
    """Artifacts of runs."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def list(self, run_id: str, **filters: Any) -> AsyncIterator[Plain]:
        """Yield the artifacts of a run."""
        path = f"{path_of('runs', run_id)}/artifacts"
        async for one in pages(self._connection, path, filters):
            yield one

    async def read(self, run_id: str, name: str) -> bytes:
        """Return the bytes of an artifact."""
        path = f"{path_of('runs', run_id)}/artifacts/{quote(name, safe='')}"
        return (await self._connection.request("GET", path)).content


class Events:
    """Events of runs."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def page(self, run_id: str, *, after: str = "earliest", limit: int = 100) -> Page:
        """Return a page of a journal."""
        path = f"{path_of('runs', run_id)}/events"
        asked = {"after": after, "limit": limit}
        response = await self._connection.request("GET", path, params=asked)
        return msgspec.json.decode(response.content, type=codec.learned(Page))

    def follow(
        self,
        run_id: str,
        *,
        after: str = "earliest",
        on_reset: OnReset | None = None,
        types: Sequence[str] = (),
        step: str = "",
    ) -> AsyncGenerator[Event]:
        """
        Yield the events of a run until it ended, over restarts of the service.

        Args:
            run_id: of the run.
            after: id of the event behind which to begin, `earliest` or `latest`.
            on_reset: called when the service cannot go on behind what was seen (it was
                restored from a backup, say) and begins anew; raised if not given.
            types, step: only events of these types, about this step.

        Raises:
            CursorResetError: it cannot go on, and `on_reset` is not given.
            UnreachableError: nobody answered for too long.
        """
        return self.follower(
            run_id, after=after, on_reset=on_reset, types=types, step=step
        ).events()

    def follower(
        self,
        run_id: str,
        *,
        after: str = "earliest",
        on_reset: OnReset | None = None,
        types: Sequence[str] = (),
        step: str = "",
    ) -> Follower:
        """Return who follows, as `follow` does, and tells its cursor meanwhile."""
        path = f"{path_of('runs', run_id)}/events"
        filters = {"types": list(types), "step": step}
        dense = not (types or step)
        return Follower(self._connection, path, filters, after, on_reset, dense=dense)


class Feed:
    """The events of all streams."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    def follow(
        self,
        *,
        after: str = "latest",
        on_reset: OnReset | None = None,
        **filters: Any,
    ) -> AsyncGenerator[Event]:
        """
        Yield events of all streams in the order of their positions, without an end.

        Args:
            after: id of an event of the feed, a list's `stream_cursor`, `earliest` or `latest`.
            on_reset: as for the events of a run.
            filters: `run`, `stream`, `types`.

        Raises:
            CursorResetError: it cannot go on, and `on_reset` is not given.
            UnreachableError: nobody answered for too long.
        """
        return Follower(
            self._connection, "/v1/events", filters, after, on_reset, dense=False
        ).events()
