"""Rules of CLIPS as an engine that Holdfast keeps."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import clips

from holdfast.adapters.clips.memory import ClipsMemory
from holdfast.adapters.clips.rules import parsed
from holdfast.adapters.clips.voices import Function
from holdfast.core.errors import InvalidValueError

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
        self.fingerprint = self._rules.fingerprint(f"clipspy {_version()}", *names)
        self.fresh().close()

    def fresh(self) -> ClipsMemory:
        """Return an empty memory with the rules; their own facts come with the first request."""
        return ClipsMemory(self._rules, self._functions, self._ttl, self._output)


def _version() -> str:
    """Return the version by which an engine's order of things may differ."""
    return ".".join(clips.__version__.split(".")[:2])


def _logged(message: str) -> None:
    if message.strip():
        log.info("event=printed text=%r", message)
