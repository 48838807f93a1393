"""Rules about what others see: public names, errors, crash points, and modules nobody uses."""

import ast
import re
from collections.abc import Iterator

from tests.house.tree import (
    PACKAGE,
    Finding,
    Findings,
    Source,
    Tree,
    docstring_of,
    missing,
    strings,
)

SURFACE = f"{PACKAGE}/__init__.py"
ERRORS = f"{PACKAGE}/core/errors.py"
MORE_ERRORS = (f"{PACKAGE}/core/refusal.py", f"{PACKAGE}/core/denial.py")
ERROR_ROOT = "HoldfastError"
ERROR_PAGE = "docs/errors.md"
FAILPOINTS = f"{PACKAGE}/core/failpoint.py"
# The "not" column of DESIGN.md section 3, without the words that the same table itself defines
# (sequence, generation, snapshot, checkpoint, entry) or needs to define others (owner).
NOT_WORDS = re.compile(
    "transaction|program|command|message|log|topic|channel|version|offset|index|push|poll|"
    "subscribe|savepoint|mode|level|save|sync|lock|job|task|workflow|restart|prompt|interrupt|"
    "file|blob|conversation|backend|health"
)
# Modules that users or the interpreter import by name: the surface, the command, the edges.
ENTRIES = re.compile(r"holdfast(\.__main__|\.(http|adapters|testing|cli)(\.\w+)*|\.\w+)?")


def public_names_are_listed(tree: Tree) -> Findings:
    """Hold `holdfast/__init__.py` to a sorted `__all__` with every public name, documented."""
    source = tree.source(SURFACE)
    if source is None:
        yield missing(SURFACE)
        return
    listing = assigned(source.tree.body, "__all__")
    names = [str(name.value) for name in strings(listing)]
    if listing is None:
        yield Finding(SURFACE, 1, "has no __all__")
    elif names != sorted(set(names)):
        yield source.find(listing, "__all__ is not sorted, or names something twice")
    bound = _bound(source)
    for name, node in bound.items():
        if not name.startswith("_") and name not in names and not tree.module(f"holdfast.{name}"):
            yield source.find(node, f"{name} is not in __all__")
    for name in names:
        if name not in bound and not tree.module(f"holdfast.{name}"):
            yield Finding(SURFACE, 1, f"__all__ names {name}, which is not there")
        elif not _is_documented(tree, source, name):
            yield Finding(SURFACE, 1, f"{name} has no docstring")


def public_names_use_our_words(tree: Tree) -> Findings:
    """Keep words of the "not" column out of public names."""
    source = tree.source(SURFACE)
    if source is None:
        yield missing(SURFACE)
        return
    for node in strings(assigned(source.tree.body, "__all__")):
        name = str(node.value)
        for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
            if NOT_WORDS.fullmatch(word.lower()):
                yield source.find(node, f"{name}: we do not say {word.lower()!r}")


def errors_are_documented(tree: Tree) -> Findings:
    """Give every error a code of its own, a status, a docstring and a line in the docs."""
    source = tree.source(ERRORS)
    page = tree.text(ERROR_PAGE)
    if source is None:
        yield missing(ERRORS)
        return
    if page is None:
        yield missing(ERROR_PAGE)
    more = [tree.source(path) for path in MORE_ERRORS]
    sources = [one for one in (source, *more) if one is not None]
    found = [(node, one) for one in sources for node in one.tree.body]
    placed = {node.name: (node, one) for node, one in found if isinstance(node, ast.ClassDef)}
    classes = {name: node for name, (node, _) in placed.items()}
    codes: set[str] = set()
    for name, (node, source) in placed.items():
        if not _descends(name, classes):
            continue
        value = assigned(node.body, "code")
        code = value.value if isinstance(value, ast.Constant) else None
        if not isinstance(code, str):
            yield source.find(node, f"{name} has no code of its own")
        elif code in codes:
            yield source.find(node, f"{name}: the code {code!r} is taken")
        elif page is not None and "`" + code + "`" not in page:
            yield source.find(node, f"{name}: {ERROR_PAGE} has no line about `{code}`")
        codes.add(str(code))
        if not _has_status(name, classes):
            yield source.find(node, f"{name} has no HTTP status from 400 to 599")
        if docstring_of(node) is None:
            yield source.find(node, f"{name} has no docstring")


def failpoints_are_exercised(tree: Tree) -> Findings:
    """Ask for every crash point by name in some test."""
    source = tree.source(FAILPOINTS)
    if source is None:
        yield missing(FAILPOINTS)
        return
    points = strings(assigned(source.tree.body, "POINTS"))
    if not points:
        yield Finding(FAILPOINTS, 1, "has no list POINTS of names")
    tests = "\n".join(one.text for one in tree.programs if one.path.startswith("tests/"))
    for node in points:
        if not re.search(rf"""["']{re.escape(str(node.value))}["']""", tests):
            yield source.find(node, f"crash point {node.value!r} is in no test")


def modules_are_used(tree: Tree) -> Findings:
    """Find modules that nothing in the product imports and nobody could ask for."""
    used: set[str] = set()
    for source in tree.product:
        for _, name in source.imports:
            used |= {name, name.rpartition(".")[0]} - {source.module}
    for source in tree.product:
        is_entry = ENTRIES.fullmatch(source.module)
        if not (source.is_package or is_entry or source.module in used):
            yield Finding(source.path, 1, f"nothing imports {source.module}")


def assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """Return what a body assigns to a name."""
    for node in body:
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value
    return None


def _bound(source: Source) -> dict[str, ast.stmt]:
    """Return the names that a module's top level binds, also those for type checkers only."""
    found: dict[str, ast.stmt] = {}
    for node in _top_level(source.tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the statements of a module; those under `if TYPE_CHECKING:` count as its own."""
    for node in body:
        if isinstance(node, ast.If):
            yield from node.body
        elif not (isinstance(node, ast.ImportFrom) and node.module == "typing"):
            yield node


def _is_documented(tree: Tree, source: Source, name: str) -> bool:
    """Follow a name to the class or function that it is; a constant documents itself."""
    node = _bound(source).get(name)
    if isinstance(node, ast.ImportFrom):
        origin = next(
            full for at, full in source.imports if at is node and full.endswith(f".{name}")
        )
        module, _, original = origin.rpartition(".")
        other = tree.module(module)
        return other is None or other is source or _is_documented(tree, other, original)
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return docstring_of(node) is not None
    return True


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _descends(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    if name == ERROR_ROOT or name not in classes:
        return name == ERROR_ROOT
    return any(_descends(base, classes) for base in _bases(classes[name]))


def _has_status(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    if name not in classes:
        return False
    status = assigned(classes[name].body, "status")
    if status is None:
        return any(_has_status(base, classes) for base in _bases(classes[name]))
    value = getattr(status, "value", None)
    return isinstance(value, int) and 400 <= value <= 599
