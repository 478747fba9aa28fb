"""Tables of Parquet named by what they hold, and snapshots of them.

    root/tables/<digest>.parquet          one immutable table
    root/snapshots/<name>/<number>.json   one commit: the tables of version <number> of <name>,
                                          or that it held rows that were withdrawn since

A table's digest (BLAKE3: a tenth of the time of SHA-256 where the processor has no instructions for
that) is taken over its schema, lengths and values, not over the bytes of its file, so it is the
same on every machine and under every version of Parquet. Every file is written aside, made
durable and then named, so that whoever reads sees a whole table or none, and whoever is killed
leaves nothing but a nameless remainder that `Tables.collect_garbage` removes.
"""

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from pydantic import BaseModel

from warehouse.errors import StorageError, remedy_of

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

ROW_GROUP_ROWS = 32_768
ROW_GROUP_BYTES = 8 << 20
COMPRESSION_LEVEL = 3  # of zstd: 27 % smaller than level 1 and read as fast
PLAIN = {b"encoding": b"plain"}
"""What a schema says of a field of text that hardly repeats: no dictionary page is worth it."""
ASIDE = ".aside-"  # how the name of a file that is still being written begins
_FORMAT = 2
_DIGEST_KEY = b"tidemill.digest"
_NAME = re.compile(r"\w[\w.\-]{0,99}")
_NUMBER = re.compile(r"\d{12}\.json")


# --- handles --------------------------------------------------------------------------------------


class TableRef(BaseModel, frozen=True):
    """Where one table lies and what it holds.

    `digest` is the fingerprint of the content (hex), `num_bytes` the size of its values before
    compression, `path` the place of the file relative to the root.
    """

    digest: str
    num_rows: int
    num_bytes: int
    path: str

    def cache_digest(self) -> str:
        """The identity of the content, wherever it lies."""
        return self.digest

    def intact(self, root: str | Path) -> bool:
        """Whether the table is there, whole by its footer, and says that it is this one."""
        return _footer_matches(Path(root) / self.path, self.digest, self.num_rows)


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


class Fault(BaseModel, frozen=True):
    """A stored file that is not what it should be: its path relative to the root, and why."""

    path: str
    problem: str


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
    return blake3(f"snapshot {_FORMAT}\n{chr(10).join(digests)}".encode()).hexdigest()


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
            with pq.ParquetFile(
                path, page_checksum_verification=True, read_dictionary=list(dictionaries)
            ) as file:
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
                f"Table {path} is damaged or cannot be read ({_one_line(error)}): remove it and"
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
        record = {"format": _FORMAT, **snapshot.model_dump(mode="json")}
        payload = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1).encode()
        with _storage_errors(folder):
            make_folder(folder)
            aside = _write_aside(folder, payload)
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
        known = ", ".join(dict.fromkeys(ref.id[:12] for ref in self.log(name)[-5:])) or "none"
        problem = "is no single snapshot" if found else "is no snapshot"
        raise StorageError(f"{beginning[:80]!r} {problem} of {name!r}; the last ones are {known}.")

    def withdraw(self, ref: SnapshotRef, why: str) -> None:
        """Put a sentence in the place of a version: whoever asks for it gets that.

        Raises:
            StorageError: the folder cannot be written to.
        """
        record = {"format": _FORMAT, "id": ref.id, "withdrawn": why}
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
            entries = os.listdir(self._folder(name))
        except FileNotFoundError:
            return []
        return sorted(int(entry[:12]) for entry in entries if _NUMBER.fullmatch(entry))

    def _record(self, name: str, number: int) -> Snapshot:
        path = self._folder(name) / f"{number:012d}.json"
        try:
            record = json.loads(path.read_bytes())
            if record.pop("format") != _FORMAT:
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
        with _storage_errors(self.root):
            make_folder(self.root)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
                    fingerprint = _Fingerprint(file.schema_arrow)
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
        self._fingerprint = _Fingerprint(schema)
        self._waiting: list[pa.RecordBatch | pa.Table] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        plain = {field.name for field in schema if PLAIN.items() <= (field.metadata or {}).items()}
        with _storage_errors(self._folder):
            make_folder(self._folder)
            descriptor, aside = tempfile.mkstemp(prefix=ASIDE, dir=self._folder)
            self._aside = Path(aside)
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
        with _storage_errors(self._folder):
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
        with _storage_errors(self._folder):
            self._parquet.add_key_value_metadata({_DIGEST_KEY.decode(): digest})
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


