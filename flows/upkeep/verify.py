"""Check that every stored checksum matches."""

import hashlib
import json
from pathlib import Path

from flows.upkeep.garbage import _FILES, ingested_names, result_files
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.errors import StorageError
from warehouse.ingests import last_ingest
from warehouse.tables.handles import Fault, TableRef
from warehouse.tables.tables import Tables

# --- verifying ------------------------------------------------------------------------------------


def verify(root: Path) -> list[Fault]:
    """Read everything that is kept again and compare it with its name; empty where all is well.

    Tables and checkpoints are rehashed, records of snapshots and of results are read.
    """
    tables = Tables(root)
    faults: list[Fault] = []
    refs = [ref for one in tables.snapshots(faults) for ref in (*one.refs, *one.attached)]
    for name in ingested_names(tables):
        refs += last_ingest(root, name).quarantine
    paths = [f"tables/{path.name}" for path in sorted((root / "tables").glob("*.parquet"))]
    found = [TableRef(digest=Path(p).stem, num_rows=0, num_bytes=0, path=p) for p in paths]
    faults += tables.verify({ref.path: ref for ref in (*refs, *found)}.values())
    checkpoints = Checkpoints(root)
    for directory in sorted((root / "checkpoints").glob("[0-9a-f]*")):
        path = directory.relative_to(root).as_posix()
        try:
            checkpoints.load(CheckpointRef(digest=directory.name, path=path, num_bytes=0))
        except StorageError as error:
            faults.append(Fault(path=path, problem=str(error)))
    for pattern in _FILES:
        for file in sorted(root.glob(pattern)):
            if hashlib.sha256(file.read_bytes()).hexdigest()[:16] != file.stem:
                problem = "it is not what its name says: remove it, its task will run again"
                faults.append(Fault(path=file.relative_to(root).as_posix(), problem=problem))
    for file in result_files(root):
        try:
            json.loads(json.loads(file.read_bytes())["result"])
        except (OSError, ValueError, LookupError, TypeError):
            relative = file.relative_to(root).as_posix()
            problem = "it is no record of a result: remove it, its task will run again"
            faults.append(Fault(path=relative, problem=problem))
    return list({fault.path: fault for fault in faults}.values())
