"""Normalisation of text, one text at a time and column by column."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from html.entities import html5
from typing import NamedTuple

import numpy as np

from ..errors import InputError, choose_from
from .utf8 import (
    NUM_CODE_POINTS,
    CodePoints,
    Mask,
    Offsets,
    Utf8,
    _decode,
    chunks,
    concatenate,
    offsets_of,
    row_boundaries,
)

# --- normalisation --------------------------------------------------------------------------------

# Elements that stand inside a line: without them the text around stays together.
_INLINE_TAGS = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|img|ins|kbd|label|mark|q|rp|rt|"
    "ruby|s|samp|small|span|strike|strong|sub|sup|time|tt|u|var|wbr"
)

# Elements that end a line: they leave a blank.
_BLOCK_TAGS = (
    "address|article|aside|audio|blockquote|body|br|button|caption|center|col|colgroup|dd|details|"
    "div|dl|dt|embed|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|iframe|"
    "input|legend|li|link|main|meta|nav|noscript|object|ol|optgroup|option|p|param|picture|pre|"
    "script|section|select|source|style|summary|svg|table|tbody|td|template|textarea|tfoot|th|"
    "thead|title|tr|track|ul|video"
)

# Only names that HTML has: <unk>, <3 and a < b are text. Each part ends before the next "<", so the
# time is linear.
_TAG = re.compile(
    rf"<(?:!--[^<]*?--|/?(?:{_INLINE_TAGS}|(?P<block>{_BLOCK_TAGS}))"
    r"""(?:\s+[a-z][a-z0-9:_-]*\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]+))*\s*/?)>""",
    re.IGNORECASE | re.ASCII,
)

# The semicolon is required: "?a=1&copy=2" is an address, not a copyright sign.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")

# Control characters that are not white space; soft hyphen, zero-width and joining characters, marks
# of writing direction, annotation anchors, tag characters; surrogates.
_DROPPED = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)

_EMOJI = r"\u2190-\u2bff\u3030\u303d\U0001f000-\U0001faff"

# A zero-width joiner between two emoji makes one picture of them and stays.
_CONTROLS = re.compile(rf"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])|([{_DROPPED}])")

_WIDTH = {
    full: full - 0xFEE0
    for a, b in ("09", "AZ", "az")
    for full in range(ord(a) + 0xFEE0, ord(b) + 0xFEE1)
} | {0x3000: 0x20}

_WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ\u3000．％]")

_WIDE_POINT = re.compile(r"(?<=[0-9])．(?=[0-9])")

_WIDE_PERCENT = re.compile(r"(?<=[0-9])％")


def _strip_tags(text: str) -> str:
    return _TAG.sub(lambda tag: " " if tag["block"] else "", text) if "<" in text else text


def _unescape_entities(text: str) -> str:
    def character(entity: re.Match[str]) -> str:
        name = entity[0][1:]
        return html.unescape(entity[0]) if name[0] == "#" else html5.get(name, entity[0])

    return _ENTITY.sub(character, text) if "&" in text else text


def _drop_controls(text: str) -> str:
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: "" if found[1] else found[0], text)


def _fold_width(text: str) -> str:
    if not _WIDE.search(text):
        return text
    text = text.translate(_WIDTH)
    return _WIDE_PERCENT.sub("%", _WIDE_POINT.sub(".", text))


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _collapse_blanks(text: str) -> str:
    return " ".join(text.split())


class _Step(NamedTuple):
    """`apply` is the identity on every text that holds no character for which `touches` is true.

    (`blanks` also has work to do with plain blanks that are doubled or stand at an end.)
    """

    apply: Callable[[str], str]
    touches: Callable[[str], bool]


def _may_decompose_or_compose(char: str) -> bool:
    """Whether NFC may change or move `char`, alone or behind another character (UAX 15, 9)."""
    return (
        not unicodedata.is_normalized("NFC", char)
        or unicodedata.combining(char) != 0
        or char in _second_halves()
    )


@cache
def _second_halves() -> frozenset[str]:
    """The characters that NFC may join to the one before them."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    # Beyond the first plane only characters beyond it take part.
    for code in range(0x10000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


_IS_DROPPED = re.compile(f"[{_DROPPED}]")

# In the order in which they make sense: what a tag or an entity leaves behind is cleaned after it.
_STEPS = {
    "tags": _Step(_strip_tags, "<".__eq__),
    "entities": _Step(_unescape_entities, "&".__eq__),
    "controls": _Step(_drop_controls, lambda char: bool(_IS_DROPPED.match(char))),
    "width": _Step(_fold_width, lambda char: bool(_WIDE.match(char))),
    "nfc": _Step(_compose, _may_decompose_or_compose),
    "blanks": _Step(_collapse_blanks, lambda char: char.isspace() and char != " "),
}

DEFAULT_STEPS = tuple(_STEPS)


def normalise(text: str, steps: Sequence[str] = DEFAULT_STEPS) -> str:
    """Clean one text by the named steps, in the order given.

    - `tags`: HTML elements and comments go; those that break a line leave a blank. Other text
      between angle brackets stays.
    - `entities`: `&lt;`, `&#39;`, `&#x4e00;` become their character, once.
    - `controls`: control, zero-width and direction characters go. A zero-width joiner between two
      emoji stays.
    - `width`: full-width letters and digits become ASCII, the ideographic blank a blank; ．between
      digits and ％ behind a digit likewise. All other full-width punctuation stays, because in
      Chinese text it is the right one (so this is not NFKC).
    - `nfc`: Unicode normalisation form C.
    - `blanks`: every run of white space becomes one blank; none is left at the ends.

    Raises `InputError` for a name that is not among these.
    """
    check_steps(steps)
    for step in steps:
        text = _STEPS[step].apply(text)
    return text


def check_steps(steps: Sequence[str]) -> None:
    """Raise `InputError` for a name that is no step of `normalise`."""
    for step in steps:
        if step not in _STEPS:
            raise InputError(
                f"there is no normalisation step {step!r}: {choose_from(step, _STEPS)}"
            )


def normalise_row(text: str, steps: Sequence[str], lowercase: bool) -> str:
    """Clean one text by the steps, then lowercase it if asked to."""
    text = normalise(text, steps)
    return text.lower() if lowercase else text


# --- normalisation of a column --------------------------------------------------------------------


def normalise_batch(
    texts: Utf8,
    steps: tuple[str, ...] = DEFAULT_STEPS,
    *,
    lowercase: bool = False,
    known_utf8: bool = False,
) -> Utf8:
    """Clean every text of a column as `normalise` does, then lowercase it if asked to.

    Rows that need no work are found by a table of characters and passed through; where no row needs
    any, no byte is copied. Raises `InputError` for a row that is not UTF-8, if that is not known.
    """
    pieces = [
        normalise_chunk(texts.rows(first, last), steps, lowercase, known_utf8)
        for first, last in chunks(texts.offsets)
    ]
    if all(piece.data is texts.data for piece in pieces):
        return texts
    return concatenate(pieces)


def normalise_chunk(texts: Utf8, steps: tuple[str, ...], lowercase: bool, known_utf8: bool) -> Utf8:
    """Clean rows of a column that fit the caches of a CPU; see `normalise_batch`."""
    if known_utf8:
        suspect = _suspect_rows_of_bytes(texts, steps, lowercase)
    else:
        suspect = _suspect_rows(_decode(texts), row_boundaries(texts), steps, lowercase)
    texts = _normalise_rows(texts, np.flatnonzero(suspect), steps, lowercase)
    if lowercase:
        data = texts.data[texts.offsets[0] : texts.offsets[-1]]
        capital = (data >= ord("A")) & (data <= ord("Z"))
        if capital.any():
            # No byte of a longer character is in this range.
            return Utf8(data + capital * np.uint8(0x20), texts.offsets - texts.offsets[0])
    return texts


def _normalise_rows(texts: Utf8, rows: Offsets, steps: tuple[str, ...], lowercase: bool) -> Utf8:
    """Put in place of each of these rows what `normalise` makes of it."""
    if not len(rows):
        return texts
    data, offsets = texts
    lengths = np.diff(offsets)
    pieces: list[bytes | memoryview] = []
    whole = data.data
    done = int(offsets[0])
    for row in rows.tolist():
        start, stop = int(offsets[row]), int(offsets[row + 1])
        clean = normalise_row(data[start:stop].tobytes().decode(), steps, lowercase).encode()
        pieces += (whole[done:start], clean)
        lengths[row] = len(clean)
        done = stop
    pieces.append(whole[done : int(offsets[-1])])
    return Utf8(np.frombuffer(b"".join(pieces), np.uint8), offsets_of(lengths))


def _suspect_rows(
    codes: CodePoints, starts: Offsets, steps: tuple[str, ...], lowercase: bool
) -> Mask:
    """bool [N]: the rows that normalisation may change. `starts`: [N+1] positions in `codes`."""
    suspect = _suspect_characters(steps, lowercase)[codes]
    if "blanks" in steps and len(codes):
        blank = codes == 0x20
        # A blank behind a blank, or at an end of its row.
        suspect[1:] |= blank[1:] & blank[:-1]
        filled = starts[:-1] < starts[1:]
        first, last = starts[:-1][filled], starts[1:][filled] - 1
        suspect[first] |= blank[first]
        suspect[last] |= blank[last]
    rows = np.zeros(len(starts) - 1, bool)
    rows[np.searchsorted(starts, np.flatnonzero(suspect), side="right") - 1] = True
    return rows


def _suspect_rows_of_bytes(texts: Utf8, steps: tuple[str, ...], lowercase: bool) -> Mask:
    """The same for rows that are UTF-8 for certain: few characters need to be decoded then."""
    first, last = int(texts.offsets[0]), int(texts.offsets[-1])
    whole = texts.data[first:last].tobytes()
    offsets = texts.offsets - first
    marks = np.frombuffer(whole.translate(_suspect_bytes(steps, lowercase)), bool)
    places = np.flatnonzero(marks)
    data = np.frombuffer(whole + bytes(3), np.uint8)
    table = _suspect_characters(steps, lowercase)
    # Nearly all that are to be decoded have three bytes: punctuation.
    lead = data[places]
    usual = (lead & 0xF0) == 0xE0
    most = places[usual]
    codes = lead[usual].astype(np.uint16) << 12
    codes |= (data[most + 1] & 0x3F).astype(np.uint16) << 6
    codes |= data[most + 2] & 0x3F
    others = places[~usual]
    one, two, three, four = (data[others + i].astype(np.uint32) for i in range(4))
    others_codes = np.where(one < 0xE0, (one & 0x1F) << 6, (one & 0x07) << 18 | (two & 0x3F) << 12)
    others_codes |= np.where(one < 0xE0, two & 0x3F, (three & 0x3F) << 6 | four & 0x3F)
    others_codes = np.where(one < 0x80, one, others_codes)
    found = np.concatenate([most[table[codes]], others[table[others_codes]]])
    rows = np.zeros(texts.num_rows, bool)
    rows[np.searchsorted(offsets, found, side="right") - 1] = True
    if "blanks" in steps and whole:
        blanks = others[one == 0x20]
        doubled = blanks[data[blanks + 1] == 0x20] + 1
        rows[np.searchsorted(offsets, doubled, side="right") - 1] = True
        filled = np.flatnonzero(offsets[:-1] < offsets[1:])
        ends = (data[offsets[filled]] == 0x20) | (data[offsets[filled + 1] - 1] == 0x20)
        rows[filled[ends]] = True
    return rows


@lru_cache(maxsize=8)
def _suspect_bytes(steps: tuple[str, ...], lowercase: bool) -> bytes:
    """A table for `bytes.translate`: 1 for a byte that begins a character to look at, else 0."""
    table = _suspect_characters(steps, lowercase)
    marks = np.zeros(256, np.uint8)
    marks[:0x80] = table[:0x80]
    marks[0x20] |= "blanks" in steps
    for first, last, bits in ((0xC2, 0xE0, 6), (0xE0, 0xF0, 12), (0xF0, 0xF5, 18)):
        for lead in range(first, last):
            start = (lead & (0x1F, 0x0F, 0x07)[bits // 6 - 1]) << bits
            marks[lead] = table[start : start + (1 << bits)].any()
    return marks.tobytes()


@lru_cache(maxsize=8)
def _suspect_characters(steps: tuple[str, ...], lowercase: bool) -> Mask:
    """bool [0x110000]: the characters that one of the steps may touch."""
    table = np.ones(NUM_CODE_POINTS, bool)
    touches = [_STEPS[step].touches for step in steps]
    if lowercase:
        # Not ASCII: those letters are changed where they stand.
        touches.append(lambda char: char.lower() != char and not char.isascii())
    # Planes beyond the second are rare enough to take the slow way; so are ideographs beyond the
    # first plane with a canonical decomposition. Ideographs and syllables never need work.
    table[0x3400:0xA000] = table[0xAC00:0xD7A4] = False
    for first, last in (
        (0, 0x3400),
        (0xA000, 0xAC00),
        (0xD7A4, 0xD800),
        (0xE000, 0x10000),
        (0x1F000, 0x1FB00),
    ):
        chars = list(map(chr, range(first, last)))
        touched = np.zeros(len(chars), bool)
        for touch in touches:
            touched |= np.fromiter(map(touch, chars), bool, len(chars))
        table[first:last] = touched
    table[0x20000:0x2F800] = False
    return table
