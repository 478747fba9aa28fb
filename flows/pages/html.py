"""Pages for people: one HTML file each, which needs nothing else.

A page may be mailed, kept, or shown inside the registry. Whatever comes from data goes through
:func:`data` and is harmless; the page's own policy forbids scripts and requests besides.
"""

from collections.abc import Iterable, Sequence
from html import escape

from flows.pages.plots import Plot, as_svg, visible

LONGEST_TEXT = 60
"""Characters of a text from data that a page shows."""


def document(title: str, about: str, sections: Sequence[str]) -> str:
    """The whole page.

    Args:
        title: plain text, also from data.
        about: the lines below it, as HTML.
        sections: made by :func:`section`.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(visible(title, 120))}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<header>\n<h1>{data(title, 120)}</h1>\n<p>{about}</p>\n</header>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of a page under its title; the body is HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def data(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text from data, harmless in HTML and kept from turning the line around."""
    return f"<bdi>{escape(visible(text, longest))}</bdi>"


def figure(plot: Plot, label: str, height: float = 2.9) -> str:
    """A plot as wide as its place; ``label`` says it to those who cannot see it."""
    return f'<figure role="img" aria-label="{escape(label)}">{as_svg(plot, height=height)}</figure>'


def grid(*parts: str) -> str:
    """Parts side by side, one below the other where the window is narrow."""
    return '<div class="grid">\n' + "\n".join(parts) + "\n</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A table; the cells of rows are HTML already, and the first of each names the row."""
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(
        f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>\n"
        for row in rows
    )
    below = f'<p class="note">{note}</p>' if note else ""
    return (
        f'<div class="table"><table>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table>{below}</div>"
    )


def shares(
    head: Sequence[str], counts: Iterable[tuple[str, int]], total: int, note: str = ""
) -> str:
    """A table of counts with their share of a total as a bar; names are from data."""
    rows = [
        (
            data(name),
            f"{count:,}",
            _bar(count / max(1, total)),
        )
        for name, count in counts
    ]
    return table((*head, "share"), rows, note)


def _bar(share: float) -> str:
    # The widest bar leaves room for its figure.
    return f'<span class="bar" style="width:{0.6 * share:.3%}"></span>{share:.2%}'


_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5b6572; --line: #e2e5ea; --blue: #2563a8;
  --font: system-ui, -apple-system, "Segoe UI", "Noto Sans", "PingFang SC", "Microsoft YaHei",
  "Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", sans-serif; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 var(--font); }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 40px 0 14px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 0 0 4px; }
header p, .note { color: var(--soft); margin: 0; font-size: 13.5px; }
code { font-size: 12px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px;
  margin: 0 0 16px; }
.tiles div { border: 1px solid var(--line); border-radius: 6px; padding: 9px 12px; }
.tiles dt { color: var(--soft); font-size: 12.5px; }
.tiles dd { margin: 0; font-size: 17px; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles dd.small { font-size: 13.5px; }
.remarks { border-left: 4px solid #c2570c; background: #fdf6f0; padding: 10px 14px; }
.remarks ul { margin: 0; padding-left: 18px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr));
  gap: 18px 28px; align-items: start; margin-bottom: 14px; }
figure { margin: 0 0 10px; max-width: 600px; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: var(--font) !important; }
.table { overflow-x: auto; margin: 0 0 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 13.5px; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; white-space: normal; vertical-align: bottom; }
th:first-child { text-align: left; font-weight: 500; white-space: normal;
  overflow-wrap: break-word; max-width: 28em; }
.table .note { margin-top: 6px; }
.bar { display: inline-block; height: 9px; background: var(--blue); opacity: .75;
  margin-right: 8px; vertical-align: middle; }
td:has(.bar) { width: 45%; text-align: left; }
tr:has(.bar) > th { white-space: normal; }
table:has(.bar) thead th:last-child { text-align: left; }
b.much { color: #b42318; } b.some { color: #b45309; } b.stable, b.within { color: #2e7d4f; }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""
