"""The model as MLflow serves it. This file is copied into every registered version.

It stands alone: beside the libraries that a version declares it needs only what travels with it,
a checkpoint directory and a copy of the package that made it. That copy is imported under a name
made from the digest of its sources, so that two versions with different code live in one process
and each runs its own.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

INPUT_COLUMN = "text"
PREDICTION_COLUMN = "prediction"
CANDIDATES_COLUMN = "candidates"


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

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One row for each input row: the best text, and all candidates with their scores.

        An empty cell counts as an empty text. A parameter that is None keeps its default.
        """
        texts = [str(text) for text in model_input[INPUT_COLUMN].astype(object).fillna("")]
        chosen = {name: value for name, value in (params or {}).items() if value is not None}
        answers = self._predictor.predict(texts, **chosen) if texts else []
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
