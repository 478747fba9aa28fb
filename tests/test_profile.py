import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.profile import (
    CLASSES,
    PSI_MUCH,
    QUANTILES,
    Drift,
    Profile,
    Tally,
    TextCounts,
    VocabularyProfile,
    classes_of,
    count_texts,
    coverage,
    drift_between,
    growth,
    joined,
    lengths_of,
    profile_texts,
    remarks,
)
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer

Words = tuple[list[str], np.ndarray]


def counted(texts: list[str], config: TextConfig) -> tuple[TextCounts, dict[str, int]]:
    """The counts of texts, by the way that a shard takes."""
    tokenizer = Tokenizer(config)
    rows = [tokenizer.tokenize(text) for text in texts]
    flat = [token for row in rows for token in row]
    dictionary = list(dict.fromkeys(flat))
    indices = np.array([dictionary.index(token) for token in flat], np.int32)
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    characters = tokenizer.characters(dictionary, indices, offsets)
    counts, words = count_texts(dictionary, indices, offsets, characters)
    return counts, dict(zip(dictionary, words.tolist(), strict=True))


def ranked(counts: dict[str, int]) -> Words:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ordered], np.array([count for _, count in ordered], np.int64)


def test_counts_are_those_of_the_texts() -> None:
    texts = ["我爱北京，OK！", "你好", "3.5 ％", "", "Tokyo タワー"]
    counts, words = counted(texts, TextConfig(unit="char"))
    assert counts.characters == Tally.of(np.array([len(text) for text in texts]))
    assert counts.tokens == counts.characters
    assert counts.classes == {
        "Han": 6,
        "Latin": 7,
        "other letters": 3,
        "digits": 2,
        "punctuation": 4,
        "blanks": 2,
    }
    assert counts.mixes == {
        "Han + Latin": 1,
        "Han": 1,
        "no letters": 2,
        "Latin + other letters": 1,
    }
    assert words["o"] == 2 and sum(words.values()) == sum(map(len, texts))


def test_lengths_of_english_count_its_blanks_and_no_joiners() -> None:
    texts = ["Don't panic, Tom.", 'He said: "yes"', "one"]
    counts, _ = counted(texts, TextConfig(language="en"))
    assert counts.characters == Tally.of(np.array([len(text) for text in texts]))
    assert counts.classes["blanks"] == sum(text.count(" ") for text in texts)
    assert counts.mixes == {"Latin": 3}


def test_every_character_has_one_class() -> None:
    shown = "汉々a１éЖ가٣，😀\u3000\t"
    names = [CLASSES[int(row.argmax())] for row in classes_of(list(shown))]
    assert names == [
        *("Han", "other letters", "Latin", "digits", "Latin", "other letters", "other letters"),
        *("digits", "punctuation", "symbols", "blanks", "blanks"),
    ]
    assert classes_of(list(shown)).sum() == len(shown)
    assert classes_of([]).shape == (0, len(CLASSES))


@settings(max_examples=60)
@given(st.lists(st.text(max_size=12), max_size=8), st.integers(0, 8))
def test_counts_add_up(texts: list[str], cut: int) -> None:
    config = TextConfig(unit="char")
    whole, _ = counted(texts, config)
    parts = [counted(texts[:cut], config)[0], counted(texts[cut:], config)[0]]
    assert joined(parts) == whole


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=60))
def test_lengths_are_exact(numbers: list[int]) -> None:
    lengths = lengths_of(Tally.of(np.array(numbers)))
    ordered = sorted(numbers)
    assert (lengths.num, lengths.total) == (len(numbers), sum(numbers))
    assert (lengths.minimum, lengths.maximum) == (ordered[0], ordered[-1])
    assert lengths.mean == pytest.approx(sum(numbers) / len(numbers))
    assert list(lengths.quantiles) == [
        ordered[math.ceil(share * len(numbers)) - 1] for share in QUANTILES
    ]
    for first, last, count in lengths.bins:
        assert count == sum(first <= number <= last for number in numbers)
    assert sum(count for *_, count in lengths.bins) == len(numbers)


def test_one_monster_does_not_hide_the_others() -> None:
    lengths = lengths_of(Tally.of(np.array([*range(1, 31)] * 10 + [1_000_000])))
    assert len(lengths.bins) == 30
    assert lengths.bins[0] == (1, 1, 10)
    assert lengths.bins[-1] == (30, 1_000_000, 11)
    assert lengths_of(Tally()).num == 0


