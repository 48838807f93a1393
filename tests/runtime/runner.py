"""
A run with every kind of step, in a process of its own that may kill itself; run by the tests.

    python -m tests.runtime.runner URL FOLDER [POINT NTH]

It opens the store, starts the run unless it is there, plays the person who answers and sends a
signal, waits for the end, and prints what came of it as a line of JSON. What a step does to the
outside is a line in `FOLDER/effects`, so that one can count afterwards.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import holdfast
from holdfast import Retry, Run, Runtime, Verdict
from holdfast.core.failpoint import Failpoints
from holdfast.core.refusal import AnswerConflictError, RunExistsError, RunStateError
from holdfast.core.world import World
from holdfast.runtime.runs.step import Step, current_step

RUN_ID = "everything"
FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()


def effect(value: Any) -> Any:
    """Leave a line outside; what is in it was really done."""
    step = current_step.get()
    line = f"{step.name}#{step.n} {step.attempt} {step.key}\n"
    with (FOLDER / "effects").open("a") as file:
        file.write(line)
    return value


async def plan(topic: str) -> list[str]:
    """Do something that takes a turn of the loop."""
    await asyncio.sleep(0)
    return effect([topic, "first", "second"])  # type: ignore[no-any-return]


def price(outline: list[str]) -> float:
    """Do something at once."""
    return effect(len(outline) * 1.5)  # type: ignore[no-any-return]


async def branch(name: str) -> str:
    """Do one of two things at the same time."""
    await asyncio.sleep(0.001)
    return effect(name.upper())  # type: ignore[no-any-return]


async def flaky() -> str:
    """Fail at first."""
    effect(None)
    if current_step.get().attempt < 2:
        raise ConnectionError("not yet")
    return "got it"


async def post(text: str) -> str:
    """Do what must not be done twice."""
    return effect(f"posted {text}")  # type: ignore[no-any-return]


def was_posted(step: Step) -> Verdict:
    """Look outside whether it happened."""
    lines = (FOLDER / "effects").read_text().splitlines()
    if any(line.endswith(f" {step.key}") for line in lines):
        return Verdict("done", "posted yes")
    return Verdict("again")


async def small(run: Run, number: int) -> int:
    """Be a child."""
    return await run.step("square", lambda: effect(number * number))


async def everything(run: Run, topic: str) -> list[Any]:
    """Use all there is."""
    outline = await run.step("plan", plan, topic)
    cost = await run.step("price", price, outline, effect="idempotent")
    both = await asyncio.gather(
        run.step("left", branch, "left"), run.step("right", branch, "right")
    )
    await run.emit("halfway", {"cost": cost})
    await run.sleep(0.01)
    answer = await run.ask("Go on?", choices=["yes", "no"])
    word = await run.signal("word")
    got = await run.step("flaky", flaky, retry=Retry(attempts=20, backoff=0.01))
    artifact = await run.attach("outline.txt", "\n".join(outline).encode())
    square = await run.child(small, 7)
    posted = await run.step("post", post, answer, effect="once", resolver=was_posted)
    return [outline, cost, both, answer, word, got, artifact, square, posted]


async def person(rt: Runtime) -> None:
    """Answer what is asked, and send the signal, however often this has to be begun anew."""
    with suppress(AnswerConflictError, holdfast.NotFoundError, RunStateError):
        await rt.runs.answer(f"{RUN_ID}?1", "yes", by="ann", key="k")
    events = await rt.runs.history(RUN_ID).read()
    if not any(event.type == "signal.received" for event in events):
        with suppress(RunStateError):
            await rt.runs.signal(RUN_ID, "word", "abc")


async def main(url: str, point: str, nth: int) -> None:
    """Open, start, wait, print."""
    failpoints = Failpoints()
    count = 0

    def reached() -> None:
        nonlocal count
        count += 1
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    if point:
        failpoints.arm(point, reached)
    world = World(failpoints=failpoints)
    async with holdfast.open(url, world=world, functions=[everything, small]) as rt:
        try:
            run = await rt.runs.start(everything, "lighthouses", run_id=RUN_ID)
        except RunExistsError:
            run = rt.runs.handle(RUN_ID)
        ending = asyncio.ensure_future(run.ended())
        while not ending.done():
            await person(rt)
            await asyncio.wait([ending], timeout=0.02)
        result = await run.result()
        sys.stdout.write(json.dumps({"result": result, "status": ending.result().status.value}))


if __name__ == "__main__":
    nth = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    asyncio.run(main(sys.argv[1], sys.argv[3] if nth else "", nth))
