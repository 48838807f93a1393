"""
Functions by name, so that another process can find them.

A reference is `module:function`, or `file.py:function` for a script and for a module that is
not found by its name, such as a test file outside any package.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

__all__ = ["NotImportableError", "reference_to", "referred"]

Function = Callable[..., Any]


class NotImportableError(ValueError):
    """A function cannot be found again by another process; the message says what to do."""


def reference_to(function: Function) -> str:
    """
    Return the name under which another process finds a function.

    Raises:
        NotImportableError: it is a lambda, lies inside another function, is no plain function,
            or was typed at a prompt.
    """
    name: str | None = getattr(function, "__qualname__", None)
    if name is None or not name.isidentifier():
        raise NotImportableError(
            f"{name or function!r} cannot be imported by another process; make it a function "
            "with a name of its own at the top level of a module or script"
        )
    module = function.__module__
    if module != "__main__" and _is_found(module):
        return f"{module}:{name}"
    found = sys.modules.get(module)
    spec: ModuleSpec | None = getattr(found, "__spec__", None)
    if module == "__main__" and spec is not None:
        return f"{spec.name}:{name}"
    file: str | None = getattr(found, "__file__", None)
    if file is None or not Path(file).is_file():
        raise NotImportableError(
            f"{name!r} was typed at a prompt or given with -c; put it into a file, so that "
            "another process can import it"
        )
    return f"{_shown(Path(file))}:{name}"


def referred(reference: str) -> Function:
    """
    Import what a reference names.

    Raises:
        NotImportableError: there is no such function.
    """
    place, _, name = reference.rpartition(":")
    module = _load(Path(place)) if place.endswith(".py") else import_module(place)
    function: Function | None = getattr(module, name, None)
    if not callable(function):
        raise NotImportableError(f"{reference!r} names no function; write module:function")
    return function


def _is_found(module: str) -> bool:
    """Tell whether a fresh process would find the package or module by its name."""
    top = module.partition(".")[0]
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path)


def _shown(file: Path) -> Path:
    """Return a path as short as it can be, for a command that people read."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _load(file: Path) -> object:
    """Import a file by its path, once, as if it were a script's neighbour."""
    file = file.resolve()
    name = f"crashlab_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise NotImportableError(f"there is no Python file {file}")
    sys.path.insert(0, str(file.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
