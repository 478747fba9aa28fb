"""Which code a task reaches, and one digest of it: the part of a cache key that stands for code.

Reached is what the task's function names, what that names in turn, and so on, by Python's own rules
of scope: top-level functions, classes and values, each for itself, whatever module they stand in.
The classes of a task's inputs are reached too, since their methods may run. So a key changes with
the code that can change the result, and neither with its neighbours in a file nor with the file.

What cannot change a result is no part of the digest:

- comments, docstrings, layout, the order of imports, and where a definition stands;
- annotations, except those in the body of a class: they are the fields of dataclasses and models;
- log lines, warnings, and the message of an exception in a ``raise`` or an ``assert``.

A message that code keeps as data does count. The reasons of rejected rows are such: functions
return them as values, and only the arguments of a ``raise`` are left out. And where reached code
catches an exception and reads it other than to raise or to log it, all messages count for that
task, because one of them may become part of its result.

A module that only stores and gives back declares ``KEY_VERSION``, a number that stands for its
whole code and for all that it imports. Whoever changes what such a module gives back, or how it
names what it stores, counts the number up. This is the only exception, and each such module
declares it itself.

Sources are read once, when a run begins: a file edited while a long training is under way belongs
to the next run, as the code in memory is still the old one.
"""

import ast
import builtins
import hashlib
import importlib.util
import symtable
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FIRST_PARTY = ("flows", "pipeline", "warehouse")
"""The packages whose code counts, beside those that define the class of an input."""

KEY_VERSION = 1
"""This module decides keys, not results."""

_VERSION_NAME = "KEY_VERSION"

_EFFECTS = "()"  # stands for the statements of a module that bind no name

_EVERYTHING = "*"  # stands for all names of a module

_LOGGERS = frozenset({"log", "logger", "logging", "observer", "warnings"})

_LOG_METHODS = frozenset(
    {"critical", "debug", "error", "exception", "info", "log", "warn", "warning"}
)

# Python versions differ in the last three.
_IGNORED_FIELDS = frozenset({"annotation", "returns", "ctx", "kind", "type_comment", "type_params"})


@dataclass(frozen=True)
class Source:
    """One module: its dotted name, whether it is a package's ``__init__``, its text."""

    module: str
    is_package: bool
    text: str


@dataclass(frozen=True)
class Definition:
    """A top-level name of a module."""

    module: str
    name: str


@dataclass(frozen=True)
class Imported:
    """What one name of an import statement stands for: ``module``, or ``name`` inside it."""

    module: str
    name: str | None = None


@dataclass(frozen=True)
class Reached:
    """The code that a task reaches: its digest (32 hex digits), and the libraries it names."""

    digest: str
    libraries: frozenset[str]


def code_digest(fn: Callable[..., Any], classes: Iterable[type] = ()) -> str:
    """A digest (32 hex digits) of the code that a task reaches.

    The major and minor version of every library that the code names counts as code.

    Args:
        fn: the task's function.
        classes: the classes of its inputs.

    Raises:
        LookupError: one of them is not defined at the top level of a module that can be imported.
    """
    return _digest_of(definition_of(fn), frozenset(map(definition_of, classes)))


def definition_of(value: Callable[..., Any]) -> Definition:
    """The top-level name under which a function or a class is defined."""
    return Definition(value.__module__, value.__qualname__.partition(".")[0])


@cache
def _digest_of(task: Definition, classes: frozenset[Definition]) -> str:
    packages = {each.module.partition(".")[0] for each in (task, *classes)}
    reached = first_party_code(frozenset(packages)).reached(task, classes)
    releases = {name: _release(name) for name in sorted(reached.libraries)}
    lines = [f"{name} {release}" for name, release in releases.items() if release]
    return _sha256("\n".join([reached.digest, *lines]))[:32]


@cache
def _release(library: str) -> str | None:
    """Major and minor version of an installed distribution; None for the standard library."""
    try:
        return ".".join(version(library).split(".")[:2])
    except PackageNotFoundError:
        return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- sources --------------------------------------------------------------------------------------


@cache
def first_party_code(packages: frozenset[str] = frozenset()) -> "Code":
    """The modules of FIRST_PARTY and of ``packages``, as their files stood at the first call."""
    return Code(
        {
            name: source
            for package in sorted({*FIRST_PARTY, *packages})
            for name, source in _sources_of(package).items()
        }
    )


