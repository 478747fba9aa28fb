"""Scores of a split: each statistic by hand, characters across vocabularies, samples to read."""

import math

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.evaluation import evaluate
from pipeline.metrics import METRICS, bleu_statistics
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.prediction import load_predictor
from pipeline.problems import LanguageModel, NextWord, Problem, Seq2Seq
from pipeline.problems.batches import Examples
from pipeline.problems.predictor import ModelConfig, Predictor
from pipeline.problems.ragged import Ragged
from pipeline.problems.scores import EvaluationConfig, token_statistics
from pipeline.problems.token_scores import TokenScores
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import UNK, Spelling, Vocabulary

TEXTS = ["今天天气很好", "我想去北京看看", "你好", "他们在学习中文"]
CHAR = TextConfig(unit="char")


def untrained(problem: Problem, vocabulary: Vocabulary) -> Predictor:
    torch.manual_seed(0)
    config = ModelConfig(
        problem,
        Variant("gru"),
        NetworkConfig(8, 8, 0.0),
        CHAR,
        CHAR if (len(problem.columns) == 2) else None,
    )
    sizes = [len(vocabulary)] * (2 if (len(problem.columns) == 2) else 1)
    model = problem.build(config.variant, config.network, sizes)
    names = ("vocabulary", "target_vocabulary")
    return load_predictor(
        config.to_dict(),
        model.state_dict(),
        {name: vocabulary.to_json() for name in names},
    )


def encoded(vocabulary: Vocabulary, spelling: Spelling, *, paired: bool = False) -> Examples:
    rows = [list(text) for text in TEXTS]
    flat = [word for row in rows for word in row]
    ids = Ragged.of([vocabulary.encode(row) for row in rows])
    costs = np.where(ids.values == UNK, spelling.nats(flat), 0.0)
    return Examples(ids, ids if paired else None, np.ones(len(flat), np.int32), costs)


def test_statistics_by_hand() -> None:
    scored = TokenScores(
        nats=np.array([1.0, 2.0, 0.5]),
        ranks=np.array([0, 4, 9]),
        best=np.array([4, 4, 4]),
        rows=np.array([1, 1, 0]),
        positions=np.array([2, -1, 0]),
    )
    examples = Examples(
        Ragged.of([[5], [6, 7]]), None, np.array([3, 9, 2]), np.array([0.25, 9.0, 0.0])
    )
    rows = token_statistics(scored, examples)
    assert rows["perplexity"].tolist() == [[0.5, 1], [3.0, 2]]
    assert rows["bits_per_character"].tolist() == [[0.75, 3], [3.0, 3]]
    assert rows["top1"].tolist() == [[0, 1], [1, 2]]
    assert rows["top5"].tolist() == [[0, 1], [2, 2]]


def test_a_model_that_spells_everything_scores_as_its_spelling_does() -> None:
    """With every word unknown and certain to be so, only the letters cost anything."""
    vocabulary = Vocabulary([])
    words = sorted(set("".join(TEXTS)))
    spelling = Spelling.build(words, [1] * len(words), vocabulary)
    predictor = untrained(LanguageModel(scoring_streams=1), vocabulary)
    with torch.no_grad():
        predictor.model.head.output.weight.zero_()
        predictor.model.head.output.bias.copy_(torch.tensor([-99.0, 0.0, -99.0, 0.0]))
    scores = evaluate(predictor, encoded(vocabulary, spelling), TEXTS, [], EvaluationConfig())
    characters = "".join(TEXTS)
    nats = float(spelling.nats(list(characters)).sum())
    choices = (len(characters) + len(TEXTS)) * math.log(2)
    wanted = (nats + choices) / math.log(2) / (len(characters) + len(TEXTS))
    assert scores.metrics["bits_per_character"] == pytest.approx(wanted, rel=1e-6)
    assert scores.metrics["unknown_rate"] == 1.0
    assert scores.metrics["top5"] < 0.2


@pytest.mark.parametrize("problem", [NextWord(window=2), LanguageModel()])
def test_scores_and_samples_of_running_text(problem: Problem) -> None:
    vocabulary = Vocabulary(sorted(set("".join(TEXTS))))
    spelling = Spelling.build([], [], vocabulary)
    scores = evaluate(
        untrained(problem, vocabulary),
        encoded(vocabulary, spelling),
        TEXTS,
        [],
        EvaluationConfig(num_samples=3),
    )
    for name, rows in scores.statistics.items():
        assert len(rows) == len(TEXTS)
        assert scores.metrics[name] == METRICS[name].score(rows)
    assert scores.metrics["perplexity"] == pytest.approx(len(vocabulary), rel=0.1)
    assert len(scores.samples) == 3
    assert [sample["prompt"] + sample["text"] for sample in scores.samples] == [
        TEXTS[row] for row in (0, 1, 3)
    ]


@pytest.mark.parametrize("beam", [1, 3])
def test_bleu_is_of_what_the_model_says(beam: int) -> None:
    vocabulary = Vocabulary(sorted(set("".join(TEXTS))))
    predictor = untrained(Seq2Seq(), vocabulary)
    config = EvaluationConfig(beam=beam, max_tokens=8)
    examples = encoded(vocabulary, Spelling.build([], [], vocabulary), paired=True)
    scores = evaluate(predictor, examples, TEXTS, TEXTS, config)

    def bleu(width: int) -> float:
        said = [answer[0].text for answer in predictor.predict(TEXTS, beam=width, max_tokens=8)]
        return METRICS["bleu"].score(bleu_statistics(said, TEXTS, "zh")[0])

    assert scores.metrics["bleu"] == bleu(beam)
    assert scores.metrics["bleu_greedy"] == bleu(1)
    assert set(scores.signatures) == {"bleu", "chrf"}
    assert [sample["reference"] for sample in scores.samples] == TEXTS


@pytest.mark.parametrize("problem", [NextWord(), LanguageModel()])
def test_nothing_to_score_is_said(problem: Problem) -> None:
    predictor = untrained(problem, Vocabulary(["今"]))
    with pytest.raises(InputError, match="nothing to score"):
        evaluate(predictor, Examples(Ragged.of([])), [], [], EvaluationConfig())


@pytest.mark.parametrize("name", ["beam", "max_tokens", "num_samples"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=name):
        EvaluationConfig(**{name: 0})
