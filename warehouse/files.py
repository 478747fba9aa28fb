"""Small files named by what they hold: pages and pictures for people, figures for programs.

    root/<folder>/<digest>.<suffix>

Each is written aside, made durable and then named, so that whoever opens one sees it whole.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel

from warehouse.errors import StorageError, remedy_of
from warehouse.tables import ASIDE, make_folder, sync_path


class FileRef(BaseModel, frozen=True):
    """A file: its digest (sha256, hex), its size, and its path relative to the root."""

    digest: str
    num_bytes: int
    path: str

    def cache_digest(self) -> str:
        """The identity of the content, wherever it lies."""
        return self.digest

    def intact(self, root: str | Path) -> bool:
        """Whether the file is there and holds what its name says."""
        try:
            payload = (Path(root) / self.path).read_bytes()
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
    place = Path(root) / folder
    try:
        make_folder(place)
        descriptor, aside = tempfile.mkstemp(prefix=ASIDE, dir=place)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            # A web server of another user shall be able to show it.
            Path(aside).chmod(0o644)
            os.replace(aside, Path(root) / ref.path)
        finally:
            Path(aside).unlink(missing_ok=True)
        sync_path(place)
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written to ({error.strerror}): {remedy_of(error)}."
        ) from error
    return ref


class PageRef(BaseModel, frozen=True):
    """A page for browsers, and the same as a picture for viewers that show no pages."""

    page: FileRef
    picture: FileRef
