"""Check each link of a built site: the page and its anchor exist, and no page loads from elsewhere.

Usage: python docs/check_links.py site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
"""What a browser fetches to show a page; a link in the text may lead anywhere."""


class Page(HTMLParser):
    """The anchors of a page, and its links as (tag, attribute, address)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.links.append((tag, name, value))


def faults_of(site: Path) -> list[str]:
    """One line for each broken link, and for each file that a page loads from another host."""
    # A server shows 404.html under any address, so its links begin at the server's root.
    files = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    pages = {path.resolve(): Page(path) for path in files}
    faults = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        for tag, attribute, address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if parts.scheme != "data" and (tag, attribute) in LOADED:
                    faults.append(f"{where} loads {address}")
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not (target.exists() and target.is_relative_to(site.resolve())):
                faults.append(f"{where}: no file for {address}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors | {""}:
                faults.append(f"{where}: no anchor for {address}")
    return faults


if __name__ == "__main__":
    found = faults_of(Path(sys.argv[1]))
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
