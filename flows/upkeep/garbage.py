"""Upkeep of a warehouse: rows leave it for good, damage is found, what nobody needs goes.

None of these is a flow: they work on what lies under one root, in order, and alone.
"""

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.environment import tracking_uri
from pipeline.errors import InputError
from warehouse.durable import ASIDE
from warehouse.errors import StorageError
from warehouse.ingests import last_ingest
from warehouse.tables.handles import Fault
from warehouse.tables.tables import Tables

MERGED_BYTES = 64 << 20
"""About the size of a table that is made of small ones."""

SMALL_BYTES = 8 << 20

DAY = 86_400

MIN_TEXT = 4
"""Characters of a row's text that a kept result must share with it to be taken for a copy."""

_PATH = re.compile(rb'\\"path\\": \\"([^"\\]+)\\"')  # in a result, which is JSON within JSON

_FILES = ("profiles/*/*", "learning_curves/*", "forecast_curves/*")
"""Files for people, named by the digest of their bytes."""


def paths_named(content: bytes) -> set[str]:
    """The tables, checkpoints and files, relative to the root, for which a result stands."""
    return {path.decode() for path in _PATH.findall(content)}


def registered_versions(root: Path) -> list[Any]:
    """Every registered version; none where nothing was ever registered."""
    registry = _registry(root)
    if registry is None:
        return []
    return [version for name in registry.names() for version in registry.versions(name)]


def _registry(root: Path) -> Any:
    """The registry; None where nothing was ever registered."""
    server = tracking_uri()
    if server is None and not (root / "mlflow").is_dir():
        return None
    from warehouse.registry.registry import Registry

    return Registry(root, server)


def ingested_names(tables: Tables) -> list[str]:
    """Every name that was ever ingested, even if it was refused."""
    noted = {path.stem for path in (tables.root / "ingests").glob("*.json")}
    return sorted(noted | set(tables.names()))


def result_files(root: Path) -> list[Path]:
    """The kept results of all tasks; each names the tables and checkpoints that it stands for."""
    return sorted(
        path for path in (root / "results").glob("*/*") if path.is_file() and path.suffix != ".lock"
    )


# --- what nobody needs ----------------------------------------------------------------------------


class GarbageReport(BaseModel, frozen=True):
    """What went, or would go: how many of each kind, and their bytes."""

    num_snapshots: int
    num_results: int
    num_tables: int
    num_checkpoints: int
    num_states: int
    num_pages: int
    num_arrays: int
    num_leftovers: int
    num_bytes: int
    dry_run: bool


def collect_garbage(root: Path, days: float = 30.0, dry_run: bool = False) -> GarbageReport:
    """Remove what nothing reaches any more.

    Kept are: of each name the newest snapshot, those of the last `days`, and those that a
    registered version was trained on; results of the last `days`, and those of the trainings of
    registered versions; the checkpoints of registered versions; and every table that one of these
    names. Pages of what is gone go too: they can be drawn again. Unfinished trainings and unused
    arrays stay for `days`, and nothing goes in its first day, since a run may be under way that
    needs it.

    Raises:
        StorageError: an ingest is under way, or a record is damaged, so that it is not known what
            is still needed.
    """
    if days < 0:
        raise InputError(f"--days is {days:g}: it must be at least 0")
    tables = Tables(root)
    now = time.time()
    oldest, young = now - days * DAY, now - min(days, 1) * DAY
    with tables.held(alone=True):
        faults: list[Fault] = []
        tables.snapshots(faults)
        if faults:
            raise StorageError(f"Nothing was removed: {faults[0].problem}")
        versions = registered_versions(root)
        needed_snapshots = {version.tags.get("snapshot") for version in versions}
        needed = {version.tags.get("checkpoint_path", "") for version in versions} - {""}
        bin_ = _Bin(root, dry_run)
        heads = {log[-1] for name in tables.names() if (log := tables.log(name))}
        gone_snapshots = [
            ref
            for name in tables.names()
            for ref in tables.log(name)
            if ref not in heads
            and ref.id not in needed_snapshots
            and tables.record_path(ref).stat().st_mtime < oldest
        ]
        for ref in gone_snapshots:
            bin_.take("snapshots", tables.record_path(ref))
        for name in tables.names():
            for ref in tables.log(name):
                if ref not in gone_snapshots:
                    snapshot = tables.snapshot(ref)
                    needed |= {each.path for each in (*snapshot.refs, *snapshot.attached)}
        for name in ingested_names(tables):
            needed |= {ref.path for ref in last_ingest(root, name).quarantine}
        for path in result_files(root):
            content = path.read_bytes()
            named = paths_named(content)
            models = {each for each in named if each.startswith("checkpoints/")}
            is_whole = all((root / each).exists() for each in named)
            is_needed = bool(models & needed) or path.stat().st_mtime >= oldest
            if is_whole and is_needed:
                needed |= named
            else:
                bin_.take("results", path)
        for kind, pattern in (("tables", "tables/*.parquet"), ("checkpoints", "checkpoints/*")):
            for path in sorted(root.glob(pattern)):
                if path.relative_to(root).as_posix() not in needed and _age_before(path, young):
                    bin_.take("leftovers" if path.name.startswith(ASIDE) else kind, path)
        for kind in ("states", "arrays"):
            for path in sorted(root.glob(f"{kind}/[!.]*")):
                if _age_before(path, oldest):
                    bin_.take(kind, path)
        kept = {
            ref.id[:16]
            for name in tables.names()
            for ref in tables.log(name)
            if ref not in gone_snapshots
        }
        for path in sorted(root.glob("profiles/*")):
            if path.name not in kept and _age_before(path, young):
                bin_.take("pages", path)
        for kind in ("learning_curves", "forecast_curves"):
            for path in sorted(root.glob(f"{kind}/*")):
                if _age_before(path, oldest):
                    bin_.take("pages", path)
        for pattern in ("arrays", "tables", "snapshots/*", "ingests", "mended", "."):
            for path in sorted(root.glob(f"{pattern}/{ASIDE}*")):
                if _age_before(path, young):
                    bin_.take("leftovers", path)
    return GarbageReport(
        **{f"num_{kind}": count for kind, count in bin_.counts.items()},
        num_bytes=bin_.num_bytes,
        dry_run=dry_run,
    )


@dataclass
class _Bin:
    root: Path
    dry_run: bool
    num_bytes: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                *("snapshots", "results", "tables", "checkpoints", "states"),
                *("pages", "arrays", "leftovers"),
            ),
            0,
        )
    )

    def take(self, kind: str, path: Path) -> None:
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        self.num_bytes += sum(each.stat().st_size for each in files)
        self.counts[kind] += 1
        if self.dry_run:
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _age_before(path: Path, moment: float) -> bool:
    """Whether neither a folder nor what lies in it was written since."""
    inside = path.rglob("*") if path.is_dir() else ()
    return all(each.stat().st_mtime <= moment for each in (path, *inside))
