"""
One process that runs the release graph: `python -m examples.graph.process STORE [PLACE NTH]`.

It plays the reviewer, who wants a fix at first, and prints fields and way at the end as JSON. At
PLACE, for the NTH time, it kills itself: `begin` and `end` are before and behind the work of a
stage, `recorded` is when a transition is durable.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import holdfast
from examples.graph.stages import stage
from holdfast import Machine, Runtime, load_graph
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World

GRAPH = Path(__file__).parent / "release.dot"
KEY = ("release", "7")
ANSWERS = ["Fix it", "Approve", "Approve"]


class Places:
    """Counts how often each place was reached, and dies at one of them."""

    def __init__(self, place: str, nth: int) -> None:
        """Take where to die; never, if the place is empty."""
        self._death = (place, nth)
        self.reached: Counter[str] = Counter()

    def reach(self, place: str) -> None:
        """Note that a place is reached."""
        self.reached[place] += 1
        if (place, self.reached[place]) == self._death:
            os.kill(os.getpid(), signal.SIGKILL)


def release_machine(places: Places) -> Machine:
    """Return the graph as a machine whose stages may be the end of this process."""

    def killable(step: Any, node: Any, ctx: Any) -> Any:
        places.reach("begin")
        outcome = stage(step, node, ctx)
        places.reach("end")
        return outcome

    return load_graph(GRAPH.read_text(encoding="utf-8"), killable)


async def review(rt: Runtime, run_id: str) -> None:
    """Answer every question as the script says, also those that were answered before."""
    asked = 0
    async for event in rt.history(f"run/{run_id}").follow():
        if event.type == "question.asked":
            await rt.runs.answer(event.data["id"], ANSWERS[asked], by="ann", key=f"answer {asked}")
            asked += 1


async def main(store: str, place: str, nth: int) -> None:
    """Run the graph, or go on with it."""
    places = Places(place, nth)
    failpoints = Failpoints()
    failpoints.arm("run.step_recorded", lambda: places.reach("recorded"))
    async with holdfast.open(store, world=World(failpoints=failpoints)) as rt:
        pipeline = rt.pipeline(release_machine(places), KEY)
        version = await pipeline.start()
        reviewer = asyncio.create_task(review(rt, version.run_id))
        fields = await pipeline.run()
        await reviewer
        log = await pipeline.log()
    way = [one.state for one in log if not one.error]
    print(json.dumps({"fields": fields, "way": way, "reached": places.reached}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *([sys.argv[2], int(sys.argv[3])] if sys.argv[3:] else ["", 0])))
