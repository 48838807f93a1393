"""
The facts of one engine, as they are now, and a digest of all of them.

The digest is a sum of one digest per fact, so that their order does not count and a change
costs what changed. It is made when somebody asks for it: what came and went in between costs
nothing.

Invariant: after `note` this is what the engine holds.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
from clips._clips import ffi, lib

from holdfast.adapters.clips.library import Listener
from holdfast.adapters.clips.values import decoded, read, read_slots
from holdfast.core.errors import InvalidValueError

DIGEST_BYTES: Final = 16
_WHOLE: Final = 1 << (8 * DIGEST_BYTES)
_UNCOUNTED: Final = -1
_GONE: Final = -2
"""Instead of a digest: the fact went before anybody asked for one."""
packed = msgspec.msgpack.Encoder().encode
unpacked = msgspec.msgpack.Decoder().decode
_template_of = lib.FactDeftemplate


class Template(NamedTuple):
    """
    What is known of a template.

    Attributes:
        name: with its module, unless that is MAIN.
        slots: their names as CLIPS takes them; None for the one of an ordered fact.
        names: the same as words.
        hashed: the state of a hash that took the name; the beginning of its facts' digests.
        there: indices of its facts.
    """

    name: str
    slots: tuple[bytes | None, ...]
    names: tuple[str, ...]
    hashed: Any
    there: set[int]


class Held(msgspec.Struct, gc=False):
    """
    A fact that is there.

    Attributes:
        address: its `Fact *`.
        template: of which it is.
        given: values of all its slots by name, as they are kept; None once they are packed.
        packed: the same in the order of the slots, packed; empty as long as nobody needs it.
        digest: of template and values; `_UNCOUNTED` as long as nobody needs it.
    """

    address: Any
    template: Template
    given: Mapping[str, Any] | None
    packed: bytes = b""
    digest: int = _UNCOUNTED

    @property
    def kept(self) -> bytes:
        """Values of its slots, as they are kept, packed."""
        if self.given is not None:
            self.packed = packed([self.given[name] for name in self.template.names])
            self.given = None
        return self.packed

    def decoded(self) -> dict[str, Any]:
        """Return the values of its slots by name, as a caller sees them."""
        if (given := self.given) is not None:
            return {name: decoded(given[name]) for name in self.template.names}
        kept = unpacked(self.packed)
        return dict(zip(self.template.names, [decoded(each) for each in kept], strict=True))


def _traces(value: Any) -> tuple[bytes, bytes]:
    """Return bytes of which packed slots hold one or the other if a slot equals this value."""
    if type(value) is int and value:
        return packed(value), packed(float(value))
    if type(value) is str:
        trace = packed(value)
        return trace, trace
    return b"", b""


def _has(held: Held, wanted: Mapping[str, Any]) -> bool:
    """Return whether a fact has these values, as they are kept, in these slots."""
    kept = dict(zip(held.template.names, unpacked(held.kept), strict=True))
    return all(slot in kept and kept[slot] == value for slot, value in wanted.items())


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
        self._uncounted: list[Held] = []
        self._templates: dict[Any, Template] = {}
        self._box: Any = ffi.new("CLIPSValue *")

    @property
    def digest(self) -> bytes:
        """The digest of all facts: equal contents, equal digest, in whatever order."""
        self.count()
        return (self._total % _WHOLE).to_bytes(DIGEST_BYTES, "big")

    def count(self) -> None:
        """Make the digests of facts that have none yet."""
        total, as_number = self._total, int.from_bytes
        for held in self._uncounted:
            if held.digest != _GONE:
                state = held.template.hashed.copy()
                state.update(held.kept)
                held.digest = as_number(state.digest(), "big")
                total += held.digest
        self._total = total
        self._uncounted.clear()

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

    def address(self, index: int) -> Any:
        """Return the `Fact *` of a fact that is there."""
        return self.get(index).address

    def note(self) -> tuple[list[int], set[int]]:
        """Take over what the engine changed; return the facts that are new, and those that went."""
        came, gone = self._listener.changes()
        if not came and not gone:
            return [], gone
        for index in gone:
            # Also one that came and went at once has used its index up.
            self.next = max(self.next, index + 1)
            held = self.by_index.pop(index, None)
            if held is not None:
                held.template.there.discard(index)
                if held.digest == _UNCOUNTED:
                    held.digest = _GONE
                else:
                    self._total -= held.digest
        for index, address in came.items():
            template, values = self._read(index, address)
            self.put(index, Held(address, template, None, packed(values)))
        return sorted(came.keys() - gone), gone - came.keys()

    def begin_anew(self, used: int) -> None:
        """Forget all facts, and count indices again behind those that were used since."""
        self.clear()
        self.next = used + 1

    def _read(self, index: int, address: Any) -> tuple[Template, list[Any]]:
        template = self.template_of(address)
        values = read_slots(address, template.slots, self._box, (index, template.name))
        return template, values

    def put(self, index: int, held: Held) -> Held:
        """Take a fact that was just put there."""
        self.by_index[index] = held
        self._uncounted.append(held)
        held.template.there.add(index)
        if index >= self.next:
            self.next = index + 1
        return held

    def take(self, came: Mapping[int, tuple[Any, Template, bytes]]) -> None:
        """Take facts that were put there, by index: address, template, packed values."""
        by_index, total, index, as_number = self.by_index, self._total, 0, int.from_bytes
        for index, (address, template, kept) in came.items():
            state = template.hashed.copy()
            state.update(kept)
            digest = as_number(state.digest(), "big")
            total += digest
            by_index[index] = Held(address, template, None, kept, digest)
            template.there.add(index)
        self._total = total
        self.next = max(self.next, index + 1)

    def differing(self, some: Sequence[int]) -> int | None:
        """Return the first of some facts that is not in the engine as it is here, or None."""
        for index in some:
            held = self.by_index[index]
            template, values = self._read(index, held.address)
            if template is not held.template or packed(values) != held.kept:
                return index
        return None

    def template_of(self, fact: Any) -> Template:
        """Return what is known of the template of a fact."""
        return self.template(_template_of(fact))

    def template(self, address: Any) -> Template:
        """Return what is known of a template; an ordered fact has one slot without a name."""
        found = self._templates.get(address)
        if found is None:
            name = ffi.string(lib.DeftemplateName(address)).decode()
            module = ffi.string(lib.DeftemplateModule(address)).decode()
            name = name if module == "MAIN" else f"{module}::{name}"
            hashed = blake2b(name.encode() + b"\0", digest_size=DIGEST_BYTES)
            there = self.by_template[name]
            if lib.ImpliedDeftemplate(address):
                found = Template(name, (None,), ("",), hashed, there)
            else:
                names = tuple(self._slots(address))
                slots = tuple([slot.encode() for slot in names])
                found = Template(name, slots, names, hashed, there)
            self._templates[address] = found
        return found

    def _slots(self, template: Any) -> list[str]:
        box = ffi.new("CLIPSValue *")
        lib.DeftemplateSlotNames(template, box)
        return [item[1] for item in read(box, "slots")[1]]

    def having(self, some: Iterable[int], wanted: Mapping[str, Any]) -> Iterator[int]:
        """Give those of some facts that have these values, as they are kept, in these slots."""
        there, traces = self.by_index, [_traces(value) for value in wanted.values()]
        for index in some:
            held = there[index]
            kept = held.kept
            # Who has a value shows a trace of it; who shows one may have it elsewhere.
            for one, other in traces:
                if one not in kept and other not in kept:
                    break
            else:
                if _has(held, wanted):
                    yield index

    def clear(self) -> None:
        """Forget all of them."""
        while self.by_index:  # One by one, so that many do not keep other threads waiting.
            self.by_index.popitem()
        for there in self.by_template.values():
            there.clear()
        self._uncounted.clear()
        self._total = 0
