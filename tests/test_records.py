import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.records.contract import REASONS, Block, RecordsConfig, check_rejected, read_block
from pipeline.records.dialogues import Dialogues, read_utterance
from pipeline.records.labelled import Labelled
from pipeline.records.pairs import Pairs
from pipeline.records.rows import KINDS, RAW_BYTES
from pipeline.records.series import Series
from pipeline.records.tagged import Tagged
from pipeline.splits.splits import SplitsConfig, split_of
from pipeline.text.normalise import normalise
from pipeline.text.utf8 import BLANKS

DIALOGUES = RecordsConfig()
PAIRS = RecordsConfig("pairs", {"source": "zh", "target": "en"})


def row(*utterances: str, topic: str = "音乐", **more: object) -> str:
    whole = {"topic": topic, "user1": "李明", "user2": "王芳", "dialog": list(utterances), **more}
    return json.dumps(whole, ensure_ascii=False)


def read(*lines: str | bytes, config: RecordsConfig = DIALOGUES, first_line: int = 1) -> Block:
    raw = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return read_block(b"\n".join(raw), first_line, config)


def reasons(block: Block) -> list[tuple[int, str]]:
    return [(rejected.line, rejected.reason) for rejected in block.rejected]


def dialogues(block: Block) -> list[tuple[int, str, list[tuple[int, str]]]]:
    """Line, topic, and speaker and text of each utterance."""
    records = block.records
    assert isinstance(records, Dialogues)
    said = list(zip(records.speakers.tolist(), records.utterances.to_list(), strict=True))
    bounds = records.offsets.tolist()
    return [
        (line, topic, said[begin:end])
        for line, topic, begin, end in zip(
            records.lines.tolist(), records.topics.to_list(), bounds[:-1], bounds[1:], strict=True
        )
    ]


GOOD = row("user1：你好。", "user2：你好，吃了吗？")


# --- dialogues


def test_a_dialogue_is_read() -> None:
    block = read(GOOD, row("user2：在吗", topic=""), first_line=41)
    assert dialogues(block) == [
        (41, "音乐", [(0, "你好。"), (1, "你好，吃了吗？")]),
        (42, "", [(1, "在吗")]),
    ]
    assert block.records.lines.dtype == np.int64
    assert (block.num_rows, block.rejected, block.num_dropped_utterances) == (2, [], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user1：你好", (0, "你好")),
        ("user2:hi", (1, "hi")),
        ("USER1 ： 大写 ", (0, "大写")),
        ("uSeR2\u3000:x", (1, "x")),
        ("user1：他说：明天见：好吗？", (0, "他说：明天见：好吗？")),
        ("user2：时间是12:30", (1, "时间是12:30")),
        ("user1：\u200b 头尾\ufeff\u3000", (0, "头尾")),
        ("user1：中\u200b间 的", (0, "中\u200b间 的")),
        ("user1：两\n行", (0, "两\n行")),
        ("user1：❤️", (0, "❤️")),
        ("user1：\0", (0, "\0")),
        ("user1：\u00ad", (0, "\u00ad")),
        ("user1：", None),
        ("user1：\u3000 \u200d", None),
        ("user3：你好", None),
        ("user12：你好", None),
        ("user１：你好", None),
        ("uſer1：你好", None),
        (" user1：你好", None),
        ("李明：你好", None),
        ("user1 你好", None),
        ("", None),
    ],
)
def test_an_utterance_is_a_speaker_and_a_text(text: str, expected: tuple[int, str] | None) -> None:
    assert read_utterance(text) == expected
    # Alone, among usual ones, and in a block that holds a NUL: three ways to the same.
    for others in ([], ["user1：好。", "user2：好。"], ["user1：\0"]):
        block = read(row("user2：先", text, *others))
        wanted = [(1, "先"), *([expected] if expected else [])]
        assert dialogues(block)[0][2][: len(wanted)] == wanted
        assert block.num_dropped_utterances == (expected is None)


ends = ["a", "。", "？", "“", "…", "é", "٣", "😀", "\0", "\x07", "\x7f"]
edges = st.text(st.sampled_from([*BLANKS, *ends]))
prefixes = st.sampled_from(
    ["user1：", "user2：", "user1:", "User2 ：", "user3：", "", "user1", "u", "\0user1："]
)
said = st.lists(st.builds(str.__add__, prefixes, edges | st.text(max_size=4)), max_size=6)


