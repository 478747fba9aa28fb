"""Every problem: what its batches hold, that its scores are right, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.networks.recurrent import CELLS, KERNELS, NetworkConfig, Variant
from pipeline.networks.words import word_embedding
from pipeline.problems import (
    PROBLEMS,
    Classification,
    Forecasting,
    LanguageModel,
    NextWord,
    Problem,
    Seq2Seq,
    Tagging,
)
from pipeline.problems.batches import Batches, Examples
from pipeline.problems.forecasting.problem import Forecaster, score_values
from pipeline.problems.models import TokenModel
from pipeline.problems.ragged import Ragged
from pipeline.problems.seq2seq.problem import EXTRA_WORDS, Attention, EncoderDecoder, Memory
from pipeline.problems.token_scores import UNRANKED, score_tokens
from pipeline.text.vocabulary import BOS, EOS, PAD, UNK
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit, mean_loss

CPU = torch.device("cpu")
VOCABULARY = 12
SMALL = NetworkConfig(6, 7, 0.0)
ADAPTIVE = NetworkConfig(6, 7, 0.0, output="adaptive", cutoffs=(5, 8))

texts = st.lists(st.lists(st.integers(4, VOCABULARY - 1), max_size=9), min_size=1, max_size=7)


def examples_of(rows: list[list[int]], problem: Problem) -> Examples:
    ragged = Ragged.of(rows)
    zeros = np.zeros(len(ragged.values))
    if isinstance(problem, Forecasting):
        series = Ragged(ragged.values.astype(np.float64), ragged.offsets)
        return Examples(series, series, scales=np.ones(len(rows)))
    if isinstance(problem, Classification):
        return Examples(ragged, Ragged.of([[4 + sum(row) % 2] for row in rows]))
    if isinstance(problem, Tagging):
        return Examples(ragged, Ragged.of([[15 - word for word in row] for row in rows]))
    if len(problem.columns) == 2:
        return Examples(Ragged.of([row[::-1] for row in rows]), ragged, zeros + 1, zeros)
    return Examples(ragged, None, zeros + 1, zeros)


def random_rows(num_rows: int, seed: int, length: int = 9) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(4, VOCABULARY, generator.integers(length - 3, length + 1)).tolist()
        for _ in range(num_rows)
    ]


def seen_targets(batches: Batches) -> list[tuple[int, int]]:
    """(row, position) of every scored target; -1 is the end of a row."""
    found = []
    for batch in batches:
        real = (batch.targets != PAD).numpy()
        assert int(real.sum()) == batch.num_targets
        found += list(zip(batch.rows[real].tolist(), batch.positions[real].tolist(), strict=True))
    return found


def wanted_targets(rows: list[list[int]], with_end: bool) -> list[tuple[int, int]]:
    wanted, start = [], 0
    for row, ids in enumerate(rows):
        wanted += [(row, start + place) for place in range(len(ids))]
        wanted += [(row, -1)] if with_end else []
        start += len(ids)
    return sorted(wanted)


@given(texts, st.integers(1, 5), st.sampled_from(["language_model", "next_word", "seq2seq"]))
def test_scoring_meets_every_target_exactly_once(
    rows: list[list[int]], batch_size: int, name: str
) -> None:
    problem = PROBLEMS[name]()
    batches = problem.scoring_batches(examples_of(rows, problem), batch_size)
    assert sorted(seen_targets(batches)) == wanted_targets(rows, name != "next_word")


@given(texts, st.integers(1, 5), st.integers(0, 9))
def test_training_meets_every_target_of_every_usable_row_once(
    rows: list[list[int]], batch_size: int, seed: int
) -> None:
    for problem in (NextWord(), Seq2Seq()):
        examples = examples_of(rows, problem)
        batches = problem.training_batches(examples, batch_size, np.random.default_rng(seed))
        wanted = wanted_targets(rows, with_end=(len(problem.columns) == 2))
        empty = {row for row, ids in enumerate(rows) if not ids and (len(problem.columns) == 2)}
        assert sorted(seen_targets(batches)) == [one for one in wanted if one[0] not in empty]


def test_a_stream_gives_each_token_the_one_before_it() -> None:
    rows = [[4, 5, 6], [], [7]]
    problem = LanguageModel(bptt=2, scoring_streams=1)
    batches = problem.scoring_batches(examples_of(rows, problem), 99)
    inputs = torch.cat([batch.inputs[0] for batch in batches]).flatten().tolist()
    targets = torch.cat([batch.targets for batch in batches]).tolist()
    assert targets == [4, 5, 6, EOS, EOS, 7, EOS]
    assert inputs == [EOS, *targets[:-1]]


@given(texts, st.integers(1, 5), st.integers(1, 9), st.integers(0, 9))
def test_a_random_partition_meets_every_target_behind_its_offset_once(
    rows: list[list[int]], batch_size: int, bptt: int, seed: int
) -> None:
    problem = LanguageModel(bptt=bptt, partition="random", carry_hidden=False)
    examples = examples_of(rows, problem)
    batches = problem.training_batches(examples, batch_size, np.random.default_rng(seed))
    seen, wanted = seen_targets(batches), wanted_targets(rows, with_end=True)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(wanted)
    assert len(wanted) - len(seen) < bptt
    for batch in batches:
        assert batch.inputs[0].shape[0] <= bptt
        assert batch.inputs[0].shape[1] <= batch_size
        assert not batch.carries_hidden
        assert batch.num_targets > 0


def test_pieces_come_in_another_order_each_time() -> None:
    problem = LanguageModel(bptt=3, partition="random", carry_hidden=False)
    examples = examples_of([list(range(4, 12)) * 4], problem)

    def firsts(seed: int) -> list[int]:
        batches = problem.training_batches(examples, 2, np.random.default_rng(seed))
        return [int(batch.positions[0]) for batch in batches]

    assert firsts(1) != sorted(firsts(1))
    assert firsts(1) != firsts(2)


@given(texts, st.integers(1, 5), st.integers(1, 40), st.integers(0, 9))
def test_varied_lengths_cut_the_same_streams(
    rows: list[list[int]], batch_size: int, bptt: int, seed: int
) -> None:
    def joined(varies: bool) -> tuple[list[int], list[float]]:
        problem = LanguageModel(bptt=bptt, bptt_varies=varies)
        batches = problem.training_batches(
            examples_of(rows, problem), batch_size, np.random.default_rng(seed)
        )
        columns = torch.cat([batch.inputs[0] for batch in batches])
        return columns.flatten().tolist(), [
            batch.rate * bptt - len(batch.inputs[0]) for batch in batches
        ]

    ids, excess = joined(varies=True)
    assert ids == joined(varies=False)[0]
    assert excess == pytest.approx([0.0] * len(excess), abs=1e-9)


def test_lengths_vary_as_the_paper_says() -> None:
    problem = LanguageModel(bptt=70, bptt_varies=True)
    examples = examples_of([[4] * 70_000], problem)
    batches = problem.training_batches(examples, 1, np.random.default_rng(0))
    lengths = np.array([len(batch.inputs[0]) for batch in batches])[:-1]
    short = lengths < 52
    assert short.mean() == pytest.approx(0.05, abs=0.03)
    assert lengths[~short].mean() == pytest.approx(70, abs=1)
    assert lengths[~short].std() == pytest.approx(5, abs=0.6)


def test_a_window_ends_before_its_word_and_begins_with_bos_where_the_text_does() -> None:
    problem = NextWord(window=3)
    batches = problem.training_batches(
        examples_of([[4, 5, 6, 7, 8]], problem), 99, np.random.default_rng(0)
    )
    (batch,) = list(batches)
    windows = dict(zip(batch.targets.tolist(), batch.inputs[0].T.tolist(), strict=True))
    assert windows == {
        4: [BOS, BOS, BOS],
        5: [BOS, BOS, 4],
        6: [BOS, 4, 5],
        7: [4, 5, 6],
        8: [5, 6, 7],
    }


def test_a_pair_is_closed_shifted_and_padded() -> None:
    problem = Seq2Seq()
    examples = Examples(Ragged.of([[4, 5], [6]]), Ragged.of([[7], [8, 9]]))
    (batch,) = list(problem.scoring_batches(examples, 2))
    source, lengths, shifted = batch.inputs
    assert source.T.tolist() == [[4, 5, EOS], [6, EOS, PAD]]
    assert lengths.tolist() == [3, 2]
    assert shifted.T.tolist() == [[BOS, 7, PAD], [BOS, 8, 9]]
    assert batch.targets.reshape(3, 2).T.tolist() == [[7, EOS, PAD], [8, 9, EOS]]


def test_pairs_too_long_to_train_on_are_left_out_and_scored_all_the_same() -> None:
    problem = Seq2Seq(max_tokens=2)
    examples = examples_of([[4, 5], [4, 5, 6]], problem)
    assert {row for row, _ in seen_targets(problem.scoring_batches(examples, 9))} == {0, 1}
    trained = problem.training_batches(examples, 9, np.random.default_rng(0))
    assert {row for row, _ in seen_targets(trained)} == {0}


def test_how_long_a_target_may_be_is_learnt_from_pairs() -> None:
    sources = [[4] * length for length in (1, 2, 3, 4) * 500]
    twice = [[5] * (2 * len(source) + EXTRA_WORDS) for source in sources]
    problem = Seq2Seq(max_tokens=40)
    assert problem.length_ratio(Examples(Ragged.of(sources), Ragged.of(twice))) == 2
    # One of two thousand is no rule, and a pair that is not trained on counts for nothing.
    odd = Examples(
        Ragged.of([*sources, [4], [], [4]]), Ragged.of([*twice, [5] * 30, [5] * 9, [5] * 41])
    )
    assert problem.length_ratio(odd) == 2
    short = Examples(Ragged.of(sources), Ragged.of([[5]] * len(sources)))
    assert problem.length_ratio(short) == 0


def test_attention_weighs_states_before_or_after_its_output_weights() -> None:
    torch.manual_seed(0)
    attention = Attention("dot", 6, 4)
    states, queries = torch.randn(2, 5, 6), torch.randn(2, 3, 4)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    keys, values = attention.keys_and_values(states)
    memory = Memory(states[:, 0], keys, values, mask)
    contexts = attention.weights(queries, memory) @ states
    wanted = torch.tanh(attention.combine(torch.cat((contexts, queries), dim=-1)))
    assert torch.allclose(attention(queries, memory), wanted, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["dot", "additive"])
@pytest.mark.parametrize("sizes", [(256, 256), (64, 64), (512, 256)])
def test_attention_begins_with_features_as_large_as_its_queries(
    kind: str, sizes: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    key_size, query_size = sizes
    attention = Attention(kind, key_size, query_size)
    states, queries = 0.1 * torch.randn(32, 8, key_size), 0.1 * torch.randn(32, 4, query_size)
    mask = torch.zeros(32, 8, dtype=torch.bool)
    memory = Memory(states[:, 0], *attention.keys_and_values(states), mask)
    features = attention(queries, memory)
    assert 0.9 < float(features.std() / queries.std()) < 1.6


def test_pairs_are_batched_with_little_padding_on_either_side() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 20, 3000)
    others = lengths + generator.integers(-3, 4, 3000)
    rows = [[4] * length for length in lengths.tolist()]
    sources = [[5] * length for length in others.tolist()]
    problem = Seq2Seq()
    examples = Examples(Ragged.of(sources), Ragged.of(rows))
    batches = problem.training_batches(examples, 16, generator)
    read = sum(batch.inputs[0].numel() for batch in batches)
    predicted = sum(batch.targets.numel() for batch in batches)
    assert read < 1.1 * sum(len(row) + 1 for row in sources)
    assert predicted < 1.1 * sum(len(row) + 1 for row in rows)


def test_a_very_long_pair_is_scored_in_a_batch_of_its_own() -> None:
    problem = Seq2Seq(max_tokens=10)
    examples = examples_of([[4, 5, 6]] * 20 + [[4] * 300], problem)
    sizes = [batch.targets.numel() for batch in problem.scoring_batches(examples, 16)]
    assert max(sizes) <= max(301, 16 * 11)


def legitimate(problem: Problem, variant: Variant) -> bool:
    try:
        problem.check(variant)
    except InputError:
        return False
    return True


ALL_VARIANTS = [
    Variant(cell, num_layers, bidirectional, kernel, attention)
    for cell, num_layers, bidirectional, kernel, attention in itertools.product(
        CELLS, (1, 2), (False, True), KERNELS, (False, True)
    )
    if not (kernel == "torch" and CELLS[cell].kernel is None)
]
LEGITIMATE = [
    (name, variant)
    for name, variant in itertools.product(PROBLEMS, ALL_VARIANTS)
    if legitimate(PROBLEMS[name](), variant)
]


def test_what_is_refused_is_what_makes_no_sense() -> None:
    refused = {
        (name, variant.bidirectional, variant.attention)
        for name, variant in itertools.product(PROBLEMS, ALL_VARIANTS)
        if (name, variant) not in LEGITIMATE
    }
    assert refused == {
        ("language_model", False, True),
        ("language_model", True, False),
        ("language_model", True, True),
        ("next_word", False, True),
        ("next_word", True, True),
        *(
            (name, bi, True)
            for name in ("classification", "forecasting", "tagging")
            for bi in (False, True)
        ),
    }


@pytest.mark.parametrize(
    ("name", "variant"), LEGITIMATE, ids=[f"{name}-{variant.name}" for name, variant in LEGITIMATE]
)
def test_every_legitimate_combination_trains_an_epoch(name: str, variant: Variant) -> None:
    problem = Forecasting(window=4) if name == "forecasting" else PROBLEMS[name]()
    examples = examples_of([[4, 5, 6, 7, 8, 9, 10, 4, 5]] * 12, problem)
    fitted = fit(
        problem,
        variant,
        SMALL,
        TrainingConfig(num_epochs=2, batch_size=4, learning_rate=0.01),
        examples,
        examples,
        [VOCABULARY, VOCABULARY] if (len(problem.columns) == 2) else [VOCABULARY],
        device=CPU,
    )
    losses = [record["metrics"]["train/loss"] for record in fitted.history]
    assert losses[1] < losses[0]


def test_the_reason_is_given_for_a_bidirectional_language_model() -> None:
    with pytest.raises(InputError, match="reads the word that it is asked for"):
        LanguageModel().check(Variant.parse("bilstm"))


def test_the_reason_is_given_for_attention_without_a_source() -> None:
    with pytest.raises(InputError, match="only seq2seq has one"):
        NextWord().check(Variant.parse("lstm-attention"))


@pytest.mark.parametrize(
    ("problem", "settings"),
    [
        (NextWord, {"window": 0}),
        (LanguageModel, {"bptt": 0}),
        (LanguageModel, {"scoring_streams": 0}),
        (Seq2Seq, {"max_tokens": 0}),
        (Seq2Seq, {"attention": "self"}),
        (Seq2Seq, {"context": "last"}),
        (Seq2Seq, {"teacher_forcing": 1.5}),
        (Seq2Seq, {"teacher_forcing_schedule": "cosine"}),
        (Seq2Seq, {"teacher_forcing_steps": 0}),
        (LanguageModel, {"partition": "shuffled"}),
        (LanguageModel, {"carry_hidden": True, "partition": "random"}),
        (LanguageModel, {"bptt_varies": True, "carry_hidden": False, "partition": "random"}),
        (Classification, {"pooling": "first"}),
        (Classification, {"max_tokens": 0}),
        (Tagging, {"max_tokens": 0}),
        (Forecasting, {"horizon": 0}),
        (Forecasting, {"difference": 25}),
    ],
)
def test_settings_are_checked(problem: type[Problem], settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        problem(**settings)  # type: ignore[arg-type]


def models() -> list[tuple[Problem, Variant]]:
    return [
        (LanguageModel(bptt=4, scoring_streams=3), Variant.parse("lstm-2")),
        (NextWord(window=3), Variant.parse("bigru")),
        (Seq2Seq(), Variant.parse("bilstm-attention")),
        (Seq2Seq(attention="additive"), Variant.parse("gru-attention")),
        (Classification(pooling="mean"), Variant.parse("bilstm")),
        (Classification(pooling="max"), Variant.parse("gru-2")),
        (Tagging(), Variant.parse("bilstm")),
    ]


def built(problem: Problem, variant: Variant) -> TokenModel:
    torch.manual_seed(4)
    model = problem.build(variant, SMALL, [VOCABULARY] * (2 if (len(problem.columns) == 2) else 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


@pytest.mark.parametrize(("problem", "variant"), models())
def test_perplexity_is_what_summing_log_probabilities_in_float64_gives(
    problem: Problem, variant: Variant
) -> None:
    examples = examples_of(random_rows(40, 3), problem)
    model = built(problem, variant)
    mean = mean_loss(problem, model, examples, 7, CPU)
    scored = score_tokens(problem, model, examples, 7, CPU)

    reference = model.double()
    total, num_tokens, hidden = 0.0, 0, None
    with torch.inference_mode():
        for batch in problem.scoring_batches(examples, 7):
            features, hidden = reference.features(batch, hidden)
            log_probabilities = torch.log(torch.softmax(reference.head.output(features), -1))
            for row, target in zip(log_probabilities, batch.targets.tolist(), strict=True):
                if target != PAD:
                    total -= float(row[target])
                    num_tokens += 1
    assert math.exp(mean) == pytest.approx(math.exp(total / num_tokens), rel=1e-6)
    assert scored.nats.sum() / len(scored.nats) == pytest.approx(total / num_tokens, rel=1e-6)


@pytest.mark.parametrize(("problem", "variant"), models())
def test_a_uniform_model_has_a_perplexity_of_exactly_v(problem: Problem, variant: Variant) -> None:
    examples = examples_of(random_rows(20, 5), problem)
    model = built(problem, variant)
    with torch.no_grad():
        model.head.output.weight.zero_()
        model.head.output.bias.zero_()
    scored = score_tokens(problem, model, examples, 7, CPU)
    assert math.exp(float(scored.nats.mean())) == pytest.approx(VOCABULARY, rel=1e-6)


@pytest.mark.parametrize(
    ("problem", "variant"),
    [
        (LanguageModel(), Variant.parse("lstm")),
        (NextWord(window=3), Variant.parse("gru")),
        (NextWord(window=3), Variant.parse("bilstm")),
        (Seq2Seq(), Variant.parse("bigru-attention")),
    ],
)
def test_nothing_is_learnt_from_random_tokens(problem: Problem, variant: Variant) -> None:
    """A model that saw its own answer would score far below the number of words."""
    num_words = VOCABULARY - 4

    def drawn(num_rows: int, seed: int) -> Examples:
        generator = np.random.default_rng(seed)
        rows = generator.integers(4, VOCABULARY, (num_rows, 8)).tolist()
        examples = examples_of(rows, problem)
        if len(problem.columns) != 2:
            return examples
        sources = generator.integers(4, VOCABULARY, (num_rows, 8)).tolist()
        return Examples(Ragged.of(sources), examples.targets)

    fitted = fit(
        problem,
        variant,
        NetworkConfig(8, 16, 0.0),
        TrainingConfig(num_epochs=4, batch_size=32, learning_rate=0.01, patience=None),
        drawn(300, 1),
        drawn(100, 2),
        [VOCABULARY] * (2 if (len(problem.columns) == 2) else 1),
        device=CPU,
    )
    model = problem.build(variant, NetworkConfig(8, 16, 0.0), [VOCABULARY] * 2)
    model.load_state_dict(fitted.weights)
    scored = score_tokens(problem, model, drawn(300, 3), 64, CPU)
    nats = scored.nats[scored.positions >= 0]
    noise = 3 * nats.std() / math.sqrt(len(nats))
    assert nats.mean() > math.log(num_words) - noise


def test_ranks_leave_out_specials_and_never_find_an_unknown_word() -> None:
    model = built(NextWord(window=1), Variant("gru"))
    with torch.no_grad():
        model.head.output.weight.zero_()
        model.head.output.bias.copy_(torch.arange(VOCABULARY, 0, -1.0))
    rows = [[target] for target in (UNK, 4, 5, 11)]
    problem = NextWord(window=1)
    scored = score_tokens(problem, model, examples_of(rows, problem), 9, CPU)
    assert scored.ranks.tolist() == [UNRANKED, 0, 1, 7]
    with torch.no_grad():
        model.head.output.bias.fill_(torch.nan)
    scored = score_tokens(problem, model, examples_of(rows, problem), 9, CPU)
    assert scored.ranks.tolist() == [UNRANKED] * 4


def test_equally_likely_words_share_their_places() -> None:
    model = built(NextWord(window=1), Variant("gru"))
    with torch.no_grad():
        model.head.output.weight.zero_()
        model.head.output.bias.zero_()
    problem = NextWord(window=1)
    scored = score_tokens(problem, model, examples_of([[5]], problem), 9, CPU)
    assert scored.ranks.tolist() == [(VOCABULARY - 4) // 2]


def test_the_reason_is_given_for_feeding_what_no_attention_made() -> None:
    with pytest.raises(InputError, match="name the variant bigru-attention"):
        Seq2Seq(input_feeding=True).check(Variant.parse("bigru"))


CHAPTERS: list[tuple[Problem, str, NetworkConfig]] = [
    (LanguageModel(bptt=4), "lstm", NetworkConfig(6, 7, 0.0, embedding="one_hot")),
    (NextWord(window=3), "bigru", NetworkConfig(6, 7, 0.0, embedding="one_hot")),
    (Seq2Seq(), "gru-attention", NetworkConfig(6, 7, 0.0, embedding="one_hot")),
    (Classification(), "bilstm", NetworkConfig(6, 7, 0.0, embedding="one_hot")),
    (Tagging(), "birnn_tanh", NetworkConfig(6, 7, 0.0, embedding="one_hot")),
    *(
        (problem, f"{cell}-textbook", NetworkConfig(6, 7, 0.0, layer_norm=True))
        for problem, cell in [
            (LanguageModel(bptt=4), "rnn_tanh"),
            (LanguageModel(bptt=4), "gru-2"),
            (NextWord(window=3), "birnn_relu"),
            (Seq2Seq(), "bilstm"),
            (Classification(), "bigru_cho"),
            (Tagging(), "bilstm-2"),
        ]
    ),
    (LanguageModel(bptt=4, partition="random", carry_hidden=False), "gru", SMALL),
    (LanguageModel(bptt=6, bptt_varies=True), "lstm", SMALL),
    (Seq2Seq(context="first"), "bilstm", SMALL),
    (Seq2Seq(context="first"), "gru-attention", SMALL),
    *(
        (Seq2Seq(attention=kind, input_feeding=True, context=context), variant, SMALL)
        for kind, context, variant in [
            ("dot", "every", "bigru-2-attention"),
            ("additive", "first", "lstm-attention"),
            ("dot", "first", "rnn_relu-textbook-attention"),
        ]
    ),
    (Seq2Seq(teacher_forcing=0.5), "gru", SMALL),
    (Seq2Seq(teacher_forcing=0.5), "gru", ADAPTIVE),
    (LanguageModel(bptt=4), "lstm-2", ADAPTIVE),
    (NextWord(window=3), "bigru", ADAPTIVE),
    (
        Seq2Seq(teacher_forcing_schedule="linear", teacher_forcing_steps=3),
        "bilstm-attention",
        SMALL,
    ),
]


@pytest.mark.parametrize(
    ("problem", "variant", "network"), CHAPTERS, ids=[str(index) for index in range(len(CHAPTERS))]
)
def test_every_idea_of_the_chapters_trains_an_epoch(
    problem: Problem, variant: str, network: NetworkConfig
) -> None:
    examples = examples_of([[4, 5, 6, 7, 8, 9, 10, 4, 5]] * 12, problem)
    fitted = fit(
        problem,
        Variant.parse(variant),
        network,
        TrainingConfig(num_epochs=2, batch_size=4, learning_rate=0.01),
        examples,
        examples,
        [VOCABULARY] * len(problem.columns),
        device=CPU,
    )
    losses = [record["metrics"]["valid/loss"] for record in fitted.history]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "problem",
    [
        LanguageModel(bptt=4),
        LanguageModel(bptt=4, bptt_varies=True),
        LanguageModel(bptt=4, partition="random", carry_hidden=False),
        NextWord(window=3),
        Seq2Seq(),
        Classification(max_tokens=6),
        Tagging(),
        Forecasting(window=5, horizon=3),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_made_on_a_device_are_those_of_the_host(problem: Problem, batch_size: int) -> None:
    examples = ragged_examples(problem)
    there = problem.resident(examples, CPU)
    for made in ("training_batches", "scoring_batches"):
        arguments = [[batch_size], [batch_size]]
        if made == "training_batches":
            arguments = [[batch_size, np.random.default_rng(3)] for _ in range(2)]
        ours = getattr(problem, made)(there, *arguments[0])
        theirs = getattr(problem, made)(examples, *arguments[1])
        assert len(ours) == len(theirs) > 0
        for index in range(len(theirs)):
            our, their = ours[index], theirs[index]
            assert len(our.inputs) == len(their.inputs)
            for mine, wanted in zip(
                (*our.inputs, our.targets), (*their.inputs, their.targets), strict=True
            ):
                assert mine.dtype == wanted.dtype
                assert torch.equal(mine, wanted)
            for name in ("num_targets", "carries_hidden", "rate"):
                assert getattr(our, name) == getattr(their, name)
    assert not [each for each in (there.inputs, there.targets) if each and not each.resident]


def ragged_examples(problem: Problem) -> Examples:
    """Rows of many lengths that begin somewhere in their arrays, one of them empty."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(1, 12, 20)
    if problem.name in ("next_word", "language_model"):
        lengths[[0, 7]] = 0
    if problem.name == "forecasting":
        lengths = lengths + 8

    def side(lengths: np.ndarray) -> Ragged:
        offsets = 3 + np.concatenate(([0], np.cumsum(lengths)))
        values = generator.integers(4, VOCABULARY, offsets[-1] + 2)
        if problem.name == "forecasting":
            return Ragged(values.astype(np.float64), offsets)
        values = values.astype(np.int32)
        values.flags.writeable = False
        return Ragged(values, offsets)

    targets = {
        "seq2seq": generator.integers(0, 12, len(lengths)),
        "classification": np.ones(len(lengths), np.int64),
        "tagging": lengths,
        "forecasting": generator.integers(1, 6, len(lengths)),
    }.get(problem.name)
    return Examples(side(lengths), None if targets is None else side(targets))


