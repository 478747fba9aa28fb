"""Search against brute force; batches against single sentences; the stop against no stop."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.networks.recurrent import Hidden, NetworkConfig, Variant
from pipeline.problems import LanguageModel, Seq2Seq
from pipeline.problems.batches import padded_texts
from pipeline.problems.ragged import Ragged
from pipeline.problems.seq2seq.problem import EncoderDecoder
from pipeline.search.search import (
    NEVER,
    GaveUpError,
    Hypothesis,
    NoMemory,
    beam,
    exhaustive,
    greedy,
    sample,
)
from pipeline.text.vocabulary import BOS, EOS

WORDS, LONGEST = 7, 4
FIRST = torch.tensor([BOS])


def model_of(seed: int, variant: str = "gru", num_words: int = WORDS) -> EncoderDecoder:
    torch.manual_seed(seed)
    model = Seq2Seq().build(Variant.parse(variant), NetworkConfig(6, 6, 0.0), (9, num_words))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.double().eval()


def encoded(model: EncoderDecoder, *sentences: list[int]) -> tuple[object, Hidden]:
    with torch.inference_mode():
        return model.encode(*padded_texts(Ragged.of(sentences), np.arange(len(sentences))))


@torch.inference_mode()
def following(
    model: EncoderDecoder, last: int, hidden: Hidden, memory: object
) -> tuple[torch.Tensor, Hidden]:
    """Log-probabilities of the words that may follow ``last``, and the next state."""
    logits, hidden = model.step(torch.tensor([[last]]), hidden, memory)  # type: ignore[arg-type]
    logits[..., NEVER] = -torch.inf
    return logits[0, 0].log_softmax(-1), hidden


def all_hypotheses(
    model: EncoderDecoder, source: list[int], alpha: float, longest: int = LONGEST
) -> list[Hypothesis]:
    """Every sequence of up to ``longest`` words, scored one by one, best first."""
    memory, start = encoded(model, source)
    words = range(EOS + 1, WORDS)
    found = []
    for length in range(longest + 1):
        for sequence in product(words, repeat=length):
            hidden, total, last = start, 0.0, BOS
            for word in (*sequence, EOS):
                row, hidden = following(model, last, hidden, memory)
                total += float(row[word])
                last = word
            found.append(Hypothesis(sequence, total, total / (length + 1) ** alpha))
    return sorted(found, key=lambda one: -one.score)


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_exhaustive_search_and_the_widest_beam_find_the_best(seed: int, alpha: float) -> None:
    model = model_of(seed, "bigru-attention" if seed % 2 else "lstm-2")
    best = all_hypotheses(model, [4, 5, 6], alpha)[:3]
    memory, hidden = encoded(model, [4, 5, 6])
    one = exhaustive(model.step, memory, hidden, FIRST, max_tokens=LONGEST, alpha=alpha)
    many = beam(
        model.step,
        memory,
        hidden,
        FIRST,
        width=3**LONGEST,
        max_tokens=LONGEST,
        alpha=alpha,
        num_best=3,
    )[0]
    assert one.words == best[0].words
    assert one.score == pytest.approx(best[0].score, abs=1e-9)
    assert [each.words for each in many] == [each.words for each in best]
    assert [each.score for each in many] == pytest.approx([each.score for each in best], abs=1e-9)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(4, 8), max_size=5), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(0, 5),
)
def test_a_batch_gives_what_each_sentence_gives_alone(
    sentences: list[list[int]], width: int, seed: int
) -> None:
    model = model_of(seed, "bilstm-attention", 12)
    together = beam(
        model.step,
        *encoded(model, *sentences),
        FIRST.expand(len(sentences)),
        width=width,
        max_tokens=6,
        num_best=2,
    )
    for sentence, found in zip(sentences, together, strict=True):
        alone = beam(
            model.step, *encoded(model, sentence), FIRST, width=width, max_tokens=6, num_best=2
        )[0]
        assert [one.words for one in found] == [one.words for one in alone]
        assert [one.score for one in found] == pytest.approx([one.score for one in alone])


@settings(max_examples=8)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(4, 8), max_size=4), st.integers(1, LONGEST)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 5),
    st.integers(1, 3),
)
def test_every_sentence_of_a_batch_has_its_own_longest_length(
    sentences: list[tuple[list[int], int]], seed: int, num_best: int
) -> None:
    model = model_of(seed, "bigru-attention")
    memory, hidden = encoded(model, *(source for source, _ in sentences))
    limits = torch.tensor([longest for _, longest in sentences])
    given = (model.step, memory, hidden, FIRST.expand(len(sentences)))
    widest = beam(*given, width=3**LONGEST, max_tokens=limits, num_best=num_best)
    for (source, longest), best, quick in zip(
        sentences, widest, greedy(*given, max_tokens=limits), strict=True
    ):
        wanted = all_hypotheses(model, source, 0.75, longest)[:num_best]
        assert [each.score for each in best] == pytest.approx([each.score for each in wanted])
        alone = (model.step, *encoded(model, source), FIRST)
        one = exhaustive(*alone, max_tokens=longest)
        assert one.score == pytest.approx(best[0].score)
        assert quick.words == greedy(*alone, max_tokens=longest)[0].words
        assert all(len(each.words) <= longest for each in (*best, quick))


def test_sentences_that_are_done_change_nothing_for_the_others() -> None:
    """Of many sentences some idle until enough have ended to leave the batch together."""
    model = model_of(2, "bigru-attention", 12)
    sentences = [[4 + row % 5, 4 + row // 5] for row in range(25)]
    limits = torch.arange(25) % 9 + 1
    found = beam(
        model.step,
        *encoded(model, *sentences),
        FIRST.expand(25),
        width=3,
        max_tokens=limits,
        num_best=2,
    )
    for sentence, longest, best in zip(sentences, limits.tolist(), found, strict=True):
        alone = beam(
            model.step, *encoded(model, sentence), FIRST, width=3, max_tokens=longest, num_best=2
        )[0]
        assert [one.words for one in best] == [one.words for one in alone]


def test_the_beam_is_the_textbooks_word_by_word() -> None:
    """The same search, written out for one sentence without tensors."""
    for seed in range(6):
        model = model_of(seed, "bilstm-attention", 12)
        memory, start = encoded(model, [4, 8, 5])
        live: list[tuple[float, tuple[int, ...], Hidden]] = [(0.0, (), start)]
        ends: list[tuple[float, tuple[int, ...]]] = []
        for length in range(1, 8):
            grown = []
            for total, words, hidden in live:
                row, after = following(model, words[-1] if words else BOS, hidden, memory)
                ends.append(((total + float(row[EOS])) / length**0.75, words))
                grown += [
                    (total + float(row[word]), (*words, word), after) for word in range(EOS + 1, 12)
                ]
            live = sorted(grown, key=lambda one: -one[0])[:4]
        wanted = sorted(ends, reverse=True)[:3]
        found = beam(model.step, memory, start, FIRST, width=4, max_tokens=6, num_best=3)[0]
        assert [one.words for one in found] == [words for _, words in wanted]
        assert [one.score for one in found] == pytest.approx([score for score, _ in wanted])


@pytest.mark.parametrize("max_tokens", [3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_takes_the_likeliest_word_until_that_is_the_end(seed: int, max_tokens: int) -> None:
    model = model_of(seed, "bigru-attention", 12)
    sentences = [[4, 8], [5], [6, 7, 8]]
    found = greedy(model.step, *encoded(model, *sentences), FIRST.expand(3), max_tokens=max_tokens)
    for sentence, one in zip(sentences, found, strict=True):
        memory, hidden = encoded(model, sentence)
        last, total, words = BOS, 0.0, []
        while last != EOS:
            row, hidden = following(model, last, hidden, memory)
            last = EOS if len(words) == max_tokens else int(row.argmax())
            total += float(row[last])
            words.append(last)
        assert one.words == tuple(words[:-1])
        assert one.log_probability == pytest.approx(total)
        assert one.score == pytest.approx(total / len(words) ** 0.75)


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_of_one_is_greedy_until_an_end_is_worth_more(seed: int) -> None:
    model = model_of(seed, num_words=12)
    memory, hidden = encoded(model, [4, 8])
    words, last, ends = [], BOS, []
    total = 0.0
    for length in range(1, 8):
        row, hidden = following(model, last, hidden, memory)
        ends.append(((total + float(row[EOS])) / length**0.75, tuple(words)))
        row = torch.where(torch.arange(len(row)) == EOS, -torch.inf, row)
        last = int(row.argmax())
        total += float(row[last])
        words.append(last)
    found = beam(model.step, *encoded(model, [4, 8]), FIRST, width=1, max_tokens=6)[0][0]
    assert found.words == max(ends)[1]


def test_a_hypothesis_keeps_its_log_probability() -> None:
    model = model_of(3, num_words=12)
    memory, hidden = encoded(model, [5])
    for one in beam(model.step, memory, hidden, FIRST, width=4, max_tokens=5, num_best=4)[0]:
        state, total = hidden, 0.0
        for last, word in zip((BOS, *one.words), (*one.words, EOS), strict=True):
            row, state = following(model, last, state, memory)
            total += float(row[word])
        assert one.log_probability == pytest.approx(total, abs=1e-9)
        assert one.score == pytest.approx(total / (len(one.words) + 1) ** 0.75, abs=1e-9)


def test_exhaustive_search_gives_up_loudly() -> None:
    model = model_of(0, num_words=12)
    with pytest.raises(GaveUpError, match="gave up after 2 steps"):
        exhaustive(model.step, *encoded(model, [4]), FIRST, max_tokens=30, max_steps=2)


def test_samples_follow_the_models_distribution() -> None:
    torch.manual_seed(1)
    model = LanguageModel().build(Variant("gru"), NetworkConfig(4, 4, 0.0), [7]).eval()
    with torch.no_grad():
        model.head.output.bias.copy_(torch.tensor([0, 0, 0, 0.0, 0.5, 1.0, 1.5]))
        hidden = model.stack.initial_hidden(4000)
        logits, _ = model.step(torch.tensor([[EOS]]), model.stack.initial_hidden(1), NoMemory())
        logits[..., NEVER] = -torch.inf
        wanted = logits[0, 0].softmax(-1)
    drawn = sample(
        model.step,
        NoMemory(),
        hidden,
        torch.full((4000,), EOS),
        max_tokens=1,
        temperature=1.0,
        generator=torch.Generator().manual_seed(5),
    )
    counts = torch.zeros(7)
    for one in drawn:
        word = one.words[0] if one.words else EOS
        counts[word] += 1
        assert one.log_probability == pytest.approx(math.log(float(wanted[word])), abs=1e-4)
    assert (counts / 4000 - wanted).abs().max() < 0.03


def test_samples_repeat_with_the_seed_and_cool_down_to_the_likeliest() -> None:
    torch.manual_seed(2)
    model = LanguageModel().build(Variant("lstm"), NetworkConfig(8, 8, 0.0), [20]).eval()

    def draw(seed: int, **settings: float) -> list[Hypothesis]:
        return sample(
            model.step,
            NoMemory(),
            model.stack.initial_hidden(3),
            torch.full((3,), EOS),
            max_tokens=10,
            generator=torch.Generator().manual_seed(seed),
            **{"temperature": 1.0, **settings},  # type: ignore[arg-type]
        )

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(7, temperature=0.0) == draw(8, temperature=0.0)
