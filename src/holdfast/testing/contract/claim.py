"""
How a claim of the contract is stated: run it, compare, expect a refusal.

The suite needs nothing but a runner that finds classes with `test_` methods and hands them a
fixture named `open_store`; pytest is one. A claim that hangs is a claim that fails.
"""

import asyncio
import os
import secrets
import struct
import unittest
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import wraps
from random import Random
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from holdfast.core.errors import HoldfastError
from holdfast.runtime.runtime import Runtime

__all__ = ["Opener", "asynchronous", "equal", "holds", "identical", "refused", "seeded"]

TIME_LIMIT: Final = 120.0
SEED_VARIABLE: Final = "HOLDFAST_SEED"
P = ParamSpec("P")
S = TypeVar("S")
E = TypeVar("E", bound=HoldfastError)


class Opener:
    """
    How the suite opens the store under test; what the fixture `open_store` returns.

    Attributes:
        keeps: opening again finds what was there; False for a store in memory.
    """

    def __init__(
        self, open_once: Callable[..., AbstractAsyncContextManager[Runtime]], *, keeps: bool = True
    ) -> None:
        """
        Take a function that opens the store, always the same one.

        Args:
            open_once: called with options of `holdfast.open`; returns what enters to a Runtime.
            keeps: whether opening again finds what was there.
        """
        self._open_once = open_once
        self.keeps = keeps

    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Runtime]:
        """Open the store."""
        return self._open_once(**options)

    def need_keeping(self) -> None:
        """
        Leave a claim about opening again, aloud, where nothing can be there again.

        Raises:
            SkipTest: the store is in memory.
        """
        if not self.keeps:
            raise unittest.SkipTest("a store in memory ends with its only opening")


def asynchronous(
    claim: Callable[Concatenate[S, P], Awaitable[None]],
) -> Callable[Concatenate[S, P], None]:
    """Make a claim written as a coroutine one that any runner can call."""

    @wraps(claim)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(TIME_LIMIT):
                await claim(self, *args, **kwargs)

        asyncio.run(limited())

    return run


def holds(condition: bool, claim: str) -> None:
    """
    State that something is so.

    Raises:
        AssertionError: it is not.
    """
    if not condition:
        raise AssertionError(claim)


def equal(found: object, expected: object, what: str = "value") -> None:
    """
    State that two values are equal.

    Raises:
        AssertionError: they differ; shows both.
    """
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def identical(found: object, expected: object, what: str = "value") -> None:
    """
    State that two plain values have the same types and the same bits, all the way down.

    Raises:
        AssertionError: they differ; shows where.
    """
    equal(type(found), type(expected), f"type of {what}")
    if isinstance(expected, float):
        equal(struct.pack(">d", cast(float, found)), struct.pack(">d", expected), f"bits of {what}")
    elif isinstance(expected, list):
        items, wanted = cast(list[object], found), cast(list[object], expected)
        equal(len(items), len(wanted), f"length of {what}")
        for index, (item, want) in enumerate(zip(items, wanted, strict=True)):
            identical(item, want, f"{what}[{index}]")
    elif isinstance(expected, dict):
        fields, needed = cast(dict[str, object], found), cast(dict[str, object], expected)
        equal(list(fields), list(needed), f"names in {what}, in order")
        for name, want in needed.items():
            identical(fields[name], want, f"{what}.{name}")
    else:
        equal(found, expected, what)


class Refusal(list[E]):
    """What `refused` caught; `error` is it."""

    @property
    def error(self) -> E:
        """The refusal."""
        return self[0]


@contextmanager
def refused(kind: type[E]) -> Generator[Refusal[E]]:
    """
    State that a block is refused with this very error.

    Raises:
        AssertionError: nothing was refused.
    """
    caught = Refusal[E]()
    try:
        yield caught
    except kind as error:
        if type(error) is not kind:
            raise
        caught.append(error)
    else:
        raise AssertionError(f"expected {kind.__name__}, but nothing was refused")


@contextmanager
def seeded() -> Generator[Random]:
    """Yield a random source; a failure says which seed replays it."""
    seed = int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(2**32))
    try:
        yield Random(seed)
    except BaseException as failure:
        failure.add_note(f"replay with {SEED_VARIABLE}={seed}")
        raise
