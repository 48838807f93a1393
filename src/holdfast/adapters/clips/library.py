"""
Listening to the engine: which facts came and went, which rules fired on what.

The library inside clipspy's wheels for Linux and macOS shows all functions of CLIPS by name, so
that its own hooks (`AddAssertFunction` and the like, documented for programs that embed it) can
be called although clipspy does not offer them. No structure of the engine is read or written.
They are tried once on an engine made for it: where they are missing, or do not say what they
should, `Looking` finds out the same by looking at every fact after every operation, which is
slower and needs nothing.

Invariant: both ways of listening tell the same, so that the digests agree.
"""

from functools import lru_cache
from typing import Any, Final, Protocol

import cffi
import clips
import clips._clips as extension
from clips import Router
from clips._clips import ffi, lib
from clips.common import environment_builder

_HOOKS: Final = """
bool AddAssertFunction(void *, const char *, void (*)(void *, void *, void *), int, void *);
bool AddRetractFunction(void *, const char *, void (*)(void *, void *, void *), int, void *);
bool AddBeforeRuleFiresFunction(void *, const char *, void (*)(void *, void *, void *), int,
    void *);
bool RemoveAssertFunction(void *, const char *);
bool RemoveRetractFunction(void *, const char *);
bool RemoveBeforeRuleFiresFunction(void *, const char *);
void genseed(unsigned int);
"""
_ADDED: Final = ("AssertFunction", "RetractFunction", "BeforeRuleFiresFunction")
_HEARD_BY: Final = b"holdfast"


class Listener(Protocol):
    """
    Who hears what happens in one engine.

    Attributes:
        fired: lines `rule: f-1,f-2`, in order, since `begin`.
        supported: facts that live by the facts a rule found, by index.
        hears_all: also of facts that came and went within one operation.
    """

    fired: list[str]
    supported: set[int]
    hears_all: bool

    def begin(self) -> None:
        """Forget what fired before."""
        ...

    def changes(self) -> tuple[dict[int, Any], set[int]]:
        """Return the facts that came or were replaced, by index, and the indices that went."""
        ...

    def seed(self, number: int) -> None:
        """Have the engine draw from here."""
        ...

    def close(self) -> None:
        """Listen no more; before the engine ends."""
        ...


def listener(env: Any, supporting: frozenset[str]) -> Listener:
    """Return who hears what happens in an engine, in the quickest way that works here."""
    return Hearing(env, supporting, found) if (found := hooks()) else Looking(env, supporting)


@lru_cache(1)
def hooks() -> Any:
    """Return the engine's hooks, or None where this build does not offer them."""
    abi = cffi.FFI()
    abi.cdef(_HOOKS)
    try:
        library = abi.dlopen(extension.__file__)
        for name in ("genseed", *(verb + name for name in _ADDED for verb in ("Add", "Remove"))):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return (abi, library) if _works((abi, library)) else None


def _works(found: Any) -> bool:
    """Try the hooks on an engine of their own; what they say has to be what happened."""
    env = clips.Environment()
    env.build("(defrule r (logical (a ?x)) => (assert (b ?x)))")
    heard = Hearing(env, frozenset({"r"}), found)
    lib.AssertString(env._env, b"(a 1)")
    env.run()
    came, gone = heard.changes()
    supported = set(heard.supported)
    env.eval("(do-for-all-facts ((?f a)) TRUE (retract ?f))")
    said = (sorted(came), gone, heard.fired, supported, heard.changes(), heard.supported)
    heard.close()
    return said == ([1, 2], set(), ["r: f-1"], {2}, ({}, {1, 2}), set())


def _rule(line: str) -> str:
    return line.partition(":")[0]


