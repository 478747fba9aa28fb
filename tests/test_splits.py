"""Splits never leak and never move."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import SPLITS, SplitsConfig, split_of
from pipeline.splits import divide_pairs, divide_texts, reply_pairs, text_keys
from pipeline.text import Utf8

CONFIG = SplitsConfig(valid=0.25, test=0.25)
sentences = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=60)
replies = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 20)), max_size=60)


def divided(pairs: list[tuple[int, int]]) -> dict[str, list[tuple[int, int]]]:
    sources = np.array([source for source, _ in pairs], np.uint64)
    targets = np.array([target for _, target in pairs], np.uint64)
    groups = [f"{source:032x}" for source, _ in pairs]
    division = divide_pairs(groups, sources, targets, CONFIG, sides_alone_leak=True)
    kept = sum(len(rows) for rows in division.rows.values())
    assert kept + division.num_duplicates + division.num_leaks == len(pairs)
    return {split: [pairs[row] for row in division.rows[split]] for split in SPLITS}


@given(sentences)
def test_no_sentence_of_either_side_is_trained_on_and_held_out(
    pairs: list[tuple[int, int]],
) -> None:
    splits = divided(pairs)
    held_out = splits["valid"] + splits["test"]
    for side in (0, 1):
        assert not {pair[side] for pair in splits["train"]} & {pair[side] for pair in held_out}
    assert not {source for source, _ in splits["valid"]} & {source for source, _ in splits["test"]}


@given(sentences)
def test_what_is_held_out_is_held_out_whole_and_once(pairs: list[tuple[int, int]]) -> None:
    splits = divided(pairs)
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
    division = divide_pairs(groups, sources, targets, CONFIG, sides_alone_leak=False)
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
    division = divide_texts(groups, turns, CONFIG)
    assert division.num_duplicates == 3
    rows = sorted(row for taken in division.rows.values() for row in taken)
    assert rows == [0, 1, 2, 3, 4]
    where = {row: split for split, taken in division.rows.items() for row in taken}
    assert len({where[row] for row in (0, 1, 2)}) == 1


def test_shares_are_what_was_asked_for() -> None:
    groups = [f"{number:032x}" for number in range(4000)]
    division = divide_texts(groups, np.zeros(4000, np.int32), SplitsConfig())
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
