"""Lines as somebody types them, from whatever sends them."""

import torch

from flows.command.typing_aid import suggestions
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.variants import parse_variant
from pipeline.prediction import load_predictor
from pipeline.problems import NextWord
from pipeline.problems.predictor import ModelConfig, Session
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary


def session() -> Session:
    words, problem = Vocabulary(["我", "们", "去"]), NextWord(window=2)
    config = ModelConfig(
        problem, parse_variant("gru"), NetworkConfig(4, 4, 0.0), TextConfig(unit="char")
    )
    torch.manual_seed(1)
    model = problem.build(config.variant, config.network, [len(words)])
    return load_predictor(
        config.to_dict(), model.state_dict(), {"vocabulary": words.to_json()}
    ).session()


def test_a_mark_at_the_beginning_and_ends_of_lines_are_no_text() -> None:
    lines = ["\ufeff我\r\n".encode(), "们".encode(), b"\n", "去\n".encode()]
    assert [each.words for each in suggestions(session(), lines, 2)] == [
        ("我",),
        ("我", "们"),
        (),
        ("去",),
    ]


def test_nothing_is_taken_back_where_nothing_is_left() -> None:
    lines = [b"/undo\n", "我们\n".encode(), b"/undo\n", b"/undo\n", b"/undo\n"]
    told = list(suggestions(session(), lines, 2))
    assert [each.words for each in told] == [(), ("我", "们"), ("我",), (), ()]
    assert told[3].to_dict() == told[0].to_dict()
    assert len(told[0].candidates) == 2
