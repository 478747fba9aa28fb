"""Small files named by what they hold: pages and pictures for people, figures for programs.

    root/<folder>/<digest>.<suffix>

Each is written aside, made durable and then named, so that whoever opens one sees it whole.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel

from warehouse.durable import permitted, replace_file

KEY_VERSION = 1
"""Stands in cache keys for the code of this module: a file reads as it was written."""


class FileRef(BaseModel, frozen=True):
    """A file: its digest (sha256, hex), its size, and its path relative to the root."""

    digest: str
    num_bytes: int
    path: str

    def cache_digest(self) -> str:
        """The identity of the content, wherever it lies."""
        return self.digest

    def intact(self, root: str | Path) -> bool:
        """Whether the file is there and holds what its name says.

        Raises:
            StorageError: this user may not read it.
        """
        path = Path(root) / self.path
        try:
            with permitted(path):
                payload = path.read_bytes()
        except OSError:
            return False
        return hashlib.sha256(payload).hexdigest() == self.digest


def keep_file(root: str | Path, folder: str, suffix: str, payload: bytes) -> FileRef:
    """Keep ``payload`` in a folder below the root, under its digest.

    Raises:
        StorageError: the folder cannot be written to.
    """
    digest = hashlib.sha256(payload).hexdigest()
    ref = FileRef(digest=digest, num_bytes=len(payload), path=f"{folder}/{digest[:16]}.{suffix}")
    if ref.intact(root):
        return ref
    replace_file(Path(root) / ref.path, payload)
    return ref


class PageRef(BaseModel, frozen=True):
    """A page for browsers, and the same as a picture for viewers that show no pages."""

    page: FileRef
    picture: FileRef
