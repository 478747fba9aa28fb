"""Erase rows from everything that is stored."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel

from flows.catalogue import nothing_under
from flows.upkeep.garbage import (
    MIN_TEXT,
    _registry,
    ingested_names,
    paths_named,
    registered_versions,
    result_files,
)
from pipeline.errors import InputError
from pipeline.records.rows import RAW_BYTES
from pipeline.text.normalise import DEFAULT_STEPS, normalise
from warehouse.arrays import Arrays
from warehouse.errors import StorageError
from warehouse.forgotten import Forgotten, Sought, holding, is_utf8, row_keys, texts_of
from warehouse.ingests import keep_mended_rows, last_ingest, mended_rows, remember_ingest
from warehouse.tables.handles import TableRef
from warehouse.tables.record_schemas import QUARANTINE
from warehouse.tables.tables import Snapshot, SnapshotRef, Tables

# --- forgetting -----------------------------------------------------------------------------------


class ForgetReport(BaseModel, frozen=True):
    """What left the warehouse, or would leave it.

    `num_rows` are records, `num_rejected` rejected lines, `places` where they stood. `snapshots`
    can no longer be read; `heads` took the place of the newest ones, by name. `num_files` (tables
    and pages) and `num_results` were made of those rows and are gone with them. `versions`
    (`NAME VERSION`) were trained on them and are not changed, nor are the samples that MLflow keeps
    of them; with each stands the command that deletes it. `not_searched` says, a sentence each,
    where the text may stand and was not looked for.
    """

    num_rows: int
    num_rejected: int
    places: tuple[str, ...]
    snapshots: tuple[str, ...]
    heads: dict[str, str]
    num_files: int
    num_results: int
    versions: dict[str, str]
    dry_run: bool
    not_searched: tuple[str, ...] = ()


def forget(
    root: Path,
    name: str,
    match: str = "",
    lines: Sequence[str] = (),
    dry_run: bool = False,
) -> ForgetReport:
    """Take rows that their owner withdraws out of everything that is kept.

    A row of `name` goes that holds `match` in one of its texts, however it is written (`Sought`),
    or stands on one of `lines` (`FILE:LINE`, the file by its address or by the beginning of its
    digest). With it goes every
    copy, whoever holds it: from the tables of all snapshots, the quarantine, the rows that were
    mended. Snapshots that held it can no longer be read. What may have been made of it (tokens,
    splits, ids, and the results that name or quote them) is removed, so that the next retraining
    makes it anew. Digests of the rows stay behind, so that no ingest brings them back. Killed at
    any point, the same call goes on.

    Raises:
        InputError: neither `match` nor `lines` say what shall go, or there is no such data.
        StorageError: a run is under way, or what is kept cannot be read.
    """
    if not match.strip() and not lines:
        raise InputError("say which rows shall go: --match TEXT, or --line FILE:LINE")
    wanted = [_place(line) for line in lines]
    sought = Sought(match) if match.strip() else None
    tables = Tables(root)
    names = ingested_names(tables)
    if name not in names:
        raise nothing_under(name, names, "data", "ingest")
    with tables.held(alone=True):
        forgotten = Forgotten(root)
        rows, rejected, places = _find_rows(tables, name, sought, wanted)
        for batch in rows:
            forgotten.add(batch)
        for raw in rejected:
            forgotten.add_line(raw)
        doomed = _tables_with(tables, forgotten)
        gone = [
            ref
            for each in names
            for ref in tables.log(each)
            if not doomed.keys().isdisjoint(_digests(tables.snapshot(ref)))
        ]
        versions = _versions_trained_on(root, {ref.id for ref in gone})
        not_searched = _not_searched(tables, name) if sought else ()
        if not dry_run:
            forgotten.save()
            _rewrite(tables, names, gone, doomed, forgotten, sought)
            Arrays(root).clear()
        texts = _patterns(match, rows)
        num_files, num_results = _remove_derived(tables, forgotten, gone, doomed, texts, dry_run)
        changed = {ref.name for ref in gone}
        heads = {
            each: log[-1].id for each in names if each in changed and (log := tables.log(each))
        }
    return ForgetReport(
        num_rows=len({key for batch in rows for key in row_keys(batch)}),
        num_rejected=len(set(rejected)),
        places=tuple(dict.fromkeys(places)),
        snapshots=tuple(dict.fromkeys(ref.id for ref in gone)),
        heads={} if dry_run else heads,
        num_files=num_files,
        num_results=num_results,
        versions=versions,
        dry_run=dry_run,
        not_searched=not_searched,
    )


def _not_searched(tables: Tables, name: str) -> tuple[str, ...]:
    """Where a text may stand in what was rejected, and is not found."""
    raws = [
        row["raw"] for ref in _quarantines(tables, name) for row in tables.read(ref).to_pylist()
    ]
    num_cut = sum(len(raw) >= RAW_BYTES for raw in raws)
    num_odd = sum(not is_utf8(raw) for raw in raws)
    found = ["The source files are not changed: remove the text there."]
    if num_cut:
        found.append(
            f"{num_cut:,} rejected lines are longer than the {RAW_BYTES:,} bytes that are kept of"
            " each: the rest is neither stored nor searched."
        )
    if num_odd:
        found.append(
            f"{num_odd:,} rejected lines are not UTF-8: they are searched as GB18030 and UTF-16,"
            " and in no other encoding."
        )
    if raws:
        found.append(
            "In rejected lines the text is not found where it is compressed, in base64 or percent"
            " encoding, or divided into several tokens."
        )
    return tuple(found)


def _quarantines(tables: Tables, name: str) -> list[TableRef]:
    """The tables of rejected lines of all snapshots of a name, and of its last ingest."""
    last = last_ingest(tables.root, name)
    found = {ref.digest: ref for one in tables.log(name) for ref in tables.snapshot(one).attached}
    found |= {ref.digest: ref for ref in last.quarantine if tables.intact(ref)}
    return list(found.values())


def _place(line: str) -> tuple[str, int]:
    file, _, number = line.rpartition(":")
    if not file or not number.isdecimal():
        raise InputError(f"{line!r} is no line of a file: write FILE:LINE, such as talks.jsonl:12")
    return file, int(number)


def _digests(snapshot: Snapshot) -> set[str]:
    return {ref.digest for ref in (*snapshot.refs, *snapshot.attached)}


def _find_rows(
    tables: Tables, name: str, sought: Sought | None, wanted: Sequence[tuple[str, int]]
) -> tuple[list[pa.RecordBatch], list[bytes], list[str]]:
    """The records that shall go, the rejected lines, and where all of them stand."""
    snapshots = [tables.snapshot(ref) for ref in tables.log(name)]
    last = last_ingest(tables.root, name)
    addresses = {digest: note.address for note in last.files for digest in note.digest.split()}
    rejected: list[bytes] = []
    places: list[str] = []
    for ref in _quarantines(tables, name):
        for row in tables.read(ref).to_pylist():
            addresses.setdefault(row["file"][:32], row["address"])
            hit = sought is not None and sought.is_in_line(row["raw"])
            # An empty line is one that was withdrawn before.
            if row["raw"] and (hit or _is_wanted(row["file"], row["line"], addresses, wanted)):
                rejected.append(row["raw"])
                places.append(f"{row['address']}:{row['line']}")
    rows: list[pa.RecordBatch] = []
    for ref in {ref.digest: ref for one in snapshots for ref in one.refs}.values():
        for batch in tables.batches(ref):
            files = batch.column("file").to_pylist()
            numbers = batch.column("line").to_pylist()
            hits = holding(batch, sought).to_pylist() if sought else [False] * batch.num_rows
            taken = [
                i
                for i, hit in enumerate(hits)
                if hit or (wanted and _is_wanted(files[i], numbers[i], addresses, wanted))
            ]
            if taken:
                rows.append(batch.take(pa.array(taken)))
                places += [
                    f"{addresses.get(files[i][:32], files[i][:12])}:{numbers[i]}" for i in taken
                ]
    return rows, rejected, places


def _is_wanted(
    file: str, line: int, addresses: Mapping[str, str], wanted: Sequence[tuple[str, int]]
) -> bool:
    address = addresses.get(file[:32], "")
    return any(
        line == number
        and (
            named == address
            or address.endswith(f"/{named}")
            or (len(named) >= 8 and file.startswith(named))
        )
        for named, number in wanted
    )


def _tables_with(tables: Tables, forgotten: Forgotten) -> dict[str, TableRef]:
    """Every table of a snapshot, or quarantine of a last ingest, with a row that was withdrawn."""
    found: dict[str, TableRef] = {}
    seen: set[str] = set()
    for ref in _recorded(tables):
        if ref.digest in seen or not tables.intact(ref):
            continue
        seen.add(ref.digest)
        if _holds(tables, ref, forgotten):
            found[ref.digest] = ref
    return found


def _recorded(tables: Tables) -> Iterator[TableRef]:
    """The tables that snapshots and notes of the last ingests name."""
    for snapshot in tables.snapshots():
        yield from snapshot.refs
        yield from snapshot.attached
    for name in ingested_names(tables):
        yield from last_ingest(tables.root, name).quarantine


def _holds(tables: Tables, ref: TableRef, forgotten: Forgotten) -> bool:
    if tables.schema(ref).equals(QUARANTINE):
        batches = tables.batches(ref, ["raw"])
        return any(
            forgotten.holds_line(raw) for batch in batches for raw in batch.column(0).to_pylist()
        )
    return any(forgotten.without(batch).num_rows < batch.num_rows for batch in tables.batches(ref))


def _rewrite(
    tables: Tables,
    names: Sequence[str],
    gone: Sequence[SnapshotRef],
    doomed: Mapping[str, TableRef],
    forgotten: Forgotten,
    sought: Sought | None,
) -> None:
    """The newest versions without the rows; in the place of older ones, a sentence."""
    cleaned = {digest: _cleaned(tables, ref, forgotten) for digest, ref in doomed.items()}

    def clean(refs: Iterable[TableRef]) -> list[TableRef]:
        found = (cleaned.get(ref.digest, ref) for ref in refs)
        return [ref for ref in found if ref is not None]

    for name in names:
        mended = mended_rows(tables.root, name)
        kept = {
            place: raw
            for place, raw in mended.items()
            if not (sought and sought.is_in(raw)) and not forgotten.holds_line(raw.encode())
        }
        if len(kept) < len(mended):
            keep_mended_rows(tables.root, name, kept)
        last = last_ingest(tables.root, name)
        told = last.model_copy(
            update={
                "quarantine": tuple(clean(last.quarantine)),
                "refused": last.refused and "too many rows were rejected",
            }
        )
        if last.quarantine and told != last:
            remember_ingest(tables.root, name, told)
        log = tables.log(name)
        if log and log[-1] in gone:
            head = tables.snapshot(log[-1])
            by_digest = {ref.digest: ref for ref in head.refs}
            order = [by_digest[each] for each in head.meta.get("order", ()) if each in by_digest]
            meta = {
                **head.meta,
                "merged": {},
                "order": [ref.digest for ref in clean(order)],
            }
            if refs := clean(head.refs):
                tables.commit(name, refs, meta, attached=clean(head.attached))
    for ref in gone:
        tables.withdraw(
            ref,
            f"Snapshot {ref.id[:12]} of {ref.name!r} held rows that their owner has withdrawn"
            " since, and is no longer kept: use a later one.",
        )


def _cleaned(tables: Tables, ref: TableRef, forgotten: Forgotten) -> TableRef | None:
    """The table without what was withdrawn; None where no record is left.

    Rejected lines stay in the count, without what they held.
    """
    schema = tables.schema(ref)
    if schema.equals(QUARANTINE):
        rows = [
            {**row, "raw": b"", "detail": "withdrawn"} if forgotten.holds_line(row["raw"]) else row
            for row in tables.read(ref).to_pylist()
        ]
        return tables.write([pa.Table.from_pylist(rows, schema=QUARANTINE)], QUARANTINE)
    kept = tables.write((forgotten.without(batch) for batch in tables.batches(ref)), schema)
    return kept if kept.num_rows else None


def _patterns(match: str, rows: Sequence[pa.RecordBatch]) -> set[str]:
    """What a kept result may quote of the rows."""
    texts = {text for batch in rows for text in texts_of(batch) if len(text) >= MIN_TEXT}
    wanted = texts | {match}
    return (wanted | {normalise(text, DEFAULT_STEPS) for text in wanted}) - {""}


def _remove_derived(
    tables: Tables,
    forgotten: Forgotten,
    gone: Sequence[SnapshotRef],
    doomed: Mapping[str, TableRef],
    texts: set[str],
    dry_run: bool,
) -> tuple[int, int]:
    """Remove what may have been made of withdrawn rows: tables, and results that name or quote.

    A table that no snapshot names is kept only if the groups of its rows say that it holds none.
    """
    live = {ref.path for ref in _recorded(tables) if ref.digest not in doomed}
    lost: set[str] = set()
    # What is counted and drawn of a snapshot names its words.
    for ref in gone:
        for path in sorted((tables.root / "profiles" / ref.id[:16]).glob("*")):
            lost.add(path.relative_to(tables.root).as_posix())
    if not dry_run:
        for path in (tables.root / each for each in lost):
            path.unlink(missing_ok=True)
    for path in sorted((tables.root / "tables").glob("*.parquet")):
        relative = path.relative_to(tables.root).as_posix()
        if relative not in live and _may_hold(tables, relative, forgotten):
            lost.add(relative)
            if not dry_run:
                path.unlink(missing_ok=True)
    num_results = 0
    for path in result_files(tables.root):
        content = path.read_bytes()
        named = paths_named(content)
        missing = any(each in lost or not (tables.root / each).exists() for each in named)
        if missing or _quotes(content, texts):
            num_results += 1
            if not dry_run:
                path.unlink(missing_ok=True)
    if forgotten.rows and not dry_run:
        # Pages quote words and topics of their snapshot and of the one before, or draw its values.
        for folder in ("profiles", "forecast_curves"):
            shutil.rmtree(tables.root / folder, ignore_errors=True)
    return len(lost), num_results


def _may_hold(tables: Tables, path: str, forgotten: Forgotten) -> bool:
    ref = TableRef(digest=Path(path).stem, num_rows=0, num_bytes=0, path=path)
    try:
        schema = tables.schema(ref)
        if schema.equals(QUARANTINE):
            return _holds(tables, ref, forgotten)
        if "group" not in schema.names:
            return bool(forgotten.rows)
        return any(forgotten.holds_group_of(batch) for batch in tables.batches(ref, ["group"]))
    except StorageError:
        return True  # whoever cannot be asked goes


def _quotes(content: bytes, texts: set[str]) -> bool:
    """Whether one of the strings of a result holds one of the texts."""
    if not texts:
        return False
    try:
        said = json.dumps(json.loads(json.loads(content)["result"]), ensure_ascii=False)
    except (ValueError, LookupError, TypeError):
        return True
    return any(json.dumps(text, ensure_ascii=False)[1:-1] in said for text in texts)


def _versions_trained_on(root: Path, snapshots: set[str]) -> dict[str, str]:
    """`NAME VERSION` of each version that was trained on one of the snapshots -> its removal."""
    registry = _registry(root)
    if registry is None:
        return {}
    return {
        f"{version.name} {version.version}": registry.removal_of(version)
        for version in registered_versions(root)
        if version.tags.get("snapshot") in snapshots
    }
