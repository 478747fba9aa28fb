"""Subwords lose nothing, come out alike everywhere, and are text."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.text.config import TextConfig
from pipeline.text.subwords import Subwords
from pipeline.text.tokenizer import Tokenizer, uncut_batch
from pipeline.text.utf8 import Utf8

TEXTS = [
    "今天天气很好，我们去公园吧。",
    "今天我们不去公园，天气不好。",
    "the weather is better than the other day, isn't it?",
    "whether they gather or not: 2026, 2025",
]
PIECES = [
    *"今天气公园吧。，?' \n\t１￭",
    "the",
    "weather",
    "2026",
    "龘",
    "😀",
    "e\u0301",
    "  ",
    "<unk>",
]
ANY_TEXT = st.lists(
    st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"])), max_size=12
).map("".join)


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return Subwords.train(TEXTS * 3, 90)


def test_frequent_words_stay_whole(subwords: Subwords) -> None:
    assert len(subwords) == 90
    assert subwords.cut("今天 the weather") == ["今天", " the", " weather"]
    assert subwords.cut("龘今天") == ["龘", "今天"]
    assert subwords.cut("") == []


@given(text=ANY_TEXT)
def test_pieces_are_the_text(subwords: Subwords, text: str) -> None:
    pieces = subwords.cut(text)
    assert "".join(pieces) == text
    assert "" not in pieces


@pytest.mark.parametrize(
    "config",
    [
        TextConfig(unit="subword"),
        TextConfig(unit="subword", language="en", lowercase=True),
        TextConfig(unit="subword", normalisation=()),
    ],
)
@given(texts=st.lists(ANY_TEXT, max_size=6))
def test_a_column_is_cut_as_its_rows_are(
    subwords: Subwords, config: TextConfig, texts: list[str]
) -> None:
    tokenizer = Tokenizer(config, subwords=subwords)
    data, token_offsets, list_offsets = tokenizer.tokenize_batch(Utf8.of(texts))
    tokens = Utf8(data.data, token_offsets).to_list()
    rows = [tokens[a:b] for a, b in pairwise(list_offsets)]
    assert rows == [tokenizer.tokenize(text) for text in texts]
    clean = [tokenizer.normalise(text) for text in texts]
    assert [tokenizer.detokenise(row) for row in rows] == clean
    dictionary = sorted(set(tokens))
    indices = np.array([dictionary.index(token) for token in tokens], np.int32)
    counts = tokenizer.characters(dictionary, indices, list_offsets)
    assert [counts[a:b].sum() for a, b in pairwise(list_offsets)] == list(map(len, clean))


@given(texts=st.lists(ANY_TEXT, max_size=6))
def test_uncut_texts_are_one_token_each(texts: list[str]) -> None:
    config = TextConfig(unit="subword")
    column = Utf8.of(["x", *texts]).rows(1, len(texts) + 1)
    data, token_offsets, list_offsets = uncut_batch(column, config)
    tokens = Utf8(data.data, token_offsets).to_list()
    clean = [Tokenizer(config).normalise(text) for text in texts]
    assert [tokens[a:b] for a, b in pairwise(list_offsets)] == [
        [one] if one else [] for one in clean
    ]


def test_they_come_back_from_json(subwords: Subwords) -> None:
    text = subwords.to_json()
    again = Subwords.from_json(text)
    assert again == subwords and again.digest == subwords.digest and text.isascii()
    assert [again.cut(one) for one in TEXTS] == [subwords.cut(one) for one in TEXTS]


@pytest.mark.parametrize(
    "harm",
    [
        "{",
        "[]",
        '{"characters": "ab"}',
        '{"characters": "ab", "merges": [["a"]]}',
        '{"characters": "ab", "merges": [["a", "c"]]}',
        '{"characters": 3, "merges": []}',
    ],
)
def test_what_is_no_subwords_is_refused(harm: str) -> None:
    with pytest.raises(InputError, match="subwords must be"):
        Subwords.from_json(harm)


def test_a_size_without_room_for_pieces_is_refused() -> None:
    with pytest.raises(InputError, match=r"subword_size 10 leaves no room.*different characters"):
        Subwords.train(TEXTS, 10)
    with pytest.raises(InputError, match="subword_size is 0"):
        TextConfig(unit="subword", subword_size=0)


def test_equal_texts_give_equal_subwords_in_every_process(shared_data) -> None:
    program = (
        "import sys, json; from pipeline.text.subwords import Subwords;"
        "print(Subwords.train(json.load(sys.stdin), 3000).digest)"
    )
    lines = (shared_data / "parallel" / "tatoeba.en-zh.jsonl").read_bytes().splitlines()[:4_000]
    texts = [text for line in lines for text in orjson.loads(line).values()]
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(each).encode(),
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        # Neither the order of the texts nor that of hashes decides between equal counts.
        for seed, each in (("1", texts), ("2", texts), ("3", texts[::-1]))
    }
    assert len(said) == 1
