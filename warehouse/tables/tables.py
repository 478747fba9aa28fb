"""Tables of Parquet named by what they hold, and snapshots of them.

    root/tables/<digest>.parquet          one immutable table
    root/snapshots/<name>/<number>.json   one commit: the tables of version <number> of <name>,
                                          or that it held rows that were withdrawn since

A table's digest is of what it holds, not of the bytes of its file (`fingerprints.py`).
Every file is written aside, made durable and then named, so that whoever reads sees a whole table
or none, and whoever is killed leaves nothing but a nameless remainder that
`Tables.collect_garbage` removes.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from pydantic import BaseModel

from warehouse.durable import (
    ASIDE,
    make_folder,
    open_aside,
    permitted,
    replace_file,
    storage_errors,
    sync_path,
    write_aside,
)
from warehouse.errors import StorageError, one_line
from warehouse.tables.columns import Offsets, dictionary_column
from warehouse.tables.fingerprints import FORMAT, Fingerprint
from warehouse.tables.handles import _NAME, _NUMBER, DIGEST_KEY, Fault, TableRef

ROW_GROUP_ROWS = 32_768

ROW_GROUP_BYTES = 8 << 20

COMPRESSION_LEVEL = 3  # of zstd: 27 % smaller than level 1 and read as fast

PLAIN = {b"encoding": b"plain"}
"""What a schema says of a field of text that hardly repeats: no dictionary page is worth it."""

KEY_VERSION = FORMAT
"""Stands in cache keys for the code of this module: a table reads as it was written."""


class SnapshotRef(BaseModel, frozen=True):
    """Version `number` (from 1) of `name`; `id` depends on the content of its tables alone."""

    id: str
    name: str
    number: int
    num_rows: int

    def cache_digest(self) -> str:
        """The identity of the content, wherever it lies."""
        return self.id


class Snapshot(BaseModel, frozen=True):
    """What a commit recorded.

    `refs` are the tables, ordered by digest; `attached` are tables kept beside them that are not
    part of the content (the quarantine); `meta` is what the committer wished to remember.
    """

    id: str
    refs: tuple[TableRef, ...]
    attached: tuple[TableRef, ...] = ()
    meta: dict[str, Any] = {}

    @property
    def num_rows(self) -> int:
        """Rows of all tables together."""
        return sum(ref.num_rows for ref in self.refs)


class WithdrawnError(StorageError):
    """A snapshot that is no longer kept, because it held rows that their owner withdrew."""


class Garbage(BaseModel, frozen=True):
    """What a collection removed."""

    num_files: int
    num_bytes: int


def checked_name(name: str) -> str:
    """The name itself, if snapshots can have it and it is safe as that of a file.

    Raises:
        StorageError: it cannot be used.
    """
    if not _NAME.fullmatch(name) or len(name.encode()) > 200:
        raise StorageError(
            f"{name[:120]!r} cannot be the name of a snapshot: up to 100 letters, digits, '_',"
            " '-' and '.' can, beginning with a letter, a digit or '_'."
        )
    return name


def snapshot_id(refs: Iterable[TableRef]) -> str:
    """The fingerprint of a set of tables: their order and their places do not count."""
    digests = sorted({ref.digest for ref in refs})
    return blake3(f"snapshot {FORMAT}\n{chr(10).join(digests)}".encode()).hexdigest()


# --- the store ------------------------------------------------------------------------------------


class Tables:
    """The tables and snapshots under one root folder of a local or mounted file system."""

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            raise StorageError(f"The warehouse {str(root)!r} is not a folder: tables need one.")
        self.root = Path(root)

    # Tables

    def writer(self, schema: pa.Schema) -> "TableWriter":
        """A writer to push batches into; use it in a `with` block, which drops what is unfinished.

        Raises:
            StorageError: the folder cannot be written to.
        """
        return TableWriter(self, schema)

    def write(
        self, batches: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema | None = None
    ) -> TableRef:
        """Write one table from a stream of batches and name it by its content.

        The same content gives the same file, which is not written a second time. Without `schema`
        the one of the first batch holds. Memory is bounded by one row group.

        Raises:
            StorageError: the folder cannot be written to, a value is null, or there is neither a
                batch nor a schema.
        """
        stream = iter(batches)
        if schema is None:
            first = next(stream, None)
            if first is None:
                raise StorageError("A table without a batch needs a schema: pass `schema`.")
            with self.writer(first.schema) as writer:
                writer.append(first)
                for batch in stream:
                    writer.append(batch)
                return writer.finish()
        with self.writer(schema) as writer:
            for batch in stream:
                writer.append(batch)
            return writer.finish()

    def read(self, ref: TableRef, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table, or the named columns of it.

        Raises:
            StorageError: the file is missing, damaged, or lacks a column.
        """
        with self._open(ref, columns) as file:
            return file.read(columns=None if columns is None else list(columns))

    def batches(
        self, ref: TableRef, columns: Sequence[str] | None = None, batch_rows: int = 8_192
    ) -> Iterator[pa.RecordBatch]:
        """The table in batches of at most `batch_rows` rows, in order, in bounded memory.

        Raises:
            StorageError: the file is missing, damaged, or lacks a column.
        """
        with self._open(ref, columns) as file:
            yield from file.iter_batches(
                batch_size=batch_rows, columns=None if columns is None else list(columns)
            )

    def schema(self, ref: TableRef) -> pa.Schema:
        """The columns of the table.

        Raises:
            StorageError: the file is missing or damaged.
        """
        with self._open(ref, None) as file:
            return file.schema_arrow.remove_metadata()

    def encoded(
        self, ref: TableRef, column: str
    ) -> Iterator[tuple[list[str], npt.NDArray[np.int32], Offsets]]:
        """A column of lists of strings as `dictionary_column` gives it, one row group at a time.

        The dictionaries are taken as the file has them, so that no string is made for a word that
        was there before: five times as fast as to read the strings and find the distinct ones.

        Raises:
            StorageError: the file is missing, damaged, or lacks the column.
        """
        with self._open(ref, [column], dictionaries=[f"{column}.list.element"]) as file:
            for group in range(file.num_row_groups):
                yield dictionary_column(file.read_row_group(group, [column]).column(column))

    def intact(self, ref: TableRef) -> bool:
        """Whether the table is there, whole by its footer, and says that it is this one."""
        return ref.intact(self.root)

    @contextlib.contextmanager
    def _open(
        self, ref: TableRef, columns: Sequence[str] | None, dictionaries: Sequence[str] = ()
    ) -> Iterator[pq.ParquetFile]:
        path = self.root / ref.path
        try:
            with permitted(path):
                opened = pq.ParquetFile(
                    path, page_checksum_verification=True, read_dictionary=list(dictionaries)
                )
            with opened as file:
                names = file.schema_arrow.names
                lacking = [name for name in columns or () if name not in names]
                if lacking:
                    raise StorageError(
                        f"Table {path} has no column {lacking[0]!r}; it has {', '.join(names)}."
                    )
                yield file
        except FileNotFoundError:
            raise StorageError(
                f"Table {path} is missing: run the flow that makes it again."
            ) from None
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                f"Table {path} is damaged or cannot be read ({one_line(error)}): remove it and"
                " run the flow that makes it again."
            ) from error

    # Snapshots

    def commit(
        self,
        name: str,
        refs: Sequence[TableRef],
        meta: dict[str, Any] | None = None,
        attached: Sequence[TableRef] = (),
    ) -> SnapshotRef:
        """Record `refs` as the next version of `name`, or return the head where it is the same.

        A commit is one file that did not exist before and is never rewritten: of two committers
        at once both succeed, one behind the other.

        Args:
            name: letters, digits, `_`, `-` and `.`.
            refs: the tables; order and repetition do not count.
            meta: JSON values to remember with this version; not part of its identity.
            attached: tables to keep alive with this version that are not part of its content.

        Raises:
            StorageError: the name cannot be used, or one of the tables is missing or damaged.
        """
        folder = self._folder(name)
        by_digest = {ref.digest: ref for ref in refs}
        ordered = tuple(by_digest[digest] for digest in sorted(by_digest))
        for ref in (*ordered, *attached):
            if not self.intact(ref):
                raise StorageError(
                    f"Table {self.root / ref.path} is missing or damaged, so {name!r} was not"
                    " committed: run the flow that makes it again."
                )
        snapshot = Snapshot(
            id=snapshot_id(ordered), refs=ordered, attached=tuple(attached), meta=meta or {}
        )
        record = {"format": FORMAT, **snapshot.model_dump(mode="json")}
        payload = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1).encode()
        with storage_errors(folder):
            make_folder(folder)
            aside = write_aside(folder, payload)
            try:
                while True:
                    number = max(self._numbers(name), default=0) + 1
                    with contextlib.suppress(WithdrawnError):
                        head = self.head(name)
                        if head is not None and self._says_the_same(head, snapshot):
                            return head
                    # A link, unlike a rename, fails where the name is taken.
                    with contextlib.suppress(FileExistsError):
                        os.link(aside, folder / f"{number:012d}.json")
                        sync_path(folder)
                        return SnapshotRef(
                            id=snapshot.id, name=name, number=number, num_rows=snapshot.num_rows
                        )
            finally:
                aside.unlink(missing_ok=True)

    def head(self, name: str) -> SnapshotRef | None:
        """The latest version of `name`; None where there is none.

        Raises:
            StorageError: the name cannot be used, or the record is damaged.
        """
        numbers = self._numbers(name)
        return self._ref(name, numbers[-1]) if numbers else None

    def before(self, snapshot: SnapshotRef) -> SnapshotRef | None:
        """The latest version before this one that holds something else; None where there is none.

        One whose rows were withdrawn is passed over.

        Raises:
            StorageError: the name cannot be used, or a record is damaged.
        """
        for number in reversed(self._numbers(snapshot.name)):
            if number < snapshot.number:
                with contextlib.suppress(WithdrawnError):
                    ref = self._ref(snapshot.name, number)
                    if ref.id != snapshot.id:
                        return ref
        return None

    def log(self, name: str) -> list[SnapshotRef]:
        """Every version of `name` that is still kept, oldest first.

        Raises:
            StorageError: the name cannot be used, or a record is damaged.
        """
        kept = []
        for number in self._numbers(name):
            with contextlib.suppress(WithdrawnError):
                kept.append(self._ref(name, number))
        return kept

    def find(self, name: str, beginning: str) -> SnapshotRef:
        """The version of `name` whose id begins so; of several with one id, the first.

        Raises:
            StorageError: there is none, or more than one id begins so.
            WithdrawnError: it held rows that were withdrawn since.
        """
        found: dict[str, SnapshotRef] = {}
        withdrawn = None
        for number in self._numbers(name):
            try:
                ref = self._ref(name, number)
            except WithdrawnError as error:
                if self._withdrawn_id(name, number).startswith(beginning):
                    withdrawn = error
                continue
            if ref.id.startswith(beginning):
                found.setdefault(ref.id, ref)
        if len(found) == 1 and beginning:
            return next(iter(found.values()))
        if withdrawn is not None and not found:
            raise withdrawn
        ids = list(dict.fromkeys(ref.id for ref in self.log(name)))
        known = ", ".join(each[:12] for each in ids[-5:]) or "none"
        if found:
            problem = "is ambiguous: it matches several snapshots"
        else:
            # As long as what was given, since a typing error is looked for in that alone.
            cut = {each[: len(beginning)]: each[:12] for each in ids}
            near = get_close_matches(beginning, cut, n=1)
            problem = f"is no snapshot{f' (did you mean {cut[near[0]]}?)' if near else ''}"
        raise StorageError(f"{beginning[:80]!r} {problem} of {name!r}; the last ones are {known}.")

    def withdraw(self, ref: SnapshotRef, why: str) -> None:
        """Put a sentence in the place of a version: whoever asks for it gets that.

        Raises:
            StorageError: the folder cannot be written to.
        """
        record = {"format": FORMAT, "id": ref.id, "withdrawn": why}
        path = self._folder(ref.name) / f"{ref.number:012d}.json"
        replace_file(path, json.dumps(record, ensure_ascii=False, indent=1).encode())

    def names(self) -> list[str]:
        """The names that have a snapshot, in order."""
        folder = self.root / "snapshots"
        if not folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and _NAME.fullmatch(entry.name) and self._numbers(entry.name)
        )

    def snapshot(self, snapshot: SnapshotRef | str) -> Snapshot:
        """What a commit recorded, by its handle, or the first one that has this id.

        Raises:
            StorageError: there is no such snapshot, or its record is damaged.
            WithdrawnError: it held rows that were withdrawn since.
        """
        if isinstance(snapshot, SnapshotRef):
            found = self._record(snapshot.name, snapshot.number)
            if found.id != snapshot.id:
                raise StorageError(
                    f"Snapshot {snapshot.number} of {snapshot.name!r} is {found.id[:12]}, not"
                    f" {snapshot.id[:12]}: the handle belongs to another warehouse."
                )
            return found
        withdrawn = None
        for name in self.names():
            for number in self._numbers(name):
                try:
                    found = self._record(name, number)
                except WithdrawnError as error:
                    if self._withdrawn_id(name, number) == snapshot:
                        withdrawn = error
                    continue
                if found.id == snapshot:
                    return found
        raise withdrawn or StorageError(f"There is no snapshot {snapshot!r} under {self.root}.")

    def snapshots(self, faults: list[Fault] | None = None) -> list[Snapshot]:
        """Every snapshot of every name that is still kept.

        Records that are damaged are added to `faults`.

        Raises:
            StorageError: a record is damaged, and there are no `faults` to add it to.
        """
        found: list[Fault] = []
        snapshots = [snapshot for _, snapshot in self._records(found)]
        if found and faults is None:
            raise StorageError(found[0].problem)
        if faults is not None:
            faults += found
        return snapshots

    def record_path(self, ref: SnapshotRef) -> Path:
        """The file that is the commit."""
        return self._folder(ref.name) / f"{ref.number:012d}.json"

    def _says_the_same(self, head: SnapshotRef, snapshot: Snapshot) -> bool:
        # Meta may differ: what was counted on the way does not make a new version of the content.
        if head.id != snapshot.id:
            return False
        kept = {ref.digest for ref in self._record(head.name, head.number).attached}
        return {ref.digest for ref in snapshot.attached} <= kept

    def _folder(self, name: str) -> Path:
        return self.root / "snapshots" / checked_name(name)

    def _numbers(self, name: str) -> list[int]:
        try:
            with permitted(self._folder(name)):
                entries = os.listdir(self._folder(name))
        except FileNotFoundError:
            return []
        return sorted(int(entry[:12]) for entry in entries if _NUMBER.fullmatch(entry))

    def _record(self, name: str, number: int) -> Snapshot:
        path = self._folder(name) / f"{number:012d}.json"
        try:
            with permitted(path):
                record = json.loads(path.read_bytes())
            if record.pop("format") != FORMAT:
                raise StorageError(
                    f"{path} is of another version of Tidemill: use that one, or a new warehouse."
                )
            if "withdrawn" in record:
                raise WithdrawnError(str(record["withdrawn"]))
            snapshot = Snapshot.model_validate(record)
        except FileNotFoundError:
            raise StorageError(f"There is no snapshot {number} of {name!r}: {path}.") from None
        except StorageError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
            raise StorageError(f"{path} is damaged: remove it and ingest again.") from error
        if snapshot.id != snapshot_id(snapshot.refs):
            raise StorageError(f"{path} does not match its own id: remove it and ingest again.")
        return snapshot

    def _withdrawn_id(self, name: str, number: int) -> str:
        path = self._folder(name) / f"{number:012d}.json"
        return str(json.loads(path.read_bytes())["id"])

    def _ref(self, name: str, number: int) -> SnapshotRef:
        snapshot = self._record(name, number)
        return SnapshotRef(id=snapshot.id, name=name, number=number, num_rows=snapshot.num_rows)

    # Upkeep

    @contextlib.contextmanager
    def held(self, *, alone: bool) -> Iterator[None]:
        """Hold the warehouse: with others to add to it, or alone to take something away.

        The kernel frees what a killed process held.

        Raises:
            StorageError: it is to be held alone and somebody else holds it.
        """
        with storage_errors(self.root):
            make_folder(self.root)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX | fcntl.LOCK_NB) if alone else fcntl.LOCK_SH)
            except BlockingIOError:
                raise StorageError(
                    f"The warehouse {self.root} is in use: try again when the other run has ended."
                ) from None
            yield
        finally:
            os.close(descriptor)

    def verify(self, refs: Iterable[TableRef] | None = None) -> list[Fault]:
        """Read everything again and compare it with its name; an empty list is a clean bill.

        Args:
            refs: the tables to read; without them, every table of every snapshot.
        """
        faults: list[Fault] = []
        if refs is None:
            tables: dict[str, TableRef] = {}
            for path, snapshot in self._records(faults):
                del path
                tables |= {ref.digest: ref for ref in (*snapshot.refs, *snapshot.attached)}
            refs = tables.values()
        for ref in refs:
            try:
                with self._open(ref, None) as file:
                    fingerprint = Fingerprint(file.schema_arrow)
                    for batch in file.iter_batches():
                        fingerprint.update(batch)
                if fingerprint.digest() != ref.digest:
                    problem = "its content does not match its name"
                    faults.append(Fault(path=ref.path, problem=problem))
            except StorageError as error:
                faults.append(Fault(path=ref.path, problem=str(error)))
        return faults

    def collect_garbage(
        self, keep: Iterable[TableRef] = (), min_age_seconds: float = 86_400
    ) -> Garbage:
        """Remove tables that no snapshot names, and what killed writers left behind.

        Args:
            keep: tables to keep beside those of the snapshots.
            min_age_seconds: younger files stay, since a run that is under way may need them.

        Raises:
            StorageError: a record is damaged, so that it is not known what is still needed.
        """
        faults: list[Fault] = []
        needed = {ref.path for ref in keep}
        for _, snapshot in self._records(faults):
            needed |= {ref.path for ref in (*snapshot.refs, *snapshot.attached)}
        if faults:
            raise StorageError(f"Nothing was removed: {faults[0].problem}")
        oldest = time.time() - min_age_seconds
        num_files = num_bytes = 0
        candidates = [*(self.root / "tables").glob("*"), *self.root.glob(f"snapshots/*/{ASIDE}*")]
        for path in candidates:
            ours = path.name.startswith(ASIDE) or path.suffix == ".parquet"
            if not ours or path.relative_to(self.root).as_posix() in needed:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime <= oldest:
                    path.unlink()
                    num_files += 1
                    num_bytes += status.st_size
        return Garbage(num_files=num_files, num_bytes=num_bytes)

    def _records(self, faults: list[Fault]) -> Iterator[tuple[str, Snapshot]]:
        for name in self.names():
            for number in self._numbers(name):
                path = f"snapshots/{name}/{number:012d}.json"
                try:
                    yield path, self._record(name, number)
                except WithdrawnError:
                    continue
                except StorageError as error:
                    faults.append(Fault(path=path, problem=str(error)))


