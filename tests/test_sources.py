import glob
import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse.errors import StorageError
from warehouse.sources.conll import TokenColumns
from warehouse.sources.files import SourceFile, printable
from warehouse.sources.foreign import likely_encoding
from warehouse.sources.left_out import LeftOut
from warehouse.sources.sources import blocks, find_sources

ROOT = Path(__file__).resolve().parent.parent
LINES = b'{"a": 1}\n{"a": 2}\n\n{"a": "\xe4\xb8\x80"}\n'


def source(path: Path, content: bytes | None = None) -> SourceFile:
    if content is not None:
        path.write_bytes(content)
    (found,) = find_sources([str(path)])
    return found


def text(path: Path, content: bytes, **settings: int) -> bytes:
    return b"".join(block for block, _ in blocks(source(path, content), **settings))


# --- finding


def test_files_folders_and_patterns_are_found(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "deep/c.txt", ".hidden.jsonl", ".git/d.jsonl", "READ.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    everything = [str(tmp_path / name) for name in ("a.jsonl.gz", "b.jsonl", "deep/c.txt")]

    def addresses(*given: str) -> list[str]:
        return [found.address for found in find_sources(given)]

    assert addresses(str(tmp_path)) == everything
    assert addresses(f"{tmp_path}/*.jsonl*", f"{tmp_path}/b.jsonl") == everything[:2]
    assert addresses(f"{tmp_path}/**/*.txt") == everything[2:]
    found = find_sources([str(tmp_path / "b.jsonl")])[0]
    assert found.num_bytes == 1
    assert found.digest == "3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5"


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "[a]*.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert source(tmp_path / "[a]*.jsonl").address.endswith("[a]*.jsonl")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(find_sources([str(tmp_path)])) == 2


def test_any_file_system_can_be_read() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/b.jsonl", LINES)
    memory.pipe("/corpus/a.jsonl.gz", gzip.compress(LINES))
    for address in ("memory://corpus", "memory://corpus/*.jsonl*"):
        found = find_sources([address])
        assert [each.address for each in found] == [
            "memory:///corpus/a.jsonl.gz",
            "memory:///corpus/b.jsonl",
        ]
        for each in found:
            assert b"".join(block for block, _ in blocks(each)) == LINES
    with pytest.raises(StorageError, match="holds a password") as refused:
        find_sources(["ftp://li:geheim@example.org/a.jsonl"])
    assert "geheim" not in str(refused.value)
    for absent in ("memory://corpus/c.jsonl", "memory://corpus/*.txt", "nowhere://x.jsonl"):
        with pytest.raises(StorageError, match=r"corpus|nowhere"):
            find_sources([absent])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("no\nroute"),
            r"cannot be read \(no route\): check the address and the network",
        ),
        (PermissionError("403"), "may not be read: check your credentials"),
        (ImportError("Install x"), "cannot be read, a package is missing: Install x"),
    ],
)
def test_whatever_a_remote_file_system_raises_is_a_sentence(error: Exception, message: str) -> None:
    import fsspec

    class Broken(fsspec.AbstractFileSystem):  # type: ignore[misc]  # it has no types
        protocol = "broken"
        cachable = False

        def info(self, path: str, **_: object) -> None:
            raise error

        _open = info

    fsspec.register_implementation("broken", Broken, clobber=True)
    with pytest.raises(StorageError, match=f"^broken://a.jsonl {message}"):
        find_sources(["broken://a.jsonl"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.symlink_to("absent"), "does not exist"),
        (lambda path: path.mkdir(), "holds no file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
    ],
    ids=["absent", "dangling", "folder", "pipe", "device", "loop"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "对话.jsonl"
    make(path)
    with pytest.raises(StorageError, match=f"{path}.* {message}"):
        find_sources([str(path)])


def test_a_file_system_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match=r"a package is missing: pip install 'tidemill\[s3\]'"):
        find_sources(["s3://bucket/a.jsonl"])


def test_a_folder_among_files_does_not_stop_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").mkdir()
    assert len(find_sources([f"{tmp_path}/*.jsonl"])) == 1


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(StorageError, match="permission"):
        find_sources([str(path)])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "not an address"),
        ("a\0.jsonl", r"a\\x00.jsonl is not an address"),
        ("*.nothing.jsonl", "No file matches"),
        ("a\x1b31m.jsonl", r"a\\x1b31m.jsonl does not exist"),
        ("x" * 5000 + ".jsonl", "cannot be read"),
        ("a.docx", "names end in .jsonl"),
        ("a.parquet.gz", "names end in .jsonl"),
        ("a\udcff.jsonl", "not UTF-8"),
    ],
)
def test_a_bad_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        find_sources([address])
    assert str(raised.value).isprintable()


