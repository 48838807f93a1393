"""
The house rules, each a function from a tree of files to what breaks the rule.

Rules read text and syntax trees and import nothing, so they also judge a tree that does not
run, and can be tried on a tree made up for a test. `tests/test_house.py` applies them to this
repository and holds the exceptions; `tests/test_house_rules.py` breaks each rule on purpose.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
PUBLIC_METHODS_MAX = 20
PARAMETERS_MAX = 8

PACKAGE = "src/holdfast"
PROGRAM_FOLDERS = (PACKAGE, "tests", "bench", "examples")
DIALECTS = ("sqlite", "postgres")
CLOCK_FILE = f"{PACKAGE}/core/clock.py"
LOOP_FILE = f"{PACKAGE}/runtime/service.py"
DRIVERS = {"holdfast.store.sqlite", "holdfast.store.postgres"}
COMPOSITION_ROOT = "holdfast.runtime.runtime"
BANNED_MODULES = set("util utils helper helpers common misc base manager models types".split())
CORE_MAY_IMPORT = {"holdfast", "msgspec"}
CORE_MUST_NOT_IMPORT = set(
    "asyncio concurrent multiprocessing selectors socket sqlite3 subprocess threading time".split()
)
CLOCK_NAMES = {"clock_gettime", "monotonic", "perf_counter", "process_time", "thread_time", "time"}
CLOCK_NAMES |= {f"{name}_ns" for name in CLOCK_NAMES}
DATE_NAMES = {"now", "today", "utcnow"}
# The "not" column of DESIGN.md section 3, without the words that the same table itself defines
# (sequence, generation, snapshot, checkpoint, entry) or needs to define others (owner).
NOT_WORDS = set(
    "transaction program command message log topic channel version offset index push poll "
    "subscribe savepoint mode level save sync lock job task workflow restart prompt interrupt "
    "file blob conversation backend health".split()
)
# Words in capitals at the start, or the shape of a statement in any case. Control of a
# transaction (BEGIN, COMMIT, ROLLBACK) names no table and is no text worth a file.
SQL = re.compile(
    r"\s*(?:(?:SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|PRAGMA|VACUUM|ATTACH|WITH|TRUNCATE|"
    r"LOCK TABLE|COPY|LISTEN|NOTIFY|EXPLAIN|REINDEX|ANALYZE|GRANT|SET)\s+\S"
    r"|(?i:insert\s+into\s|delete\s+from\s|update\s+\w+\s+set\s|select\s.*\sfrom\s|pragma\s+\w+\s*=))",
    re.DOTALL,
)
HEADING = re.compile(r"^-- name: (\w+)(?: rows)?$")
HEADING_LIKE = re.compile(r"^\s*--\s*name\b", re.IGNORECASE)
PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
MIGRATION = re.compile(r"(\d{4})_[a-z0-9]+(?:_[a-z0-9]+)*\.sql")

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


def assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """Return what a body assigns to a name."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value  # type: ignore[attr-defined]  # Only assignments have targets.
    return None


def files_are_short(tree: Tree) -> Findings:
    """Hold files to 500 lines."""
    for source in tree.programs:
        lines = len(source.text.splitlines())
        if lines > FILE_LINES_MAX:
            yield Finding(source.path, lines, f"file has {lines} lines, max {FILE_LINES_MAX}")


def functions_are_short(tree: Tree) -> Findings:
    """Hold functions to 60 lines (docstring not counted) and 8 parameters."""
    for source in tree.programs:
        for node in ast.walk(source.tree):
            if not isinstance(node, Function):
                continue
            text = docstring_of(node)
            lines = (node.end_lineno or 0) - node.lineno + 1
            lines -= (text.end_lineno or 0) - text.lineno + 1 if text else 0
            if lines > FUNCTION_LINES_MAX:
                yield source.find(node, f"{node.name} has {lines} lines, max {FUNCTION_LINES_MAX}")
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(given) - any(one.arg in {"self", "cls"} for one in given[:1])
            count += bool(node.args.vararg) + bool(node.args.kwarg)
            if count > PARAMETERS_MAX:
                yield source.find(node, f"{node.name} has {count} parameters, max {PARAMETERS_MAX}")


