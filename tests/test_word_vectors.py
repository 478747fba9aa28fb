"""Word vectors in word2vec's text format: read, refused, and where training begins."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from flows.environment import SAMPLES
from flows.prepare.vocabularies import VocabularyRef
from flows.retrain import retrain
from flows.steps.steps import Steps
from flows.training.train import align_vectors
from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.problems import Forecasting, NextWord
from pipeline.text.config import TextConfig
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import check_vectors
from warehouse.checkpoints import read_checkpoint
from warehouse.errors import StorageError
from warehouse.tables.example_schemas import vectors_of, vectors_table, words_table
from warehouse.tables.tables import Tables
from warehouse.word_vectors import find_vectors, read_vectors

TEXT = "3 2\n你 0.5 -1\n好 2e-1 3\n、 0 0.25\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_wanted_words_get_their_vectors_and_others_none(file: Path) -> None:
    found = find_vectors(str(file))
    assert (found.num_words, found.size) == (3, 2)
    vectors = read_vectors(found, ["好", "吗", "你"])
    np.testing.assert_allclose(vectors[[0, 2]], [[0.2, 3], [0.5, -1]])
    assert np.isnan(vectors[1]).all()


def test_a_packed_file_is_the_same(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "vectors.txt.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    ours, theirs = (read_vectors(find_vectors(str(path)), ["你", "好"]) for path in (file, packed))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("你 0.5 -1\n", "line 1.*begins with two counts"),
        ("", "line 1.*begins with two counts"),
        ("3 2\n你 0.5 -1\n好 1\n、 0 0\n", "line 3.*2 numbers"),
        ("3 2\n你 0.5 -1\n好 1 x\n、 0 0\n", "line 3.*2 numbers"),
        ("3 2\n你 0.5 nan\n好 1 1\n、 0 0\n", "line 2.*2 numbers"),
        ("3 2\n你 0.5 -1\n", "3 words and ends after 1"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match=said) as raised:
        read_vectors(find_vectors(str(path)), ["你", "好"])
    assert str(raised.value).count("vectors.txt") == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.txt cannot be read \(No such file") as raised:
        find_vectors(str(tmp_path / "nowhere.txt"))
    assert str(raised.value).count("nowhere.txt") == 1


def test_vectors_are_aligned_with_the_ids_of_the_vocabulary(file: Path, warehouse: Path) -> None:
    tables = Tables(warehouse)
    counts = tables.write([words_table(["吗", "好"], np.array([2, 1]))])
    vocabulary = VocabularyRef(counts=counts, num_words=2, num_tokens=3, unknown_rate=0.0)
    ref = Steps(warehouse).run(
        align_vectors,
        root=str(warehouse),
        vectors=find_vectors(str(file)),
        vocabulary=vocabulary,
    )
    vectors = vectors_of(tables.read(ref))
    assert np.isnan(vectors[:5]).all(), "four specials and a word without a vector"
    np.testing.assert_allclose(vectors[5], [0.2, 3])


def test_a_table_of_vectors_reads_back() -> None:
    vectors = np.array([[np.nan, np.nan], [1, 2], [np.nan, np.nan], [3, 4]], np.float32)
    np.testing.assert_array_equal(vectors_of(vectors_table(vectors)), vectors)


def test_a_retraining_begins_from_given_vectors(tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.txt"
    letters = sorted(set((SAMPLES / "dialogues.jsonl").read_text(encoding="utf-8")) - set(" \n"))
    rows = [f"{letter} " + " ".join(["0.125"] * 8) for letter in letters]
    vectors.write_text(f"{len(rows)} 8\n" + "\n".join(rows) + "\n", encoding="utf-8")

    report = retrain.fn(
        name="words",
        problem=NextWord(window=2),
        sources=["sample:dialogues"],
        variants=["gru"],
        network=NetworkConfig(8, 12, 0.0, embedding="frozen"),
        training=TrainingConfig(num_epochs=1),
        text=TextConfig(unit="char"),
        vectors=str(vectors),
        warehouse=str(tmp_path / "w"),
    )
    assert report.variants[0].version == 1
    (checkpoint,) = (tmp_path / "w" / "checkpoints").glob("[0-9a-f]*")
    weights = read_checkpoint(checkpoint).weights["embedding.weight"]
    assert bool((weights[4:] == 0.125).all())
    assert not bool((weights[:4] == 0.125).any())


def test_vectors_without_a_place_are_refused() -> None:
    with pytest.raises(InputError, match=r"network\.embedding_size=300"):
        check_vectors(NextWord(), NetworkConfig(), 300)
    with pytest.raises(InputError, match="to frozen"):
        check_vectors(NextWord(), NetworkConfig(300, embedding="one_hot"), 300)
    with pytest.raises(InputError, match="reads no words"):
        check_vectors(Forecasting(), NetworkConfig(), 300)
