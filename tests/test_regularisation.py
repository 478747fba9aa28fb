"""What training disturbs and taxes: each against its formula, and nothing of it afterwards."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.networks.recurrent import RECURRENT_WEIGHTS, NetworkConfig, RecurrentStack, Variant
from pipeline.networks.regularisation import FeatureDropout, RegularisationConfig, one_sequence
from pipeline.networks.words import Embedding
from pipeline.problems import (
    Classification,
    Forecasting,
    LanguageModel,
    NextWord,
    Problem,
    Seq2Seq,
    Tagging,
)
from pipeline.problems.batches import Examples
from pipeline.problems.models import TokenNetwork
from pipeline.problems.ragged import Ragged
from pipeline.text.vocabulary import EOS, PAD, UNK
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import check_settings, fit

V = 12
ROWS = [[4, 5, 6, 7, 8], [9, 10, 4], [5, 6, 7, 8, 9, 10]]


def examples_of(problem: Problem) -> Examples:
    ragged = Ragged.of(ROWS)
    return Examples(ragged, ragged) if len(problem.columns) == 2 else Examples(ragged)


def model_of(
    problem: Problem, variant: str = "lstm", dropout: float = 0.0, **config: Any
) -> TokenNetwork:
    torch.manual_seed(0)
    network = NetworkConfig(6, 7, dropout)
    model = problem.build(Variant.parse(variant), network, [V] * len(problem.columns))
    assert isinstance(model, TokenNetwork)
    model.regularise(RegularisationConfig(**config))
    return model.train()


def first_batch(problem: Problem) -> Any:
    return problem.training_batches(examples_of(problem), 3, np.random.default_rng(0))[0]


def test_locked_dropout_takes_the_same_features_at_every_step() -> None:
    torch.manual_seed(0)
    dropout = FeatureDropout(0.5).train()
    ones = torch.ones(9, 3, 50)
    assert not torch.equal(dropout(ones)[0], dropout(ones)[1])
    dropout.regularisation = RegularisationConfig(locked_dropout=True)
    locked = dropout(ones)
    assert torch.equal(locked, locked[:1].expand_as(locked))
    assert set(locked.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(locked[0, 0], locked[0, 1]), "each row has features of its own"
    assert torch.equal(dropout.eval()(ones), ones)


def test_masks_of_a_sequence_stay_where_it_goes_word_by_word() -> None:
    dropout = FeatureDropout(0.5).train()
    dropout.regularisation = RegularisationConfig(locked_dropout=True)
    ones = torch.ones(1, 3, 50)
    with one_sequence(dropout):
        first, second = dropout(ones), dropout(ones)
    assert torch.equal(first, second)
    assert not torch.equal(first, dropout(ones))


def test_embedding_dropout_loses_a_word_wherever_it_stands() -> None:
    torch.manual_seed(0)
    embedding = Embedding(50, 4).train()
    embedding.regularisation = RegularisationConfig(embedding_dropout=0.5)
    ids = torch.arange(50).repeat(3, 1)
    vectors = embedding(ids)
    assert torch.equal(vectors[0], vectors[1])
    lost = (vectors[0] == 0).all(-1)
    assert 10 < int(lost[4:].sum()) < 40
    torch.testing.assert_close(vectors[0][~lost], 2 * embedding.weight[~lost])
    assert torch.equal(embedding.eval()(ids)[0], embedding.weight)


def test_word_dropout_makes_ordinary_words_unknown() -> None:
    torch.manual_seed(0)
    embedding = Embedding(50, 4).train()
    embedding.regularisation = RegularisationConfig(word_dropout=0.5)
    ids = torch.arange(50, dtype=torch.int32).repeat(200, 1)
    unknown = (embedding(ids) == embedding.weight[UNK]).all(-1)
    assert unknown[:, UNK].all()
    assert not unknown[:, [PAD, EOS]].any()
    assert float(unknown[:, 4:].float().mean()) == pytest.approx(0.5, abs=0.02)
    assert not (embedding.eval()(ids) == embedding.weight[UNK]).all(-1)[:, 4:].any()


@pytest.mark.parametrize("lengths", [None, torch.tensor([6, 3, 1, 5])])
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_weight_drop_is_the_same_in_either_kernel(cell: str, lengths: Any) -> None:
    """DropConnect is dropout of the matrix: a network whose weights were zeroed by hand agrees."""
    torch.manual_seed(0)
    stacks = [
        RecurrentStack(5, 7, Variant(cell, kernel=kernel)) for kernel in ("torch", "textbook")
    ]
    stacks[1].load_state_dict(stacks[0].state_dict())
    inputs = torch.randn(6, 4, 5)
    found = []
    for stack in stacks:
        stack.regularisation = RegularisationConfig(weight_drop=0.5)
        torch.manual_seed(1)
        outputs, _ = stack.train()(inputs, lengths=lengths)
        inside = torch.ones(6, 4) if lengths is None else torch.arange(6)[:, None] < lengths
        found.append(outputs * inside[..., None])
        found[-1].sum().backward()
    torch.testing.assert_close(found[0], found[1])
    weights = getattr(stacks[0].layers[0], RECURRENT_WEIGHTS)
    dropped = weights.grad == 0
    assert 0.3 < float(dropped.float().mean()) < 0.7
    by_hand = RecurrentStack(5, 7, Variant(cell))
    by_hand.load_state_dict(stacks[0].state_dict())
    with torch.no_grad():
        getattr(by_hand.layers[0], RECURRENT_WEIGHTS).mul_(2).masked_fill_(dropped, 0)
    outputs, _ = by_hand(inputs, lengths=lengths)
    if cell != "rnn_relu":  # a unit that never fires has no gradient either
        torch.testing.assert_close(outputs * inside[..., None], found[0])
    assert torch.equal(stacks[0].eval()(inputs)[0], stacks[0](inputs)[0])


@pytest.mark.parametrize("problem", [LanguageModel(bptt=4), NextWord(window=2), Seq2Seq()])
def test_label_smoothing_is_torchs_and_the_loss_is_told_without_it(problem: Problem) -> None:
    model, batch = model_of(problem, label_smoothing=0.2), first_batch(problem)
    mean, loss, _ = model.objective(batch, None)
    features, _ = model.features(batch, None)
    logits = model.logits(features)
    wanted = functional.cross_entropy(
        logits, batch.targets, ignore_index=PAD, label_smoothing=0.2, reduction="sum"
    )
    assert mean.item() == pytest.approx(wanted.item() / batch.num_targets, rel=1e-5)
    plain = functional.cross_entropy(logits, batch.targets, ignore_index=PAD, reduction="sum")
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    parameters = [model.head.output.weight, model.head.output.bias]
    ours = torch.autograd.grad(mean, parameters)
    theirs = torch.autograd.grad(wanted / batch.num_targets, parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("problem", "num_scored", "num_steps"),
    [
        (LanguageModel(bptt=4), None, None),
        (NextWord(window=3), None, None),
        # A batch has its rows by rising length; what is read or written ends with <eos>.
        (Seq2Seq(), [4, 6, 7], [4, 6, 7]),
        (Seq2Seq(input_feeding=True), [4, 6, 7], [4, 6, 7]),
        (Classification(), None, [4, 6, 7]),
        (Tagging(), [3, 5, 6], [3, 5, 6]),
    ],
)
def test_penalties_are_mean_squares_of_activations_and_of_their_changes(
    problem: Problem, num_scored: list[int] | None, num_steps: list[int] | None
) -> None:
    variant = "gru-attention" if problem.name == "seq2seq" else "gru"
    batch = first_batch(problem)
    plain, _, _ = model_of(problem, variant).objective(batch, None)
    model = model_of(problem, variant, activation_penalty=2.0, temporal_penalty=3.0)
    seen: dict[str, list[torch.Tensor]] = {"outputs": [], "features": []}
    model.last_stack.register_forward_hook(lambda _, __, out: seen["outputs"].append(out[0]))
    model.head.dropout.register_forward_hook(lambda _, __, out: seen["features"].append(out))

    def mean(values: torch.Tensor, lengths: list[int] | None, fewer: int = 0) -> torch.Tensor:
        """The mean over the columns of their means over what is no padding."""
        columns = values.reshape(-1, batch.num_columns, values.shape[-1]).unbind(1)
        if lengths is None:
            return torch.stack([column.mean() for column in columns]).mean()
        ends = [length - fewer for length in lengths]
        return torch.stack(
            [column[:end].mean() for column, end in zip(columns, ends, strict=True)]
        ).mean()

    for _ in range(2):
        for parts in seen.values():
            parts.clear()
        objective, loss, _ = model.objective(batch, None)
        outputs = torch.cat(seen["outputs"])
        wanted = 2 * mean(seen["features"][-1].square(), num_scored)
        wanted = wanted + 3 * mean((outputs[1:] - outputs[:-1]).square(), num_steps, fewer=1)
        assert (objective - plain).item() == pytest.approx(wanted.item(), rel=1e-4)
        assert loss.item() / batch.num_targets == pytest.approx(plain.item(), rel=1e-5)


def test_nothing_is_disturbed_once_training_is_over() -> None:
    everything = {
        "locked_dropout": True,
        "embedding_dropout": 0.3,
        "word_dropout": 0.3,
        "weight_drop": 0.3,
        "label_smoothing": 0.3,
        "activation_penalty": 2.0,
        "temporal_penalty": 1.0,
    }
    problem = LanguageModel(bptt=4)
    batch = first_batch(problem)
    plain = model_of(problem, "lstm-2", 0.5).eval()
    disturbed = model_of(problem, "lstm-2", 0.5, **everything)
    assert not torch.equal(disturbed.features(batch, None)[0], plain.features(batch, None)[0])
    disturbed.eval()
    assert torch.equal(disturbed.features(batch, None)[0], plain.features(batch, None)[0])
    assert disturbed.state_dict().keys() == plain.state_dict().keys()


ALL_AT_ONCE = RegularisationConfig(True, 0.1, 0.1, 0.2, 0.1, 2.0, 1.0)


@pytest.mark.parametrize(
    ("problem", "variant"),
    [
        *itertools.product(
            [LanguageModel(bptt=4)], ["rnn_tanh", "rnn_relu-textbook", "gru-2", "lstm-textbook"]
        ),
        *itertools.product([NextWord(window=3)], ["birnn_relu", "bigru_cho-2-textbook", "bilstm"]),
        *itertools.product(
            [Seq2Seq(), Seq2Seq(input_feeding=True), Seq2Seq(teacher_forcing=0.5)],
            ["bilstm-2-attention", "gru_cho-textbook-attention", "rnn_tanh-attention"],
        ),
    ],
)
def test_all_of_it_at_once_trains_an_epoch(problem: Problem, variant: str) -> None:
    examples = examples_of(problem)
    fitted = fit(
        problem,
        Variant.parse(variant),
        NetworkConfig(6, 7, 0.2),
        TrainingConfig(num_epochs=2, batch_size=2, learning_rate=0.005),
        examples,
        examples,
        [V] * len(problem.columns),
        device=torch.device("cpu"),
        regularisation=ALL_AT_ONCE,
    )
    losses = [record["metrics"]["valid/loss"] for record in fitted.history]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"embedding_dropout": 1.0},
        {"word_dropout": -0.1},
        {"weight_drop": 1.5},
        {"label_smoothing": float("nan")},
        {"activation_penalty": -1.0},
        {"temporal_penalty": float("inf")},
    ],
)
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"regularisation.{next(iter(settings))}"):
        RegularisationConfig(**settings)  # type: ignore[arg-type]


def test_what_has_nothing_to_act_on_is_refused() -> None:
    with pytest.raises(InputError, match=r"label_smoothing.*forecasting.*locked_dropout"):
        check_settings(
            Forecasting(),
            Variant.parse("gru"),
            NetworkConfig(),
            RegularisationConfig(label_smoothing=0.1),
        )
    locked = RegularisationConfig(locked_dropout=True)
    check_settings(Forecasting(), Variant.parse("gru"), NetworkConfig(), locked)


def test_layer_norm_is_refused_where_a_fused_kernel_runs() -> None:
    network, nothing = NetworkConfig(layer_norm=True), RegularisationConfig()
    with pytest.raises(InputError, match="name the variant bigru-2-textbook"):
        check_settings(NextWord(), Variant.parse("bigru-2"), network, nothing)
    check_settings(NextWord(), Variant.parse("bigru-2-textbook"), network, nothing)


def test_an_adaptive_softmax_has_nothing_to_smooth() -> None:
    network = NetworkConfig(output="adaptive", cutoffs=(5,))
    with pytest.raises(InputError, match="set one of them back"):
        check_settings(
            NextWord(), Variant.parse("gru"), network, RegularisationConfig(label_smoothing=0.1)
        )