def classes_are_small(tree: Tree) -> Findings:
    """Hold classes to 20 public methods."""
    for source in tree.programs:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                methods = {part.name for part in node.body if isinstance(part, Function)}
                count = sum(not name.startswith("_") for name in methods)
                if count > PUBLIC_METHODS_MAX:
                    message = f"{node.name} has {count} public methods, max {PUBLIC_METHODS_MAX}"
                    yield source.find(node, message)


def modules_are_nouns(tree: Tree) -> Findings:
    """Keep vague names away from files and folders."""
    for source in tree.programs:
        for word in source.module.split("."):
            if word.strip("_") in BANNED_MODULES:
                yield Finding(source.path, 1, f"{word!r} says nothing; name the noun")


def modules_have_docstrings(tree: Tree) -> Findings:
    """Ask every module what it is for; only an empty file needs no answer."""
    for source in tree.programs:
        if not ast.get_docstring(source.tree) and source.text.strip():
            yield Finding(source.path, 1, "has no module docstring")


def the_clock_is_read_in_one_place(tree: Tree) -> Findings:
    """Keep reading of time in core/clock.py."""
    for source in tree.product:
        if source.path == CLOCK_FILE:
            continue
        for node in ast.walk(source.tree):
            owner, _, name = dotted(node).rpartition(".")
            last = owner.rpartition(".")[2]
            if (last == "time" and name in CLOCK_NAMES) or (
                last in {"datetime", "date"} and name in DATE_NAMES
            ):
                yield source.find(node, f"reads the clock ({owner}.{name}); take a Clock")
        for node, name in source.imports:
            if name.startswith("time.") and name.removeprefix("time.") in CLOCK_NAMES:
                yield source.find(node, f"imports {name}; take a Clock")


def one_loop_sleeps(tree: Tree) -> Findings:
    """Keep sleeping and the making of tasks in runtime/service.py."""
    for source in tree.product:
        if source.path == LOOP_FILE:
            continue
        for node in ast.walk(source.tree):
            name = dotted(node)
            if name in {"asyncio.sleep", "anyio.sleep", "time.sleep"} or (
                isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}
            ):
                yield source.find(node, f"uses {name}; that is {LOOP_FILE}'s alone")
        for node, name in source.imports:
            if re.fullmatch(r"(asyncio|anyio|time)\.(sleep|create_task|ensure_future)", name):
                yield source.find(node, f"imports {name}; that is {LOOP_FILE}'s alone")


def sql_lives_in_sql_files(tree: Tree) -> Findings:
    """Keep SQL text in .sql files; the test kit may hold some, it looks behind the store."""
    for source in tree.product:
        if source.path.startswith(f"{PACKAGE}/testing/"):
            continue
        for node in strings(source.tree):
            text = str(node.value)
            if id(node) not in source.docstrings and SQL.match(text):
                yield source.find(node, f"SQL outside a .sql file: {' '.join(text.split())[:60]!r}")


def nothing_prints(tree: Tree) -> Findings:
    """Leave printing to the command line."""
    for source in tree.product:
        if not source.path.startswith(f"{PACKAGE}/cli/"):
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and dotted(node.func) == "print":
                    yield source.find(node, "prints; return it, log it, or move it to cli/")


def nothing_asserts(tree: Tree) -> Findings:
    """Allow no assert in the product: `python -O` removes it."""
    for source in tree.product:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert):
                yield source.find(node, "asserts; raise an error that says what to do")


