"""Text: clean it, cut it into tokens, and put tokens together again.

Every operation exists twice. On one string (`normalise`, `Tokenizer.tokenize`) it is plain Python:
the definition, and what a prediction uses. On a whole column (`normalise_batch`,
`Tokenizer.tokenize_batch`) it runs at the speed of arrays and yields the same.

A column of N texts is a `Utf8`: its bytes one behind the other, and N+1 byte positions.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from html.entities import html5
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .segmentation import (
    Segmenter,
    can_join,
    cut_text,
    packaged_jieba,
    packaged_segmenter,
    user_word,
)
from .subwords import Subwords

LANGUAGES = ("zh", "en")
UNITS = ("word", "char", "whitespace", "subword")
MAX_FREQUENCY = 1_000_000_000
"""Of a user word: jieba's whole dictionary counts 60 million words of text."""

# What str.isspace calls blank, and the characters without width or mark that hide at ends.
BLANKS = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
    "\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062"
    "\u2063\u2064\u2066\u2067\u2068\u2069\ufeff"
)
"""What is stripped from both ends of a text that is read, before any step of normalisation."""

# A batch is worked off in pieces of about this many bytes (some 400,000 Chinese characters), so
# that the memory needed does not grow with the batch.
_CHUNK_BYTES = 1_200_000

_NUM_CODE_POINTS = 0x110000

Bytes = npt.NDArray[np.uint8]
CodePoints = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Utf8(NamedTuple):
    """N texts, as the buffers of an Arrow string array hold them.

    `data`: uint8, the texts' UTF-8 bytes; `offsets`: int64 [N+1], text i is
    `data[offsets[i]:offsets[i + 1]]`. `offsets[0]` need not be 0.
    """

    data: Bytes
    offsets: Offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Utf8":
        """From strings. Raises `UnicodeEncodeError` for a lone surrogate."""
        return cls.of_bytes([text.encode() for text in texts])

    @classmethod
    def of_bytes(cls, texts: Sequence[bytes]) -> "Utf8":
        """From strings that are UTF-8 already."""
        return cls(np.frombuffer(b"".join(texts), np.uint8), _offsets_of(list(map(len, texts))))

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.offsets) - 1

    def to_list(self) -> list[str]:
        """The N texts as strings."""
        data = self.data.tobytes()
        ends = self.offsets.tolist()
        return [data[a:b].decode() for a, b in pairwise(ends)]

    def rows(self, first: int, last: int) -> "Utf8":
        """Texts first to last - 1, without a copy of `data`."""
        return Utf8(self.data, self.offsets[first : last + 1])


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
            raise InputError(f"there is no normalisation step {step!r}: use {', '.join(_STEPS)}")


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextConfig:
    """How text becomes tokens.

    - `language`: "zh" or "en"; decides what a word is.
    - `unit`: "word" (zh: as jieba cuts; en: words, clitics, numbers and punctuation), "char" (every
      code point, blanks too), "whitespace" (what stands between blanks, for text cut before) or
      "subword" (pieces of words that are learnt from the training split).
    - `hmm`: let jieba's hidden Markov model find words that its dictionary lacks.
    - `user_words`: words to add to jieba's dictionary, each as a line of a user dictionary: the
      word, `WORD FREQUENCY` (0 deletes it), `WORD TAG` or `WORD FREQUENCY TAG`.
    - `normalisation`: the steps of `normalise`, in order.
    - `lowercase`: lower case, after normalisation.
    - `subword_size`: how many subwords are learnt, single characters included; all get an id,
      whatever the settings of the vocabulary say.

    Raises `InputError` for a value that cannot work.
    """

    language: str = "zh"
    unit: str = "word"
    hmm: bool = True
    user_words: tuple[str, ...] = ()
    normalisation: tuple[str, ...] = DEFAULT_STEPS
    lowercase: bool = False
    subword_size: int = 8000

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise InputError(f"there is no language {self.language!r}: use {', '.join(LANGUAGES)}")
        if self.unit not in UNITS:
            raise InputError(f"there is no text unit {self.unit!r}: use {', '.join(UNITS)}")
        # A configuration that was read from JSON brings lists.
        object.__setattr__(self, "user_words", tuple(self.user_words))
        object.__setattr__(self, "normalisation", tuple(self.normalisation))
        check_steps(self.normalisation)
        if self.subword_size < 1:
            raise InputError(f"subword_size is {self.subword_size}: give 1 or more, such as 8000")
        if self.user_words and not self.uses_jieba:
            raise InputError("user_words need language zh and unit word: they go to jieba")
        seen: set[str] = set()
        for entry in self.user_words:
            check_user_word(entry, self)
            if user_word(entry).word in seen:
                raise InputError(f"the user word {user_word(entry).word!r} is given twice")
            seen.add(user_word(entry).word)

    @property
    def uses_jieba(self) -> bool:
        """Whether text is cut into Chinese words."""
        return (self.language, self.unit) == ("zh", "word")


