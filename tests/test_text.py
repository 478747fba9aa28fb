import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.text.config import TextConfig
from pipeline.text.normalise import DEFAULT_STEPS, normalise, normalise_batch
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.utf8 import Utf8

# Characters and pieces that the steps and tokenizers care about, between ordinary ones.
PIECES = [
    *"面条好吃。，！？　．％１２ＡｂAbİΣσς\u0301",
    *"\u200d\u200b\ufeff\u202e\r\n\t \x00\x1c\x85\xa0\u2028",
    *"'’\"().-_&<>;#0123%￭￮❤👩💻🏽한ᅡᆨé\u212b",
    *["<br>", "</p>", "<b>", "<unk>", "&amp;", "&lt;", "&#65313;", "&#x300;", "don't", "I’m", "￮j"],
    *["n't", "'s", "10:30", "3,000.5", "U.S.", "……", "...", "中国人民", "hello world", "  "],
]
ANY_TEXT = st.lists(
    st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"])), max_size=12
).map("".join)
STEPS = st.permutations(DEFAULT_STEPS).flatmap(
    lambda steps: st.integers(0, len(steps)).map(lambda n: tuple(steps[:n]))
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("面条，好吃！？…：；（）", "面条，好吃！？…：；（）"),
        ("ＡＢＣ１２３ｘｙｚ", "ABC123xyz"),
        ("你　好", "你 好"),
        ("３．５，５０％。４．", "3.5，50%。4．"),
        ("很％", "很％"),
        ("<p>第一<b>行</b><br/>第二行</P >", "第一行 第二行"),
        ('看<a href="http://x.y/?a=1">这里</a>', "看这里"),
        ("前<!-- 注释 -->后", "前后"),
        ("<unk> <3 a<b x>y <eos>", "<unk> <3 a<b x>y <eos>"),
        ("<b and c> <a", "<b and c> <a"),
        ("AT&T &amp; &lt;b&gt; &#39;x&#x27; &amp;amp;", "AT&T & <b> 'x' &amp;"),
        ("?a=1&copy=2&nosuchname;", "?a=1&copy=2&nosuchname;"),
        ("你\u200b好\ufeff\u202e吗\x00\x07\xad", "你好吗"),
        ("👩\u200d💻 a\u200db 👩\u200d", "👩\u200d💻 ab 👩"),
        ("❤\ufe0f\u200d🔥 👩🏽\u200d🚀", "❤\ufe0f\u200d🔥 👩🏽\u200d🚀"),
        ("e\u0301 \u212b", "é Å"),
        (" a\r\n\tb\u2028c\xa0 ", "a b c"),
        ("&nbsp;a&ensp;&#8203;b", "a b"),
        ("a\ud800b", "ab"),
        ("", ""),
    ],
)
def test_normalise(raw, clean):
    assert normalise(raw, DEFAULT_STEPS) == clean


def test_each_step_can_be_left_out():
    raw = "<b>Ａ</b>&amp;e\u0301\u200b  x"
    full = normalise(raw, DEFAULT_STEPS)
    for left_out in DEFAULT_STEPS:
        steps = [step for step in DEFAULT_STEPS if step != left_out]
        assert normalise(raw, steps) != full
    assert normalise(raw, ()) == raw


@given(ANY_TEXT)
def test_normalising_again_changes_nothing_but_markup(text):
    steps = [step for step in DEFAULT_STEPS if step not in ("tags", "entities")]
    once = normalise(text, steps)
    assert normalise(once, steps) == once


@pytest.mark.parametrize(
    "hard",
    [
        "<a " * 50_000,
        "<a x=" * 50_000,
        "<!--" * 50_000,
        "&a" * 50_000,
        "<a" + " x=y" * 50_000,
        "<p" + " " * 200_000,
        "\u200d" * 100_000,
    ],
)
def test_hard_text_takes_linear_time(hard):
    normalise(hard, DEFAULT_STEPS)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"language": "fr"}, "zh, en"),
        ({"unit": "byte"}, "word, char, whitespace, subword"),
        ({"normalisation": ("nfkc",)}, "nfc"),
        ({"user_words": ("张 三",)}, "张 三"),
        ({"user_words": ("",)}, "''"),
        ({"user_words": ("ＡＡ制",)}, "'AA制'"),
        ({"user_words": ("AA制",), "lowercase": True}, "'aa制'"),
        ({"user_words": ("制",), "language": "en"}, "user_words"),
        ({"user_words": ("云计算 -1",)}, "0 deletes it"),
        ({"user_words": ("云计算\t5",)}, "'云计算 5'"),
        ({"user_words": ("云计算 1000000001",)}, "at most 1000000000"),
        ({"user_words": ("云计算 5", "阿里", "云计算 n")}, "'云计算' is given twice"),
    ],
)
def test_bad_settings_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        TextConfig(**settings)


