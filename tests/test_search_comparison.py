"""Ways of searching side by side: the wider finds no worse, and exhaustive search the best."""

import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.prediction import load_predictor
from pipeline.problems import LanguageModel, NextWord, Problem, Seq2Seq
from pipeline.problems.predictor import ModelConfig, Predictor
from pipeline.search_comparison import compare_searches
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary

TEXT = TextConfig(unit="char")
WORDS = Vocabulary(list("今天很好"))


def untrained(problem: Problem) -> Predictor:
    """A model of random weights, so that its choices are hard to see through."""
    variant, network = Variant("gru"), NetworkConfig(8, 8, 0.0)
    num_columns = len(problem.columns)
    torch.manual_seed(5)
    model = problem.build(variant, network, [len(WORDS)] * num_columns)
    weights = {name: 3 * value for name, value in model.state_dict().items()}
    config = ModelConfig(problem, variant, network, *[TEXT] * num_columns)
    names = ("vocabulary", "target_vocabulary")[:num_columns]
    return load_predictor(config.to_dict(), weights, dict.fromkeys(names, WORDS.to_json()))


@pytest.mark.parametrize("problem", [Seq2Seq(), LanguageModel()])
def test_exhaustive_search_is_never_beaten(problem: Problem) -> None:
    results = compare_searches(untrained(problem), "今天", max_tokens=3)
    searches = ["greedy", "beam 2", "beam 5", "beam 20", "exhaustive"]
    assert [each.search for each in results] == searches
    scores = [each.score for each in results]
    assert results[-1].finished and scores[-1] == pytest.approx(max(scores))
    # The tree has 4 + 16 inner prefixes below the first: a beam of 20 keeps all of them.
    assert results[3].text == results[-1].text
    assert results[0].num_hypotheses <= 4 < results[2].num_hypotheses


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(InputError, match="next_word does not search"):
        compare_searches(untrained(NextWord(window=2)), "今天", max_tokens=3)
    with pytest.raises(InputError, match="at least 1"):
        compare_searches(untrained(LanguageModel()), "今天", max_tokens=0)
