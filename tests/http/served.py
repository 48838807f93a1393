"""A runtime and its service in the process of a test."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import holdfast
import holdfast.http
from holdfast.http import Settings
from tests.http.functions import FUNCTIONS
from tests.http.server import TOKEN


class Served:
    """
    A runtime and its service.

    Attributes:
        rt: the runtime.
        app: the service as an application.
        site: what it shares.
    """

    def __init__(self, rt: holdfast.Runtime, **settings: Any) -> None:
        """Serve it."""
        self.rt = rt
        self.app = holdfast.http.app(rt, Settings(token=TOKEN, **settings))
        self.site = self.app.state.site

    async def counted(self, events: int) -> int:
        """Run something that emits so many events; return how many there are in its journal."""
        await (await self.rt.runs.start("tests.http.functions.count", events, run_id="r")).result()
        return (await self.rt.runs.history("r").info()).last_sequence


def serving(**settings: Any) -> Callable[[Any], Any]:
    """Let a test that takes `served` run on each kind of store, with a service on it."""

    def wrap(test: Any) -> Any:
        def run(store_url: str, **more: Any) -> None:
            async def main() -> None:
                async with holdfast.open(store_url, functions=FUNCTIONS) as rt:
                    await test(Served(rt, **settings), **more)

            asyncio.run(main())

        taken = [one for one in inspect.signature(test).parameters.values() if one.name != "served"]
        url = inspect.Parameter("store_url", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__signature__ = inspect.Signature([url, *taken])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = test.__name__, test.__doc__
        run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
        return run

    return wrap