@cache
def _sources_of(package: str) -> dict[str, Source]:
    """The modules of one package, or the one module, by dotted name; none where it is not found."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a script, or what was typed into an interpreter
        spec = None
    if spec is None:
        return {}
    if spec.submodule_search_locations is None:
        origin = Path(spec.origin or "")
        found = {package: (False, origin)} if origin.suffix == ".py" else {}
    else:
        found = {}
        for location in spec.submodule_search_locations:
            for path in sorted(Path(location).rglob("*.py")):
                parts = (package, *path.relative_to(location).with_suffix("").parts)
                is_package = parts[-1] == "__init__"
                found[".".join(parts[:-1] if is_package else parts)] = (is_package, path)
    return {
        module: Source(module, is_package, path.read_text(encoding="utf-8"))
        for module, (is_package, path) in found.items()
    }


# --- what is reached ------------------------------------------------------------------------------


class Code:
    """The definitions of some modules, and what each of them names."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources
        self._nodes: dict[tuple[Definition, bool], _Node] = {}

    def reached(self, task: Definition, classes: Iterable[Definition] = ()) -> Reached:
        """What a task's function and the classes of its inputs reach.

        Raises:
            LookupError: one of them is not a top-level name of these modules.
        """
        roots = [task, *sorted(classes, key=lambda each: (each.name, each.module))]
        for root in roots:
            if root.module not in self.sources or root.name not in self._bindings(root.module):
                raise LookupError(
                    f"{root.module}.{root.name} cannot be part of a cache key: define the function "
                    "of a task, and the class of its input, at the top level of a module that can "
                    "be imported"
                )
        found, may_keep_messages = self._walk(roots, messages=False)
        if may_keep_messages:
            found, _ = self._walk(roots, messages=True)
        return found

    def _walk(self, roots: list[Definition], messages: bool) -> tuple[Reached, bool]:
        """What the roots reach, and whether the text of an exception may become data there.

        Definitions are numbered as they are met and named by their numbers, so that no name of a
        module is part of the digest.
        """
        begin = (self._resolved(root.module, root.name) for root in roots)
        queue = list(dict.fromkeys(each for each in begin if isinstance(each, Definition)))
        numbers = {each: number for number, each in enumerate(queue)}
        lines: list[str] = []
        libraries: set[str] = set()
        raised: set[str] = {"Exception"}
        caught: set[str] = set()
        for definition in queue:  # which grows on the way
            node = self._node(definition, messages)
            line = [node.digest]
            for name, target in node.targets:
                if isinstance(target, str):
                    libraries.add(target.partition(".")[0])
                    line.append(f"{name}={target}")
                    continue
                if target not in numbers:
                    numbers[target] = len(queue)
                    queue.append(target)
                line.append(f"{name}={numbers[target]}")
            lines.append(" ".join(line))
            raised |= node.raised
            caught |= node.caught
        known = [found for name in raised if isinstance(found := vars(builtins).get(name), type)]
        raised |= {ancestor.__name__ for each in known for ancestor in each.__mro__}
        digest = _sha256("\n".join(lines))[:32]
        return Reached(digest, frozenset(libraries)), bool(caught & raised)

    def _node(self, definition: Definition, messages: bool) -> "_Node":
        found = self._nodes.get((definition, messages))
        if found is None:
            found = self._nodes[definition, messages] = self._new_node(definition, messages)
        return found

    def _new_node(self, definition: Definition, messages: bool) -> "_Node":
        module, name = definition.module, definition.name
        bindings = self._bindings(module)
        targets: set[tuple[str, Definition | str | None]] = set()
        contents: list[_Content] = []
        if name == _EVERYTHING:
            targets |= {(each, self._resolved(module, each)) for each in bindings}
        else:
            if name != _VERSION_NAME and _EFFECTS in bindings:
                targets.add((_EFFECTS, Definition(module, _EFFECTS)))
            for bound in bindings[name]:
                if isinstance(bound, Imported):
                    targets.add((name, self._imported(bound)))
                else:
                    contents.append(_content(bound, self.sources[module], messages))
        for content in contents:
            targets |= {
                (each, self._resolved(module, each, by=name)) for each in content.global_names
            }
            targets |= {(each, self._imported(target)) for each, target in content.imports}
        return _Node(
            digest=_sha256("\n".join(content.text for content in contents)),
            targets=tuple(
                sorted(
                    ((each, target) for each, target in targets if target and target != definition),
                    key=str,
                )
            ),
            raised=frozenset(each for content in contents for each in content.raised),
            caught=frozenset(each for content in contents for each in content.caught),
        )

    def _bindings(self, module: str) -> "_Bindings":
        return _bindings(self.sources[module])

    def _resolved(self, module: str, name: str, by: str = "") -> Definition | str | None:
        """What a global name means in a module, a library's by its dotted name; None for built-ins.

        ``by`` is the definition of the module that uses the name.
        """
        bindings = self._bindings(module)
        if _VERSION_NAME in bindings and by != _VERSION_NAME:
            return Definition(module, _VERSION_NAME)
        bound = bindings.get(name)
        if bound is None:
            if f"{module}.{name}" in self.sources:
                return self._imported(Imported(f"{module}.{name}"))
            return Definition(module, _EVERYTHING) if "__getattr__" in bindings else None
        if len(bound) == 1 and isinstance(bound[0], Imported):
            return self._imported(bound[0])
        return Definition(module, name)

    def _imported(self, target: Imported) -> Definition | str | None:
        if target.module not in self.sources:
            return f"{target.module}.{target.name}" if target.name else target.module
        if target.name is not None:
            return self._resolved(target.module, target.name)
        if _VERSION_NAME in self._bindings(target.module):
            return Definition(target.module, _VERSION_NAME)
        return Definition(target.module, _EVERYTHING)


