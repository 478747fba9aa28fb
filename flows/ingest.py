"""Ingest: files become tables of records, and the tables a snapshot.

One cached task a file, named by the file's content: what was read once is not read again, wherever
it lies. Rows that break the contract go to a quarantine table with their line and reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefect import flow
from pydantic import BaseModel

from flows.caching import Steps, cached_task
from flows.catalogue import source_addresses, warehouse_root
from pipeline.records import (
    Block,
    Dialogues,
    Labelled,
    Pairs,
    Records,
    RecordsConfig,
    Series,
    Tagged,
    check_rejected,
    read_block,
)
from warehouse.records import (
    LABELLED,
    SERIES,
    TAGGED,
    labelled_batch,
    series_batch,
    tagged_batch,
)
from warehouse.sources import SourceFile, blocks, find_sources, printable
from warehouse.tables import (
    DIALOGUES,
    PAIRS,
    QUARANTINE,
    SnapshotRef,
    TableRef,
    Tables,
    TableWriter,
    dialogues_batch,
    pairs_batch,
    quarantine_batch,
)

SCHEMAS = {
    "dialogues": DIALOGUES,
    "text": DIALOGUES,
    "pairs": PAIRS,
    "labelled": LABELLED,
    "tagged": TAGGED,
    "series": SERIES,
}


class FileReport(BaseModel, frozen=True):
    """What one file held; `example` says where the first rejected row is and what is wrong."""

    shard: TableRef
    quarantine: TableRef | None
    num_accepted: int
    rejected_by_reason: dict[str, int]
    num_dropped_utterances: int
    example: str


class IngestReport(BaseModel, frozen=True):
    """What an ingest brought in: the snapshot, its tables, and what was left out and why."""

    snapshot: SnapshotRef
    shards: tuple[TableRef, ...]
    num_accepted: int
    num_rejected: int
    rejected_by_reason: dict[str, int]
    quarantine: tuple[TableRef, ...]
    num_dropped_utterances: int


@flow(name="ingest")
def ingest(
    name: str, sources: list[str], records: RecordsConfig, warehouse: str | None = None
) -> IngestReport:
    """Read `sources` and record what they hold as the next snapshot of `name`."""
    return ingest_sources(Steps(warehouse_root(warehouse)), name, sources, records)


def ingest_sources(
    steps: Steps, name: str, sources: Sequence[str], records: RecordsConfig
) -> IngestReport:
    """Read every source that is not known yet, and commit a snapshot of all of them.

    Files of equal content count once.

    Raises:
        StorageError: a source is missing, empty, damaged or not UTF-8.
        InputError: more rows than `records.max_rejected` allows were rejected.
    """
    found = find_sources(source_addresses(sources))
    files = {source.cache_digest(): source for source in reversed(found)}
    contract = replace(records, max_rejected=1.0)  # the allowance is checked over all files, below
    reports: dict[str, FileReport] = {}
    for source in reversed(files.values()):
        reports[source.address] = steps.run(
            ingest_file, label=source.address, root=str(steps.root), source=source, records=contract
        )
    for address, report in reports.items():
        if not report.num_accepted:
            _check({address: report}, steps, records)
    num_accepted, reasons = _check(reports, steps, records)
    shards = [report.shard for report in reports.values()]
    quarantine = tuple(each.quarantine for each in reports.values() if each.quarantine)
    num_dropped = sum(report.num_dropped_utterances for report in reports.values())
    meta = {
        "kind": records.kind,
        "sources": list(reports),
        "rejected_by_reason": dict(reasons),
        "num_dropped_utterances": num_dropped,
    }
    return IngestReport(
        snapshot=Tables(steps.root).commit(name, shards, meta, attached=quarantine),
        shards=tuple(shards),
        num_accepted=num_accepted,
        num_rejected=reasons.total(),
        rejected_by_reason=dict(reasons),
        quarantine=quarantine,
        num_dropped_utterances=num_dropped,
    )


def _check(
    reports: dict[str, FileReport], steps: Steps, records: RecordsConfig
) -> tuple[int, Counter[str]]:
    """Rows accepted, and rejected by reason; InputError where too many were rejected."""
    reasons: Counter[str] = Counter()
    examples: list[str] = []
    for address, report in reports.items():
        reasons.update(report.rejected_by_reason)
        if report.quarantine:
            kept = steps.root / report.quarantine.path
            examples.append(
                f"{printable(address)} {report.example} (its rejected rows are kept in {kept})"
            )
    num_accepted = sum(report.num_accepted for report in reports.values())
    where = " and ".join(map(printable, list(reports)[:3])) + (" ..." if len(reports) > 3 else "")
    check_rejected(where, num_accepted, reasons, "".join(examples[:1]), records)
    return num_accepted, reasons


@cached_task()
def ingest_file(root: str, source: SourceFile, records: RecordsConfig) -> FileReport:
    """Read one file into a table of records and, where rows were rejected, a quarantine table."""
    tables = Tables(root)
    columns = list(records.file_fields.values())
    reasons: Counter[str] = Counter()
    num_dropped = 0
    example = ""
    with tables.writer(SCHEMAS[records.kind]) as accepted, tables.writer(QUARANTINE) as rejected:
        for text, first_line in blocks(source, columns):
            block = read_block(text, first_line, records)
            _store(block, source, accepted, rejected)
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
            example=example,
        )


def _store(block: Block, source: SourceFile, accepted: TableWriter, rejected: TableWriter) -> None:
    accepted.append(_batch(source.digest, block.records))
    if block.rejected:
        rejected.append(quarantine_batch(source.digest, source.address, *zip(*block.rejected)))


def _batch(file: str, records: Records) -> Any:
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
