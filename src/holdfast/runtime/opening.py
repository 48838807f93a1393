"""
Opening a store: `holdfast.open`, and what it returns.

Invariant: when the block is left, everything accepted is durable and the store is released.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from holdfast.core.errors import InvalidValueError
from holdfast.core.redaction import Redaction, Redactor
from holdfast.core.telemetry import Hook, Telemetry
from holdfast.core.world import World
from holdfast.runtime.engines.engine import Engine
from holdfast.runtime.engines.settings import EngineSettings
from holdfast.runtime.runtime import Runtime, make_driver
from holdfast.store.options import Options as Options  # Public: `holdfast.Options`.
from holdfast.store.options import chosen_options
from holdfast.store.store import Store

FLUSH_INTERVAL_MIN = 0.05


class Opening:
    """What `open` returns; enter it to get a `Runtime`."""

    def __init__(
        self,
        store: Store,
        flush_interval: float,
        redaction: Redactor,
        *,
        wait_ready: bool = True,
        functions: Iterable[Callable[..., Any]] = (),
        engines: Mapping[str, Engine | tuple[Engine, EngineSettings]] | None = None,
    ) -> None:
        """Take a store that is not open yet."""
        self._store = store
        self._functions = tuple(functions)
        self._engines = dict(engines or {})
        self._flush_interval = flush_interval
        self._redaction = redaction
        self._wait_ready = wait_ready
        self._runtime: Runtime | None = None

    async def __aenter__(self) -> Runtime:
        """Look at what is there, bring it up to date, recover, start."""
        runtime = Runtime(self._store, self._flush_interval, self._redaction)
        for function in self._functions:
            runtime.runs.register(function)
        for name, given in self._engines.items():
            engine, settings = given if isinstance(given, tuple) else (given, None)
            runtime.engines.add(name, engine, settings)
        if self._wait_ready:
            await runtime.boot()
        else:
            runtime.boot_aside()
        self._runtime = runtime
        return runtime

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and release."""
        if self._runtime is not None:
            await self._runtime.close()


def open(
    url: str,
    *,
    flush_interval: float = 30.0,
    redact: Iterable[str] | Redaction = (),
    wait_ready: bool = True,
    functions: Iterable[Callable[..., Any]] = (),
    engines: Mapping[str, Engine | tuple[Engine, EngineSettings]] | None = None,
    telemetry: Iterable[Hook] = (),
    options: Options | None = None,
    world: World | None = None,
    **limits: Any,
) -> Opening:
    """
    Open a store; use it as `async with holdfast.open(url) as rt:`.

    Args:
        url: `sqlite:///file.db`, `sqlite:////absolute.db`, `sqlite:///:memory:` or
            `postgresql://user@host/database?schema=holdfast`.
        flush_interval: seconds between two writes of buffered fields, 0.05 or more.
        redact: names of fields whose values are never stored, or a `Redaction`.
        wait_ready: enter the block when it is ready; if False, enter at once and await
            `rt.ready()`; until then every change of state raises `NotReadyError`.
        functions: whose runs go on here; see `rt.runs.register`.
        engines: restored before it is ready, by name, each alone or as a tuple with its
            `EngineSettings`; `rt.engines.attach` brings back more.
        telemetry: hooks that are told what happens, such as
            `holdfast.adapters.prometheus.Metrics()`.
        options: limits; see `Options`.
        world: clock, ids and failpoints, for tests.
        limits: single fields of `Options`, such as `read_only=True`.

    Raises:
        InvalidValueError: the URL or an option is not acceptable.
        StoreError: on entering, if the store is refused, damaged, newer, locked or unsafe.
    """
    if flush_interval < FLUSH_INTERVAL_MIN:
        raise InvalidValueError(
            what="flush_interval", reason=f"is {flush_interval}, at least {FLUSH_INTERVAL_MIN} s"
        )
    chosen = chosen_options(options, limits)
    surroundings = world or World()
    if hooks := tuple(telemetry):
        surroundings = replace(surroundings, telemetry=Telemetry(hooks))
    store = Store(make_driver(url, chosen, surroundings), chosen, surroundings)
    return Opening(
        store,
        flush_interval,
        Redactor(Redaction.of(redact), os.environ, surroundings.telemetry.redacted),
        wait_ready=wait_ready,
        functions=functions,
        engines=engines,
    )
