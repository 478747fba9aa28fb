"""The catalogue of runs: the deployments of prefect.yaml, and what a person changes of one.

``prefect.yaml`` is the only place where a run is written down; a worker runs it from Prefect's
server, ``tidemill retrain NAME`` in its own process, from the same parameters. Prefect drops a key
that it does not know and pydantic one that a settings class does not have, both without a word.
Here each is refused, with the valid ones, before any work.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError, NothingYetError, choose_from, nearest

FILE = "prefect.yaml"

ANCHORS = "definitions"
"""A key of the file that Prefect ignores: the home of what deployments share."""

KEYS: dict[str, frozenset[str]] = {
    "file": frozenset({"prefect-version", "name", "build", "push", "pull", "deployments", ANCHORS}),
    "deployment": frozenset(
        {
            *("name", "version", "version_type", "tags", "description", "entrypoint", "flow_name"),
            *("parameters", "enforce_parameter_schema", "schedule", "schedules", "paused"),
            *("concurrency_limit", "work_pool", "triggers", "build", "push", "pull", "sla"),
        }
    ),
    "work_pool": frozenset({"name", "work_queue_name", "job_variables"}),
    "concurrency_limit": frozenset({"limit", "collision_strategy", "grace_period_seconds"}),
    "schedule": frozenset(
        {
            *("cron", "interval", "rrule", "timezone", "anchor_date", "day_or", "active"),
            *("parameters", "slug", "replaces"),
        }
    ),
}
"""What Prefect reads of the file; every other key it drops. A test holds this to its schema."""


@dataclass(frozen=True)
class Deployment:
    """One run of the catalogue: which flow, with which parameters, when."""

    name: str
    flow: str
    description: str = ""
    tags: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    slugs: tuple[str, ...] = ()
    """The names of its schedules."""


@dataclass(frozen=True)
class Catalogue:
    """The deployments of one file, by name, in its order."""

    path: Path
    deployments: Mapping[str, Deployment]

    def deployment(self, name: str) -> Deployment:
        """Raises InputError for an unknown name, listing the known ones."""
        if name not in self.deployments:
            choices = choose_from(name, self.deployments)
            raise InputError(f"{self.path.name} has no deployment {name!r}: {choices}")
        return self.deployments[name]

    def parameters_of(self, name: str) -> dict[str, Any]:
        """The parameters of a deployment, free to change."""
        return copy.deepcopy(dict(self.deployment(name).parameters))


def catalogue(path: str | Path | None = None) -> Catalogue:
    """Read a catalogue; by default the one that was packaged, else the repository's.

    Raises InputError where the file cannot be read, or holds a key that Prefect would drop.
    """
    packaged = Path(__file__).parent / FILE
    found = Path(path) if path else packaged if packaged.exists() else packaged.parents[1] / FILE
    try:
        content = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"the catalogue {found} cannot be read ({reason}): name another with --catalogue"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        where = " ".join(str(error).split())
        raise InputError(f"the catalogue {found} is not YAML: {where}") from error
    _refuse_unknown(content, "file", f"{found}")
    deployments: dict[str, Deployment] = {}
    for entry in _listed(content, "deployments", f"{found}"):
        deployment = _deployment(entry, found)
        if deployment.name in deployments:
            raise InputError(f"{found}: two deployments have the name {deployment.name!r}")
        deployments[deployment.name] = deployment
    return Catalogue(found, deployments)


def _deployment(entry: Any, path: Path) -> Deployment:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{path}: a deployment needs a name and is a mapping; found {entry!r:.80}")
    place = f"{path}, deployment {name}"
    _refuse_unknown(entry, "deployment", place)
    for part in ("work_pool", "concurrency_limit"):
        if isinstance(entry.get(part), dict):
            _refuse_unknown(entry[part], part, f"{place}, {part}")
    schedules = _listed(entry, "schedules", place)
    for schedule in schedules:
        _refuse_unknown(schedule, "schedule", f"{place}, schedules")
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict) or not isinstance(entry.get("entrypoint"), str):
        raise InputError(f"{place}: give an entrypoint, and parameters as a mapping")
    tags, description = _listed(entry, "tags", place), entry.get("description") or ""
    slugs = [schedule["slug"] for schedule in schedules if "slug" in schedule]
    for text in (description, *tags, *slugs):
        if not isinstance(text, str):
            raise InputError(f"{place}: {text!r:.80} must be a text: write it in quotes")
    return Deployment(
        name=name,
        flow=entry["entrypoint"].replace(":", ".").rpartition(".")[2],
        description=" ".join(description.split()),
        tags=tuple(tags),
        parameters=parameters,
        slugs=tuple(slugs),
    )


def _listed(content: Mapping[str, Any], key: str, place: str) -> list[Any]:
    found = content.get(key) or []
    if not isinstance(found, list):
        raise InputError(f"{place}: {key} must be a list, not {found!r:.80}")
    return found


def _refuse_unknown(content: Any, kind: str, place: str) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{place} must be a mapping")
    unknown = [key for key in content if key not in KEYS[kind]]
    if unknown:
        choices = choose_from(str(unknown[0]), sorted(KEYS[kind]))
        raise InputError(f"{place} has the unknown key {unknown[0]!r}: {choices}")


def nothing_under(name: str, stored: Iterable[str], what: str, command: str) -> InputError:
    """The error to raise where nothing is stored under a name.

    Args:
        name: What was asked for.
        stored: The names under which something is stored.
        what: What is missing, such as ``data``.
        command: The command of ``tidemill`` that stores it.

    Returns:
        NothingYetError, which names the command. Where the name is no deployment and is close to
        another name, it is a typing error, and InputError names the other one.
    """
    deployments = catalogue().deployments
    names = list(dict.fromkeys([*stored, *deployments]))
    if name not in names and nearest(name, names):
        return InputError(f"there is no {what} of {name!r}: {choose_from(name, names)}")
    return NothingYetError(f"there is no {what} of {name!r} yet: run tidemill {command} {name}")
