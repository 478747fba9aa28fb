"""Metrics against sacrebleu and by hand; sums before ratios; the bootstrap's verdicts."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE1, IOE2, Entities, Token

from pipeline.metrics import (
    METRICS,
    MIN_RESAMPLES,
    Metric,
    Statistics,
    bleu_statistics,
    chrf,
    entities,
    entity_statistics,
    macro_f1_statistics,
    paired_bootstrap,
    tag_scheme,
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


def test_bleu_and_chrf_of_nothing_are_undefined() -> None:
    rows, signature = bleu_statistics([], [], "zh")
    assert rows.shape == (0, 10)
    assert math.isnan(METRICS["bleu"].score(rows))
    assert "tok:zh" in signature
    # No word where words are wanted is as wrong as can be.
    assert METRICS["bleu"].score(bleu_statistics([""], ["你好"], "zh")[0]) == 0.0
    assert chrf([""], ["你好"])[0] == 0.0
    value, signature = chrf([], [])
    assert math.isnan(value)
    assert "nc:6" in signature


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
        ("B-LOC M-LOC E-LOC M-LOC", {("LOC", 0, 2), ("LOC", 3, 3)}),
        ("B I O I", {("_", 0, 1), ("_", 3, 3)}),
        ("B-PER-X I-PER-X", {("PER-X", 0, 1)}),
        ("MISC MISC O MISC", {("MISC", 0, 1), ("MISC", 3, 3)}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_entities_are_those_of_conlleval(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split(), "prefixes") == found


def test_entities_of_tags_without_prefixes() -> None:
    # "E-MAIL" and "SUBJ" are kinds here; their first letters mean nothing.
    tags = ["PER", "PER", "LOC", "O", "E-MAIL", "E-MAIL", "SUBJ", "SUBJ"]
    assert entities(tags, "spans") == {
        ("PER", 0, 1),
        ("LOC", 2, 2),
        ("E-MAIL", 4, 5),
        ("SUBJ", 6, 7),
    }
    assert entities(["n", "v", "n"], "tokens") == {("n", 0, 0), ("v", 1, 1), ("n", 2, 2)}


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        ("O B-PER I-PER", "prefixes"),
        ("I-PER O", "prefixes"),
        ("O U-LOC L-LOC B-LOC I-LOC", "prefixes"),
        ("B-NP I-NP B-VP", "prefixes"),
        ("B M E S", "prefixes"),
        ("O B-PER I-PER MISC", "prefixes"),
        ("O", "prefixes"),
        ("", "prefixes"),
        ("O PER LOC", "spans"),
        ("O PER LOC E-MAIL", "spans"),
        ("n v ns S", "tokens"),
        ("NN VB -LRB- PRP$", "tokens"),
    ],
)
def test_the_scheme_is_that_of_the_label_set(labels: str, scheme: str) -> None:
    assert tag_scheme(labels.split()) == scheme


KINDS = ("PER", "LOC")
NUM_TEXTS = 2500


def with_seqevals_letters(tags: Sequence[str]) -> list[str]:
    """BILOU in seqeval's default mode, which knows the same two letters as E and S."""
    return [{"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:] for tag in tags]


def random_tags(prefixes: str, seed: int) -> list[list[str]]:
    """Any order of any tags of a scheme, mostly ill-formed."""
    generator = np.random.default_rng(seed)
    labels = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in KINDS)]
    return [
        [labels[i] for i in generator.integers(len(labels), size=size)]
        for size in generator.integers(1, 12, NUM_TEXTS)
    ]


@pytest.mark.parametrize("prefixes", ["I", "IB", "IE", "IBES", "IBLU", "B", "ES"])
def test_seqeval_finds_the_same_entities_in_any_order_of_tags(prefixes: str) -> None:
    """IO, IOB1 and IOB2, IOE1 and IOE2, IOBES, BILOU: its default mode."""
    wanted, given = random_tags(prefixes, 1), random_tags(prefixes, 2)
    for tags in wanted:
        assert entities(tags, "prefixes") == set(get_entities(with_seqevals_letters(tags)))
    given = [(row * 12)[: len(tags)] for row, tags in zip(given, wanted, strict=True)]
    *_, f1, _ = precision_recall_fscore_support(
        [with_seqevals_letters(tags) for tags in wanted],
        [with_seqevals_letters(tags) for tags in given],
        average="micro",
    )
    rows = entity_statistics(given, wanted, tag_scheme(tag for row in wanted for tag in row))
    assert METRICS["entity_f1"].score(rows) == pytest.approx(f1, abs=1e-12)
    assert 0 < f1 < 1


