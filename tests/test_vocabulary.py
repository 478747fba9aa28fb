import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.text.vocabulary import (
    BOS,
    EOS,
    PAD,
    SPECIALS,
    UNK,
    Coverage,
    Spelling,
    Vocabulary,
    VocabularyConfig,
    coverage_by_size,
)

WORDS = ["面", "吃", "你好", "<unk>", "好"]
COUNTS = [3, 3, 9, 1, 1]
# Any text but lone surrogates, which no UTF-8 file can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


def built(**settings):
    return Vocabulary.build(WORDS, COUNTS, VocabularyConfig(**settings))


def test_specials_come_first_and_their_names_stay_ordinary_words():
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)
    vocabulary = built()
    assert vocabulary.decode(range(4)) == list(SPECIALS)
    assert vocabulary.ids_of(["<unk>"])[0] == 4 + vocabulary.words.index("<unk>") != UNK
    assert vocabulary.ids_of(["<pad>", "<bos>"]).tolist() == [UNK, UNK]


def test_order_is_count_then_code_points_whatever_order_is_given():
    assert built().words == ("你好", "吃", "面", "<unk>", "好")
    backward = Vocabulary.build(WORDS[::-1], np.array(COUNTS[::-1]), VocabularyConfig())
    assert backward == built()
    assert backward.digest == built().digest


def test_bounds():
    assert built(max_size=6).words == ("你好", "吃")
    assert len(built(max_size=6)) == 6
    assert built(min_count=2).words == ("你好", "吃", "面")
    assert built(min_count=100).words == ()


@pytest.mark.parametrize("settings", [{"max_size": 4}, {"min_count": 0}])
def test_bad_bounds_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        VocabularyConfig(**settings)


def test_encode_and_decode():
    vocabulary = built()
    ids = vocabulary.encode(["你好", "吃", "鱼"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [4, 5, UNK]
    assert vocabulary.decode(ids) == ["你好", "吃", "<unk>"]
    assert vocabulary.encode([]).shape == (0,)
    assert vocabulary.decode([]) == []


@pytest.mark.parametrize("wrong", [-1, 9])
def test_decode_refuses_an_id_outside(wrong):
    with pytest.raises(IndexError, match="9"):
        built().decode([4, wrong])


def test_extend_keeps_ids_and_respects_the_bounds():
    old = built(min_count=2)
    new = old.extend(["鱼", "面", "茶", "你好"], [2, 100, 7, 1], VocabularyConfig(max_size=8))
    assert new.words == (*old.words, "茶")
    assert new.ids_of(old.words).tolist() == old.ids_of(old.words).tolist()
    assert old.extend(["茶"], [7], VocabularyConfig(max_size=5)) == old


def test_coverage():
    vocabulary = built(min_count=2)
    seen = vocabulary.coverage(WORDS, COUNTS)
    assert seen == Coverage(num_tokens=17, num_unknown=2, num_types=5, num_unknown_types=2)
    assert seen.unknown_rate == pytest.approx(2 / 17)
    assert vocabulary.coverage([], []).unknown_rate == 0.0


@given(st.lists(TEXT, unique=True))
def test_vocabulary_json_round_trip(words):
    vocabulary = Vocabulary(words)
    text = vocabulary.to_json()
    assert text.isascii()
    assert Vocabulary.from_json(text) == vocabulary
    assert Vocabulary.from_json(text).digest == vocabulary.digest
    assert vocabulary.decode(vocabulary.encode(words)) == words


def test_digest_depends_on_the_order():
    assert Vocabulary(["a", "b"]).digest != Vocabulary(["b", "a"]).digest


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"words": []}',
        json.dumps({"specials": SPECIALS[::-1], "words": []}),
        json.dumps({"specials": SPECIALS, "words": [1]}),
        json.dumps({"specials": SPECIALS, "words": ["a", "a"]}),
        json.dumps({"specials": SPECIALS, "words": "ab"}),
    ],
)
def test_a_broken_vocabulary_file_is_refused(text):
    with pytest.raises(InputError):
        Vocabulary.from_json(text)


def test_a_word_cannot_stand_twice():
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a"])


def test_spelling_by_hand():
    # Left out: "ab" twice; seen once: "a". So a 3, b 2, end 3; add one to each, the unseen 0.
    vocabulary = Vocabulary.build(["ab", "cc", "a"], [2, 5, 1], VocabularyConfig(max_size=5))
    spelling = Spelling.build(["ab", "cc", "a"], [2, 5, 1], vocabulary)
    assert vocabulary.words == ("cc",)
    assert spelling.counts == {"a": 3, "b": 2}
    total = 4 + 3 + 4 + 1
    expected = -math.log(4 / total) - math.log(3 / total) - math.log(4 / total)
    unseen = -math.log(1 / total / (0x110000 - 0x800 - 2)) - math.log(4 / total)
    np.testing.assert_allclose(spelling.nats(["ab", "c"]), [expected, unseen], rtol=1e-12)


def test_spelling_uses_words_seen_once_when_nothing_is_left_out():
    vocabulary = Vocabulary.build(["很", "好吃"], [5, 1], VocabularyConfig())
    assert Spelling.build(["很", "好吃"], [5, 1], vocabulary).counts == {"吃": 1, "好": 1}


@given(st.dictionaries(st.characters(exclude_categories=["Cs"]), st.integers(1, 99), max_size=5))
def test_the_next_symbol_has_total_probability_one(counts):
    spelling = Spelling(counts, 7)
    end = math.exp(-spelling.nats([""])[0])
    unseen_char = next(chr(code) for code in range(0x4E00, 0x9000) if chr(code) not in counts)
    one = np.exp(-spelling.nats([*counts, unseen_char])) / end
    num_unseen = 0x110000 - 0x800 - len(counts)
    assert end + one[:-1].sum() + num_unseen * one[-1] == pytest.approx(1.0)


def test_spelling_json_round_trip():
    spelling = Spelling({"好": 2, "\U0001f600": 1}, 3)
    text = spelling.to_json()
    assert text.isascii()
    assert Spelling.from_json(text) == spelling
    assert Spelling.from_json(text).nats(["好"]) == spelling.nats(["好"])


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"characters": {"ab": 1}, "num_words": 1},
        {"characters": {"a": -1}, "num_words": 1},
        {"characters": {"a": 1}, "num_words": True},
        {"characters": {"a": 1}},
    ],
)
def test_a_broken_spelling_file_is_refused(value):
    with pytest.raises(InputError):
        Spelling.from_json(json.dumps(value))


def test_coverage_by_size() -> None:
    counts = [1] * 1_500 + [1_000] * 1_000
    shares = coverage_by_size(counts)
    assert list(shares) == [1_000, 2_000, 2_500]
    assert shares[1_000] == 1_000_000 / 1_001_500
    assert shares[2_500] == 1.0
    assert coverage_by_size([3, 1]) == {2: 1.0}
    assert coverage_by_size([]) == coverage_by_size([0, 0]) == {}
