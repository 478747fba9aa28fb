"""The tasks from records to ids."""

from pathlib import Path

import pytest

from flows import prepare
from pipeline.segmentation import dictionary_digest, packaged_segmenter
from pipeline.text import TextConfig, Utf8


def forget_tables() -> None:
    """As a new process starts: nothing but the warehouse knows jieba's dictionary."""
    prepare._stored_segmenter.cache_clear()


def cut(root: Path, config: TextConfig, text: str) -> list[str]:
    data, token_offsets, _ = prepare.tokenizer_of(str(root), config).tokenize_batch(Utf8.of([text]))
    return Utf8(data.data, token_offsets).to_list()


def test_tables_are_made_once_and_mapped_then(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_tables()
    config = TextConfig(user_words=("杭研大厦",))
    text = "他来到了网易杭研大厦"
    first = cut(warehouse, config, text)
    assert first == ["他", "来到", "了", "网易", "杭研大厦"]
    assert cut(warehouse, TextConfig(), text) == ["他", "来到", "了", "网易", "杭研", "大厦"]
    assert len(list((warehouse / "arrays").iterdir())) == 2

    def never(user_words: tuple[str, ...]) -> None:
        raise AssertionError("the stored tables were not taken")

    monkeypatch.setattr(prepare, "packaged_segmenter", never)
    forget_tables()
    assert cut(warehouse, config, text) == first
    forget_tables()


def test_damaged_tables_are_made_anew(warehouse: Path) -> None:
    forget_tables()
    first = cut(warehouse, TextConfig(), "我来到北京清华大学")
    file = warehouse / "arrays" / dictionary_digest() / "scores.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + b"\0" * 1000 + whole[2000:])
    forget_tables()
    assert cut(warehouse, TextConfig(), "我来到北京清华大学") == first
    assert file.read_bytes() == whole
    forget_tables()


def test_a_dictionary_is_told_by_its_words() -> None:
    digests = {dictionary_digest(words) for words in [(), ("杭研",), ("杭", "研"), ("研", "杭")]}
    assert len(digests) == 4
    assert dictionary_digest() == dictionary_digest()
    assert packaged_segmenter().tables.num_words > 300_000
