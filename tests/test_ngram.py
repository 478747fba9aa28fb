"""The n-gram model against the formulas of the paper, counted in dictionaries."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows.environment import SAMPLES
from pipeline.baselines.ngram import KneserNey, discounts
from pipeline.errors import InputError
from pipeline.text.vocabulary import BOS, EOS

V = 12


class Dictionaries:
    """Modified Kneser-Ney word by word: Chen and Goodman (1998), section 4.1.6."""

    def __init__(self, texts: Sequence[Sequence[int]], order: int, num_words: int) -> None:
        self.num_words = num_words
        seen: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 2)]
        for text in texts:
            for length in range(1, order + 1):
                for end in range(max(length, 2), len(text) + 1):
                    seen[length][tuple(text[end - length : end])] += 1
        self.counts: dict[tuple[int, ...], int] = {}
        for length in range(1, order + 1):
            for gram, count in seen[length].items():
                if length == order or gram[0] == BOS:
                    self.counts[gram] = count
                else:
                    self.counts[gram] = sum(longer[1:] == gram for longer in seen[length + 1])
        self.discounts = {
            length: self._discounts([c for g, c in self.counts.items() if len(g) == length])
            for length in range(1, order + 1)
        }
        self.followers: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for gram, count in self.counts.items():
            self.followers[gram[:-1]].append(count)

    @staticmethod
    def _discounts(counts: list[int]) -> list[float]:
        n = [sum(count == exactly for count in counts) for exactly in range(5)]
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            three = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
            if all(0 < three[i] <= i + 1 for i in range(3)):
                return [0.0, *three]
        return [0.0, 0.5, 1.0, 1.5]

    def probability(self, context: tuple[int, ...], word: int) -> float:
        by_count = self.discounts[len(context) + 1]
        shorter = self.probability(context[1:], word) if context else 1 / self.num_words
        total = sum(self.followers[context])
        if not total:
            return shorter
        count = self.counts.get((*context, word), 0)
        left = sum(by_count[min(each, 3)] for each in self.followers[context])
        return (count - by_count[min(count, 3)]) / total + left / total * shorter


def joined(texts: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    starts = [index == 0 for text in texts for index in range(len(text))]
    return np.array([word for text in texts for word in text], np.int32), np.array(starts)


def random_texts(seed: int, num_texts: int = 30, begin: int = BOS) -> list[list[int]]:
    """Texts with a skewed vocabulary, so that contexts repeat."""
    generator = np.random.default_rng(seed)
    return [
        [begin, *np.minimum(4 + generator.geometric(0.35, size), V - 1).tolist()]
        for size in generator.integers(1, 25, num_texts)
    ]


def contexts_of(texts: Sequence[Sequence[int]], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, targets = [], []
    for text in texts:
        for end in range(1, len(text)):
            before = [*[BOS] * size, *text[:end]]
            rows.append(before[len(before) - size :])
            targets.append(text[end])
    return torch.tensor(rows, dtype=torch.int32).reshape(len(rows), size), torch.tensor(targets)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("begin", [BOS, EOS])
def test_every_token_has_the_probability_of_the_paper(order: int, begin: int) -> None:
    training, unseen = random_texts(1, begin=begin), random_texts(2)
    model = KneserNey(order, V)
    model.estimate(*joined(training))
    plain = Dictionaries(training, order, V)
    contexts, targets = contexts_of([*unseen, *training[:3]], order - 1)
    expected = [
        math.log(plain.probability(tuple(context), target))
        for context, target in zip(contexts.tolist(), targets.tolist(), strict=True)
    ]
    found = model.log_probability(contexts, targets)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)
    rows = model(contexts)
    assert rows.gather(1, targets[:, None])[:, 0].numpy() == pytest.approx(expected, abs=1e-12)
    assert rows.exp().sum(1).numpy() == pytest.approx(1, abs=1e-12)


@settings(max_examples=60)
@given(
    texts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=8),
    order=st.integers(1, 5),
    context=st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_any_text_gives_a_distribution_over_all_words(
    texts: list[list[int]], order: int, context: list[int]
) -> None:
    training = [[BOS, *text] for text in texts]
    model = KneserNey(order, 7)
    model.estimate(*joined(training))
    plain = Dictionaries(training, order, 7)
    rows = torch.tensor([context])[:, 5 - order :]
    words = torch.arange(7)
    probabilities = model(rows)[0].exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    assert (probabilities > 0).all()
    assert probabilities.tolist() == pytest.approx(
        [plain.probability(tuple(rows[0].tolist()), word) for word in range(7)], abs=1e-12
    )
    alone = model.log_probability(rows.expand(7, -1), words)
    assert alone.exp().numpy() == pytest.approx(probabilities.numpy(), abs=1e-12)


def test_a_small_corpus_by_hand() -> None:
    # "a b", "a c": bigrams (<bos> a) 2, (a b) 1, (a c) 1; too few for discounts: 0.5, 1, 1.5.
    a, b, c = 4, 5, 6
    model = KneserNey(2, 7)
    model.estimate(*joined([[BOS, a, b], [BOS, a, c]]))
    # Each word stands behind one other word: (1 - 0.5) / 3 and half of the uniform distribution.
    single = 0.5 / 3 + 0.5 / 7
    found = model(torch.tensor([[BOS], [a], [c]])).exp()
    assert found[0, a].item() == pytest.approx(1 / 2 + 1 / 2 * single)
    assert found[1, b].item() == pytest.approx(0.5 / 2 + 1 / 2 * single)
    assert found[1, EOS].item() == pytest.approx(1 / 2 * 0.5 / 7)
    assert found[2, b].item() == pytest.approx(single), "c was never followed"


def test_discounts_are_chen_and_goodmans() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 12, 5, 3, 2])
    y = 40 / (40 + 24)
    assert discounts(counts).tolist() == pytest.approx(
        [0, 1 - 2 * y * 12 / 40, 2 - 3 * y * 5 / 12, 3 - 4 * y * 3 / 5]
    )


@pytest.mark.parametrize("repeats", [[5, 0, 3, 1], [0, 5, 5, 5], [1, 1, 50, 1]])
def test_discounts_that_are_undefined_or_out_of_range_fall_back(repeats: list[int]) -> None:
    assert discounts(np.repeat([1, 2, 3, 4], repeats)).tolist() == [0, 0.5, 1, 1.5]


def test_a_model_is_its_buffers() -> None:
    trained = KneserNey(4, V)
    trained.estimate(*joined(random_texts(3)))
    loaded = KneserNey(4, V)
    loaded.load_state_dict(trained.state_dict())
    contexts, _ = contexts_of(random_texts(4), 3)
    assert torch.equal(loaded(contexts), trained(contexts))
    assert not list(trained.parameters())


def test_estimating_anew_forgets_what_was_learnt() -> None:
    model, fresh = KneserNey(3, V), KneserNey(3, V)
    model.estimate(*joined(random_texts(5)))
    for each in (model, fresh):
        each.estimate(*joined(random_texts(6)))
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.state_dict().values(), fresh.state_dict().values())
    )


def test_before_it_has_learnt_every_word_is_as_likely() -> None:
    rows = KneserNey(3, 8)(torch.tensor([[1, 2]])).exp()
    assert rows.numpy() == pytest.approx(np.full((1, 8), 1 / 8))


def test_texts_shorter_than_the_order_are_enough() -> None:
    model = KneserNey(5, V)
    model.estimate(*joined([[BOS, 5], [BOS, 6]]))
    assert model(torch.tensor([[BOS] * 4])).exp().sum().item() == pytest.approx(1)


def test_an_order_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        KneserNey(0, V)


KENLM = {
    "How much is this sweater?": -6.854705,
    "This lamp costs two hundred yuan.": -4.775152,
    "If there is time, my parents will knit a sweater.": -9.067846,
    "She is going to play football this weekend.": -7.770626,
    "He goes to Hangzhou by train.": -5.033192,
    "Do you want to tidy the bookshelf tomorrow?": -7.078064,
}
"""Sentence -> log10 of its probability, by `lmplz -o 4` over the sample's first 900 sentences."""


