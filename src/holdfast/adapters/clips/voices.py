"""
Functions of the program that rules call, and what rules print.

What such a function answers is outside the engine, so it is part of a request: it is kept, and
in a replay the kept answer is given instead of a call. Effects are never repeated.

Invariant: the engine never holds this object's memory: clipspy keeps registered functions in a
table of the process, and whatever they refer to stays as long.
"""

from collections.abc import Callable
from typing import Any

from clips import Router

from holdfast.adapters.clips.values import decoded, encoded

Function = Callable[..., Any]
_ERRORS = ("stderr", "werror")
_OUTPUTS = ("stdout", "stdwrn", "wdisplay", "wdialog", "wwarning", "wprompt")


class Voices:
    """
    What comes into an engine, and out of it, beside its facts.

    Attributes:
        heard: what functions answered in this request, in order.
    """

    def __init__(self, output: Callable[[str], None]) -> None:
        """Take who gets what rules print."""
        self.heard: list[Any] = []
        self._reason = ""
        self._errors: list[str] = []
        self._told: list[Any] | None = None
        self._silent = ""
        self._output = output

    def live(self) -> None:
        """Call functions, and keep what they answer."""
        self._begin(None, "")

    def replay(self, told: list[Any]) -> None:
        """Give these answers, in order, and call nothing."""
        self._begin(list(told), "")

    def silence(self, reason: str) -> None:
        """Refuse every call, for this reason."""
        self._begin([], reason)

    def _begin(self, told: list[Any] | None, silent: str) -> None:
        self.heard, self._told, self._silent = [], told, silent
        self.forgive()

    def forgive(self) -> None:
        """Forget what went wrong: whoever did it says so himself."""
        self._reason, self._errors = "", []

    @property
    def failure(self) -> str:
        """What went wrong while rules were evaluated, in words; empty if nothing did."""
        if self._reason or not self._errors:
            return self._reason
        return " ".join("".join(self._errors).split())[:200] or "an error without words"

    @property
    def left(self) -> int:
        """How many answers of a replay were not asked for."""
        return len(self._told or ())

    def function(self, name: str, function: Function) -> Function:
        """Return what the engine calls instead of a function."""

        def called(*arguments: Any) -> Any:
            try:
                answer = self._answer(name, function, arguments)
            except Exception as error:
                self.fail(self._silent or f"function {name} raised {type(error).__name__}")
                raise
            self.heard.append(answer)
            return decoded(answer)

        return called

    def _answer(self, name: str, function: Function, arguments: tuple[Any, ...]) -> Any:
        if self._told is None:
            return encoded(function(*arguments), name)
        if not self._told:
            raise _UnheardError(f"nothing was heard of {name}")
        return self._told.pop(0)

    def fail(self, reason: str) -> None:
        """Note what went wrong; the first reason stays."""
        self._reason = self.failure or reason

    def printed(self, name: str, message: str) -> None:
        """Take what rules print; nothing is printed again in a replay."""
        if name in _ERRORS:
            self._errors.append(message)
        elif self._told is None:
            self._output(message)


class _UnheardError(RuntimeError):
    """A replay asks for more than was heard."""


class Outlet(Router):
    """The engine's side of what is printed."""

    def __init__(self, voices: Voices) -> None:
        """Take who gets it."""
        super().__init__("holdfast", 40)
        self._voices = voices

    def query(self, name: str) -> bool:
        """Return whether this takes what is printed there."""
        return name in _ERRORS or name in _OUTPUTS

    def write(self, name: str, message: str) -> None:
        """Take it."""
        self._voices.printed(name, message)
