"""A text that is typed gives what the same text gives as a whole, however it came about."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.variants import parse_variant
from pipeline.prediction import load_predictor
from pipeline.problems import Classification, LanguageModel, NextWord, Problem
from pipeline.problems.batches import Examples
from pipeline.problems.language_model import answers
from pipeline.problems.predictor import Candidate, ModelConfig, Predictor, Session
from pipeline.problems.ragged import Ragged
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import EOS, SPECIALS, Vocabulary

WORDS = Vocabulary(["我", "们", "今", "天", "去", "看", "你", "好", "吗", "。"])
STREAMS = [
    *("rnn_tanh", "rnn_relu-2", "gru-2", "lstm", "lstm-2", "lstm-2-textbook", "gru_cho-textbook"),
    *("ngram-1", "ngram-2", "ngram-4"),
]
WINDOWS = ["lstm", "bilstm-2", "gru_cho-2-textbook", "ngram-4"]


def predictor_of(problem: Problem, variant: str, unit: str = "char") -> Predictor:
    """A model as it is before training (n-grams: counted from a few texts)."""
    config = ModelConfig(
        problem, parse_variant(variant), NetworkConfig(6, 8, 0.3), TextConfig(unit=unit)
    )
    torch.manual_seed(3)
    model: Any = problem.build(config.variant, config.network, [len(WORDS)] * len(problem.columns))
    if variant.startswith("ngram"):
        model.estimate(Examples(Ragged.of([WORDS.encode(list(t)) for t in ("我们今天去", "你好")])))
    names = ("vocabulary", "target_vocabulary")[: len(problem.columns)]
    return load_predictor(
        config.to_dict(), model.state_dict(), dict.fromkeys(names, WORDS.to_json())
    )


STREAM_PREDICTORS = {name: predictor_of(LanguageModel(), name) for name in STREAMS}
WINDOW_PREDICTORS = {name: predictor_of(NextWord(window=3), name) for name in WINDOWS}

# 龘 has no id.
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.text("我们今天去看你好吗。龘", max_size=5)),
        st.tuples(st.just("undo"), st.integers(0, 4)),
        st.tuples(st.just("replace"), st.text("我们今天", max_size=4)),
        st.tuples(st.just("suggest"), st.integers(1, 12)),
        st.tuples(st.just("reset"), st.just(0)),
    ),
    max_size=12,
)


def act(session: Session, actions: list[tuple[str, Any]]) -> str:
    """Do all that, and return the text that is left."""
    text = ""
    for name, value in actions:
        if name == "feed":
            text += value
            assert session.feed(value) == list(value)
        elif name == "undo":
            count = min(value, len(text))
            text = text[: len(text) - count]
            session.undo(count)
        elif name == "replace":
            text = value
            session.replace(value)
        elif name == "reset":
            text = ""
            session.reset()
        else:
            session.suggest(value)
    assert session.words == list(text)
    return text


@torch.inference_mode()
def at_once(predictor: Predictor, text: str) -> dict[str, float]:
    """The next words when the whole stream is read in one go."""
    ids = torch.tensor([EOS, *predictor.vocabularies[0].encode(list(text)).tolist()])[:, None]
    batch: Any = type("Batch", (), {"inputs": (ids,), "carries_hidden": False})
    features = predictor.model.features(batch, None)[0]  # type: ignore[operator]
    shares = predictor.model.logits(features[-1:]).softmax(-1)[0]  # type: ignore[operator]
    return dict(zip(WORDS.words, shares[len(SPECIALS) :].tolist(), strict=True))


def shares_of(candidates: list[Candidate]) -> dict[str, float]:
    scores = [one.score for one in candidates]
    assert scores == sorted(scores, reverse=True)
    return {one.text: one.score for one in candidates}


@pytest.mark.parametrize("variant", STREAMS)
@settings(max_examples=20)
@given(actions=ACTIONS)
def test_a_carried_state_gives_what_the_whole_text_gives(
    variant: str, actions: list[tuple[str, Any]]
) -> None:
    predictor = STREAM_PREDICTORS[variant]
    session = predictor.session()
    text = act(session, actions)
    suggested = shares_of(session.suggest(len(WORDS)))
    assert suggested == pytest.approx(at_once(predictor, text), abs=1e-5)


@pytest.mark.parametrize("variant", WINDOWS)
@settings(max_examples=20)
@given(actions=ACTIONS)
def test_a_window_gives_what_predict_gives(variant: str, actions: list[tuple[str, Any]]) -> None:
    predictor = WINDOW_PREDICTORS[variant]
    session = predictor.session()
    text = act(session, actions)
    assert session.suggest(4) == predictor.predict([text], top=4)[0]


def test_what_is_no_longer_kept_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_STATES", 5)
    predictor = STREAM_PREDICTORS["gru-2"]
    session = predictor.session()
    session.feed("我们今天去看你好吗。我们今天")
    session.undo(3)
    session.undo(9)
    assert session.words == list("我们")
    assert shares_of(session.suggest(20)) == pytest.approx(at_once(predictor, "我们"), abs=1e-5)


def test_a_text_that_is_replaced_is_cut_as_a_whole() -> None:
    predictor = predictor_of(LanguageModel(), "gru", unit="word")
    session = predictor.session()
    # By itself each piece is cut otherwise than both together.
    assert (session.feed("北"), session.feed("京大学")) == (["北"], ["京", "大学"])
    session.replace("北京大学")
    assert session.words == predictor.tokenized(["北京大学"])[0] == ["北京大学"]


@pytest.mark.parametrize("problem", [LanguageModel(), NextWord(window=3)])
def test_what_cannot_be_is_refused(problem: Problem) -> None:
    session = predictor_of(problem, "gru").session()
    session.feed("我们")
    with pytest.raises(InputError, match="3 words cannot be taken back: there are 2"):
        session.undo(3)
    with pytest.raises(InputError, match="at least 1"):
        session.suggest(0)
    assert session.words == ["我", "们"]


def test_only_what_predicts_words_has_a_session() -> None:
    with pytest.raises(InputError, match="classification predicts no next word"):
        predictor_of(Classification(), "gru").session()
