"""
The facts of one engine, as they are now, and a digest of all of them.

The digest is a sum of one digest per fact, so that their order does not count and a change
costs what changed.

Invariant: after `note` this is what the engine holds.
"""

from hashlib import blake2b
from typing import Any, Final

import msgspec
from clips._clips import ffi, lib

from holdfast.adapters.clips.library import Listener
from holdfast.adapters.clips.values import Fact, decoded, read, read_slot
from holdfast.core.deadline import Deadline
from holdfast.core.errors import InvalidValueError

DIGEST_BYTES: Final = 16
_WHOLE: Final = 1 << (8 * DIGEST_BYTES)
_pack = msgspec.msgpack.Encoder().encode


class Held(msgspec.Struct, gc=False):
    """
    A fact that is there.

    Attributes:
        address: its `Fact *`.
        template: its name.
        values: of its slots, as they are kept.
        digest: of template and values.
    """

    address: Any
    template: str
    values: list[Any]
    digest: int


class Facts:
    """
    What one engine holds.

    Attributes:
        by_index: the facts.
        by_template: indices of the facts of a template.
        next: index that the next fact gets.
    """

    def __init__(self, listener: Listener) -> None:
        """Take who hears what changes."""
        self.by_index: dict[int, Held] = {}
        self.by_template: dict[str, set[int]] = {}
        self.next = 1
        self._listener = listener
        self._total = 0
        self._templates: dict[int, tuple[str, list[bytes] | None]] = {}
        self._box: Any = ffi.new("CLIPSValue *")

    @property
    def digest(self) -> bytes:
        """The digest of all facts: equal contents, equal digest, in whatever order."""
        return self._total.to_bytes(DIGEST_BYTES, "big")

    def get(self, index: int) -> Held:
        """
        Return a fact that is there.

        Raises:
            InvalidValueError: it is not.
        """
        found = self.by_index.get(index)
        if found is None:
            raise InvalidValueError(what=f"fact {index}", reason="is not there, or no more")
        return found

    def note(self) -> tuple[list[int], set[int]]:
        """Take over what the engine changed; return the facts that are new, and those that went."""
        came, gone = self._listener.changes()
        for index in gone:
            held = self.by_index.pop(index, None)
            if held is not None:
                self._total = (self._total - held.digest) % _WHOLE
                self.by_template[held.template].discard(index)
        for index, address in came.items():
            held = self.by_index[index] = self._look(index, address)
            self._total = (self._total + held.digest) % _WHOLE
            self.by_template.setdefault(held.template, set()).add(index)
            self.next = max(self.next, index + 1)
        return sorted(came.keys() - gone), gone - came.keys()

    def _look(self, index: int, address: Any) -> Held:
        """Read a fact."""
        template, slots = self.template(lib.FactDeftemplate(address))
        where = f"fact {index} ({template})"
        if slots is None:
            values = [read_slot(address, None, self._box, where)]
        else:
            values = [read_slot(address, slot, self._box, where) for slot in slots]
        digest = blake2b(_pack((template, values)), digest_size=DIGEST_BYTES).digest()
        return Held(address, template, values, int.from_bytes(digest, "big"))

    def template(self, address: Any) -> tuple[str, list[bytes] | None]:
        """Return the name of a template, and its slots; those of an ordered fact are None."""
        number = int(ffi.cast("uintptr_t", address))
        found = self._templates.get(number)
        if found is None:
            name = ffi.string(lib.DeftemplateName(address)).decode()
            module = ffi.string(lib.DeftemplateModule(address)).decode()
            slots = None if lib.ImpliedDeftemplate(address) else self._slots(address)
            name = name if module == "MAIN" else f"{module}::{name}"
            found = self._templates[number] = (name, slots)
        return found

    def _slots(self, template: Any) -> list[bytes]:
        box = ffi.new("CLIPSValue *")
        lib.DeftemplateSlotNames(template, box)
        return [item[1].encode() for item in read(box, "slots")[1]]

    def shown(self, index: int, deadline: Deadline | None) -> Fact:
        """Return a fact as a caller sees it."""
        held = self.get(index)
        slots = self.template(lib.FactDeftemplate(held.address))[1]
        names = [""] if slots is None else [slot.decode() for slot in slots]
        values = [decoded(value) for value in held.values]
        return Fact(index, held.template, dict(zip(names, values, strict=True)), deadline)

    def clear(self) -> None:
        """Forget all of them."""
        self.by_index.clear()
        self.by_template.clear()
