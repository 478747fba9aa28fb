"""Files and folders that survive a kill: written aside, made durable, then named.

Whoever reads sees the old or the new content, whole; whoever is killed leaves nothing but a
remainder whose name begins with ``ASIDE``.

Who may read and write a file or folder is what the umask of its maker says, as with any program's.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from warehouse.errors import StorageError, one_line, remedy_of

ASIDE = ".aside-"
"""How the name of a file that is still being written begins."""
KEY_VERSION = 1
"""Stands in cache keys for the code of this module, which changes no content."""


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
    with storage_errors(path.parent):
        make_folder(path.parent)
        aside = write_aside(path.parent, payload)
        try:
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync_path(path.parent)


def open_aside(folder: Path, prefix: str = ASIDE) -> tuple[int, Path]:
    """A new, empty file in a folder, open for writing: its descriptor, and where it lies.

    Raises:
        OSError: the folder cannot be written to.
    """
    aside = folder / f"{prefix}{uuid.uuid4().hex}"
    return os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), aside


def make_aside(folder: Path) -> Path:
    """A new, empty folder in a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    aside = folder / f"{ASIDE}{uuid.uuid4().hex}"
    aside.mkdir()
    return aside


def write_aside(folder: Path, payload: bytes) -> Path:
    """A durable file of this content in a folder, not named yet; nothing where it cannot be made.

    Raises:
        OSError: the folder cannot be written to.
    """
    descriptor, aside = open_aside(folder)
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
def permitted(path: Path) -> Iterator[None]:
    """What this user may not read inside becomes a StorageError that says so.

    It must not count as missing or damaged: its owner, or another user, has it whole.
    """
    try:
        yield
    except PermissionError as error:
        raise StorageError(
            f"{error.filename or path} may not be read by this user: have its owner allow it, or "
            "choose another warehouse (--warehouse)."
        ) from error


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses inside becomes a StorageError about the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written to ({one_line(error)}): {remedy_of(error)}."
        ) from error
