"""Beginning from weights that are there: a champion's with a grown vocabulary, and word vectors."""

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.problems import LanguageModel, NextWord, Problem, Seq2Seq, Tagging
from pipeline.problems.batches import Examples
from pipeline.problems.ragged import Ragged
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Fitted, fit

CPU = torch.device("cpu")


def corpus(num_words: int, seed: int, problem: Problem) -> Examples:
    generator = np.random.default_rng(seed)
    rows = [
        [(int(first) + place) % (num_words - 4) + 4 for place in range(8)]
        for first in generator.integers(0, num_words, 60)
    ]
    ragged = Ragged.of(rows)
    return Examples(ragged, ragged) if len(problem.columns) == 2 else Examples(ragged)


def learn(
    problem: Problem,
    num_words: int,
    network: NetworkConfig,
    start: dict[str, torch.Tensor] | None = None,
    num_epochs: int = 1,
    learning_rate: float = 0.02,
) -> Fitted:
    return fit(
        problem,
        Variant.parse("gru"),
        network,
        TrainingConfig(num_epochs=num_epochs, batch_size=16, learning_rate=learning_rate),
        corpus(num_words, 1, problem),
        corpus(num_words, 2, problem),
        [num_words] * len(problem.columns),
        device=CPU,
        start=start,
    )


NETWORKS = [
    NetworkConfig(8, 16, 0.0),
    NetworkConfig(8, 16, 0.0, tied=True),
    NetworkConfig(8, 16, 0.0, embedding="one_hot"),
    NetworkConfig(8, 16, 0.0, output="adaptive", cutoffs=(6, 9)),
]


@pytest.mark.parametrize(
    ("problem", "network"),
    [
        *((LanguageModel(bptt=5), network) for network in NETWORKS),
        (NextWord(window=3), NETWORKS[2]),
        *((Seq2Seq(), network) for network in NETWORKS[:2]),
    ],
)
def test_a_grown_vocabulary_keeps_every_old_word_as_it_was(
    problem: Problem, network: NetworkConfig
) -> None:
    old = learn(problem, 12, network).weights
    sizes = [15] * len(problem.columns)
    torch.manual_seed(5)
    fresh = problem.build(Variant.parse("gru"), network, sizes)
    torch.manual_seed(5)
    grown = problem.build(Variant.parse("gru"), network, sizes)
    grown.begin_from(old, sizes)
    for name, weight in grown.state_dict().items():
        part = tuple(slice(size) for size in old[name].shape)
        assert torch.equal(weight[part], old[name]), name
        if weight.shape != old[name].shape:
            assert {15, 15 - 9} & {*weight.shape}, "rows of words, or of the rarest words"
            beyond = torch.ones_like(weight, dtype=torch.bool)
            beyond[part] = False
            assert torch.equal(weight[beyond], fresh.state_dict()[name][beyond]), name


@pytest.mark.parametrize("problem", [LanguageModel(bptt=5), NextWord(window=3)])
def test_learning_on_begins_where_the_champion_ended(problem: Problem) -> None:
    network = NetworkConfig(8, 16, 0.0)
    champion = learn(problem, 12, network, num_epochs=6)
    on, anew = (learn(problem, 14, network, start) for start in (champion.weights, None))
    assert on.history[0]["metrics"]["valid/loss"] < anew.history[0]["metrics"]["valid/loss"] - 0.1


def test_vectors_are_taken_where_they_are_numbers_and_frozen_where_wanted() -> None:
    vectors = torch.full((12, 8), torch.nan)
    vectors[5:9] = torch.randn(4, 8)
    given = {"embedding.weight": vectors}
    frozen = learn(NextWord(window=3), 12, NetworkConfig(8, 16, 0.0, embedding="frozen"), given, 2)
    assert torch.equal(frozen.weights["embedding.weight"][5:9], vectors[5:9])
    assert bool(frozen.weights["embedding.weight"].isfinite().all())
    tuned = learn(NextWord(window=3), 12, NetworkConfig(8, 16, 0.0), given, 2)
    assert not torch.equal(tuned.weights["embedding.weight"][5:9], vectors[5:9])
    assert tuned.num_parameters - frozen.num_parameters == 12 * 8


@pytest.mark.parametrize(
    ("network", "num_words", "said"),
    [
        (NetworkConfig(8, 20, 0.0), 12, "the same sizes"),
        (NetworkConfig(8, 16, 0.0), 11, "the same sizes"),
        (NetworkConfig(8, 12, 0.0, tied=True), 12, "which this network has not|the same sizes"),
    ],
)
def test_weights_of_another_network_are_refused(
    network: NetworkConfig, num_words: int, said: str
) -> None:
    old = learn(NextWord(window=3), 12, NetworkConfig(8, 16, 0.0)).weights
    with pytest.raises(InputError, match=said):
        learn(NextWord(window=3), num_words, network, old)


def test_a_decoder_whose_one_hot_words_stand_before_its_context_cannot_grow() -> None:
    network = NetworkConfig(8, 16, 0.0, embedding="one_hot")
    old = learn(Seq2Seq(), 12, network).weights
    with pytest.raises(InputError, match=r"decoder.*the same sizes"):
        learn(Seq2Seq(), 14, network, old)


def test_another_problems_weights_are_refused() -> None:
    old = learn(Seq2Seq(), 12, NetworkConfig(8, 16, 0.0)).weights
    with pytest.raises(InputError, match="which this network has not"):
        learn(Tagging(), 12, NetworkConfig(8, 16, 0.0), old)
