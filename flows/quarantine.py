"""Rejected rows: list them, read them again, take in corrected ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flows.catalogue import nothing_under
from flows.ingest import IngestReport, _head, ingest_sources, mended_block
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.records.contract import RecordsConfig
from pipeline.records.rows import RAW_BYTES, Rejected
from warehouse.ingests import MendedRow, keep_mended_rows, last_ingest, mended_rows
from warehouse.sources.files import printable
from warehouse.tables.tables import Tables

# --- the quarantine, out and in again -------------------------------------------------------------


class RetryReport(BaseModel, frozen=True):
    """What became of rejected rows: how many there were, and are, and what the ingest brought."""

    num_before: int
    num_after: int
    still_wrong: dict[str, str]
    ingest: IngestReport


def quarantined_rows(root: Path, name: str) -> list[dict[str, Any]]:
    """The rows that the last ingest of `name` rejected, also where it was refused for them.

    Each has the columns of `QUARANTINE`.

    Raises:
        InputError: nothing was ever ingested under this name.
        StorageError: a table is missing or damaged.
    """
    tables = Tables(root)
    last = last_ingest(root, name)
    head = None if last.quarantine else _head(tables, name)
    if head is None and not (last.quarantine or last.given):
        raise nothing_under(name, tables.names(), "data", "ingest")
    refs = last.quarantine or (head.attached if head and not last.given else ())
    return [row for ref in refs for row in tables.read(ref).to_pylist()]


def export_quarantine(root: Path, name: str, path: Path) -> int:
    """Write the rejected rows as JSON lines, to be corrected in `raw`; returns how many.

    Where `is_cut` is true, the row was longer than what is kept of it.

    Raises:
        InputError: the file exists or cannot be written.
        StorageError: a table is missing or damaged.
    """
    rows = quarantined_rows(root, name)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            for row in rows:
                said = {
                    **row,
                    "raw": row["raw"].decode(errors="backslashreplace"),
                    "is_cut": len(row["raw"]) >= RAW_BYTES,
                }
                file.write(json.dumps(said, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise InputError(f"{path} exists already: name another file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): name another") from None
    return len(rows)


def retry_quarantine(
    steps: Steps,
    name: str,
    sources: Sequence[str],
    records: RecordsConfig,
    mended: Path | None = None,
) -> RetryReport:
    """Take rejected rows in that are sound by now, and commit a snapshot with them.

    The sources are read again, if they or the contract have changed since. `mended` is a file as
    `export_quarantine` writes it: a row of it that is sound now is kept, and takes the place of the
    rejected one in this and every later ingest.

    Raises:
        InputError: the file is not of this form, or still too many rows are rejected.
        StorageError: a source cannot be read.
    """
    before = quarantined_rows(steps.root, name)
    still_wrong: dict[str, str] = {}
    if mended is not None:
        rejected = {(row["file"], row["line"]) for row in before}
        kept = mended_rows(steps.root, name)
        for row in _mended_file(mended):
            place = (row.file, row.line)
            if place not in rejected:
                raise InputError(
                    f"{printable(str(mended))} has line {row.line} of the file {row.file[:12]},"
                    f" which is not among the rejected rows of {name}: correct what"
                    f" tidemill quarantine {name} --export FILE writes"
                )
            fault = rejected_again(row.raw, row.line, records)
            if fault is None:
                kept[place] = row.raw
            else:
                still_wrong[f"{row.file[:12]}:{row.line}"] = fault.detail
        keep_mended_rows(steps.root, name, kept)
    report = ingest_sources(steps, name, sources, records)
    return RetryReport(
        num_before=len(before),
        num_after=report.num_rejected,
        still_wrong=still_wrong,
        ingest=report,
    )


def _mended_file(path: Path) -> list[MendedRow]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name another file") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(MendedRow.model_validate_json(line))
            except ValidationError:
                raise InputError(
                    f"{printable(str(path))} line {number} is no rejected row with file, line and"
                    " raw: correct what --export writes, or name a file of new rows as a source"
                ) from None
    return rows


def rejected_again(raw: str, line: int, records: RecordsConfig) -> Rejected | None:
    """What is still wrong with a mended row; None where it is accepted."""
    block = mended_block(raw, line, records)
    if block.rejected:
        return block.rejected[0]
    return None if block.num_rows else Rejected(line, "not_json", "the row is empty", b"")
