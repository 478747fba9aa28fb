"""A version of a registered model, as Tidemill speaks of it."""

from datetime import UTC, datetime

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from pydantic import BaseModel

from warehouse.errors import StorageError

CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
UNDEFINED_TAG = "undefined_scores"
"""The tag of a version that names its scores that are undefined."""


class Version(BaseModel, frozen=True):
    """A published version. `new` is False when the same key had been published before."""

    name: str
    version: int
    run_id: str
    model_id: str
    variant: str
    new: bool


class VersionInfo(BaseModel, frozen=True):
    """A row of the leaderboard: a version as the registry knows it now."""

    name: str
    version: int
    variant: str
    problem: str
    headline: str
    champion: bool
    aliases: tuple[str, ...]
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    description: str
    created: datetime
    run_id: str
    model_id: str

    @property
    def scores(self) -> dict[str, float | None]:
        """All scores by name; None for those that are undefined."""
        undefined = self.tags.get(UNDEFINED_TAG, "").split(", ")
        return {name: None for name in undefined if name} | self.metrics


def version_info(version: ModelVersion, run: Run | None, aliases: dict[str, int]) -> VersionInfo:
    """A version with what its run and its aliases say of it."""
    number = int(version.version)
    own = tuple(sorted(alias for alias, one in aliases.items() if one == number))
    description = version.description or ""
    tags = {} if run is None else dict(run.data.tags)
    tags |= version.tags
    return VersionInfo(
        name=version.name,
        version=number,
        variant=tags.get("variant", ""),
        problem=tags.get("problem", ""),
        headline=description.partition("\n")[0],
        champion=CHAMPION in own,
        aliases=own,
        metrics=dict(run.data.metrics) if run else {},
        params=dict(run.data.params) if run else {},
        tags={key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        description=description,
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        run_id=str(version.run_id),
        model_id=model_id_of(version, run),
    )


def model_id_of(version: ModelVersion, run: Run | None) -> str:
    """The id of the logged model that a version consists of; empty where nobody knows it."""
    # The version's own field for it stays empty outside of Databricks.
    source = str(version.source).removeprefix("models:/")
    if "/" not in source:
        return source
    # The source of a copied version is another version: both come from the same run.
    outputs = run.outputs.model_outputs if run and run.outputs else []
    return str(outputs[0].model_id) if outputs else ""


def nothing_published(name: str, names: list[str]) -> StorageError:
    """The error for a name under which nothing was published."""
    known = f"there are {', '.join(names)}" if names else "nothing was published yet"
    return StorageError(f"there is no registered model {name!r}; {known}.")


def label(info: VersionInfo) -> str:
    """A version, as messages name it."""
    return f"{info.name!r} version {info.version}"
