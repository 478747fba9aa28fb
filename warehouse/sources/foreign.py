"""Files that are none to read: what they are, and what to do."""

from warehouse.sources.files import _SPREADSHEET, _UNPACK, _ZIP

_MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "parquet"}

_TAR_MARK = slice(257, 262)  # where "ustar" stands in the head of an archive

_ENCODINGS = {  # the longer marks first
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

BOM = b"\xef\xbb\xbf"

_SKIPPABLE_FRAME = slice(1, 4), b"\x2a\x4d\x18"  # some write one in front of zstd's frames

_FOREIGN = {  # how a file begins that is none to read, what it is, and what to do
    b"PK\x03\x04": ("a zip archive", _ZIP),
    b"PK\x05\x06": ("an empty zip archive", _UNPACK),
    b"BZh": ("a bzip2 file", "unpack it (bunzip2)"),
    b"\xfd7zXZ\x00": ("an xz file", "unpack it (unxz)"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", _UNPACK),
    b"\x04\x22\x4d\x18": ("an lz4 file", "unpack it (unlz4)"),
    b"\x1f\x9d": ("a compress file (.Z)", "unpack it (uncompress)"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document (.xls, .doc)", _SPREADSHEET),
    b"%PDF-": ("a PDF document", "save its text"),
    b"SQLite format 3\0": ("an SQLite database", "write its table as CSV"),
    b"ARROW1\0\0": ("an Arrow file", "write it as Parquet"),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"\x93NUMPY": ("a NumPy array", "write it as Parquet"),
    b"\x7fELF": ("a program", "name a file of text"),
    b"version https://git-lfs.github.com/": (
        "a pointer of Git LFS, not the file itself",
        "run git lfs pull",
    ),
}


def _container_of(head: bytes) -> str:
    """The compression, or Parquet, that a file begins with; else nothing."""
    place, mark = _SKIPPABLE_FRAME
    if head[place] == mark and head[0] >> 4 == 5:
        return "zstd"
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "")


def _foreign(head: bytes) -> tuple[str, str] | None:
    """What a file is that cannot be read, by its beginning, and what to do with it."""
    if head[_TAR_MARK] == b"ustar":
        return "a tar archive", _UNPACK
    if head.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in head:
        return "an Office document (.xlsx, .docx)", _SPREADSHEET
    start = head[:4_096].removeprefix(BOM).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not the file itself", "fetch the file by the address of its download"
    if start.startswith(b"<?xml"):
        return "an XML document", "write a JSON object a line"
    for magic, foreign in _FOREIGN.items():
        if head.startswith(magic):
            return foreign
    return None


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, by its mark, or since it has zeros and reads as text; else nothing."""
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            return encoding
    few = head[: min(len(head), 4_096) // 4 * 4]
    num_zeros = few.count(0)
    begins_wide = few[:2].count(0) == 1 or few[:4].count(0) == 3
    if num_zeros * 100 < len(few) or num_zeros < (3 if begins_wide else 16):
        return ""
    found: dict[str, tuple[int, int]] = {}
    for encoding in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        text = few.decode(encoding, errors="ignore")
        num_ascii = sum(char < "\x7f" for char in text)
        if num_ascii * 100 >= len(text) > 0 and all(c >= " " or c in "\t\r\n" for c in text):
            found[encoding] = text.count("\n"), num_ascii  # in the wrong order, no line ends
    return max(found, key=lambda encoding: found[encoding], default="")


def likely_encoding(sample: bytes) -> str:
    """GB18030 or BIG5, where a text that is not UTF-8 seems to be Chinese in it; else nothing.

    They are told apart by where their common characters lie.
    """
    pairs: list[tuple[int, int]] = []
    i = 0
    while i < len(sample) - 1:
        if sample[i] >= 0x80:
            pairs.append((sample[i], sample[i + 1]))
            i += 1
        i += 1
    num_gb = sum((0xB0 <= a <= 0xD7 or a in (0xA1, 0xA3)) and b >= 0xA1 for a, b in pairs)
    num_big5 = sum(0xA1 <= a <= 0xC6 and (0x40 <= b <= 0x7E or b >= 0xA1) for a, b in pairs)
    for encoding, num_common in (("GB18030", num_gb), ("BIG5", num_big5)):
        if num_common >= max(2, 0.9 * len(pairs)):
            return encoding
    return ""