def core_imports_little(tree: Tree) -> Findings:
    """Let core see the standard library without I/O and asyncio, and msgspec."""
    for source in tree.product:
        if not source.path.startswith(f"{PACKAGE}/core/"):
            continue
        for node, name in source.imports:
            top = name.partition(".")[0]
            known = top in sys.stdlib_module_names and top not in CORE_MUST_NOT_IMPORT
            is_clock = source.path == CLOCK_FILE and top == "time"
            if not (known or is_clock or top in CORE_MAY_IMPORT):
                yield source.find(node, f"core imports {top}")


def only_the_runtime_names_a_driver(tree: Tree) -> Findings:
    """Let runtime/runtime.py alone (and the test kit) import a driver."""
    for source in tree.product:
        if source.module == COMPOSITION_ROOT or source.module.startswith("holdfast.testing"):
            continue
        for node, name in source.imports:
            for driver in DRIVERS:
                if f"{name}.".startswith(f"{driver}.") and source.module != driver:
                    yield source.find(node, f"imports the driver {driver}")


def _statements(path: str, text: str) -> tuple[dict[str, tuple[int, set[str]]], list[Finding]]:
    """Return line and parameters of each statement of a .sql file, and malformed headings."""
    found: dict[str, tuple[int, set[str]]] = {}
    wrong: list[Finding] = []
    parameters: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if heading := HEADING.match(line):
            parameters = set()
            if heading[1] in found:
                wrong.append(Finding(path, number, f"statement {heading[1]} is there twice"))
            found[heading[1]] = number, parameters
        elif HEADING_LIKE.match(line):
            wrong.append(Finding(path, number, "is no heading; write `-- name: word`"))
        else:
            parameters.update(PARAMETER.findall(line.partition("--")[0]))
    return found, wrong


def dialects_agree(tree: Tree) -> Findings:
    """Hold both dialects to the same files, statements and parameters."""
    folders = [f"{PACKAGE}/store/sql/{dialect}" for dialect in DIALECTS]
    yield from (missing(folder) for folder in folders if not (tree.root / folder).is_dir())
    for name in sorted({p.name for f in folders for p in (tree.root / f).glob("*.sql")}):
        sides = []
        for path in (f"{folder}/{name}" for folder in folders):
            text = tree.text(path)
            if text is None:
                yield missing(path)
                continue
            found, wrong = _statements(path, text)
            yield from wrong
            sides.append((path, found))
        if len(sides) == len(DIALECTS):
            yield from _differences(*sides[0], *sides[1])


def _differences(
    left_path: str,
    left: dict[str, tuple[int, set[str]]],
    right_path: str,
    right: dict[str, tuple[int, set[str]]],
) -> Findings:
    for path, here, other_path, there in (
        (left_path, left, right_path, right),
        (right_path, right, left_path, left),
    ):
        for name, (line, parameters) in here.items():
            if name not in there:
                yield Finding(path, line, f"statement {name} is missing in {other_path}")
            elif more := sorted(parameters - there[name][1]):
                yield Finding(path, line, f"{name}: parameters {more} are not in {other_path}")


def migrations_are_numbered(tree: Tree) -> Findings:
    """Number migrations 1, 2, 3 with the same names in both dialects."""
    names: list[set[str]] = []
    for dialect in DIALECTS:
        folder = f"{PACKAGE}/store/migrations/{dialect}"
        found = sorted(path.name for path in (tree.root / folder).glob("*"))
        found = [name for name in found if not name.startswith("__")]
        if not found:
            yield missing(f"{folder}/0001_*.sql")
        for number, name in enumerate(found, 1):
            match = MIGRATION.fullmatch(name)
            if match is None:
                yield Finding(f"{folder}/{name}", 1, "is not named NNNN_what_it_does.sql")
            elif int(match[1]) != number:
                yield Finding(f"{folder}/{name}", 1, f"has a gap or twin before it, not {number}")
        names.append(set(found))
    for dialect, here, there in zip(DIALECTS, names, reversed(names), strict=True):
        for name in sorted(here - there):
            path = f"{PACKAGE}/store/migrations/{dialect}/{name}"
            yield Finding(path, 1, "is missing in the other dialect")
