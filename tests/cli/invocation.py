"""Running the command as users do, and the stores that the tests look at with it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import holdfast

HOLDFAST = [sys.executable, "-m", "holdfast"]
SECRET = "correct horse battery staple"
T = TypeVar("T")


def invoke(*words: str | Path, store: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `store` goes in by the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "HOLDFAST_STORE"}
    if store is not None:
        environment["HOLDFAST_STORE"] = store
    return subprocess.run(
        [*HOLDFAST, *map(str, words)], env=environment, capture_output=True, text=True, timeout=60
    )


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return what a command printed with `--json`."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


async def fill(url: str, events: int = 3, stream: str = "chat/user-42") -> None:
    """Append events that hold a secret to one stream, and one event to two others."""
    async with holdfast.open(url) as rt:
        history = rt.history(stream)
        for number in range(events):
            await history.append("turn_added", {"number": number, "text": SECRET})
        await rt.history("chat/zoe").append("turn_added", None, meta={"by": "zoe"})
        await rt.history("turns/1").append("run_started")
