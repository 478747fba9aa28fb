"""Handles of tables, as steps exchange them."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from warehouse.durable import permitted

DIGEST_KEY = b"tidemill.digest"

KEY_VERSION = 1
"""How a handle checks its file changes no result."""

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
        """Whether the table is there, whole by its footer, and says that it is this one.

        Raises:
            StorageError: this user may not read it.
        """
        return _footer_matches(Path(root) / self.path, self.digest, self.num_rows)


class Fault(BaseModel, frozen=True):
    """A stored file that is not what it should be: its path relative to the root, and why."""

    path: str
    problem: str


def _footer_matches(path: Path, digest: str, num_rows: int) -> bool:
    try:
        with permitted(path):
            footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    named = (footer.metadata or {}).get(DIGEST_KEY, b"").decode()
    return bool(named == digest and footer.num_rows == num_rows)
