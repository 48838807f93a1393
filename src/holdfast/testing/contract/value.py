"""Claims about values: they come back exactly as they were, or are refused by place."""

import datetime
import decimal
import struct
from random import Random
from typing import Any, Final

from holdfast.core import codec
from holdfast.core.errors import EncodeError, LimitError
from holdfast.core.unit import PatchRecord, Unit
from holdfast.testing.contract.claim import (
    Opener,
    asynchronous,
    equal,
    holds,
    identical,
    refused,
    seeded,
)

__all__ = ["ValueContract"]

SECRET: Final = "do-not-print-me"


class Text(str):
    """A string that is not quite one."""

    __slots__ = ()


class Fields(dict[str, object]):
    """A dict that is not quite one."""


class Number(int):
    """A number that is not quite one."""


_NANS: Final = (b"\x7f\xf8\0\0\0\0\0\0", b"\xff\xf8\0\0\0\0\0\1")
EXACT: Final[list[Any]] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1),
    *(0.0, -0.0, 1.0, 0.1, 5e-324, 1.7976931348623157e308, float("inf"), -float("inf")),
    *(struct.unpack(">d", bits)[0] for bits in _NANS),
    *("", "a\0b", "é", "e\u0301", "\U0001f600", "x" * 70_000, b"", b"\0\xff", b"x" * 70_000),
    *([], {}, [[]], [{}], {"": {}}, {"a": None, "A": 0, "á": False}, {"z": 1, "a": 2}),
    {"list": [1, 1.0, True, "1", b"1", None], "deep": {"er": [{"x": [-0.0]}]}},
]
INEXACT: Final[list[Any]] = [
    *((1, SECRET), {SECRET}, frozenset([1]), range(3), bytearray(b"x"), memoryview(b"x"), object),
    *(decimal.Decimal("1.5"), datetime.datetime(2024, 1, 2), datetime.date(2024, 1, 2), 1 + 2j),
    *(Text(SECRET), Fields(a=SECRET), Number(7), 2**64, -(2**63) - 1, SECRET + "\ud800"),
]


class ValueContract:
    """What stored values promise."""

    @asynchronous
    async def test_values_come_back_to_the_bit(self, open_store: Opener) -> None:
        """R8, C4, N1. Types, signs of zero, NaN bits, order of names: in events and records."""
        with seeded() as rng:
            values: list[Any] = [*EXACT, *(_plain(rng, 4) for _ in range(60))]
            async with open_store() as rt:
                history = rt.history("s")
                await history.append_all([history.event("t", v, {"m": v}) for v in values])
                events = await history.read()
                for number, value in enumerate(values):
                    identical(events[number].data, value, f"event {number}")
                    identical(events[number].metadata, {"m": value}, f"meta {number}")
                    await rt.records.put("k", str(number), value)
                    identical((await rt.records.get("k", str(number))).value, value, "record")
            if open_store.keeps:
                async with open_store() as rt:
                    found = [event.data for event in await rt.history("s").read()]
                    identical(found, values, "events after opening again")

    @asynchronous
    async def test_what_is_not_exact_is_refused_by_place(self, open_store: Opener) -> None:
        """R8, C4, X12. The error says where, in words that hold nothing of the content."""
        async with open_store() as rt:
            history = rt.history("s")
            for bad in INEXACT:
                for value, place in (
                    (bad, ""),
                    ([0, [bad]], "[1][0]"),
                    ({"a": [{"b": bad}]}, ".a[0].b"),
                ):
                    with refused(EncodeError) as refusal:
                        await history.append("t", value)
                    _names_only_the_place(refusal.error, "data", place, bad)
                    with refused(EncodeError) as refusal:
                        await rt.records.put("k", "a", value)
                    _names_only_the_place(refusal.error, "k", place, bad)
                    with refused(EncodeError):
                        await history.append("t", meta={"m": value})
            equal(len(await history.read()) + len(await rt.records.list("k")), 0, "stored")

    @asynchronous
    async def test_keys_of_dicts_are_strings(self, open_store: Opener) -> None:
        """R8, X12. Nothing becomes a string in silence."""
        keys: tuple[Any, ...] = (1, None, True, 1.5, b"a", (SECRET,), Text(SECRET), "\ud800")
        async with open_store() as rt:
            for key in keys:
                with refused(EncodeError) as refusal:
                    await rt.records.put("k", "a", {"in": {key: SECRET}})
                holds(SECRET not in str(refusal.error), "the error holds no content")

    @asynchronous
    async def test_values_have_a_depth_and_a_size(self, open_store: Opener) -> None:
        """F22, R8. The deepest and the largest allowed come back, the next are refused."""
        async with open_store() as rt:
            deepest: list[object] = []
            for _ in range(codec.DEPTH_MAX - 1):
                deepest = [deepest]
            await rt.records.put("k", "deep", deepest)
            identical((await rt.records.get("k", "deep")).value, deepest, "deepest")
            with refused(EncodeError):
                await rt.records.put("k", "deep", [deepest])
            loop: list[object] = []
            loop.append(loop)
            with refused(EncodeError):
                await rt.history("s").append("t", loop)
            largest = bytes(codec.PAYLOAD_BYTES_MAX - 5)
            event = await rt.history("s").append("t", largest)
            holds(event.data == largest, "the largest came back")
            with refused(LimitError):
                await rt.history("s").append("t", largest + b"x")

    @asynchronous
    async def test_what_a_patch_makes_can_be_read(self, open_store: Opener) -> None:
        """C4. A record that grows by patches is refused before it cannot be loaded."""
        async with open_store() as rt:
            part = codec.encode(bytes(codec.PAYLOAD_BYTES_MAX // 2))
            await rt.commit(Unit((PatchRecord("k", ("a",), set={"one": part}),)))
            with refused(LimitError):
                await rt.commit(Unit((PatchRecord("k", ("a",), set={"two": part}),)))
            equal(list((await rt.records.get("k", "a")).value), ["one"], "fields")


def _names_only_the_place(error: EncodeError, what: str, place: str, bad: object) -> None:
    text = str(error)
    holds(SECRET not in text, "the error holds no content")
    # Integers and surrogates are found by the encoder, which does not know where it is.
    if type(bad) not in (int, str):
        equal(error.path, what + place, "place")
    else:
        holds(error.path.startswith(what), f"the error says where: {text}")


def _plain(rng: Random, depth: int) -> object:
    """Return a random plain value."""
    kind = rng.randrange(9 if depth else 7)
    match kind:
        case 0:
            return rng.choice((None, True, False))
        case 1:
            return rng.randint(-(2**63), 2**64 - 1) >> rng.randrange(64)
        case 2 | 3:
            return struct.unpack(">d", rng.randbytes(8))[0]
        case 4 | 5:
            return "".join(chr(rng.choice((0, 65, 233, 0x301, 0x1F600))) for _ in range(depth))
        case 6:
            return rng.randbytes(rng.randrange(40))
        case 7:
            return [_plain(rng, depth - 1) for _ in range(rng.randrange(5))]
        case _:
            names = [f"f{rng.randrange(99)}" for _ in range(rng.randrange(5))]
            return {name: _plain(rng, depth - 1) for name in names}
