"""
The engines of a runtime: attached at the boot or later, restored before they serve.

Invariants: a runtime is ready only when every engine it was opened with is back; one that is
attached later is back when `attach` returns, and until then the runtime is not ready.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Unpack

from holdfast.core.engine import KIND
from holdfast.core.errors import InvalidValueError
from holdfast.core.key import check_word, encode_key, prefix_end
from holdfast.core.recovery import Phase, Step
from holdfast.core.redaction import Redactor
from holdfast.runtime.boot import Planning, Progress
from holdfast.runtime.damage import Damages
from holdfast.runtime.engines.attached import ALONE, AttachedEngine, MemoryStatus
from holdfast.runtime.engines.engine import Engine
from holdfast.runtime.engines.load import check_rules, known, known_of, unread
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.post import Post
from holdfast.runtime.engines.settings import EngineSettings, Single, settings_with
from holdfast.runtime.engines.stored import StoredEngines
from holdfast.runtime.service import Service, each
from holdfast.store.port import Reads
from holdfast.store.store import Store

PART: Final = "engines"
_LOOK_SECONDS: Final = 1.0
_THREADS: Final = 2


class Engines:
    """
    All engines of a runtime.

    Attributes:
        name, phase: of its part of the boot.
        stored: what is kept of engines, attached here or not.
    """

    name = PART
    phase = Phase.RESTORING

    def __init__(
        self, store: Store, damages: Damages, flush_interval: float, redaction: Redactor
    ) -> None:
        """Take the store."""
        self._redaction = redaction
        self._store = store
        self.stored = StoredEngines(store)
        self._damages = damages
        self._post = Post(store)
        self._threads = ThreadPoolExecutor(_THREADS, "holdfast-engine")
        self._attached: dict[str, AttachedEngine] = {}
        self._coming = ""
        self._serves = self._on_duty = False
        self._flusher = _Flusher(self._attached, flush_interval)
        self._keeper = _Keeper(self._attached)

    def __getitem__(self, name: str) -> AttachedEngine:
        """
        Return an engine that is attached.

        Raises:
            InvalidValueError: none is, by this name.
        """
        found = self._attached.get(name)
        if found is None:
            names = ", ".join(sorted(self._attached)) or "none"
            raise InvalidValueError(
                what=f"engine {name!r}", reason=f"is not attached; attached are: {names}"
            )
        return found

    def names(self) -> Sequence[str]:
        """Return the names of the engines that are attached."""
        return sorted(self._attached)

    async def attach(
        self,
        name: str,
        engine: Engine,
        settings: EngineSettings | None = None,
        **single: Unpack[Single],
    ) -> AttachedEngine:
        """
        Bring an engine back, and return it; until then the runtime is not ready.

        Args:
            name: of the engine, a short word; its working memories are kept under it.
            engine: its rules.
            settings: how it is kept.
            single: fields of `EngineSettings` by name, such as `tier=BUFFERED`.

        Raises:
            InvalidValueError: the name is taken or no word, or settings cannot work.
            RulesChangedError: what is stored was made by other rules.
            EngineLostError, DamagedError: what is stored cannot be brought back.
        """
        attached = self.add(name, engine, settings_with(settings, single))
        self._coming = name
        try:
            await self._check_rules(attached)
            if await known(attached.place()) is not None:
                await attached.load()
        except BaseException:
            del self._attached[name]
            raise
        finally:
            self._coming = ""
        return attached

    def add(
        self, name: str, engine: Engine, settings: EngineSettings | None = None
    ) -> AttachedEngine:
        """
        Take an engine that is restored with the boot.

        Raises:
            InvalidValueError: the name is taken or no word.
        """
        check_word("engine", name)
        if name in self._attached:
            raise InvalidValueError(what=f"engine {name!r}", reason="is attached already")
        kept_by = (self._store, self._damages, self._post, self._threads)
        place = Place(*kept_by, engine, name, ALONE, self._redaction)
        attached = AttachedEngine(place, settings or EngineSettings())
        self._attached[name] = attached
        self._begin_duties()
        return attached

    # Its part of the boot.

    def look(self, reader: Reads) -> Planning:
        """Return what plans; each engine reads for itself."""
        return self._plan

    async def _plan(self) -> Sequence[Step]:
        """Return the engines that have something to bring back."""
        steps: list[Step] = []
        for name, attached in self._attached.items():
            await self._check_rules(attached)
            count = await unread(attached.place())
            if count:
                steps.append(Step(PART, "working memory", name, count))
        return steps

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """Bring them back; those whose memories have keys when somebody asks for one."""
        report: dict[str, Any] = {}
        for step in steps:
            attached = self._attached[step.name]
            await attached.load(progress=progress)
            told = [_told(memory) for memory in attached.memories()]
            report[step.name] = told[0]
        return report

    async def _check_rules(self, attached: AttachedEngine) -> None:
        """Refuse rules by which a memory with a key was not made, before anybody asks for it."""
        # One is enough: all of them were made by the same, or are refused when they are loaded.
        begin = encode_key((attached.name,))
        rows = await self._store.read(
            lambda reader: reader.records(KIND, begin, prefix_end(begin), 1, None)
        )
        for row in rows:
            check_rules(attached.place(row.key[1:]), known_of(row))

    # Its duties.

    def start(self) -> None:
        """Begin to write what is buffered, and to make snapshots; with the first engine."""
        self._serves = True
        self._begin_duties()

    def _begin_duties(self) -> None:
        if self._serves and self._attached and not self._on_duty:
            self._on_duty = True
            self._flusher.start()
            self._keeper.start()

    async def flush(self) -> None:
        """Write what is not durable; a barrier."""
        await self._flusher.tick()

    async def finish(self) -> None:
        """
        Write everything and make the last snapshots, while commits still pass.

        Raises:
            HoldfastError: something could not be written; the others were tried all the same.
        """
        await self._keeper.stop()
        await each([attached.finish for attached in self._attached.values()])

    async def release(self) -> None:
        """End the duties and release the memories, written or not."""
        await self._keeper.stop()
        await self._flusher.stop()
        for attached in self._attached.values():
            await attached.release()
        self._threads.shutdown(wait=False)

    def trouble(self) -> str:
        """Return which engines are not back yet; empty if all are."""
        return f"engine {self._coming!r} is coming back" if self._coming else ""

    def remarks(self) -> str:
        """Return what was lost, and which memories have no snapshot although one was due."""
        found: list[str] = []
        for name, attached in self._attached.items():
            if attached.lost:
                found.append(f"{attached.lost} buffered events of {name!r} could not be written")
            reasons = (memory.reason for memory in attached.memories() if memory.reason)
            found += [f"{name!r}: {reason}" for reason in reasons]
        return "; ".join(found)


def _told(memory: MemoryStatus) -> dict[str, int]:
    return {
        "sequence": memory.sequence,
        "snapshot": memory.snapshot,
        "redone": memory.tail,
    }


class _Flusher(Service):
    """Writes what buffered engines have not written, every interval."""

    def __init__(self, attached: Mapping[str, AttachedEngine], interval: float) -> None:
        super().__init__("engine-flush", interval)
        self._attached = attached

    async def tick(self) -> None:
        await each([attached.flush for attached in self._attached.values()])


class _Keeper(Service):
    """Makes the snapshots that are due, and trims audits."""

    def __init__(self, attached: Mapping[str, AttachedEngine]) -> None:
        super().__init__("engine-snapshots", _LOOK_SECONDS)
        self._attached = attached

    async def tick(self) -> None:
        await each([attached.keep_up for attached in self._attached.values()])
