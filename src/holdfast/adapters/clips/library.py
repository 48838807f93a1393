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

import ctypes
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

import clips
import clips._clips as extension
from clips import Router
from clips._clips import ffi, lib
from clips.common import environment_builder

_ADDED: Final = {
    "AssertFunction": "Fact",
    "RetractFunction": "Fact",
    "BeforeRuleFiresFunction": "Activation",
}
"""The hooks, and what each of them is called with."""
_HEARD_BY: Final = b"holdfast"
_ASSERTED: Final = list(_ADDED).index("AssertFunction")
_RETRACTED: Final = list(_ADDED).index("RetractFunction")
_NULL: Final = ffi.NULL
_index_of: Final = lib.FactIndex
_next_fact: Final = lib.GetNextFact
_string: Final = ffi.string
_off: Final = lib.DeactivateRouter
_on: Final = lib.ActivateRouter


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

    def came_alone(self, fact: Any) -> int:
        """Return the index of a fact if it came since the last call and nothing else; else 0."""
        ...

    def deafen(self) -> None:
        """Hear of no fact that comes, until `hear`; of those that go as before."""
        ...

    def hear(self) -> None:
        """Hear of facts that come."""
        ...

    def reset(self) -> int:
        """Reset the engine; return the highest index used since. What is there then came."""
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


class Hooks(NamedTuple):
    """
    Functions of the engine that clipspy does not offer, with clipspy's own types: so what the
    engine tells needs no conversion.
    """

    add: tuple[Any, ...]
    remove: tuple[Any, ...]
    seed: Any


@lru_cache(1)
def hooks() -> Hooks | None:
    """Return the engine's hooks, or None where this build does not offer them."""
    try:
        library = ctypes.CDLL(extension.__file__)

        def named(name: str, shape: str) -> Any:
            return ffi.cast(shape, ctypes.cast(library[name], ctypes.c_void_p).value)

        found = Hooks(
            tuple([named(f"Add{name}", _adds(what)) for name, what in _ADDED.items()]),
            tuple([named(f"Remove{name}", "bool(*)(Environment *, char *)") for name in _ADDED]),
            named("genseed", "void(*)(unsigned int)"),
        )
    except (OSError, AttributeError):
        return None
    return found if _works(found) else None


def _hears(what: str) -> str:
    return f"void(*)(Environment *, {what} *, void *)"


def _adds(what: str) -> str:
    return f"bool(*)(Environment *, char *, {_hears(what)}, int, void *)"


def _works(found: Hooks) -> bool:
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


def listed(raw: Any) -> Iterator[Any]:
    """Give the facts that the engine lists, in its order."""
    fact = _next_fact(raw, _NULL)
    while fact != _NULL:
        yield fact
        fact = _next_fact(raw, fact)


def _rule(line: str) -> str:
    return line.partition(":")[0]


def liner(env: Any) -> Callable[[Any], str]:
    """
    Return what writes an activation as a line.

    The engine writes it word by word, and asks every router about every word. Those in Python
    would cost more than the rule that fires, so they are not asked meanwhile.
    """
    raw, builder = env._env, environment_builder(env._env, "string")
    routers = env.routers()  # A view, which shows later ones too.

    def line_of(activation: Any) -> str:
        names = [router.name.encode() for router in routers]
        for name in names:
            _off(raw, name)
        lib.SBReset(builder)
        lib.ActivationPPForm(activation, builder)
        for name in names:
            _on(raw, name)
        return str(_string(builder.contents).decode(errors="replace"))

    return line_of


@contextmanager
def unasked(env: Any) -> Generator[None, None, None]:
    """
    Have no router in Python asked meanwhile: the engine asks each about every character it reads.

    What it says of a mistake in that text goes where it would go without clipspy.
    """
    raw, names = env._env, [router.name.encode() for router in env.routers()]
    for name in names:
        _off(raw, name)
    try:
        yield
    finally:
        for name in names:
            _on(raw, name)