@pytest.mark.parametrize("problem", [LanguageModel(bptt=4), NextWord(window=3), Seq2Seq()])
def test_an_adaptive_softmax_scores_what_it_learns(problem: Problem) -> None:
    """Validation, which computes groups where they are meant, agrees with scores of all words."""
    torch.manual_seed(0)
    sizes = [VOCABULARY] * len(problem.columns)
    model = problem.build(Variant("gru"), ADAPTIVE, sizes)
    assert isinstance(model, TokenModel)
    examples = examples_of([[4, 5, 6, 7, 8, 9, 10, 4, 5], [9, 10, 4]], problem)
    scored = score_tokens(problem, model, examples, 4, CPU)
    assert scored.nats.mean() == pytest.approx(mean_loss(problem, model, examples, 4, CPU))
    assert scored.ranks.max() < VOCABULARY


@pytest.mark.parametrize("problem", [Classification(), Tagging(), Forecasting()])
def test_an_adaptive_softmax_is_refused_where_no_words_are_scored(problem: Problem) -> None:
    with pytest.raises(InputError, match=r"set network.output=full"):
        problem.check_network(ADAPTIVE)


def test_one_hot_tokens_are_rows_of_the_identity() -> None:
    embedding = word_embedding(5, NetworkConfig(embedding="one_hot"))
    assert embedding.size == 5
    assert torch.equal(embedding(torch.arange(5)[None])[0], torch.eye(5))
    assert not list(embedding.parameters())
    assert not embedding.state_dict()


