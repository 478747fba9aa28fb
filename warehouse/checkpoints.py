"""Checkpoints: finished models named by their content, and the state of an unfinished training.

A checkpoint is a directory `checkpoints/<digest>/` under the warehouse's root:

    config.json              what the network is, as its owner wrote it
    weights.safetensors      name -> tensor
    vocabulary.json          one file `<name>.json` for each vocabulary
    history.json             one entry an epoch; not part of the digest

A training state is what a killed training needs to go on: tensors and plain values under a key.
Everything is written aside, made durable and then renamed. Nothing is pickled.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import load_file, save_file
from torch import Tensor

from warehouse.durable import ASIDE, make_aside, permitted, sync_path
from warehouse.errors import StorageError

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
HISTORY = "history.json"
NUM_STATES_KEPT = 2
KEY_VERSION = 1
"""Stands in cache keys for the code of this module.

Count it up where a checkpoint or a kept state reads otherwise, or gets another digest.
"""

_RESERVED = {"config", "history", "weights"}
_VOCABULARY_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class CheckpointRef(BaseModel, frozen=True):
    """A handle on a checkpoint: what it is, and where it lies below the warehouse's root."""

    digest: str
    path: str
    num_bytes: int

    def cache_digest(self) -> str:
        """The identity of the content, wherever it lies."""
        return self.digest

    def intact(self, root: str | Path) -> bool:
        """Whether the directory is there and holds as many bytes as were written.

        Raises StorageError when this user may not read it.
        """
        directory = Path(root) / self.path
        try:
            with permitted(directory):
                for name in (CONFIG, WEIGHTS, HISTORY):
                    (directory / name).open("rb").close()
                return _num_bytes(directory) == self.num_bytes
        except OSError:
            return False


