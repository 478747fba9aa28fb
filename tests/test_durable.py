import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from warehouse.arrays import Arrays
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.durable import make_folder, replace_file, write_aside
from warehouse.errors import StorageError
from warehouse.files import FileRef, keep_file
from warehouse.forgotten import Forgotten
from warehouse.ingests import (
    LastIngest,
    keep_mended_rows,
    last_ingest,
    mended_rows,
    remember_ingest,
)
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import SnapshotRef, Tables


def test_a_file_has_its_old_or_its_new_content(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "note.json"
    replace_file(path, b"old")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in path.parent.iterdir()] == ["note.json"]


def test_a_full_disk_is_not_made_fuller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    replace_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_aside(tmp_path, b"new")
    with pytest.raises(StorageError, match=r"written to \(No space left.*free some space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["note.json"]


def test_a_folder_may_be_there_already(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def fill(root: Path) -> tuple[TableRef, SnapshotRef, CheckpointRef, FileRef]:
    """One of everything that is kept."""
    tables, checkpoints = Tables(root), Checkpoints(root)
    schema = pa.schema([("a", pa.int32())])
    table = tables.write(pa.table({"a": [1, 2]}, schema).to_batches(), schema)
    snapshot = tables.commit("talks", [table])
    with tables.held(alone=False):
        pass
    model = checkpoints.save({"a": 1}, {"w": torch.zeros(2)}, {"vocabulary": "{}"}, [])
    checkpoints.save_state("training", {"w": torch.zeros(2)}, {"step": 1})
    Arrays(root).save("key", {"a": np.zeros(2)})
    Forgotten(root).save()
    keep_mended_rows(root, "talks", {})
    remember_ingest(root, "talks", LastIngest())
    return table, snapshot, model, keep_file(root, "profiles", "html", b"<p>")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_says_who_may_read_and_write(warehouse: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        fill(warehouse)
    finally:
        os.umask(before)
    made = list(warehouse.rglob("*"))
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in made}
    assert modes == {(True, 0o777 & ~umask), (False, 0o666 & ~umask)}


@pytest.fixture
def other_user(warehouse: Path) -> Iterator[Callable[[], None]]:
    """From the call on, this process may not read what is in the warehouse."""

    def change() -> None:
        for path in [warehouse, *warehouse.rglob("*")]:
            if path.is_file():
                path.chmod(0)
        if os.geteuid() == 0:
            # Root may read everything, whatever the modes are; pytest's folders are its own alone.
            os.seteuid(65534)

    yield change
    os.seteuid(os.getuid())


def test_what_this_user_may_not_read_is_not_called_damaged(
    warehouse: Path, other_user: Callable[[], None]
) -> None:
    table, snapshot, model, file = fill(warehouse)
    tables, checkpoints = Tables(warehouse), Checkpoints(warehouse)
    other_user()
    reads: list[Callable[[], Any]] = [
        lambda: table.intact(warehouse),
        lambda: tables.read(table),
        lambda: tables.snapshot(snapshot),
        lambda: tables.log("talks"),
        lambda: tables.commit("other", [table]),
        lambda: model.intact(warehouse),
        lambda: checkpoints.load(model),
        lambda: checkpoints.load_state("training"),
        lambda: file.intact(warehouse),
        lambda: Forgotten(warehouse),
        lambda: mended_rows(warehouse, "talks"),
        lambda: last_ingest(warehouse, "talks"),
    ]
    for read in reads:
        with pytest.raises(StorageError, match="may not be read by this user: have its owner"):
            read()
    (fault,) = tables.verify([table])
    assert "may not be read" in fault.problem
