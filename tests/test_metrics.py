"""Metrics against sacrebleu and by hand; sums before ratios; the bootstrap's verdicts."""

import math

import numpy as np
import pytest
import sacrebleu

from pipeline.metrics import (
    METRICS,
    bleu_statistics,
    chrf,
    entities,
    entity_statistics,
    macro_f1_statistics,
    paired_bootstrap,
    textbook_bleu,
)

HYPOTHESES = ["今天天气很好。", "我想去北京。", "", "你好！", "他在学习中文"]
REFERENCES = ["今天的天气很好。", "我想去北京看看。", "是的。", "你好！", "他正在学习中文。"]
ENGLISH = ["Tom isn't here.", "I like it", "What time is it?"]
ENGLISH_REFERENCES = ["Tom is not here.", "I like it very much.", "What time is it?"]


@pytest.mark.parametrize(
    ("language", "tokenizer", "hypotheses", "references"),
    [
        ("zh", "zh", HYPOTHESES, REFERENCES),
        ("en", "13a", ENGLISH, ENGLISH_REFERENCES),
    ],
)
def test_bleu_from_sums_is_sacrebleus(
    language: str, tokenizer: str, hypotheses: list[str], references: list[str]
) -> None:
    rows, signature = bleu_statistics(hypotheses, references, language)
    wanted = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer)
    assert METRICS["bleu"].score(rows) == pytest.approx(wanted.score)
    assert f"tok:{tokenizer}" in signature
    assert f"version:{sacrebleu.__version__}" in signature


def test_bleu_of_nothing_is_nought() -> None:
    rows, signature = bleu_statistics([], [], "zh")
    assert rows.shape == (0, 10)
    assert METRICS["bleu"].score(rows) == 0.0
    assert "tok:zh" in signature


def test_chrf_is_sacrebleus() -> None:
    value, signature = chrf(HYPOTHESES, REFERENCES)
    assert value == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score)
    assert "nc:6" in signature


@pytest.mark.parametrize(
    ("hypothesis", "reference", "value"),
    [
        ("va !", "va !", 1.0),
        ("j'ai perdu .", "j'ai perdu .", 1.0),
        ("il est bon .", "il est calme .", math.sqrt(3 / 4) * (1 / 3) ** 0.25),
        ("je suis", "je suis chez moi .", math.exp(1 - 5 / 2)),
        ("je", "je suis", 0.0),
        ("a b c", "d e f", 0.0),
    ],
)
def test_the_chapters_bleu(hypothesis: str, reference: str, value: float) -> None:
    found = textbook_bleu(hypothesis.split(), reference.split(), k=2)
    assert found == pytest.approx(value)


def test_sums_come_before_ratios() -> None:
    rows = np.array([[10.0, 1.0], [1.0, 10.0]])
    assert METRICS["perplexity"].score(rows) == pytest.approx(math.exp(1.0))
    assert METRICS["bits_per_character"].score(rows) == pytest.approx(1 / math.log(2))
    assert METRICS["top1"].score(rows) == pytest.approx(1.0)


def test_an_endless_loss_stays_a_number() -> None:
    assert math.isfinite(METRICS["perplexity"].score(np.array([[1e9, 1.0]])))


def test_nothing_scored_is_not_a_number() -> None:
    assert math.isnan(METRICS["perplexity"].score(np.zeros((0, 2))))
    assert math.isnan(METRICS["top5"].score(np.zeros((3, 2))))


def statistics(shift: float, seed: int, num_rows: int = 200) -> np.ndarray:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(5, 20, num_rows).astype(float)
    return np.stack((tokens * (4 + shift) + generator.normal(0, 3, num_rows), tokens), axis=1)


def test_a_clear_challenger_wins_and_an_equal_one_does_not() -> None:
    metric = METRICS["perplexity"]
    champion = statistics(0.0, 1)
    better = paired_bootstrap(metric, statistics(-0.5, 2), champion)
    assert better.p_value < 0.01
    assert better.challenger < better.champion
    worse = paired_bootstrap(metric, statistics(0.5, 2), champion)
    assert worse.p_value > 0.99
    assert paired_bootstrap(metric, champion, champion).p_value == 1.0


def test_greater_is_better_where_it_is() -> None:
    generator = np.random.default_rng(3)
    tokens = np.full(300, 10.0)
    many = np.stack((generator.binomial(10, 0.6, 300), tokens), axis=1)
    few = np.stack((generator.binomial(10, 0.4, 300), tokens), axis=1)
    assert paired_bootstrap(METRICS["top1"], many, few).p_value < 0.01
    assert paired_bootstrap(METRICS["top1"], few, many).p_value > 0.99


def test_the_bootstrap_repeats() -> None:
    metric = METRICS["perplexity"]
    first, second = statistics(0.0, 1), statistics(0.02, 2)
    assert paired_bootstrap(metric, first, second) == paired_bootstrap(metric, first, second)


def test_macro_f1_is_the_mean_over_labels() -> None:
    wanted, given = np.array([4, 4, 5, 6]), np.array([4, 5, 5, 4])
    rows = macro_f1_statistics(given, wanted, np.array([0, 0, 1, 1]), (2, 8))
    # 4: one hit of two given, two wanted; 5: one of two given, one wanted; 6: none.
    assert METRICS["macro_f1"].score(rows) == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("I-PER I-PER I-LOC", {("PER", 0, 1), ("LOC", 2, 2)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("B-PER I-LOC E-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2), ("LOC", 3, 3)}),
        ("S-LOC I-LOC O", {("LOC", 0, 0), ("LOC", 1, 1)}),
        ("O O", set()),
        ("n v n", {("n", 0, 0), ("v", 1, 1), ("n", 2, 2)}),
    ],
)
def test_entities_are_those_of_conlleval(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == found


def test_entity_f1_counts_whole_entities() -> None:
    # The example of seqeval's own documentation: one entity is right in kind and place.
    wanted = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    given = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    rows = entity_statistics(given, wanted)
    assert rows.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert METRICS["entity_f1"].score(rows) == pytest.approx(0.5)
    # Parts of speech are entities of one token: F1 is the share of right tags.
    assert METRICS["entity_f1"].score(entity_statistics([["n", "v"]], [["n", "n"]])) == 0.5


def test_errors_of_forecasts() -> None:
    rows = np.array([[1.0, 1.0], [9.0, 1.0], [0.0, 0.0]])
    assert METRICS["mae"].score(rows) == 5.0
    assert METRICS["rmse"].score(rows) == pytest.approx(math.sqrt(5.0))
    assert math.isnan(METRICS["rmse"].score(np.zeros((2, 2))))
