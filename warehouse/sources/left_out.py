"""What a source file holds that cannot be read as rows."""

from dataclasses import dataclass, field
from typing import NamedTuple

RAW_BYTES = 4096  # kept of a row that cannot be read


# What str.isspace calls blank, and the characters without width or mark that hide at ends.
BLANKS = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
    "\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062"
    "\u2063\u2064\u2066\u2067\u2068\u2069\ufeff"
)


# --- reading --------------------------------------------------------------------------------------


class UnreadRow(NamedTuple):
    """A row that its format gives no meaning.

    `line` is where it stands, `reason` a short code, `detail` a sentence without any of its text,
    `raw` the first `RAW_BYTES` bytes of it.
    """

    line: int
    reason: str
    detail: str
    raw: bytes


@dataclass
class LeftOut:
    """What a file holds beside its rows: rows that cannot be read, and lines of comment."""

    rows: list[UnreadRow] = field(default_factory=list)
    num_comments: int = 0


def _not_utf8(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)
