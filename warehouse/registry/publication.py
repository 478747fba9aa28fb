"""What makes one version of a registered model: its facts, its checks, and what travels with it.

Nothing here knows MLflow but by the forms that it asks for.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, field_validator

from warehouse.errors import StorageError

_TYPES = {"string": str, "boolean": bool, "integer": int, "long": int, "double": float}
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_NAME = re.compile(r"(?!\.\.|\.$)[^/:\s\x00-\x1f\x7f][^/:\x00-\x1f\x7f]{0,200}")
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
    `requirements` names the packages that this version needs beside those that every version
    needs. `started_ms` is when the training began (milliseconds since 1970).
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
                f"a model cannot be named {self.name!r}; use up to 200 characters, leave out "
                "slashes, colons and control characters, and do not begin with a blank or two dots."
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