def check_user_word(entry: str, config: TextConfig) -> None:
    """Raise `InputError` for an entry of a user dictionary that could never have an effect."""
    word, frequency, _ = user_word(entry)
    clean = _normalise_as(word, config.normalisation, config.lowercase)
    if word != clean:
        raise InputError(f"the user word {word!r} never occurs in normalised text: write {clean!r}")
    if not can_join(word):
        raise InputError(
            f"the user word {word!r} can never be found: jieba joins only Chinese characters, "
            "ASCII letters, digits and + # & . _ % -; behind it may stand its frequency (0 deletes "
            "it) and its tag, with one blank before each"
        )
    if frequency is not None and frequency > MAX_FREQUENCY:
        raise InputError(
            f"the user word {word!r} has the frequency {frequency}: give at most {MAX_FREQUENCY}"
        )


def _normalise_as(text: str, steps: Sequence[str], lowercase: bool) -> str:
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
        _normalise_chunk(texts.rows(first, last), steps, lowercase, known_utf8)
        for first, last in chunks(texts.offsets)
    ]
    if all(piece.data is texts.data for piece in pieces):
        return texts
    return _concatenate(pieces)


def _normalise_chunk(
    texts: Utf8, steps: tuple[str, ...], lowercase: bool, known_utf8: bool
) -> Utf8:
    if known_utf8:
        suspect = _suspect_rows_of_bytes(texts, steps, lowercase)
    else:
        suspect = _suspect_rows(_decode(texts), _boundaries(texts), steps, lowercase)
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
        clean = _normalise_as(data[start:stop].tobytes().decode(), steps, lowercase).encode()
        pieces += (whole[done:start], clean)
        lengths[row] = len(clean)
        done = stop
    pieces.append(whole[done : int(offsets[-1])])
    return Utf8(np.frombuffer(b"".join(pieces), np.uint8), _offsets_of(lengths))


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
    table = np.ones(_NUM_CODE_POINTS, bool)
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


# --- tokens ---------------------------------------------------------------------------------------

# Marks the side on which a token sticks to its neighbour, as in OpenNMT's tokenizer.
JOINER = "￭"
_ESCAPE = "￮"
_ESCAPES = {JOINER: _ESCAPE + "j", _ESCAPE: _ESCAPE + "e"}
_ESCAPED = {code: char for char, code in _ESCAPES.items()}

_LETTER = r"[^\W\d_]"
_PIECE = re.compile(
    rf"(?P<clitic>(?<={_LETTER})(?:n['’]t|['’](?:s|m|d|re|ve|ll))(?!\w))"
    rf"|(?P<word>{_LETTER}+?(?=n['’]t(?!\w))|(?:{_LETTER}[\u0300-\u036f]*)+|\d+(?:[.,:]\d+)*)"
    r"|(?P<mark>(.)\4{0,2})",
    re.IGNORECASE | re.DOTALL,
)
# A blank between two words is where tokens part; any other white space is a token of its own.
_PARTING_BLANK = re.compile(r"(?<=\S) (?=\S)")


