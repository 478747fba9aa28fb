"""Chinese words exactly as jieba cuts them, for a whole batch at once.

jieba looks at one character at a time. This is the same algorithm on arrays, and it yields the same
tokens, to the last tie between equally probable cuts:

1. Maximal runs of Chinese characters, ASCII letters, digits and ``+#&._%-`` are *blocks*. All other
   characters are tokens of their own (a carriage return keeps its line feed).
2. A block is cut into dictionary words so that the product of their frequencies is highest: dynamic
   programming from the block's end to its start (`_cut_into_words`).
3. Where single characters are left over side by side, a hidden Markov model with the states begin,
   middle, end and single finds words that the dictionary lacks (`_recognise`).

For step 2 the characters of all blocks lie in one array, *by rank*: first the last characters of
all blocks, then the last but one, and so on, the longest block always first. So everything that one
step of the dynamic program reads and writes is a slice, and each step serves all blocks.

Equality to the last bit needs jieba's own sums: logarithms come from `math.log`, are added in
jieba's order, and a tie goes to the later end, in the model to the later letter.

Shapes: `T` code points of a batch.
"""

import hashlib
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CodePoints = npt.NDArray[np.uint32]

Mask = npt.NDArray[np.bool_]

Index = npt.NDArray[np.int64]

Nodes = npt.NDArray[np.int32]

Symbols = npt.NDArray[np.uint16]

Scores = npt.NDArray[np.float64]

# What jieba joins (re_han_default in jieba/__init__.py) and what its model looks at (re_han in
# jieba/finalseg/__init__.py).
_FIRST_HAN, _END_HAN = 0x4E00, 0x9FD6

_ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

_JOINABLE = re.compile(r"[\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+")

# re_skip in jieba/finalseg/__init__.py: what it keeps together outside Chinese characters.
_NUMBER_OR_NAME = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")

# A block of more characters is left to jieba: every rank costs a round of array operations.
_LONGEST_BLOCK = 200

# A block of more characters is no language. It is cut apart every `_LONGEST_BLOCK` characters
# first, because jieba would need a kilobyte for each of them.
_ENDLESS_BLOCK = 10_000

# Characters that are worked off at once: enough to drown the cost of a call, few enough for the
# processor's cache.
_PIECE = 600_000

# A slot of the hash table of children: parent 24 bits, symbol 16 bits, child 24 bits.
_SYMBOL_BITS, _NODE_BITS = 16, 24

_CHILD = np.uint64((1 << _NODE_BITS) - 1)

_KEY_SHIFT = np.uint64(_NODE_BITS)

_PARENT_SHIFT = np.uint64(_SYMBOL_BITS)

# 2**64 / golden ratio: Fibonacci hashing, Knuth, The Art of Computer Programming 3, 6.4.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# Raised whenever `Tables` changes: stored tables of another layout are not read.
_LAYOUT = 1

# The model's states, in this order in every array.
_STATES = "BMES"


def can_join(word: str) -> bool:
    """Whether jieba's dictionary could ever find `word`: it joins no other characters."""
    return _JOINABLE.fullmatch(word) is not None


class UserWord(NamedTuple):
    """What a user says of a word; without a frequency it is given one with which it is found.

    A frequency of 0 deletes the word: it is never found, neither by the dictionary nor by the
    model. `tag` is its part of speech.
    """

    word: str
    frequency: int | None = None
    tag: str | None = None


_USER_WORD = re.compile(r"(.+?)(?: ([0-9]{1,18}))?(?: ([a-z]+))?")


def user_word(entry: str) -> UserWord:
    """A line of a user dictionary as jieba reads it: a word, its frequency, its tag, or less."""
    found = _USER_WORD.fullmatch(entry)
    if found is None:
        return UserWord(entry)
    word, frequency, tag = found.groups()
    return UserWord(word, None if frequency is None else int(frequency), tag)


def deleted_words(user_words: Iterable[str]) -> frozenset[str]:
    """Those that `user_words` delete."""
    return frozenset(found.word for found in map(user_word, user_words) if found.frequency == 0)