class _Fingerprint:
    """The running digest of a table: it does not depend on how the rows are cut into batches."""

    def __init__(self, schema: pa.Schema) -> None:
        self._names = [field.name for field in schema]
        self._columns = [_ColumnDigest(field.name, field.type) for field in schema]
        self.num_rows = 0

    @property
    def num_bytes(self) -> int:
        return sum(column.num_bytes() for column in self._columns)

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        self.num_rows += batch.num_rows
        for column, values in zip(self._columns, batch.columns, strict=True):
            for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else (values,):
                column.update(chunk)

    def digest(self) -> str:
        whole = blake3(f"table {_FORMAT} {self.num_rows}\n".encode())
        for name, column in zip(self._names, self._columns):
            whole.update(f"{json.dumps(name)} {column.describe()}\n".encode())
        return whole.hexdigest()


class _ColumnDigest:
    """The running digest of one column: of its values, and of its lengths where it has some."""

    def __init__(self, name: str, kind: pa.DataType) -> None:
        self._name = name
        self._values = blake3()
        self._lengths = blake3()
        self._item: _ColumnDigest | None = None
        self._num_bytes = 0
        self._type = str(kind)
        if pa.types.is_list(kind):
            self._type = "list"
            self._item = _ColumnDigest(name, kind.value_type)
        elif not _is_flat(kind) and not _is_text(kind):
            raise StorageError(
                f"Column {name!r} is {kind}, which a table cannot hold: numbers, truth values,"
                " string, binary and lists of them can be."
            )

    def update(self, array: pa.Array) -> None:
        if array.null_count:
            raise StorageError(f"Column {self._name!r} holds nulls: a table has none.")
        if _is_flat(array.type):
            numbers = np.ascontiguousarray(array.to_numpy(zero_copy_only=False))
            self._values.update(numbers.view(np.uint8).data)
            self._num_bytes += numbers.nbytes
            return
        if self._item is not None:
            offsets = _offsets(array)
            self._item.update(array.values[int(offsets[0]) : int(offsets[-1])])
        else:
            data, offsets = utf8_column(array)
            self._values.update(data.data)
            self._num_bytes += data.nbytes
        lengths = np.diff(offsets)
        self._lengths.update(lengths.view(np.uint8).data)
        self._num_bytes += lengths.nbytes

    def num_bytes(self) -> int:
        return self._num_bytes + (self._item.num_bytes() if self._item else 0)

    def describe(self) -> str:
        item = f" [{self._item.describe()}]" if self._item else ""
        return f"{self._type} {self._values.hexdigest()} {self._lengths.hexdigest()}{item}"


# --- between Arrow and plain arrays ---------------------------------------------------------------


def utf8_column(column: pa.Array | pa.ChunkedArray) -> tuple[Bytes, Offsets]:
    """N strings as their bytes and the N + 1 positions between them; no copy for one chunk.

    String i is `data[offsets[i]:offsets[i + 1]]`.
    """
    parts: list[Bytes] = []
    positions: list[Offsets] = []
    for array in _chunks(column):
        assert _is_text(array.type), f"{array.type} is not text"
        offsets = _offsets(array)
        buffer = array.buffers()[2]
        data = (
            np.frombuffer(buffer, np.uint8)
            if buffer is not None and buffer.size
            else np.empty(0, np.uint8)
        )
        parts.append(data[int(offsets[0]) : int(offsets[-1])])
        positions.append(offsets - offsets[0])
    return _joined(parts, positions, np.dtype(np.uint8))


# pa.array() imports pandas to look whether it was given one of its arrays: half a second of CPU.


