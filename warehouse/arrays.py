"""Arrays that are dear to compute and can always be computed again: kept as files, mapped to read.

    arrays/<key>/<name>.npy      one file an array
    arrays/<key>/manifest.json   the digest of each file

Processes that map the same files share their memory. What is damaged or half there counts as
absent, so that whoever asks computes and keeps it anew. The age of a manifest tells when a set was
used last.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warehouse.durable import make_aside, make_folder, storage_errors, sync_path
from warehouse.errors import StorageError, one_line, remedy_of

_MANIFEST = "manifest.json"
KEY_VERSION = 1
"""Stands in cache keys for the code of this module: arrays read as they were written."""

NamedArrays = dict[str, npt.NDArray[Any]]


class Arrays:
    """Sets of named arrays below `root`, each under a key of its content's origin.

    A key, like a name, is made of letters, digits, `_` and `-`.
    """

    def __init__(self, root: str | Path) -> None:
        self._folder = Path(root) / "arrays"

    def load(self, key: str) -> NamedArrays | None:
        """The arrays under `key`, read only; None where they are absent or damaged."""
        folder = self._folder / key
        try:
            digests = json.loads((folder / _MANIFEST).read_bytes())
            files = {name: folder / f"{name}.npy" for name in digests}
            if any(_digest(path) != digests[name] for name, path in files.items()):
                return None
            with contextlib.suppress(OSError):
                os.utime(folder / _MANIFEST)
            # A plain array: indexing numpy's memmap class takes far longer.
            return {name: np.asarray(np.load(path, mmap_mode="r")) for name, path in files.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def save(self, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep arrays under `key` in place of what is there, whole or not at all.

        Raises:
            StorageError: they cannot be written.
        """
        with storage_errors(self._folder):
            make_folder(self._folder)
            aside = make_aside(self._folder)
            try:
                digests = {}
                for name, array in arrays.items():
                    path = aside / f"{name}.npy"
                    with path.open("wb") as file:
                        np.save(file, array, allow_pickle=False)
                        file.flush()
                        os.fsync(file.fileno())
                    digests[name] = _digest(path)
                with (aside / _MANIFEST).open("w") as file:
                    json.dump(digests, file, sort_keys=True)
                    file.flush()
                    os.fsync(file.fileno())
                sync_path(aside)
                self._put(aside, self._folder / key)
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> None:
        """Remove all arrays: some were made of rows that must not be kept any longer.

        Raises:
            StorageError: they cannot be removed.
        """
        if not self._folder.is_dir():
            return
        try:
            shutil.rmtree(self._folder)
        except OSError as error:
            raise StorageError(
                f"{self._folder} cannot be removed ({one_line(error)}): {remedy_of(error)}."
            ) from error

    def _put(self, aside: Path, folder: Path) -> None:
        """Name a finished folder; what was there goes, or is as good if another was faster."""
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir() or self.load(folder.name) is not None:
                return
            # Whoever has the damaged files mapped keeps them: they lose their name only.
            gone = make_aside(self._folder)
            folder.rename(gone / folder.name)
            aside.rename(folder)
            shutil.rmtree(gone, ignore_errors=True)
        sync_path(self._folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