def test_no_address_is_refused() -> None:
    with pytest.raises(StorageError, match="at least one"):
        find_sources([])


def test_the_identity_is_of_content_and_format(tmp_path: Path) -> None:
    names = ("a.jsonl", "b.JSONL", "c.txt", "d.csv")
    keys = [source(tmp_path / name, LINES).cache_digest() for name in names]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_what_is_printed_cannot_hurt() -> None:
    assert printable("a\x1b]0;x\x07\u202e\n好") == "a\\x1b]0;x\\x07\\x202e\\x0a好"


# --- reading


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.translate(None, b"\n\0")), max_size=30),
    block_bytes=st.integers(1, 40),
    ends=st.booleans(),
)
def test_blocks_are_the_file_cut_at_lines(
    tmp_path: Path, lines: list[bytes], block_bytes: int, ends: bool
) -> None:
    content = b"{}\n" + b"\n".join(lines) + b"\n" * ends
    got = list(blocks(source(tmp_path / "a.jsonl", content), block_bytes=block_bytes))
    assert b"".join(block for block, _ in got) == content
    assert all(block.endswith(b"\n") for block, _ in got[:-1])
    for i, (_, first) in enumerate(got):
        assert first == 1 + b"".join(block for block, _ in got[:i]).count(b"\n")
    longest = max(map(len, content.split(b"\n"))) + 1
    assert all(len(block) <= 2 * block_bytes + 262 + longest for block, _ in got)


def gz(content: bytes) -> bytes:
    # Without the time of day: the bytes are part of a test's name.
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    return zstandard.compress(content)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.ndjson", bytes),
        ("a.json", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.JSONL.GZ", lambda c: gzip.compress(c[:9]) + gzip.compress(c[9:])),
        ("a.jsonl.gz", lambda c: gzip.compress(c) + bytes(512)),
        ("a.jsonl.zst", zstd),
        ("a.jsonl.zst", lambda c: zstd(c[:9]) + zstd(c[9:])),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_packed_files_are_unpacked(tmp_path: Path, name: str, pack, block_bytes: int) -> None:  # type: ignore[no-untyped-def]
    for content in (LINES, b"\xef\xbb\xbf" + LINES):
        assert text(tmp_path / name, pack(content), block_bytes=block_bytes) == LINES


BIG = b"".join(b'{"a": %d, "b": "%x"}\n' % (i, i * i * 7919) for i in range(5_000))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl.gz", b"", "is empty"),
        ("a.jsonl.zst", b"", "is empty"),
        ("a.txt", b"", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.jsonl", LINES.decode().encode("utf-16"), "is UTF-16"),
        ("a.jsonl", b"\xfe\xff" + LINES.decode().encode("utf-16-be"), "is UTF-16"),
        ("a.jsonl", LINES.decode().encode("utf-16-be"), "is UTF-16"),
        ("a.jsonl", LINES.decode().encode("utf-16-le"), "is UTF-16"),
        ("a.jsonl", LINES.decode().encode("utf-32"), "is UTF-32"),
        ("a.jsonl", b"\0\0\xfe\xff" + LINES.decode().encode("utf-32-be"), "is UTF-32"),
        ("a.jsonl.gz", gz(LINES.decode().encode("utf-16")), "is UTF-16"),
        ("a.csv", "source,译文\n一,二\n".encode("gbk"), "UTF-8 in line 1: .* from GB18030"),
        ("a.jsonl", gz(LINES), "gzip file under another name"),
        ("a.jsonl", zstd(LINES), "zstd file under another name"),
        ("a.txt", b"PK\x03\x04" + bytes(40), "is a zip archive: unpack it"),
        ("a.jsonl.gz", LINES, "is not gzip"),
        ("a.jsonl.gz", zstd(LINES), "is not gzip"),
        ("a.jsonl.zst", gz(LINES), "is not zstd"),
        ("a.jsonl.gz", gz(BIG)[:-1], "cut short"),
        ("a.jsonl.gz", gz(BIG)[:20_000], "cut short"),
        ("a.jsonl.gz", gz(BIG)[:9], "cut short"),
        ("a.jsonl.gz", gz(BIG) + gz(BIG)[:99], "cut short"),
        ("a.jsonl.gz", gz(BIG) + b"more", "damaged"),
        ("a.jsonl.gz", gz(BIG)[:-8] + bytes(8), "damaged"),
        (
            "a.jsonl.gz",
            gz(BIG)[:999] + b"??" + gz(BIG)[1001:],
            "damaged",
        ),
        ("a.jsonl.zst", zstd(BIG)[:-1], "cut short"),
        ("a.jsonl.zst", zstd(BIG)[:9_999], "cut short"),
        ("a.jsonl.zst", zstd(BIG) + b"more", "damaged"),
        ("a.jsonl", b'[\n  {"a": 1},\n  {"a": 2}\n]\n', "one JSON array"),
        ("a.json", b'[{"a": 1}, {"a": 2}]', "one JSON array"),
        ("a.csv", b"\n\n", "no header"),
        ("a.csv", b"source,a,a\n1,2,3\n", "names a column twice"),
        ("a.csv", b'"source,target\n1,2\n', "not CSV in line 1"),
        ("a.parquet", b"PAR1 and no more of it", "not sound Parquet"),
        ("a.parquet", LINES, "is not Parquet, as its name says"),
    ],
)
def test_a_broken_file_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    with pytest.raises(StorageError, match=message) as raised:
        text(path, content)
    assert str(path) in str(raised.value)
    assert str(raised.value).isprintable()
    with pytest.raises(StorageError, match=message):
        text(path, content, block_bytes=40)


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    found = source(path, LINES)
    path.write_bytes(LINES.replace(b"1", b"3"))
    with pytest.raises(StorageError, match="changed while"):
        list(blocks(found))
    path.unlink()
    with pytest.raises(StorageError, match="does not exist"):
        list(blocks(found))