class TableWriter:
    """Takes batches, and gives the finished table its name.

    Use it in a `with` block: leaving the block without `finish` removes what was written.
    """

    def __init__(self, tables: Tables, schema: pa.Schema) -> None:
        self._tables = tables
        self._folder = tables.root / "tables"
        self._schema = schema
        self._fingerprint = Fingerprint(schema)
        self._waiting: list[pa.RecordBatch | pa.Table] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        plain = {field.name for field in schema if PLAIN.items() <= (field.metadata or {}).items()}
        with storage_errors(self._folder):
            make_folder(self._folder)
            descriptor, self._aside = open_aside(self._folder)
            self._file = os.fdopen(descriptor, "wb")
            self._parquet = pq.ParquetWriter(
                self._file,
                schema,
                compression="zstd",
                compression_level=COMPRESSION_LEVEL,
                use_dictionary=[
                    f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
                    for field in schema
                    if field.name not in plain
                ],
                write_statistics=False,  # nobody looks rows up, and long texts compare slowly
                write_page_checksum=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._parquet.close()
        with contextlib.suppress(OSError):  # a full disk refuses what is still to be written
            self._file.close()
        self._aside.unlink(missing_ok=True)

    def append(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add the rows of `batch`, which has exactly the columns of the schema.

        Raises:
            StorageError: a value is null, or the disk cannot be written to.
        """
        assert batch.schema.equals(self._schema), f"{batch.schema} is not {self._schema}"
        if not batch.num_rows:
            return
        self._fingerprint.update(batch)
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        parts = [
            part if isinstance(part, pa.Table) else pa.Table.from_batches([part], self._schema)
            for part in self._waiting
        ]
        self._waiting.clear()
        self._waiting_rows = self._waiting_bytes = 0
        with storage_errors(self._folder):
            self._parquet.write_table(pa.concat_tables(parts), row_group_size=ROW_GROUP_ROWS)

    def finish(self) -> TableRef:
        """Make the table durable and give it its name.

        Raises:
            StorageError: the disk cannot be written to.
        """
        if self._waiting:
            self._flush()
        digest = self._fingerprint.digest()
        ref = TableRef(
            digest=digest,
            num_rows=self._fingerprint.num_rows,
            num_bytes=self._fingerprint.num_bytes,
            path=f"tables/{digest}.parquet",
        )
        with storage_errors(self._folder):
            self._parquet.add_key_value_metadata({DIGEST_KEY.decode(): digest})
            self._parquet.close()
            path = self._tables.root / ref.path
            if ref.intact(self._tables.root):
                os.utime(path)  # young again, so that no collection takes it before the commit
                return ref
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._aside, path)
            sync_path(self._folder)
        return ref