def _between_blanks(text: str) -> list[str]:
    parts = text.split()
    return parts if " ".join(parts) == text else _PARTING_BLANK.split(text)


def _english_tokens(between_blanks: str) -> list[str]:
    """The tokens of what stands between two blanks, with joiner marks where they stick together.

    The mark goes on the side of the clitic or the punctuation: on an opening mark's right, on a
    closing mark's left, on both sides of one between words.
    """
    found = list(_PIECE.finditer(between_blanks))
    tokens = [re.sub(f"[{JOINER}{_ESCAPE}]", lambda m: _ESCAPES[m[0]], m[0]) for m in found]
    seen_word = False
    for index in range(len(found) - 1):
        here, after = found[index].lastgroup, found[index + 1].lastgroup
        seen_word |= here != "mark"
        if here == "mark" and (after == "word" or not seen_word):
            tokens[index] += JOINER
        else:
            tokens[index + 1] = JOINER + tokens[index + 1]
    return tokens


# A piece of a column, cut: its bytes, the bytes in each token, the tokens in each row.
_Cut = tuple[Bytes, Offsets, Offsets]


@cache
def _is_space() -> Mask:
    """bool [0x110000]: the characters at which `str.split` parts."""
    table = np.zeros(_NUM_CODE_POINTS, bool)
    # There are none beyond the ideographic blank.
    table[:0x3001] = [chr(code).isspace() for code in range(0x3001)]
    return table


def _unmarked(token: str) -> str:
    """An English token as it stands in the text."""
    bare = token.removeprefix(JOINER).removesuffix(JOINER)
    return re.sub(f"{_ESCAPE}[je]", lambda found: _ESCAPED[found[0]], bare)