def test_a_file_of_tabs_has_no_quotes(tmp_path: Path) -> None:
    content = (
        '\ufeffHi.\t嗨。\tCC-BY\nNo tab\n\n"Quoted\t引号\r\nBye.\t再见。\textra\tmore'.encode()
        + b"\n\xff\tx"
    )
    found = source(tmp_path / "a.txt", content)
    ((block, first),) = blocks(found, ["en", "zh"])
    assert first == 1
    assert [json.loads(line) if b"{" in line else line for line in block.split(b"\n")] == [
        {"en": "Hi.", "zh": "嗨。"},
        {"en": "No tab"},
        b"",
        {"en": '"Quoted', "zh": "引号"},
        {"en": "Bye.", "zh": "再见。"},
        b"\xff\tx",
    ]


def test_a_csv_keeps_its_line_numbers(tmp_path: Path) -> None:
    content = 'en,zh\r\n"two\nlines",两行\n\nHi.,嗨。\n"a ""b""","c,d"\nshort\nlong,x,y\n'.encode()
    for block_bytes in (1, 1 << 20):
        lines: dict[int, object] = {}
        left_out = LeftOut()
        found = source(tmp_path / "a.csv", content)
        for block, first in blocks(found, ["en", "zh"], block_bytes, left_out=left_out):
            for number, line in enumerate(block.split(b"\n"), first):
                if line:
                    assert number not in lines
                    lines[number] = json.loads(line)
        assert lines == {
            2: {"en": "two\nlines", "zh": "两行"},
            5: {"en": "Hi.", "zh": "嗨。"},
            6: {"en": 'a "b"', "zh": "c,d"},
        }
        assert left_out.rows == [
            (7, "unequal_columns", "the row has 1 columns where the header has 2", b"short"),
            (8, "unequal_columns", "the row has 3 columns where the header has 2", b"long,x,y"),
        ]


def test_a_parquet_row_is_a_line(tmp_path: Path) -> None:
    rows = [
        {"topic": "天气", "dialog": ["user1：一\n二", "x"]},
        {"topic": None, "dialog": []},
    ] * 700
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    got = list(blocks(source(tmp_path / "a.parquet")))
    assert [first for _, first in got] == [1, 1001]
    assert [json.loads(line) for block, _ in got for line in block.split(b"\n")] == rows


def test_a_large_parquet_file_is_cut_between_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"en": f"line {i}", "zh": f"第{i}句"} for i in range(1_000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=90)
    (whole,) = find_sources([str(path)])
    assert (whole.begin, whole.first_line, whole.num_bytes) == (0, 1, path.stat().st_size)
    monkeypatch.setattr("warehouse.sources.sources.PIECE_BYTES", 4_000)
    pieces = find_sources([str(path)])
    assert [piece.first_line for piece in pieces] == [1, 181, 361, 541, 721, 901]
    assert sum(piece.num_bytes for piece in pieces) == whole.num_bytes
    assert len({piece.cache_digest() for piece in pieces}) == len(pieces)
    got = {
        first + i: json.loads(line)
        for piece in reversed(pieces)
        for block, first in blocks(piece)
        for i, line in enumerate(block.split(b"\n"))
    }
    assert [got[i] for i in range(1, 1_001)] == rows
    # The same bytes under other names of columns are other records.
    swapped = pa.Table.from_pylist(rows).rename_columns(["zh", "en"])
    pq.write_table(swapped, tmp_path / "b.parquet", row_group_size=90)
    others = find_sources([str(tmp_path / "b.parquet")])
    assert [each.num_bytes for each in others][:-1] == [each.num_bytes for each in pieces][:-1]
    assert {each.cache_digest() for each in others}.isdisjoint(
        each.cache_digest() for each in pieces
    )
    changed = bytearray(path.read_bytes())
    changed[pieces[2].begin + 9] ^= 1
    path.write_bytes(changed)
    with pytest.raises(StorageError, match="changed while"):
        list(blocks(pieces[2]))