def number_array(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Numbers as an Arrow array of the type `kind`."""
    fitting = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(fitting), [None, pa.py_buffer(fitting)])


def strings_array(texts: Sequence[str] | Sequence[bytes]) -> pa.StringArray:
    """N strings, or N times bytes that the caller knows not to be text."""
    parts = [text.encode() if isinstance(text, str) else text for text in texts]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return string_array(np.frombuffer(b"".join(parts), np.uint8), offsets)


def string_array(data: Bytes, offsets: Offsets) -> pa.StringArray:
    """N strings from UTF-8 bytes and the N + 1 positions between them; the bytes are not copied.

    Raises:
        StorageError: the text is over 2 GiB, more than one array can address.
    """
    if len(offsets) and offsets[-1] > np.iinfo(np.int32).max:
        raise StorageError("More than 2 GiB of text do not fit one array: use smaller batches.")
    assert len(offsets) and offsets[-1] <= len(data), "positions beyond the text"
    buffers = [
        None,
        pa.py_buffer(offsets.astype(np.int32)),
        pa.py_buffer(np.ascontiguousarray(data)),
    ]
    return pa.StringArray.from_buffers(len(offsets) - 1, buffers[1], buffers[2])


def tokens_array(data: Bytes, token_offsets: Offsets, list_offsets: Offsets) -> pa.ListArray:
    """N lists of tokens: row i owns the tokens `list_offsets[i]:list_offsets[i + 1]`."""
    return pa.ListArray.from_arrays(
        pa.array(list_offsets.astype(np.int32)), string_array(data, token_offsets)
    )


def list_array(
    values: npt.NDArray[Any], offsets: Offsets, kind: pa.DataType | None = None
) -> pa.ListArray:
    """N lists of numbers, of the type `kind`: row i is `values[offsets[i]:offsets[i + 1]]`."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, kind))


def ragged_column(
    table: pa.Table | pa.RecordBatch, column: str
) -> tuple[npt.NDArray[Any], Offsets]:
    """A column of N lists of numbers as its flat values and the N + 1 positions between them."""
    parts: list[npt.NDArray[Any]] = []
    positions: list[Offsets] = []
    values_type = table.schema.field(column).type.value_type
    for array in _chunks(table.column(column)):
        offsets = _offsets(array)
        values = array.values[int(offsets[0]) : int(offsets[-1])]
        parts.append(values.to_numpy(zero_copy_only=False))
        positions.append(offsets - offsets[0])
    return _joined(parts, positions, np.dtype(values_type.to_pandas_dtype()))


def count_words(
    batches: Iterable[pa.RecordBatch | pa.Table], column: str
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct words of a column of strings or of lists of strings, and how often each occurs.

    The most frequent comes first; equal counts are in the order of code points. Memory is bounded
    by the number of distinct words.
    """
    merged = pa.table({"values": pa.array([], pa.string()), "counts": pa.array([], pa.int64())})
    waiting = [merged]
    num_waiting = 0
    for batch in batches:
        for array in _chunks(batch.column(column)):
            words = array.flatten() if pa.types.is_list(array.type) else array
            counted = words.value_counts()
            waiting.append(
                pa.table({"values": counted.field("values"), "counts": counted.field("counts")})
            )
            num_waiting += len(counted)
        if num_waiting > max(1 << 20, 2 * merged.num_rows):
            merged = _sum_counts(waiting)
            waiting, num_waiting = [merged], 0
    merged = _sum_counts(waiting).sort_by([("counts", "descending"), ("values", "ascending")])
    return merged.column("values").to_pylist(), merged.column("counts").to_numpy()


def dictionary_column(
    column: pa.Array | pa.ChunkedArray,
) -> tuple[list[str], npt.NDArray[np.int32], Offsets]:
    """A column of N lists of strings as (distinct strings, an index for each string, offsets).

    String j of the column is `dictionary[indices[j]]`; row i owns `offsets[i]:offsets[i + 1]`.
    """
    parts: list[pa.Array] = []
    positions: list[Offsets] = []
    for array in _chunks(column):
        offsets = _offsets(array)
        parts.append(array.values[int(offsets[0]) : int(offsets[-1])])
        positions.append(offsets - offsets[0])
    words = pa.chunked_array(parts, column.type.value_type).combine_chunks().dictionary_encode()
    return words.dictionary.to_pylist(), words.indices.to_numpy(), _joined_offsets(positions)


def _sum_counts(parts: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(parts).group_by("values").aggregate([("counts", "sum")])
    return pa.table({"values": summed["values"], "counts": summed["counts_sum"]})


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def _offsets(array: pa.Array) -> Offsets:
    """The N + 1 positions of a string, binary or list array, honouring its own offset."""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    kind = np.dtype(np.int64 if wide else np.int32)
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(1, np.int64)
    offsets = np.frombuffer(buffer, kind, len(array) + 1, array.offset * kind.itemsize)
    return offsets.astype(np.int64)


def _joined(
    parts: list[npt.NDArray[Any]], positions: list[Offsets], kind: np.dtype[Any]
) -> tuple[npt.NDArray[Any], Offsets]:
    if len(parts) == 1:
        return parts[0], positions[0]
    return np.concatenate([*parts, np.empty(0, kind)]), _joined_offsets(positions)


def _joined_offsets(positions: list[Offsets]) -> Offsets:
    lengths = [np.diff(offsets) for offsets in positions]
    return np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _is_flat(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


# --- files ----------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder.

    Raises:
        OSError: it cannot be done.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, payload: bytes) -> None:
    """Give a small file its new content, durably: a reader sees the old or the new one, whole.

    Raises:
        StorageError: the folder cannot be written to.
    """
    with _storage_errors(path.parent):
        make_folder(path.parent)
        aside = _write_aside(path.parent, payload)
        try:
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync_path(path.parent)


def _write_aside(folder: Path, payload: bytes) -> Path:
    descriptor, aside = tempfile.mkstemp(prefix=ASIDE, dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    return Path(aside)


def _footer_matches(path: Path, digest: str, num_rows: int) -> bool:
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    named = (footer.metadata or {}).get(_DIGEST_KEY, b"").decode()
    return bool(named == digest and footer.num_rows == num_rows)


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written to ({_one_line(error)}): {remedy_of(error)}."
        ) from error


def _one_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
