"""The templates and the style of the pages, read once in a process."""

import hashlib
from functools import cache
from importlib.resources import files


@cache
def templates() -> dict[str, str]:
    """The text of each file in ``templates/`` by its name."""
    folder = files("flows.pages") / "templates"
    names = sorted(each.name for each in folder.iterdir())
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


@cache
def design_digest() -> str:
    """A digest (32 hex digits) of all templates.

    Every task that draws a page takes it as an input, because templates are not Python code: a
    changed template draws the page again.
    """
    lines = (f"{name}\0{text}\0" for name, text in templates().items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]
