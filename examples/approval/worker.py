"""
The run and the process that executes it: `python -m examples.approval.worker ...`.

    prepare -> attach -> ask -- yes --> publish -> announce -> wait for the confirmation
                            \\-- no --> the end

`publish` is idempotent: after a crash it is asked again with the same key. `announce` is done
once: a letter that may have been sent is asked after; if the service does not have it, somebody
has to say whether it is sent again.

    python -m examples.approval.worker STORE PORT RUN_ID [PLACE NTH]

At PLACE, a failpoint or a place around a call to the service, it kills itself for the NTH time
it comes there. At the end it prints how often it came to each place.
"""

import asyncio
import http.client
import json
import os
import signal
import sys
from collections import Counter
from functools import partial
from typing import Any

import holdfast
from holdfast import Retry, Run, Step, Verdict
from holdfast.core.failpoint import POINTS, Failpoints
from holdfast.core.refusal import RunExistsError
from holdfast.core.world import World

TOPIC = "lighthouses"
DOCUMENT = "document.md"
STEPS = ("prepare#1", "publish#1", "announce#1")
"""The steps of an approved run, in order."""
# An attempt that is killed counts, and here every attempt may be killed.
INSIST = Retry(attempts=1_000, backoff=0.01, longest=0.05)
_GONE = http.HTTPStatus.CONFLICT


class Places:
    """Counts how often each place was reached, and dies at one of them."""

    def __init__(self, place: str = "", nth: int = 0) -> None:
        """Take where to die; never, if the place is empty."""
        self._death = (place, nth)
        self.reached: Counter[str] = Counter()

    def reach(self, place: str) -> None:
        """Note that a place is reached."""
        self.reached[place] += 1
        if (place, self.reached[place]) == self._death:
            os.kill(os.getpid(), signal.SIGKILL)

    def failpoints(self) -> Failpoints:
        """Return failpoints that are places."""
        failpoints = Failpoints()
        for point in POINTS:
            failpoints.arm(point, partial(self.reach, point))
        return failpoints


class Service:
    """The service outside, as the steps of a run see it."""

    def __init__(self, port: int, places: Places) -> None:
        """Take where it listens."""
        self._port = port
        self._places = places

    async def put(self, what: str, step: Step, body: str) -> str:
        """Have something done, under the step's key and token."""
        status, answer = await asyncio.to_thread(self._call, "PUT", what, step, body.encode())
        if status == _GONE:
            raise ConnectionError("another owner has asked since")
        return answer

    async def get(self, what: str, step: Step) -> str:
        """Ask what became of it; behind this, no owner with a smaller token gets through."""
        return (await asyncio.to_thread(self._call, "GET", what, step, b""))[1]

    def _call(self, method: str, what: str, step: Step, body: bytes) -> tuple[int, str]:
        headers = {
            "Idempotency-Key": step.key,
            "Fencing-Token": str(step.token),
            "Run-Id": step.run_id,
        }
        self._places.reach("call.begun")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, f"/{what}/{step.key}", body, headers)
            self._places.reach("call.sent")
            response = connection.getresponse()
            answer = response.read().decode()
            self._places.reach("call.answered")
            return response.status, answer
        finally:
            connection.close()


class Approval:
    """The function that is run, and its steps."""

    def __init__(self, service: Service) -> None:
        """Take the service outside."""
        self._service = service

    async def approve(self, run: Run, topic: str) -> dict[str, Any]:
        """Prepare a document, ask for approval, publish it, and wait for the confirmation."""
        text = await run.step("prepare", prepare, topic)
        await run.attach(DOCUMENT, text.encode(), media_type="text/markdown")
        if await run.ask(f"Publish {topic}?", choices=["yes", "no"]) == "no":
            return {"published": "", "announced": "", "confirmed": ""}
        published = await run.step(
            "publish", self._put, run, "publications", text, effect="idempotent", retry=INSIST
        )
        letter = f"{topic} is out: {published}"
        announced = await run.step(
            "announce", self._put, run, "letters", letter, effect="once", resolver=self._was_sent
        )
        confirmed = await run.signal("confirmed")
        return {"published": published, "announced": announced, "confirmed": confirmed}

    async def _put(self, run: Run, what: str, body: str) -> str:
        return await self._service.put(what, run.current, body)

    async def _was_sent(self, step: Step) -> Verdict | None:
        """Ask the service; if it does not have the letter, leave it to a person."""
        answer = await self._service.get("letters", step)
        return Verdict("done", answer) if answer else None


async def prepare(topic: str) -> str:
    """Write the document; twice the same, byte for byte."""
    lines = [f"{number}. what {topic} are for" for number in range(1, 200)]
    return "\n".join([f"# {topic}", *lines, ""])


async def main(store: str, port: int, run_id: str, places: Places) -> None:
    """Start the run, or go on with it."""
    world = World(failpoints=places.failpoints())
    approve = Approval(Service(port, places)).approve
    async with holdfast.open(store, world=world) as rt:
        rt.runs.register(approve, name="approve")
        try:
            run = await rt.runs.start(approve, TOPIC, run_id=run_id)
        except RunExistsError:
            run = rt.runs.handle(run_id)
        await run.ended()
    sys.stdout.write(json.dumps(places.reached))


if __name__ == "__main__":
    _, store, port, run_id, *death = sys.argv
    dying = Places(death[0], int(death[1])) if death else Places()
    asyncio.run(main(store, int(port), run_id, dying))