def test_settings_read_from_json_are_equal():
    config = TextConfig(user_words=["阿里云"], normalisation=["nfc"])
    assert config == TextConfig(user_words=("阿里云",), normalisation=("nfc",))
    assert hash(config) == hash(TextConfig(user_words=("阿里云",), normalisation=("nfc",)))


@given(st.lists(ANY_TEXT, max_size=5), STEPS, st.booleans())
@settings(max_examples=150)
def test_normalise_batch_is_normalise_row_by_row(texts, steps, lowercase):
    expected = [normalise(text, steps) for text in texts]
    expected = [text.lower() for text in expected] if lowercase else expected
    column = Utf8.of(texts)
    for known_utf8 in (False, True):
        found = normalise_batch(column, steps, lowercase=lowercase, known_utf8=known_utf8)
        assert found.to_list() == expected


def test_no_single_character_or_pair_slips_past_the_mask():
    # Every character alone, behind a letter, behind Hangul, and before a combining mark.
    codes = [code for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for frame in ("{}", "e{}가", "가{}e", "a{}\u0301"):
        texts = [frame.format(chr(code)) for code in codes]
        found = normalise_batch(Utf8.of(texts)).to_list()
        assert found == [normalise(text, DEFAULT_STEPS) for text in texts]


def test_lower_case_in_a_column():
    texts = [f"A{chr(code)}Z" for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    found = normalise_batch(Utf8.of(texts), (), lowercase=True).to_list()
    assert found == [text.lower() for text in texts]


def test_no_composition_slips_past_the_mask():
    pairs = [unicodedata.normalize("NFD", chr(code)) for code in range(0x30000)]
    pairs = [pair for pair in pairs if not unicodedata.is_normalized("NFC", pair)]
    assert len(pairs) > 11_000
    found = normalise_batch(Utf8.of(pairs)).to_list()
    assert found == [normalise(pair) for pair in pairs]


def test_clean_columns_pass_without_a_copy():
    column = Utf8.of(["不用改。", "", "hello, world"])
    assert normalise_batch(column) is column


def test_a_slice_of_a_column_is_a_column():
    column = Utf8.of(["ＡＡ", "面 ", "好", "ＢＢ"]).rows(1, 3)
    assert normalise_batch(column).to_list() == ["面", "好"]
    tokens, _, list_offsets = Tokenizer(TextConfig()).tokenize_batch(column)
    assert tokens.to_list() == ["面", "好"]
    assert list_offsets.tolist() == [0, 1, 2]


def test_bytes_that_are_not_utf8_are_named():
    column = Utf8.of_bytes([b"ok", b"a\xffb"])
    with pytest.raises(InputError, match="text 1"):
        normalise_batch(column)


def test_chinese_words():
    tokenizer = Tokenizer(TextConfig())
    assert tokenizer.tokenize("我来到北京清华大学，　ＯＫ") == [
        "我",
        "来到",
        "北京",
        "清华大学",
        "，",
        " ",
        "OK",
    ]
    assert tokenizer.tokenize("") == []


def test_hmm_and_user_words_change_the_cut():
    text = "他来到了网易杭研大厦"
    assert "杭研" in Tokenizer(TextConfig()).tokenize(text)
    assert "杭研" not in Tokenizer(TextConfig(hmm=False)).tokenize(text)
    assert "杭研大厦" in Tokenizer(TextConfig(user_words=("杭研大厦",))).tokenize(text)
    assert "杭研大厦" not in Tokenizer(TextConfig()).tokenize(text)


def test_global_jieba_and_its_cache_stay_untouched(tmp_path, monkeypatch):
    import tempfile

    import jieba

    from pipeline.text.segmentation import packaged_jieba

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "jieba.cache").write_bytes(b"planted")
    packaged_jieba.cache_clear()
    Tokenizer(TextConfig(user_words=("杭研大厦", "杭研 0"))).tokenize("杭研大厦")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"planted"]
    assert "杭研大厦" not in jieba.dt.FREQ


