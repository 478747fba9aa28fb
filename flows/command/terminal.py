"""What is shown on a terminal: every text from data with its control characters escaped."""

import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_OF_FILES = 160
"""Columns of a table that is not shown on a terminal."""


def printable(text: str, keep: str = "") -> str:
    """``text`` with every character that a terminal may act on written as an escape."""
    return "".join(
        c if c.isprintable() or c in keep or c == "\N{IDEOGRAPHIC SPACE}" else _escape(c)
        for c in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def console() -> Console:
    """A console that reads nothing as markup."""
    width = None if sys.stdout.isatty() else WIDTH_OF_FILES
    return Console(markup=False, highlight=False, emoji=False, width=width)


def say(text: str) -> None:
    """Print a line."""
    console().print(Text(printable(text)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    text = json.dumps(finite(value), ensure_ascii=False, indent=2, allow_nan=False)
    print(printable_json(text))  # noqa: T201


def printable_json(text: str) -> str:
    """JSON with control characters in it escaped as JSON escapes them."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Print rows of text; columns named in ``right`` are aligned there."""
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)


def short_number(value: float | None) -> str:
    """Four digits, or all before the point; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 999.95 else f"{value:.4g}"


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def log_to_stderr() -> None:
    """Our packages' progress on stderr, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for package in ("flows", "pipeline", "warehouse"):
        log = logging.getLogger(package)
        log.setLevel(logging.INFO)
        log.handlers = [handler]
        log.propagate = False


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Show on stderr that something slow is being loaded, before it is imported.

    A terminal has a spinner, which goes when the block ends. Anything else gets a line.

    Args:
        what: What is loaded, such as ``the registry``.
    """
    screen = Console(stderr=True, markup=False, highlight=False, emoji=False)
    sentence = Text(printable(f"Loading {what} ..."))
    if screen.is_terminal:
        with screen.status(sentence):
            yield
    else:
        screen.print(sentence, soft_wrap=True)
        yield