@settings(max_examples=300)
@given(st.lists(said, max_size=4))
def test_columns_say_what_the_definition_says(rows: list[list[str]]) -> None:
    block = read(*[json.dumps(json.loads(row(*utterances))) for utterances in rows])
    expected = [
        (line, "音乐", found)
        for line, utterances in enumerate(rows, 1)
        if (found := [pair for pair in map(read_utterance, utterances) if pair])
    ]
    assert dialogues(block) == expected
    assert block.num_rows == len(rows) == len(expected) + len(block.rejected)
    assert {rejected.reason for rejected in block.rejected} <= {"no_utterances"}
    given_by_kept = sum(len(rows[line - 1]) for line, _, _ in expected)
    kept = sum(len(found) for _, _, found in expected)
    assert block.num_dropped_utterances == given_by_kept - kept


def test_blanks_are_those_of_python_and_some_without_width() -> None:
    spaces = {chr(i) for i in range(0x110000) if chr(i).isspace()}
    assert spaces <= set(BLANKS)
    assert all(not char.isprintable() for char in set(BLANKS) - {" "})


def test_lines_are_ended_by_lf_alone() -> None:
    block = read(
        GOOD + "\r",
        "",
        " \t\r",
        row("user1：甲\u2028乙\u0085丙\u2029丁"),
        GOOD.replace(" ", "\r"),
        first_line=1,
    )
    assert [(line, len(said)) for line, _, said in dialogues(block)] == [(1, 2), (4, 1), (5, 2)]
    assert dialogues(block)[1][2] == [(0, "甲\u2028乙\u0085丙\u2029丁")]
    assert block.num_rows == 3


def test_no_line_is_no_row() -> None:
    for nothing in (b"", b"\n", b"\n \r\n"):
        block = read_block(nothing, 1, DIALOGUES)
        assert (block.num_rows, block.rejected, dialogues(block)) == (0, [], [])
        assert read_block(nothing, 1, PAIRS).num_rows == 0


BAD_LINES: list[tuple[str | bytes, str, str]] = [
    (GOOD.encode()[:-20], "not_utf8", "byte "),
    (b'{"topic": "\xff"}', "not_utf8", "byte 12 of the line"),
    (GOOD.encode("utf-16-le"), "not_utf8", "byte "),
    (GOOD.encode("gbk"), "not_utf8", "byte "),
    ("{", "not_json", "character 2 of the line"),
    ("\0\0\0", "not_json", ""),
    (GOOD + GOOD, "not_json", ""),
    (GOOD + ",", "not_json", ""),
    (GOOD + "\r" + GOOD, "not_json", ""),
    ("\ufeff" + GOOD, "not_json", ""),
    (GOOD.replace("音乐", "音\t乐"), "not_json", ""),
    (GOOD.replace("音乐", "\\ud800"), "not_json", ""),
    (GOOD.replace("音乐", "\\udc00\\ud800"), "not_json", ""),
    (GOOD.replace('"音乐"', "'x'"), "not_json", ""),
    (GOOD.replace('"音乐"', "NaN"), "not_json", ""),
    (row("user1：好", score=float("nan")), "not_json", ""),
    (row("user1：好", score=float("-inf")), "not_json", ""),
    (GOOD.replace('"topic"', "topic"), "not_json", ""),
    (GOOD.replace('"topic"', "5"), "not_json", ""),
    (GOOD[:-1] + ',"more":1e999}', "not_json", ""),
    (GOOD[:-1] + ',"more":' + "9" * 5_000 + "}", "not_json", "beyond 1.8e308"),
    (GOOD[:-1] + ',"more":01}', "not_json", ""),
    (GOOD[:-1] + ',"more":' + "[" * 100_000 + "]" * 100_000 + "}", "not_json", "depth"),
    (GOOD[:-1] + ',"more":' + '{"a":' * 100_000 + "1" + "}" * 100_001, "not_json", "depth"),
    ("[" * 1_000_000, "not_json", ""),
    ("null", "not_object", "null"),
    ("5", "not_object", "a number"),
    ("true", "not_object", "a truth value"),
    ('"topic user1 user2 dialog"', "not_object", "a string"),
    ("[]", "not_object", "a list"),
    (f"[{GOOD}]", "not_object", "a list"),
    ("{}", "missing_key", "'topic'"),
    (GOOD.replace("dialog", "Dialog"), "missing_key", "'dialog'"),
    (GOOD.replace('"音乐"', "5"), "wrong_type", "'topic' is a number"),
    (GOOD.replace('"李明"', "null"), "wrong_type", "'user1' is null"),
    (GOOD.replace('"王芳"', "[]"), "wrong_type", "'user2' is a list"),
    (row().replace("[]", '"user1：一句"'), "wrong_type", "'dialog' is a string"),
    (row().replace("[]", "{}"), "wrong_type", "'dialog' is an object"),
    (row("user1：好").replace("]", ", null]"), "wrong_type", "item 2 of 'dialog' is null"),
    (row("user1：好").replace("]", ', ["user1：好"]]'), "wrong_type", "item 2 of 'dialog'"),
    (row(), "no_utterances", "'dialog' is empty"),
    (row("好", "user1："), "no_utterances", "none of its 2"),
    ('{"topic":"a",' + GOOD[1:], "repeated_key", ""),
    ('{"\\u0074opic":"a",' + GOOD[1:], "repeated_key", ""),
    ('{"topic":7,' + GOOD[1:], "repeated_key", ""),
    ('{"dialog":["user1：\\"甲\\\\"],' + GOOD[1:], "repeated_key", ""),
    ('{"x":1,"x":1,' + GOOD[1:], "repeated_key", ""),
    ('{"x":[{"y":{"z":1,"z":[]}}],' + GOOD[1:], "repeated_key", ""),
]