@dataclass(frozen=True)
class Checkpoint:
    """A finished model as values: settings, weights, vocabularies as JSON text, and its history."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    vocabularies: dict[str, str]
    history: list[dict[str, Any]]


class Checkpoints:
    """Checkpoints and training states below `root`; the directory is made at the first write."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._checkpoints = self.root / "checkpoints"
        self._states = self.root / "states"

    def save(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        vocabularies: Mapping[str, str],
        history: Sequence[Mapping[str, Any]],
    ) -> CheckpointRef:
        """Keep a model under the digest of its config, weights and vocabularies.

        The same content is kept once: a second save returns the first one's handle and leaves its
        history as it was. Weights may live on any device; they are stored as they are on the CPU.

        Raises StorageError when the disk refuses, and when config or history is not plain JSON.
        """
        _check_vocabulary_names(vocabularies)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        digest = checkpoint_digest(config, tensors, vocabularies)
        directory = self._checkpoints / digest
        if not _is_whole(directory):
            with _writing(f"checkpoint {digest[:12]}", self._checkpoints) as aside:
                _write_text(aside / CONFIG, _pretty_json(config))
                save_file(_unshared(tensors), aside / WEIGHTS)
                for name, text in vocabularies.items():
                    _write_text(aside / f"{name}.json", text)
                _write_text(aside / HISTORY, _pretty_json(list(history)))
                _publish(aside, directory)
        return CheckpointRef(
            digest=digest,
            path=directory.relative_to(self.root).as_posix(),
            num_bytes=_num_bytes(directory),
        )

    def load(self, ref: CheckpointRef) -> Checkpoint:
        """Read a checkpoint whole, on the CPU, and check it against its digest.

        Raises StorageError when it is missing, unreadable or not what its name says.
        """
        checkpoint = read_checkpoint(self.directory(ref))
        found = checkpoint_digest(checkpoint.config, checkpoint.weights, checkpoint.vocabularies)
        if found != ref.digest:
            raise StorageError(
                f"checkpoint {self.directory(ref)} holds other content than its name says; "
                "delete the directory and run the training again."
            )
        return checkpoint

    def directory(self, ref: CheckpointRef) -> Path:
        """Where a checkpoint's files are."""
        return self.root / ref.path

    def save_state(
        self, key: str, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
    ) -> None:
        """Keep the state of a training under `key`, in place of the state before.

        `scalars` carries None, bool, int, float (also inf and nan), str, lists, tuples (which come
        back as lists) and dicts with string keys, exactly. The state before stays valid until the
        new one is durable, and is kept beside it for the day that the new one cannot be read.

        Raises StorageError when the disk refuses; the state before is then still there.
        """
        folder = self._state_folder(key)
        generation = max(self._generations(key), default=0) + 1
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with _writing(f"training state {key!r}", folder) as aside:
            save_file(_unshared(on_cpu), aside / "tensors.safetensors")
            text = _pretty_json(_checked_plain(dict(scalars), "scalars"))
            _write_text(aside / "scalars.json", text)
            sums = {name: _file_digest(aside / name) for name in _STATE_FILES}
            _write_text(aside / "sums.json", _pretty_json(sums))
            _publish(aside, folder / f"{generation:08d}")
        for old in sorted(self._generations(key))[:-NUM_STATES_KEPT]:
            shutil.rmtree(folder / f"{old:08d}", ignore_errors=True)

    def load_state(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole state under `key`, or None.

        A state that is torn, or whose bytes are not those that were written, counts as absent.
        """
        for generation in sorted(self._generations(key), reverse=True):
            state = _read_state(self._state_folder(key) / f"{generation:08d}")
            if state is not None:
                return state
        return None

    def drop_state(self, key: str) -> None:
        """Forget the training under `key`; harmless where there is none."""
        shutil.rmtree(self._state_folder(key), ignore_errors=True)

    def _state_folder(self, key: str) -> Path:
        # A key is the caller's text; its digest is a safe name on every file system.
        return self._states / hashlib.sha256(key.encode()).hexdigest()[:32]

    def _generations(self, key: str) -> list[int]:
        folder = self._state_folder(key)
        try:
            with permitted(folder):
                return [int(name) for name in os.listdir(folder) if name.isdecimal()]
        except FileNotFoundError:
            return []


def checkpoint_digest(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], vocabularies: Mapping[str, str]
) -> str:
    """The identity of a model: 64 hexadecimal digits over config, weights and vocabularies.

    The order of keys does not count; a tensor counts with its name, type, shape and bytes.
    """
    digest = hashlib.sha256()
    _feed(digest, "config", json.dumps(config, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(vocabularies):
        _feed(digest, f"vocabulary {name}", vocabularies[name].encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        _feed(digest, f"weight {name} {tensor.dtype} {tuple(tensor.shape)}", _tensor_bytes(tensor))
    return digest.hexdigest()


def read_checkpoint(directory: str | Path) -> Checkpoint:
    """Read the files of a checkpoint directory, wherever it lies.

    Raises StorageError when a file is missing or cannot be read.
    """
    directory = Path(directory)
    try:
        with permitted(directory):
            config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
            vocabularies = {
                path.stem: path.read_text(encoding="utf-8")
                for path in sorted(directory.glob("*.json"))
                if path.name not in (CONFIG, HISTORY)
            }
            # Safetensors calls a file missing that it may not read.
            (directory / WEIGHTS).open("rb").close()
            return Checkpoint(
                config=config,
                weights=load_file(directory / WEIGHTS),
                vocabularies=vocabularies,
                history=json.loads((directory / HISTORY).read_text(encoding="utf-8")),
            )
    except StorageError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(
            f"checkpoint {directory} cannot be read ({error}); run the training again."
        ) from error


_STATE_FILES = ("tensors.safetensors", "scalars.json")


def _read_state(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    try:
        with permitted(directory):
            sums = json.loads((directory / "sums.json").read_text(encoding="utf-8"))
            contents = {name: (directory / name).read_bytes() for name in _STATE_FILES}
        if any(hashlib.sha256(contents[name]).hexdigest() != sums[name] for name in _STATE_FILES):
            return None
        scalars = json.loads(contents["scalars.json"].decode())
        return tensors_from_bytes(contents["tensors.safetensors"]), scalars
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


@contextmanager
def _writing(what: str, parent: Path) -> Iterator[Path]:
    """A new directory aside in `parent`, gone at the end unless it was renamed.

    What the disk refuses becomes a StorageError about `what`.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        with _locked_directory(parent) as aside:
            try:
                yield aside
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(
            f"{what} could not be written to {parent}: {reason}; "
            "free some space or choose another warehouse, what was kept before is unharmed."
        ) from error


@contextmanager
def _locked_directory(parent: Path) -> Iterator[Path]:
    """A fresh directory that carries its writer's lock, so that a living one is never swept."""
    while True:
        aside = make_aside(parent)
        try:
            handle = os.open(aside, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if aside.is_dir():
                yield aside
                return
        finally:
            os.close(handle)


def _sweep(parent: Path) -> None:
    """Remove what writers that were killed left aside; the lock of a dead process is free."""
    for aside in parent.glob(f"{ASIDE}*"):
        try:
            handle = os.open(aside, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(aside, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)


def _publish(aside: Path, directory: Path) -> None:
    """Make the files in `aside` durable, then give them their name in one step."""
    # Safetensors keeps files to their owner; the folder has what the umask allows.
    mode = aside.stat().st_mode & 0o666
    for path in aside.iterdir():
        path.chmod(mode)
        sync_path(path)
    sync_path(aside)
    if directory.exists():
        if _is_whole(directory):
            return
        shutil.rmtree(directory)
    try:
        os.rename(aside, directory)
    except OSError:
        # Somebody else kept the same content in the meantime: theirs is as good as ours.
        if not directory.is_dir():
            raise
    sync_path(directory.parent)


def _is_whole(directory: Path) -> bool:
    """Whether a directory under a checkpoint's name still holds what it was renamed with."""
    try:
        checkpoint = read_checkpoint(directory)
    except StorageError:
        return False
    found = checkpoint_digest(checkpoint.config, checkpoint.weights, checkpoint.vocabularies)
    return found == directory.name


def _num_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())


def _check_vocabulary_names(vocabularies: Mapping[str, str]) -> None:
    for name in vocabularies:
        if name in _RESERVED or not _VOCABULARY_NAME.fullmatch(name):
            raise StorageError(
                f"a vocabulary cannot be kept under the name {name!r}; use lower case letters, "
                f"digits and underscores, and none of {', '.join(sorted(_RESERVED))}."
            )


def _checked_plain(value: Any, where: str) -> Any:
    """`value` itself if JSON gives it back as it is; StorageError naming the place otherwise."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise StorageError(f"{where} has the key {name!r}; make every key a string.")
            _checked_plain(item, f"{where}[{name!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _checked_plain(item, f"{where}[{index}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise StorageError(
            f"{where} is a {type(value).__name__}; convert it to None, bool, int, float, str, "
            "list or dict, or keep it among the tensors."
        )
    return value


def _pretty_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights as separate copies, since safetensors refuses two names for one memory."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if address in seen and tensor.numel() else tensor
        seen.add(address)
    return unshared


def _tensor_bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _feed(digest: "hashlib._Hash", label: str, content: bytes | memoryview) -> None:
    digest.update(f"{label}\n{len(content)}\n".encode())
    digest.update(content)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