class Hearing:
    """Hears by the engine's own hooks."""

    hears_all = True

    def __init__(self, env: Any, supporting: frozenset[str], found: Any) -> None:
        """Begin to listen."""
        abi, self._library = found
        self.fired: list[str] = []
        self.supported: set[int] = set()
        self._came: dict[int, Any] = {}
        self._gone: set[int] = set()
        self._firing: list[str] = []
        came, gone, fired, supported = self._came, self._gone, self.fired, self.supported
        firing = self._firing
        builder = environment_builder(env._env, "string")

        def asserted(_env: Any, fact: Any, _context: Any) -> None:
            pointer = ffi.cast("Fact *", int(abi.cast("uintptr_t", fact)))
            index = lib.FactIndex(pointer)
            came[index] = pointer
            if firing and _rule(firing[0]) in supporting:
                supported.add(index)

        def retracted(_env: Any, fact: Any, _context: Any) -> None:
            index = lib.FactIndex(ffi.cast("Fact *", int(abi.cast("uintptr_t", fact))))
            came.pop(index, None)
            gone.add(index)
            supported.discard(index)

        def fires(_env: Any, activation: Any, _context: Any) -> None:
            lib.SBReset(builder)
            pointer = ffi.cast("Activation *", int(abi.cast("uintptr_t", activation)))
            lib.ActivationPPForm(pointer, builder)
            fired.append(ffi.string(builder.contents).decode(errors="replace").split(None, 1)[1])
            firing[:] = fired[-1:]

        shape = "void(void *, void *, void *)"
        # Kept as long as the engine may call them.
        self._callbacks = [abi.callback(shape, each) for each in (asserted, retracted, fires)]
        self._address = abi.cast("void *", int(ffi.cast("uintptr_t", env._env)))
        for name, callback in zip(_ADDED, self._callbacks, strict=True):
            getattr(self._library, f"Add{name}")(self._address, _HEARD_BY, callback, 0, abi.NULL)

    def begin(self) -> None:
        """Forget what fired before."""
        self.fired.clear()

    def changes(self) -> tuple[dict[int, Any], set[int]]:
        """Return what came, by index, and what went, since the last call."""
        self._firing.clear()  # The operation is over: what is asserted now is nobody's.
        came, gone = dict(self._came), set(self._gone)
        self._came.clear()
        self._gone.clear()
        return came, gone

    def seed(self, number: int) -> None:
        """Have the engine draw from here."""
        self._library.genseed(number)

    def close(self) -> None:
        """Listen no more; the engine does not free this by itself."""
        for name in _ADDED:
            getattr(self._library, f"Remove{name}")(self._address, _HEARD_BY)


class Looking:
    """Finds out by looking at every fact; works with any build of the engine."""

    hears_all = False

    def __init__(self, env: Any, supporting: frozenset[str]) -> None:
        """Begin to look."""
        self.fired: list[str] = []
        self.supported: set[int] = set()
        self._env = env
        self._supporting = supporting
        self._known: set[int] = set()
        self._told = 0
        env.add_router(_Trace(self.fired))
        lib.Eval(env._env, b"(watch rules)", ffi.new("CLIPSValue *"))

    def begin(self) -> None:
        """Forget what fired before."""
        self.fired.clear()
        self._told = 0

    def changes(self) -> tuple[dict[int, Any], set[int]]:
        """Return all facts as if they came anew, and all that were there."""
        came: dict[int, Any] = {}
        fact = lib.GetNextFact(self._env._env, ffi.NULL)
        while fact != ffi.NULL:
            came[lib.FactIndex(fact)] = fact
            fact = lib.GetNextFact(self._env._env, fact)
        before, self._known = self._known, set(came)
        if any(_rule(line) in self._supporting for line in self.fired[self._told :]):
            self.supported |= self._known - before
        self._told = len(self.fired)
        self.supported &= self._known
        return came, before

    def seed(self, number: int) -> None:
        """Have the engine draw from here."""
        lib.Eval(self._env._env, b"(seed %d)" % number, ffi.new("CLIPSValue *"))

    def close(self) -> None:
        """Need nothing."""


class _Trace(Router):
    """Reads what `(watch rules)` prints."""

    def __init__(self, fired: list[str]) -> None:
        super().__init__("holdfast-trace", 60)
        self._fired = fired
        self._line = ""

    def query(self, name: str) -> bool:
        return name == "stdout" or name == "wtrace"

    def write(self, name: str, message: str) -> None:
        self._line += message
        if message.endswith("\n"):
            line, self._line = self._line, ""
            if line.startswith("FIRE "):
                self._fired.append(line.split(None, 2)[2].rstrip())
