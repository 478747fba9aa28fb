"""Files and folders that survive a kill: written aside, made durable, then named.

Whoever reads sees the old or the new content, whole; whoever is killed leaves nothing but a
remainder whose name begins with ``ASIDE``.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from warehouse.errors import StorageError, one_line, remedy_of

ASIDE = ".aside-"
"""How the name of a file that is still being written begins."""


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


def replace_file(path: Path, payload: bytes, mode: int = 0o600) -> None:
    """Give a small file its new content, durably: a reader sees the old or the new one, whole.

    Raises:
        StorageError: the folder cannot be written to.
    """
    with storage_errors(path.parent):
        make_folder(path.parent)
        aside = write_aside(path.parent, payload)
        try:
            aside.chmod(mode)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync_path(path.parent)


def write_aside(folder: Path, payload: bytes) -> Path:
    """A durable file of this content in a folder, not named yet; nothing where it cannot be made.

    Raises:
        OSError: the folder cannot be written to.
    """
    descriptor, name = tempfile.mkstemp(prefix=ASIDE, dir=folder)
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # A full disk is not made fuller.
        aside.unlink(missing_ok=True)
        raise
    return aside


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses inside becomes a StorageError about the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written to ({one_line(error)}): {remedy_of(error)}."
        ) from error
