"""Rules of CLIPS as an engine that Holdfast keeps."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import clips

from holdfast.adapters.clips.memory import ClipsMemory
from holdfast.adapters.clips.rules import parsed
from holdfast.adapters.clips.voices import Function
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import RulesRefusedError

log: Final = logging.getLogger("holdfast.clips")


class ClipsEngine:
    """
    Rules, templates and functions; each working memory of them is a CLIPS engine of its own.

    Attributes:
        fingerprint: names the rules; it changes with any construct and with their order.
    """

    def __init__(
        self,
        rules: str | Path,
        *,
        functions: Mapping[str, Function] | None = None,
        ttl: Mapping[str, float] | None = None,
        output: Callable[[str], None] | None = None,
    ) -> None:
        """
        Read the rules.

        Args:
            rules: constructs of CLIPS as text, or the file that holds them.
            functions: that rules call, by name; what they answer is kept, and not asked again.
            ttl: seconds after which facts of a template are retracted, by template.
            output: gets what rules print; None logs it.

        Raises:
            RulesRefusedError: CLIPS does not take them, or they do what cannot be kept.
            InvalidValueError: a time to live is not positive.
        """
        text = rules.read_text() if isinstance(rules, Path) else rules
        self._rules = parsed(text)
        self._functions = dict(functions or {})
        self._ttl = dict(ttl or {})
        for template, seconds in self._ttl.items():
            if not seconds > 0:
                raise InvalidValueError(what=f"ttl of {template!r}", reason=f"is {seconds} s")
        self._output = output or _logged
        names = sorted(self._functions)
        self._version = f"clipspy {_version()}"
        self.fingerprint = self._rules.fingerprint(self._version, *names)
        self.fresh().close()

    @property
    def description(self) -> dict[str, Any]:
        """The constructs, and the names of functions; what they do stays in the program."""
        return {
            "rules": list(self._rules.constructs),
            "functions": sorted(self._functions),
            "engine": self._version,
        }

    def earlier(self, description: Any) -> "ClipsEngine":
        """
        Return the engine of a description; its functions are there for replays alone.

        Raises:
            RulesRefusedError: this CLIPS is another one.
        """
        functions = dict.fromkeys(description["functions"], _unknown)
        found = ClipsEngine("\n".join(description["rules"]), functions=functions)
        if description["engine"] != self._version:
            raise RulesRefusedError(
                where="the rules before these",
                reason=f"were run by {description['engine']}, this is {self._version}",
            )
        return found

    def fresh(self) -> ClipsMemory:
        """Return an empty memory with the rules; their own facts come with the first request."""
        return ClipsMemory(self._rules, self._functions, self._ttl, self._output)


def _unknown(*_arguments: object) -> None:
    raise LookupError("a function of rules that were replaced is not called")


def _version() -> str:
    """Return the version by which an engine's order of things may differ."""
    return ".".join(clips.__version__.split(".")[:2])


def _logged(message: str) -> None:
    if message.strip():
        log.info("event=printed text=%r", message)