@pytest.mark.parametrize(("line", "reason", "detail"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_row_is_rejected_alone(line: str | bytes, reason: str, detail: str) -> None:
    block = read(GOOD, line, "", GOOD, first_line=7)
    assert reasons(block) == [(8, reason)]
    assert detail in block.rejected[0].detail
    assert block.rejected[0].detail.isprintable()
    raw = line if isinstance(line, bytes) else line.encode()
    assert block.rejected[0].raw == raw[:RAW_BYTES]
    assert [line for line, _, _ in dialogues(block)] == [7, 10]
    assert block.num_rows == 3
    assert len(block.records.groups) == 2


def test_bad_rows_do_not_hide_one_another() -> None:
    lines = [line for line, _, _ in BAD_LINES]
    mixed = [each for line in lines for each in (GOOD, line, line)]
    block = read(*mixed)
    expected = [reason for _, reason, _ in BAD_LINES for _ in range(2)]
    assert [rejected.reason for rejected in block.rejected] == expected
    assert {rejected.reason for rejected in block.rejected} <= set(REASONS)
    assert [line for line, _, _ in dialogues(block)] == list(range(1, 3 * len(lines), 3))


def test_what_is_not_in_the_contract_does_not_matter() -> None:
    more = {"id": 3, "x": None, "tags": ["a", {"b": 'c\\"', "d": [[], {}, "e"]}], "y": {"z": "q"}}
    block = read(row('user1：\\"引"号"\\', **more), GOOD[:-1] + ',"big":' + "9" * 300 + "}")
    assert block.rejected == []
    assert dialogues(block)[0][2] == [(0, '\\"引"号"\\')]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.sampled_from('\\"'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@given(json_values, st.booleans())
def test_any_further_value_is_accepted(value: object, escaped: bool) -> None:
    line = json.dumps({**json.loads(GOOD), "more": value}, ensure_ascii=escaped)
    assert read(line).rejected == []
    inside = json.dumps({"twice": value, "more": value}, ensure_ascii=escaped)
    assert read(GOOD[:-1] + f',"x":{inside}' + "}").rejected == []
    twice = inside.replace('"more"', '"twice"', 1)
    if '"more"' not in json.dumps(value):
        assert reasons(read(GOOD[:-1] + f',"x":{twice}' + "}")) == [(1, "repeated_key")]


@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([DIALOGUES, PAIRS]))
def test_any_bytes_are_read_or_rejected(noise: bytes, at: int, config: RecordsConfig) -> None:
    whole = GOOD.encode()
    block = read_block(whole[:at] + noise + whole[at:], 1, config)
    assert block.num_rows == len(block.records.lines) + len(block.rejected)


@given(st.lists(st.sampled_from([GOOD, "", "x", "{}", row()]), max_size=12), st.integers(0, 12))
def test_it_does_not_matter_where_a_block_is_cut(lines: list[str], cut: int) -> None:
    whole = read(*lines)
    parts = [read(*lines[:cut]), read(*lines[cut:], first_line=1 + len(lines[:cut]))]
    assert dialogues(whole) == [each for part in parts for each in dialogues(part)]
    assert whole.rejected == [each for part in parts for each in part.rejected]
    assert whole.records.groups == [each for part in parts for each in part.records.groups]


# --- pairs


def test_a_pair_is_read() -> None:
    block = read(
        '{"en": " Hi. ", "zh": "嗨。\\u3000", "more": 1}',
        '{"zh": "", "en": "x"}',
        '{"zh": "x", "en": " \\u200b"}',
        '{"zh": "x"}',
        '{"zh": "x", "en": ["x"]}',
        '{"zh": "x", "en": "y", "zh": "x"}',
        '["zh", "en"]',
        '"zh en"',
        '{"zh": "一\\ttwo", "en": "two"}',
        config=PAIRS,
    )
    records = block.records
    assert isinstance(records, Pairs)
    assert records.lines.tolist() == [1, 9]
    assert records.sources.to_list() == ["嗨。", "一\ttwo"]
    assert records.targets.to_list() == ["Hi.", "two"]
    assert reasons(block) == [
        (2, "empty_side"),
        (3, "empty_side"),
        (4, "missing_key"),
        (5, "wrong_type"),
        (6, "repeated_key"),
        (7, "not_object"),
        (8, "not_object"),
    ]


# --- groups and splits


def test_equal_text_is_one_group() -> None:
    block = read(
        row("user1：你好ＡＢＣ。", "user2：在", topic="a"),
        row("user1:  你好ABC。", "USER2：在\u200b"),
        row("user1：你好ABC", "user2：在"),
    )
    a, b, c = block.records.groups
    assert a == b != c
    assert len(a) == 32
    int(a, 16)


def test_a_group_is_the_digest_of_the_normalised_text() -> None:
    from hashlib import blake2b

    texts = ["甲<br>乙", "ｄｅｆ  x"]
    clean = "".join(map(normalise, texts)).encode()
    expected = blake2b(clean, digest_size=16).hexdigest()
    assert read(row(*[f"user1：{text}" for text in texts])).records.groups == [expected]
    pair = read('{"zh": "甲<br>乙ｄｅｆ  x", "en": "y"}', config=PAIRS)
    assert pair.records.groups == [
        blake2b(normalise("甲<br>乙ｄｅｆ  x").encode(), digest_size=16).hexdigest()
    ]


def test_splits_never_move() -> None:
    groups = [f"{i:032x}" for i in range(20_000)]
    config = SplitsConfig(valid=0.05, test=0.2)
    splits = split_of(groups, config)
    shares = {name: float(np.mean(splits == name)) for name in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.75, "valid": 0.05, "test": 0.2}, abs=0.01)
    assert (split_of(groups[::-7], config) == splits[::-7]).all()
    # A larger share takes in more and lets go of none.
    assert (split_of(groups, SplitsConfig(valid=0.05, test=0.3))[splits == "test"] == "test").all()
    other = split_of(groups, SplitsConfig(valid=0.05, test=0.2, salt="other"))
    assert 0.5 < float(np.mean(other == splits)) < 0.75
    # Golden: were the formula to change, test rows would move into training.
    second_letters = "".join(split[1] for split in split_of(groups[:40], SplitsConfig()).tolist())
    assert second_letters == "rrrrrrrrrrrrarrrarrrrrrrrarrrrrrrrerarrr"


def test_splits_may_be_empty() -> None:
    assert set(split_of(["a", "b"], SplitsConfig(0, 0)).tolist()) == {"train"}
    assert set(split_of(["a", "b"], SplitsConfig(0, 1)).tolist()) == {"test"}
    assert set(split_of(["a", "b"], SplitsConfig(1, 0)).tolist()) == {"valid"}
    assert split_of([], SplitsConfig()).tolist() == []


# --- settings and verdicts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "reviews"}, "dialogues, text, pairs, labelled, tagged, series"),
        ({"fields": {"source": "zh"}}, "topic, user1, user2, dialog"),
        ({"fields": {"user1": "user2"}}, "cannot both be 'user2'"),
        ({"max_rejected": 1.5}, "from 0 to 1"),
        ({"max_rejected": float("nan")}, "from 0 to 1"),
    ],
)
def test_settings_check_themselves(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RecordsConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [{"valid": -0.1}, {"valid": 0.6, "test": 0.6}, {"test": float("nan")}, {"salt": "盐" * 22}],
)
def test_split_settings_check_themselves(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"split|shares"):
        SplitsConfig(**settings)  # type: ignore[arg-type]