@pytest.mark.parametrize(
    ("problem", "variant"),
    [
        (Seq2Seq(), "bilstm-2-attention"),
        (Seq2Seq(context="first"), "gru"),
        (Seq2Seq(input_feeding=True), "bilstm-2-attention"),
        (Seq2Seq(input_feeding=True, context="first", attention="additive"), "gru-attention"),
    ],
)
def test_search_steps_score_what_training_scores(problem: Seq2Seq, variant: str) -> None:
    """Fed the teacher's words one by one, the decoder of search gives the logits of training."""
    model = built(problem, Variant.parse(variant))
    assert isinstance(model, EncoderDecoder)
    (batch,) = list(problem.scoring_batches(examples_of([[4, 5, 6], [7, 8]], problem), 2))
    source, lengths, words = batch.inputs
    wanted = model.logits(model.features(batch, None)[0]).unflatten(0, words.shape)
    memory, hidden = model.encode(source, lengths)
    for step, read in enumerate(words):
        logits, hidden = model.step(read[:, None], hidden, memory)
        torch.testing.assert_close(logits[:, 0], wanted[step])


@pytest.mark.parametrize("variant", ["gru", "bilstm-2-attention"])
def test_word_by_word_and_at_once_are_the_same_where_the_teacher_has_every_word(
    variant: str,
) -> None:
    problem = Seq2Seq()
    model = built(problem, Variant.parse(variant))
    assert isinstance(model, EncoderDecoder)
    (batch,) = list(problem.scoring_batches(examples_of([[4, 5, 6], [7, 8]], problem), 2))
    source, lengths, words = batch.inputs
    memory, hidden = model.encode(source, lengths)
    torch.testing.assert_close(
        model._word_by_word(words, hidden, memory, 1.0), model.features(batch, None)[0]
    )