@lru_cache(maxsize=4)
def packaged_jieba(user_words: tuple[str, ...] = ()) -> Any:
    """A `jieba.Tokenizer` made from the dictionary that comes with jieba, and `user_words`.

    It is shared by all who ask for the same words: do not change it, and cut with `cut_text`.
    jieba's own start would load a cache from the shared temporary folder without any check, so this
    reads the dictionary.

    `user_words`: entries as `user_word` reads them, added in order.
    """
    with warnings.catch_warnings():
        # jieba 0.42.1 has invalid escape sequences and may import the deprecated pkg_resources.
        warnings.simplefilter("ignore")
        import jieba
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    tokenizer.deleted_words = set(deleted_words(user_words))
    with _deleting(tokenizer):
        for entry in user_words:
            tokenizer.add_word(*user_word(entry))
    return tokenizer


_deletions = threading.RLock()


@contextmanager
def _deleting(tokenizer: Any) -> Iterator[None]:
    """Let jieba's model split the words that were deleted from this tokenizer, and no others.

    jieba keeps one list of them for the whole process. So a word that was deleted from one
    dictionary would change what is cut by another.
    """
    from jieba import finalseg

    with _deletions:
        before = finalseg.Force_Split_Words
        finalseg.Force_Split_Words = _deleted_from(tokenizer)
        try:
            yield
        finally:
            finalseg.Force_Split_Words = before


def _deleted_from(tokenizer: Any) -> set[str]:
    """The words that the model splits: its own, or jieba's where it is not one of ours."""
    from jieba import finalseg

    found: set[str] = getattr(tokenizer, "deleted_words", finalseg.Force_Split_Words)
    return found


def _lcut(tokenizer: Any, text: str, hmm: bool) -> list[str]:
    with _deleting(tokenizer):
        tokens: list[str] = tokenizer.lcut(text, HMM=hmm)
    return tokens


def cut_text(tokenizer: Any, text: str, *, hmm: bool) -> list[str]:
    """The tokens of one text: those of `tokenizer.lcut`, a `jieba.Tokenizer`'s.

    Only a run of more than 10,000 characters without a break is cut apart first. What others in the
    process have deleted from their dictionaries does not matter for one of `packaged_jieba`.
    """
    tokens: list[str] = []
    done = 0
    if len(text) > _ENDLESS_BLOCK:
        for block in _JOINABLE.finditer(text):
            start, stop = block.span()
            if stop - start > _ENDLESS_BLOCK:
                tokens += _lcut(tokenizer, text[done:start], hmm)
                for at in range(start, stop, _LONGEST_BLOCK):
                    tokens += _lcut(tokenizer, text[at : min(at + _LONGEST_BLOCK, stop)], hmm)
                done = stop
    tokens += _lcut(tokenizer, text[done:], hmm)
    return tokens