def test_fields_can_have_other_names() -> None:
    config = RecordsConfig(fields={"topic": "题目", "dialog": "turns"})
    line = row("user1：好").replace("topic", "题目").replace("dialog", "turns")
    assert dialogues(read(line, config=config)) == [(1, "音乐", [(0, "好")])]
    assert reasons(read(GOOD, config=config)) == [(1, "missing_key")]
    assert tuple(config.file_fields) == KINDS["dialogues"]


def test_too_many_rejected_rows_are_refused_with_the_counts() -> None:
    config = RecordsConfig(max_rejected=0.25)
    reasons = Counter({"not_json": 3, "wrong_type": 2})
    check_rejected("a.jsonl", 15, reasons, "line 3: it broke", config)
    with pytest.raises(InputError, match=r"5 of 19 rows were .*26.3%; at most 25.0% may be") as e:
        check_rejected("a.jsonl", 14, reasons, "line 3: it broke", config)
    assert "not JSON (3), a value of the wrong type (2)" in str(e.value)
    assert "line 3: it broke" in str(e.value)
    assert str(e.value).endswith("Correct the rows or allow more: --set records.max_rejected=0.27.")
    with pytest.raises(InputError, match=r"none is left.* as its format does, such as \.csv or"):
        check_rejected("a.jsonl", 0, reasons, "line 3: it broke", RecordsConfig(max_rejected=1.0))
    with pytest.raises(InputError, match=r"Convert the file to UTF-8 \(iconv\)\.$"):
        check_rejected("a.jsonl", 0, Counter({"not_utf8": 2, "not_json": 1}), "line 1", config)
    for reason, remedy in {
        "missing_key": "Say what the file holds (records.kind), or what its fields are called (",
        "not_json": "Write a JSON object a line, or end the file's name as its format does",
        "not_object": "Write a JSON object a line.",
        "unknown_label": "Add its labels to records.labels.",
        "empty_text": "Correct the rows.",
    }.items():
        with pytest.raises(InputError) as e:
            check_rejected("a.jsonl", 0, Counter({reason: 9}), "line 1: it broke", config)
        assert f"line 1: it broke. {remedy}" in str(e.value)
        with pytest.raises(InputError, match=r"Correct the rows or allow more"):
            check_rejected("a.jsonl", 1, Counter({reason: 9}), "line 1: it broke", config)
    with pytest.raises(InputError, match=r"a.jsonl has no rows"):
        check_rejected("a.jsonl", 0, Counter(), "", config)


