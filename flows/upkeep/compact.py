"""Many small tables into few, as a new snapshot."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from flows.catalogue import nothing_under
from flows.upkeep.garbage import MERGED_BYTES, SMALL_BYTES
from pipeline.records.contract import IN_ORDER
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import SnapshotRef, Tables

# --- merging small tables -------------------------------------------------------------------------


class CompactReport(BaseModel, frozen=True):
    """The snapshot after merging, and how many tables it had and has."""

    snapshot: SnapshotRef
    num_before: int
    num_after: int


def compact(root: Path, name: str) -> CompactReport:
    """Merge the small tables of the newest snapshot of `name` into few, as a new snapshot.

    The rows stay the same. The next ingest uses the merged table as long as all its files are
    there; one that is gone or has changed brings the small tables back. Kinds whose rows mean
    something in their order are left as they are.

    Raises:
        InputError: there is no such data.
        StorageError: a run is under way, or a table is damaged.
    """
    tables = Tables(root)
    with tables.held(alone=True):
        log = tables.log(name)
        if not log:
            raise nothing_under(name, tables.names(), "data", "ingest")
        head = tables.snapshot(log[-1])
        kept = [ref for ref in head.refs if ref.num_bytes >= SMALL_BYTES]
        small = [ref for ref in head.refs if ref.num_bytes < SMALL_BYTES]
        if head.meta.get("kind") in IN_ORDER or len(small) < 2:
            return CompactReport(
                snapshot=log[-1], num_before=len(head.refs), num_after=len(head.refs)
            )
        merged: dict[str, list[str]] = dict(head.meta.get("merged", {}))
        for group in _groups_of(small):
            if len(group) < 2:
                kept += group
                continue
            rows = (batch for ref in group for batch in tables.batches(ref))
            table = tables.write(rows, tables.schema(group[0]))
            kept.append(table)
            parts = [part for ref in group for part in merged.pop(ref.digest, [ref.digest])]
            merged[table.digest] = parts
        order = sorted(ref.digest for ref in kept)
        meta = {**head.meta, "merged": merged, "order": order}
        snapshot = tables.commit(name, kept, meta, attached=head.attached)
    return CompactReport(snapshot=snapshot, num_before=len(head.refs), num_after=len(kept))


def _groups_of(refs: Sequence[TableRef]) -> list[list[TableRef]]:
    """Neighbours that together make a table of the wanted size."""
    groups: list[list[TableRef]] = [[]]
    num_bytes = 0
    for ref in refs:
        if groups[-1] and num_bytes + ref.num_bytes > MERGED_BYTES:
            groups.append([])
            num_bytes = 0
        groups[-1].append(ref)
        num_bytes += ref.num_bytes
    return groups
