import gzip
import json
import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse.errors import StorageError
from warehouse.sources.files import SourceFile, printable
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
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=30),
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
        ("a.csv", "a,b\n一,二\n".encode("gbk"), "not UTF-8 in line 2"),
        ("a.jsonl", gz(LINES), "gzip file under another name"),
        ("a.jsonl", zstd(LINES), "zstd file under another name"),
        ("a.txt", b"PK\x03\x04" + bytes(40), "zip file under another name"),
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
        ("a.csv", b"a,a\n1,2\n", "names a column twice"),
        ("a.csv", b'a,b\n"1,2\n', "not CSV"),
        ("a.parquet", b"PAR1 and no more of it", "not sound Parquet"),
        ("a.parquet", LINES, "not sound Parquet"),
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
        for block, first in blocks(source(tmp_path / "a.csv", content), block_bytes=block_bytes):
            for number, line in enumerate(block.split(b"\n"), first):
                if line:
                    assert number not in lines
                    lines[number] = json.loads(line)
        assert lines == {
            2: {"en": "two\nlines", "zh": "两行"},
            5: {"en": "Hi.", "zh": "嗨。"},
            6: {"en": 'a "b"', "zh": "c,d"},
            7: ["short"],
            8: ["long", "x", "y"],
        }


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