def test_rows_of_the_other_kind_are_recognised() -> None:
    (pair,) = read('{"source": "a", "target": "b"}').rejected
    assert pair.detail.endswith("its keys are those of pairs: set records.kind=pairs")
    (dialogue,) = read(row("user1：好"), config=PAIRS).rejected
    assert dialogue.detail.endswith("set records.kind=dialogues")
    (text,) = read('{"text": "a"}').rejected
    assert text.detail.endswith("set records.kind=text")
    (labelled,) = read('{"text": "a", "label": "b"}').rejected
    assert labelled.detail.endswith("set records.kind=labelled")
    (other,) = read('{"words": "a"}').rejected
    assert other.detail == "there is no 'topic'"


# --- text, labelled, tagged, series


def read_as(kind: str, *lines: str, **settings: object) -> Block:
    config = RecordsConfig(kind=kind, **settings)  # type: ignore[arg-type]
    return read_block("\n".join(lines).encode(), 1, config)


@pytest.mark.parametrize(
    "more",
    [
        [{}, {}],
        [{"id": "7"}, {"id": "8"}],
        [{"id": 7}, {"id": 8}],
        [
            {"tags": []},
            {"tags": ["a", "b"]},
        ],  # as many strings as two texts, but not where they are
        [{"tags": {"a": "b"}}, {"tags": None}],
        [{"id": "a"}, {}],
    ],
)
@pytest.mark.parametrize("dialog_last", [True, False])
def test_utterances_are_found_beside_other_values(
    more: list[dict[str, object]], dialog_last: bool
) -> None:
    lines = []
    for i, extra in enumerate(more):
        whole = {**json.loads(row(f'user1：第{i}"句\\', "user2:好", "ni")), **extra}
        if dialog_last:
            whole["dialog"] = whole.pop("dialog")
        lines.append(json.dumps(whole, ensure_ascii=bool(i)))
    block = read(*lines)
    assert [said for *_, said in dialogues(block)] == [
        [(0, f'第{i}"句\\'), (1, "好")] for i in range(2)
    ]
    assert block.num_dropped_utterances == 2