def well_formed(scheme: type[Token], seed: int) -> list[list[str]]:
    """Random entities, each as its scheme writes it."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(NUM_TEXTS):
        tags: list[str] = []
        before = ""
        for _ in range(generator.integers(1, 5)):
            kind = ("", *KINDS)[generator.integers(3)]
            # seqeval's strict IOE1 does not know an entity that is one E alone.
            size = int(generator.integers(1 + (scheme is IOE1), 4))
            letters = ["I"] * size
            if scheme in (IOB2, IOBES, BILOU) or (scheme is IOB1 and kind == before):
                letters[0] = "B"
            if scheme in (IOE2, IOBES, BILOU):
                letters[-1] = "L" if scheme is BILOU else "E"
            if size == 1 and scheme in (IOBES, BILOU):
                letters = ["U" if scheme is BILOU else "S"]
            if scheme is IOE1 and kind and kind == before:
                tags[-1] = f"E-{kind}"
            tags += [f"{letter}-{kind}" if kind else "O" for letter in letters]
            before = kind
        texts.append(tags)
    return texts


@pytest.mark.parametrize("scheme", [IOB1, IOB2, IOE1, IOE2, IOBES, BILOU])
def test_seqeval_finds_the_same_entities_strictly_where_tags_are_well_formed(
    scheme: type[Token],
) -> None:
    texts = well_formed(scheme, 3)
    for tags, found in zip(texts, Entities(texts, scheme).entities, strict=True):
        assert entities(tags, "prefixes") == {(e.tag, e.start, e.end - 1) for e in found}


def test_seqeval_finds_the_same_spans_without_prefixes() -> None:
    """IO without its prefix; seqeval, which takes the first letter for one, gets it."""
    for tags in random_tags("I", 4):
        bare = [tag.removeprefix("I-") for tag in tags]
        assert entities(bare, "spans") == set(get_entities(tags))


def test_entity_f1_counts_whole_entities() -> None:
    # The example of seqeval's own documentation: one entity is right in kind and place.
    wanted = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    given = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    rows = entity_statistics(given, wanted, "prefixes")
    assert rows.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert METRICS["entity_f1"].score(rows) == pytest.approx(0.5)
    # Parts of speech are entities of one token: F1 is the share of right tags.
    rows = entity_statistics([["n", "v"]], [["n", "n"]], "tokens")
    assert METRICS["entity_f1"].score(rows) == 0.5


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        # Kinds that no training tag has, with the prefixes and without.
        ("B-PER B-NEW I-NEW I-NEW O", "B-PER O O O O"),
        ("B-PER NEW NEW NEW O", "B-PER O O O O"),
        # Of a known kind a letter that training had not.
        ("B-PER O B-LOC E-LOC", "B-PER O B-LOC O"),
    ],
)
def test_an_entity_of_an_unseen_tag_is_one_that_is_missed(wanted: str, given: str) -> None:
    rows = entity_statistics([given.split()], [wanted.split()], "prefixes")
    found = len(entities(given.split(), "prefixes"))
    assert rows.tolist() == [[1, found, 2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        *_, f1, _ = precision_recall_fscore_support(
            [wanted.split()], [given.split()], average="micro"
        )
    assert METRICS["entity_f1"].score(rows) == pytest.approx(f1)


def test_errors_of_forecasts() -> None:
    rows = np.array([[1.0, 1.0], [9.0, 1.0], [0.0, 0.0]])
    assert METRICS["mae"].score(rows) == 5.0
    assert METRICS["rmse"].score(rows) == pytest.approx(math.sqrt(5.0))
    assert math.isnan(METRICS["rmse"].score(np.zeros((2, 2))))


# --- scores that are undefined --------------------------------------------------------------------

EVERY_METRIC = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))


def num_statistics(metric: Metric) -> int:
    return 3 * 4 if metric.name == "macro_f1" else len(metric.statistics)


def some(metric: Metric, seed: int, num_rows: int = 40) -> Statistics:
    """Sound statistics of some rows."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(1, 5, (num_rows, num_statistics(metric))).astype(float)
    if metric.name.startswith("bleu"):
        rows[:, 2::2] = np.minimum(rows[:, 2::2], rows[:, 3::2])
    return rows


