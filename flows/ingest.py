"""Ingest: files become tables of records, and the tables a snapshot.

One cached task a file, or a piece of a large one, named by its content: what was read once is not
read again, wherever it lies. Rows that break the contract go to a quarantine table with their line
and reason; rows that a person mended since are taken from there; rows that their owner withdrew are
left out.
"""

import contextvars
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
from prefect import flow
from pydantic import BaseModel

from flows.environment import source_addresses, warehouse_root
from flows.pages.reports import markdown_table, show_report
from flows.prepare.series import series_remarks
from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.profile import escape_markdown
from pipeline.records.contract import (
    IN_ORDER,
    REASONS,
    Block,
    Records,
    RecordsConfig,
    check_rejected,
    read_block,
)
from pipeline.records.dialogues import Dialogues
from pipeline.records.labelled import Labelled
from pipeline.records.pairs import Pairs
from pipeline.records.rows import RAW_BYTES, Rejected
from pipeline.records.series import Series
from pipeline.records.tagged import Tagged
from warehouse.errors import StorageError
from warehouse.forgotten import Forgotten
from warehouse.ingests import (
    FileNote,
    LastIngest,
    SourceChanges,
    _notes,
    changes_between,
    last_ingest,
    mended_rows,
    remember_ingest,
)
from warehouse.sources.conll import TokenColumns
from warehouse.sources.files import SourceFile, printable
from warehouse.sources.foreign import likely_encoding
from warehouse.sources.left_out import LeftOut
from warehouse.sources.sources import blocks, find_sources
from warehouse.tables.columns import strings_array
from warehouse.tables.handles import TableRef
from warehouse.tables.record_schemas import (
    DIALOGUES,
    LABELLED,
    PAIRS,
    QUARANTINE,
    ROW_TIME,
    SERIES,
    TAGGED,
    dialogues_batch,
    labelled_batch,
    pairs_batch,
    quarantine_batch,
    series_batch,
    tagged_batch,
)
from warehouse.tables.tables import Snapshot, SnapshotRef, Tables, TableWriter

SCHEMAS = {
    "dialogues": DIALOGUES,
    "text": DIALOGUES,
    "pairs": PAIRS,
    "labelled": LABELLED,
    "tagged": TAGGED,
    "series": SERIES,
}

SCHEMAS_WITH_TIMES = {kind: schema.append(ROW_TIME) for kind, schema in SCHEMAS.items()}

LARGE_BYTES = 8 << 20
"""Pieces of at least this size are read several at a time."""

MAX_READERS = 4

SMALL_BYTES = 64 << 10

MANY_FILES = 256
"""So many files below `SMALL_BYTES` are read into a few tables in place of a table each."""

PACK_FILES = 256  # in a table, on the average

MAX_PACK_BYTES = 4 << 20

SUMMARY_FILES = 10  # so many of a long list are shown


class FileReport(BaseModel, frozen=True):
    """What one file, or piece of one, held.

    `example` says where the first rejected row is and what is wrong.
    """

    num_accepted: int
    rejected_by_reason: dict[str, int] = {}
    num_dropped_utterances: int = 0
    num_withdrawn: int = 0
    num_comments: int = 0
    example: str = ""


class PackReport(BaseModel, frozen=True):
    """The tables of a file, or of many small ones, and what each of them held."""

    shard: TableRef
    quarantine: TableRef | None
    files: tuple[FileReport, ...]


