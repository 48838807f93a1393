"""A canary goes through everything one can hand to Holdfast, and is kept nowhere."""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import BUFFERED, Machine, Redaction, Retry, Run, Runtime, Secret, Unit, field, state
from holdfast.adapters.clips import ClipsEngine
from holdfast.core.context import Context
from holdfast.core.errors import HoldfastError
from holdfast.core.refusal import RunFailedError, StepFailedError
from holdfast.runtime.runs.search import Sought
from holdfast.runtime.transfer import export_stream
from tests.runtime.canary import in_files, traces

CANARY = f"canary-{secrets.token_hex(16)}"
RULES = Redaction(patterns={"bird": r"canary-[0-9a-f]{32}"}, in_bytes=True)


@dataclass
class Order:
    """A value of the user's own type."""

    item: str
    paid_with: str


@state(version=1)
class Chat:
    """A session with a field of each tier that is kept."""

    key: str = ""
    turns: list[str] = field(default_factory=list[str])
    draft: str = field(default="", tier=BUFFERED)


@state(version=1, history=True)
class Remembered:
    """A session whose changes are kept."""

    key: str = ""


def fail() -> None:
    """Fail with words that hold the canary."""
    raise ValueError(f"cannot log in with {CANARY}")


async def part(run: Run, word: str) -> str:
    """Do a part of the work."""
    return word


async def work(run: Run, word: str, order: Order) -> list[Any]:
    """Hand the canary to everything a run has."""
    got = await run.step("fetch", lambda: {"header": [CANARY], "tuple": Order("x", CANARY).item})
    with pytest.raises(StepFailedError) as failed:
        await run.step("fail", fail)
    assert CANARY not in str(failed.value)
    with pytest.raises(StepFailedError):
        await run.step("again", fail, retry=Retry(attempts=2, backoff=0.0))
    await run.step("mark", lambda: 1, mark=lambda _: {"shown": CANARY})
    await run.emit("seen", {"said": CANARY})
    await run.attach(f"{CANARY}.txt", f"bytes of {CANARY}".encode(), media_type=f"x/{CANARY}")
    said = await run.ask(f"Use {CANARY}?", choices=[CANARY, "no"], default="no")
    sent = await run.signal("go")
    return [got, said, sent, await run.child(part, CANARY), word, order.paid_with, "x" * 70_000]


async def give(run: Run) -> dict[str, str]:
    """Return the canary as it is."""
    return {"found": CANARY}


async def end(run: Run) -> None:
    """Fail as a whole."""
    raise RuntimeError(CANARY)


async def wait(run: Run) -> Any:
    """Wait for somebody."""
    return await run.signal("never")


def machine() -> Machine:
    """Return a pipeline that keeps what it is given."""
    table = Machine("ingest", initial="read", final={"done"})

    @table.on("read", to="done")
    def read(step: Any, ctx: Context) -> None:
        ctx["copy"] = ctx.input
        ctx.note(f"read {CANARY}")

    return table


async def runs(rt: Runtime) -> None:
    """Let the canary run."""
    run = await rt.runs.start(
        work, CANARY, Order("x", CANARY), run_id="w", labels={"tenant": CANARY}
    )
    found = await rt.runs.list(labels={"tenant": CANARY})
    assert [one.id for one in found] == ["w"], "found by the label it was given"
    assert (await rt.runs.search.count(Sought(labels={"tenant": CANARY}))).value == 1
    async for event in rt.runs.history("w").follow():
        if event.type == "question.asked":
            break
    (question,) = await rt.runs.questions.list()
    assert CANARY not in repr(question)
    await rt.runs.answer(question.id, CANARY, by=CANARY, key=CANARY)
    await rt.runs.signal("w", "go", {"with": CANARY}, by=CANARY)
    result = await run.result()
    assert result[1] == "[redacted:bird]" and CANARY not in repr(result)
    assert await (await rt.runs.start(give)).result() == {"found": "[redacted:bird]"}
    failing = await rt.runs.start(end, run_id="e")
    with pytest.raises(RunFailedError) as failed:
        await failing.result()
    assert CANARY not in str(failed.value)
    await rt.runs.start(wait, run_id="p")
    async for event in rt.runs.history("p").follow():
        if event.type == "run.waiting":
            break
    await rt.runs.pause("p", reason=f"because of {CANARY}", by=CANARY)
    await rt.runs.resume("p", by=CANARY)
    await rt.runs.cancel("p", reason=CANARY, by=CANARY)
    await rt.runs.schedules.put("nightly", "0 4 * * *", part, CANARY)
    await rt.pipeline(machine(), "one").run({"text": CANARY})


async def sessions(rt: Runtime) -> None:
    """Let sessions hold the canary, in each tier."""
    async with rt.session(Chat, "c", identities=["name"]) as chat:
        async with chat.edit() as value:
            value.key, value.turns, value.draft = CANARY, ["a", CANARY], CANARY
        await rt.flush()
        async with chat.edit() as value:
            value.turns.append("b")
        assert chat.value.key == CANARY, "what is in memory is the program's"
    async with rt.session(Remembered, "r") as kept, kept.edit() as seen:
        seen.key = CANARY


async def ledger(rt: Runtime) -> None:
    """Let work in flight carry the canary."""
    async with rt.ledger.begin("w", note={"of": CANARY}) as entry:
        await entry.renew(note=CANARY)
        async with entry.effect("mail") as mail:
            mail.result = CANARY
        await rt.ledger.stop("w", CANARY, by=CANARY)
        await entry.settle(CANARY)
    await rt.latches.set("model", "m", f"failed with {CANARY}")


