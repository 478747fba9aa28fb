"""Baselines as variants: they train, score, predict and generate as networks do."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.baselines.ngram import KneserNey
from pipeline.errors import InputError
from pipeline.evaluation import evaluate
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.variants import Baseline, parse_variant
from pipeline.prediction import load_predictor
from pipeline.problems import Classification, Forecasting, LanguageModel, NextWord, Problem, Tagging
from pipeline.problems.batches import Examples
from pipeline.problems.forecasting.problem import Forecaster, score_values
from pipeline.problems.language_model.problem import StreamNgramModel
from pipeline.problems.models import TokenModel
from pipeline.problems.next_word.problem import WindowNgramModel
from pipeline.problems.predictor import ModelConfig
from pipeline.problems.ragged import Ragged
from pipeline.problems.scores import EvaluationConfig
from pipeline.problems.token_scores import score_tokens
from pipeline.search.search import NoMemory, beam, exhaustive
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import BOS, EOS, Vocabulary
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Fitted, Observer, fit, mean_loss

CPU = torch.device("cpu")
V = 12
PROBLEMS_AND_ORDERS = [
    (problem, order)
    for problem in (LanguageModel(bptt=4, scoring_streams=3), NextWord(window=5))
    for order in (1, 2, 3, 5)
]


def texts(num_texts: int, seed: int) -> Examples:
    generator = np.random.default_rng(seed)
    rows = [
        np.minimum(4 + generator.geometric(0.35, size), V - 1).tolist()
        for size in generator.integers(1, 15, num_texts)
    ]
    ragged = Ragged.of(rows)
    return Examples(ragged, None, np.ones(len(ragged.values)), np.zeros(len(ragged.values)))


def fitted(problem: Problem, order: int, observer: Observer | None = None) -> Fitted:
    return fit(
        problem,
        Baseline("ngram", order),
        NetworkConfig(),
        TrainingConfig(batch_size=7),
        texts(40, 1),
        texts(15, 2),
        [V],
        device=CPU,
        observer=observer,
    )


def loaded(problem: Problem, order: int) -> Any:
    model = problem.build(Baseline("ngram", order), NetworkConfig(), [V])
    model.load_state_dict(fitted(problem, order).weights)
    return model.eval()


@pytest.mark.parametrize(("problem", "order"), PROBLEMS_AND_ORDERS)
def test_training_is_one_record_and_repeats_to_the_bit(problem: Problem, order: int) -> None:
    class Told(Observer):
        def epoch(self, record: dict[str, Any]) -> dict[str, Any]:
            return {"seconds": 1.5}

    first, second = fitted(problem, order, Told()), fitted(problem, order)
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    (record,) = first.history
    assert record["seconds"] == 1.5
    assert record["metrics"]["train/loss"] < record["metrics"]["valid/loss"] < math.log(V)
    assert first.best_epoch == 1
    assert first.num_parameters > 0


@pytest.mark.parametrize(("problem", "order"), PROBLEMS_AND_ORDERS)
def test_every_batch_gives_the_probabilities_of_the_words_before(
    problem: Problem, order: int
) -> None:
    model, split = loaded(problem, order), texts(15, 2)
    scored = score_tokens(problem, model, split, 7, CPU)
    if isinstance(problem, LanguageModel):
        rows = [[*text.tolist(), EOS] for text in split.inputs]
        stream = [EOS, *(word for row in rows for word in row)]
        num_steps = -(-(len(stream) - 1) // problem.scoring_streams)
        # The streams stand side by side, and nothing is known before their first input.
        pieces = [stream[at : at + num_steps + 1] for at in range(0, len(stream) - 1, num_steps)]
    else:
        pieces = [[BOS, *text.tolist()] for text in split.inputs]
    contexts, targets = [], []
    for piece in pieces:
        for at in range(1, len(piece)):
            contexts.append([*[BOS] * (order - 1), *piece[:at]][at:])
            targets.append(piece[at])
    expected = -model.ngrams.log_probability(
        torch.tensor(contexts).reshape(len(contexts), order - 1), torch.tensor(targets)
    )
    assert sorted(scored.nats.tolist()) == pytest.approx(sorted(expected.tolist()), abs=1e-10)
    mean = mean_loss(problem, model, split, 7, CPU)
    assert mean == pytest.approx(float(expected.mean()), abs=1e-10)


def test_a_text_is_learnt_from_its_own_beginning() -> None:
    ragged = Ragged(np.array([9, 9, 4, 5, 6, 4, 7], np.int32), np.array([2, 5, 5, 7]))
    model = WindowNgramModel(3, V)
    model.estimate(Examples(ragged))
    wanted = KneserNey(3, V)
    starts = np.array([True, False, False, False, True, True, False, False])
    wanted.estimate(np.array([BOS, 4, 5, 6, BOS, BOS, 4, 7]), starts)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.ngrams.state_dict().values(), wanted.state_dict().values())
    )


@pytest.mark.parametrize("order", [1, 2, 4])
def test_generation_follows_the_same_probabilities(order: int) -> None:
    problem = LanguageModel()
    model: StreamNgramModel = loaded(problem, order)
    prompt = torch.tensor([[EOS], [6], [5]])
    hidden = model.read(prompt[:-1])
    (found,) = beam(model.step, NoMemory(), hidden, prompt[-1], width=200, max_tokens=3, num_best=2)
    best = exhaustive(model.step, NoMemory(), hidden, prompt[-1], max_tokens=3)
    assert found[0].words == best.words
    written = [EOS, 6, 5, *best.words, EOS]
    total = 0.0
    for at in range(3, len(written)):
        context = torch.tensor([[*[BOS] * order, *written[:at]][at + 1 :]])
        words = model.ngrams(context.reshape(1, order - 1))[0]
        words[[0, 1, 2]] = -torch.inf
        total += float(words.log_softmax(0)[written[at]])
    assert best.log_probability == pytest.approx(total, abs=1e-5)


SENTENCES = ["今天天气很好", "今天我想去北京", "你好吗", "今天天气不好"]
WORDS = Vocabulary(sorted(set("".join(SENTENCES))))


@pytest.mark.parametrize("problem", [LanguageModel(), NextWord(window=3)])
def test_a_checkpoint_predicts_and_is_evaluated(problem: Problem) -> None:
    ragged = Ragged.of([WORDS.encode(list(text)) for text in SENTENCES])
    examples = Examples(ragged, None, np.ones(len(ragged.values)), np.zeros(len(ragged.values)))
    config = ModelConfig(
        problem, parse_variant("ngram-3"), NetworkConfig(), TextConfig(unit="char")
    )
    weights = fit(
        problem,
        config.variant,
        config.network,
        TrainingConfig(),
        examples,
        examples,
        [len(WORDS)],
        device=CPU,
    ).weights
    predictor = load_predictor(
        json.loads(json.dumps(config.to_dict())), weights, {"vocabulary": WORDS.to_json()}
    )
    assert predictor.config == config
    if isinstance(problem, NextWord):
        ((first, *_),) = predictor.predict(["今天天"])
        assert first.text == "气"
        assert first.score > 0.5
    else:
        ((first,),) = predictor.predict(["你好"], temperature=0.0)
        assert first.text == "吗"
        drawn = predictor.predict(["今天", ""], top=3, seed=4)
        assert drawn == predictor.predict(["今天", ""], top=3, seed=4)
        assert [len(each) for each in drawn] == [3, 3]
    scores = evaluate(predictor, examples, SENTENCES, [], EvaluationConfig())
    assert 1 < scores.metrics["perplexity"] < len(WORDS)
    assert scores.metrics["top5"] > 0.5


LABELLED = Examples(
    Ragged.of([[4, 5], [6], [], [4, 6]]), Ragged.of([[5], [4], [5], [5]]), np.zeros(0), np.zeros(0)
)
TAGGED = Examples(
    Ragged.of([[4, 5, 4], [6], [4, 6]]), Ragged.of([[4, 5, 4], [5], [5, 5]]), np.zeros(0)
)


@pytest.mark.parametrize(
    ("problem", "examples", "best"),
    [(Classification(), LABELLED, [5, 5, 5, 5]), (Tagging(), TAGGED, [4, 5, 4, 5, 4, 5])],
)
def test_the_most_frequent_label_is_given_in_every_batch(
    problem: Problem, examples: Examples, best: list[int]
) -> None:
    baseline = parse_variant("most_frequent")
    settings = (baseline, NetworkConfig(tied=True))
    result = fit(
        problem,
        *settings,
        TrainingConfig(batch_size=2),
        examples,
        examples,
        [8, 7],
        device=CPU,
    )
    model = problem.build(*settings, [8, 7])
    model.load_state_dict(result.weights)
    assert isinstance(model, TokenModel)
    scored = score_tokens(problem, model, examples, 2, CPU)
    assert scored.best[np.argsort(scored.positions)].tolist() == best
    assert float(scored.nats.mean()) == pytest.approx(result.history[0]["metrics"]["valid/loss"])
    assert float(scored.nats.mean()) < math.log(7)


def series(values: list[float], num_known: int) -> Examples:
    return Examples(
        Ragged(np.array(values), np.array([0, len(values)])),
        Ragged(np.array(values[num_known:]), np.array([0, len(values) - num_known])),
        scales=np.ones(1),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("last_value", [5.0, 7.0]), ("seasonal_naive-3", [9.0, 3.0]), ("autoregression-2", [7, 9])],
)
def test_forecasts_of_series(name: str, expected: list[float]) -> None:
    problem = Forecasting(window=3, period=3)
    values = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0]
    result = fit(
        problem,
        parse_variant(name),
        NetworkConfig(tied=True),
        TrainingConfig(),
        series(values, 0),
        series([9.0, 3.0, 5.0, 7.0, 9.0], 3),
        [],
        device=CPU,
    )
    model = problem.build(parse_variant(name), NetworkConfig(), [])
    model.load_state_dict(result.weights)
    assert isinstance(model, Forecaster)
    scored = score_values(problem, model, series([9.0, 3.0, 5.0, 7.0, 9.0], 3), 8, CPU)
    assert scored.tolist() == pytest.approx(expected)
    loss = result.history[0]["metrics"]["valid/loss"]
    assert loss == pytest.approx(float(np.mean((np.array(expected) - [7.0, 9.0]) ** 2)), abs=1e-9)


def test_an_autoregression_learns_logarithms_and_changes_as_the_networks_do() -> None:
    # Every value is 1.1 times that of three steps before: a constant change of logarithms.
    values = [4.0, 9.0, 6.0]
    for _ in range(27):
        values.append(1.1 * values[-3])
    problem = Forecasting(window=4, period=3, difference=3, log=True)
    result = fit(
        problem,
        parse_variant("autoregression-1"),
        NetworkConfig(),
        TrainingConfig(),
        series(values[:20], 0),
        series(values, 20),
        [],
        device=CPU,
    )
    model = problem.build(parse_variant("autoregression-1"), NetworkConfig(), [])
    model.load_state_dict(result.weights)
    assert isinstance(model, Forecaster)
    scored = score_values(problem, model, series(values, 20), 8, CPU)
    assert scored == pytest.approx(np.array(values[20:]), rel=1e-9)


def test_a_baseline_cannot_look_further_back_than_the_window() -> None:
    Forecasting(window=12).check(parse_variant("seasonal_naive-12"))
    for name in ("seasonal_naive-13", "autoregression-13"):
        with pytest.raises(InputError, match=rf"{name}: it looks 13 values back.*window is 12"):
            Forecasting(window=12).check(parse_variant(name))