def pairs_of(num_bytes: int) -> list[dict[str, str]]:
    row = {"source": "今天的天气很好，" * 40, "target": "the weather is fine today " * 40}
    size = len(json.dumps(row, ensure_ascii=False).encode())
    return [{**row, "source": f"{i}{row['source']}"} for i in range(num_bytes // size)]


def write_pairs(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".parquet":
        # One row group that does not shrink: read at once, all of it would be in memory.
        table = pa.Table.from_pylist(rows)
        pq.write_table(
            table, path, row_group_size=len(rows), compression=None, use_dictionary=False
        )
        return
    separator = {".csv": ",", ".txt": "\t"}.get(path.suffix)
    lines = (
        [json.dumps(row, ensure_ascii=False) for row in rows]
        if separator is None
        else ["source,target"] * (separator == ",") + [separator.join(row.values()) for row in rows]
    )
    content = "".join(f"{line}\n" for line in lines).encode()
    pack = {".gz": lambda text: gzip.compress(text, 1), ".zst": zstandard.compress}
    path.write_bytes(pack.get(path.suffix, bytes)(content))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.txt", "a.parquet"]
)
def test_every_format_is_read_in_bounded_memory(tmp_path: Path, name: str) -> None:
    write_pairs(tmp_path / f"few-{name}", pairs_of(30_000))
    write_pairs(tmp_path / name, pairs_of(44_000_000))
    shown = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / f"few-{name}"), str(tmp_path / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert int(shown[0]) > 40_000_000
    assert int(shown[1]) < 40


def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    row = {"source": "很" * 100_000, "target": "very"}
    table = pa.Table.from_pylist([row]).take(pa.array([0] * 3_000))
    pq.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    shown = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "a.parquet")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "unpacks to more than" in shown[0]
    assert int(shown[1]) < 700


PEAK = """
import resource, sys
from warehouse.sources.sources import blocks, find_sources
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def read(address):
    return sum(len(block) for piece in find_sources([address]) for block, _ in blocks(piece))
read(sys.argv[1])
before = peak()
print(read(sys.argv[2]), peak() - before)
"""

BOMB = """
import resource, sys
from warehouse.errors import StorageError
from warehouse.sources.sources import blocks, find_sources
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for block, first in blocks(find_sources([sys.argv[1]])[0]):
        pass
except StorageError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def write_gzip_bomb(path: Path, line: bytes) -> None:
    packer = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        for _ in range(90):
            file.write(packer.compress(line * ((1 << 20) // len(line))))
        file.write(packer.flush())


def write_zstd_bomb(path: Path, line: bytes) -> None:
    with path.open("wb") as file, zstandard.ZstdCompressor(19).stream_writer(file) as packer:
        for _ in range(90):
            packer.write(line * ((1 << 20) // len(line)))


@pytest.mark.parametrize("write", [write_gzip_bomb, write_zstd_bomb])
@pytest.mark.parametrize("line", [b"{}" * 500 + b"\n", b" "])
def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path, write, line: bytes) -> None:  # type: ignore[no-untyped-def]
    name = "a.jsonl.gz" if write is write_gzip_bomb else "a.jsonl.zst"
    write(tmp_path / name, line)
    shown = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "unpacks to more than" in shown[0]
    assert int(shown[1]) < 400


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(80 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StorageError, match="line over 64 MiB near line 1"):
        list(blocks(source(tmp_path / "a.jsonl")))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_addresses_keep_their_order_and_files_of_one_are_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "more/d.txt", "more/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    given = [str(tmp_path / "b.txt"), str(tmp_path / "more"), str(tmp_path / "*.txt")]
    found = [Path(source.address).name for source in find_sources(given)]
    assert found == ["b.txt", "c.txt", "d.txt", "a.txt"]


# --- sentences of a token a line


PLAIN = TokenColumns()


def sentences_of(
    tmp_path: Path, content: str | bytes, layout: TokenColumns = PLAIN, **settings: int
) -> tuple[dict[int, list[tuple[str, str]]], LeftOut]:
    """The sentences by their lines, as pairs of token and tag, and what was left out."""
    left_out = LeftOut()
    content = content if isinstance(content, bytes) else content.encode()
    found = source(tmp_path / "a.conll", content)
    read: dict[int, list[tuple[str, str]]] = {}
    for block, first in blocks(
        found, ["tokens", "tags"], token_columns=layout, left_out=left_out, **settings
    ):
        for number, line in enumerate(block.split(b"\n"), first):
            if line:
                row = json.loads(line)
                read[number] = list(zip(row["tokens"], row["tags"], strict=True))
    return read, left_out


I_GO = [("我", "O"), ("去", "B-LOC")]


@pytest.mark.parametrize(
    ("content", "expected", "num_comments"),
    [
        pytest.param("我 O\n去 B-LOC\n", {1: I_GO}, 0, id="plain"),
        pytest.param("\ufeff我 O\r\n去 B-LOC \t\r\n\r\n", {1: I_GO}, 0, id="BOM, CRLF and blanks"),
        pytest.param("我 O\r去 B-LOC\r\r我 O\r", {1: I_GO, 4: I_GO[:1]}, 0, id="CR alone"),
        pytest.param(
            "我 O\n去 B-LOC\n\u3000\n我 O\n\xa0\u200b\n我\tO\n \t\n",
            {1: I_GO, 4: I_GO[:1], 6: I_GO[:1]},
            0,
            id="blank lines of all kinds",
        ),
        pytest.param(
            "New York\tB-LOC\n\ufeff我\tO\n", {1: [("New York", "B-LOC"), I_GO[0]]}, 0, id="tabs"
        ),
        pytest.param(
            "New\u3000York B-LOC\n我 O\n",
            {1: [("New\u3000York", "B-LOC"), I_GO[0]]},
            0,
            id="a blank of another kind within a token",
        ),
        pytest.param("我\u3000O\n去\u3000B-LOC\n", {1: I_GO}, 0, id="wide blanks"),
        pytest.param(
            "-DOCSTART- -X- -X- O\n\n我 PN x O\n去 VV x B-LOC\n\n1 CD x O\n",
            {3: I_GO, 6: [("1", "O")]},
            0,
            id="CoNLL-2003",
        ),
        pytest.param("-DOCSTART-\n我 O\n去 B-LOC\n", {2: I_GO}, 0, id="no line behind a document"),
        pytest.param(
            "# id = 1\n# text = 我去\n1\t我\tO\n2\t去\tB-LOC\n\n#\n1\t#\tO\n",
            {3: I_GO, 7: [("#", "O")]},
            3,
            id="comments and numbers",
        ),
        pytest.param(
            "# of the first\n我 O\n# O\n去 B-LOC\n\n# O\n\n# notag\n# B-LOC\n\n# word\n",
            {2: [I_GO[0], ("#", "O"), I_GO[1]], 6: [("#", "O")], 9: [("#", "B-LOC")]},
            3,
            id="the token #",
        ),
        pytest.param(
            "1-2\t我去\t_\n1\t我\tO\n2\t去\tB-LOC\n2.1\t_\t_\n",
            {2: I_GO},
            0,
            id="ranges of CoNLL-U",
        ),
        pytest.param("0 我 O\n1 去 B-LOC\n", {1: I_GO}, 0, id="numbers from 0"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_sentences_are_read_as_people_write_them(
    tmp_path: Path,
    content: str,
    expected: dict[int, list[tuple[str, str]]],
    num_comments: int,
    block_bytes: int,
) -> None:
    read, left_out = sentences_of(tmp_path, content, block_bytes=block_bytes)
    assert read == expected
    assert left_out == LeftOut([], num_comments)


@pytest.mark.parametrize(
    ("content", "line", "reason", "detail"),
    [
        ("New York B-LOC\nis O", 1, "unequal_columns", "columns of the line: 3, of others"),
        ("我 O\n O", 2, "unequal_columns", "columns of the line: 1, of others of its sentence: 2"),
        ("我\tO\n去 O", 2, "unequal_columns", "columns of the line: 1"),
        ("我", 1, "unequal_columns", "tokens are in column 1, tags in column -1"),
        ("我 O\r去 O", 1, "unequal_columns", "a carriage return stands within the line"),
        (b"\xe6\x88\x91 O\n\xff O", 2, "not_utf8", "the line is not UTF-8"),
    ],
)
def test_a_sentence_that_cannot_be_read_is_told_and_costs_no_other(
    tmp_path: Path, content: str | bytes, line: int, reason: str, detail: str
) -> None:
    bad = content if isinstance(content, bytes) else content.encode()
    good = "我 O\n去 B-LOC\n".encode()
    read, left_out = sentences_of(tmp_path, good + b"\n" + bad + b"\n\n" + good)
    assert list(read.values()) == [I_GO, I_GO]
    (row,) = left_out.rows
    assert (row.line, row.reason, row.raw) == (line + 3, reason, bad)
    assert row.detail.startswith(detail)


def test_tokens_and_tags_are_in_any_column(tmp_path: Path) -> None:
    for num_columns in range(2, 11):
        rows = [[f"{row}{column}" for column in range(1, num_columns + 1)] for row in "abc"]
        content = "".join("\t".join(row) + "\n" for row in rows)
        for token in (*range(1, num_columns + 1), *range(-num_columns, 0)):
            for tag in range(1, num_columns + 1):
                read, left_out = sentences_of(tmp_path, content, TokenColumns(token, tag))
                place = token - 1 if token > 0 else token
                if place % num_columns == tag - 1:
                    assert left_out.rows[0].reason == "unequal_columns"
                else:
                    assert read == {1: [(row[place], row[tag - 1]) for row in rows]}
    _, left_out = sentences_of(tmp_path, content, TokenColumns(1, 11))
    assert "tags in column 11, and columns of the line: 10" in left_out.rows[0].detail


# --- CSV of spreadsheets


def rows_of(
    tmp_path: Path, content: str | bytes, **settings: int
) -> tuple[dict[int, tuple[str, str]], list[tuple[int, str]]]:
    """The rows by their lines, and the lines and reasons of those that were left out."""
    left_out = LeftOut()
    found = source(tmp_path / "a.csv", content if isinstance(content, bytes) else content.encode())
    read: dict[int, tuple[str, str]] = {}
    for block, first in blocks(found, ["en", "zh"], left_out=left_out, **settings):
        for number, line in enumerate(block.split(b"\n"), first):
            if line:
                row = json.loads(line)
                read[number] = row["en"].strip(), row["zh"].strip()
    return read, [(row.line, row.reason) for row in left_out.rows]


@pytest.mark.parametrize(
    ("content", "expected", "left_out"),
    [
        (
            '\ufeff en ,"zh" ,,\na, "b" ,,\n,,,\nc,"d\ne",,x\n',
            {2: ("a", "b")},
            [(4, "not_csv"), (5, "unequal_columns")],
        ),
        ("en,zh,,\na,b\nc,d,,\ne,f,\n", {2: ("a", "b"), 3: ("c", "d"), 4: ("e", "f")}, []),
        ('zh;id;en\n"b;c";1;a\n', {2: ("a", "b;c")}, []),
        ("sep=|\nen|zh\na|b,c\n", {3: ("a", "b,c")}, []),
        ("sep=\t\nen\tzh\na\tb\n", {3: ("a", "b")}, []),
        ("en\tzh\na\tb\n", {2: ("a", "b")}, []),
        ("\n\nen,zh\na,b\n", {4: ("a", "b")}, []),
        ("en,zh\ra,b\rc,d", {2: ("a", "b"), 3: ("c", "d")}, []),
        ('en,zh\r"a\rb",c\rd,e\r', {2: ("a\nb", "c"), 4: ("d", "e")}, []),
        # A quote that stays open: to the end, to a quoted field, to the end of one.
        ('en,zh\n"a,b\nc,d\ne,f', {3: ("c", "d"), 4: ("e", "f")}, [(2, "not_csv")]),
        ('en,zh\na,"b\nc,d\n"e",f\n', {3: ("c", "d"), 4: ("e", "f")}, [(2, "not_csv")]),
        ('en,zh\n"a,b\nc,d\n5" e,f\n', {3: ("c", "d"), 4: ('5" e', "f")}, [(2, "not_csv")]),
        (
            'en,zh\n"a\nb","c\nd,e\n"f\n""g""",h\n',
            {4: ("d", "e"), 5: ('f\n"g"', "h")},
            [(2, "not_csv"), (3, "not_csv")],
        ),
        ('en,zh\n"a"b,c\nd,e\n', {3: ("d", "e")}, [(2, "not_csv")]),
        ("en,zh\na\rb,c\nd,e\n", {3: ("d", "e")}, [(2, "not_csv")]),
        ("en,zh\na\nb,c,d\ne,f", {4: ("e", "f")}, [(2, "unequal_columns"), (3, "unequal_columns")]),
        (
            b'en,zh\na,\xffb\n"c\nd",\xe5\n"e\nf",g',
            {5: ("e\nf", "g")},
            [(2, "not_utf8"), (3, "not_utf8")],
        ),
        (b'en,zh\n"a,\xff\nc,d\n', {3: ("c", "d")}, [(2, "not_csv")]),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_a_bad_row_of_a_csv_costs_itself(
    tmp_path: Path,
    content: str | bytes,
    expected: dict[int, tuple[str, str]],
    left_out: list[tuple[int, str]],
    block_bytes: int,
) -> None:
    read, told = rows_of(tmp_path, content, block_bytes=block_bytes)
    assert read == expected
    assert told == left_out


