"""Which first-party code a task reaches, and one digest of it.

Two rules, because two kinds of module differ. A module of ``pipeline/`` or ``warehouse/`` is
reached whole, with everything it imports. A module of ``flows/`` holds many tasks side by side, so
there only the definitions that a task names are reached, one by one. What is digested is the syntax
tree without docstrings, comments and function annotations: text that cannot change a result.

Sources are read once, when a run begins: a file edited while a long training is under way belongs
to the next run, as the code in memory is still the old one.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FIRST_PARTY = ("flows", "pipeline", "warehouse")

NEVER_REACHED = frozenset({"flows.steps.steps", "flows.steps.code_digest"})
"""They decide keys, not results."""


@dataclass(frozen=True)
class Source:
    """One first-party module: its dotted name, whether it is a package's ``__init__``, its text."""

    module: str
    is_package: bool
    text: str


@dataclass(frozen=True)
class Imported:
    """What one name of an import statement stands for: ``module``, or ``name`` inside it."""

    module: str
    name: str | None = None


@cache
def first_party_sources() -> dict[str, Source]:
    """Every first-party module by its dotted name, as its file stood at the first call."""
    sources: dict[str, Source] = {}
    for package in FIRST_PARTY:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(location).rglob("*.py")):
                parts = (package, *path.relative_to(location).with_suffix("").parts)
                is_package = parts[-1] == "__init__"
                module = ".".join(parts[:-1] if is_package else parts)
                sources[module] = Source(module, is_package, path.read_text(encoding="utf-8"))
    return sources


def code_digest(fn: Callable[..., Any], also: Iterable[str] = ()) -> str:
    """A digest (32 hex digits) of the code that ``fn`` reaches.

    ``also`` names first-party modules that an input chooses at run time, where no import says so.
    Major and minor version of every library that the reached code imports count as code too.

    Raises LookupError if ``fn`` is not a top-level function of a first-party module, or if ``also``
    names a module that does not exist.
    """
    return _digest_of(fn.__module__, fn.__qualname__, tuple(sorted(set(also))))


@cache
def _digest_of(module: str, function: str, also: tuple[str, ...]) -> str:
    reach = _Reach(first_party_sources())
    if module not in reach.sources or function not in _bindings(reach.sources[module]):
        raise LookupError(
            f"{module}.{function} cannot be cached: a cached task is a top-level function of a "
            f"module in {', '.join(FIRST_PARTY)}, imported by its full name"
        )
    reach.definition(module, function)
    for name in also:
        if name not in reach.sources:
            raise LookupError(f"{module}.{function} reaches {name}, which is no first-party module")
        reach.module(name)
    lines = [f"{name} {digest}" for name, digest in sorted(reach.digests.items())]
    releases = {name: _release(name) for name in sorted(reach.libraries)}
    lines += [f"{name} {release}" for name, release in releases.items() if release]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


@dataclass
class _Reach:
    """Walks from definition to definition and from module to module; each is visited once."""

    sources: dict[str, Source]
    digests: dict[str, str] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)

    def definition(self, module: str, name: str) -> None:
        """Reach one top-level name of a module of flows/ and what its code names in turn."""
        label = f"{module}:{name}"
        bound = _bindings(self.sources[module]).get(name)
        if bound is None or label in self.digests:
            return
        statements = tuple(each for each in bound if isinstance(each, ast.stmt))
        self.digests[label] = _tree_digest(statements)
        for each in bound:
            if isinstance(each, Imported):
                self.imported(each)
        for used in sorted({used for statement in statements for used in _names(statement)}):
            self.definition(module, used)
        for statement in statements:
            for imported in _imports(statement, self.sources[module]):
                self.imported(imported)

    def module(self, name: str) -> None:
        """Reach a whole module and what it imports."""
        if name in self.digests or name in NEVER_REACHED:
            return
        tree = _tree(self.sources[name])
        self.digests[name] = _tree_digest(tuple(tree.body))
        for imported in _imports(tree, self.sources[name]):
            self.imported(imported)

    def imported(self, target: Imported) -> None:
        """Reach what an import names; a package's ``__init__`` only if it is named itself."""
        top = target.module.partition(".")[0]
        inner = f"{target.module}.{target.name}"
        if top not in FIRST_PARTY:
            self.libraries.add(top)
        elif inner in self.sources:
            self.module(inner)
        elif target.module in self.sources and target.module not in NEVER_REACHED:
            if top == "flows" and target.name is not None:
                self.definition(target.module, target.name)
            else:
                self.module(target.module)


@cache
def _tree(source: Source) -> ast.Module:
    tree = _Stripped().visit(ast.parse(source.text))
    assert isinstance(tree, ast.Module)
    return tree


class _Stripped(ast.NodeTransformer):
    """Drops what cannot change a result: docstrings, function annotations, caching decorators."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and not isinstance(node, (ast.If, ast.For, ast.While)):
            node.body = [each for each in body if not _is_bare_string(each)] or [ast.Pass()]  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            node.decorator_list = [each for each in node.decorator_list if not _is_caching(each)]
        if isinstance(node, ast.arg):
            node.annotation = None
        return node


def _is_bare_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_caching(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name == "cached_task"


# Most tasks reach most modules, so what is found in a tree is kept: nodes are equal by identity.


@cache
def _tree_digest(statements: tuple[ast.stmt, ...]) -> str:
    text = "\n".join(ast.dump(statement) for statement in statements)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _bindings(source: Source) -> dict[str, list[ast.stmt | Imported]]:
    """What each top-level name of a module stands for; a name bound twice keeps both."""
    bindings: dict[str, list[ast.stmt | Imported]] = {}
    for statement in _top_level(_tree(source).body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias, target in zip(statement.names, _imports(statement, source), strict=True):
                bound = alias.asname or alias.name.partition(".")[0]
                bindings.setdefault(bound, []).append(target)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bindings.setdefault(statement.name, []).append(statement)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    bindings.setdefault(node.id, []).append(statement)
    return bindings


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under an ``if`` or ``try`` included."""
    for statement in body:
        if isinstance(statement, ast.If):
            if not _is_type_checking(statement):
                yield from _top_level(statement.body)
            yield from _top_level(statement.orelse)
        elif isinstance(statement, ast.Try):
            for part in (statement.body, statement.orelse, statement.finalbody):
                yield from _top_level(part)
            for handler in statement.handlers:
                yield from _top_level(handler.body)
        else:
            yield statement


def _is_type_checking(statement: ast.If) -> bool:
    test = statement.test
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


@cache
def _names(statement: ast.stmt) -> frozenset[str]:
    return frozenset(
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )


@cache
def _imports(node: ast.AST, source: Source) -> tuple[Imported, ...]:
    """What every import under ``node`` names, one after the other, relative ones made absolute."""
    return tuple(_imports_below(node, source))


def _imports_below(node: ast.AST, source: Source) -> Iterator[Imported]:
    if isinstance(node, ast.Import):
        yield from (Imported(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(node, source)
        yield from (Imported(module, alias.name) for alias in node.names)
    else:
        skipped = node.body if isinstance(node, ast.If) and _is_type_checking(node) else []
        for child in ast.iter_child_nodes(node):
            if child not in skipped:
                yield from _imports_below(child, source)


def _absolute(node: ast.ImportFrom, source: Source) -> str:
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    kept = len(parts) - node.level + source.is_package
    return ".".join([*parts[:kept], *([node.module] if node.module else [])])


@cache
def _release(library: str) -> str | None:
    """Major and minor version of an installed distribution; None for the standard library."""
    try:
        return ".".join(version(library).split(".")[:2])
    except PackageNotFoundError:
        return None
