"""The examples of the OpenAPI document, played through: each is answered as it says."""

from urllib.parse import quote

import httpx
from examples.graph.stages import stage

from holdfast import BUFFERED, Run, field, state
from holdfast.core.ledger import REPORT
from holdfast.http.app import OPERATIONS
from holdfast.http.example import EXAMPLES
from holdfast.http.operation import Operation
from tests.http.conftest import Served, served
from tests.runtime.tally import TallyEngine

UNKNOWABLE = {
    "token_revoke",
    "artifact_get",
    "run_remove",
    "import",
    "operation_get",
    "operation_items",
    "operation_cancel",
    "worker_drain",
    "worker_resume",
}
"""Operations about something that has no name beforehand."""
GRAPH: str = EXAMPLES["pipeline_start"].body["dot_source"]


@state(version=1)
class Chat:
    name: str = ""
    cost: float = field(default=0.0, tier=BUFFERED)


async def approve(run: Run, amount: int) -> str:
    """Check an amount, ask somebody, and pay."""
    if amount < 0:
        raise ValueError(amount)
    await run.step("check", done, "within budget")
    await run.attach("receipt.txt", b"R-120", media_type="text/plain")
    await run.ask("Approve?", choices=["yes", "no"])
    return await run.step("pay", done, "paid", effect="once")


async def done(what: str) -> str:
    """Return what was done."""
    return what


async def asked(site: Served, one: Operation) -> httpx.Response:
    """Return what is answered to an example, asked as the document shows it."""
    example = EXAMPLES[one.name]
    params = {name: quote(value, safe="") for name, value in example.params.items()}
    body = {"content": example.body} if one.raw else {"json": example.body}
    path = one.address.format(**params)
    return await site.client.request(one.method, path, params=example.query, **body)


async def left_behind(site: Served) -> None:
    """Leave work in flight."""
    await site.rt.ledger.begin(("turn", "1"), kind="turn", policy=REPORT)


async def prepared(site: Served) -> None:
    """Bring everything to where the examples begin."""
    site.rt.runs.register(approve, name="expenses.approve")
    for number in (1, 2, 3, 4, 6, 9, 12):
        await site.rt.runs.start(approve, 120, run_id=f"expense-{number}")
        await site.until(f"expense-{number}", "waiting")
    await site.rt.runs.pause("expense-4")
    await site.rt.runs.answer("expense-9?1", "yes")
    await site.rt.runs.ended("expense-9")
    await site.rt.runs.start(approve, -1, run_id="expense-5")
    await site.rt.runs.ended("expense-5")
    page = await site.get("/v1/runs/expense-9/checkpoints")
    place = next(one["id"] for one in page["items"] if one["cause"] == "question.answered")
    await site.post("/v1/runs/expense-9/fork", {"at": place, "new_id": "expense-11"}, 201)
    await site.until("expense-11", "waiting")
    for name in ("ann", "bob", "cleo", "dan"):
        session = site.rt.session(Chat, name)
        async with session, session.edit() as chat:
            chat.name = name
    await site.post("/v1/sessions/Chat%2Fcleo/archive", {}, 200)
    engine = await site.rt.engines.attach("policy", TallyEngine())
    for name in ("ann", "bob"):
        await engine.request(lambda hands: hands.add("asked"), key=name)
    site.rt.graphs.handle(stage)
    for number in (2, 3, 4, 5):
        await site.post("/pipelines", {"dot_source": GRAPH, "id": f"review-{number}"}, 201)
        await site.until(f"review-{number}", "waiting")
    await site.rt.runs.pause("review-5")


def test_every_example_is_answered_as_documented(kept_url: str) -> None:
    """Section 2: status and shape are those of the table, for each operation that has one."""

    async def work(site: Served) -> None:
        await prepared(site)
        for one in OPERATIONS:
            if one.name in EXAMPLES:
                answered = await asked(site, one)
                assert answered.status_code == EXAMPLES[one.name].status, (one.name, answered.text)

    served(kept_url, left_behind)
    served(kept_url, work)


def test_every_operation_that_needs_words_has_an_example() -> None:
    """Whoever reads the document sees how it is asked; none is about what is not there."""
    needs = {one.name for one in OPERATIONS if one.body or one.raw or one.upload or one.parameters}
    assert needs - EXAMPLES.keys() == UNKNOWABLE
    assert EXAMPLES.keys() <= {one.name for one in OPERATIONS}
