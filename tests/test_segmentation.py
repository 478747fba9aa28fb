import random

import jieba
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jieba import finalseg

from pipeline.text import segmentation
from pipeline.text.segmentation import (
    Segmenter,
    Tables,
    can_join,
    cut_text,
    packaged_jieba,
    packaged_segmenter,
    user_word,
)

ALPHABET = (
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学"
    "面对面吃龥鿕鿖鿗㐀𠀀龘丨abzAZ09+#&._%-'，。！ \t\n\r０Ａé\u0301😀"
)
ANY_TEXT = st.text(
    st.one_of(st.sampled_from(ALPHABET), st.characters(exclude_categories=["Cs"])), max_size=40
)


def cut(segmenter, texts, hmm):
    """The tokens of each text, by the segmenter."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    lengths = np.array([len(text) for text in texts], np.int64)
    ends = segmenter.ends(codes, np.cumsum(lengths) - lengths, hmm=hmm)
    rows, done = [], 0
    for text in texts:
        stops = np.flatnonzero(ends[done : done + len(text)]) + 1
        rows.append([text[a:b] for a, b in zip([0, *stops], stops)])
        assert not text or stops[-1] == len(text)
        done += len(text)
    return rows


def assert_same(segmenter, reference, texts, hmm):
    for text, tokens in zip(texts, cut(segmenter, texts, hmm)):
        assert tokens == reference.lcut(text, HMM=hmm), repr(text)


def fuzzed(seed, num_texts, words=()):
    """Strings of common characters, dictionary words and odd characters, some very repetitive."""
    draw = random.Random(seed)
    dictionary = [word for word in packaged_jieba().FREQ if len(word) > 1]
    for _ in range(num_texts):
        parts = []
        for _ in range(draw.randrange(1, 12)):
            kind = draw.random()
            if kind < 0.4:
                parts.append(draw.choice(dictionary))
            elif kind < 0.5 and words:
                parts.append(draw.choice(words))
            elif kind < 0.9:
                parts.append(draw.choice(ALPHABET))
            else:
                parts.append(draw.choice(ALPHABET) * draw.randrange(2, 6))
        yield "".join(parts) * (draw.randrange(2, 40) if draw.random() < 0.02 else 1)


@pytest.fixture(scope="module")
def jieba_tokenizer():
    return packaged_jieba()


@pytest.fixture(scope="module")
def segmenter():
    return packaged_segmenter()


@pytest.fixture
def own_jieba(jieba_tokenizer):
    """A jieba tokenizer to change; the words that jieba splits process-wide are put back."""
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = dict(jieba_tokenizer.FREQ), jieba_tokenizer.total
    tokenizer.initialized = True
    split_before = set(finalseg.Force_Split_Words)
    yield tokenizer
    finalseg.Force_Split_Words.clear()
    finalseg.Force_Split_Words.update(split_before)


@pytest.mark.parametrize("hmm", [True, False])
@given(texts=st.lists(ANY_TEXT, max_size=5))
@settings(max_examples=100)
def test_any_text(segmenter, jieba_tokenizer, hmm, texts):
    assert_same(segmenter, jieba_tokenizer, texts, hmm)


@pytest.mark.parametrize("hmm", [True, False])
def test_fuzzed_text(segmenter, jieba_tokenizer, hmm):
    assert_same(segmenter, jieba_tokenizer, list(fuzzed(1, 1_500)), hmm)


@pytest.mark.parametrize("hmm", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "面",
        "\r\n",
        "\n\r",
        "面对面对面对" * 100,
        "的" * 1_000,
        "鿕鿖鿗龥" * 3,
        "A股T恤卡拉OK，S.H.E唱93.3FM",
        "电话010-4006506766转2-3，共50.5%%.",
        "www.例子.com/a_b?c=1&d=2",
        "a" * 199 + "好",
        "a" * 200 + "好",
        "𠀀好𠀀",
        "２０２６年１月",
    ],
)
def test_hard_cases(segmenter, jieba_tokenizer, text, hmm):
    assert_same(segmenter, jieba_tokenizer, [text, "吃\r", "\n面", text], hmm)


@pytest.mark.parametrize("hmm", [True, False])
def test_added_reweighted_and_deleted_words(own_jieba, hmm):
    draw = random.Random(3)
    dictionary = [word for word, count in own_jieba.FREQ.items() if count and len(word) > 1]
    added = ["".join(draw.choices(ALPHABET[:70], k=draw.randrange(1, 6))) for _ in range(300)]
    for word in added:
        own_jieba.add_word(word, draw.choice([None, 1, 50, 100_000]))
    for word in draw.sample(dictionary, 50):
        own_jieba.FREQ[word] = draw.randrange(1, 1_000)
    texts = list(fuzzed(4, 600, added))
    assert_same(Segmenter.of(own_jieba), own_jieba, texts, hmm)
    deleted = draw.sample(dictionary, 50) + added[:20] + ["杭研"]
    for word in deleted:
        own_jieba.del_word(word)
    texts = ["他来到了网易杭研大厦", *fuzzed(5, 600, added + deleted)]
    assert_same(Segmenter.of(own_jieba), own_jieba, texts, hmm)


@pytest.mark.parametrize("hmm", [True, False])
def test_entries_of_a_user_dictionary_do_what_jieba_does(own_jieba, hmm):
    draw = random.Random(8)
    dictionary = [word for word, count in own_jieba.FREQ.items() if count and len(word) > 1]
    words = [*draw.sample(dictionary, 150), "杭研", "C++", "的"]
    words += ["".join(draw.choices(ALPHABET[:60], k=draw.randrange(2, 6))) for _ in range(150)]
    entries = []
    for word in dict.fromkeys(words):
        frequency = draw.choice([None, 0, 1, 50, 1_000_000])
        tag = draw.choice([None, "n"])
        if frequency == 0:
            own_jieba.del_word(word)
        else:
            own_jieba.add_word(word, frequency, tag)
        parts = [word, *map(str, [] if frequency is None else [frequency]), *([tag] if tag else [])]
        entries.append(" ".join(parts))
    assert own_jieba.FREQ["杭研"] in (0, 1, 50, 1_000_000)
    own = packaged_jieba(tuple(entries))
    assert (own.FREQ, own.total) == (own_jieba.FREQ, own_jieba.total)
    texts = ["他来到了网易杭研大厦", "啊" * 250, *fuzzed(9, 600, words)]
    split_by_all = set(finalseg.Force_Split_Words)
    expected = [own_jieba.lcut(text, HMM=hmm) for text in texts]
    # What jieba remembers for the whole process is neither needed nor changed.
    finalseg.Force_Split_Words.clear()
    segmenter = Segmenter.of(own)
    assert [cut_text(own, text, hmm=hmm) for text in texts] == expected
    assert cut(segmenter, texts, hmm) == expected
    assert not finalseg.Force_Split_Words
    finalseg.Force_Split_Words.update(split_by_all | {"杭研大厦"})
    assert [cut_text(own, text, hmm=hmm) for text in texts] == expected
    assert cut(segmenter, texts, hmm) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("云计算", ("云计算", None, None)),
        ("云计算 5", ("云计算", 5, None)),
        ("云计算 n", ("云计算", None, "n")),
        ("云计算 0 nz", ("云计算", 0, "nz")),
        ("C++ c", ("C++", None, "c")),
        ("云 计算", ("云 计算", None, None)),
        ("云计算 -5", ("云计算 -5", None, None)),
        ("云计算 " + "9" * 5_000, ("云计算 " + "9" * 5_000, None, None)),
        ("", ("", None, None)),
    ],
)
def test_an_entry_is_read_as_jieba_reads_it(entry, expected):
    assert user_word(entry) == expected


@pytest.mark.parametrize("hmm", [True, False])
def test_pieces_end_where_no_block_is_torn(segmenter, jieba_tokenizer, hmm, monkeypatch):
    texts = [text for text in fuzzed(6, 200) if len(text) < 60]
    texts += ["，" * 150, "a\r\n" * 60, "面对面" * 19, "面对面" * 20]
    for size in (60, 61, 62, 100):
        monkeypatch.setattr(segmentation, "_PIECE", size)
        assert_same(segmenter, jieba_tokenizer, texts, hmm)


@pytest.mark.parametrize("hmm", [True, False])
def test_endless_text_is_cut_in_linear_time(segmenter, jieba_tokenizer, hmm):
    short = "面条很好吃" * 2_000
    long = short + "吃"
    for text in (short, long, f"好，{long}。{short}，{long}"):
        tokens = cut_text(jieba_tokenizer, text, hmm=hmm)
        assert cut(segmenter, [text, "好"], hmm) == [tokens, ["好"]]
    assert cut_text(jieba_tokenizer, short, hmm=hmm) == jieba_tokenizer.lcut(short, HMM=hmm)
    assert sum(map(len, cut(segmenter, ["ab" * 1_000_000], hmm)[0])) == 2_000_000


def test_texts_are_cut_apart(segmenter):
    assert cut(segmenter, ["北京", "大学", "", "a", "b", "1.", "5"], True) == [
        ["北京"],
        ["大学"],
        [],
        ["a"],
        ["b"],
        ["1", "."],
        ["5"],
    ]
    assert cut(segmenter, ["a", "b", "cd"], False) == [["a"], ["b"], ["cd"]]
    assert cut(segmenter, [], True) == []


@pytest.mark.parametrize("hmm", [True, False])
def test_real_text(shared_data, segmenter, jieba_tokenizer, hmm):
    texts = []
    for path in sorted((shared_data / "dialogues").glob("*.jsonl")):
        rows = path.read_bytes().splitlines()[:60]
        texts += [text for row in rows for text in orjson.loads(row)["dialog"]]
    for row in (shared_data / "parallel" / "tatoeba.en-zh.jsonl").read_bytes().splitlines()[::20]:
        texts += orjson.loads(row).values()
    assert_same(segmenter, jieba_tokenizer, texts, hmm)


def test_tables_come_back_from_arrays(segmenter, jieba_tokenizer, tmp_path):
    arrays = Tables.of(jieba_tokenizer).to_arrays()
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}

    def never():
        raise AssertionError("short text needs no jieba")

    again = Segmenter(Tables.from_arrays(mapped), never)
    texts = list(fuzzed(7, 200))
    texts = [text for text in texts if len(text) <= 200]
    assert cut(again, texts, True) == cut(segmenter, texts, True)


def test_what_jieba_can_join():
    assert can_join("C++语言") and can_join("龥")
    assert not any(map(can_join, ["", "张 三", "３", "龥，", "\u9fd6"]))
