"""Pages as HTML: one self-contained file each, from a jinja2 template with autoescape.

A page can be mailed, stored or shown in the registry. It has no script and requests nothing, and
its Content-Security-Policy forbids both. Autoescape covers every value; text from data also goes
through the macro ``data`` of ``parts.html``, which shows control characters as escapes and isolates
the direction of the text.
"""

from functools import cache
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from flows.pages.design import templates
from flows.pages.plots import PALETTE, Plot, as_svg, visible


def render(template: str, **values: Any) -> str:
    """The page that a template of ``templates/`` makes of ``values``."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=DictLoader(templates()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals["palette"] = PALETTE
    made.filters |= {
        "svg": _svg,
        "visible": visible,
        "integer": lambda number: f"{number:,}",
        "fixed": lambda number, digits: f"{number:,.{digits}f}",
        "significant": _significant,
        "percent": lambda share, digits=2: f"{share:.{digits}%}",
    }
    return made


def _significant(number: float, digits: int) -> str:
    """A number with so many digits, and never an exponent where it is large."""
    return f"{number:,.0f}" if abs(number) >= 10**digits else f"{number:.{digits}g}"


def _svg(plot: Plot, height: float) -> Markup:
    # matplotlib writes the SVG and escapes every text in it.
    return Markup(as_svg(plot, height=height))  # noqa: S704
