"""What is remembered of ingests: files, changes, corrected rows."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from warehouse.durable import permitted, replace_file
from warehouse.errors import StorageError
from warehouse.sources.files import SourceFile
from warehouse.tables.example_schemas import FILE_DIGITS
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import checked_name


class FileNote(BaseModel, frozen=True):
    """A file as an ingest found it: its address, a digest of its content, its size."""

    address: str
    digest: str
    num_bytes: int


class SourceChanges(BaseModel, frozen=True):
    """How the files differ from those of the last accepted ingest; addresses, old to new."""

    added: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    renamed: dict[str, str] = {}
    removed: tuple[str, ...] = ()


class LastIngest(BaseModel, frozen=True):
    """What is remembered of the ingests of a name, beside the snapshots.

    `given` and `files` are of the last one that was accepted. `quarantine` is of the last one of
    all; `refused` says why that one was refused, if it was.
    """

    given: tuple[str, ...] = ()
    files: tuple[FileNote, ...] = ()
    quarantine: tuple[TableRef, ...] = ()
    refused: str = ""


class MendedRow(BaseModel, frozen=True):
    """A rejected row, line `line` of the file with this digest, as a person has corrected it."""

    file: str
    line: int
    raw: str


def mended_rows(root: Path, name: str) -> dict[tuple[str, int], str]:
    """The corrected rows that are kept for `name`, by the file and the line that they replace."""
    path = root / "mended" / f"{checked_name(name)}.json"
    try:
        with permitted(path):
            kept = [MendedRow.model_validate(each) for each in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return {}
    except StorageError:
        raise
    except (ValueError, OSError) as error:
        raise StorageError(f"{path} is damaged: remove it and mend the rows again.") from error
    return {(row.file, row.line): row.raw for row in kept}


def keep_mended_rows(root: Path, name: str, rows: dict[tuple[str, int], str]) -> None:
    """Keep exactly these; every ingest of `name` puts them in the place of what was rejected."""
    kept = [{"file": file, "line": line, "raw": raw} for (file, line), raw in sorted(rows.items())]
    payload = json.dumps(kept, ensure_ascii=False, indent=1).encode(errors="surrogatepass")
    replace_file(root / "mended" / f"{checked_name(name)}.json", payload)


# --- what is remembered ---------------------------------------------------------------------------


def last_ingest(root: Path, name: str) -> LastIngest:
    """What is remembered of the last ingests of a name; empty where there was none."""
    try:
        with permitted(_note_path(root, name)):
            return LastIngest.model_validate_json(_note_path(root, name).read_bytes())
    except (FileNotFoundError, ValidationError):
        # Nothing depends on it but what is told about the changes.
        return LastIngest()


def remember_ingest(root: Path, name: str, last: LastIngest) -> None:
    """Keep this in the place of what was remembered before."""
    replace_file(_note_path(root, name), last.model_dump_json(indent=1).encode())


def _note_path(root: Path, name: str) -> Path:
    return root / "ingests" / f"{checked_name(name)}.json"


def _notes(found: Iterable[SourceFile]) -> tuple[FileNote, ...]:
    """One note a file; the digest of a file in pieces is of the digests of its pieces."""
    pieces: dict[str, list[SourceFile]] = {}
    for source in found:
        pieces.setdefault(source.address, []).append(source)
    return tuple(
        FileNote(
            address=address,
            digest=" ".join(source.digest[:FILE_DIGITS] for source in each),
            num_bytes=sum(source.num_bytes for source in each),
        )
        for address, each in pieces.items()
    )


def changes_between(before: Sequence[FileNote], after: Sequence[FileNote]) -> SourceChanges:
    """Which files are new, gone, renamed, or no longer what they were."""
    old = {note.address: note for note in before}
    new = {note.address: note for note in after}
    gone = {note.digest: note.address for note in before if note.address not in new}
    renamed: dict[str, str] = {}
    added: list[str] = []
    for note in after:
        if note.address in old:
            continue
        if note.digest in gone:
            renamed[gone.pop(note.digest)] = note.address
        else:
            added.append(note.address)
    both = [(old[address], note) for address, note in new.items() if address in old]
    differing = [pair for pair in both if pair[0].digest != pair[1].digest]
    return SourceChanges(
        added=tuple(added),
        grown=tuple(b.address for a, b in differing if b.num_bytes > a.num_bytes),
        shrunk=tuple(b.address for a, b in differing if b.num_bytes < a.num_bytes),
        changed=tuple(b.address for a, b in differing if b.num_bytes == a.num_bytes),
        renamed=renamed,
        removed=tuple(address for address in old if address not in new and address not in renamed),
    )
