"""Ragged rows: taken apart, joined, and padded by one gather."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.problems.ragged import Ragged

rows_of_ids = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8)


@given(rows_of_ids)
def test_rows_come_back_as_they_were_joined(rows: list[list[int]]) -> None:
    ragged = Ragged.of(rows)
    assert [row.tolist() for row in ragged] == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]


@given(rows_of_ids.filter(bool), st.data())
def test_padded_rows_hold_their_values_and_padding_behind_them(
    rows: list[list[int]], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    width = max(len(rows[row]) for row in chosen)
    expected = [rows[row] + [-1] * (width - len(rows[row])) for row in chosen]
    padded = Ragged.of(rows).padded(np.array(chosen), -1)
    assert padded.tolist() == (expected if width else [[] for _ in chosen])


def test_a_fixed_width_cuts_and_fills() -> None:
    ragged = Ragged.of([[1, 2, 3], [4]])
    assert ragged.padded(np.array([0, 1]), 0, 2).tolist() == [[1, 2], [4, 0]]


def test_no_copy_is_made_of_the_values() -> None:
    values = np.arange(5, dtype=np.int32)
    ragged = Ragged(values, np.array([0, 2, 5]))
    assert np.shares_memory(ragged[1], values)
