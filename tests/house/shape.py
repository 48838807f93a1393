"""Rules about the shape of code: sizes, names, and what only one module may do."""

import ast
import re
import sys

from tests.house.tree import (
    PACKAGE,
    Finding,
    Findings,
    Function,
    Tree,
    docstring_of,
    dotted,
    missing,
    strings,
)

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
PUBLIC_METHODS_MAX = 20
PARAMETERS_MAX = 8

CODEC_FILE = f"{PACKAGE}/core/codec.py"
TESTING = f"{PACKAGE}/testing/"
DECODES = {"msgspec.json.decode", "msgspec.msgpack.decode"}
PLAIN_TYPES = {"str", "list[str]"}
CLOCK_FILE = f"{PACKAGE}/core/clock.py"
LOOP_FILE = f"{PACKAGE}/runtime/service.py"
DRIVERS = {"holdfast.store.sqlite", "holdfast.store.postgres"}
COMPOSITION_ROOT = "holdfast.runtime.runtime"
BANNED_MODULES = re.compile("utils?|helpers?|common|misc|base|manager|models|types")
CORE_MAY_IMPORT = {"holdfast", "msgspec"}
CORE_MUST_NOT_IMPORT = re.compile(
    "asyncio|concurrent|multiprocessing|selectors|socket|sqlite3|subprocess|threading|time"
)
CLOCK_NAMES = {"clock_gettime", "monotonic", "perf_counter", "process_time", "thread_time", "time"}
CLOCK_NAMES |= {f"{name}_ns" for name in CLOCK_NAMES}
DATE_NAMES = {"now", "today", "utcnow"}
# Words in capitals at the start, or the shape of a statement in any case. Control of a
# transaction (BEGIN, COMMIT, ROLLBACK) names no table and is no text worth a file.
SQL = re.compile(
    r"\s*(?:(?:SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|PRAGMA|VACUUM|ATTACH|WITH|TRUNCATE|"
    r"LOCK TABLE|COPY|LISTEN|NOTIFY|EXPLAIN|REINDEX|ANALYZE|GRANT|SET)\s"
    r"|(?i:insert\s+into\s|delete\s+from\s|update\s+\w+\s+set\s|select\s.*\sfrom\s|pragma\s+\w+\s*=))",
    re.DOTALL,
)


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
            if BANNED_MODULES.fullmatch(word.strip("_")):
                yield Finding(source.path, 1, f"{word!r} says nothing; name the noun")


def modules_have_docstrings(tree: Tree) -> Findings:
    """Ask every module what it is for, also the one that makes a folder a package."""
    for source in tree.programs:
        if not ast.get_docstring(source.tree):
            yield Finding(source.path, 1, "has no module docstring")
    for folder in sorted({source.path.rpartition("/")[0] for source in tree.product}):
        if tree.source(f"{folder}/__init__.py") is None:
            yield missing(f"{folder}/__init__.py")


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


def types_are_learned_by_one_thread(tree: Tree) -> Findings:
    """Keep msgspec from learning a type while another thread decodes it; core/codec.py says why."""
    for source in tree.product:
        if source.path == CODEC_FILE or source.path.startswith(TESTING):
            continue
        for call in (node for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
            name = dotted(call.func)
            shapes = [word.value for word in call.keywords if word.arg == "type"]
            if name == "msgspec.convert":
                yield source.find(call, "calls msgspec.convert; take codec.convert")
            elif name in DECODES and not all(_is_learned(shape) for shape in shapes):
                yield source.find(call, f"{name} of a type that is not codec.learned")


def _is_learned(shape: ast.expr) -> bool:
    is_call = isinstance(shape, ast.Call) and dotted(shape.func) == "codec.learned"
    return is_call or ast.unparse(shape) in PLAIN_TYPES


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
            known = top in sys.stdlib_module_names and not CORE_MUST_NOT_IMPORT.fullmatch(top)
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
                if _is_within(name, driver) and not _is_within(source.module, driver):
                    yield source.find(node, f"imports the driver {driver}")


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
