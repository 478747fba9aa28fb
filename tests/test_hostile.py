"""Files that nobody should send, through the command: one sentence, or rows set aside and said.

Never a traceback, never a character that a terminal acts on, never a good row lost unsaid.
"""

import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma
import os
import random
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.command.cli import main
from flows.command.exit_codes import MISTAKE, OK
from flows.ingest import _batch as batch_of
from pipeline.records.contract import RecordsConfig, read_block
from warehouse.errors import StorageError
from warehouse.sources.left_out import LeftOut
from warehouse.sources.sources import blocks, find_sources

PAIRS = ("translate-en-zh", "records.fields={source: en, target: zh}")
LABELLED = ("topic", "records.kind=labelled", 'records.labels=["0", "1"]')
SERIES = ("forecast",)
DIALOGUES = ("next-word",)


pytestmark = pytest.mark.usefixtures("own_logging")


def row(number: int, **more: Any) -> str:
    said = [f"user1：第{number}句。", "user2：好的。"]
    whole = {"topic": "话题", "user1": "甲", "user2": "乙", "dialog": said, **more}
    return json.dumps(whole, ensure_ascii=False)


def rows(*numbers: int) -> bytes:
    return "".join(f"{row(number)}\n" for number in numbers).encode()


def with_more(number: int, more: str) -> bytes:
    return f"{row(number)[:-1]}, {more}}}\n".encode()


