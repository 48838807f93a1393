"""Claims about names and keys: any two that differ stay different, whatever is in them."""

import unicodedata
from itertools import pairwise
from random import Random
from typing import Final

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError, LimitError
from holdfast.core.key import Key
from holdfast.core.unit import GrantLease, PutRecord, Unit
from holdfast.testing.contract.claim import Opener, asynchronous, equal, refused, seeded

__all__ = ["KeyContract"]

_LONG: Final = "x" * 10_000
NASTY: Final = (
    *("", " ", "  ", ".", "..", "...", "/", "//", "a/b", "a//b", "/a", "a/", "../a", "a/../b"),
    *("a\\b", "a:b", "a|b", "a,b", "a;b", "a%2Fb", "a%b", "a_b", "%", "_", "*", "?", "a*"),
    *(
        "A",
        "a",
        "Ab",
        "aB",
        "AB",
        "ab",
        "ß",
        "ss",
        "SS",
        "\u0131",
        "i",
        "\u0130",
        "I",
        "\u017f",
        "s",
        "S",
    ),
    *("é", "e\u0301", "Å", "A\u030a", "\u212b", "ﬁ", "fi", "①", "1", "\u200b", "\ufeff", "\u202e"),
    *("\0", "\0\0", "a\0", "\0a", "a\0b", "a\x01b", "\xff", "a\xff", "\x7f", "\n", "a\n", "\r\n"),
    *("\U0001f600", "\U0001f600\ufe0f", "\uffff", "\U0010ffff", "None", "null", "0", "00", "-0"),
    *("'", '"', "a'b", "--", "; DROP TABLE event", "CON", "nul", "a.", "a ", " a", "~", "$HOME"),
    *(_LONG, _LONG + "y", _LONG[:-1], _LONG.upper(), "y" + _LONG[1:], "é" * 10_000),
    *("e\u0301" * 10_000, "\0" * 10_000, "/" * 10_000, "\U0001f600" * 10_000),
)
_PIECES: Final = ("a", "A", "/", ".", "\0", "\x01", "\xff", "é", "e\u0301", "ß", " ", "%", "\\")


class KeyContract:
    """What names and keys promise."""

    @asynchronous
    async def test_streams_with_different_names_are_different(self, open_store: Opener) -> None:
        """R3, X6, A8. Each holds its own events and gives its exact name back."""
        with seeded() as rng:
            names = _names(rng)
            async with open_store() as rt:
                for name in names:
                    equal((await rt.history(name).append("t", name)).sequence, 1, ascii(name[:50]))
                for name in names:
                    events = await rt.history(name).read()
                    equal([event.data for event in events], [name], ascii(name[:50]))
                listed = [info.name for info in await rt.streams(limit=10_000)]
                equal(listed, sorted(names, key=str.encode), "listed names")
                equal(await rt.verify(), [], "findings")

    @asynchronous
    async def test_records_with_different_keys_are_different(self, open_store: Opener) -> None:
        """R3, X6. Also when parts are split elsewhere; the list gives the exact keys back."""
        with seeded() as rng:
            names = _names(rng)
            keys: set[Key] = {(name,) for name in names}
            keys |= set(pairwise(names))
            keys |= {("a", "b"), ("a", "", "b"), ("", "a", "b"), ("a", "b", ""), ("ab",), ("", "")}
            async with open_store() as rt:
                writes = [PutRecord("k", key, codec.encode(list(key))) for key in keys]
                for start in range(0, len(writes), 50):
                    await rt.commit(Unit(tuple(writes[start : start + 50])))
                for key in keys:
                    record = await rt.records.get("k", key)
                    equal((record.key, record.value), (key, list(key)), "record")
                listed = [record.key for record in await rt.records.list("k", limit=10_000)]
                equal(sorted(listed), sorted(keys), "listed keys")
                equal(await rt.verify(), [], "findings")

    @asynchronous
    async def test_leases_with_different_names_are_different(self, open_store: Opener) -> None:
        """R3, X6. Holding one is not holding the other."""
        with seeded() as rng:
            names = _names(rng)
            async with open_store() as rt:
                for start in range(0, len(names), 50):
                    part = names[start : start + 50]
                    await rt.commit(Unit(tuple(GrantLease(name, 600.0, "me") for name in part)))
                for name in names:
                    row = await rt.leases.find(name)
                    equal(row and (row.key, row.generation), (name, 1), ascii(name[:50]))

    @asynchronous
    async def test_names_that_no_store_keeps_are_refused(self, open_store: Opener) -> None:
        """R3, R8. No lone surrogate, nothing endless, nothing that is not a string."""
        async with open_store() as rt:
            for name in ("\ud800", "a\udfff"):
                with refused(InvalidValueError):
                    await rt.history(name).append("t")
                with refused(InvalidValueError):
                    await rt.records.put("k", name, 1)
                with refused(InvalidValueError):
                    await rt.leases.grant(name, 60.0)
            for name in ("x" * 70_000, "é" * 40_000):
                with refused(LimitError):
                    await rt.history(name).append("t")
                with refused(LimitError):
                    await rt.records.put("k", ("a", name), 1)
            for word in ("", "a\0b", "\ud800"):
                with refused(InvalidValueError):
                    await rt.history("a").append(word)
                with refused(InvalidValueError):
                    await rt.records.put(word, "a", 1)
            equal(await rt.streams(), [], "streams")


def _names(rng: Random) -> list[str]:
    """Return the nasty names with their Unicode forms and some random ones, each once."""
    names = list(NASTY)
    names += ["".join(rng.choices(_PIECES, k=rng.randint(1, 8))) for _ in range(60)]
    names += [unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD")]
    return list(dict.fromkeys(names))