@dataclass(frozen=True)
class _Node:
    """A definition: the digest of its own code, what its names mean, and its exceptions."""

    digest: str
    targets: tuple[tuple[str, Definition | str], ...]
    raised: frozenset[str]
    caught: frozenset[str]


# --- the names of a module ------------------------------------------------------------------------

_Bindings = dict[str, list[ast.stmt | Imported]]


@cache
def _bindings(source: Source) -> _Bindings:
    """What each top-level name of a module stands for; a name bound twice keeps both.

    Under ``_EFFECTS`` stand the statements that run on import and bind no name.
    """
    bindings: _Bindings = {}
    for statement in ast.parse(source.text).body:
        if _is_documentation(statement) or _is_never_imported(statement):
            continue
        is_import = isinstance(statement, ast.Import | ast.ImportFrom)
        names = list(_bound(statement, source))
        for name, imported in names:
            found = bindings.setdefault(name, [])
            if imported is not None:
                found.append(imported)
            if not is_import and statement not in found:
                found.append(statement)
        if not names and not is_import:
            bindings.setdefault(_EFFECTS, []).append(statement)
    return bindings


def _bound(node: ast.AST, source: Source) -> Iterator[tuple[str, Imported | None]]:
    """The names that a statement binds in its own scope, with what it imports under them."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _imports(node, source)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, None
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id, None
    elif not isinstance(
        node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child, source)


def _imports(node: ast.Import | ast.ImportFrom, source: Source) -> Iterator[tuple[str, Imported]]:
    """The names that an import statement binds, and what they stand for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], Imported(alias.name)
        return
    module = node.module or ""
    if node.level:
        parts = source.module.split(".")
        kept = parts[: len(parts) - node.level + source.is_package]
        module = ".".join([*kept, *([node.module] if node.module else [])])
    for alias in node.names:
        yield alias.asname or alias.name, Imported(module, alias.name)