def tar(content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as file:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("a.jsonl", content)
    return target.getvalue()


def with_dictionary(content: bytes) -> bytes:
    words = zstandard.ZstdCompressionDict(content[:400], zstandard.DICT_TYPE_RAWCONTENT)
    draw = random.Random(0).randbytes(200).hex().encode()
    samples = [content + draw[i : i + 100] for i in range(60)]
    words = zstandard.train_dictionary(1_024, samples)
    return zstandard.ZstdCompressor(dict_data=words).compress(content)


def parquet(columns: dict[str, Any], **settings: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target, **settings)
    return target.getvalue()


def table_of(names: list[str], *columns: list[Any]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table([pa.array(each) for each in columns], names=names), target)
    return target.getvalue()


EN_ZH = {"en": ["Hi.", "Bye."], "zh": ["嗨。", "再见。"]}
WHOLE = parquet(EN_ZH)

# What it is, its name, its bytes, how it is read, and the rows accepted and rejected.
ACCEPTED: list[tuple[str, str, bytes, tuple[str, ...], int, int]] = [
    ("mixed line ends", "a.jsonl", rows(1) + row(2).encode() + b"\r\n\r\n" + rows(3), (), 3, 0),
    ("overlong UTF-8", "a.jsonl", rows(1) + rows(2).replace("话".encode(), b"\xc0\xaf"), (), 1, 1),
    ("CESU-8", "a.jsonl", rows(1) + rows(2).replace("话".encode(), b"\xed\xa0\xbd"), (), 1, 1),
    ("latin-1 in one row", "a.jsonl", rows(1) + b'{"topic": "caf\xe9"}\n', (), 1, 1),
    ("GB18030 in one row", "a.jsonl", rows(1) + row(2).encode("gb18030") + b"\n", (), 1, 1),
    ("a BOM in the midst", "a.jsonl", rows(1) + b"\xef\xbb\xbf" + rows(2) + rows(3), (), 2, 1),
    ("padded with NUL", "a.jsonl", rows(1, 2) + bytes(5_000), (), 2, 1),
    (
        "blank lines of all kinds",
        "a.jsonl",
        b"\n\t\n\x0c\n \r\n" + rows(1) + b"\n" * 2_000,
        (),
        1,
        0,
    ),
    ("a key twice", "a.jsonl", rows(1) + with_more(2, '"topic": "b"'), (), 1, 1),
    ("a key twice, deep", "a.jsonl", rows(1) + with_more(2, '"x": [{"y": 1, "y": 2}]'), (), 1, 1),
    ("keys without names", "a.jsonl", rows(1) + with_more(2, '"": 1, " ": 2'), (), 2, 0),
    ("-0 and 1e999", "a.jsonl", with_more(1, '"n": -0.0') + with_more(2, '"n": 1e999'), (), 1, 1),
    ("a huge integer", "a.jsonl", rows(1) + with_more(2, f'"n": {"9" * 9_000}'), (), 1, 1),
    (
        "arrays in arrays",
        "a.jsonl",
        rows(1) + rows(2).replace(b'["', b'[["', 1).replace(b"]", b"]]"),
        (),
        1,
        1,
    ),
    ("a string of dialogue", "a.jsonl", rows(1) + row(2, dialog="user1：好").encode(), (), 1, 1),
    ("numbers for speakers", "a.jsonl", rows(1) + row(2, user1=1).encode(), (), 1, 1),
    ("comments", "a.jsonl", b"// rows\n" + rows(1) + b"# more\n" + rows(2), (), 2, 2),
    ("commas behind rows", "a.jsonl", row(1).encode() + b",\n" + rows(2), (), 1, 1),
    ("Python's way", "a.jsonl", rows(1) + repr(json.loads(row(2))).encode(), (), 1, 1),
    ("NaN", "a.jsonl", rows(1) + with_more(2, '"n": NaN'), (), 1, 1),
    ("an escape in the topic", "a.jsonl", row(1, topic="\x1b[31m\x9b2J\u202e").encode(), (), 1, 0),
    ("an escape in a bad row", "a.jsonl", rows(1) + b'{"\x1b[2J\x1b]0;owned\x07": 1}', (), 1, 1),
    ("markup", "a.jsonl", row(1, topic="[red]x[/red][/]").encode() + b"\n[/bold]\n", (), 1, 1),
    ("members of gzip", "a.jsonl.gz", gzip.compress(rows(1)) + gzip.compress(rows(2)), (), 2, 0),
    ("gzip in capitals", "A.JSONL.GZ", gzip.compress(rows(1)), (), 1, 0),
    (
        "frames of zstd",
        "a.jsonl.zst",
        zstandard.compress(rows(1)) + zstandard.compress(rows(2)),
        (),
        2,
        0,
    ),
    (
        "no size in zstd",
        "a.jsonl.zst",
        zstandard.ZstdCompressor(write_content_size=False).compress(rows(1)),
        (),
        1,
        0,
    ),
    (
        "tabs missing",
        "a.txt",
        "Hi.\t嗨。\nno tab\n\tx\nx\t\n\t\t\nBye.\t再见。\tmore\n".encode(),
        PAIRS,
        2,
        3,
    ),
    ("not UTF-8 in a .txt", "a.txt", "Hi.\t嗨。\n".encode() + b"caf\xe9\tx\n", PAIRS, 1, 1),
    (
        "CSV with quotes and NUL",
        "a.csv",
        '\ufeffen,zh\r\n"a\n""b""",c\r\n"\0",z\r\n'.encode(),
        PAIRS,
        2,
        0,
    ),
    ("formulas", "a.csv", b"en,zh\n=cmd|'/c calc'!A1,+1\n@SUM(1),-2\n", PAIRS, 2, 0),
    ("a wide row", "a.csv", b"en,zh\na,b\n" + b"x," * 50_000 + b"\nc,d\n", PAIRS, 2, 1),
    ("a long text", "a.csv", b"en,zh\n" + b"x" * 300_000 + b",b\n", PAIRS, 1, 0),
    (
        "many columns",
        "a.csv",
        ("en,zh," + ",".join(f"c{i}" for i in range(20_000)) + "\na,b" + "," * 20_000).encode(),
        PAIRS,
        1,
        0,
    ),
    ("a row too short", "a.csv", b"en,zh\na,b\nc\n", PAIRS, 1, 1),
    (
        "columns of other types",
        "a.parquet",
        parquet(
            {
                **EN_ZH,
                "when": [datetime.date(2026, 1, 1)] * 2,
                "d": [decimal.Decimal("1.5")] * 2,
                "s": [{"a": b"\xff"}] * 2,
            }
        ),
        PAIRS,
        2,
        0,
    ),
    (
        "text as bytes",
        "a.parquet",
        parquet({"en": [b"Hi.", b"\xff"], "zh": ["嗨。", "x"]}),
        PAIRS,
        1,
        1,
    ),
    ("nulls", "a.parquet", parquet({"en": ["Hi.", None], "zh": ["嗨。", "x"]}), PAIRS, 1, 1),
    (
        "struct for text",
        "a.parquet",
        parquet({"en": [{"a": "b"}, {"a": "c"}], "zh": ["x", "y"]}),
        PAIRS,
        0,
        2,
    ),
    ("empty row groups", "a.parquet", parquet(EN_ZH, row_group_size=1), PAIRS, 2, 0),
    ("semicolons", "a.csv", b"en;zh\na;b\n", PAIRS, 1, 0),
    ("a named separator", "a.csv", b'\xef\xbb\xbfsep=;\r\nen;zh\r\na;"b,c"\r\n', PAIRS, 1, 0),
    ("tabs in CSV", "a.csv", b"en\tzh\na\tb\n", PAIRS, 1, 0),
    ("blanks around names", "a.csv", '\ufeff en , zh　,,\na, "b" ,,\n,,,\n'.encode(), PAIRS, 1, 0),
    ("CR alone in CSV", "a.csv", b"en,zh\ra,b\rc,d\r", PAIRS, 2, 0),
    (
        "a quote that stays open",
        "a.csv",
        b'en,zh\n"a,b\n' + b"c,d\n" * 9_000,
        PAIRS,
        9_000,
        1,
    ),
    ("text behind a quote", "a.csv", b'en,zh\na,b\n"c"x,d\ne,f\n', PAIRS, 2, 1),
    ("not UTF-8 in CSV", "a.csv", b"en,zh\na,b\n\xff,c\nd,e\n", PAIRS, 2, 1),
    ("labels as floats", "a.csv", b"text,label\na,1.0\nb,0\nc,2.0\nd,nan\n", LABELLED, 2, 2),
    (
        "numbers of all kinds",
        "a.csv",
        "time,value\n1,1_000\n2,１２\n3,0x10\n4,inf\n5,-1e3\n6,1e999\n7,\n8, 5 \n".encode(),
        SERIES,
        3,
        5,
    ),
    (
        "a sentence without tags",
        "a.conll",
        "他 O\n\n在 O\n京\n\n人 O\n".encode(),
        ("part-of-speech", "records.kind=tagged"),
        2,
        1,
    ),
]

# What it is, its name, its bytes, how it is read, and what the sentence says.
REFUSED: list[tuple[str, str, bytes, tuple[str, ...], str]] = [
    ("CR alone", "a.jsonl", rows(1, 2).replace(b"\n", b"\r"), (), "end lines with LF"),
    (
        "UTF-16 big-endian",
        "a.jsonl",
        b"\xfe\xff" + rows(1).decode().encode("utf-16-be"),
        (),
        "UTF-16",
    ),
    ("UTF-32", "a.jsonl", rows(1).decode().encode("utf-32"), (), "UTF-32"),
    (
        "UTF-32 big-endian",
        "a.jsonl",
        b"\0\0\xfe\xff" + rows(1).decode().encode("utf-32-be"),
        (),
        "UTF-32",
    ),
    ("UTF-16 in CSV", "a.csv", "en,zh\na,b\n".encode("utf-16"), PAIRS, "UTF-16"),
    ("GB18030", "a.jsonl", rows(1, 2).decode().encode("gb18030"), (), "iconv"),
    ("one array", "a.jsonl", f"[{row(1)},\n{row(2)}]".encode(), (), "one JSON array"),
    (
        "an array in lines",
        "a.json",
        json.dumps([json.loads(row(1))], indent=2).encode(),
        (),
        "one JSON array",
    ),
    (
        "pretty-printed",
        "a.json",
        json.dumps(json.loads(row(1)), indent=2).encode(),
        (),
        "JSON objects of several lines",
    ),
    ("NUL alone", "a.jsonl", bytes(4_096), (), "rows were rejected"),
    ("random bytes", "a.jsonl", random.Random(5).randbytes(3_000), (), "rows were rejected"),
    ("a page of HTML", "a.jsonl", b"<!doctype html>\n<html>\n404</html>\n", (), "is a web page"),
    (
        "a pointer of Git LFS",
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        (),
        "run git lfs pull",
    ),
    ("garbage behind gzip", "a.jsonl.gz", gzip.compress(rows(1)) + b"garbage", (), "is damaged"),
    (
        "half a member",
        "a.jsonl.gz",
        gzip.compress(rows(1)) + gzip.compress(rows(2))[:25],
        (),
        "is cut short",
    ),
    ("a wrong checksum", "a.jsonl.gz", gzip.compress(rows(1))[:-8] + bytes(8), (), "is damaged"),
    ("gzip in gzip", "a.jsonl.gz", gzip.compress(gzip.compress(rows(1))), (), "is packed twice"),
    ("a zstd dictionary", "a.jsonl.zst", with_dictionary(rows(1)), (), "with a zstd dictionary"),
    (
        "zstd cut short",
        "a.jsonl.zst",
        zstandard.compress(rows(*range(99)))[:-9],
        (),
        "is cut short",
    ),
    ("zstd under gzip's name", "a.jsonl.gz", zstandard.compress(rows(1)), (), "is not gzip"),
    ("a tar archive", "a.jsonl", tar(rows(1)), (), "is a tar archive: unpack it"),
    ("a packed tar archive", "a.jsonl.gz", gzip.compress(tar(rows(1))), (), "is a tar archive"),
    ("a zip archive", "a.jsonl", zipped(rows(1)), (), "is a zip archive"),
    ("bzip2", "a.jsonl", bz2.compress(rows(1)), (), "is a bzip2 file"),
    ("xz", "a.jsonl", lzma.compress(rows(1)), (), "is an xz file"),
    ("Parquet as lines", "a.jsonl", WHOLE, (), "is a parquet file"),
    ("Parquet cut short", "a.parquet", WHOLE[:-9], PAIRS, "not sound Parquet"),
    ("Parquet without a head", "a.parquet", WHOLE[400:], PAIRS, "is not Parquet"),
    (
        "Parquet with a wrong page",
        "a.parquet",
        WHOLE[:30] + b"\xff" * 40 + WHOLE[70:],
        PAIRS,
        "not sound Parquet",
    ),
    (
        "Parquet of nothing",
        "a.parquet",
        parquet({"en": pa.array([], pa.string()), "zh": pa.array([], pa.string())}),
        PAIRS,
        "has no rows",
    ),
    (
        "Parquet of other columns",
        "a.parquet",
        parquet({"a": ["x"], "b": ["y"]}),
        PAIRS,
        "a key is missing",
    ),
    (
        "a column of Parquet twice",
        "a.parquet",
        table_of(["en", "zh", "en"], ["a"], ["b"], ["c"]),
        PAIRS,
        "names a column twice",
    ),
    ("a header alone", "a.csv", b"en,zh\n", PAIRS, "has no rows"),
    ("no header", "a.csv", b"Hi.,x\nBye.,y\n", PAIRS, "line 1 names 'Hi.', 'x'"),
    ("a file of another kind", "a.jsonl", b'{"en": "a", "zh": "b"}\n', (), "a key is missing"),
    ("nothing in gzip", "a.jsonl.gz", gzip.compress(b""), (), "has no rows"),
    ("a BOM alone", "a.jsonl", b"\xef\xbb\xbf", (), "has no rows"),
]


def ingest(root: Path, path: Path | str, reading: tuple[str, ...]) -> int:
    name, *settings = reading or DIALOGUES
    settings = [each for each in settings if each]
    return main(
        [
            *("ingest", name, "--source", str(path), "--warehouse", str(root)),
            *("--set", "records.max_rejected=1"),
            *(f"--set={each}" for each in settings),
        ]
    )


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What the command printed, which no terminal may act on."""
    out, err = capsys.readouterr()
    assert all(char.isprintable() or char in "\n\u3000" for char in out + err)
    assert "Traceback" not in err
    return out, err


@pytest.mark.parametrize(
    ("name", "content", "reading", "accepted", "rejected"),
    [pytest.param(*case, id=what) for what, *case in ACCEPTED],
)
def test_good_rows_are_kept_and_bad_ones_are_told(
    warehouse: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    reading: tuple[str, ...],
    accepted: int,
    rejected: int,
) -> None:
    (tmp_path / name).write_bytes(content)
    code = ingest(warehouse, tmp_path / name, reading)
    out, err = shown(capsys)
    if not accepted:
        assert code == MISTAKE
        assert f"{rejected} of {rejected} rows were rejected" in err
        return
    assert code == OK, err
    counts = {key: int(n) for key, n in re.findall(r"rows (accepted|rejected) .*?(\d+)", out)}
    assert counts == {"accepted": accepted, "rejected": rejected}
    deployment = (reading or DIALOGUES)[0]
    assert main(["quarantine", deployment, "--warehouse", str(warehouse)]) == OK
    out, _ = shown(capsys)
    assert (str(tmp_path / name)[:20] in out) == bool(rejected)


@pytest.mark.parametrize(
    ("name", "content", "reading", "message"),
    [pytest.param(*case, id=what) for what, *case in REFUSED],
)
def test_a_hopeless_file_is_refused_in_one_sentence(
    warehouse: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    reading: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    assert ingest(warehouse, tmp_path / name, reading) == MISTAKE
    out, err = shown(capsys)
    assert out == ""
    *log, sentence = err.splitlines()
    assert sentence.startswith("tidemill: ")
    assert not any(each.startswith("tidemill: ") for each in log) and len(log) <= 2
    assert str(tmp_path / name) in sentence
    assert message in sentence


@pytest.mark.parametrize(
    "name",
    [
        "[red]a[bold].jsonl",
        "[a-z]*.jsonl",
        "new\nline.jsonl",
        "\x1b[31m\x1b]0;owned\x07.jsonl",
        "-rf --set x=1.jsonl",
        "$(touch owned);`id`.jsonl",
        "{0}%s%n{name}.jsonl",
        "右到左\u202elnosj.jsonl",
        " blanks .jsonl",
        "😀" * 50 + ".jsonl",
    ],
)
def test_a_name_is_only_a_name(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / name).write_bytes(rows(1) + b"bad\n")
    before = sorted(os.listdir(folder))
    assert ingest(warehouse, folder / name, ()) == OK
    out, _ = shown(capsys)
    assert "[red]" in out or "[red]" not in name
    assert ingest(warehouse, folder, ()) == OK
    (folder / name).write_bytes(b"bad\n")
    assert ingest(warehouse, folder / name, ()) == MISTAKE
    assert main(["quarantine", "next-word", "--warehouse", str(warehouse)]) == OK
    shown(capsys)
    assert sorted(os.listdir(folder)) == before


def test_what_is_no_file_is_named(
    warehouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "gone", "loop", "zero", "absent"):
        path = tmp_path / f"{name}.jsonl"
        assert ingest(warehouse, path, ()) == MISTAKE
        out, err = shown(capsys)
        assert out == "" and "\ntidemill: " in err and str(path) in err


# --- mutations: what one wrong byte costs

SOUND = {
    "jsonl": [f"{row(number)}\n".encode() for number in range(6)],
    "csv": [
        f"{en},{zh}\r\n".encode()
        for en, zh in (
            ("Hi.", "嗨。"),
            ('"Well, then"', "那么"),
            ('"two\nlines"', "两行"),
            ("Bye.", '"再""见"""'),
            ("A", "甲"),
            ('"B, b"', '"乙，乙"'),
        )
    ],
    "conll": [
        "".join(f"{token}{separator}{tag}\n" for token, tag in sentence).encode()
        for separator, sentence in (
            (" ", [("我", "O"), ("在", "O"), ("北京", "B-LOC")]),
            ("\t", [("New York", "B-LOC"), ("很", "O")]),
            (" ", [("他", "O"), ("#", "O"), ("去", "O")]),
            (" ", [("李明", "B-PER"), ("说", "O")]),
        )
    ],
    "txt": [f"{number} en\t第{number}句\n".encode() for number in range(6)],
}
BEFORE = {"csv": b"en,zh\r\n"}
BETWEEN = {"conll": b"\n"}
CONTRACT = {
    "jsonl": RecordsConfig(),
    "conll": RecordsConfig("tagged"),
    "csv": RecordsConfig("pairs", {"source": "en", "target": "zh"}),
    "txt": RecordsConfig("pairs", {"source": "en", "target": "zh"}),
}


