"""
What a pipeline knows: fields by name, changed by one transition after the other.

A transition works on a copy. What it changed is told as `Changes`, a plain value that goes into
the journal; applied to the fields before, it gives the fields after. So a transition that fails
or is killed leaves nothing behind, and reading a journal gives the same fields as the work did.

A derived field is not stored: a declared function of the stored fields and the input builds it
when somebody asks, and again after one of the fields it is made of has changed.

Invariants: `apply(before, changes(before, after)) == after`, same types and same bits; merging
the branches of a parallel block does not depend on which of them ended first.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import InputMissingError, MergeConflictError


class Changes(msgspec.Struct, frozen=True):
    """
    What a transition changed.

    Attributes:
        set: fields with their new values.
        drop: names of fields that are gone.
    """

    set: dict[str, Any] = {}
    drop: list[str] = []


@dataclass(frozen=True, slots=True)
class Derived:
    """
    A field that is built, not stored.

    Attributes:
        name: its name.
        build: makes it from the context; must be a function of that alone.
        of: names of the stored fields it is made of.
    """

    name: str
    build: Callable[["Context"], Any]
    of: tuple[str, ...] = ()


class Withheld(NamedTuple):
    """Stands for an input that was not kept: which pipeline's, and its digest."""

    pipeline: str
    digest: str


class Context(dict[str, Any]):
    """
    The fields of a pipeline, as its handlers see them.

    `ctx["name"]` reads a stored field or builds a derived one; plain values alone can be set.

    Attributes:
        notes: what `note` was told.
    """

    def __init__(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        input: Any = None,
        derived: Mapping[str, Derived] | None = None,
    ) -> None:
        """Take stored fields, the input, and the derived fields by name."""
        super().__init__(fields or {})
        self.notes: list[str] = []
        self._input = input
        self._derived = derived or {}
        self._built: dict[str, tuple[bytes, Any]] = {}

    @property
    def input(self) -> Any:
        """
        What the pipeline was started with.

        Raises:
            InputMissingError: it was not kept, and was not supplied again since a restart.
        """
        if isinstance(self._input, Withheld):
            raise InputMissingError(pipeline=self._input.pipeline, digest=self._input.digest)
        return self._input

    def note(self, text: str) -> None:
        """Write something for people into the step log."""
        self.notes.append(text)

    def __missing__(self, name: str) -> Any:
        """Build a derived field, or return what was built from the same fields."""
        derived = self._derived.get(name)
        if derived is None:
            raise KeyError(name)
        made_of = codec.encode([[part, self[part]] for part in derived.of if part in self])
        if name not in self._built or self._built[name][0] != made_of:
            self._built[name] = (made_of, derived.build(self))
        return self._built[name][1]

    def encoded(self) -> dict[str, bytes]:
        """
        Return each stored field as bytes.

        Raises:
            EncodeError: a field cannot be stored exactly; names it.
            InvalidValueError: a derived field was set.
        """
        for name in self._derived:
            if name in self:
                raise InvalidValueError(what=f"field {name}", reason="is derived, not set")
        return {name: codec.encode(value, f"ctx.{name}") for name, value in self.items()}

    def copy(self) -> "Context":
        """Return a context of its own: nothing changed in one shows in the other."""
        fields = {name: codec.decode(value) for name, value in self.encoded().items()}
        twin = Context(fields, input=self._input, derived=self._derived)
        twin._built = dict(self._built)
        return twin

    def changed_since(self, before: Mapping[str, bytes]) -> Changes:
        """Return what is different from the fields that were encoded before."""
        after = self.encoded()
        changed = [name for name, value in after.items() if before.get(name) != value]
        # Decoded again: whoever holds a list of this context must not change what was told.
        fields = {name: codec.decode(after[name]) for name in sorted(changed)}
        return Changes(fields, sorted(set(before) - set(after)))

    def apply(self, changes: Changes) -> None:
        """Change the fields as told."""
        for name in changes.drop:
            self.pop(name, None)
        self.update(changes.set)


def merged(branches: Iterable[tuple[str, Changes]]) -> Changes:
    """
    Return what several branches changed together.

    Args:
        branches: name and changes of each, in the order in which they were declared.

    Raises:
        MergeConflictError: two branches changed one field to different values.
    """
    owners: dict[str, tuple[str, bytes | None]] = {}
    fields: dict[str, Any] = {}
    drop: set[str] = set()
    for branch, changes in branches:
        told: list[tuple[str, bytes | None, Any]] = [
            (name, codec.encode(value), value) for name, value in changes.set.items()
        ]
        told += [(name, None, None) for name in changes.drop]
        for name, encoded, value in told:
            first, was = owners.setdefault(name, (branch, encoded))
            if was != encoded:
                raise MergeConflictError(field=name, first=first, second=branch)
            if encoded is None:
                drop.add(name)
            else:
                fields[name] = value
    return Changes({name: fields[name] for name in sorted(fields)}, sorted(drop))
