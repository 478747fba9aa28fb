"""CoNLL files and their relatives: a token and its tag a line."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import orjson

from warehouse.errors import StorageError
from warehouse.sources.files import MAX_SENTENCE_LINES, printable
from warehouse.sources.left_out import BLANKS, RAW_BYTES, LeftOut, UnreadRow, _not_utf8


class TokenColumns(NamedTuple):
    """The columns of a `.conll` file, from 1; negative ones count from the last, -1.

    `token` 0 is the second column where the first one numbers the tokens, else the first.
    """

    token: int = 0
    tag: int = -1


class _Sentence(NamedTuple):
    """The lines of a sentence without their ends, and the number of the first."""

    first_line: int
    texts: list[str]


def _sentences(lines: Iterable[tuple[bytes, int]], address: str) -> Iterator[_Sentence]:
    """The lines between two blank ones; a byte that is not UTF-8 is a lone surrogate in them."""
    texts: list[str] = []
    number = 0
    for block, start in lines:
        block_text = block.removesuffix(b"\n").decode(errors="surrogateescape")
        for number, line in enumerate(block_text.split("\n"), start):
            text = line if line[-1:].isalnum() else line.rstrip(BLANKS)
            if not text:
                if texts:
                    yield _Sentence(number - len(texts), texts)
                    texts = []
                continue
            if len(texts) == MAX_SENTENCE_LINES:
                raise StorageError(
                    f"{printable(address)} has no blank line in the {MAX_SENTENCE_LINES:,} "
                    f"lines before line {number}: separate its sentences by blank lines."
                )
            # Files that were put together have the mark of the encoding within.
            texts.append(text.lstrip("\ufeff") if text[0] == "\ufeff" else text)
    if texts:
        yield _Sentence(number - len(texts) + 1, texts)


_NO_TOKEN_NUMBER = re.compile(r"\d+[-.]\d+")  # of CoNLL-U: a range of tokens, an empty node

_TAG_FORM = re.compile(r"O|[BIESLUM]-\S+")

_MAX_TAGS = 10_000


class _SentenceReader:
    """Tells comments, tokens and tags apart by what the beginning of the file looks like."""

    def __init__(self, layout: TokenColumns, sentences: Sequence[_Sentence]) -> None:
        rows = [_split([text for text in each.texts if text[0] != "#"]) for each in sentences]
        numbered = [_are_numbered(each) for each in rows if each]
        self._is_numbered = 2 * sum(numbered) > len(numbered)
        self._token = layout.token or (2 if self._is_numbered else 1)
        self._tag = layout.tag
        widths = Counter(len(row) for each in rows for row in each)
        self._width = max(widths, key=lambda width: widths[width], default=0)
        self._tags: set[str] = set()
        for each in rows:
            self._tags.update(map(self._tag_of, each))

    def read(
        self, sentence: _Sentence, columns: Sequence[str], left_out: LeftOut
    ) -> tuple[int, bytes]:
        """The line of its first token, and the sentence as JSON; nothing where there is none."""
        numbers, rows = self._tokens_of(sentence, left_out)
        if not rows:
            return sentence.first_line, b""
        fault = self._fault_of(numbers, rows)
        if fault is None:
            token, tag = self._places(len(rows[0]))
            tags = [row[tag] for row in rows]
            if len(self._tags) < _MAX_TAGS:
                self._tags.update(tags)
            value = dict(zip(columns, ([row[token] for row in rows], tags), strict=False))
            try:
                return numbers[0], orjson.dumps(value)
            except TypeError:  # a lone surrogate stands for a byte that is not UTF-8
                bad = (i for i, row in zip(numbers, rows, strict=True) if _not_utf8("".join(row)))
                fault = next(bad), "not_utf8", "the line is not UTF-8"
        raw = "\n".join(sentence.texts).encode(errors="surrogateescape")
        left_out.rows.append(UnreadRow(*fault, raw[:RAW_BYTES]))
        return numbers[0], b""

    def _tokens_of(
        self, sentence: _Sentence, left_out: LeftOut
    ) -> tuple[Sequence[int], list[list[str]]]:
        """The lines that hold a token: their numbers and their fields."""
        texts = sentence.texts
        numbers: Sequence[int] = range(sentence.first_line, sentence.first_line + len(texts))
        others = [text for text in texts if text[0] != "#"]
        rows = _split(texts, others)
        if len(others) == len(texts) and not self._is_numbered and _DOCUMENT not in rows[0][:2]:
            return numbers, rows
        widths = {len(row) for row, text in zip(rows, texts, strict=True) if text[0] != "#"}
        tokens: list[tuple[int, list[str]]] = []
        for number, text, row in zip(numbers, texts, rows, strict=True):
            if text[0] == "#" and self._is_comment(row, widths, leading=not tokens):
                left_out.num_comments += 1
            elif _DOCUMENT not in row[:2] and not (
                self._is_numbered and _NO_TOKEN_NUMBER.fullmatch(row[0])
            ):
                tokens.append((number, row))
        return [number for number, _ in tokens], [row for _, row in tokens]

    def _is_comment(self, row: list[str], widths: set[int], *, leading: bool) -> bool:
        """Whether a line that begins with # is a comment and not the token #."""
        if self._is_numbered or (widths and len(row) not in widths) or len(row) < 2:
            return True
        tag = self._tag_of(row)
        return leading and not (tag in self._tags or _TAG_FORM.fullmatch(tag))

    def _tag_of(self, row: list[str]) -> str:
        _, place = self._places(len(row))
        return row[place] if 0 <= place < len(row) else ""

    def _places(self, width: int) -> tuple[int, int]:
        """Where in a line of so many columns the token and the tag stand, from 0."""
        token, tag = (
            column - 1 if column > 0 else width + column for column in (self._token, self._tag)
        )
        return token, tag

    def _fault_of(
        self, numbers: Sequence[int], rows: list[list[str]]
    ) -> tuple[int, str, str] | None:
        widths = Counter(map(len, rows))
        width = self._width if self._width in widths else max(widths, key=lambda w: widths[w])
        for number, row in zip(numbers, rows, strict=True):
            if len(row) != width:
                detail = f"columns of the line: {len(row)}, of others of its sentence: {width}"
                return number, "unequal_columns", detail
            if "\r" in "".join(row):
                return number, "unequal_columns", "a carriage return stands within the line"
        token, tag = self._places(width)
        if 0 <= token < width and 0 <= tag < width and token != tag:
            return None
        detail = (
            f"tokens are in column {self._token}, tags in column {self._tag}, and columns of the"
            f" line: {width}"
        )
        return numbers[0], "unequal_columns", detail


