"""The examples do what they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.parametrize(("table", "says"), [("last_words", "3 of 3"), ("translations", "1.000")])
def test_toys_are_learnt_by_heart(table: str, says: str) -> None:
    example = runpy.run_path(str(EXAMPLES / "by_heart.py"))
    # One cell of many: the others are for the reader to run.
    example["CELLS"][:] = ["gru"]
    rows = example[table]()
    assert set(rows.columns[-1].cells) == {says}
