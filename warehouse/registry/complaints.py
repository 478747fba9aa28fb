"""What MLflow, its database and the disk complain about, as sentences for people."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from warehouse.errors import StorageError, remedy_of

_NO_ANSWER = re.compile(r"^API request to (https?://[^/\s]+).* failed with (?:exception|timeout)")
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
}


@contextmanager
def sentence(what: str) -> Iterator[None]:
    """What MLflow and the disk complain about, as one sentence."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StorageError(f"{what}: {_complaint(error)}.") from error


def _complaint(error: Exception) -> str:
    """What is wrong and what helps; MLflow hides what the database or the disk said in causes."""
    if server := _NO_ANSWER.search(str(error)):
        return (
            f"the MLflow server {without_password(server[1])} does not answer; start it or unset "
            "MLFLOW_TRACKING_URI"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlite3.Error):
            return _database_complaint(cause)
        if isinstance(cause, OSError) and cause.errno is not None:
            where = f" ({cause.filename})" if cause.filename else ""
            return f"{cause.strerror}{where}; {remedy_of(cause)}"
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def _database_complaint(error: sqlite3.Error) -> str:
    said = first_line(error)
    # SQLite's extended codes have the plain one in their lowest byte.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another program holds the registry's database ({said}); try again when it is done"
    if code in _UNWRITABLE:
        return (
            f"the registry's database cannot be written ({said}); free some space and make the "
            "folder writable, or choose another warehouse (--warehouse)"
        )
    return (
        f"the registry's database is damaged ({said}); restore mlflow/mlflow.db of the warehouse "
        "from a backup, or move the folder mlflow away and retrain"
    )


def without_password(address: str) -> str:
    """An address as it may stand in a log or on a page."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def one_line(text: str) -> str:
    """The text with all white space as single blanks."""
    return " ".join(text.split())


def first_line(error: Exception) -> str:
    """The first line of what an error says, without a full stop."""
    return one_line(str(error).strip().partition("\n")[0]).rstrip(".")