def test_without_a_teacher_the_decoder_reads_its_own_words() -> None:
    problem = Seq2Seq(teacher_forcing=0.0)
    model = built(problem, Variant.parse("gru")).train()
    assert isinstance(model, EncoderDecoder)
    (batch,) = list(problem.scoring_batches(examples_of([[4, 5, 6], [7, 8, 9]], problem), 2))
    source, lengths, words = batch.inputs
    found = model.logits(model.features(batch, None)[0]).unflatten(0, words.shape)
    memory, hidden = model.encode(source, lengths)
    read = words[0]
    for logits in found:
        wanted, hidden = model.step(read[:, None], hidden, memory)
        torch.testing.assert_close(logits, wanted[:, 0])
        read = logits.argmax(-1)


def test_the_share_of_the_teacher_falls_to_half_when_it_should() -> None:
    def shares(schedule: str, steps: int = 1000) -> list[float]:
        problem = Seq2Seq(
            teacher_forcing=0.8, teacher_forcing_schedule=schedule, teacher_forcing_steps=steps
        )
        return [problem.teacher_share(step) for step in (0, steps // 2, steps, 2 * steps, 10**7)]

    assert shares("constant") == [0.8] * 5
    assert shares("linear") == pytest.approx([0.8, 0.6, 0.4, 0, 0])
    assert shares("exponential") == pytest.approx([0.8, 0.8 * 0.5**0.5, 0.4, 0.2, 0])
    for steps in (3, 1000, 10**6):
        first, early, half, late, never = shares("inverse_sigmoid", steps)
        assert half == pytest.approx(0.4, rel=1e-6)
        assert first > early > half > late >= never
        assert first > 0.5
    assert shares("inverse_sigmoid", 10**6)[-1] < 1e-9


def test_weights_are_tied_through_a_projection() -> None:
    model = NextWord().build(Variant("gru"), NetworkConfig(4, 6, 0.0, tied=True), [VOCABULARY])
    assert model.head.output.weight is model.embedding.weight
    assert model.window_features(torch.zeros(5, 2, dtype=torch.int32)).shape == (2, 4)


@given(texts, st.integers(1, 5))
def test_every_label_is_met_exactly_once(rows: list[list[int]], batch_size: int) -> None:
    labels = Classification()
    batches = labels.scoring_batches(examples_of(rows, labels), batch_size)
    assert sorted(seen_targets(batches)) == [(row, row) for row in range(len(rows))]
    tags = Tagging(max_tokens=4)
    batches = tags.scoring_batches(examples_of(rows, tags), batch_size)
    assert sorted(seen_targets(batches)) == wanted_targets(rows, False)
    met = seen_targets(tags.training_batches(examples_of(rows, tags), 2, np.random.default_rng(0)))
    assert {row for row, _ in met} == {row for row, ids in enumerate(rows) if 0 < len(ids) <= 4}


@pytest.mark.parametrize("problem", [Classification(), Classification(pooling="max"), Tagging()])
@pytest.mark.parametrize("variant", ["lstm", "bigru"])
def test_what_a_batch_pads_changes_no_score(problem: Problem, variant: str) -> None:
    rows = [[4, 5, 6], [7], [8, 9, 10, 11, 4, 5, 6], [5, 5]]
    examples = examples_of(rows, problem)
    model = built(problem, Variant.parse(variant))
    together, alone = (score_tokens(problem, model, examples, size, CPU) for size in (4, 1))
    in_order = [np.argsort(scored.positions) for scored in (together, alone)]
    np.testing.assert_allclose(
        together.nats[in_order[0]], alone.nats[in_order[1]], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_classification_learns_what_only_the_first_word_says(pooling: str) -> None:
    generator = np.random.default_rng(3)
    rows = generator.integers(4, VOCABULARY, (200, 6))
    examples = Examples(
        Ragged.of(rows.tolist()), Ragged.of([[4 + word % 2] for word in rows[:, 0]])
    )
    # Its backward direction reads the first word last.
    problem, variant = Classification(pooling=pooling), Variant.parse("bigru")
    network = NetworkConfig(8, 16, 0.0)
    fitted = fit(
        problem,
        variant,
        network,
        TrainingConfig(num_epochs=25, batch_size=20, learning_rate=0.02, patience=None),
        examples,
        examples,
        [VOCABULARY, 6],
        device=CPU,
    )
    model = problem.build(variant, network, [VOCABULARY, 6])
    model.load_state_dict(fitted.weights)
    scored = score_tokens(problem, model, examples, 64, CPU)
    assert (scored.ranks == 0).mean() > 0.98


def test_tying_labels_to_words_is_refused() -> None:
    for problem in (Classification(), Tagging(), Forecasting()):
        with pytest.raises(InputError, match=r"network\.tied=false"):
            problem.check_network(NetworkConfig(4, 4, 0.0, tied=True))


class _Doubling(Forecaster):
    """Twice the last value, plus the first of the window: its forecasts can be told by hand."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return 2 * windows[-1] + windows[0]


def test_windows_stand_before_their_values_and_reach_back_into_training() -> None:
    values = np.arange(1.0, 11.0)
    examples = Examples(
        Ragged(np.concatenate((values, values[:4])), np.array([0, 10, 14])),
        Ragged(np.concatenate((values[7:], values[2:4])), np.array([0, 3, 5])),
        scales=np.ones(2),
    )
    problem = Forecasting(window=3, horizon=2)
    (batch,) = problem.scoring_batches(examples, 99)
    # The second series is too short to have a window before its third value.
    assert batch.inputs[0].T.tolist() == [[5, 6, 7], [6, 7, 8], [7, 8, 9], [1, 2, 3]]
    assert batch.targets.tolist() == [8, 9, 10, 4]
    assert batch.rows.tolist() == [0, 0, 0, 1]
    assert batch.positions.tolist() == [0, 1, 2, 4]

    one_step = score_values(problem, _Doubling(), examples, 2, CPU)
    np.testing.assert_array_equal(one_step, [19, 22, 25, np.nan, 7])
    recursive, ahead = problem.recursive_forecasts(_Doubling(), examples, CPU)
    # 8 and 9 are forecast from 5, 6, 7; 10 begins a new stretch.
    np.testing.assert_array_equal(recursive, [19, 2 * 19 + 6, 25, np.nan, np.nan])
    assert ahead.tolist() == [1, 2, 1, 1, 2]


@pytest.mark.parametrize("settings", [{}, {"difference": 4}, {"log": True, "difference": 1}])
def test_a_season_is_learnt_and_a_forecast_is_in_the_unit_of_the_series(
    settings: dict[str, object],
) -> None:
    values = np.tile([100.0, 300.0, 200.0, 400.0], 30)
    examples = Examples(
        Ragged(values, np.array([0, 120])), Ragged(values, np.array([0, 120])), scales=np.ones(1)
    )
    problem = Forecasting(window=8, **settings)  # type: ignore[arg-type]
    variant, network = Variant.parse("gru"), NetworkConfig(1, 16, 0.0)
    fitted = fit(
        problem,
        variant,
        network,
        TrainingConfig(num_epochs=60, batch_size=16, learning_rate=0.02, patience=None),
        examples,
        examples,
        [],
        device=CPU,
    )
    model = problem.build(variant, network, [])
    model.load_state_dict(fitted.weights)
    forecasts = score_values(problem, model, examples, 64, CPU)
    np.testing.assert_allclose(forecasts[8:], values[8:], rtol=0.05)


def test_logarithms_need_values_above_zero() -> None:
    values = np.array([1.0, 2.0, -3.0, 4.0])
    examples = Examples(Ragged(values, np.array([0, 4])), Ragged(values, np.array([0, 4])))
    with pytest.raises(InputError, match="above 0"):
        Forecasting(window=1, log=True).usable(examples, training=True)
