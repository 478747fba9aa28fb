from pathlib import Path

import pytest

from warehouse.errors import StorageError
from warehouse.files import keep_file


def test_a_file_is_named_by_its_content(warehouse: Path) -> None:
    ref = keep_file(warehouse, "profiles/abc", "html", "<p>你好".encode())
    assert (warehouse / ref.path).read_text(encoding="utf-8") == "<p>你好"
    assert ref.path == f"profiles/abc/{ref.digest[:16]}.html"
    assert keep_file(warehouse, "profiles/abc", "html", "<p>你好".encode()) == ref
    assert keep_file(warehouse, "profiles/abc", "html", b"<p>") != ref
    assert len(list((warehouse / "profiles" / "abc").iterdir())) == 2


def test_a_damaged_file_is_written_again(warehouse: Path) -> None:
    ref = keep_file(warehouse, "profiles", "json", b"{}")
    (warehouse / ref.path).write_bytes(b"{")
    assert not ref.intact(warehouse)
    assert keep_file(warehouse, "profiles", "json", b"{}").intact(warehouse)
    (warehouse / ref.path).unlink()
    assert not ref.intact(warehouse)


def test_a_folder_that_cannot_be_is_one_sentence(warehouse: Path) -> None:
    (warehouse / "profiles").write_text("a file is in the way")
    with pytest.raises(StorageError, match=r"profiles/abc cannot be written to"):
        keep_file(warehouse, "profiles/abc", "html", b"<p>")