@dataclass(frozen=True)
class Tables:
    """jieba's dictionary and model as arrays; read only.

    The dictionary is a tree of prefixes. Node 0 is "no such prefix"; the nodes 1 to `num_words` are
    words, the frequent ones first; the rest are prefixes of words.

    - `roots` int32 [0x9FD6]: the node of each single character.
    - `children` uint64 [2**n]: an open-addressed hash table (parent, symbol) -> child.
    - `scores` float64 [nodes]: log frequency less log total; -inf for what is no word.
    - `unknown` float64 [1]: the score of a character that begins no word.
    - `start` float64 [4], `transition` [4, 4] (from, to), `emission` [4, 0x51D6]: the model, log
      probabilities by state B, M, E, S.
    """

    roots: Nodes
    children: npt.NDArray[np.uint64]
    scores: Scores
    num_words: Index
    unknown: Scores
    start: Scores
    transition: Scores
    emission: Scores

    @classmethod
    def of(cls, tokenizer: Any) -> "Tables":
        """From a `jieba.Tokenizer` as it is now: words added, deleted and reweighted included."""
        tokenizer.check_initialized()
        keys: list[str] = [key for key in tokenizer.FREQ if key]
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
        codes = np.frombuffer("".join(keys).encode("utf-32-le", "surrogatepass"), np.uint32)
        # Words with a character that jieba does not join are never met.
        last = np.cumsum(lengths) - 1
        met = np.logical_and.reduceat(_are_joinable(codes), last + 1 - lengths)
        keys = list(compress(keys, met))
        last_symbol = codes[last[met]].astype(np.int64)
        num_keys = len(keys)
        assert num_keys < 1 << _NODE_BITS, "a node number has 24 bits"
        counts = np.fromiter(map(tokenizer.FREQ.__getitem__, keys), np.int64, num_keys)
        position = dict(zip(keys, range(num_keys), strict=True))
        # Every prefix of a key is a key; that of a single character is not in the dictionary.
        parent = np.fromiter((position.get(key[:-1], -1) for key in keys), np.int64, num_keys)

        order = np.argsort(-counts, kind="stable")
        node = np.empty(num_keys + 1, np.int64)
        node[order] = np.arange(1, num_keys + 1)
        node[-1] = 0  # the parent of single characters
        parent_node, child_node = node[parent], node[:-1]

        log_total = math.log(tokenizer.total)
        num_words = int(np.count_nonzero(counts > 0))
        scores = np.full(num_keys + 1, -np.inf)
        distinct, which = np.unique(counts[order][:num_words], return_inverse=True)
        logs = np.array([math.log(count) - log_total for count in distinct.tolist()])
        scores[1 : num_words + 1] = logs[which]

        roots = np.zeros(_END_HAN, np.int32)
        single = parent < 0
        roots[last_symbol[single]] = child_node[single]
        edges = (parent_node << _SYMBOL_BITS | last_symbol)[~single]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from jieba import finalseg
        emission = np.full((len(_STATES), _END_HAN - _FIRST_HAN), finalseg.MIN_FLOAT)
        for row, state in enumerate(_STATES):
            for char, log_probability in finalseg.emit_P[state].items():
                if _FIRST_HAN <= ord(char) < _END_HAN:
                    emission[row, ord(char) - _FIRST_HAN] = log_probability
        transition = [
            [finalseg.trans_P[a].get(b, finalseg.MIN_FLOAT) for b in _STATES] for a in _STATES
        ]
        return cls(
            roots=roots,
            children=_hash_table(edges.astype(np.uint64), child_node[~single].astype(np.uint64)),
            scores=scores,
            num_words=np.array([num_words]),
            unknown=np.array([math.log(1) - log_total]),
            start=np.array([finalseg.start_P[state] for state in _STATES]),
            transition=np.array(transition),
            emission=emission,
        )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The tables by name, to be stored; `from_arrays` also takes memory-mapped ones."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Tables":
        """Back from `to_arrays`."""
        return cls(**arrays)

    def children_of(self, nodes: Nodes, symbols: Symbols) -> Nodes:
        """int32: the node one character further, 0 where there is none."""
        keys = nodes.astype(np.uint64) << _PARENT_SHIFT | symbols
        slots = _first_slots(keys, len(self.children))
        entries = self.children.take(slots)
        hit = entries >> _KEY_SHIFT == keys
        found: Nodes = ((entries & _CHILD) * hit).astype(np.int32)
        # Another key in the slot: the one sought may be in the next.
        asked = np.flatnonzero(~hit & (entries != 0))
        keys, slots = keys.take(asked), slots.take(asked)
        while len(asked):
            slots = (slots + 1) & (len(self.children) - 1)
            entries = self.children.take(slots)
            hit = entries >> _KEY_SHIFT == keys
            found[asked[hit]] = entries[hit] & _CHILD
            again = np.flatnonzero(~hit & (entries != 0))
            asked, keys, slots = asked.take(again), keys.take(again), slots.take(again)
        return found

    def is_word(self, symbols: Symbols, starts: Index, lengths: Index) -> Mask:
        """bool: whether the dictionary holds `symbols[start:start + length]`, for each run."""
        nodes = self.roots[symbols[starts]]
        length = 1
        alive = np.flatnonzero((nodes > 0) & (lengths > length))
        while len(alive):
            nodes[alive] = self.children_of(nodes[alive], symbols[starts[alive] + length])
            length += 1
            alive = alive[(nodes[alive] > 0) & (lengths[alive] > length)]
        return (nodes > 0) & (nodes <= self.num_words)


