"""The files that house rules look at, and what rules report about them."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "src/holdfast"
PROGRAM_FOLDERS = (PACKAGE, "tests", "bench", "examples")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        """Return the finding as editors and people read it."""
        return f"{self.path}:{self.line}: {self.message}"


Findings = Iterator[Finding]


class Source:
    """One Python file: its text, its syntax tree, what it imports."""

    def __init__(self, root: Path, path: Path) -> None:
        """Read the file."""
        self.path = path.relative_to(root).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, self.path)
        name = self.path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        self.is_package = name.endswith(".__init__")
        self.module = name.removesuffix(".__init__")
        self.docstrings = {
            id(found) for node in ast.walk(self.tree) if (found := docstring_of(node)) is not None
        }

    def find(self, node: ast.AST, message: str) -> Finding:
        """Return a finding at a node of this file."""
        return Finding(self.path, getattr(node, "lineno", 1), message)

    @cached_property
    def imports(self) -> list[tuple[ast.AST, str]]:
        """Return each imported name in full, with its place; also modules named by a string."""
        found: list[tuple[ast.AST, str]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                found += [(node, f"{origin}.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Constant) and re.fullmatch(
                r"holdfast(\.\w+)+", str(node.value)
            ):
                found.append((node, str(node.value)))
        return found

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])


class Tree:
    """The files that rules look at."""

    def __init__(self, root: Path) -> None:
        """Take the root of a checkout."""
        self.root = root

    @cached_property
    def programs(self) -> list[Source]:
        """Return all Python files: product, tests, benches, examples."""
        return [
            Source(self.root, path)
            for folder in PROGRAM_FOLDERS
            for path in sorted((self.root / folder).rglob("*.py"))
        ]

    @cached_property
    def product(self) -> list[Source]:
        """Return the Python files of the package."""
        return [source for source in self.programs if source.path.startswith(f"{PACKAGE}/")]

    def source(self, path: str) -> Source | None:
        """Return one Python file, if it exists."""
        return next((source for source in self.programs if source.path == path), None)

    def module(self, name: str) -> Source | None:
        """Return one module of the package, if it exists."""
        return next((source for source in self.product if source.module == name), None)

    def text(self, path: str) -> str | None:
        """Return the text of a file, if it exists."""
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None


def docstring_of(node: ast.AST) -> ast.expr | None:
    """Return the expression that is the docstring of a module, class or function."""
    if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
        first = node.body[0]
        return first.value if isinstance(first, ast.Expr) else None
    return None


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, with `?` for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def missing(path: str) -> Finding:
    """Return the finding that something is not there."""
    return Finding(path, 1, "is missing")


def strings(node: ast.AST | None) -> list[ast.Constant]:
    """Return the string constants below a node."""
    nodes = ast.walk(node) if node else ()
    return [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


Rule = Callable[[Tree], Findings]
