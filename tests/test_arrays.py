"""Stored arrays come back as they were, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from warehouse.arrays import Arrays
from warehouse.errors import StorageError

MADE = {
    "scores": np.array([[0.5, -np.inf], [1e-300, 3.0]]),
    "children": np.arange(5, dtype=np.uint64) << np.uint64(60),
    "none": np.zeros(0, np.int32),
}


def test_arrays_come_back_mapped_and_read_only(warehouse: Path) -> None:
    arrays = Arrays(warehouse)
    assert arrays.load("key") is None
    arrays.save("key", MADE)
    found = Arrays(warehouse).load("key")
    assert found is not None and found.keys() == MADE.keys()
    for name, made in MADE.items():
        assert type(found[name]) is np.ndarray
        assert found[name].dtype == made.dtype
        assert (found[name] == made).all()
    assert isinstance(found["scores"].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found["scores"][0, 0] = 1.0


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "manifest", "no manifest", "not a map"])
def test_what_is_damaged_counts_as_absent_and_is_replaced(warehouse: Path, harm: str) -> None:
    arrays = Arrays(warehouse)
    arrays.save("key", MADE)
    folder = warehouse / "arrays" / "key"
    file, manifest = folder / "scores.npy", folder / "manifest.json"
    content = file.read_bytes()
    if harm == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "cut":
        file.write_bytes(content[:-8])
    elif harm == "gone":
        file.unlink()
    elif harm == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:10])
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(["scores"]))
    assert arrays.load("key") is None
    arrays.save("key", MADE)
    found = arrays.load("key")
    assert found is not None and (found["scores"] == MADE["scores"]).all()
    assert [path.name for path in (warehouse / "arrays").iterdir()] == ["key"]


def test_whole_arrays_stay_where_another_was_faster(warehouse: Path) -> None:
    arrays = Arrays(warehouse)
    arrays.save("key", MADE)
    before = (warehouse / "arrays" / "key" / "scores.npy").stat().st_ino
    arrays.save("key", MADE)
    assert (warehouse / "arrays" / "key" / "scores.npy").stat().st_ino == before
    assert [path.name for path in (warehouse / "arrays").iterdir()] == ["key"]


def test_a_place_that_cannot_be_written_is_named(warehouse: Path) -> None:
    (warehouse / "arrays").write_text("no folder")
    with pytest.raises(StorageError, match="arrays cannot be written to"):
        Arrays(warehouse).save("key", MADE)


def test_all_arrays_can_be_removed_at_once(warehouse: Path) -> None:
    arrays = Arrays(warehouse)
    arrays.clear()
    arrays.save("key", MADE)
    arrays.clear()
    assert arrays.load("key") is None
    arrays.save("key", MADE)
    assert arrays.load("key") is not None