def _split(texts: Sequence[str], telling: Sequence[str] = ()) -> list[list[str]]:
    """The fields of the lines of a sentence.

    Tabs separate where a line has one, else spaces, else blanks of any other kind: a token may hold
    blanks of the kinds that do not separate. Which it is, the lines `telling` tell, or all.
    """
    telling = telling or texts
    if any("\t" in text for text in telling):
        return [[field.strip(BLANKS) for field in text.split("\t")] for text in texts]
    if any(" " in text.lstrip() for text in telling):
        return [list(filter(None, text.split(" "))) for text in texts]
    return [[text] if "\r" in text else text.split() for text in texts]


def _are_numbered(rows: list[list[str]]) -> bool:
    """Whether the first of at least three columns counts the tokens of the sentence."""
    numbers = [row[0] for row in rows if not _NO_TOKEN_NUMBER.fullmatch(row[0])]
    begin = 0 if numbers[:1] == ["0"] else 1
    counted = [str(number) for number in range(begin, begin + len(numbers))]
    return bool(numbers) and numbers == counted and min(map(len, rows)) > 2


def conll_blocks(
    lines: Iterable[tuple[bytes, int]],
    address: str,
    columns: Sequence[str],
    block_bytes: int,
    layout: TokenColumns,
    left_out: LeftOut,
) -> Iterator[tuple[bytes, int]]:
    """Sentences, each on the line of its first token; between them, blank lines."""
    sentences = _sentences(lines, address)
    first_ones: list[_Sentence] = []
    num_lines = 0
    for sentence in sentences:
        first_ones.append(sentence)
        num_lines += len(sentence.texts)
        if num_lines >= LAYOUT_LINES:
            break
    reader = _SentenceReader(layout, first_ones)
    waiting: list[bytes] = []
    num_waiting = 0
    first = end = 1  # lines of the file: where what is waiting begins, and where it ends
    for sentence in chain(first_ones, sentences):
        number, text = reader.read(sentence, columns, left_out)
        if text or not waiting:
            if not waiting:
                first = end = number
            waiting.append(b"\n" * (number - end) + text + b"\n")
            num_waiting += len(waiting[-1])
            end = number + 1
        if num_waiting >= block_bytes:
            yield b"".join(waiting), first
            waiting, num_waiting = [], 0
    if waiting:
        yield b"".join(waiting), first


LAYOUT_LINES = 1_000  # of a .conll file, by which it is told what its columns are

_DOCUMENT = "-DOCSTART-"  # what stands for a token where a new document begins