def read(path: Path, content: bytes) -> tuple[list[list[str]], int]:
    """The texts of each row that is accepted, and how many rows are rejected."""
    path.write_bytes(content)
    records = CONTRACT[path.suffix[1:]]
    left_out = LeftOut()
    accepted: list[list[str]] = []
    num_rejected = num_rows = 0
    (found,) = find_sources([str(path)])
    for block, first in blocks(found, list(records.file_fields.values()), left_out=left_out):
        made = read_block(block, first, records)
        num_rows += made.num_rows
        num_rejected += len(made.rejected)
        batch = batch_of(found.digest, made)
        names = [name for name in batch.schema.names if name not in ("file", "line", "group")]
        accepted += [
            [str(value) for value in values]
            for values in zip(*(batch[name].to_pylist() for name in names), strict=True)
        ]
    assert len(accepted) + num_rejected == num_rows
    return accepted, num_rejected + len(left_out.rows)


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_wrong_byte_costs_its_own_row(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    parts = SOUND[kind]
    between = BETWEEN.get(kind, b"")
    path = tmp_path / f"a.{kind}"
    sound, _ = read(path, BEFORE.get(kind, b"") + between.join(parts))
    assert len(sound) == len(parts)
    which = data.draw(st.integers(0, len(parts) - 1))
    part = parts[which]
    place = data.draw(st.integers(0, len(part) - 1))
    new = data.draw(st.sampled_from([*b"\"',;#|[]{}\\\t\r\n \0\x1b\x80\xff\xe3O-1", *range(256)]))
    how = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    end = place if how == "insert" else place + 1
    middle = b"" if how == "delete" else bytes([new])
    mutated = part[:place] + middle + part[end:]
    content = between.join([*parts[:which], mutated, *parts[which + 1 :]])
    accepted, num_rejected = read(path, BEFORE.get(kind, b"") + content)
    touched = {which}
    if b"\n" not in mutated[-1:] or b"\n" not in part[place:end] + mutated[:1]:
        touched.add(which + 1)  # without the line end between them, two rows are one
    lost = [i for i, each in enumerate(sound) if each not in accepted and i not in touched]
    assert not lost, (mutated, accepted)
    if len(accepted) < len(sound):
        assert num_rejected or b"\n" not in mutated[-1:] or is_gone(kind, mutated)


def is_gone(kind: str, mutated: bytes) -> bool:
    """Whether nothing is left of a row, or what is left is a comment."""
    return not mutated.strip() or (kind == "conll" and b"#" in mutated)


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_many_wrong_bytes_are_rows_or_a_sentence(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    content = bytearray(BEFORE.get(kind, b"") + BETWEEN.get(kind, b"").join(SOUND[kind]))
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 9))
        content[place : place + length] = data.draw(st.binary(max_size=9))
        if not content:
            return
    refused = None
    try:
        read(tmp_path / f"a.{kind}", bytes(content))
    except StorageError as error:
        refused = str(error)
    assert refused is None or (refused.isprintable() and str(tmp_path) in refused)
