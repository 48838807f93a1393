"""Forks, threads and loops: a connection is never shared, and every loop is served."""

import asyncio
import subprocess
import sys
import threading

import holdfast
from holdfast import Runtime

THREADS = 4
EVENTS_EACH = 25


def test_a_forked_child_cannot_use_the_store(store_url: str) -> None:
    """F19. Every use is refused by name, none hangs, and the parent goes on."""
    program = [sys.executable, "-W", "ignore", "-m", "tests.runtime.forked", store_url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done


def test_several_threads_with_loops_of_their_own_share_a_runtime(store_url: str) -> None:
    """F19, A4. Each loop gets its own answers and wake-ups; nothing is lost between them."""
    failures: list[BaseException] = []

    async def work(rt: Runtime) -> None:
        async with asyncio.timeout(60):
            history = rt.history("s")
            stream = history.follow()
            for _ in range(EVENTS_EACH):
                await history.append("t")
            found = [(await anext(stream)).sequence for _ in range(THREADS * EVENTS_EACH)]
            assert found == list(range(1, THREADS * EVENTS_EACH + 1))
            await stream.aclose()

    def run(rt: Runtime) -> None:
        try:
            asyncio.run(work(rt))
        except BaseException as failure:
            failures.append(failure)

    async def main() -> None:
        async with holdfast.open(store_url) as rt:
            threads = [threading.Thread(target=run, args=(rt,)) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert failures == []
            assert await rt.verify() == []

    asyncio.run(main())