def test_running_text_keeps_its_lines() -> None:
    block = read_as("text", '{"text": " One "}', '{"text": ""}', '{"text": "One"}')
    assert isinstance(block.records, Dialogues)
    assert block.records.utterances.to_list() == ["One", "One"]
    assert block.records.lines.tolist() == [1, 3]
    assert [(each.line, each.reason) for each in block.rejected] == [(2, "empty_text")]


def labels_of(block: Block) -> list[str]:
    assert isinstance(block.records, Labelled)
    return block.records.labels.to_list()


def test_labelled_texts() -> None:
    block = read_as(
        "labelled",
        '{"review": "好", "label": 1}',
        '{"review": "好", "label": true}',
        '{"review": "好", "label": " 0 "}',
        '{"review": "好", "label": 1.5}',
        '{"review": "好", "label": ""}',
        '{"review": "好"}',
        '{"review": " ", "label": "1"}',
        fields={"text": "review"},
    )
    assert isinstance(block.records, Labelled)
    assert block.records.labels.to_list() == ["1", "true", "0"]
    assert len(set(block.records.groups)) == 1
    reasons = ["wrong_type", "empty_label", "missing_key", "empty_text"]
    assert [each.reason for each in block.rejected] == reasons
    lines = [f'{{"text": "a", "label": {label}}}' for label in ('"1.0"', '"1.00 "', "1.0", '"10"')]
    assert labels_of(read_as("labelled", *lines)) == ["1.0", "1.00", "1", "10"]
    known = read_as("labelled", *lines, labels=("0", "1"))
    assert labels_of(known) == ["1", "1", "1"] and known.rejected[0].reason == "unknown_label"
    assert labels_of(read_as("labelled", lines[0], labels=("1.0", "1"))) == ["1.0"]
    (other,) = read_as("labelled", '{"text": "a", "label": "c"}', labels=("a", "b")).rejected
    assert other.reason == "unknown_label" and other.detail.endswith("one of a, b")


def test_labels_belong_to_labelled_records() -> None:
    with pytest.raises(InputError, match="labelled records"):
        RecordsConfig(kind="text", labels=("a",))


def test_tagged_texts() -> None:
    block = read_as(
        "tagged",
        '{"tokens": ["北", "京"], "tags": ["B-LOC", "I-LOC"]}',
        '{"tokens": ["北", "京"], "tags": ["B-LOC"]}',
        '{"tokens": [], "tags": []}',
        '{"tokens": ["北", 1], "tags": ["O", "O"]}',
        '{"tokens": ["好"], "tags": ["O"]}',
    )
    assert isinstance(block.records, Tagged)
    assert block.records.tokens.to_list() == ["北", "京", "好"]
    assert block.records.tags.to_list() == ["B-LOC", "I-LOC", "O"]
    assert block.records.offsets.tolist() == [0, 2, 3]
    reasons = ["unequal_lengths", "empty_text", "wrong_type"]
    assert [each.reason for each in block.rejected] == reasons