class Tokenizer:
    """Cuts text into tokens and joins tokens to text.

    It has a jieba tokenizer of its own, made from the dictionary that comes with jieba: neither
    jieba's global tokenizer nor its cache in the shared temporary folder is read or changed.
    """

    def __init__(
        self,
        config: TextConfig,
        segmenter: Segmenter | None = None,
        subwords: Subwords | None = None,
    ) -> None:
        """A tokenizer that does as `config` says.

        `segmenter`: one made before from the same user words, say from stored tables:
        `Segmenter(Tables.from_arrays(arrays), lambda: packaged_jieba(config.user_words),
        deleted_words(config.user_words))`.

        `subwords`: what was learnt. Unit subword cuts nothing without, but joins.
        """
        self.config = config
        self._segmenter = segmenter
        self._subwords = subwords
        match config.unit, config.language:
            case "char", _:
                self._split: Callable[[str], list[str]] = list
            case "whitespace", _:
                self._split = str.split
            case "subword", _:
                self._split = self._split_into_subwords
            case _, "en":
                self._split = self._split_english
            case _:
                self._split = self._split_chinese

    def normalise(self, text: str) -> str:
        """The text that is cut: `normalise` by the configured steps, then lower case if asked."""
        return _normalise_as(text, self.config.normalisation, self.config.lowercase)

    def tokenize(self, text: str) -> list[str]:
        """Normalise one text and cut it.

        Chinese tokens are those of `jieba.lcut`, and like characters they make up the text when
        put one behind the other; so do subwords. English tokens carry joiner marks.
        """
        return self._split(self.normalise(text))

    def tokenize_batch(self, texts: Utf8) -> tuple[Utf8, Offsets, Offsets]:
        """The tokens of `tokenize` for each of N texts, J tokens in all.

        Returns `(data, token_offsets [J+1], list_offsets [N+1])`: token j is the bytes
        `data.data[token_offsets[j]:token_offsets[j + 1]]`, row i owns the tokens `list_offsets[i]`
        to `list_offsets[i + 1] - 1`, and the tokens tile the bytes. For Chinese words, subwords and
        characters `data` is the normalised text; otherwise it is the tokens alone.

        Raises `InputError` for a row that is not UTF-8.
        """
        if (self.config.language, self.config.unit) == ("en", "word"):
            cut = self._cut_english
        else:
            cut = self._cut_characters
        steps, lowercase = self.config.normalisation, self.config.lowercase
        pieces = [
            cut(_normalise_chunk(texts.rows(first, last), steps, lowercase, known_utf8=False))
            for first, last in chunks(texts.offsets)
        ]
        if not pieces:
            return Utf8.of(()), _offsets_of(()), _offsets_of(())
        data, token_lengths, row_lengths = zip(*pieces, strict=True)
        token_offsets = _offsets_of(np.concatenate(token_lengths))
        list_offsets = _offsets_of(np.concatenate(row_lengths))
        return Utf8(np.concatenate(data), token_offsets[list_offsets]), token_offsets, list_offsets

    def _cut_characters(self, texts: Utf8) -> _Cut:
        """Cut clean rows where a token is made of whole characters of the text."""
        codes, first_bytes = _decode(texts), _first_bytes(texts)
        starts = np.searchsorted(first_bytes, texts.offsets - texts.offsets[0])
        data = texts.data[texts.offsets[0] : texts.offsets[-1]]
        num_bytes = np.diff(first_bytes)
        # Whether a token ends behind each character.
        if self.config.unit == "char":
            ends = np.ones(len(codes), bool)
        elif self.config.unit == "word":
            ends = self.segmenter.ends(codes, starts[:-1], hmm=self.config.hmm)
        elif self.config.unit == "subword":
            ends = self.subwords.ends(texts.to_list())
        else:
            filled = ~_is_space()[codes]
            row_ends = np.zeros(len(codes) + 1, bool)
            row_ends[starts] = True
            ends = filled & (row_ends[1:] | ~np.append(filled[1:], False))
            data = data[np.repeat(filled, num_bytes)]
            num_bytes = num_bytes * filled
        token_ends = np.flatnonzero(ends)
        row_lengths = np.diff(np.searchsorted(token_ends, starts))
        return data, np.diff(np.cumsum(num_bytes)[token_ends], prepend=0), row_lengths

    def _cut_english(self, texts: Utf8) -> _Cut:
        """Cut clean rows word by word; what stands between blanks is looked up if seen before."""
        cache: dict[str, list[bytes]] = {}
        tokens: list[bytes] = []
        ends = [0]
        for text in texts.to_list():
            for part in _between_blanks(text):
                found = cache.get(part)
                if found is None:
                    found = cache[part] = [token.encode() for token in _english_tokens(part)]
                tokens += found
            ends.append(len(tokens))
        data, offsets = Utf8.of_bytes(tokens)
        return data, np.diff(offsets), np.diff(ends)

    @property
    def segmenter(self) -> Segmenter:
        """What cuts columns of Chinese text; made when it is first needed."""
        return self._segmenter or packaged_segmenter(self.config.user_words)

    @property
    def subwords(self) -> Subwords:
        """What was learnt of subwords."""
        assert self._subwords is not None, "unit subword cuts by what was learnt before"
        return self._subwords

    def detokenise(self, tokens: Sequence[str]) -> str:
        """The text of these tokens: `detokenise(tokenize(x)) == normalise(x)`.

        With unit whitespace that holds if the normalisation collapses blanks.
        """
        if self.config.unit == "whitespace":
            return " ".join(tokens)
        if (self.config.language, self.config.unit) != ("en", "word"):
            return "".join(tokens)
        parts: list[str] = []
        joined = True
        for token in tokens:
            if not joined and not token.startswith(JOINER):
                parts.append(" ")
            joined = token.endswith(JOINER)
            parts.append(_unmarked(token))
        return "".join(parts)

    def characters(
        self,
        dictionary: Sequence[str],
        indices: npt.NDArray[np.int32],
        offsets: Offsets,
    ) -> npt.NDArray[np.int32]:
        """How many characters of the text each token stands for; a row's sum is the text's length.

        A blank between two tokens counts with the second; a joiner mark counts nothing.

        Args:
            dictionary, indices, offsets: rows of tokens: token j is `dictionary[indices[j]]`, row i
                owns `offsets[i]:offsets[i + 1]`.
        """
        marked = (self.config.language, self.config.unit) == ("en", "word")
        bare = [_unmarked(word) for word in dictionary] if marked else dictionary
        counts = np.fromiter(map(len, bare), np.int32, len(bare))[indices]
        if not marked and self.config.unit != "whitespace":
            return counts
        glued_left = np.zeros(len(dictionary), bool)
        glued_right = glued_left.copy()
        if marked:
            glued_left[:] = [word.startswith(JOINER) for word in dictionary]
            glued_right[:] = [word.endswith(JOINER) for word in dictionary]
        blank = ~glued_left[indices]
        blank[1:] &= ~glued_right[indices][:-1]
        blank[offsets[:-1][np.diff(offsets) > 0]] = False
        return counts + blank

    def _split_chinese(self, text: str) -> list[str]:
        return cut_text(packaged_jieba(self.config.user_words), text, hmm=self.config.hmm)

    def _split_into_subwords(self, text: str) -> list[str]:
        return self.subwords.cut(text)

    def _split_english(self, text: str) -> list[str]:
        return [token for part in _between_blanks(text) for token in _english_tokens(part)]