def test_the_line_is_named_where_a_quote_opens(tmp_path: Path) -> None:
    content = b"en,zh\n" + b"a,b\n" * 5 + b'c,"d\n' + b"e,f\n" * 9 + b'"g",h\n'
    left_out = LeftOut()
    list(blocks(source(tmp_path / "a.csv", content), ["en", "zh"], left_out=left_out))
    (row,) = left_out.rows
    assert (row.line, row.raw) == (7, b'c,"d')
    assert row.detail.startswith("a quote opens here that does not close before line 17")


def test_quotes_that_never_match_end_in_a_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("warehouse.sources.delimited.FREE_REREAD_CHARACTERS", 1 << 20)
    with pytest.raises(StorageError, match="its quotes do not match in many rows"):
        rows_of(tmp_path, "en,zh\n" + 'x","y\n' * 30_001)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("Hi.,嗨。\nBye.,再见。\n", "line 1 names 'Hi.', '嗨。'"),
        ("\n\x1b[2J,x\n", r"line 2 names '\\x1b\[2J', 'x'"),
        ("Title of the sheet\n,\nen,zh\na,b\n", "line 1 names 'Title of the sheet'"),
    ],
)
def test_a_first_line_that_is_no_header_is_shown(tmp_path: Path, content: str, found: str) -> None:
    with pytest.raises(StorageError, match=f"none of the columns en, zh: {found}") as raised:
        rows_of(tmp_path, content)
    assert "records.fields" in str(raised.value)
    assert str(raised.value).isprintable()


