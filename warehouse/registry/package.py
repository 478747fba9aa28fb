"""What travels with a version: its checkpoint, a copy of ``pipeline``, and what both need."""

import importlib.metadata
import importlib.util
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property
from mlflow.types.schema import Schema as ModelSchema

from warehouse.checkpoints import checkpoint_digest, read_checkpoint
from warehouse.errors import StorageError
from warehouse.registry.complaints import first_line
from warehouse.registry.loaded_model import load_pyfunc, without_bytecode
from warehouse.registry.publication import Publication
from warehouse.registry.served_model import CANDIDATES_COLUMN, INPUT_COLUMN, PREDICTION_COLUMN

# What a served version imports. Versions are pinned to those that the model was made with.
REQUIREMENTS = ("mlflow-skinny", "torch", "numpy", "pandas", "jieba", "safetensors")


def package_directory() -> Path:
    """The folder of the package that travels with a version."""
    spec = importlib.util.find_spec("pipeline")
    if spec is None or not spec.submodule_search_locations:
        raise StorageError("the package 'pipeline' is not installed; install Tidemill again.")
    return Path(next(iter(spec.submodule_search_locations)))


def pinned_requirements(more: Sequence[str] = ()) -> list[str]:
    """What a served version needs, pinned to what is installed here, without local labels."""
    names = (*REQUIREMENTS, *more)
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def stage_package(publication: Publication, staging: Path) -> Path:
    """Lay out what travels with the version, under names that tell nothing of this machine."""
    checkpoint = Path(publication.checkpoint)
    content = read_checkpoint(checkpoint)
    found = checkpoint_digest(content.config, content.weights, content.vocabularies)
    if found != publication.checkpoint_digest:
        raise StorageError(
            f"checkpoint {checkpoint} does not have the digest {publication.checkpoint_digest!r} "
            "that it is published under; run the training again."
        )
    shutil.copytree(checkpoint, staging / "checkpoint")
    source = package_directory()
    package = staging / "pipeline"
    for path in sorted(source.rglob("*.py")):
        target = package / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if not (package / "prediction.py").is_file():
        raise StorageError(
            f"the package {source} has no module prediction; install Tidemill again."
        )
    shutil.copyfile(Path(__file__).with_name("served_model.py"), staging / "served_model.py")
    return package


def save_pyfunc(**settings: Any) -> None:
    """Write a model directory as MLflow packages it."""
    with warnings.catch_warnings(), without_bytecode():
        # MLflow compares frames in a way that pandas 3 calls outdated; nothing we could change.
        warnings.simplefilter("ignore", DeprecationWarning)
        mlflow.pyfunc.save_model(**settings)


def signature_of(publication: Publication) -> ModelSignature:
    """What a version takes and gives, as MLflow describes it."""
    candidate = Object([Property("text", DataType.string), Property("score", DataType.double)])
    return ModelSignature(
        # No schema of inputs: MLflow would turn whatever it is given into strings, None into "None"
        # and a list into its repr, before the model sees it.
        outputs=ModelSchema(
            [
                ColSpec(DataType.string, PREDICTION_COLUMN),
                ColSpec(Array(candidate), CANDIDATES_COLUMN),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec(name, kind, default)
                for name, (kind, default) in publication.parameters.items()
            ]
        ),
    )


def try_package(packaged: Path, publication: Publication) -> None:
    """Load the packaged model and let it answer the examples.

    Raises:
        StorageError: where it does not answer them.
    """
    try:
        model = load_pyfunc(packaged, "cpu")
        answer = model.predict(pd.DataFrame({INPUT_COLUMN: publication.examples}, dtype="object"))
    except Exception as error:
        # Whatever the travelling code raises, the version must not come to be.
        raise StorageError(
            f"the packaged {publication.variant!r} of {publication.name!r} does not predict "
            f"({type(error).__name__}: {first_line(error)}); nothing was registered."
        ) from error
    if len(answer) != len(publication.examples):
        raise StorageError(
            f"the packaged {publication.variant!r} of {publication.name!r} gave {len(answer)} "
            f"answers to {len(publication.examples)} examples; nothing was registered."
        )
