from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.tables.columns import (
    count_words,
    dictionary_column,
    list_array,
    ragged_column,
    string_array,
    tokens_array,
    utf8_column,
)
from warehouse.tables.tables import Tables

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=8)


@given(texts, st.integers(0, 8), st.integers(0, 8))
def test_strings_cross_without_loss(strings: list[str], begin: int, length: int) -> None:
    array = pa.array(strings, pa.string()).slice(begin, length)
    data, offsets = utf8_column(array)
    assert [
        bytes(data[offsets[i] : offsets[i + 1]]).decode() for i in range(len(array))
    ] == strings[begin : begin + length]
    again = string_array(data, offsets)
    again.validate(full=True)
    assert again.equals(array)
    chunked = pa.chunked_array([pa.array(strings, pa.string()), array], pa.string())
    data, offsets = utf8_column(chunked)
    assert string_array(data, offsets).to_pylist() == chunked.to_pylist()


def test_strings_cross_without_a_copy() -> None:
    array = pa.array(["一", "two"])
    data, _ = utf8_column(array)
    assert data.__array_interface__["data"][0] == array.buffers()[2].address
    again = string_array(data, np.array([0, 3, 6]))
    assert again.buffers()[2].address == array.buffers()[2].address


@settings(max_examples=50)
@given(st.lists(st.lists(st.text("ab一", max_size=2), max_size=3), max_size=6), st.integers(0, 3))
def test_words_cross_as_a_dictionary(rows: list[list[str]], begin: int) -> None:
    kind = pa.list_(pa.string())
    for column in (
        pa.array(rows, kind).slice(begin),
        pa.chunked_array([pa.array(rows, kind).slice(begin)], kind),
        pa.chunked_array([pa.array(rows[:2], kind), pa.array(rows[2:], kind)], kind),
        pa.chunked_array([], kind),
    ):
        dictionary, indices, offsets = dictionary_column(column)
        assert indices.dtype == np.int32
        words = [dictionary[i] for i in indices]
        assert [
            words[offsets[i] : offsets[i + 1]] for i in range(len(column))
        ] == column.to_pylist()
        assert len(set(dictionary)) == len(dictionary)


def test_ids_cross_as_values_and_offsets(warehouse: Path) -> None:
    values, offsets = np.array([5, 6, 7], np.int32), np.array([0, 2, 2, 3])
    ids = list_array(values, offsets)
    assert ids.to_pylist() == [[5, 6], [], [7]]
    assert list_array(values, offsets, pa.int64()).type == pa.list_(pa.int64())
    once = pa.table({"ids": ids})
    for stored in (once, pa.concat_tables([once.slice(1), once]), once.slice(3)):
        got_values, got_offsets = ragged_column(stored, "ids")
        assert got_values.dtype == np.int32
        assert list_array(got_values, got_offsets).to_pylist() == stored["ids"].to_pylist()
    tables = Tables(warehouse)
    assert ragged_column(tables.read(tables.write([once])), "ids")[0].tolist() == [5, 6, 7]


def test_tokens_share_the_text() -> None:
    data = np.frombuffer("我来到北京清华".encode(), np.uint8)
    tokens = tokens_array(data, np.array([0, 3, 9, 15, 21]), np.array([0, 3, 3, 4]))
    assert tokens.to_pylist() == [["我", "来到", "北京"], [], ["清华"]]
    assert tokens.values.buffers()[2].address == data.__array_interface__["data"][0]


def test_words_are_counted_over_batches() -> None:
    rows = pa.table({"tokens": [["b", "a"], [], ["a", "一"], ["b"], ["c", "a"]]})
    words, counts = count_words(rows.to_batches(max_chunksize=2), "tokens")
    assert (words, counts.tolist()) == (["a", "b", "c", "一"], [3, 2, 1, 1])
    words, counts = count_words(pa.table({"topic": ["x", "y", "x"]}).to_batches(), "topic")
    assert (words, counts.tolist()) == (["x", "y"], [2, 1])
    words, counts = count_words([], "tokens")
    assert (words, counts.tolist()) == ([], [])