# --- what a file is


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"Rar!\x1a\x07\x00" + bytes(300), "is a rar archive: unpack it"),
        ("a.csv", b"7z\xbc\xaf\x27\x1c" + bytes(300), "is a 7z archive: unpack it"),
        ("a.csv", b"PK\x03\x04" + bytes(30) + b"[Content_Types].xml", "is an Office document"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is an old Office document"),
        ("a.txt", b"SQLite format 3\0" + bytes(99), "is an SQLite database"),
        (
            "a.parquet",
            b"SQLite format 3\0" + bytes(99),
            "is not Parquet, .* but an SQLite database",
        ),
        ("a.jsonl.gz", b"PK\x03\x04" + bytes(99), "is not gzip, .* but a zip archive: unpack it"),
        ("a.jsonl", b"\n<HTML>\n", "is a web page"),
        ("a.csv", "source,target\n一,二\n".encode("utf-16"), "is UTF-16: convert it"),
        ("a.csv", "source,target\n一,二\n".encode("utf-16-le"), "is UTF-16LE: convert it"),
        ("a.txt", "今天一起去公园\n".encode("utf-16-be") * 90, "is UTF-16BE: .* -f UTF-16BE"),
        ("a.txt", "Hi.\t嗨。\n".encode("utf-32-be"), "is UTF-32BE: convert it"),
        ("a.jsonl", b'[\n\n{"a": 1}]', "is one JSON array: .*jq -c"),
        ("a.jsonl", b"[\n[1, 2],\n[3, 4]\n]\n", "is one JSON array"),
        ("a.jsonl.gz", gz(b'\xef\xbb\xbf \n [ {"a": 1},\n{"a": 2} ]'), "is one JSON array"),
        ("a.json", b'{\n"a": 1\n}\n', "has JSON objects of several lines"),
        ("a.zip", b"", "is a zip archive by its name: unpack it, or name a file in it: zip://"),
        ("a.tar.gz", b"", "is a tar archive by its name: unpack it"),
        ("a.csv.bz2", b"", "is a bzip2 file by its name: unpack it"),
        ("a.XLSX", b"", "is an Excel workbook by its name: save it as CSV"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    for block_bytes in (40, 1 << 20):
        with pytest.raises(StorageError, match=f"{name} {message}"):
            text(tmp_path / name, content, block_bytes=block_bytes)


def test_one_bad_row_makes_no_array(tmp_path: Path) -> None:
    for first in (b"[{}\n", b"{\n", b"[\n", b"[[]]\n"):
        assert text(tmp_path / "a.jsonl", first + LINES) == first + LINES


def test_a_zstd_window_beyond_the_limit_is_called_that(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=28, enable_ldm=True, write_content_size=False
    )
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    with pytest.raises(StorageError, match=r"more than the 128 MiB .* window.* without --long"):
        text(tmp_path / "a.jsonl.zst", packer.compress(LINES) + packer.flush())
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert text(tmp_path / "a.jsonl.zst", skipped + zstd(LINES)) == LINES


@pytest.mark.parametrize(
    ("said", "encoding"),
    [
        ("今天的天气很好，我们去公园散步。", "GB18030"),
        ("今天的天氣很好，我們去公園散步。", "BIG5"),
        ("un café crème, s'il vous plaît", ""),
        ("", ""),
    ],
)
def test_the_encodings_of_chinese_are_told_apart(said: str, encoding: str) -> None:
    row = json.dumps({"text": said, "label": "1"}, ensure_ascii=False)
    assert likely_encoding(row.encode(encoding or "cp1252")) == encoding


# --- addresses in chains, links


def test_files_in_archives_and_caches_can_be_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in/a.jsonl", LINES)
        file.writestr("in/b.jsonl.gz", gz(LINES))
        file.writestr("READ.md", b"x")
    plain = tmp_path / "c.jsonl"
    plain.write_bytes(LINES)
    both = [f"zip://in/{name}::{archive}" for name in ("a.jsonl", "b.jsonl.gz")]
    for address, expected in (
        (both[0], both[:1]),
        (f"zip://in/*.jsonl*::{archive}", both),
        (f"zip://::{archive}", both),
        (f"zip://in::file://{archive}", [each.replace("::", "::file://") for each in both]),
        (f"simplecache::file://{plain}", [f"simplecache::file://{plain}"]),
        (f"simplecache::{both[0]}", [f"simplecache::{both[0]}"]),
        (f"file://{tmp_path}/*.jsonl", [f"file://{plain}"]),
    ):
        found = find_sources([address])
        assert [each.address for each in found] == expected
        for each in found:
            assert b"".join(block for block, _ in blocks(each)) == LINES
    for address, message in (
        (f"zip://in/c.jsonl::{archive}", "does not exist|cannot be read"),
        (f"zip://*.txt::{archive}", "No file matches"),
        (f"zip://a.jsonl::{tmp_path}/gone.zip", "does not exist"),
        (f"zip://a.jsonl::{plain}", "cannot be read"),
        ("simplecache::ftp://li:geheim@example.org/a.jsonl", "holds a password"),
        (f"zip://READ.md::{archive}", "names end in"),
    ):
        with pytest.raises(StorageError, match=message) as raised:
            find_sources([address])
        assert "geheim" not in str(raised.value)


def test_the_query_of_an_address_is_not_its_format() -> None:
    from warehouse.sources.files import compression_of, format_of

    assert format_of("https://example.org/a.csv?download=true#x") == "csv"
    assert compression_of("simplecache::https://example.org/a.csv.gz?x=.zst") == "gzip"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    for name in ("a.jsonl", "deep/b.jsonl", "deep/.hidden/c.jsonl", "deep/.d.jsonl"):
        (tmp_path / name).write_bytes(LINES)
    for link in ("x", "y", "deep/x", "deep/y"):
        (tmp_path / link).symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "deep")
    expected = ["a.jsonl", "deep/b.jsonl"]
    for address in (
        tmp_path,
        f"{tmp_path}/**/*.jsonl",
        f"{tmp_path}/**/**/*.jsonl",
        f"{tmp_path}/**",
    ):
        found = [os.path.relpath(each.address, tmp_path) for each in find_sources([str(address)])]
        assert found == expected
    assert len(find_sources([f"{tmp_path}/*/*.jsonl"])) == 4


def test_patterns_are_those_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "d/a.jsonl", "d/e/a.jsonl", "d/e/b.txt", "[d]/e/a.jsonl", "d/.f/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(LINES)
    monkeypatch.chdir(tmp_path)
    for pattern in (
        "**/*.jsonl",
        "d/**",
        "**/e/*",
        "*/**/a.*",
        "d/**/e/**/*.txt",
        "**/[[]d]/**/a.jsonl",
        f"{tmp_path}/**/b.*",
        "./**/a.jsonl",
    ):
        expected = sorted(
            name for name in set(glob.glob(pattern, recursive=True)) if not Path(name).is_dir()
        )
        assert [each.address for each in find_sources([pattern])] == expected


def test_a_socket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.jsonl")
        with pytest.raises(StorageError, match="is a socket, not a regular file"):
            find_sources(["a.jsonl"])


def test_a_link_out_of_the_folder_of_the_source_is_known(tmp_path: Path) -> None:
    for name in ("in/a.jsonl", "in/deep/b.jsonl", "out/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(LINES)
    (tmp_path / "in" / "inside.jsonl").symlink_to("deep/b.jsonl")
    (tmp_path / "in" / "link.jsonl").symlink_to("../out/c.jsonl")
    (tmp_path / "in" / "links").symlink_to("../out")
    (tmp_path / "in2").symlink_to("in")
    for folder in ("in", "in2"):
        for address in (f"{folder}", f"{folder}/**/*.jsonl", f"file://{tmp_path}/{folder}/*.jsonl"):
            given = address if "://" in address else f"{tmp_path}/{address}"
            found = find_sources([given])
            outside = {Path(each.address).name for each in found if each.leads_outside}
            assert outside == {"link.jsonl"} | ({"c.jsonl"} if "://" not in address else set())
    (alone,) = find_sources([f"{tmp_path}/in/link.jsonl"])
    (sound,) = find_sources([f"{tmp_path}/out/c.jsonl"])
    assert alone.leads_outside and not sound.leads_outside
    assert alone.cache_digest() != sound.cache_digest()
