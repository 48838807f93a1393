"""The client: what it repeats, what it raises, how it follows."""

import httpx
import pytest

import holdfast.client
from holdfast.core.catalogue import catalogue, error_of
from holdfast.core.denial import CursorResetError, TooManyError, UnreachableError
from holdfast.core.refusal import RunNotFoundError
from holdfast.http.envelope import EventOut
from holdfast.http.problem import problem_of
from tests.http.served import Served, serving
from tests.http.server import TOKEN

FUNCTION = "tests.http.functions.count"
HURRIED = holdfast.client.Options(patience=0.3)


class Breaking(httpx.ASGITransport):
    """Passes requests on, and loses so many answers behind them."""

    def __init__(self, app: object, losses: int) -> None:
        """Take the application."""
        super().__init__(app)  # type: ignore[arg-type]
        self.losses = losses
        self.keys: list[str | None] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or break off when it is done."""
        self.keys.append(request.headers.get("idempotency-key"))
        response = await super().handle_async_request(request)
        if self.losses:
            self.losses -= 1
            raise httpx.ReadError("the connection broke")
        return response


@serving()
async def test_a_request_whose_answer_was_lost_is_repeated_with_its_key(served: Served) -> None:
    """A8. Twice asked, once started, although the client heard nothing the first two times."""
    transport = Breaking(served.app, 2)
    async with holdfast.client.connect(
        "http://localhost", token=TOKEN, transport=transport
    ) as service:
        run = await service.runs.start(FUNCTION, 3)
        assert [one["id"] async for one in service.runs.list()] == [run["id"]]
    assert len(set(transport.keys[:3])) == 1 and transport.keys[0]
    assert transport.keys[3] is None


@serving()
async def test_a_client_follows_by_pages_where_there_are_no_streams(served: Served) -> None:
    """A5. In process; the same events, then the end."""
    last = await served.counted(30)
    transport = httpx.ASGITransport(served.app)
    async with holdfast.client.connect(
        "http://localhost", token=TOKEN, transport=transport
    ) as service:
        found = [event async for event in service.events.follow("r")]
        assert [event.seq for event in found] == list(range(1, last + 1))
        assert (await service.runs.ended("r"))["status"] == "succeeded"
        behind = [event.seq async for event in service.events.follow("r", after=found[9].id)]
        assert behind == list(range(11, last + 1))
        some = [e.type async for e in service.events.follow("r", types=["run.started"])]
        assert some == ["run.started"]
        page = await service.events.page("r", limit=5)
        assert [event.seq for event in page.items] == [1, 2, 3, 4, 5]


@serving()
async def test_a_cursor_from_another_life_is_said_not_passed_over(served: Served) -> None:
    """A4, 2.11. Raised, or told to who wants to go on."""
    last = await served.counted(3)
    transport = httpx.ASGITransport(served.app)
    async with holdfast.client.connect(
        "http://localhost", token=TOKEN, transport=transport
    ) as service:
        with pytest.raises(CursorResetError, match="another lineage"):
            _ = [event async for event in service.events.follow("r", after="9.2")]
        told: list[CursorResetError] = []
        follows = service.events.follow("r", after="9.2", on_reset=told.append)
        assert [event.seq async for event in follows] == list(range(1, last + 1))
        assert [one.latest for one in told] == [f"1.{last}"]


@serving()
async def test_errors_are_those_of_the_library(served: Served) -> None:
    """2.5. One catalogue: the class that the runtime raised, with its fields."""
    transport = httpx.ASGITransport(served.app)
    async with holdfast.client.connect(
        "http://localhost", token=TOKEN, transport=transport
    ) as service:
        with pytest.raises(RunNotFoundError) as caught:
            await service.runs.get("nobody")
        assert caught.value.run_id == "nobody"
        with pytest.raises(RunNotFoundError):
            _ = [event async for event in service.events.follow("nobody")]
        info = await service.request("GET", "/v1/runs", params={"limit": 1})
        assert info["items"] == []


@serving()
async def test_who_meets_nobody_is_told_in_the_end(served: Served) -> None:
    """Patience is bounded, for a request and for who follows."""
    await served.counted(1)
    transport = Breaking(served.app, 1_000_000)
    async with holdfast.client.connect(
        "http://localhost", token=TOKEN, transport=transport, options=HURRIED
    ) as service:
        with pytest.raises(UnreachableError, match="ReadError"):
            await service.runs.start(FUNCTION, 1)
        with pytest.raises(UnreachableError):
            _ = [event async for event in service.events.follow("r")]
    assert len(transport.keys) > 3


@pytest.mark.parametrize("code", sorted(catalogue()))
def test_every_error_comes_back_from_its_problem(code: str) -> None:
    """2.5. Also those whose fields are not told to callers."""
    made = error_of(code, "in words", {})
    assert type(made) is catalogue()[code]
    told = problem_of(made, "", "7")
    again = error_of(told.code, told.detail, told.context)
    assert type(again) is type(made) and str(again) == told.detail


def test_an_error_of_a_newer_service_is_an_error_still() -> None:
    """A code nobody knows here, and fields of another shape."""
    assert error_of("of_tomorrow", "in words", {"x": 1}).code == "unexpected"
    assert isinstance(error_of("too_many", "slow down", {"limit": 3}), TooManyError)


def test_the_client_knows_every_field_of_an_event() -> None:
    """2.8. One envelope; what the service sends has a name in the hands of a program."""
    assert set(EventOut.__struct_fields__) == set(holdfast.client.Event.__struct_fields__)
