"""The bundled sample is what its grammar yields, and is fit to be learnt from and to be read."""

import itertools
import json
import re
from pathlib import Path

import pytest

from flows.sample import grammar, sentences
from flows.sample.topics import COMMON, FAREWELLS, GREETINGS, TOPICS
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer

SAMPLE = Path(grammar.__file__).parent


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (SAMPLE / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def utterances() -> list[str]:
    return [turn[6:] for row in rows("dialogues.jsonl") for turn in row["dialog"]]


def test_the_files_are_what_the_grammar_yields() -> None:
    for name, content in grammar.files().items():
        assert (SAMPLE / name).read_bytes() == content.encode(), (
            f"{name} is out of date: run 'python -m flows.sample.grammar'"
        )


def test_another_seed_yields_other_rows() -> None:
    assert grammar.draw_dialogues(5, seed=1) == grammar.draw_dialogues(5, seed=1)
    assert grammar.draw_dialogues(5, seed=1) != grammar.draw_dialogues(5, seed=2)
    assert grammar.draw_pairs(5, seed=1) != grammar.draw_pairs(5, seed=2)


def test_dialogues_have_the_schema_of_hundredcv_chat() -> None:
    for row in rows("dialogues.jsonl"):
        assert list(row) == ["topic", "user1", "user2", "dialog"]
        assert row["user1"] != row["user2"]
        assert len(row["dialog"]) >= 4
        for number, turn in enumerate(row["dialog"]):
            assert turn.startswith(f"user{number % 2 + 1}：")


def test_dialogues_are_many_and_different(utterances: list[str]) -> None:
    dialogues = rows("dialogues.jsonl")
    assert len({tuple(row["dialog"]) for row in dialogues}) == len(dialogues) == 400
    assert {row["topic"] for row in dialogues} == {topic.name for topic in TOPICS}
    assert 3000 <= len(utterances) <= 4000
    assert len(set(utterances)) > 2000


def test_dialogues_use_many_words(utterances: list[str]) -> None:
    tokenizer = Tokenizer(TextConfig())
    words = {word for utterance in utterances for word in tokenizer.tokenize(utterance)}
    assert len(words) > 1500


def test_utterances_are_chinese_sentences(utterances: list[str]) -> None:
    for utterance in utterances:
        assert re.fullmatch(r"[\u4e00-\u9fff，。！？、《》]+[。！？]", utterance), utterance
        assert not re.search(r"[，。！？、]{2}|^[，。！？、]", utterance), utterance
        assert len(utterance) <= 60


def test_pairs_are_many_and_different() -> None:
    pairs = rows("pairs.jsonl")
    assert all(list(pair) == ["zh", "en"] for pair in pairs)
    assert len(pairs) == 1000
    assert len({pair["zh"] for pair in pairs}) == len({pair["en"] for pair in pairs}) == 1000


def test_pairs_are_sentences_in_their_languages() -> None:
    for pair in rows("pairs.jsonl"):
        assert re.fullmatch(r"[\u4e00-\u9fff，]+[。？]", pair["zh"]), pair
        assert re.fullmatch(r"[A-Z][A-Za-z ',.;?-]+[.?]", pair["en"]), pair
        assert pair["zh"].endswith("？") == pair["en"].endswith("?"), pair


def test_every_construction_occurs() -> None:
    text = "".join(pair["zh"] + "\n" for pair in rows("pairs.jsonl"))
    for line in sentences.CONSTRUCTIONS.strip().split("\n"):
        pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(line.split(" = ")[0]))
        assert re.search(f"^{pattern}$", text, re.MULTILINE), line


@pytest.mark.parametrize(
    ("phrase", "form", "inflected"),
    [
        ("go to the cinema", "ed", "went to the cinema"),
        ("go to the cinema", "s", "goes to the cinema"),
        ("tidy the bookshelf", "s", "tidies the bookshelf"),
        ("tidy the bookshelf", "ed", "tidied the bookshelf"),
        ("play chess", "ed", "played chess"),
        ("swim in the sea", "ing", "swimming in the sea"),
        ("write letters", "ing", "writing letters"),
        ("write letters", "en", "written letters"),
        ("drink tea and chat", "ed", "drank tea and chatted"),
        ("watch television", "s", "watches television"),
        ("be late", "s", "is late"),
        ("be late", "ing", "being late"),
    ],
)
def test_verbs_are_inflected(phrase: str, form: str, inflected: str) -> None:
    assert sentences.conjugate(phrase, form) == inflected


@pytest.mark.parametrize(
    ("adjective", "comparative"),
    [
        ("tall", "taller"),
        ("big", "bigger"),
        ("dry", "drier"),
        ("patient", "more patient"),
        ("careful", "more careful"),
        ("large", "larger"),
    ],
)
def test_adjectives_are_compared(adjective: str, comparative: str) -> None:
    assert sentences.compare(adjective) == comparative


def test_every_word_list_is_used() -> None:
    common = GREETINGS + FAREWELLS
    everywhere = common + "".join(t.openings + t.talk + t.closings for t in TOPICS)
    for columns in COMMON:
        assert any(f"{{{column}" in everywhere for column in columns.split()), columns
    for columns in sentences.LISTS:
        used = sentences.CONSTRUCTIONS
        assert any(f"{{{column}" in used for column in columns.split()) or columns == "out", columns


def test_sales_have_a_season_and_a_trend() -> None:
    values = [row["value"] for row in rows("sales.jsonl")]
    assert len(values) == 144
    assert [row["time"] for row in rows("sales.jsonl")][:2] == ["2012-01", "2012-02"]
    years = [values[start : start + 12] for start in range(0, 144, 12)]
    assert all(sum(after) > sum(before) for before, after in itertools.pairwise(years))
    assert all(max(year) == max(year[4:9]) for year in years)
