"""Write the reference pages into docs/reference/: settings, commands and the Python API.

Nothing here names a module of Tidemill. The flow of retraining is the entry point in prefect.yaml,
the settings are the types of its parameters, the command is the script in pyproject.toml, and the
API pages are the modules that the packages contain.
"""

import ast
import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import griffe
import yaml

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "reference"
PACKAGES = ("pipeline", "warehouse", "flows")
NOTE = "<!-- made by docs/generate.py; do not edit -->\n\n"
BULLET = re.compile(r"^- `(\w+)`(?:, `(\w+)`)*: (.*?)(?=^- `|\n\n|\Z)", re.DOTALL | re.MULTILINE)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "api").mkdir(parents=True)
    write("settings.md", settings_page())
    write("commands.md", commands_page())
    for name, text in api_pages():
        write(f"{name}.md", text)


def write(name: str, text: str) -> None:
    (OUT / name).write_text(NOTE + text, encoding="utf-8")


# --- settings -------------------------------------------------------------------------------------


def settings_page() -> str:
    flow = retraining_flow()
    described = descriptions(flow)
    lines = [
        "# Settings",
        "",
        "A deployment in `prefect.yaml` gives these parameters to the flow `retrain`.",
        "On the command line, `--set KEY=VALUE` changes one of them; repeat it for more:",
        "`--set training.num_epochs=5 --set network.hidden_size=512`. A value is JSON or text.",
        "",
        "## A retraining",
        "",
    ]
    groups: list[tuple[str, type]] = []
    rows = []
    for parameter in inspect.signature(flow, eval_str=True).parameters.values():
        found = [each for each in members(parameter.annotation) if dataclasses.is_dataclass(each)]
        new = [(parameter.name, each) for each in found if each not in dict(groups).values()]
        groups += [group for group in new if group[1] not in {each for _, each in groups}]
        about = described.get(parameter.name, "")
        if found:
            links = ", ".join(f"[{title(parameter.name, each)}](#{anchor(each)})" for each in found)
            about = f"{about} Settings: {links}."
        kind = "" if found else type_text(parameter.annotation)
        rows.append((parameter.name, kind, default_text(parameter.default), about))
    lines += table(rows)
    for prefix, group in groups:
        lines += ["", f"## {title(prefix, group)} {{#{anchor(group)}}}", ""]
        lines += [first_paragraph(group), ""]
        lines += table(fields_of(prefix, group))
    return "\n".join(lines) + "\n"


def retraining_flow() -> Any:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    module, _, name = content["deployments"][0]["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    return getattr(flow, "fn", flow)


def members(hint: Any) -> Iterator[Any]:
    """The types of which a value can be, without Annotated, Union and None."""
    if get_origin(hint) is Annotated:
        yield from members(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for each in get_args(hint):
            yield from members(each)
    elif hint is not type(None):
        yield hint


def fields_of(prefix: str, group: Any) -> list[tuple[str, str, str, str]]:
    hints = typing.get_type_hints(group, include_extras=True)
    described = descriptions(group)
    rows = []
    for field in dataclasses.fields(group):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        hint = hints[field.name]
        about = field.metadata.get("description") or annotation_text(hint)
        about = about or described.get(field.name, "")
        if field.name == "name" and not about:
            about = "which problem"
        rows.append((f"{prefix}.{field.name}", type_text(hint), default_text(default), about))
    return rows


def annotation_text(hint: Any) -> str:
    for each in getattr(hint, "__metadata__", ()):
        for attribute in ("description", "documentation"):
            if text := getattr(each, attribute, None):
                return str(text)
    return ""


def descriptions(documented: Any) -> dict[str, str]:
    """What a docstring says of each argument or attribute, in Google style or as a list."""
    text = inspect.getdoc(documented) or ""
    found = {}
    for section in griffe.Docstring(text).parse("google", warnings=False):
        if section.kind in (
            griffe.DocstringSectionKind.parameters,
            griffe.DocstringSectionKind.attributes,
        ):
            found |= {each.name: one_line(each.description) for each in section.value}
    for match in BULLET.finditer(text):
        for name in filter(None, match.groups()[:-1]):
            found.setdefault(name, one_line(match.group(3)))
    return found


def type_text(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return type_text(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        named = [type_text(each) for each in get_args(hint) if each is not type(None)]
        return ", ".join(named)
    if get_origin(hint) is not None:
        return f"`{hint}`".replace("typing.", "")
    return f"`{getattr(hint, '__name__', hint)}`"


def default_text(default: Any) -> str:
    if default in (inspect.Parameter.empty, dataclasses.MISSING):
        return "required"
    if dataclasses.is_dataclass(default):
        return ""
    if default is None:
        return "`null`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`" if default != "" else "`''`"


def title(prefix: str, group: Any) -> str:
    hint = typing.get_type_hints(group).get("name")
    if prefix == "problem" and get_origin(hint) is Literal:
        return f"problem: {get_args(hint)[0]}"
    return prefix


def anchor(group: Any) -> str:
    return str(group.__name__).lower()


def first_paragraph(group: Any) -> str:
    return one_line((inspect.getdoc(group) or "").split("\n\n")[0])


def one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def table(rows: Iterable[tuple[str, str, str, str]]) -> list[str]:
    lines = ["| setting | type or values | default | meaning |", "|---|---|---|---|"]
    for name, kind, default, about in rows:
        cells = [f"`{name}`", kind, default, about]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


# --- commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    overview = help_of()
    lines = ["# Commands", "", "The output of `--help`, for each command.", ""]
    lines += fenced(overview)
    for name in command_names(overview):
        lines += ["", f"## tidemill {name}", "", *fenced(help_of(name))]
    return "\n".join(lines) + "\n"


def help_of(*command: str) -> str:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = scripts["project"]["scripts"]["tidemill"].partition(":")
    # An option's help may name a folder of this machine where the environment sets one.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TIDEMILL_", "PREFECT_"))}
    shown = {"COLUMNS": "92", "NO_COLOR": "1", "TERM": "dumb"}
    code = f"import sys; sys.argv[0] = 'tidemill'; from {module} import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        env={**kept, **shown, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


def command_names(overview: str) -> list[str]:
    """The first word of each line that begins like the entry of a command."""
    return re.findall(r"(?m)^[ │]{1,6}([a-z][a-z-]*)(?:\s{2,}|\s*$)", overview)


def fenced(text: str) -> list[str]:
    return ["```text", text, "```"]


# --- API ------------------------------------------------------------------------------------------


def api_pages() -> Iterator[tuple[str, str]]:
    lines = [
        "# Python API",
        "",
        "One page for each module. Most programs need only what",
        "[How do I use a model?](../guide/use.md) shows.",
    ]
    for package in PACKAGES:
        lines += ["", f"## {package}", "", "| module | contents |", "|---|---|"]
        for name in modules_of(package):
            lines.append(f"| [{name}](api/{name}.md) | {summary_of(name)} |")
            yield f"api/{name}", f"# {name}\n\n::: {name}\n"
    yield "api", "\n".join(lines) + "\n"


def modules_of(package: str) -> Iterator[str]:
    yield package
    for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            yield found.name


def summary_of(module: str) -> str:
    """The first paragraph of a module's docstring, read without importing the module."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return one_line(docstring.split("\n\n")[0]).replace("|", "\\|")


if __name__ == "__main__":
    main()
