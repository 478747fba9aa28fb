"""What is called a near duplicate is one, hardly one is missed, and nothing depends on chance."""

import random
import subprocess
import sys
from itertools import combinations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.splits import near_duplicates
from pipeline.splits.near_duplicates import (
    NUM_HASHES,
    Sketches,
    _band_width,
    later_near_duplicates,
    near_copies,
)
from pipeline.text import utf8
from pipeline.text.utf8 import Utf8

LETTERS = "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下"
texts_of_few_letters = st.lists(st.text("ab好 ￭😀", max_size=12), max_size=12)


def similarity(one: str, other: str) -> float:
    """Jaccard similarity as the definition says it, on strings."""

    def shingles(whole: str) -> set[str]:
        bare = whole.replace(" ", "").replace("￭", "")
        return {bare[at : at + 3] for at in range(len(bare))}

    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def random_text(draw: random.Random, length: int) -> str:
    return "".join(draw.choices(LETTERS, k=length))


def edited(draw: random.Random, original: str, num_edits: int) -> str:
    letters = list(original)
    for _ in range(num_edits):
        letters[draw.randrange(len(letters))] = draw.choice(LETTERS)
    return "".join(letters)


@given(texts_of_few_letters, st.sampled_from([0.5, 0.8, 1.0]), st.data())
def test_every_near_copy_is_one(texts: list[str], threshold: float, data: st.DataObject) -> None:
    of = np.array([data.draw(st.booleans()) for _ in texts], bool)
    found = near_copies(Sketches.of(Utf8.of(texts)), of, threshold)
    assert not (found & of).any()
    held = [texts[row] for row in np.flatnonzero(of)]
    for row in np.flatnonzero(found):
        assert any(similarity(texts[row], other) >= threshold for other in held)
    # Equal shingles give equal signatures, so a copy in full is never missed.
    for row in np.flatnonzero(~of & ~found):
        assert all(similarity(texts[row], other) < 1 for other in held)


@given(texts_of_few_letters, st.sampled_from([0.5, 0.8, 1.0]))
def test_of_a_group_the_first_stays(texts: list[str], threshold: float) -> None:
    everything = np.ones(len(texts), bool)
    found = later_near_duplicates(Sketches.of(Utf8.of(texts)), everything, threshold)
    assert not found[:1].any()
    for row in np.flatnonzero(found):
        assert any(similarity(texts[row], other) >= threshold for other in texts[:row])
    kept = [texts[row] for row in np.flatnonzero(~found)]
    assert all(similarity(*pair) < 1 for pair in combinations(kept, 2))


def test_hardly_a_near_copy_is_missed() -> None:
    draw = random.Random(5)
    texts = [random_text(draw, draw.randrange(30, 300)) for _ in range(1_000)]
    copies = [edited(draw, one, draw.randrange(len(one) // 25 + 1)) for one in texts]
    of = np.arange(2_000) < 1_000
    found = near_copies(Sketches.of(Utf8.of(texts + copies)), of, 0.8)
    near = [similarity(*pair) >= 0.8 for pair in zip(texts, copies)]
    assert sum(near) > 700
    assert found[1_000:].tolist() == near


def test_a_text_changes_no_other() -> None:
    draw = random.Random(6)
    texts = [random_text(draw, 40) for _ in range(50)]
    alone = [Sketches.of(Utf8.of([one])).signatures[0].tolist() for one in texts]
    assert Sketches.of(Utf8.of(texts)).signatures.tolist() == alone


def test_pieces_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(7)
    texts = [random_text(draw, draw.randrange(60)) for _ in range(80)]
    whole = Sketches.of(Utf8.of(texts)).signatures
    monkeypatch.setattr(near_duplicates, "_PIECE", 37)
    monkeypatch.setattr(utf8, "_CHUNK_BYTES", 500)
    assert (Sketches.of(Utf8.of(texts)).signatures == whole).all()


def test_one_band_is_as_wide_as_the_threshold_allows() -> None:
    assert [_band_width(threshold) for threshold in (0.5, 0.8, 0.95, 1.0)] == [2, 4, 8, 16]
    assert NUM_HASHES % 16 == 0


def test_signatures_are_the_same_in_every_process() -> None:
    program = (
        "from pipeline.splits.near_duplicates import Sketches\n"
        "from pipeline.text.utf8 import Utf8\n"
        "print(Sketches.of(Utf8.of(['今天天气很好，我们去公园吧。'])).signatures.tobytes().hex())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1 and len(said.pop()) > NUM_HASHES


def test_real_pairs(shared_data) -> None:
    lines = (shared_data / "parallel" / "tatoeba.en-zh.jsonl").read_bytes().splitlines()[:6_000]
    pairs = ["\n".join(orjson.loads(line).values()) for line in lines]
    of = np.arange(len(pairs)) % 5 == 0
    found = near_copies(Sketches.of(Utf8.of(pairs)), of, 0.8)
    held = [pairs[row] for row in np.flatnonzero(of)]
    assert 10 < found.sum() < 0.1 * len(pairs)
    for row in np.flatnonzero(found):
        assert max(similarity(pairs[row], other) for other in held) >= 0.8
