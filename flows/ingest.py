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
from warehouse.sources.files import SourceFile, printable
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


class FileReport(BaseModel, frozen=True):
    """What one file, or piece of one, held.

    `example` says where the first rejected row is and what is wrong.
    """

    shard: TableRef
    quarantine: TableRef | None
    num_accepted: int
    rejected_by_reason: dict[str, int]
    num_dropped_utterances: int
    num_withdrawn: int
    example: str


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
    changes: SourceChanges = SourceChanges()
    remarks: tuple[str, ...] = ()


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
        if records.kind not in IN_ORDER:
            by_digest = dict(sorted(by_digest.items()))
        shards, merged = _merged(tables, name, by_digest)
        remarks: tuple[str, ...] = ()
        if records.kind == "series":
            addresses = {source.digest: source.address for source in reversed(found)}
            remarks = series_remarks(steps, shards, addresses)
        num_dropped = sum(report.num_dropped_utterances for _, report in reports)
        num_withdrawn = sum(report.num_withdrawn for _, report in reports)
        files = _file_order(notes, records.kind)
        meta = {
            "kind": records.kind,
            "files": files,
            "sources": list(dict.fromkeys(source.address for source, _ in reports)),
            "rejected_by_reason": dict(reasons),
            "num_dropped_utterances": num_dropped,
            "num_withdrawn": num_withdrawn,
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
        files=tuple(files),
        num_accepted=num_accepted,
        num_rejected=reasons.total(),
        rejected_by_reason=dict(reasons),
        quarantine=quarantine,
        num_dropped_utterances=num_dropped,
        num_withdrawn=num_withdrawn,
        num_mended=sum(source.address == MENDED for source, _ in reports),
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
    )


# --- reading --------------------------------------------------------------------------------------

_Reports = list[tuple[SourceFile, FileReport]]


def _read(steps: Steps, pieces: Sequence[SourceFile], records: RecordsConfig) -> _Reports:
    """A report of each piece, in order; large ones are read several at a time."""
    contract = replace(records, max_rejected=1.0)  # the allowance is checked over all files

    def read(source: SourceFile) -> FileReport:
        # A piece is of one file; where in it the piece begins tells it from the others.
        label = source.address if not source.begin else f"{source.address} +{source.begin}"
        report: FileReport = steps.run(ingest_file, label=label, source=source, records=contract)
        return report

    large = [source for source in pieces if source.num_bytes >= LARGE_BYTES]
    reports: dict[str, FileReport] = {}
    if len(large) > 1:
        results = _several_at_a_time([partial(read, source) for source in large])
        reports = {source.cache_digest(): each for source, each in zip(large, results, strict=True)}
    for source in pieces:
        if source.cache_digest() not in reports:
            reports[source.cache_digest()] = read(source)
    return [(source, reports[source.cache_digest()]) for source in pieces]


def _several_at_a_time(calls: Sequence[Callable[[], FileReport]]) -> list[FileReport]:
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
def ingest_file(root: str, source: SourceFile, records: RecordsConfig) -> FileReport:
    """Read a file into a table of records and, where rows were rejected, a quarantine table.

    Withdrawn rows are left out, though what was withdrawn is in no key: whoever withdraws rows
    removes the tables that hold them, and with them their results.
    """
    tables = Tables(root)
    forgotten = Forgotten(root)
    columns = [*records.file_fields.values(), *filter(None, [records.time_field])]
    reasons: Counter[str] = Counter()
    num_dropped = num_withdrawn = 0
    example = ""
    with tables.writer(_schema_of(records)) as accepted, tables.writer(QUARANTINE) as rejected:
        for text, first_line in blocks(source, columns):
            block = read_block(text, first_line, records)
            num_withdrawn += _store(block, source, forgotten, accepted, rejected)
            reasons.update(row.reason for row in block.rejected)
            num_dropped += block.num_dropped_utterances
            if block.rejected and not example:
                worst = block.rejected[0]
                example = f"line {worst.line}: {worst.detail}"
        shard = accepted.finish()
        return FileReport(
            shard=shard,
            quarantine=rejected.finish() if reasons else None,
            num_accepted=shard.num_rows,
            rejected_by_reason=dict(reasons),
            num_dropped_utterances=num_dropped,
            num_withdrawn=num_withdrawn,
            example=example,
        )


def _store(
    block: Block,
    source: SourceFile,
    forgotten: Forgotten,
    accepted: TableWriter,
    rejected: TableWriter,
) -> int:
    """Write what a block holds; returns how many of its rows were withdrawn."""
    batch = _batch(source.digest, block)
    kept = forgotten.without(batch)
    accepted.append(kept)
    if block.rejected:
        rows = [
            row._replace(detail="withdrawn", raw=b"") if forgotten.holds_line(row.raw) else row
            for row in block.rejected
        ]
        rejected.append(quarantine_batch(source.digest, source.address, *zip(*rows)))
    return int(batch.num_rows - kept.num_rows)


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
    of_file: dict[str, _Reports] = {}
    for source, report in reports:
        of_file.setdefault(source.address, []).append((source, report))
    for one in of_file.values():
        # No file may be wholly bad, whatever the others hold.
        if len(of_file) > 1 and not any(each.num_accepted or each.num_withdrawn for _, each in one):
            _check(one, steps, records)
    reasons: Counter[str] = Counter()
    examples: list[str] = []
    for source, report in reports:
        reasons.update(report.rejected_by_reason)
        if report.quarantine:
            kept = steps.root / report.quarantine.path
            examples.append(
                f"{printable(source.address)} {report.example} (its rejected rows are kept in"
                f" {kept})"
            )
    num_accepted = sum(report.num_accepted for _, report in reports)
    where = " and ".join(map(printable, list(of_file)[:3])) + (" ..." if len(of_file) > 3 else "")
    if not num_accepted and any(report.num_withdrawn for _, report in reports):
        raise InputError(f"{where}: every row was withdrawn by its owner: add other sources")
    check_rejected(where, num_accepted, reasons, "".join(examples[:1]), records)
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
        for source, report in reports:
            if report.quarantine is None or source.digest not in files:
                changed.append((source, report))
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
                report = _less_rejected(tables, report, left)
            changed.append((source, report))
        shard = accepted.finish()
    if shard.num_rows:
        source = SourceFile(address=MENDED, digest=shard.digest, num_bytes=shard.num_bytes)
        changed.append(
            (
                source,
                FileReport(
                    shard=shard,
                    quarantine=None,
                    num_accepted=shard.num_rows,
                    rejected_by_reason={},
                    num_dropped_utterances=0,
                    num_withdrawn=0,
                    example="",
                ),
            )
        )
    return changed


def mended_block(raw: str, line: int, records: RecordsConfig) -> Block:
    """Read one corrected row as a block of its file."""
    return read_block(raw.encode(errors="surrogatepass").replace(b"\n", b" "), line, records)


def _less_rejected(
    tables: Tables, report: FileReport, left: Sequence[dict[str, Any]]
) -> FileReport:
    """The report of a file of which only these rows are still rejected."""
    update: dict[str, Any] = {"quarantine": None, "example": "", "rejected_by_reason": {}}
    if left:
        columns = ("line", "reason", "detail", "raw")
        rows = [[row[column] for row in left] for column in columns]
        batch = quarantine_batch(left[0]["file"], left[0]["address"], *rows)
        update = {
            "quarantine": tables.write([batch], QUARANTINE),
            "example": f"line {left[0]['line']}: {left[0]['detail']}",
            "rejected_by_reason": dict(Counter(row["reason"] for row in left)),
        }
    return report.model_copy(update=update)


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