def test_kenlm_gives_sentences_the_same_probabilities() -> None:
    sample = SAMPLES / "pairs.jsonl"
    lines = sample.read_text(encoding="utf-8").splitlines()[:900]
    sentences = [json.loads(line)["en"].split() for line in lines]
    words = sorted({word for sentence in sentences for word in sentence})
    # KenLM's words are these, </s> and <unk>; here <bos> takes the place of the last.
    num_words = len(words) + 2
    free = [place for place in range(num_words) if place not in (BOS, EOS)]
    ids = dict(zip(words, free, strict=True))

    def coded(sentence: list[str]) -> list[int]:
        return [BOS, *(ids[word] for word in sentence), EOS]

    model = KneserNey(4, num_words)
    model.estimate(*joined([coded(sentence) for sentence in sentences]))
    for sentence, expected in KENLM.items():
        found = model.log_probability(*contexts_of([coded(sentence.split())], 3)).sum()
        assert found.item() / math.log(10) == pytest.approx(expected, abs=5e-6)


def test_wikitext_2_at_its_measured_perplexity(shared_data: Path) -> None:
    """Closed vocabulary of 33,278 words, ``<eos>`` behind every line: docs/benchmarks.md."""
    words: dict[str, int] = {}

    def ids(split: str) -> NDArray[np.int32]:
        text = (shared_data / "text" / f"wiki.{split}.tokens").read_text(encoding="utf-8")
        lines = [[*line.split(), "<eos>"] for line in text.splitlines()]
        return np.array(
            [words.setdefault(word, len(words) + 4) for line in lines for word in line], np.int32
        )

    training, test = ids("train"), ids("test")
    assert len(words) == 33_278
    model = KneserNey(3, len(words) + 4)
    model.estimate(training, np.arange(len(training)) == 0)
    contexts = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(test[:-1], 2).copy())
    nats = -model.log_probability(contexts, torch.from_numpy(test[2:])).mean().item()
    assert math.exp(nats) == pytest.approx(224.4, abs=0.1)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 12))
