"""
The facts of one engine, as they are now, and a digest of all of them.

The digest is a sum of one digest per fact, so that their order does not count and a change
costs what changed.

Invariant: after `note` this is what the engine holds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
from clips._clips import ffi, lib

from holdfast.adapters.clips.library import Listener
from holdfast.adapters.clips.values import Fact, read, read_slot
from holdfast.core.deadline import Deadline
from holdfast.core.errors import InvalidValueError

DIGEST_BYTES: Final = 16
_WHOLE: Final = 1 << (8 * DIGEST_BYTES)
_pack = msgspec.msgpack.Encoder().encode
unpacked = msgspec.msgpack.Decoder().decode
_template_of = lib.FactDeftemplate


class Held(msgspec.Struct, gc=False):
    """
    A fact that is there.

    Attributes:
        address: its `Fact *`.
        template: its name.
        kept: values of its slots, as they are kept, packed.
        digest: of template and values.
    """

    address: Any
    template: str
    kept: bytes
    digest: int


class Template(NamedTuple):
    """
    What is known of a template.

    Attributes:
        name: with its module, unless that is MAIN.
        slots: their names as CLIPS takes them; None for the one of an ordered fact.
        names: the same as words.
    """

    name: str
    slots: tuple[bytes | None, ...]
    names: tuple[str, ...]


def _held(address: Any, template: str, values: list[Any]) -> Held:
    kept = _pack(values)
    digest = blake2b(template.encode() + b"\0" + kept, digest_size=DIGEST_BYTES).digest()
    return Held(address, template, kept, int.from_bytes(digest, "big"))


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
        self._begins_anew = False
        self._templates: dict[int, Template] = {}
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
        if not came and not gone:
            return [], gone
        for index in gone:
            # Also one that came and went at once has used its index up.
            self.next = self.next if self._begins_anew else max(self.next, index + 1)
            held = self.by_index.pop(index, None)
            if held is not None:
                self._total = (self._total - held.digest) % _WHOLE
                self.by_template[held.template].discard(index)
        for index, address in came.items():
            held = self.by_index[index] = self._look(index, address)
            self._total = (self._total + held.digest) % _WHOLE
            self.by_template.setdefault(held.template, set()).add(index)
            self.next = max(self.next, index + 1)
        self._begins_anew = False
        return sorted(came.keys() - gone), gone - came.keys()

    def begin_anew(self) -> None:
        """Count indices from 1 again; what goes now went before that."""
        self.next = 1
        self._begins_anew = True

    def _look(self, index: int, address: Any) -> Held:
        """Read a fact."""
        template, slots, _ = self.template(_template_of(address))
        where, box = f"fact {index} ({template})", self._box
        return _held(address, template, [read_slot(address, slot, box, where) for slot in slots])

    def add(self, index: int, address: Any, template: str, values: list[Any]) -> None:
        """Take a fact that was just put there with these values, as they are kept."""
        held = self.by_index[index] = _held(address, template, values)
        self._total = (self._total + held.digest) % _WHOLE
        self.by_template.setdefault(template, set()).add(index)
        self.next = max(self.next, index + 1)

    def differing(self, some: Sequence[int]) -> int | None:
        """Return the first of some facts that is not in the engine as it is here, or None."""
        for index in some:
            held = self.by_index[index]
            if self._look(index, held.address).digest != held.digest:
                return index
        return None

    def template(self, address: Any) -> Template:
        """Return what is known of a template; an ordered fact has one slot without a name."""
        number = int(ffi.cast("uintptr_t", address))
        found = self._templates.get(number)
        if found is None:
            name = ffi.string(lib.DeftemplateName(address)).decode()
            module = ffi.string(lib.DeftemplateModule(address)).decode()
            name = name if module == "MAIN" else f"{module}::{name}"
            if lib.ImpliedDeftemplate(address):
                found = Template(name, (None,), ("",))
            else:
                slots = self._slots(address)
                found = Template(name, tuple(slot.encode() for slot in slots), tuple(slots))
            self._templates[number] = found
        return found

    def _slots(self, template: Any) -> list[str]:
        box = ffi.new("CLIPSValue *")
        lib.DeftemplateSlotNames(template, box)
        return [item[1] for item in read(box, "slots")[1]]

    def shown(self, index: int, deadline: Deadline | None) -> Fact:
        """Return a fact as a caller sees it."""
        held = self.get(index)
        names = self.template(_template_of(held.address)).names
        return Fact.held(index, held.template, names, held.kept, deadline)

    def having(self, some: Iterable[int], wanted: Mapping[str, Any]) -> Iterator[int]:
        """Give those of some facts that have these values, as they are kept, in these slots."""
        for index in some:
            held = self.by_index[index]
            names = self.template(_template_of(held.address)).names
            kept = dict(zip(names, unpacked(held.kept), strict=True)) if wanted else {}
            if all(slot in kept and kept[slot] == value for slot, value in wanted.items()):
                yield index

    def clear(self) -> None:
        """Forget all of them."""
        self.by_index.clear()
        self.by_template.clear()