class IngestReport(BaseModel, frozen=True):
    """What an ingest brought in: the snapshot, its tables, and what was left out and why.

    `remarks` are sentences on what is unusual in the times of series.
    `files` are the beginnings of the digests of the files, or of pieces of them, in the order in
    which they were given: the order of time, whatever the order of the tables.
    """

    snapshot: SnapshotRef
    shards: tuple[TableRef, ...]
    files: tuple[str, ...] = ()
    num_accepted: int
    num_rejected: int
    rejected_by_reason: dict[str, int]
    quarantine: tuple[TableRef, ...]
    num_dropped_utterances: int
    num_withdrawn: int = 0
    num_mended: int = 0
    num_comments: int = 0
    changes: SourceChanges = SourceChanges()
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The report as JSON values, with the beginnings of long lists beside their lengths."""
        values = self.model_dump(mode="json")
        for name in ("shards", "quarantine"):
            values[f"num_{name}"] = len(values[name])
            values[name] = values[name][:SUMMARY_FILES]
        changes = values["changes"]
        values["num_changes"] = {what: len(files) for what, files in changes.items()}
        for what, files in changes.items():
            first = list(files)[:SUMMARY_FILES]
            changes[what] = {old: files[old] for old in first} if what == "renamed" else first
        return values


@flow(name="ingest")
def ingest(
    name: str,
    sources: list[str],
    records: RecordsConfig = RecordsConfig(),  # noqa: B008
    warehouse: str = "",
) -> IngestReport:
    """Read `sources` and record what they hold as the next snapshot of `name`."""
    report = ingest_sources(Steps(warehouse_root(warehouse)), name, sources, records)
    rows = {
        f"accepted {records.kind}": report.num_accepted,
        "rejected rows": report.num_rejected,
        **{f"- {REASONS[reason]}": n for reason, n in report.rejected_by_reason.items()},
        **({"comment lines": report.num_comments} if report.num_comments else {}),
    }
    table = markdown_table([{"rows": of, "": f"{n:,}"} for of, n in rows.items()])
    snapshot = f"Snapshot {report.snapshot.number}, `{report.snapshot.id}`."
    more = f"`tidemill profile {name}` shows what it holds."
    remarks = [f"- {escape_markdown(each)}" for each in report.remarks]
    show_report("ingest", name, [f"{snapshot} {more}", "", *table, "", *remarks])
    return report


def ingest_sources(
    steps: Steps, name: str, sources: Sequence[str], records: RecordsConfig
) -> IngestReport:
    """Read every source that is not known yet, and commit a snapshot of all of them.

    Files of equal content count once. The tables come in the order of their digests, which is the
    same wherever the content is; only kinds whose rows mean something in their order have them in
    the order of the files. A chronological split orders rows by the files themselves.

    Raises:
        StorageError: a source is missing, empty, damaged or not UTF-8.
        InputError: more rows than `records.max_rejected` allows were rejected.
    """
    tables = Tables(steps.root)
    with tables.held(alone=False):
        before = last_ingest(steps.root, name)
        given = source_addresses(sources)
        found = find_sources(given)
        notes = _notes(found)
        pieces = {source.cache_digest(): source for source in reversed(found)}
        reports = _with_mended_rows(
            tables, name, records, _read(steps, list(reversed(pieces.values())), records)
        )
        quarantine = tuple(each.quarantine for _, each in reports if each.quarantine)
        try:
            num_accepted, reasons = _check(reports, steps, records)
        except InputError as error:
            refused = {"given": tuple(given), "quarantine": quarantine, "refused": str(error)}
            remember_ingest(steps.root, name, before.model_copy(update=refused))
            raise
        by_digest = {report.shard.digest: report.shard for _, report in reports}
        files = [file for _, report in reports for file in report.files]
        if records.kind not in IN_ORDER:
            by_digest = dict(sorted(by_digest.items()))
        shards, merged = _merged(tables, name, by_digest)
        remarks: tuple[str, ...] = ()
        if records.kind == "series":
            addresses = {source.digest: source.address for source in reversed(found)}
            remarks = series_remarks(steps, shards, addresses)
        num_dropped = sum(file.num_dropped_utterances for file in files)
        num_withdrawn = sum(file.num_withdrawn for file in files)
        num_comments = sum(file.num_comments for file in files)
        order = _file_order(notes, records.kind)
        meta = {
            "kind": records.kind,
            "files": order,
            "sources": list(dict.fromkeys(file.address for pack, _ in reports for file in pack)),
            "rejected_by_reason": dict(reasons),
            "num_dropped_utterances": num_dropped,
            "num_withdrawn": num_withdrawn,
            "num_comments": num_comments,
            "order": [shard.digest for shard in shards],
            "merged": merged,
        }
        snapshot = tables.commit(name, shards, meta, attached=quarantine)
        shards = _in_order(tables.snapshot(snapshot))
        now = LastIngest(given=tuple(given), files=notes, quarantine=quarantine)
        remember_ingest(steps.root, name, now)
    return IngestReport(
        snapshot=snapshot,
        shards=tuple(shards),
        files=tuple(order),
        num_accepted=num_accepted,
        num_rejected=reasons.total(),
        rejected_by_reason=dict(reasons),
        quarantine=quarantine,
        num_dropped_utterances=num_dropped,
        num_withdrawn=num_withdrawn,
        num_mended=sum(pack[0].address == MENDED for pack, _ in reports),
        num_comments=num_comments,
        changes=changes_between(before.files, notes),
        remarks=remarks,
    )


def ingested_snapshot(steps: Steps, name: str, beginning: str) -> IngestReport:
    """What was ingested as the snapshot of `name` whose id begins so; no source is read.

    The tables are those of the ingest, in its order; the files of the newest snapshot are in the
    order in which they were given last.

    Raises:
        StorageError: there is no such snapshot, its rows were withdrawn, or a table is gone.
    """
    tables = Tables(steps.root)
    ref = tables.find(name, beginning)
    snapshot = tables.snapshot(ref)
    for table in snapshot.refs:
        if not tables.intact(table):
            raise StorageError(
                f"Table {steps.root / table.path} of snapshot {ref.id[:12]} is missing or damaged:"
                f" run tidemill ingest {name} on the sources of that time."
            )
    reasons = snapshot.meta.get("rejected_by_reason", {})
    files = snapshot.meta.get("files", [])
    head = tables.head(name)
    if head is not None and head.id == ref.id:
        notes = last_ingest(steps.root, name).files
        files = _file_order(notes, snapshot.meta.get("kind", "")) or files
    return IngestReport(
        snapshot=ref,
        shards=tuple(_in_order(snapshot)),
        files=tuple(files),
        num_accepted=ref.num_rows,
        num_rejected=sum(reasons.values()),
        rejected_by_reason=reasons,
        quarantine=snapshot.attached,
        num_dropped_utterances=snapshot.meta.get("num_dropped_utterances", 0),
        num_withdrawn=snapshot.meta.get("num_withdrawn", 0),
        num_comments=snapshot.meta.get("num_comments", 0),
    )


# --- reading --------------------------------------------------------------------------------------

_Pack = tuple[SourceFile, ...]

_Reports = list[tuple[_Pack, PackReport]]


def _read(steps: Steps, pieces: Sequence[SourceFile], records: RecordsConfig) -> _Reports:
    """A report of each pack, in order; large pieces are read several at a time."""
    contract = replace(records, max_rejected=1.0)  # the allowance is checked over all files
    packs = packed(pieces, keep_order=records.kind in IN_ORDER)

    def read(pack: _Pack) -> PackReport:
        # A piece is of one file; where in it the piece begins tells it from the others.
        first = pack[0]
        label = first.address if not first.begin else f"{first.address} +{first.begin}"
        label += f" and {len(pack) - 1} more" if len(pack) > 1 else ""
        report: PackReport = steps.run(
            ingest_file, label=label, sources=list(pack), records=contract
        )
        return report

    large = [pack for pack in packs if pack[0].num_bytes >= LARGE_BYTES]
    reports: dict[_Pack, PackReport] = {}
    if len(large) > 1:
        results = _several_at_a_time([partial(read, pack) for pack in large])
        reports = dict(zip(large, results, strict=True))
    return [(pack, reports[pack] if pack in reports else read(pack)) for pack in packs]


def packed(pieces: Sequence[SourceFile], *, keep_order: bool) -> list[_Pack]:
    """The pieces, many small files together and the others alone.

    Where a pack ends depends on the content of its last file, so that a file that comes or goes
    changes one pack; where the order need not be kept, it is that of the digests, so that the packs
    are the same wherever the files lie.
    """
    small = [piece for piece in pieces if piece.num_bytes < SMALL_BYTES]
    if len(small) < MANY_FILES:
        return [(piece,) for piece in pieces]
    if not keep_order:
        small.sort(key=SourceFile.cache_digest)
        pieces = [*(each for each in pieces if each.num_bytes >= SMALL_BYTES), *small]
    packs: list[list[SourceFile]] = [[]]
    num_bytes = 0
    for piece in pieces:
        is_small = piece.num_bytes < SMALL_BYTES
        if not is_small:
            packs.append([])
        packs[-1].append(piece)
        num_bytes += piece.num_bytes
        ends = int(piece.digest[-8:], 16) % PACK_FILES == 0
        if not is_small or ends or num_bytes >= MAX_PACK_BYTES:
            packs.append([])
            num_bytes = 0
    return [tuple(pack) for pack in packs if pack]


def _several_at_a_time(calls: Sequence[Callable[[], PackReport]]) -> list[PackReport]:
    """The results in order; the first failure ends the others that have not begun."""
    # Not every system can tell which processors this process may use; all can count them.
    affinity = getattr(os, "sched_getaffinity", None)
    num_processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    num_readers = min(MAX_READERS, num_processors, len(calls))
    with ThreadPoolExecutor(num_readers) as pool:
        # A flow run is known by its context, which a thread does not inherit.
        futures = [pool.submit(contextvars.copy_context().run, call) for call in calls]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cached_task()
def ingest_file(root: str, sources: list[SourceFile], records: RecordsConfig) -> PackReport:
    """Read a file, or many small ones, into a table of records and one of rejected rows.

    Withdrawn rows are left out, though what was withdrawn is in no key: whoever withdraws rows
    removes the tables that hold them, and with them their results.
    """
    tables = Tables(root)
    forgotten = Forgotten(root)
    with tables.writer(_schema_of(records)) as accepted, tables.writer(QUARANTINE) as rejected:
        files = tuple(
            _read_file(source, records, forgotten, accepted, rejected) for source in sources
        )
        has_rejected = any(file.rejected_by_reason for file in files)
        return PackReport(
            shard=accepted.finish(),
            quarantine=rejected.finish() if has_rejected else None,
            files=files,
        )


def _read_file(
    source: SourceFile,
    records: RecordsConfig,
    forgotten: Forgotten,
    accepted: TableWriter,
    rejected: TableWriter,
) -> FileReport:
    """Append what a file holds to the two tables."""
    columns = [*records.file_fields.values(), *filter(None, [records.time_field])]
    token_columns = TokenColumns(records.token_column, records.tag_column)
    left_out = LeftOut()
    reasons: Counter[str] = Counter()
    num_accepted = num_dropped = num_withdrawn = 0
    example = ""
    not_utf8 = b""

    def reject(rows: list[Rejected]) -> None:
        nonlocal example, not_utf8
        if rows:
            rows.sort()
            _append_rejected(source, rows, forgotten, rejected)
            reasons.update(row.reason for row in rows)
            example = example or f"line {rows[0].line}: {rows[0].detail}"
            if len(not_utf8) < RAW_BYTES:
                not_utf8 += b"".join(row.raw for row in rows if row.reason == "not_utf8")

    for text, first_line in blocks(source, columns, token_columns=token_columns, left_out=left_out):
        block = read_block(text, first_line, records)
        batch = _batch(source.digest, block)
        kept = forgotten.without(batch)
        accepted.append(kept)
        num_accepted += kept.num_rows
        num_withdrawn += batch.num_rows - kept.num_rows
        num_dropped += block.num_dropped_utterances
        reject([*block.rejected, *_taken(left_out)])
    reject(_taken(left_out))
    if encoding := likely_encoding(not_utf8):
        example += f" (it seems to be {encoding}: iconv -f {encoding} -t UTF-8)"
    return FileReport(
        num_accepted=num_accepted,
        rejected_by_reason=dict(reasons),
        num_dropped_utterances=num_dropped,
        num_withdrawn=num_withdrawn,
        num_comments=left_out.num_comments,
        example=example,
    )


def _taken(left_out: LeftOut) -> list[Rejected]:
    rows = [Rejected(*row) for row in left_out.rows]
    left_out.rows.clear()
    return rows


def _append_rejected(
    source: SourceFile, rows: Sequence[Rejected], forgotten: Forgotten, rejected: TableWriter
) -> None:
    kept = []
    for row in rows:
        if forgotten.holds_line(row.raw):
            row = row._replace(detail="withdrawn", raw=b"")
        elif source.leads_outside:
            # Who may put a link into a folder may not be meant to read what it leads to.
            detail = f"{row.detail} (its text is not kept: the file is a link out of its folder)"
            row = row._replace(detail=detail, raw=b"")
        kept.append(row)
    rejected.append(quarantine_batch(source.digest, source.address, *zip(*kept, strict=True)))


def _schema_of(records: RecordsConfig) -> Any:
    return (SCHEMAS_WITH_TIMES if records.time_field else SCHEMAS)[records.kind]


def _batch(file: str, block: Block) -> Any:
    batch = _batch_of(file, block.records)
    if block.times is None:
        return batch
    return batch.append_column(ROW_TIME, strings_array(block.times))


def _batch_of(file: str, records: Records) -> Any:
    match records:
        case Dialogues():
            return dialogues_batch(
                file,
                records.lines,
                records.groups,
                records.topics,
                records.speakers,
                records.utterances,
                records.offsets,
            )
        case Pairs():
            return pairs_batch(file, *records)
        case Labelled():
            return labelled_batch(file, *records)
        case Tagged():
            return tagged_batch(file, *records)
        case Series():
            return series_batch(file, *records)


def _check(reports: _Reports, steps: Steps, records: RecordsConfig) -> tuple[int, Counter[str]]:
    """Rows accepted, and rejected by reason; InputError where too many were rejected."""
    of_file: dict[str, _Found] = {}
    for pack, report in reports:
        for source, file in zip(pack, report.files, strict=True):
            of_file.setdefault(source.address, []).append((file, report.quarantine))
    for address, one in of_file.items():
        # No file may be wholly bad, whatever the others hold.
        if not any(file.num_accepted or file.num_withdrawn for file, _ in one):
            _check_found({address: one}, steps, records)
    return _check_found(of_file, steps, records)


_Found = list[tuple[FileReport, TableRef | None]]  # pieces of a file, and their quarantine


def _check_found(
    of_file: dict[str, _Found], steps: Steps, records: RecordsConfig
) -> tuple[int, Counter[str]]:
    reasons: Counter[str] = Counter()
    example = ""
    num_accepted = num_withdrawn = 0
    for address, pieces in of_file.items():
        for file, quarantine in pieces:
            reasons.update(file.rejected_by_reason)
            num_accepted += file.num_accepted
            num_withdrawn += file.num_withdrawn
            if file.example and quarantine and not example:
                kept = steps.root / quarantine.path
                example = (
                    f"{printable(address)} {file.example} (its rejected rows are kept in {kept})"
                )
    where = " and ".join(map(printable, list(of_file)[:3])) + (" ..." if len(of_file) > 3 else "")
    if not num_accepted and num_withdrawn:
        raise InputError(f"{where}: every row was withdrawn by its owner: add other sources")
    check_rejected(where, num_accepted, reasons, example, records)
    return num_accepted, reasons


# --- rows that were mended ------------------------------------------------------------------------

MENDED = "mended rows"
"""The address of what a person corrected in the quarantine."""


def _with_mended_rows(
    tables: Tables, name: str, records: RecordsConfig, reports: _Reports
) -> _Reports:
    """The reports, less the rejected rows that were mended since, and a report of those."""
    mended = mended_rows(tables.root, name)
    if not mended:
        return reports
    forgotten = Forgotten(tables.root)
    files = {file for file, _ in mended}
    changed: _Reports = []
    with tables.writer(_schema_of(records)) as accepted:
        for pack, report in reports:
            if report.quarantine is None or files.isdisjoint(source.digest for source in pack):
                changed.append((pack, report))
                continue
            left: list[dict[str, Any]] = []
            num_before = report.quarantine.num_rows
            for row in tables.read(report.quarantine).to_pylist():
                raw = mended.get((row["file"], row["line"]))
                block = None if raw is None else mended_block(raw, row["line"], records)
                if block is None or block.rejected or not block.num_rows:
                    left.append(row)
                else:
                    accepted.append(forgotten.without(_batch(row["file"], block)))
            if len(left) < num_before:
                report = _less_rejected(tables, pack, report, left)
            changed.append((pack, report))
        shard = accepted.finish()
    if shard.num_rows:
        source = SourceFile(address=MENDED, digest=shard.digest, num_bytes=shard.num_bytes)
        files_of_it = (FileReport(num_accepted=shard.num_rows),)
        changed.append(((source,), PackReport(shard=shard, quarantine=None, files=files_of_it)))
    return changed


def mended_block(raw: str, line: int, records: RecordsConfig) -> Block:
    """Read one corrected row as a block of its file."""
    return read_block(raw.encode(errors="surrogatepass").replace(b"\n", b" "), line, records)


def _less_rejected(
    tables: Tables, pack: _Pack, report: PackReport, left: Sequence[dict[str, Any]]
) -> PackReport:
    """The report of files of which only these rows are still rejected."""
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in left:
        rows_of.setdefault(row["file"], []).append(row)
    files = []
    for source, file in zip(pack, report.files, strict=True):
        rows = rows_of.get(source.digest, [])
        update = {
            "rejected_by_reason": dict(Counter(row["reason"] for row in rows)),
            "example": f"line {rows[0]['line']}: {rows[0]['detail']}" if rows else "",
        }
        files.append(file.model_copy(update=update))
    quarantine = None
    if left:
        batch = pa.RecordBatch.from_pylist(list(left), QUARANTINE)
        quarantine = tables.write([batch], QUARANTINE)
    return report.model_copy(update={"quarantine": quarantine, "files": tuple(files)})


# --- tables that were merged ----------------------------------------------------------------------


def _merged(
    tables: Tables, name: str, shards: dict[str, TableRef]
) -> tuple[list[TableRef], dict[str, list[str]]]:
    """The shards, small ones by the table into which `compact` has merged them; and which."""
    found = dict(shards)
    kept: dict[str, list[str]] = {}
    head = _head(tables, name)
    refs = {ref.digest: ref for ref in head.refs} if head else {}
    for digest, parts in (head.meta.get("merged", {}) if head else {}).items():
        if digest in refs and tables.intact(refs[digest]) and found.keys() >= set(parts):
            for part in parts:
                del found[part]
            found[digest] = refs[digest]
            kept[digest] = parts
    return list(dict(sorted(found.items())).values() if kept else found.values()), kept


def _in_order(snapshot: Snapshot) -> list[TableRef]:
    """The tables of a snapshot in the order in which they were committed."""
    places = {digest: i for i, digest in enumerate(snapshot.meta.get("order", ()))}
    return sorted(snapshot.refs, key=lambda ref: (places.get(ref.digest, len(places)), ref.digest))


def _head(tables: Tables, name: str) -> Snapshot | None:
    log = tables.log(name)
    return tables.snapshot(log[-1]) if log else None


def _file_order(notes: Sequence[FileNote], kind: str) -> list[str]:
    """The digests of files and pieces as notes have them, in the order of time, each once.

    Of equal files the first counts; of series the last, since what is read later is a correction.
    """
    given = [digest for note in notes for digest in note.digest.split()]
    if kind == "series":
        return list(dict.fromkeys(reversed(given)))[::-1]
    return list(dict.fromkeys(given))
