"""
The moments at which power can fail, and which contents each of them leaves open.

The model, for one cut:
- What was synced is certain. Each sector written since then holds any one of the contents it
  went through, independent of all other sectors: writes are dropped, reordered and torn.
- The size is any size the file went through; bytes that never arrived are zero.
- A truncation is one step, as on a file system with a journal: with a size from before it, the
  sectors it cut off hold nothing from after it, and the other way round.
- A name that appeared, vanished or changed hands since its folder was synced is in any state
  it went through; names tied by a rename change together.
- After a failed sync its sectors stay uncertain until they are written again and synced.

A cut asks this as a list of independent questions (`Slot`), each with its possible answers;
a choice answers all of them. `holdfast.testing.disk.images` chooses. A `Cut` is a value of its own:
it does not change when the walk goes on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from holdfast.testing.disk.acts import (
    Act,
    Created,
    FolderMade,
    FolderSynced,
    Noted,
    Recording,
    Removed,
    Renamed,
    Synced,
    SyncFailed,
    Truncated,
    Written,
)

__all__ = ["Choice", "Cut", "Garbage", "Image", "Kind", "Slot", "cut_at", "cuts"]

Image = Mapping[str, bytes]
"""Contents by name; a name that ends in `/` is a folder."""

Choice = tuple[int, ...]
"""For each slot, in order, which of its states is found."""

Garbage = Mapping[tuple[int, int], bytes]
"""Random bytes by owner and sector, in place of what was chosen there."""

_CERTAIN = -1


class Kind(Enum):
    """What a slot is about."""

    NAMES = auto()
    SIZE = auto()
    SECTOR = auto()


class Slot(NamedTuple):
    """
    One independent question a power cut decides: which of these states is found.

    Attributes:
        kind: what it is about.
        owner: number of the file; groups of names have numbers below zero.
        sector: place in the file, in sectors; 0 for other kinds.
        origins: the acts that brought about the states, in order; the first is certain.
    """

    kind: Kind
    owner: int
    sector: int
    origins: tuple[int, ...]

    @property
    def last(self) -> int:
        """Return the newest state."""
        return len(self.origins) - 1


class _NameChange(NamedTuple):
    origin: int
    folder: str
    changes: Mapping[str, int | None]


class _State(NamedTuple):
    """One content of a sector; `cut_off` if a truncation and no write brought it about."""

    origin: int
    data: bytes
    cut_off: bool = False


class _FileCut(NamedTuple):
    """A file at one cut; `sizes` and `sectors` hold what is not certain."""

    number: int
    certain: bytes
    sizes: tuple[tuple[int, int], ...]
    sectors: tuple[tuple[int, tuple[_State, ...]], ...]

    def slots(self) -> Iterator[Slot]:
        yield Slot(Kind.SIZE, self.number, 0, tuple(origin for origin, _ in self.sizes))
        for sector, states in self.sectors:
            origins = tuple(state.origin for state in states)
            yield Slot(Kind.SECTOR, self.number, sector, origins)

    def content(self, picks: Choice, garbage: Garbage, sector_bytes: int) -> bytes:
        size_origin, size = self.sizes[picks[0]]
        if not self.sectors:
            return self.certain[:size].ljust(size, b"\0")
        content = bytearray(self.certain)
        for pick, (sector, states) in zip(picks[1:], self.sectors, strict=True):
            start = sector * sector_bytes
            if start >= size:
                continue
            first, last = _life(states, size_origin)
            data = states[min(max(pick, first), last)].data
            if any(state.origin >= 0 and not state.cut_off for state in states[first : last + 1]):
                data = garbage.get((self.number, sector), data)
            content.extend(bytes(max(0, start - len(content))))
            content[start : start + sector_bytes] = data
        return bytes(content[:size]).ljust(size, b"\0")


@dataclass(frozen=True, slots=True)
class Cut:
    """
    One moment at which power could fail.

    Attributes:
        at: how many acts of the recording came before it; replays the cut with `cut_at`.
        notes: what the workload had noted before it, in order.
        sector_bytes: what the disk writes as a whole.
    """

    at: int
    notes: tuple[object, ...]
    sector_bytes: int
    _bound: Mapping[str, int]
    _groups: tuple[tuple[_NameChange, ...], ...]
    _files: tuple[_FileCut, ...]

    def slots(self) -> list[Slot]:
        """Return all questions, in the order in which a choice answers them."""
        slots = [
            Slot(Kind.NAMES, -1 - number, 0, (_CERTAIN, *(change.origin for change in group)))
            for number, group in enumerate(self._groups)
        ]
        for file in self._files:
            slots.extend(file.slots())
        return slots

    def build(self, choice: Choice, garbage: Garbage) -> dict[str, bytes]:
        """Return the contents that one choice leaves, by name."""
        bound: dict[str, int | None] = dict(self._bound)
        for pick, group in zip(choice, self._groups, strict=False):
            for change in group[:pick]:
                bound.update(change.changes)
        contents: dict[int, bytes] = {}
        at = len(self._groups)
        for file in self._files:
            end = at + 1 + len(file.sectors)
            contents[file.number] = file.content(choice[at:end], garbage, self.sector_bytes)
            at = end
        return {
            name: contents[number]
            for name, number in sorted(bound.items())
            if number is not None and _reachable(name, bound)
        }


def _life(states: tuple[_State, ...], size_origin: int) -> tuple[int, int]:
    """Return the first and last state that go together with a size, between truncations."""
    first, last = 0, len(states) - 1
    for at, state in enumerate(states):
        if state.cut_off and state.origin <= size_origin:
            first = at
        elif state.cut_off:
            last = at - 1
            break
    return first, last


def _reachable(name: str, bound: Mapping[str, int | None]) -> bool:
    """Tell whether all folders above the name are there."""
    cut = name.rstrip("/").rfind("/")
    while cut >= 0:
        if bound.get(name[: cut + 1]) is None:
            return False
        cut = name.rfind("/", 0, cut)
    return True


class _File:
    """A file while the recording is walked: what is certain, what is there, what lies between."""

    def __init__(self, content: bytes, sector_bytes: int) -> None:
        self._live = bytearray(content)
        self._certain = content
        self._sector_bytes = sector_bytes
        self._sizes = [(_CERTAIN, len(content))]
        self._sectors: dict[int, list[_State]] = {}
        self._doubtful: set[int] = set()

    def write(self, origin: int, start: int, data: bytes) -> None:
        end = start + len(data)
        sectors = self._touch(start, end)
        if start > len(self._live):
            self._live.extend(bytes(start - len(self._live)))
        self._live[start:end] = data
        # What is written again after a failed sync is on its way to the disk again.
        self._doubtful.difference_update(sectors)
        self._settle(origin, sectors, cut_off=False)

    def truncate(self, origin: int, size: int) -> None:
        sectors = self._touch(size, len(self._live))
        del self._live[size:]
        self._live.extend(bytes(size - len(self._live)))
        self._settle(origin, sectors, cut_off=True)

    def sync(self) -> None:
        self._certain = bytes(self._live)
        self._sizes = [(_CERTAIN, len(self._live))]
        self._sectors = {sector: self._sectors[sector] for sector in self._doubtful}

    def doubt(self) -> None:
        self._doubtful.update(self._sectors)

    def cut(self, number: int) -> _FileCut:
        sectors = tuple((sector, tuple(found)) for sector, found in sorted(self._sectors.items()))
        return _FileCut(number, self._certain, tuple(self._sizes), sectors)

    def _touch(self, start: int, end: int) -> range:
        """Remember the certain content of sectors about to change, and return them."""
        sectors = range(start // self._sector_bytes, -(-end // self._sector_bytes))
        for sector in sectors:
            if sector not in self._sectors:
                self._sectors[sector] = [_State(_CERTAIN, self._sector(sector))]
        return sectors

    def _settle(self, origin: int, sectors: range, *, cut_off: bool) -> None:
        for sector in sectors:
            self._sectors[sector].append(_State(origin, self._sector(sector), cut_off))
        if self._sizes[-1][1] != len(self._live):
            self._sizes.append((origin, len(self._live)))

    def _sector(self, sector: int) -> bytes:
        start = sector * self._sector_bytes
        return bytes(self._live[start : start + self._sector_bytes]).ljust(
            self._sector_bytes, b"\0"
        )


class _Walk:
    """The state of all files and names after a part of a recording."""

    def __init__(self, start: Image, sector_bytes: int) -> None:
        self._sector_bytes = sector_bytes
        self._files: list[_File] = []
        self._certain = {name: self._new(content) for name, content in start.items()}
        self._live = dict(self._certain)
        self._pending: list[_NameChange] = []
        self._notes: list[object] = []

    def cut(self, at: int) -> Cut:
        groups = _groups(self._pending)
        numbers = set(self._certain.values())
        for change in self._pending:
            numbers.update(number for number in change.changes.values() if number is not None)
        files = tuple(self._files[number].cut(number) for number in sorted(numbers))
        notes = tuple(self._notes)
        return Cut(at, notes, self._sector_bytes, dict(self._certain), groups, files)

    def apply(self, origin: int, act: Act) -> None:
        match act:
            case Noted(value):
                self._notes.append(value)
            case Created(name):
                self._rename(origin, {name: self._new(b"")})
            case FolderMade(name):
                self._rename(origin, {name + "/": self._new(b"")})
            case Removed(name):
                self._rename(origin, {name: None})
            case Renamed(name, target):
                self._rename(origin, {name: None, target: self._live[name]})
            case FolderSynced(name):
                self._sync_folder(name)
            case Written() | Truncated() | Synced() | SyncFailed():
                # A file that lost its name while it was open can never be found again.
                if act.name in self._live:
                    _change(self._files[self._live[act.name]], origin, act)

    def _new(self, content: bytes) -> int:
        self._files.append(_File(content, self._sector_bytes))
        return len(self._files) - 1

    def _rename(self, origin: int, changes: Mapping[str, int | None]) -> None:
        folders = {name.rstrip("/").rpartition("/")[0] for name in changes}
        if len(folders) != 1:
            raise ValueError(f"a rename between folders is not modelled: {sorted(changes)}")
        self._pending.append(_NameChange(origin, folders.pop(), changes))
        _bind(self._live, changes)

    def _sync_folder(self, folder: str) -> None:
        for change in self._pending:
            if change.folder == folder:
                _bind(self._certain, change.changes)
        self._pending = [change for change in self._pending if change.folder != folder]


def _bind(names: dict[str, int], changes: Mapping[str, int | None]) -> None:
    for name, number in changes.items():
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def _change(file: _File, origin: int, act: Written | Truncated | Synced | SyncFailed) -> None:
    match act:
        case Written():
            file.write(origin, act.start, act.data)
        case Truncated():
            file.truncate(origin, act.size_bytes)
        case Synced():
            file.sync()
        case SyncFailed():
            file.doubt()


def _groups(pending: list[_NameChange]) -> tuple[tuple[_NameChange, ...], ...]:
    """Return the pending changes of names, put together where a rename ties names."""
    groups: list[tuple[set[str], list[_NameChange]]] = []
    for change in pending:
        names, changes = set(change.changes), [change]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names |= group[0]
            changes = group[1] + changes
        groups.append((names, changes))
    return tuple(tuple(sorted(changes)) for _, changes in groups)


def cuts(recording: Recording, *, sector_bytes: int = 512) -> Iterator[Cut]:
    """
    Give every cut of a recording that can differ: before each act that is no note, and the end.

    Args:
        recording: what happened.
        sector_bytes: what the disk writes as a whole, 512 or 4096.
    """
    walk = _Walk(recording.start, sector_bytes)
    for at, act in enumerate(recording.acts):
        if not isinstance(act, Noted):
            yield walk.cut(at)
        walk.apply(at, act)
    yield walk.cut(len(recording.acts))


def cut_at(recording: Recording, at: int, *, sector_bytes: int = 512) -> Cut:
    """Return the cut after the first `at` acts, to replay a failure."""
    walk = _Walk(recording.start, sector_bytes)
    for origin, act in enumerate(recording.acts[:at]):
        walk.apply(origin, act)
    return walk.cut(at)
