"""A version in memory: its weights and its code are checked, and texts go through it."""

import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from warehouse.checkpoints import checkpoint_digest, read_checkpoint
from warehouse.errors import StorageError
from warehouse.registry.complaints import one_line
from warehouse.registry.mlflow_store import artifact_uri, mlflow_globals
from warehouse.registry.served_model import INPUT_COLUMN, source_digest
from warehouse.registry.versions import VersionInfo, label


class LoadedModel:
    """A version in memory, ready to predict."""

    def __init__(self, info: VersionInfo, model: PyFuncModel) -> None:
        self.info = info
        self._model = model

    @property
    def parameters(self) -> dict[str, tuple[str, Any]]:
        """What predict takes beside texts: name -> (type, default)."""
        schema = self._model.metadata.signature.params
        return {spec.name: (spec.dtype.name, spec.default) for spec in schema or ()}

    def predict(
        self,
        texts: Sequence[str] | pd.DataFrame,
        params: Mapping[str, str | bool | int | float | None] | None = None,
    ) -> pd.DataFrame:
        """One row for each text: `prediction` and `candidates`, a list of {"text", "score"}.

        A frame must have the column `text`. Raises StorageError when it has not, and when a
        parameter is unknown or of the wrong type.
        """
        # Versions of earlier releases read frames alone.
        listed = isinstance(texts, list | tuple)
        frame = pd.DataFrame({INPUT_COLUMN: texts}, dtype="object") if listed else texts
        try:
            answer = self._model.predict(frame, params=dict(params or {}))
        except MlflowException as error:
            raise StorageError(one_line(error.message)) from error
        except ValueError as error:
            # So do their errors come as they are.
            raise StorageError(one_line(str(error))) from error
        assert isinstance(answer, pd.DataFrame)
        return answer


def load_pyfunc(directory: Path, device: str) -> PyFuncModel:
    """The pyfunc model in a directory."""
    config = {"device": device}
    if "%" not in str(directory):
        with mlflow_globals, without_bytecode():
            found: PyFuncModel = mlflow.pyfunc.load_model(
                artifact_uri(directory), model_config=config
            )
            return found
    # MLflow decodes the path of the directory, which is not encoded: load a copy elsewhere.
    copy = tempfile.mkdtemp(prefix="tidemill-")
    try:
        shutil.copytree(directory, copy, dirs_exist_ok=True)
        model = load_pyfunc(Path(copy), device)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    # It may import more of its code as long as it lives.
    weakref.finalize(model, shutil.rmtree, copy, ignore_errors=True)
    return model


def check_package(directory: Path, info: VersionInfo, seals: Sequence[Mapping[str, str]]) -> None:
    """Refuse a package whose weights or code are not those that were published.

    Args:
        seals: tags that say what was published; one of them must agree.

    Raises:
        StorageError: where none does.
    """
    artifacts = directory / "artifacts"
    content = read_checkpoint(artifacts / "checkpoint")
    weights = checkpoint_digest(content.config, content.weights, content.vocabularies)
    code = source_digest(artifacts / "pipeline")
    for what, found, key in (("weights", weights, "checkpoint"), ("code", code, "code")):
        if not any(seal.get(key) == found for seal in seals):
            raise StorageError(
                f"the {what} of {label(info)} in {directory} are not those that were published; "
                "promote another version and publish this one again."
            )


@contextmanager
def without_bytecode() -> Iterator[None]:
    """Import without leaving ``__pycache__`` behind: a version stays as it was registered."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
