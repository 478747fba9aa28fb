"""Names of variants: networks and baselines, and who refuses which."""

import pytest

from pipeline.errors import InputError
from pipeline.networks.recurrent import Variant
from pipeline.networks.variants import BASELINES, Baseline, parse_variant
from pipeline.problems import PROBLEMS, NextWord


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("lstm", Variant("lstm")),
        ("bigru-2", Variant("gru", 2, bidirectional=True)),
        ("ngram-5", Baseline("ngram", 5)),
        ("ngram-1", Baseline("ngram", 1)),
        ("last_value", Baseline("last_value")),
        ("seasonal_naive-12", Baseline("seasonal_naive", 12)),
        ("autoregression-12", Baseline("autoregression", 12)),
        ("most_frequent", Baseline("most_frequent")),
    ],
)
def test_names_read_and_write(name: str, variant: Variant | Baseline) -> None:
    assert parse_variant(name) == variant
    assert variant.name == name


@pytest.mark.parametrize(
    "name",
    [
        "ngram",
        "ngram-",
        "ngram-x",
        "ngram-5-2",
        "ngram-²",
        "last_value-1",
        "last_value-",
        "seasonal_naive",
        "most_frequent-3",
        "autoregression--2",
    ],
)
def test_a_baseline_that_does_not_read_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(InputError, match="ngram-ORDER, last_value, seasonal_naive-PERIOD"):
        parse_variant(name)


def test_a_name_that_is_neither_is_refused_with_both_forms() -> None:
    with pytest.raises(InputError, match=r"cells are rnn_tanh.*baselines are ngram-ORDER"):
        parse_variant("transformer")
    with pytest.raises(InputError, match="cells are"):
        parse_variant("")


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="order of ngram-0 is 0"):
        parse_variant("ngram-0")
    with pytest.raises(InputError, match="unknown baseline"):
        Baseline("bag_of_words")
    with pytest.raises(InputError, match="no number"):
        Baseline("last_value", 2)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("kind", BASELINES)
def test_a_problem_takes_its_own_baselines_and_refuses_the_others(name: str, kind: str) -> None:
    problem = PROBLEMS[name]()
    baseline = Baseline(kind, 3) if BASELINES[kind] else Baseline(kind)
    if kind in problem.baselines:
        problem.check(baseline)
        return
    with pytest.raises(InputError, match=f"{problem.name} cannot use {baseline.name}"):
        problem.check(baseline)


def test_an_ngram_cannot_look_beyond_the_window() -> None:
    NextWord(window=4).check(Baseline("ngram", 5))
    with pytest.raises(InputError, match=r"window is 4; take ngram-5"):
        NextWord(window=4).check(Baseline("ngram", 6))