class Hearing:
    """Hears by the engine's own hooks."""

    hears_all = True

    def __init__(self, env: Any, supporting: frozenset[str], found: Hooks) -> None:
        """Begin to listen."""
        self._env: Any = env._env
        self._hooks = found
        self.fired: list[str] = []
        self.supported: set[int] = set()
        self._came: dict[int, Any] = {}
        self._gone: set[int] = set()
        # The line of the rule that fires, if its facts live by what it found.
        self._firing: list[str] = []
        # Kept as long as the engine may call them.
        self._callbacks = [
            ffi.callback(_hears(what), function)
            for what, function in zip(
                _ADDED.values(),
                (self._asserted(), self._retracted(), self._fires(env, supporting)),
                strict=True,
            )
        ]
        for what in range(len(_ADDED)):
            self._listen(what)

    def _listen(self, what: int) -> None:
        self._hooks.add[what](self._env, _HEARD_BY, self._callbacks[what], 0, _NULL)

    def _asserted(self) -> Any:
        came, supported, firing = self._came, self.supported, self._firing

        def asserted(_env: Any, fact: Any, _context: Any) -> None:
            index = _index_of(fact)
            came[index] = fact
            if firing:
                supported.add(index)

        return asserted

    def _retracted(self) -> Any:
        came, gone, supported = self._came, self._gone, self.supported

        def retracted(_env: Any, fact: Any, _context: Any) -> None:
            index = _index_of(fact)
            came.pop(index, None)
            gone.add(index)
            supported.discard(index)

        return retracted

    def _fires(self, env: Any, supporting: frozenset[str]) -> Any:
        fired, firing, line_of = self.fired, self._firing, liner(env)

        def fires(_env: Any, activation: Any, _context: Any) -> None:
            line = line_of(activation).split(None, 1)[1]
            fired.append(line)
            firing[:] = [line] if supporting and _rule(line) in supporting else []

        return fires

    def begin(self) -> None:
        """Forget what fired before."""
        self.fired.clear()

    def changes(self) -> tuple[dict[int, Any], set[int]]:
        """Return what came, by index, and what went, since the last call."""
        self._firing.clear()  # The operation is over: what is asserted now is nobody's.
        came, gone = self._came.copy(), self._gone.copy()
        self._came.clear()
        self._gone.clear()
        return came, gone

    def came_alone(self, fact: Any) -> int:
        """Return the index of a fact if it came since the last call and nothing else; else 0."""
        came = self._came
        if len(came) != 1 or self._gone:
            return 0
        [(index, other)] = came.items()
        if other != fact:
            return 0
        came.clear()
        return index

    def deafen(self) -> None:
        """Hear of no fact that comes, until `hear`; of those that go as before."""
        self._hooks.remove[_ASSERTED](self._env, _HEARD_BY)

    def hear(self) -> None:
        """Hear of facts that come."""
        self.deafen()  # The engine would tell twice.
        self._listen(_ASSERTED)

    def reset(self) -> int:
        """Reset the engine; return the highest index used since. What is there then came."""
        # Nobody has to hear of each fact that goes: all of them do.
        self._hooks.remove[_RETRACTED](self._env, _HEARD_BY)
        try:
            lib.Reset(self._env)
        finally:
            self._listen(_RETRACTED)
        used = max(self._came, default=0)
        if self._came:
            there: set[int] = {_index_of(fact) for fact in listed(self._env)}
            for index in self._came.keys() - there:
                del self._came[index]
        self._gone.clear()
        self.supported.clear()
        return used

    def seed(self, number: int) -> None:
        """Have the engine draw from here."""
        self._hooks.seed(number)

    def close(self) -> None:
        """Listen no more; the engine does not free this by itself."""
        for remove in self._hooks.remove:
            remove(self._env, _HEARD_BY)
        self._env = None


class Looking:
    """Finds out by looking at every fact; works with any build of the engine."""

    hears_all = False

    def __init__(self, env: Any, supporting: frozenset[str]) -> None:
        """Begin to look."""
        self.fired: list[str] = []
        self.supported: set[int] = set()
        self._env: Any = env
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
        came = {_index_of(fact): fact for fact in listed(self._env._env)}
        before, self._known = self._known, set(came)
        if any(_rule(line) in self._supporting for line in self.fired[self._told :]):
            self.supported |= self._known - before
        self._told = len(self.fired)
        self.supported &= self._known
        return came, before

    def came_alone(self, fact: Any) -> int:
        """Return 0: it takes a look at all facts to know."""
        return 0

    def deafen(self) -> None:
        """Go on as before: it looks when it is asked."""

    def hear(self) -> None:
        """Go on as before."""

    def reset(self) -> int:
        """Reset the engine; what is there is found by the next look."""
        lib.Reset(self._env._env)
        self._known.clear()
        self.supported.clear()
        return 0

    def seed(self, number: int) -> None:
        """Have the engine draw from here."""
        lib.Eval(self._env._env, b"(seed %d)" % number, ffi.new("CLIPSValue *"))

    def close(self) -> None:
        """Refer to the engine no more."""
        self._env = None


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