def test_growth_is_the_expectation_over_samples() -> None:
    counts = np.array([400, 50, 7, 2, 1, 1, 1], np.int64)
    curve = dict(growth(counts, 10))
    assert curve[0] == 0 and curve[int(counts.sum())] == pytest.approx(len(counts))
    rng = np.random.default_rng(0)
    n = list(curve)[3]
    kept = rng.binomial(counts, n / counts.sum(), size=(20_000, len(counts)))
    assert curve[n] == pytest.approx((kept > 0).sum(axis=1).mean(), rel=0.01)
    assert growth(np.zeros(0, np.int64)) == ()


def test_coverage_is_a_running_share() -> None:
    assert coverage(np.array([6, 3, 1], np.int64)) == ((1, 0.6), (2, 0.9), (3, 1.0))
    assert coverage(np.zeros(0, np.int64)) == ()


def test_equal_frequencies_have_no_drift() -> None:
    words = ranked({"的": 60, "我": 30, "你": 10})
    same = drift_between(words, words)
    assert same.psi == 0 and same.new_words == 0 and same.movers == ()
    many = ranked({word: count * 1_000 for word, count in zip(*words, strict=True)})
    assert drift_between(words, many).psi < 0.001


def test_the_index_is_the_formula() -> None:
    before, now = ranked({"a": 80, "b": 20}), ranked({"a": 30, "b": 60, "c": 10})
    drift = drift_between(before, now)
    p = np.array([30.5, 60.5, 10.5]) / 101.5
    q = np.array([80.5, 20.5, 0.5]) / 101.5
    assert drift.psi == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert drift.psi > PSI_MUCH and drift.new_words == pytest.approx(0.1)
    assert [mover.word for mover in drift.movers] == ["a", "b", "c"]
    assert drift.movers[1].before == pytest.approx(0.2)
    assert drift.movers[1].now == pytest.approx(0.6)
    # It is symmetric, and a category too many for it is one of the others.
    assert drift_between(now, before).psi == pytest.approx(drift.psi)
    assert drift_between(before, now, num_categories=1).num_categories == 2


def test_chance_is_what_samples_of_one_population_show() -> None:
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, 301)
    shares /= shares.sum()
    words = [f"w{number:03}" for number in range(300)]
    drifts = [
        drift_between(
            (words, rng.multinomial(40_000, shares)), (words, rng.multinomial(60_000, shares))
        )
        for _ in range(30)
    ]
    assert np.mean([drift.psi for drift in drifts]) == pytest.approx(drifts[0].by_chance, rel=0.1)


def test_nothing_to_compare_is_no_drift() -> None:
    nothing: Words = ([], np.zeros(0, np.int64))
    some = ranked({"a": 3})
    for pair in ((nothing, some), (some, nothing), (nothing, nothing)):
        assert drift_between(*pair) == Drift(0.0, 0.0, 0, 0.0, ())


def test_a_profile_is_plain_and_says_what_is_unusual() -> None:
    config = TextConfig(unit="char")
    counts, words = counted(["我们去吃饭。"] * 40 + ["hello"] + ["吃" * 400], config)
    text = profile_texts(
        "utterances",
        counts,
        *ranked(words),
        before=ranked({"我": 10, "们": 10}),
    )
    profile = Profile(
        kind="dialogues",
        num_rows=42,
        texts=(text,),
        vocabularies=(VocabularyProfile("tokens", 5, {"train": 0.01, "valid": 0.2}),),
        splits={"train": 20, "valid": 2, "test": 2},
        left_out={"exact duplicates": 18},
        rejected={"not JSON": 2},
    )
    assert json.loads(json.dumps(asdict(profile)))["texts"][0]["num_words"] == len(words)
    found = remarks(profile)
    assert [each.split()[0] for each in found] == [
        "4.5%",
        "42.9%",
        "Out-of-vocabulary",
        "Strong",
        "The",
        "1",
    ]
    assert found[2] == "Out-of-vocabulary rate of tokens in valid: 20.0%."
    assert "1 of the utterances (2.38%) use a rare script: Latin." in found
    quiet = Profile(kind="dialogues", num_rows=0, texts=())
    assert remarks(quiet) == []
    assert profile_texts("texts", TextCounts(), [], np.zeros(0, np.int64)).tokens.num == 0
