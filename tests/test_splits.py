"""Splits never leak and never move."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.splits.division import (
    Division,
    Documents,
    dialogue_documents,
    divide_in_order,
    divide_pairs,
    divide_texts,
    pair_documents,
    rehearsed,
    reply_pairs,
    text_documents,
    text_keys,
)
from pipeline.splits.splits import SPLITS, SplitsConfig, split_of
from pipeline.text.utf8 import Utf8

CONFIG = SplitsConfig(valid=0.25, test=0.25)
BY_TIME = SplitsConfig(valid=0.25, test=0.25, by="chronological")
LETTERS = "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下"
sentences = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=60)
replies = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 20)), max_size=60)


def distinct(numbers: list[int]) -> Documents:
    """Documents of which equal ones are equal and others have nothing in common."""
    return text_documents(Utf8.of([chr(0x4E00 + number) * 3 for number in numbers]))


def divided(
    pairs: list[tuple[int, int]], config: SplitsConfig = CONFIG
) -> dict[str, list[tuple[int, int]]]:
    sources = np.array([source for source, _ in pairs], np.uint64)
    targets = np.array([target for _, target in pairs], np.uint64)
    groups = [f"{source:032x}" for source, _ in pairs]
    documents = distinct([100 * source + target for source, target in pairs])
    division = divide_pairs(groups, sources, targets, documents, config, sides_alone_leak=True)
    kept = sum(len(rows) for rows in division.rows.values())
    assert kept + division.num_duplicates + division.num_leaks == len(pairs)
    assert division.num_near_copies == division.num_near_duplicates == 0
    return {split: [pairs[row] for row in division.rows[split]] for split in SPLITS}


@pytest.mark.parametrize("config", [CONFIG, BY_TIME])
@given(pairs=sentences)
def test_no_sentence_of_either_side_is_trained_on_and_held_out(
    config: SplitsConfig, pairs: list[tuple[int, int]]
) -> None:
    splits = divided(pairs, config)
    held_out = splits["valid"] + splits["test"]
    for side in (0, 1):
        assert not {pair[side] for pair in splits["train"]} & {pair[side] for pair in held_out}
    assert not {source for source, _ in splits["valid"]} & {source for source, _ in splits["test"]}


@pytest.mark.parametrize("config", [CONFIG, BY_TIME])
@given(pairs=sentences)
def test_what_is_held_out_is_held_out_whole_and_once(
    config: SplitsConfig, pairs: list[tuple[int, int]]
) -> None:
    splits = divided(pairs, config)
    everything = [pair for rows in splits.values() for pair in rows]
    assert len(everything) == len(set(everything))
    trained = set(splits["train"])
    held = set(splits["valid"]) | set(splits["test"])
    for pair in set(pairs) - trained - held:
        assert {pair[0]} & {s for s, _ in held} or {pair[1]} & {t for _, t in held}


@given(replies)
def test_a_reply_that_is_held_out_anywhere_is_held_out_and_nothing_else_is_lost(
    rows: list[tuple[int, int, int]],
) -> None:
    """The same pair may be said in dialogues of different splits: source, target, dialogue."""
    sources, targets = (np.array([row[side] for row in rows], np.uint64) for side in (0, 1))
    groups = [f"{dialogue:032x}" for *_, dialogue in rows]
    # As documents, dialogues have nothing in common: only the pairs are repeated.
    documents = Documents(
        Utf8.of([chr(0x4E00 + row) * 3 for row in range(len(rows))]), np.arange(len(rows))
    )
    division = divide_pairs(groups, sources, targets, documents, CONFIG, sides_alone_leak=False)
    places = dict(zip(groups, split_of(groups, CONFIG).tolist(), strict=True))
    held_out = {
        row[:2] for row, group in zip(rows, groups, strict=True) if places[group] != "train"
    }
    kept = {split: [rows[row][:2] for row in division.rows[split]] for split in SPLITS}
    assert set(kept["valid"]) | set(kept["test"]) == held_out
    assert set(kept["train"]) == {row[:2] for row in rows} - held_out
    assert sum(map(len, kept.values())) == len({row[:2] for row in rows})


@given(sentences, sentences)
def test_more_data_moves_nothing_between_splits(
    pairs: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    before, after = divided(pairs), divided(pairs + more)
    for split in ("valid", "test"):
        assert set(before[split]) <= set(after[split])
    assert not set(after["train"]) & (set(before["valid"]) | set(before["test"]))


def test_copies_of_a_dialogue_count_once_and_stay_together() -> None:
    groups = ["a"] * 3 + ["b"] * 2 + ["a"] * 3
    turns = np.array([0, 1, 2, 0, 1, 0, 1, 2], np.int32)
    documents = dialogue_documents(groups, turns, Utf8.of([*"面条很好吃", *"面条很"]))
    assert documents.texts.to_list() == ["面\n条\n很\n", "好\n吃\n"]
    division = divide_texts(groups, turns, documents, CONFIG)
    assert division.num_duplicates == 3
    rows = sorted(row for taken in division.rows.values() for row in taken)
    assert rows == [0, 1, 2, 3, 4]
    where = {row: split for split, taken in division.rows.items() for row in taken}
    assert len({where[row] for row in (0, 1, 2)}) == 1


def test_shares_are_what_was_asked_for() -> None:
    groups = [f"{number:032x}" for number in range(4000)]
    documents = distinct(list(range(4000)))
    division = divide_texts(groups, np.zeros(4000, np.int32), documents, SplitsConfig())
    shares = {split: len(rows) / 4000 for split, rows in division.rows.items()}
    assert abs(shares["valid"] - 0.1) < 0.02
    assert abs(shares["test"] - 0.1) < 0.02


def test_a_reply_follows_at_once_from_the_other_speaker() -> None:
    groups = ["a", "a", "a", "a", "b", "b"]
    turns = np.array([0, 1, 2, 4, 5, 6], np.int32)
    speakers = np.array([1, 2, 2, 1, 1, 2], np.int8)
    said, replies = reply_pairs(groups, turns, speakers)
    assert list(zip(said.tolist(), replies.tolist(), strict=True)) == [(0, 1), (4, 5)]


@given(st.lists(st.text(max_size=8)))
def test_equal_texts_have_equal_keys_and_others_do_not(texts: list[str]) -> None:
    encodable = [text for text in texts if text.isprintable()]
    keys = text_keys(Utf8.of(encodable)).tolist()
    assert len(set(zip(encodable, keys, strict=True))) == len(set(encodable)) == len(set(keys))


def dialogues_like(draw: random.Random, num: int) -> list[tuple[str, list[str]]]:
    """Groups and utterances; some dialogues are edited copies of others, some shorter ones."""
    made: list[tuple[str, list[str]]] = []
    for number in range(num):
        if made and draw.random() < 0.4:
            copy = [list(one) for one in draw.choice(made)[1]]
            for _ in range(draw.randrange(4)):
                said = draw.choice(copy)
                said[draw.randrange(len(said))] = draw.choice(LETTERS)
            utterances = ["".join(said) for said in copy]
        else:
            utterances = ["".join(draw.choices(LETTERS, k=30)) for _ in range(draw.randrange(2, 5))]
        made.append((f"{number:032x}", utterances))
    return made


def divided_dialogues(
    dialogues: list[tuple[str, list[str]]], config: SplitsConfig
) -> tuple[Division, dict[str, set[str]]]:
    """The division, and the groups of each split."""
    groups = [group for group, utterances in dialogues for _ in utterances]
    turns = np.array([t for _, utterances in dialogues for t in range(len(utterances))], np.int32)
    texts = Utf8.of([one for _, utterances in dialogues for one in utterances])
    division = divide_texts(groups, turns, dialogue_documents(groups, turns, texts), config)
    return division, {split: {groups[row] for row in rows} for split, rows in division.rows.items()}


def jaccard(one: list[str], other: list[str]) -> float:
    shingles = [
        {text[at : at + 3] for at in range(len(text))}
        for text in ("".join(f"{said}\n" for said in dialogue) for dialogue in (one, other))
    ]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


@pytest.mark.parametrize("by", ["hash", "chronological"])
@pytest.mark.parametrize("seed", range(12))
def test_near_copies_of_what_is_held_out_are_not_trained_on_and_nothing_else_is_lost(
    by: str, seed: int
) -> None:
    dialogues = dialogues_like(random.Random(seed), 60)
    config = SplitsConfig(valid=0.2, test=0.2, by=by)
    division, splits = divided_dialogues(dialogues, config)
    said = dict(dialogues)
    held_out = splits["valid"] | splits["test"]
    left_out = set(said) - held_out - splits["train"]
    assert division.num_near_copies == sum(len(said[group]) for group in left_out)
    for group in left_out:
        assert any(jaccard(said[group], said[other]) >= 0.8 for other in held_out)
    for group in splits["train"]:
        assert all(jaccard(said[group], said[other]) < 0.8 for other in held_out)
    if by == "hash":
        assert held_out == {
            group for group in said if split_of([group], config).tolist() != ["train"]
        }
    dropped, fewer = divided_dialogues(
        dialogues, SplitsConfig(valid=0.2, test=0.2, by=by, near_duplicates="drop")
    )
    assert fewer["valid"] | fewer["test"] == held_out
    assert dropped.num_near_copies == division.num_near_copies
    gone = splits["train"] - fewer["train"]
    assert dropped.num_near_duplicates == sum(len(said[group]) for group in gone)
    for group in gone:
        assert any(jaccard(said[group], said[other]) >= 0.8 for other in splits["train"] - {group})
    for group in fewer["train"]:
        assert all(jaccard(said[group], said[other]) < 0.8 for other in fewer["train"] - {group})


def test_more_data_takes_near_copies_out_of_training_alone() -> None:
    dialogues = dialogues_like(random.Random(2), 120)
    config = SplitsConfig(valid=0.2, test=0.2)
    before, after = (divided_dialogues(part, config)[1] for part in (dialogues[:60], dialogues))
    assert before["valid"] <= after["valid"] and before["test"] <= after["test"]
    known = {group for group, _ in dialogues[:60]}
    assert after["train"] & known < before["train"]


def test_what_came_last_is_held_out() -> None:
    groups = [f"{number:x}" for number in (7, 3, 9, 1, 5, 2, 8, 4, 6, 0)] + ["7"]
    turns = np.zeros(11, np.int32)
    config = SplitsConfig(valid=0.2, test=0.3, by="chronological")
    division = divide_texts(groups, turns, distinct([*range(10), 0]), config)
    assert {split: rows.tolist() for split, rows in division.rows.items()} == {
        "train": [0, 1, 2, 3, 4],
        "valid": [5, 6],
        "test": [7, 8, 9],
    }


def test_pairs_are_compared_with_both_sides() -> None:
    sources, targets = ["我很好。", "ok", ""], ["I am fine.", "", "好"]
    documents = pair_documents(Utf8.of(["x", *sources]).rows(1, 4), Utf8.of(targets))
    assert documents.texts.to_list() == ["我很好。\nI am fine.\n", "ok\n\n", "\n好\n"]
    assert documents.of_rows.tolist() == [0, 1, 2]


def test_data_that_repeats_itself_is_refused_in_one_sentence() -> None:
    dialogues = [(f"{number:032x}", ["今天天气很好，我们去公园吧。"]) for number in range(40)]
    with pytest.raises(InputError, match=r"nothing is left to train on: all .* near copies"):
        divided_dialogues(dialogues, CONFIG)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"by": "date"}, "hash, chronological"),
        ({"similarity": 0.3}, r"0\.5 to 1"),
        ({"near_duplicates": "yes"}, "keep or drop"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SplitsConfig(**wrong)  # type: ignore[arg-type]


def test_what_is_new_is_learnt_and_a_share_of_what_is_known() -> None:
    groups = [f"g{row // 2}" for row in range(4000)]
    known = set(groups[:2000])
    old, learnt = rehearsed(groups, known, 0.2, seed=1)
    assert old[:2000].all() and not old[2000:].any()
    assert learnt[2000:].all()
    # Whole groups, about so many of them, and others with another seed.
    assert (learnt[0:2000:2] == learnt[1:2000:2]).all()
    assert 0.16 < learnt[:2000].mean() < 0.24
    assert (rehearsed(groups, known, 0.2, seed=2)[1] != learnt).any()
    # What a smaller share draws, a larger one draws too.
    assert rehearsed(groups, known, 0.5, seed=1)[1][learnt].all()
    assert rehearsed(groups, known, 1.0, seed=1)[1].all()
    assert not rehearsed(groups, known, 0.0, seed=1)[1][:2000].any()


@given(st.integers(0, 12), st.floats(0, 1), st.floats(0, 1))
def test_every_row_of_an_order_has_one_split(num_rows: int, valid: float, test: float) -> None:
    config = SplitsConfig(valid=valid, test=min(test, 1 - valid), by="chronological")
    rows = divide_in_order(num_rows, config).rows
    taken = [row for split in SPLITS for row in rows[split].tolist()]
    assert taken == list(range(num_rows))