def test_characters_and_given_words():
    assert Tokenizer(TextConfig(unit="char")).tokenize("面 a👩") == ["面", " ", "a", "👩"]
    words = Tokenizer(TextConfig(language="en", unit="whitespace"))
    assert words.tokenize(" the  <unk> , end ") == ["the", "<unk>", ",", "end"]
    assert words.detokenise(["the", "end"]) == "the end"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello, Tom's here.", ["Hello", "￭,", "Tom", "￭'s", "here", "￭."]),
        ("I'm sure they don't!", ["I", "￭'m", "sure", "they", "do", "￭n't", "￭!"]),
        ("DON’T can't", ["DO", "￭N’T", "ca", "￭n't"]),
        ('"Yes," he said.', ['"￭', "Yes", "￭,", '￭"', "he", "said", "￭."]),
        ('("no")', ["(￭", '"￭', "no", '￭"', "￭)"]),
        ("well-known", ["well", "￭-￭", "known"]),
        ("$3,000.50 at 10:30.", ["$￭", "3,000.50", "at", "10:30", "￭."]),
        ("rock'n'roll", ["rock", "￭'￭", "n", "￭'￭", "roll"]),
        ("'s n't", ["'￭", "s", "n", "￭'￭", "t"]),
        ("wait......", ["wait", "￭...", "￭..."]),
        ("3rd", ["3", "￭rd"]),
        ("- a", ["-", "a"]),
        ("a￭b ￮", ["a", "￭￮j￭", "b", "￮e"]),
        ("", []),
    ],
)
def test_english_words(text, tokens):
    tokenizer = Tokenizer(TextConfig(language="en"))
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer.detokenise(tokens) == text


CONFIGS = [
    TextConfig(),
    TextConfig(hmm=False, normalisation=()),
    TextConfig(unit="char", lowercase=True),
    TextConfig(unit="whitespace"),
    TextConfig(language="en"),
    TextConfig(language="en", normalisation=(), lowercase=True),
]


@pytest.mark.parametrize("config", CONFIGS)
@given(text=ANY_TEXT)
def test_nothing_is_lost(config, text):
    tokenizer = Tokenizer(config)
    assert tokenizer.detokenise(tokenizer.tokenize(text)) == tokenizer.normalise(text)
    assert "" not in tokenizer.tokenize(text)


@pytest.mark.parametrize("config", CONFIGS)
@given(texts=st.lists(ANY_TEXT, max_size=6))
def test_tokenize_batch_is_tokenize_row_by_row(config, texts):
    tokenizer = Tokenizer(config)
    data, token_offsets, list_offsets = tokenizer.tokenize_batch(Utf8.of(texts))
    tokens = Utf8(data.data, token_offsets).to_list()
    rows = [tokens[a:b] for a, b in pairwise(list_offsets)]
    assert rows == [tokenizer.tokenize(text) for text in texts]
    assert token_offsets[0] == list_offsets[0] == data.offsets[0] == 0
    assert token_offsets[-1] == len(data.data)
    assert token_offsets[list_offsets].tolist() == data.offsets.tolist()
    assert {token_offsets.dtype, list_offsets.dtype} == {np.dtype(np.int64)}


@given(st.lists(st.text(max_size=4), max_size=4))
def test_any_english_tokens_can_be_joined(tokens):
    Tokenizer(TextConfig(language="en")).detokenise(tokens)


@pytest.mark.parametrize(
    ("language", "unit"),
    [("zh", "word"), ("zh", "char"), ("en", "word"), ("en", "char"), ("en", "whitespace")],
)
@settings(max_examples=60)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_tokens_stand_for_all_characters_of_their_text(
    language: str, unit: str, texts: list[str]
) -> None:
    tokenizer = Tokenizer(TextConfig(language=language, unit=unit))
    rows = [tokenizer.tokenize(text) for text in [*texts, "It's \"here\", isn't it? ￭ ￮j"]]
    dictionary = sorted({token for row in rows for token in row})
    indices = np.array([dictionary.index(token) for row in rows for token in row], np.int32)
    offsets = np.cumsum([0, *map(len, rows)])
    counts = tokenizer.characters(dictionary, indices, offsets)
    for row, tokens in enumerate(rows):
        found = int(counts[offsets[row] : offsets[row + 1]].sum())
        assert found == len(tokenizer.detokenise(tokens))