@EVERY_METRIC
def test_without_anything_to_score_a_score_is_undefined(metric: Metric) -> None:
    for num_rows in (0, 3):
        assert math.isnan(metric.score(np.zeros((num_rows, num_statistics(metric)))))


@EVERY_METRIC
def test_scores_of_many_splits_are_those_of_each(metric: Metric) -> None:
    splits = np.stack([some(metric, seed) for seed in range(5)])
    splits[2] = 0
    found = metric.value(splits.sum(1))
    assert found.tolist() == pytest.approx([metric.score(rows) for rows in splits], nan_ok=True)
    assert np.isnan(found).tolist() == [False, False, True, False, False]


@EVERY_METRIC
def test_an_undefined_score_ranks_last_and_breaks_no_ranking(metric: Metric) -> None:
    scores = [math.nan, 0.2, 0.5, math.nan, 0.1, 0.5]
    ranked = sorted(scores, key=metric.rank_key)
    best_first = sorted([0.2, 0.5, 0.1, 0.5], reverse=metric.greater_is_better)
    assert ranked[:4] == best_first
    assert all(map(math.isnan, ranked[4:]))


@EVERY_METRIC
def test_an_undefined_score_wins_no_comparison(metric: Metric) -> None:
    sound, nothing = some(metric, 1), np.zeros((40, num_statistics(metric)))
    for challenger, champion in ((nothing, sound), (sound, nothing), (nothing, nothing)):
        comparison = paired_bootstrap(metric, challenger, champion)
        assert comparison.p_value == 1.0
        assert not comparison.challenger_wins
    assert not paired_bootstrap(metric, nothing[:0], nothing[:0]).challenger_wins


def test_entities_that_are_nowhere_make_f1_undefined_and_missed_ones_make_it_nought() -> None:
    metric = METRICS["entity_f1"]
    assert math.isnan(metric.score(entity_statistics([["O"]], [["O"]], "prefixes")))
    assert metric.score(entity_statistics([["O"]], [["B-PER"]], "prefixes")) == 0.0
    assert metric.score(entity_statistics([["B-PER"]], [["O"]], "prefixes")) == 0.0


def test_one_class_alone_is_defined_and_decides_nothing() -> None:
    only = np.full(30, 4)
    rows = macro_f1_statistics(only, only, np.arange(30), (30, 5))
    assert METRICS["macro_f1"].score(rows) == 1.0
    assert not paired_bootstrap(METRICS["macro_f1"], rows, rows).challenger_wins


# --- how many resamples ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_variants", [1, 20, 51, 500])
def test_a_clear_challenger_wins_however_many_there_are(num_variants: int) -> None:
    metric, bar = METRICS["perplexity"], 0.05 / num_variants
    comparison = paired_bootstrap(metric, statistics(-1, 2), statistics(0.0, 1), bar=bar)
    assert comparison.challenger_wins
    assert comparison.p_value <= bar / 15
    again = paired_bootstrap(metric, statistics(-1, 2), statistics(0.0, 1), bar=bar)
    assert again == comparison


def test_a_verdict_does_not_depend_on_how_many_splits_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metric = METRICS["perplexity"]
    sides = statistics(-0.02, 2), statistics(0.0, 1)
    whole = paired_bootstrap(metric, *sides)
    assert 0.001 < whole.p_value < 0.9
    monkeypatch.setattr("pipeline.metrics._RESAMPLED_ROWS", 1)
    assert paired_bootstrap(metric, *sides) == whole


def test_what_is_lost_already_is_not_drawn_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.metrics._RESAMPLED_ROWS", 1)
    drawn = []

    def counted(sums: Statistics) -> Statistics:
        drawn.append(len(np.atleast_2d(sums)))
        return METRICS["top1"].value(sums)

    metric = Metric("top1", ("hits", "tokens"), True, counted)
    rows = np.ones((5, 2))
    assert paired_bootstrap(metric, rows, rows, bar=1e-5).p_value == 1.0
    # Both sides of every resampled split, and of the split itself.
    assert sum(drawn) == 2 * (MIN_RESAMPLES + 1)