def test_a_word_stands_where_its_probability_puts_it(seed: int, order: int, num_texts: int) -> None:
    model = KneserNey(order, V)
    if num_texts:
        model.estimate(*joined(random_texts(seed, num_texts)))
    generator = np.random.default_rng(seed)
    contexts = torch.from_numpy(generator.integers(0, V, (40, order - 1)))
    targets = torch.from_numpy(generator.integers(1, V, 40))
    nats, higher, equal, best = model.standing(contexts, targets, 4)
    logarithms = model(contexts)
    chosen = logarithms.gather(1, targets[:, None])
    torch.testing.assert_close(-nats, chosen[:, 0], rtol=1e-12, atol=1e-12)
    words = logarithms[:, 4:]
    # Equally likely words are equal, whichever way their sums are made.
    likelier = (words > chosen + 1e-11).sum(1)
    as_likely = ((words - chosen).abs() <= 1e-11).sum(1)
    known = targets >= 4
    assert higher[known].tolist() == likelier[known].tolist()
    assert equal[known].tolist() == (as_likely - 1)[known].tolist()
    torch.testing.assert_close(
        logarithms.gather(1, best[:, None])[:, 0], words.amax(1), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("seed", "order", "num_words", "num_texts"), [(5, 3, 8, 7), (22, 2, 12, 4), (22, 3, 12, 4)]
)
def test_words_that_are_equally_likely_by_other_sums_are_tied(
    seed: int, order: int, num_words: int, num_texts: int
) -> None:
    """One was seen behind a context, the other is as frequent: the last bit decides nothing."""
    generator = np.random.default_rng(seed)
    model = KneserNey(order, num_words)
    model.estimate(
        *joined(
            [
                [BOS, *generator.integers(4, num_words, generator.integers(1, 10)).tolist()]
                for _ in range(num_texts)
            ]
        )
    )
    contexts = torch.from_numpy(generator.integers(0, num_words, (60, order - 1)))
    targets = torch.from_numpy(generator.integers(4, num_words, 60))
    _, higher, equal, _ = model.standing(contexts, targets, 4)
    logarithms = model(contexts)
    beyond = logarithms[:, 4:] - logarithms.gather(1, targets[:, None])
    assert higher.tolist() == (beyond > 1e-11).sum(1).tolist()
    assert (equal + 1).tolist() == (beyond.abs() <= 1e-11).sum(1).tolist()