def uncut_batch(texts: Utf8, config: TextConfig) -> tuple[Utf8, Offsets, Offsets]:
    """As `Tokenizer.tokenize_batch`, with every normalised text as one token (an empty one: none).

    This is what subwords are learnt from, before there are any.
    """
    clean = normalise_batch(texts, config.normalisation, lowercase=config.lowercase)
    data = clean.data[clean.offsets[0] : clean.offsets[-1]]
    offsets = clean.offsets - clean.offsets[0]
    filled = np.diff(offsets) > 0
    token_offsets = offsets[np.concatenate(([True], filled))]
    return Utf8(data, offsets), token_offsets, _offsets_of(filled)


# --- columns --------------------------------------------------------------------------------------


def chunks(offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about `_CHUNK_BYTES` each, at least one row."""
    first, num_rows = 0, len(offsets) - 1
    while first < num_rows:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK_BYTES, side="right")) - 1
        last = min(max(last, first + 1), num_rows)
        yield first, last
        first = last


def _decode(texts: Utf8) -> CodePoints:
    """uint32: the code points of all rows, one behind the other."""
    data = texts.data[texts.offsets[0] : texts.offsets[-1]].tobytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        row = int(np.searchsorted(texts.offsets - texts.offsets[0], error.start, side="right")) - 1
        raise InputError(f"text {row} of the batch is not UTF-8: {error.reason}") from None
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _first_bytes(texts: Utf8) -> Offsets:
    """int64 [characters + 1]: where each character begins, counted from the first row; the end."""
    data = texts.data[texts.offsets[0] : texts.offsets[-1]]
    # Every byte but 10xxxxxx begins a character.
    return np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))


def _boundaries(texts: Utf8) -> Offsets:
    """int64 [N+1]: where the rows begin and end, counted in code points."""
    found: Offsets = np.searchsorted(_first_bytes(texts), texts.offsets - texts.offsets[0])
    return found


def _offsets_of(lengths: Sequence[int] | Offsets | Mask) -> Offsets:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _concatenate(pieces: Sequence[Utf8]) -> Utf8:
    data = [piece.data[piece.offsets[0] : piece.offsets[-1]] for piece in pieces]
    lengths = [np.diff(piece.offsets) for piece in pieces]
    return Utf8(np.concatenate(data), _offsets_of(np.concatenate(lengths)))