def _first_slots(keys: npt.NDArray[np.uint64], num_slots: int) -> Index:
    return (keys * _GOLDEN >> np.uint64(65 - num_slots.bit_length())).view(np.int64)


def _hash_table(
    keys: npt.NDArray[np.uint64], values: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Distinct keys and their values in slots; the next slot is taken where one is taken already.

    At most a quarter of the slots are used, so that hardly a look-up needs a second.
    """
    num_slots = 1 << max(4, (4 * len(keys)).bit_length())
    table = np.zeros(num_slots, np.uint64)
    entries = keys << _KEY_SHIFT | values
    slots = _first_slots(keys, num_slots)
    while len(entries):
        free = table[slots] == 0
        table[slots[free]] = entries[free]
        # Of several entries for one slot, the last was written.
        left = table[slots] != entries
        entries, slots = entries[left], (slots[left] + 1) & (num_slots - 1)
    return table


class Segmenter:
    """Finds the ends of words in a batch of texts, as `jieba.Tokenizer.lcut` does.

    `tables` are those of a jieba tokenizer; `reference` returns that tokenizer, and is asked only
    for runs without a break of 200 to 10,000 characters. (Longer ones: see `cut_text`.) `deleted`
    are the words that were deleted from it, which the model must not find either.
    """

    def __init__(
        self, tables: Tables, reference: Callable[[], Any], deleted: Iterable[str] = ()
    ) -> None:
        self.tables = tables
        self._reference = reference
        self._deleted = frozenset(deleted)

    @classmethod
    def of(cls, tokenizer: Any) -> "Segmenter":
        """For a `jieba.Tokenizer` as it is now."""
        return cls(Tables.of(tokenizer), lambda: tokenizer, _deleted_from(tokenizer))

    def ends(self, codes: CodePoints, row_starts: Index, *, hmm: bool = True) -> Mask:
        """bool [T]: whether a token ends behind each code point.

        `codes` [T] are the code points of all texts one behind the other, `row_starts` the
        positions at which a text begins. `hmm`: as jieba's HMM.
        """
        num_codes = len(codes)
        ends = np.ones(num_codes, bool)
        is_start = np.zeros(num_codes, bool)
        is_start[row_starts[row_starts < num_codes]] = True
        # A line feed stays with its carriage return.
        ends[:-1] = (codes[:-1] != 0x0D) | (codes[1:] != 0x0A) | is_start[1:]
        joinable = _are_joinable(codes)
        begins = joinable.copy()
        begins[1:] &= ~joinable[:-1] | is_start[1:]
        starts, stops = np.flatnonzero(begins), _ends_of_blocks(joinable, begins)
        endless = stops - starts > _ENDLESS_BLOCK
        for start, stop in zip(starts[endless].tolist(), stops[endless].tolist(), strict=True):
            begins[start:stop:_LONGEST_BLOCK] = True
        breaks = ~joinable | begins
        first = 0
        while first < num_codes:
            last = _end_of_piece(breaks, first)
            piece = slice(first, last)
            self._cut_piece(codes[piece], joinable[piece], begins[piece], ends[piece], hmm)
            first = last
        return ends

    def _cut_piece(
        self, codes: CodePoints, joinable: Mask, begins: Mask, ends: Mask, hmm: bool
    ) -> None:
        """Clear `ends` inside of words. No block may reach beyond the piece."""
        starts = np.flatnonzero(begins)
        if not len(starts):
            return
        stops = _ends_of_blocks(joinable, begins)
        lengths = stops - starts
        long = lengths > _LONGEST_BLOCK
        for start, stop in zip(starts[long].tolist(), stops[long].tolist(), strict=True):
            text = codes[start:stop].tobytes().decode("utf-32-le")
            words = _lcut(self._reference(), text, hmm)
            ends[start:stop] = False
            ends[start - 1 + np.cumsum([len(word) for word in words])] = True
        starts, lengths = starts[~long], lengths[~long]
        if not len(starts):
            return

        symbols = np.where(joinable, codes, 0).astype(np.uint16)
        single = _cut_into_words(self.tables, symbols, starts, lengths, ends)
        alnum = _alnum_characters()[symbols]
        if not hmm:
            # jieba puts letters and digits that are left over side by side together.
            loose = single & alnum
            ends[:-1] &= ~(loose[:-1] & loose[1:] & ~begins[1:])
            return
        opens = single.copy()
        opens[1:] &= ~single[:-1] | begins[1:]
        closes = single.copy()
        closes[:-1] &= ~single[1:] | begins[1:]
        run_starts = np.flatnonzero(opens)
        run_lengths = np.flatnonzero(closes) + 1 - run_starts
        several = run_lengths > 1
        run_starts, run_lengths = run_starts[several], run_lengths[several]
        unknown = ~self.tables.is_word(symbols, run_starts, run_lengths)
        run_starts, run_lengths = run_starts[unknown], run_lengths[unknown]
        _recognise(self.tables, symbols, alnum, run_starts, run_lengths, ends)
        if self._deleted:
            _split(self._deleted, symbols, run_starts, run_lengths, ends)


def dictionary_digest(user_words: tuple[str, ...] = ()) -> str:
    """The identity of the `Tables` of `packaged_jieba(user_words)`: 32 hex digits.

    It tells of jieba's version and dictionary, of the words that are added, and of how this module
    lays tables out, and costs some hundredths of a second where the tables cost one or two seconds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    digest = hashlib.blake2b(digest_size=16)
    with jieba.Tokenizer().get_dict_file() as dictionary:
        digest.update(dictionary.read())
    for part in (str(_LAYOUT), jieba.__version__, *user_words):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()


@lru_cache(maxsize=4)
def packaged_segmenter(user_words: tuple[str, ...] = ()) -> Segmenter:
    """The segmenter that yields the tokens of `packaged_jieba(user_words)`; shared, as that is."""
    return Segmenter.of(packaged_jieba(user_words))


@lru_cache(maxsize=1)
def _joinable_characters() -> Mask:
    """bool [0x9FD7]: the characters that jieba joins; the last entry stands for all beyond."""
    table = np.array([can_join(chr(code)) for code in range(_END_HAN + 1)])
    table.flags.writeable = False
    return table


def _are_joinable(codes: CodePoints) -> Mask:
    return _joinable_characters()[np.minimum(codes, _END_HAN)]


@lru_cache(maxsize=1)
def _alnum_characters() -> Mask:
    """bool [0x9FD6]: ASCII letters and digits."""
    table = np.zeros(_END_HAN, bool)
    table[[ord(char) for char in _ALNUM]] = True
    table.flags.writeable = False
    return table


def _ends_of_blocks(joinable: Mask, begins: Mask) -> Index:
    """A block goes on to the next block or to the next character that does not join."""
    return np.flatnonzero(joinable & np.append(begins[1:] | ~joinable[1:], True)) + 1


def _end_of_piece(breaks: Mask, first: int) -> int:
    """Where the piece that begins at `first` ends: the last break before which it is not too long.

    `breaks` bool [T]: the positions before which no block is torn.
    """
    last = first + _PIECE
    if last >= len(breaks):
        return len(breaks)
    # No block is as long as a piece, so there is one.
    return last - int(np.argmax(breaks[last:first:-1]))


def _cut_into_words(
    tables: Tables, symbols: Symbols, starts: Index, lengths: Index, ends: Mask
) -> Mask:
    """Cut each block into its most probable dictionary words; set `ends` accordingly.

    Returns bool [len(symbols)]: the characters that are a word of their own.
    """
    longest_first = np.argsort(-lengths.astype(np.int16), kind="stable")
    starts, lengths = starts[longest_first], lengths[longest_first]
    num_blocks, num_ranks = len(starts), int(lengths[0])
    # Rank r: the characters with r more to come in their block. Rank r of block b is at
    # base[r + 1] + b. What lies before base[1] stands for the blocks' ends, where the score is 0.
    num_longer = num_blocks - np.searchsorted(lengths[::-1], np.arange(num_ranks), side="right")
    base = np.concatenate(([0, num_blocks], num_blocks + np.cumsum(num_longer)))
    total = int(base[-1])
    level = np.repeat(np.arange(num_ranks + 1), np.diff(base))  # rank + 1
    position = (starts + lengths)[np.arange(total) - base[level]]
    position -= level

    # The score of a character alone, and of each longer word that begins at it.
    nodes = tables.roots[symbols[position[num_blocks:]]]
    words = np.zeros(total, bool)
    words[num_blocks:] = (nodes > 0) & (nodes <= tables.num_words)
    best = np.zeros(total)
    best[num_blocks:] = tables.scores[nodes]
    begins_word = words.copy()
    at = np.flatnonzero(nodes) + num_blocks
    nodes = nodes[at - num_blocks]
    length = 1
    longer: list[tuple[int, Index, Index, Scores, list[int]]] = []
    while len(at) and length < num_ranks:
        length += 1
        # A word of this length fits only where enough characters follow.
        room = np.searchsorted(at, base[length])
        at = at[room:]
        nodes = tables.children_of(nodes[room:], symbols[position[at] + (length - 1)])
        inside = nodes > 0
        at, nodes = at[inside], nodes[inside]
        is_word = nodes <= tables.num_words
        if is_word.any():
            word_at = at[is_word]
            begins_word[word_at] = True
            here = level[word_at]
            behind = word_at - base[here] + base[here - length]
            bounds = np.searchsorted(word_at, base).tolist()
            longer.append((length, word_at, behind, tables.scores[nodes[is_word]], bounds))
    best[num_blocks:][~begins_word[num_blocks:]] = tables.unknown

    width = np.ones(total, np.int64)
    bounds_of_base = base.tolist()
    for rank in range(num_ranks):
        first, last = bounds_of_base[rank + 1], bounds_of_base[rank + 2]
        before = bounds_of_base[rank]
        here_best = best[first:last]
        here_best += best[before : before + last - first]
        for length, word_at, behind, scores, bounds in longer:
            if length > rank + 1:
                break
            low, high = bounds[rank + 1], bounds[rank + 2]
            if low == high:
                continue
            at = word_at[low:high]
            candidate = scores[low:high] + best[behind[low:high]]
            better = candidate >= best[at]
            at = at[better]
            best[at] = candidate[better]
            width[at] = length

    # Follow the best cut from the start of each block.
    single = np.zeros(len(symbols), bool)
    ends[position[num_blocks:]] = False
    block = np.arange(num_blocks)
    here = lengths
    while len(block):
        at = base[here] + block
        word_width = width[at]
        start = position[at]
        ends[start + (word_width - 1)] = True
        single[start[word_width == 1]] = True
        here = here - word_width
        more = here > 0
        block, here = block[more], here[more]
    return single


def _recognise(
    tables: Tables,
    symbols: Symbols,
    alnum: Mask,
    starts: Index,
    lengths: Index,
    ends: Mask,
) -> None:
    """Find words among the characters left over in each run; clear `ends` inside of them.

    As `jieba.finalseg.cut`: Chinese characters go to the model, letters and digits stay together.
    """
    if not len(starts):
        return
    at = _spans(starts, lengths)
    han = symbols[at] >= _FIRST_HAN
    # Parts of a run: Chinese characters, or others.
    first = np.ones(len(at), bool)
    first[1:] = (han[1:] != han[:-1]) | (at[1:] != at[:-1] + 1)
    first[np.cumsum(lengths)[:-1]] = True
    part = np.flatnonzero(first)
    part_starts, part_lengths = at[part], np.diff(np.append(part, len(at)))
    several = part_lengths > 1
    chinese = several & han[part]
    if chinese.any():
        _decode_states(tables, symbols, part_starts[chinese], part_lengths[chinese], ends)
    other = np.flatnonzero(several & ~han[part])
    if not len(other):
        return
    num_alnum = np.add.reduceat(alnum[at].astype(np.int64), part)[other]
    part_starts, part_lengths = part_starts[other], part_lengths[other]
    whole = num_alnum == part_lengths
    ends[_spans(part_starts[whole], part_lengths[whole] - 1)] = False
    for start, length in zip(
        part_starts[~whole].tolist(), part_lengths[~whole].tolist(), strict=True
    ):
        text = symbols[start : start + length].tobytes().decode("utf-16-le")
        ends[start : start + length] = False
        ends[[start + end for end in _ends_of_numbers_and_names(text)]] = True


def _split(
    deleted: frozenset[str], symbols: Symbols, starts: Index, lengths: Index, ends: Mask
) -> None:
    """Set `ends` behind each character of the deleted words that the model found in the runs."""
    if not len(starts):
        return
    first = np.zeros(_END_HAN, bool)
    first[[ord(word[0]) for word in deleted if _FIRST_HAN <= ord(word[0]) < _END_HAN]] = True
    at = _spans(starts, lengths)
    # A token ends with each run, so that what is left of it lies in one run.
    stops = at[ends[at]] + 1
    begins = np.append(np.zeros(1, np.int64), stops[:-1])
    run_of = np.searchsorted(starts, stops - 1, side="right") - 1
    begins = np.maximum(begins, starts[run_of])
    asked = (stops - begins > 1) & first[symbols[begins]]
    for begin, stop in zip(begins[asked].tolist(), stops[asked].tolist(), strict=True):
        if symbols[begin:stop].tobytes().decode("utf-16-le") in deleted:
            ends[begin:stop] = True


@lru_cache(maxsize=1 << 14)
def _ends_of_numbers_and_names(text: str) -> tuple[int, ...]:
    """The last position of each token, in text without Chinese characters."""
    ends, end = [], -1
    for token in _NUMBER_OR_NAME.split(text):
        if token:
            end += len(token)
            ends.append(end)
    return tuple(ends)


def _spans(starts: Index, lengths: Index) -> Index:
    """The positions `start` to `start + length - 1` of each run, one behind the other."""
    offset = np.cumsum(lengths) - lengths
    return np.repeat(starts - offset, lengths) + np.arange(int(lengths.sum()))


def _decode_states(
    tables: Tables, symbols: Symbols, starts: Index, lengths: Index, ends: Mask
) -> None:
    """Cut runs of two and more Chinese characters by the model; clear `ends` inside of words.

    Viterbi's algorithm, as in `jieba.finalseg.viterbi`. In each state one of only two can come
    before; where both are equally probable jieba takes the one whose letter comes later.
    """
    begin, middle, end, alone = range(len(_STATES))
    outside, inside = (alone, end), (middle, begin)
    before = {begin: outside, middle: inside, end: inside, alone: outside}
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[longest_first], lengths[longest_first]
    num_steps = int(lengths[0])
    num_longer = len(starts) - np.searchsorted(lengths[::-1], np.arange(num_steps), side="right")

    emission, transition = tables.emission, tables.transition
    score = tables.start[:, None] + emission[:, symbols[starts] - _FIRST_HAN]
    later_won: list[Mask] = []
    for step in range(1, num_steps):
        alive = int(num_longer[step])
        emitted = emission[:, symbols[starts[:alive] + step] - _FIRST_HAN]
        old = score[:, :alive].copy()
        won = np.empty((len(_STATES), alive), bool)
        for state, (later, earlier) in before.items():
            from_later = old[later] + transition[later, state] + emitted[state]
            from_earlier = old[earlier] + transition[earlier, state] + emitted[state]
            np.greater_equal(from_later, from_earlier, out=won[state])
            np.maximum(from_later, from_earlier, out=score[state, :alive])
        later_won.append(won)

    later_of, earlier_of = np.array([before[state] for state in range(len(_STATES))]).T
    states = np.where(score[alone] >= score[end], alone, end)
    for step in range(num_steps - 1, -1, -1):
        alive = int(num_longer[step])
        here = states[:alive]
        ends[starts[:alive][here <= middle] + step] = False
        if step:
            won = later_won[step - 1][here, np.arange(alive)]
            states[:alive] = np.where(won, later_of[here], earlier_of[here])
