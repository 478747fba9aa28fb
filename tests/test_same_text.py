"""A prediction sees a text exactly as training saw it, whatever the recipe leaves out."""

import json
import random
from itertools import combinations, pairwise

import torch

from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.problems import NextWord
from pipeline.problems.next_word.answers import NextWordPredictor
from pipeline.problems.predictor import ModelConfig, Predictor
from pipeline.records.contract import RecordsConfig, read_block
from pipeline.records.dialogues import Dialogues
from pipeline.records.labelled import Labelled
from pipeline.records.pairs import Pairs
from pipeline.text.config import TextConfig
from pipeline.text.normalise import DEFAULT_STEPS
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.utf8 import BLANKS, Utf8
from pipeline.text.vocabulary import Vocabulary

SUBSETS = [
    steps for size in range(len(DEFAULT_STEPS) + 1) for steps in combinations(DEFAULT_STEPS, size)
]
UNITS = [("zh", "char"), ("zh", "whitespace"), ("en", "word"), ("zh", "word")]
PIECES = [
    *BLANKS,
    *("a", "好", "今天", "Ａ", "é", "e\u0301", "<b>", "<br>", "&lt;", "&nbsp;", "&#8203;"),
    *("\x00", "\x07", "\u00ad", "￭", "，", "：", "don't", "1.5", "\U0001f469\u200d\U0001f467"),
]


def predictor_of(text: TextConfig) -> Predictor:
    problem, variant, network = NextWord(window=2), Variant.parse("gru"), NetworkConfig(2, 2, 0.0)
    words = Vocabulary(["好"])
    model = problem.build(variant, network, [len(words)])
    return NextWordPredictor(
        ModelConfig(problem, variant, network, text), model, [words], torch.device("cpu")
    )


def read_texts(raw: list[str], kind: str) -> list[str]:
    """The texts of records that hold these, as an ingest keeps them."""
    rows = {
        "dialogues": lambda text: {
            "topic": "t",
            "user1": "a",
            "user2": "b",
            "dialog": [f"user1：{text}"],
        },
        "text": lambda text: {"text": text},
        "labelled": lambda text: {"text": text, "label": "x"},
        "pairs": lambda text: {"source": text, "target": text},
    }
    lines = "\n".join(json.dumps(rows[kind](text)) for text in raw)
    records = read_block(lines.encode(), 1, RecordsConfig(kind)).records
    match records:
        case Dialogues():
            return records.utterances.to_list()
        case Labelled():
            return records.texts.to_list()
        case Pairs():
            assert records.sources.to_list() == records.targets.to_list()
            return records.sources.to_list()
    raise AssertionError(kind)


def test_every_subset_of_steps() -> None:
    draw = random.Random(0)
    raw = ["".join(draw.choices(PIECES, k=draw.randrange(1, 9))) for _ in range(300)]
    raw = [text for text in raw if text.strip(BLANKS)]
    kinds = [read_texts(raw, kind) for kind in ("dialogues", "text", "labelled", "pairs")]
    assert kinds[1:] == kinds[:-1]
    kept = Utf8.of(kinds[0])
    for steps in SUBSETS:
        for language, unit in UNITS:
            text = TextConfig(language=language, unit=unit, normalisation=steps)
            data, token_offsets, list_offsets = Tokenizer(text).tokenize_batch(kept)
            tokens = Utf8(data.data, token_offsets).to_list()
            trained = [tokens[a:b] for a, b in pairwise(list_offsets.tolist())]
            assert trained == predictor_of(text).tokenized(raw)
