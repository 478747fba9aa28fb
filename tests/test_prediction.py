"""A checkpoint's parts give the same answers as the model that they came from."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.prediction import load_predictor, read_config
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
from pipeline.problems.predictor import BATCH_ROWS, ModelConfig, Predictor
from pipeline.problems.ragged import Ragged
from pipeline.problems.seq2seq.problem import EXTRA_WORDS
from pipeline.search_comparison import compare_searches
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import EOS, SPECIALS, Vocabulary
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit

ZH = TextConfig(unit="char")
EN = TextConfig(language="en")
SENTENCES = ["今天天气很好", "我想去北京", "你好吗"]
TRANSLATIONS = ["The weather is fine today.", "I want to go to Beijing.", "How are you?"]
WORDS = Vocabulary(sorted(set("".join(SENTENCES))))


def trained(
    problem: Problem,
    variant: str = "gru",
    epochs: int = 60,
    network: NetworkConfig = NetworkConfig(16, 32, 0.0),  # noqa: B008
) -> Predictor:
    """A model that knows three sentences by heart, through JSON as a checkpoint would be."""
    config = ModelConfig(
        problem,
        Variant.parse(variant),
        network,
        ZH,
        EN if (len(problem.columns) == 2) else None,
    )
    vocabularies = [WORDS]
    inputs = Ragged.of([WORDS.encode(list(text)) for text in SENTENCES])
    examples = Examples(inputs)
    if len(problem.columns) == 2:
        from pipeline.text.tokenizer import Tokenizer

        rows = [Tokenizer(EN).tokenize(text) for text in TRANSLATIONS]
        vocabularies.append(Vocabulary(sorted({word for row in rows for word in row})))
        examples = Examples(inputs, Ragged.of([vocabularies[1].encode(row) for row in rows]))
    return fitted_predictor(config, examples, vocabularies, epochs)


def test_next_words_come_with_their_probabilities() -> None:
    predictor = trained(NextWord(window=3))
    (answer,) = predictor.predict(["今天天"], top=len(WORDS.words))
    assert answer[0].text == "气"
    assert answer[0].score > 0.9
    assert [one.score for one in answer] == sorted((one.score for one in answer), reverse=True)
    specials = 1 - sum(one.score for one in answer)
    assert 0 <= specials < 0.1
    assert not {one.text for one in answer} & set(SPECIALS)


def test_a_prediction_is_possible_from_nothing_and_from_unknown_words() -> None:
    predictor = trained(NextWord(window=3), epochs=2)
    answers = predictor.predict(["", "龘龘龘", "今"], top=2)
    assert [len(answer) for answer in answers] == [2, 2, 2]


@pytest.mark.parametrize("problem", [NextWord(window=3), LanguageModel(bptt=8), Seq2Seq()])
def test_an_adaptive_softmax_predicts(problem: Problem) -> None:
    network = NetworkConfig(32, 64, 0.0, output="adaptive", cutoffs=(6, 12))
    predictor = trained(problem, epochs=150, network=network)
    assert predictor.config.network == network
    parameters = {} if problem.name == "next_word" else {"beam": 3}
    if problem.name == "language_model":
        parameters["temperature"] = 0.0
    prompt, found = {
        "next_word": ("今天天", "气"),
        "language_model": ("我想", "去北京"),
        "seq2seq": ("我想去北京", "I want to go to Beijing."),
    }[problem.name]
    assert predictor.predict([prompt], **parameters)[0][0].text == found


def test_a_language_model_goes_on_where_the_prompt_ends() -> None:
    predictor = trained(LanguageModel(bptt=8, scoring_streams=1), epochs=150)
    ((best,),) = predictor.predict(["我想"], temperature=0.0, beam=3)
    assert best.text == "去北京"
    assert predictor.predict(["我"], seed=4, top=3) == predictor.predict(["我"], seed=4, top=3)
    assert len(predictor.predict(["我"], top=3)[0]) == 3


def test_translations_are_text_again() -> None:
    predictor = trained(Seq2Seq(), "bigru-attention")
    answers = predictor.predict(SENTENCES)
    assert [answer[0].text for answer in answers] == TRANSLATIONS
    many = predictor.predict(SENTENCES[:1], top=3, beam=1)[0]
    assert many[0].text == TRANSLATIONS[0]
    assert len(many) == 3


@pytest.mark.parametrize("problem", [NextWord(window=3), Seq2Seq(), LanguageModel()])
def test_a_batch_gives_what_each_text_gives_alone(problem: Problem) -> None:
    predictor = trained(problem, epochs=3)
    texts = ["今天", "我想去北京看看", "", "你"]
    together = predictor.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        alone = predictor.predict([text])[0]
        assert [one.text for one in alone] == [one.text for one in answer]
        scores = [one.score for one in alone]
        assert scores == pytest.approx([one.score for one in answer], rel=1e-4)


def test_text_is_cleaned_as_it_was_for_training() -> None:
    predictor = trained(NextWord(window=3), epochs=2)
    dirty, clean = predictor.predict(["<b>今天\u200b</b>天　", "今天天"])
    assert dirty == clean


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'warmth': it takes top"):
        trained(NextWord(window=3), epochs=1).predict(["今"], warmth=1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("top", 0, "at least 1"),
        ("top", 2.5, "whole number"),
        ("top", "3", "whole number"),
        ("beam", -3, "at least 1"),
        ("max_tokens", 10**12, "below 2"),
        ("max_tokens", float("inf"), "whole number"),
        ("temperature", float("nan"), "at least 0"),
        ("temperature", True, "give a number"),
        ("seed", -1, "at least 0"),
        ("seed", 10**400, "below 2"),
        ("top", [3], "whole number"),
    ],
)
def test_parameters_are_checked(name: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"{name} is .*{said}"):
        trained(LanguageModel(), epochs=1).predict(["今"], **{name: value})


@pytest.mark.parametrize("parameters", [{}, {"beam": 1}, {"top": 3}], ids=str)
def test_nothing_translates_to_nothing(parameters: dict[str, int]) -> None:
    predictor = trained(Seq2Seq(), epochs=1)
    texts = ["", " ", "今天", "\t\n\u3000", "<b></b>"]
    answers = predictor.predict(texts, **parameters)
    assert [[one.text for one in answers[row]] for row in (0, 1, 3, 4)] == [[""]] * 4
    assert len(answers[2]) == parameters.get("top", 1)
    assert predictor.predict([""], **parameters) == answers[:1]
    assert {each.text for each in compare_searches(predictor, " ", max_tokens=5)} == {""}


@pytest.mark.parametrize("value", [3.0, np.int64(3), np.float32(3)], ids=repr)
def test_a_whole_number_is_one_however_it_is_written(value: Any) -> None:
    predictor = trained(NextWord(window=3), epochs=1)
    assert predictor.predict(["今"], top=value) == predictor.predict(["今"], top=3)


def test_the_configuration_reads_back() -> None:
    config = ModelConfig(
        Seq2Seq(attention="additive"),
        Variant.parse("bilstm-2-attention"),
        NetworkConfig(),
        ZH,
        EN,
        length_ratio=1.75,
    )
    kept = json.loads(json.dumps(config.to_dict()))
    assert read_config(kept) == config
    del kept["length_ratio"]  # of a version that is older than this setting
    assert read_config(kept) == replace(config, length_ratio=None)


@pytest.mark.parametrize("width", [1, 3])
def test_an_answer_is_as_long_as_its_source_allows(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = trained(Seq2Seq(), epochs=1)
    with torch.no_grad():
        predictor.model.head.output.bias[EOS] = -30  # it would never end by itself
    predictor.config = replace(predictor.config, length_ratio=1.5)
    monkeypatch.setattr(predictor, "text_of", lambda words: str(len(words)))
    texts = ["我想去北京看看", "你", "今天天气"]
    sources = predictor.encoded(predictor.tokenized(texts)).lengths.tolist()
    wanted = [min(12, math.ceil(1.5 * length) + EXTRA_WORDS) for length in sources]
    answers = predictor.predict(texts, beam=width, max_tokens=12)
    assert [int(answer[0].text) for answer in answers] == wanted


def test_texts_of_any_length_are_answered_in_their_order() -> None:
    predictor = trained(NextWord(window=3), epochs=1)
    texts = ["我想去北京"[: 1 + row * 7 % 5] for row in range(2 * BATCH_ROWS + 3)]
    answers = predictor.predict(texts, top=1)
    alone = {text: predictor.predict([text], top=1)[0][0].text for text in set(texts)}
    assert [answer[0].text for answer in answers] == [alone[text] for text in texts]


def test_an_unknown_format_is_refused() -> None:
    config: dict[str, Any] = ModelConfig(NextWord(), Variant(), NetworkConfig(), ZH).to_dict()
    with pytest.raises(InputError, match="format 99"):
        read_config(config | {"format": 99})


def test_weights_of_another_vocabulary_are_not_taken() -> None:
    predictor = trained(NextWord(window=3), epochs=1)
    weights = predictor.model.state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_predictor(
            predictor.config.to_dict(), weights, {"vocabulary": Vocabulary(["一"]).to_json()}
        )


def test_rows_of_ids_are_answered_as_their_text_is() -> None:
    predictor = trained(NextWord(window=3), epochs=2)
    ids = Ragged.of([np.array(WORDS.encode(list("今天")), np.int32)])
    assert predictor.answer(ids, top=3) == predictor.predict(["今天"], top=3)


def test_a_classifier_gives_labels_with_their_probabilities() -> None:
    labels = Vocabulary(["坏", "好"])
    inputs = Ragged.of([WORDS.encode(list(text)) for text in SENTENCES])
    examples = Examples(inputs, Ragged.of([[5], [4], [5]]))
    config = ModelConfig(Classification(), Variant.parse("bigru"), NetworkConfig(16, 16, 0.0), ZH)
    predictor = fitted_predictor(config, examples, [WORDS, labels])
    answers = predictor.predict([*SENTENCES, ""], top=5)
    assert [answer[0].text for answer in answers[:3]] == ["好", "坏", "好"]
    assert all(len(answer) == 2 for answer in answers)
    assert sum(one.score for one in answers[0]) == pytest.approx(1.0, abs=1e-5)


def test_a_tagger_gives_each_token_its_tag() -> None:
    tags = Vocabulary(["甲", "乙"])
    rows = [WORDS.encode(list(text)) for text in SENTENCES]
    given = [[4 + i % 2 for i, _ in enumerate(row)] for row in rows]
    examples = Examples(Ragged.of(rows), Ragged.of(given))
    config = ModelConfig(Tagging(), Variant.parse("bilstm"), NetworkConfig(16, 16, 0.0), ZH)
    predictor = fitted_predictor(config, examples, [WORDS, tags])
    (first,), (nothing,), (last,) = predictor.predict([SENTENCES[1], "", SENTENCES[2]])
    assert first.text == "我/甲 想/乙 去/甲 北/乙 京/甲"
    assert last.text == "你/甲 好/乙 吗/甲"
    assert nothing.text == "" and nothing.score == 0.0


def test_a_forecast_feeds_itself_back() -> None:
    values = np.tile([10.0, 30.0, 20.0], 40)
    series = Ragged(values, np.array([0, 120]))
    examples = Examples(series, series, scales=np.ones(1))
    config = ModelConfig(Forecasting(window=3), Variant.parse("gru"), NetworkConfig(1, 16, 0.0))
    predictor = fitted_predictor(config, examples, [])
    answers = predictor.predict(["10 30 20", "99 30, 20, 10"], horizon=4)
    for answer, wanted in zip(answers, ([10, 30, 20, 10], [30, 20, 10, 30]), strict=True):
        assert [one.score for one in answer] == pytest.approx(wanted, rel=0.1)
        assert float(answer[0].text) == pytest.approx(answer[0].score, rel=1e-5)
    with pytest.raises(InputError, match="has 2 values, and this model forecasts from 3"):
        predictor.predict(["1 2"])
    assert predictor.predict([predictor.example]) == [[]]


def fitted_predictor(
    config: ModelConfig, examples: Examples, vocabularies: list[Vocabulary], epochs: int = 60
) -> Predictor:
    fitted = fit(
        config.problem,
        config.variant,
        config.network,
        TrainingConfig(num_epochs=epochs, batch_size=8, learning_rate=0.02, patience=None),
        examples,
        examples,
        [len(words) for words in vocabularies],
        device=torch.device("cpu"),
    )
    names = ("vocabulary", "target_vocabulary")
    return load_predictor(
        json.loads(json.dumps(config.to_dict())),
        fitted.weights,
        {name: words.to_json() for name, words in zip(names, vocabularies, strict=False)},
    )