def _is_documentation(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_never_imported(statement: ast.stmt) -> bool:
    """Whether it is for the type checker alone, or for a module that runs as a script."""
    if not isinstance(statement, ast.If):
        return False
    test = statement.test
    if isinstance(test, ast.Compare):
        return _last_name(test.left) == "__name__"
    return _last_name(test) == "TYPE_CHECKING" and not statement.orelse


def _last_name(node: ast.AST | None) -> str:
    """``c`` of the expressions ``c`` and ``a.b.c``; empty for any other."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# --- the content of a statement -------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """What a top-level statement says, and what it names.

    ``raised`` are the exceptions whose messages are left out, and the bases of classes; ``caught``
    are those that it catches and reads.
    """

    text: str
    global_names: frozenset[str]
    imports: tuple[tuple[str, Imported], ...]
    raised: frozenset[str]
    caught: frozenset[str]


@cache  # Most tasks reach most of the same definitions. Statements are equal by identity.
def _content(statement: ast.stmt, source: Source, messages: bool) -> _Content:
    writer = _Writer(source, messages)
    writer.visit(statement)
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(each.lineno for each in decorators)])
    lines = source.text.split("\n")[first - 1 : statement.end_lineno]
    table = symtable.symtable("\n".join(lines), source.module, "exec")
    return _Content(
        text="".join(writer.parts),
        global_names=frozenset(writer.names.intersection(_global_names(table))),
        imports=tuple(writer.imports),
        raised=frozenset(writer.raised),
        caught=frozenset(writer.caught),
    )


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """The names that are looked up outside of a statement, in any of its scopes."""
    if isinstance(table, symtable.Function):
        yield from table.get_globals()
    else:
        yield from (each.get_name() for each in table.get_symbols() if each.is_referenced())
    for child in table.get_children():
        yield from _global_names(child)


@dataclass
class _Writer(ast.NodeVisitor):
    """Writes a statement without what cannot change a result, and notes what it names.

    Fields that are absent or empty are left out, because Python versions add such fields. With
    ``messages`` those of exceptions are written.
    """

    source: Source
    messages: bool
    parts: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    imports: list[tuple[str, Imported]] = field(default_factory=list)
    raised: set[str] = field(default_factory=set)
    caught: set[str] = field(default_factory=set)
    in_class: bool = False

    def generic_visit(self, node: ast.AST) -> None:
        self._open(node)
        for name, value in ast.iter_fields(node):
            if name not in _IGNORED_FIELDS:
                self._field(name, value)
        self.parts.append(")")

    def _open(self, node: ast.AST) -> None:
        self.parts.append(f"{type(node).__name__}(")

    def _field(self, name: str, value: object) -> None:
        self.parts.append(f"{name}=")
        empty = len(self.parts)
        if isinstance(value, list):
            for each in value:
                self._value(each)
        elif value is not None:
            self._value(value)
        if len(self.parts) == empty:
            self.parts.pop()

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self.visit(value)
        else:
            self.parts.append(ascii(value))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.id)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.imports += _imports(node, self.source)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imports += _imports(node, self.source)

    def visit_Pass(self, node: ast.Pass) -> None:
        pass

    def visit_Expr(self, node: ast.Expr) -> None:
        if not _is_documentation(node) and not _is_log_line(node):
            self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.raised |= {_last_name(base) for base in node.bases}
        self._scope(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scope(node, in_class=False)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._scope(node, in_class=False)

    def _scope(self, node: ast.AST, in_class: bool) -> None:
        outer, self.in_class = self.in_class, in_class
        self.generic_visit(node)
        self.in_class = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not self.in_class and node.value is None:
            return
        self.parts.append("Assign(")
        self._field("targets", node.target)
        if self.in_class:
            self._field("annotation", node.annotation)
        self._field("value", node.value)
        self.parts.append(")")

    def visit_Raise(self, node: ast.Raise) -> None:
        made = node.exc
        # Classes begin with a capital. A function that makes an exception keeps its arguments,
        # since they may decide of which class it is.
        if not isinstance(made, ast.Call) or not _last_name(made.func)[:1].isupper():
            self.generic_visit(node)
            return
        self.raised.add(_last_name(made.func))
        self._open(node)
        self._field("exc", made if self.messages else made.func)
        self.parts.append(")")

    def visit_Assert(self, node: ast.Assert) -> None:
        self.raised.add("AssertionError")
        self._open(node)
        self._field("test", node.test)
        if self.messages:
            self._field("msg", node.msg)
        self.parts.append(")")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name and any(_reads(each, node.name) for each in node.body):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = [_last_name(kind) for kind in kinds]
            # A constant may name any exceptions.
            self.caught |= {"Exception" if name.upper() == name else name for name in names}
        self.generic_visit(node)


def _is_log_line(node: ast.AST) -> bool:
    """Whether a statement does nothing but tell a person something."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    told = node.value.func
    if isinstance(told, ast.Attribute):
        return told.attr in _LOG_METHODS and _last_name(told.value) in _LOGGERS
    return isinstance(told, ast.Name) and told.id == "print"


def _reads(node: ast.AST, error: str) -> bool:
    """Whether a caught exception is used for more than to raise, to log or to tell its class."""
    if isinstance(node, ast.Raise) or _is_log_line(node):
        return False
    if isinstance(node, ast.Call) and _last_name(node.func) in ("isinstance", "type"):
        return False
    if isinstance(node, ast.Name):
        return node.id == error
    return any(_reads(child, error) for child in ast.iter_child_nodes(node))