async def store(rt: Runtime) -> None:
    """Write the canary into every noun of the store that takes values."""
    history = rt.history("s")
    await history.append("t", {"deep": [{"x": CANARY}], CANARY: 1}, meta={"by": CANARY})
    event = history.event("u", CANARY, {"m": CANARY})
    await rt.commit(Unit((holdfast.Append("s", (event,)),)))
    await rt.records.put("k", "r", {"v": [CANARY], "s": Secret(CANARY)})
    digest = await rt.blobs.put(b"\x00" + CANARY.encode())
    assert await rt.blobs.get(digest) == b"\x00[redacted:bird]"
    for wrong in ({"v": {CANARY}}, {"v": object(), "w": CANARY}):
        with pytest.raises(HoldfastError) as refused:
            await rt.records.put("k", "bad", wrong)
        assert CANARY not in str(refused.value)


async def engines(rt: Runtime) -> None:
    """Let a rule engine be asked with the canary."""
    engine = await rt.engines.attach("policy", ClipsEngine("(deftemplate told (slot word))"))

    def tell(hands: Any, word: str) -> str:
        hands.assert_fact("told", word=word)
        return f"heard {word} and {CANARY}"

    answer = await engine.request(tell, CANARY, id="once")
    assert CANARY not in repr(answer)
    assert (await engine.request(tell, CANARY, id="once")).value == answer.value


def test_a_canary_is_in_no_byte_of_the_store_no_log_no_export_and_no_error(
    kept_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X12, issue 7 (canary through input, output, error, log, question, artifact name)."""
    caplog.set_level(logging.DEBUG)
    exports = tmp_path / "exports"
    exports.mkdir()

    async def whole() -> None:
        async with holdfast.open(kept_url, redact=RULES, functions=[part]) as rt:
            for some in (store, sessions, ledger, engines, runs):
                await some(rt)
            assert traces(kept_url, CANARY) == [], "while it is open: the log of SQLite, too"
            assert rt.redaction.counts()["bird"] > 40
            await rt.transfers.export_run("w", exports / "run")
            await rt.transfers.export_session("Chat", ("c",), exports / "session")
            await export_stream(rt, "s", exports / "stream")
            assert await rt.verify() == []
        async with holdfast.open(kept_url, redact=RULES, functions=[work]) as rt:
            async with rt.session(Chat, "c") as chat:
                assert chat.value.key == chat.value.draft == "[redacted:bird]"
            engine = await rt.engines.attach(
                "policy", ClipsEngine("(deftemplate told (slot word))")
            )
            facts = (await engine.request(lambda hands: len(list(hands.facts())))).value
            assert facts == 1, "an engine comes back, with the placeholder"
            await read_back(rt)

    asyncio.run(whole())
    assert traces(kept_url, CANARY) == []
    assert in_files(exports, CANARY) == []
    assert CANARY not in caplog.text


async def read_back(rt: Runtime) -> None:
    """What was compressed, too: everything a reader is given is clean."""
    for event in await rt.feed.read(limit=10_000, reserved=True):
        assert CANARY.encode() not in event.payload + (event.meta or b"")
    (artifact,) = await rt.runs.artifacts.list("w")
    assert artifact.name == "[redacted:bird].txt"
    assert await rt.runs.artifacts.read(artifact.id) == b"bytes of [redacted:bird]"
    assert CANARY not in repr(await rt.runs.result("w"))


def test_the_canary_is_found_where_no_rule_is_set(
    kept_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X12. The search of the test above sees what there is to see, which is nothing if sealed."""
    monkeypatch.delenv("HOLDFAST_KEYRING", raising=False)

    async def whole() -> None:
        async with holdfast.open(kept_url) as rt:
            await rt.history("s").append("t", {"x": CANARY})
            assert traces(kept_url, CANARY)
            assert rt.redaction.counts() == {}

    asyncio.run(whole())
    assert traces(kept_url, CANARY)


def test_equal_secrets_stay_equal_over_restarts_and_differ_between_stores(
    kept_url: str, tmp_path: Path
) -> None:
    """X12. The hash is keyed by the store; two runtimes that begin at once agree on the key."""
    rules = Redaction(names=["password"], patterns={"bird": RULES.patterns["bird"]}, keyed=True)

    async def said(url: str) -> list[Any]:
        async with holdfast.open(url, redact=rules) as rt:
            event = await rt.history("s").append("t", [CANARY, {"password": CANARY}])
            return list(event.data)

    async def whole() -> None:
        one, two = await asyncio.gather(said(kept_url), said(kept_url))
        assert one == two == await said(kept_url)
        hashed = one[0].removeprefix("[redacted:bird:")
        assert one[1] == {"password": f"[redacted:password:{hashed}"}
        assert await said(f"sqlite:///{tmp_path / 'other' / 'store.db'}") != one

    (tmp_path / "other").mkdir()
    asyncio.run(whole())
    assert traces(kept_url, CANARY) == []


def test_content_of_a_pipeline_that_is_not_kept_reaches_its_handler_whole(store_url: str) -> None:
    """X12. What is only in memory is the program's; what the store keeps of it is redacted."""
    seen: list[Any] = []
    table = Machine("peek", initial="read", final={"done"})

    @table.on("read", to="done")
    def read(step: Any, ctx: Context) -> None:
        seen.append(ctx.input)

    async def whole() -> None:
        async with holdfast.open(store_url, redact=RULES) as rt:
            await rt.pipeline(table, "k", keep_input=False).run(CANARY)
            await rt.pipeline(table, "l").run([CANARY])

    asyncio.run(whole())
    assert seen == [CANARY, ["[redacted:bird]"]]
