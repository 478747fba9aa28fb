"""Text: clean it, cut it into tokens, and put tokens together again.

Every operation exists twice. On one string (`normalise`, `Tokenizer.tokenize`) it is plain Python:
the definition, and what a prediction uses. On a whole column (`normalise_batch`,
`Tokenizer.tokenize_batch`) it runs at the speed of arrays and yields the same.

A column of N texts is a `Utf8`: its bytes one behind the other, and N+1 byte positions.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from .config import TextConfig
from .english import JOINER, english_tokens, split_at_blanks, unmarked
from .normalise import normalise_batch, normalise_chunk, normalise_row
from .segmentation import Segmenter, cut_text, packaged_jieba, packaged_segmenter
from .subwords import Subwords
from .utf8 import (
    NUM_CODE_POINTS,
    Bytes,
    Mask,
    Offsets,
    Utf8,
    _decode,
    chunks,
    first_bytes,
    offsets_of,
)

# A piece of a column, cut: its bytes, the bytes in each token, the tokens in each row.
_Cut = tuple[Bytes, Offsets, Offsets]


@cache
def _is_space() -> Mask:
    """bool [0x110000]: the characters at which `str.split` parts."""
    table = np.zeros(NUM_CODE_POINTS, bool)
    # There are none beyond the ideographic blank.
    table[:0x3001] = [chr(code).isspace() for code in range(0x3001)]
    return table


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
        return normalise_row(text, self.config.normalisation, self.config.lowercase)

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
            cut(normalise_chunk(texts.rows(first, last), steps, lowercase, known_utf8=False))
            for first, last in chunks(texts.offsets)
        ]
        if not pieces:
            return Utf8.of(()), offsets_of(()), offsets_of(())
        data, token_lengths, row_lengths = zip(*pieces, strict=True)
        token_offsets = offsets_of(np.concatenate(token_lengths))
        list_offsets = offsets_of(np.concatenate(row_lengths))
        return Utf8(np.concatenate(data), token_offsets[list_offsets]), token_offsets, list_offsets

    def _cut_characters(self, texts: Utf8) -> _Cut:
        """Cut clean rows where a token is made of whole characters of the text."""
        codes, firsts = _decode(texts), first_bytes(texts)
        starts = np.searchsorted(firsts, texts.offsets - texts.offsets[0])
        data = texts.data[texts.offsets[0] : texts.offsets[-1]]
        num_bytes = np.diff(firsts)
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
            for part in split_at_blanks(text):
                found = cache.get(part)
                if found is None:
                    found = cache[part] = [token.encode() for token in english_tokens(part)]
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
            parts.append(unmarked(token))
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
        bare = [unmarked(word) for word in dictionary] if marked else dictionary
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
        return [token for part in split_at_blanks(text) for token in english_tokens(part)]


def uncut_batch(texts: Utf8, config: TextConfig) -> tuple[Utf8, Offsets, Offsets]:
    """As `Tokenizer.tokenize_batch`, with every normalised text as one token (an empty one: none).

    This is what subwords are learnt from, before there are any.
    """
    clean = normalise_batch(texts, config.normalisation, lowercase=config.lowercase)
    data = clean.data[clean.offsets[0] : clean.offsets[-1]]
    offsets = clean.offsets - clean.offsets[0]
    filled = np.diff(offsets) > 0
    token_offsets = offsets[np.concatenate(([True], filled))]
    return Utf8(data, offsets), token_offsets, offsets_of(filled)
