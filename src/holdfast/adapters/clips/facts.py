"""
The facts of one engine, as they are now, and a digest of all of them.

The digest is a sum of one digest per fact, so that their order does not count and a change
costs what changed.

Invariant: after `note` this is what the engine holds.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
from clips._clips import ffi, lib

from holdfast.adapters.clips.library import Listener
from holdfast.adapters.clips.values import Fact, is_exact, read, read_slots
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
        template: the name of its template.
        slots: their names, as words.
        kept: values of its slots, as they are kept, packed.
        digest: of template and values.
    """

    address: Any
    template: str
    slots: tuple[str, ...]
    kept: bytes
    digest: int


class Template(NamedTuple):
    """
    What is known of a template.

    Attributes:
        name: with its module, unless that is MAIN.
        slots: their names as CLIPS takes them; None for the one of an ordered fact.
        names: the same as words.
        hashed: the state of a hash that took the name; the beginning of its facts' digests.
    """

    name: str
    slots: tuple[bytes | None, ...]
    names: tuple[str, ...]
    hashed: Any


def _held(address: Any, template: Template, kept: bytes) -> Held:
    name, _, names, hashed = template
    state = hashed.copy()
    state.update(kept)
    return Held(address, name, names, kept, int.from_bytes(state.digest(), "big"))


def _places(slots: Sequence[str], wanted: Mapping[str, Any]) -> list[tuple[int, Any]] | None:
    """Return where the wanted values would be, or None if there are no such slots."""
    if not all(slot in slots for slot in wanted):
        return None
    return [(slots.index(slot), value) for slot, value in wanted.items()]


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
        self.by_template: defaultdict[str, set[int]] = defaultdict(set)
        self.next = 1
        self._listener = listener
        self._total = 0
        self._begins_anew = False
        self._given: tuple[int, Mapping[str, Any]] | None = None
        self._templates: dict[Any, Template] = {}
        self._box: Any = ffi.new("CLIPSValue *")

    @property
    def digest(self) -> bytes:
        """The digest of all facts: equal contents, equal digest, in whatever order."""
        return (self._total % _WHOLE).to_bytes(DIGEST_BYTES, "big")

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
        given, self._given = self._given, None
        came, gone = self._listener.changes()
        if not gone:
            if not came:
                return [], gone
            if given is not None and len(came) == 1 and given[0] in came:
                self._add_given(given[0], came[given[0]], given[1])
                self._begins_anew = False
                return [given[0]], gone
        for index in gone:
            # Also one that came and went at once has used its index up.
            self.next = self.next if self._begins_anew else max(self.next, index + 1)
            held = self.by_index.pop(index, None)
            if held is not None:
                self._total -= held.digest
                self.by_template[held.template].discard(index)
        for index, address in came.items():
            self._add(index, self._look(index, address))
        self._begins_anew = False
        return sorted(came.keys() - gone), gone - came.keys()

    def begin_anew(self) -> None:
        """Count indices from 1 again; what goes now went before that."""
        self.next = 1
        self._begins_anew = True

    def _look(self, index: int, address: Any) -> Held:
        """Read a fact."""
        template, values = self._read(index, address)
        return _held(address, template, _pack(values))

    def _read(self, index: int, address: Any) -> tuple[Template, list[Any]]:
        template = self.template(_template_of(address))
        values = read_slots(address, template.slots, self._box, (index, template.name))
        return template, values

    def give(self, index: int, slots: Mapping[str, Any]) -> None:
        """Take a hint with what values a fact was just asserted; those it names are kept so."""
        self._given = (index, slots)

    def _add_given(self, index: int, address: Any, slots: Mapping[str, Any]) -> None:
        """Take a fact that is new and alone; what the caller gave need not be read again."""
        template = self.template(_template_of(address))
        names = template.names
        if len(names) == len(slots) and is_exact(slots.values()):
            kept = _pack([slots[name] for name in names])
            self._add(index, _held(address, template, kept))
        else:
            self._add(index, self._look(index, address))

    def add(self, index: int, address: Any, kept: bytes) -> None:
        """Take a fact that was just put there with these values, as they are kept and packed."""
        self._add(index, _held(address, self.template(_template_of(address)), kept))

    def _add(self, index: int, held: Held) -> None:
        self.by_index[index] = held
        self._total += held.digest
        self.by_template[held.template].add(index)
        if index >= self.next:
            self.next = index + 1

    def differing(self, some: Sequence[int]) -> int | None:
        """Return the first of some facts that is not in the engine as it is here, or None."""
        for index in some:
            held = self.by_index[index]
            template, values = self._read(index, held.address)
            if template.name != held.template or _pack(values) != held.kept:
                return index
        return None

    def template(self, address: Any) -> Template:
        """Return what is known of a template; an ordered fact has one slot without a name."""
        found = self._templates.get(address)
        if found is None:
            name = ffi.string(lib.DeftemplateName(address)).decode()
            module = ffi.string(lib.DeftemplateModule(address)).decode()
            name = name if module == "MAIN" else f"{module}::{name}"
            hashed = blake2b(name.encode() + b"\0", digest_size=DIGEST_BYTES)
            if lib.ImpliedDeftemplate(address):
                found = Template(name, (None,), ("",), hashed)
            else:
                slots = self._slots(address)
                found = Template(name, tuple(slot.encode() for slot in slots), tuple(slots), hashed)
            self._templates[address] = found
        return found

    def _slots(self, template: Any) -> list[str]:
        box = ffi.new("CLIPSValue *")
        lib.DeftemplateSlotNames(template, box)
        return [item[1] for item in read(box, "slots")[1]]

    def shown(self, index: int, deadline: Deadline | None) -> Fact:
        """Return a fact as a caller sees it."""
        held = self.get(index)
        return Fact.held(index, held.template, held.slots, held.kept, deadline)

    def having(self, some: Iterable[int], wanted: Mapping[str, Any]) -> Iterator[int]:
        """Give those of some facts that have these values, as they are kept, in these slots."""
        if not wanted:
            yield from some
            return
        there = self.by_index
        slots: tuple[str, ...] | None = None
        places: list[tuple[int, Any]] | None = None
        for index in some:
            held = there[index]
            if held.slots is not slots:
                slots = held.slots
                places = _places(slots, wanted)
            if places is not None:
                kept = unpacked(held.kept)
                if all(kept[place] == value for place, value in places):
                    yield index

    def clear(self) -> None:
        """Forget all of them."""
        self.by_index.clear()
        self.by_template.clear()
