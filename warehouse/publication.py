"""What makes one version of a registered model: its facts, its checks, and what travels with it.

Nothing here knows MLflow but by the forms that it asks for.
"""

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, field_validator

from warehouse.checkpoints import checkpoint_digest, read_checkpoint
from warehouse.errors import StorageError

# What a served version imports. Versions are pinned to those that the model was made with.
REQUIREMENTS = ("mlflow-skinny", "torch", "numpy", "pandas", "jieba", "safetensors")
_TYPES = {"string": str, "boolean": bool, "integer": int, "long": int, "double": float}
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_NAME = re.compile(r"[^/:\s][^/:]{0,200}")
_VARIANT = re.compile(r"(?!v\d+$|latest$|champion$|previous_champion$)[a-z0-9_-]{1,100}")
_UNFIT_KEY_CHARACTERS = re.compile(r"[^\w\-. :/]")
_LONGEST_PARAM = 6000


class DatasetInfo(BaseModel, frozen=True):
    """A dataset that a model was trained or scored on: who it is, and what a person asks of it."""

    name: str
    digest: str
    context: Literal["train", "valid", "test"]
    profile: dict[str, str | int | float] = {}
    uri: str = ""


class Publication(BaseModel, frozen=True):
    """Everything that makes one version.

    `key` names what is published: a second publication with the same key changes nothing.
    `description` follows the headline on the version's page (markdown). `history` holds one entry
    an epoch: {"epoch", "step", "timestamp_ms", "metrics": {"train/loss": ...}}. `scores` are final:
    those under valid/ and test/ belong to the dataset of that context. `parameters` are what
    predict takes: name -> (type, default), the type one of string, boolean, integer, double.
    `ranked_by` names the score that orders the leaderboard; the first test score if empty.
    `code` is the directory of the package that travels with the version; the importable package
    `pipeline` if empty; `requirements` names the packages that this version needs beside those that
    every version needs. `started_ms` is when the training began (milliseconds since 1970).
    """

    name: str
    key: str
    variant: str
    problem: str
    headline: str
    description: str = ""
    checkpoint: str
    checkpoint_digest: str
    params: dict[str, str | bool | int | float] = {}
    history: list[dict[str, Any]] = []
    scores: dict[str, float] = {}
    datasets: list[DatasetInfo] = []
    samples: list[dict[str, str]] = []
    tables: dict[str, list[dict[str, str]]] = {}
    tags: dict[str, str] = {}
    examples: list[str]
    parameters: dict[str, tuple[str, str | bool | int | float | None]] = {}
    retraining: str = ""
    ranked_by: str = ""
    greater_is_better: bool = True
    code: str = ""
    requirements: tuple[str, ...] = ()
    started_ms: int | None = None

    @field_validator("parameters", mode="before")
    @classmethod
    def _name_types(cls, parameters: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[str, Any]]:
        names = {str: "string", bool: "boolean", int: "integer", float: "double"}
        return {
            name: (names.get(kind, kind), default) for name, (kind, default) in parameters.items()
        }

    def check(self) -> None:
        """Refuse what MLflow, or the pages, could not show.

        Raises:
            StorageError: with the remedy.
        """
        if not _NAME.fullmatch(self.name):
            raise StorageError(
                f"a model cannot be named {self.name!r}; leave out slashes and colons."
            )
        if not _KEY.fullmatch(self.key):
            raise StorageError(
                f"the key {self.key!r} cannot be used; "
                "use letters, digits, dot, dash and underscore."
            )
        if not _VARIANT.fullmatch(self.variant):
            raise StorageError(
                f"the variant {self.variant!r} cannot be an alias; use lower case letters, "
                "digits, dash and underscore, and not latest, champion or v1."
            )
        if not self.examples:
            raise StorageError("a version needs at least one example; give a text to predict from.")
        for name, (kind, _) in self.parameters.items():
            if kind not in _TYPES:
                raise StorageError(
                    f"the parameter {name!r} has the type {kind!r}; use one of {', '.join(_TYPES)}."
                )
        if self.ranked_by and self.ranked_by not in self.scores:
            raise StorageError(
                f"there is no score {self.ranked_by!r} to rank by; "
                f"there are {', '.join(self.scores) or 'none'}."
            )

    @property
    def note(self) -> str:
        """What the run's page says: headline and description."""
        return f"{self.headline}\n\n{self.description}".strip()

    @property
    def scores_digest(self) -> str:
        """Names everything that a new evaluation may change."""
        shown = json.dumps([self.scores, self.samples, self.tables, self.note])
        return hashlib.sha256(shown.encode()).hexdigest()[:32]

    @property
    def first_timestamp(self) -> int | None:
        """When the work began, milliseconds since 1970."""
        times = [int(entry["timestamp_ms"]) for entry in self.history]
        if self.started_ms is not None:
            times.append(self.started_ms)
        return min(times, default=None)

    @property
    def last_timestamp(self) -> int | None:
        """When the last epoch was done, milliseconds since 1970."""
        return max((int(entry["timestamp_ms"]) for entry in self.history), default=None)


def package_directory(publication: Publication) -> Path:
    """Where the package lies that travels with a version."""
    if publication.code:
        return Path(publication.code)
    spec = importlib.util.find_spec("pipeline")
    if spec is None or not spec.submodule_search_locations:
        raise StorageError("the package 'pipeline' is not installed; name its directory in `code`.")
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
    source = package_directory(publication)
    package = staging / "pipeline"
    for path in sorted(source.rglob("*.py")):
        target = package / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if not (package / "prediction.py").is_file():
        raise StorageError(
            f"the package {source} has no module prediction; give the directory of `pipeline`."
        )
    shutil.copyfile(Path(__file__).with_name("served_model.py"), staging / "served_model.py")
    return package


def leaderboard_view(publication: Publication) -> str:
    """A saved view of the table of runs: scores as columns, the best on top.

    MLflow keeps shared views as experiment tags in this form; it does not document it.
    """
    scores = sorted(publication.scores, key=lambda name: (group_of(name) != "test", name))
    ranked_by = publication.ranked_by or next(iter(scores), "")
    names = [ranked_by, *(name for name in scores if name != ranked_by)] if scores else []
    metrics = [f"metrics.`{fit_key(name)}`" for name in names]
    # `1` is the check box, `runDateAndNestInfo` the column Created.
    facts = ["1", "attributes.`Run Name`", "runDateAndNestInfo", "duration", "attributes.`Models`"]
    tags = ["tags.`version`", "tags.`champion`"]
    state = {
        "searchFilter": "",
        "orderByKey": metrics[0] if metrics else "attributes.start_time",
        "orderByAsc": bool(metrics) and not publication.greater_is_better,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Models`", *tags, *metrics],
        "columnOrder": [*facts, *tags, *metrics],
        "columnWidths": {name: max(110, 7 * len(name) - 20) for name in metrics},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()


def group_of(name: str) -> str:
    """The first word of a score's name: ``test`` of ``test/bleu``."""
    return name.partition("/")[0]


def fit_key(name: str) -> str:
    """A name as MLflow takes it."""
    return _UNFIT_KEY_CHARACTERS.sub("_", name)[:250]


def fit_param(value: str | bool | int | float) -> str:
    """A value as MLflow takes it: cut where it is too long."""
    text = str(value)
    mark = " … (cut)"
    return text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - len(mark)] + mark
