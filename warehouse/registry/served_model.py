"""The model as MLflow serves it. This file is copied into every registered version.

It stands alone: beside the libraries that a version declares it needs only what travels with it,
a checkpoint directory and a copy of the package that made it. That copy is imported under a name
made from the digest of its sources, so that two versions with different code live in one process
and each runs its own.
"""

import functools
import hashlib
import importlib
import importlib.util
import json
import logging
import reprlib
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

INPUT_COLUMN = "text"
PREDICTION_COLUMN = "prediction"
CANDIDATES_COLUMN = "candidates"

_logger = logging.getLogger(__name__)
_patching = threading.Lock()
_KINDS = {bool: "a boolean", bytes: "bytes", tuple: "a list", list: "a list", dict: "an object"}


class RefusedError(MlflowException):
    """A request that the model cannot answer; the message is one sentence, for anybody to read.

    MLflow's server answers with status 400 and this sentence alone, without a copy of the request,
    a stack trace or a path.
    """

    def __init__(self, sentence: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(sentence, error_code)
        self._sentence = sentence

    def serialize_as_json(self) -> str:
        """What MLflow's server answers."""
        return json.dumps({"error_code": self.error_code, "message": self._sentence})


class ServedModel(PythonModel):
    """Texts in, predictions out, by the code and the weights of one version."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint and start the predictor, on the device that the model config names.

        A first prediction is made and thrown away, so that no request waits for dictionaries.
        """
        settings = context.model_config or {}
        checkpoint = Path(context.artifacts["checkpoint"])
        package = import_under_own_name(Path(context.artifacts["pipeline"]))
        prediction = importlib.import_module(f"{package.__name__}.prediction")
        self._predictor = prediction.load_predictor(
            json.loads((checkpoint / "config.json").read_text(encoding="utf-8")),
            load_file(checkpoint / "weights.safetensors"),
            {
                path.stem: path.read_text(encoding="utf-8")
                for path in sorted(checkpoint.glob("*.json"))
                if path.stem not in ("config", "history")
            },
            str(settings.get("device", "cpu")),
        )
        self._predictor.predict([self._predictor.example])
        _let_models_check_parameters()

    def checked_parameters(self, params: Any) -> dict[str, Any]:
        """The parameters of a request with the types that the model declares.

        A parameter that is None keeps its default, and is left out.

        Raises:
            RefusedError: for an unknown parameter, or a value that it cannot have.
        """
        if params is None:
            return {}
        if not isinstance(params, Mapping):
            raise RefusedError(
                f"the parameters are {_described(params)}: give an object of names and values"
            )
        try:
            checked: dict[str, Any] = self._predictor.checked_parameters(params)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        return checked

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One row for each input text: the best text, and all candidates with their scores.

        Args:
            model_input: a frame with the column ``text``; also a dict of columns, a list of
                records, or a text, list, array or series of texts. A missing value counts as an
                empty text. (MLflow asks for a type here that it knows.)
            params: numbers by name; None keeps a default.

        Raises:
            RefusedError: for any other input or parameter, in one sentence.
        """
        chosen = self.checked_parameters(params)
        texts = texts_of(model_input)
        try:
            answers = self._predictor.predict(texts, **chosen) if texts else []
        except ValueError as error:
            raise RefusedError(str(error)) from error
        except Exception as error:
            # The log of the program gets the whole; who asked over the network, no path of it.
            _logger.exception("the model failed")
            sentence = f"the model failed ({type(error).__name__}): see the log of the program"
            raise RefusedError(sentence, INTERNAL_ERROR) from error
        return pd.DataFrame(
            {
                PREDICTION_COLUMN: [answer[0].text if answer else "" for answer in answers],
                CANDIDATES_COLUMN: [
                    [{"text": one.text, "score": float(one.score)} for one in answer]
                    for answer in answers
                ],
            }
        )

    def session(self) -> Any:
        """A text as somebody types it: words go in, the likeliest next ones come out.

        For programs in the same process: ``mlflow.pyfunc.load_model("models:/NAME@champion")
        .unwrap_python_model().session()``, then ``feed``, ``suggest``, ``undo`` and ``reset``.
        Raises ValueError where the model predicts no next word.
        """
        return self._predictor.session()


def texts_of(model_input: Any) -> list[str]:
    """The texts of a request, one for each row, whatever its form.

    Raises:
        RefusedError: for anything that is no text.
    """
    model_input = _unwrapped(model_input)
    if isinstance(model_input, pd.DataFrame):
        if not len(model_input):
            return []
        return _texts_of_columns({name: model_input[name] for name in model_input.columns})
    if isinstance(model_input, Mapping):
        return _texts_of_columns(model_input)
    if isinstance(model_input, str):
        return [_text_of(model_input, 1)]
    if isinstance(model_input, pd.Series | np.ndarray | list | tuple):
        return [
            _text_of(_cell_of(one, row) if isinstance(one, Mapping) else one, row)
            for row, one in enumerate(_rows_of(model_input), 1)
        ]
    raise RefusedError(
        f"the input is {_described(model_input)}: give a text, a list of texts or a table with "
        f"the column {INPUT_COLUMN!r}"
    )


def _texts_of_columns(columns: Mapping[Any, Any]) -> list[str]:
    if INPUT_COLUMN not in columns:
        given = ", ".join(map(reprlib.repr, columns)) or "none"
        raise RefusedError(
            f"the model reads the column {INPUT_COLUMN!r}: the columns of the input are {given}"
        )
    column = _unwrapped(columns[INPUT_COLUMN])
    if isinstance(column, pd.DataFrame):
        raise RefusedError(f"the input has {column.shape[1]} columns {INPUT_COLUMN!r}: give one")
    if isinstance(column, pd.Series | np.ndarray | list | tuple):
        return [_text_of(one, row) for row, one in enumerate(_rows_of(column), 1)]
    return [_text_of(column, 1)]


def _rows_of(values: Any) -> Any:
    if isinstance(values, np.ndarray) and values.ndim > 1:
        raise RefusedError(f"the array has {values.ndim} dimensions: give one text a row")
    return values if isinstance(values, list | tuple) else values.tolist()


def _unwrapped(value: Any) -> Any:
    """The value of an array without dimensions, which MLflow's server makes of a single value."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _cell_of(record: Mapping[Any, Any], row: int) -> Any:
    if INPUT_COLUMN not in record:
        given = ", ".join(map(reprlib.repr, record)) or "none"
        raise RefusedError(
            f"the model reads the column {INPUT_COLUMN!r}: the columns of row {row} are {given}"
        )
    return record[INPUT_COLUMN]


def _text_of(cell: Any, row: int) -> str:
    """The text of a cell; empty where a table has no value."""
    cell = _unwrapped(cell)
    if isinstance(cell, str):
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            raise RefusedError(
                f"row {row} has half of a surrogate pair as character {error.start + 1}, which is "
                "no text: correct it"
            ) from error
        return str(cell)
    missing = cell is None or cell is pd.NA or cell is pd.NaT
    if missing or (isinstance(cell, float | np.floating) and np.isnan(cell)):
        return ""
    raise RefusedError(f"row {row} is {_described(cell)}: give a text")


def _described(value: Any) -> str:
    """A value as a message names it: what it is, and how it begins."""
    if value is None:
        return "null"
    kind = _KINDS.get(type(value))
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        kind = "a number"
    shown = reprlib.repr(value)
    return f"{kind or f'of type {type(value).__name__}'}, {' '.join(shown.split())}"


def _let_models_check_parameters() -> None:
    """Show models of this kind the parameters of a request before MLflow changes them.

    MLflow ignores a parameter that a model does not declare, and answers others with a stack
    trace. Models of any other kind are called as before.
    """
    with _patching:
        plain = PyFuncModel.predict
        if hasattr(plain, "lets_models_check"):
            return

        @functools.wraps(plain)
        def predict(self: PyFuncModel, data: Any, params: Any = None) -> Any:
            model = getattr(getattr(self, "_model_impl", None), "python_model", None)
            check = getattr(model, "checked_parameters", None)
            return plain(self, data, params=params if check is None else check(params))

        predict.lets_models_check = True  # type: ignore[attr-defined]
        PyFuncModel.predict = predict  # type: ignore[method-assign]


def source_digest(package: Path) -> str:
    """64 hexadecimal digits over the names and bytes of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def import_under_own_name(package: Path) -> ModuleType:
    """Import the package in a directory under a name that only this source text has.

    The package's modules must import each other relatively. No bytecode is written beside them:
    a registered version stays as it was registered.
    """
    name = f"tidemill_pipeline_{source_digest(package)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        importlib.import_module(f"{name}.prediction")
    except BaseException:
        for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise
    finally:
        sys.dont_write_bytecode = written
    return module


# MLflow keeps the model in a global of its own; nothing may run between this line and its reading.
set_model(ServedModel())