def test_observations() -> None:
    block = read_as(
        "series",
        '{"time": "1949-01", "value": "112"}',
        '{"time": 2, "value": 1.5, "series": "a"}',
        '{"time": "1949-02", "value": "n/a"}',
        '{"time": "1949-03", "value": "inf"}',
        '{"time": "1949-04", "value": true}',
        '{"time": "1949-05"}',
        '{"time": "someday", "value": 1}',
        '{"time": "", "value": 1}',
        '{"time": 1949.0, "value": 1, "series": 2.0}',
        '{"time": 1949.1, "value": 1}',
        '{"time": "31.12.1949", "value": 1}',
        '{"time": "1949-06", "value": "1,200"}',
    )
    assert isinstance(block.records, Series)
    assert block.records.values.tolist() == [112.0, 1.5, 1.0]
    assert block.records.names.to_list() == ["", "a", "2"]
    assert block.records.times.to_list() == ["1949-01", "2", "1949"]
    assert [(each.line, each.reason) for each in block.rejected] == [
        (3, "not_number"),
        (4, "not_number"),
        (5, "wrong_type"),
        (6, "missing_key"),
        (7, "not_time"),
        (8, "not_time"),
        (10, "wrong_type"),
        (11, "not_time"),
        (12, "not_number"),
    ]
    assert "'someday', which has no place in time: write 2020-01-31" in block.rejected[4].detail
    assert block.rejected[-1].detail.endswith("write numbers without separators between thousands")


# --- long and odd numbers


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ('"1.0"', "1.0"),
        ('"007"', "007"),
        ("7", "7"),
        ('" 1"', "1"),
        ('"\\u30001"', "1"),
        ("-0.0", "0"),
        ("18446744073709551616", "18446744073709551616"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("9007199254740993", "9007199254740993"),
        ("1e30", None),
        ("9007199254740993.0", None),
        ("1e-999", None),
        ("1e999", None),
        ("0.5", None),
    ],
)
def test_a_label_is_what_was_written_or_is_refused(written: str, label: str | None) -> None:
    block = read_as("labelled", f'{{"text": "a", "label": {written}}}')
    assert labels_of(block) == ([] if label is None else [label])
    assert len(block.rejected) == (label is None)


@settings(max_examples=300)
@given(st.integers(-(10**40), 10**40) | st.integers(-(2**66), 2**66))
def test_whole_numbers_are_exact_or_refused(number: int) -> None:
    labelled = read_as("labelled", f'{{"text": "a", "label": {number}}}')
    assert labels_of(labelled) == [str(number)]
    for written in (f"{number}", f'"{number}"', f'" {number} "'):
        block = read_as("series", f'{{"time": {number}, "value": {written}}}')
        assert isinstance(block.records, Series)
        kept = block.records.values.tolist()
        shortest = [int(Decimal(repr(value))) for value in kept]
        assert kept == [] or number in (*map(int, kept), *shortest)
        assert [each.reason for each in block.rejected] == ["not_exact"] * (1 - len(kept))
        assert block.records.times.to_list() == [str(number)] * len(kept)
        if abs(number) <= 2**53:
            assert kept == [number]


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_floats_come_back(number: float, as_text: bool) -> None:
    written = f'"{number!r}"' if as_text else repr(number)
    block = read_as("series", f'{{"time": 1, "value": {written}}}')
    assert isinstance(block.records, Series)
    assert block.records.values.tolist() == [number]


@settings(max_examples=300)
@given(st.integers(0, 10**25), st.integers(0, 10**25), st.integers(-1_200, 1_200), st.booleans())
def test_no_number_is_silently_another(
    whole: int, fraction: int, exponent: int, as_text: bool
) -> None:
    text = f"{whole}.{fraction}e{exponent}"
    block = read_as("series", f'{{"time": 1, "value": {json.dumps(text) if as_text else text}}}')
    assert isinstance(block.records, Series)
    exact = Fraction(Decimal(text))
    for value in block.records.values.tolist():
        # Below 2.3e-308 floats are evenly spaced: there it is the nearest, and not 0.
        assert abs(Fraction(value) - exact) <= max(exact / 2**53, Fraction(5e-324) / 2)
        assert bool(value) == bool(exact)
    assert len(block.rejected) + len(block.records.values) == 1
