"""The catalogue of runs: the deployments of prefect.yaml, and what a person changes of one.

``prefect.yaml`` is the only place where a run is written down; a worker runs it from Prefect's
server, ``tidemill retrain NAME`` in its own process, from the same parameters. Prefect drops a key
that it does not know and pydantic one that a settings class does not have, both without a word.
Here each is refused, with the valid ones, before any work.
"""

import copy
import dataclasses
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InputError

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

SAMPLES = Path(__file__).parent / "sample"
DEFAULT_WAREHOUSE = ".warehouse"
MODEL_NAME = re.compile(r"\w[\w.-]{0,99}")
"""What the registry, the tables and a file system all take as the name of a model."""

ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
MANY = {
    int: "a list of whole numbers, such as [1, 2]",
    float: "a list of numbers, such as [0.1, 0.2]",
    str: 'a list of texts, such as ["a", "b"]',
}
"""The types of settings in a person's words: one value, and a list."""


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
            known = ", ".join(self.deployments)
            raise InputError(f"{self.path.name} has no deployment {name!r}: choose from {known}")
        return self.deployments[name]

    def parameters_of(self, name: str) -> dict[str, Any]:
        """The parameters of a deployment, free to change."""
        return copy.deepcopy(dict(self.deployment(name).parameters))


def catalogue(path: str | Path | None = None) -> Catalogue:
    """Read a catalogue; by default the one that was packaged, else the repository's.

    Raises InputError where the file cannot be read, or holds a key that Prefect would drop.
    """
    packaged = Path(__file__).parent / FILE
    found = Path(path) if path else packaged if packaged.exists() else packaged.parent.parent / FILE
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
        valid = ", ".join(sorted(KEYS[kind]))
        raise InputError(f"{place} has the unknown key {unknown[0]!r}: Prefect knows {valid}")


def warehouse_root(warehouse: str | None = None) -> Path:
    """Where everything is kept: the argument, else TIDEMILL_WAREHOUSE, else ``.warehouse`` here.

    The one place that reads the variable. Raises InputError for an address that is not a folder of
    this machine.
    """
    address = warehouse or os.environ.get("TIDEMILL_WAREHOUSE") or DEFAULT_WAREHOUSE
    if "://" in address:
        raise InputError(f"the warehouse {address} is no local folder: give a path")
    return Path(address).expanduser().absolute()


def tracking_uri() -> str | None:
    """The MLflow server of MLFLOW_TRACKING_URI that keeps the registry, None for the warehouse.

    An address that is no server's counts as none: MLflow itself writes the database in use there.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if address.startswith(("http://", "https://")) else None


def source_addresses(sources: Sequence[str]) -> list[str]:
    """The sources with ``sample:NAME`` replaced by the path of the packaged file of that name.

    Raises InputError for an unknown sample, listing the known ones.
    """
    samples = {path.name.partition(".")[0]: path for path in sorted(SAMPLES.glob("*.jsonl*"))}
    addresses = []
    for source in sources:
        scheme, _, name = source.partition(":")
        if scheme != "sample":
            addresses.append(source)
        elif name in samples:
            addresses.append(str(samples[name]))
        else:
            known = ", ".join(f"sample:{known}" for known in samples)
            raise InputError(f"there is no {source}: choose from {known}")
    return addresses


def setting(text: str) -> tuple[str, Any]:
    """``training.num_epochs=5`` as a dotted key and a value: JSON where it is JSON, else the text.

    A list may leave quotes out: ``variants=[lstm, gru-2]``. Raises InputError where
    there is no ``=``.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(f"the setting {text!r} has no value: write it as training.num_epochs=5")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        pass
    if value.strip().startswith(("[", "{")):
        try:
            return key.strip(), yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"the setting {text!r} is neither JSON nor a YAML list") from error
    return key.strip(), value


def apply_overrides(
    parameters: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
    signature: inspect.Signature,
) -> dict[str, Any]:
    """``parameters`` of the function with ``signature``, some nested settings changed.

    ``overrides`` has dotted keys: ``{"training.num_epochs": 5}`` changes one setting and keeps its
    neighbours, those of the parameter's default where ``parameters`` says nothing. The result holds
    plain values; ``checked`` turns them into settings.

    Raises InputError for a key that is no setting, listing the valid ones of its level.
    """
    changed = dict(parameters)
    for dotted, value in (overrides or {}).items():
        name, *path = dotted.split(".")
        parameter = _parameter(signature, name, dotted)
        if not path:
            changed[name] = value
            continue
        current = changed.get(name, parameter.default)
        settings = {} if current in (inspect.Parameter.empty, None) else _plain(current)
        changed[name] = _with(settings, parameter.annotation, path, value, dotted)
    return changed


def checked(parameters: Mapping[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    """``parameters`` as the typed arguments of the function with ``signature``, defaults included.

    Settings may be given as mappings or as they are. Raises InputError, in one sentence that names
    the setting, for an unknown or missing parameter, an unknown key at any depth, a value that
    its settings class refuses, and a ``name`` that no model can have.
    """
    for name in parameters:
        _parameter(signature, name, name)
    arguments = {}
    for name, parameter in signature.parameters.items():
        if name in parameters:
            _refuse_unknown_settings(parameters[name], parameter.annotation, name)
            arguments[name] = _typed(parameters[name], parameter.annotation, name)
        elif parameter.default is not inspect.Parameter.empty:
            arguments[name] = parameter.default
        else:
            raise InputError(f"the parameter {name} is missing")
    model = arguments.get("name")
    if isinstance(model, str) and not (MODEL_NAME.fullmatch(model) and len(model.encode()) <= 200):
        raise InputError(
            f"name is {model!r:.120}: the name of a model has up to 100 letters, digits, '_', '-' "
            "and '.', and begins with a letter, a digit or '_'"
        )
    return arguments


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function or flow, its annotations as types."""
    return inspect.signature(getattr(function, "fn", function), eval_str=True)


def _parameter(signature: inspect.Signature, name: str, dotted: str) -> inspect.Parameter:
    if name not in signature.parameters:
        raise InputError(_no_setting(dotted, name, signature.parameters))
    return signature.parameters[name]


def _no_setting(dotted: str, key: str, valid: Iterable[str]) -> str:
    return f"there is no setting {dotted}: {key!r} is not one of {', '.join(sorted(valid))}"


def _with(
    settings: dict[str, Any], hint: Any, path: list[str], value: Any, dotted: str
) -> dict[str, Any]:
    key, *deeper = path
    fields = _fields(hint, settings)
    if fields is None:
        if deeper or not _is_mapping(hint):
            parent = dotted.removesuffix("." + ".".join(path))
            raise InputError(f"there is no setting {dotted}: {parent} has no settings of its own")
        return {**settings, key: value}
    if key not in fields:
        raise InputError(_no_setting(dotted, key, fields))
    if deeper:
        current = settings.get(key)
        nested = {} if current is None else _plain(current)
        value = _with(
            nested if isinstance(nested, dict) else {}, fields[key], deeper, value, dotted
        )
    return {**settings, key: value}


def _refuse_unknown_settings(value: Any, hint: Any, place: str) -> None:
    if not isinstance(value, Mapping):
        return
    fields = _fields(hint, value)
    for key, inner in value.items() if fields is not None else ():
        assert fields is not None
        if key not in fields:
            raise InputError(_no_setting(f"{place}.{key}", str(key), fields))
        _refuse_unknown_settings(inner, fields[key], f"{place}.{key}")


def _typed(value: Any, hint: Any, place: str) -> Any:
    member = _member(hint, value) if isinstance(value, Mapping) else None
    if hint is inspect.Parameter.empty:
        return value
    try:
        return TypeAdapter(member or hint).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "value_error":
            raise InputError(first["msg"].removeprefix("Value error, ")) from error
        raise InputError(_wrong_type(value, hint, place, first["loc"])) from error


def _wrong_type(value: Any, hint: Any, place: str, path: Iterable[int | str]) -> str:
    """A sentence on what lies at ``path`` below a setting, and what its innermost name stands for.

    An item of a list has no name of its own: the sentence is about the list.
    """
    for key in path:
        fields = _fields(hint, value) if isinstance(value, Mapping) else None
        if fields is None or key not in fields or key not in value:
            break
        value, hint, place = value[key], fields[str(key)], f"{place}.{key}"
    given = "null" if value is None else f"{value!r:.80}"
    return f"{place} is {given}: it must be {_in_words(hint)}"


def _in_words(hint: Any) -> str:
    """What a setting of a type can be, for people who write JSON or YAML."""
    classes = [each for each in _alternatives(hint) if dataclasses.is_dataclass(each)]
    if len(classes) > 1:
        return f"a mapping whose name is one of {', '.join(sorted(map(_tag, classes)))}"
    if classes:
        names = sorted(each.name for each in dataclasses.fields(classes[0]) if each.init)
        return f"a mapping with some of {', '.join(names)}"
    if type(None) in get_args(hint):
        return " or ".join([*map(_in_words, _alternatives(hint)), "null"])
    if get_origin(hint) in (list, tuple):
        return MANY[get_args(hint)[0]]
    return "a mapping of names to texts" if _is_mapping(hint) else ONE[hint]


def _plain(value: Any) -> Any:
    """Settings as mappings, deeply; anything else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _fields(hint: Any, value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the class behind a type, name to type; None where it is no settings class."""
    member = _member(hint, value)
    if member is None:
        return None
    hints = typing.get_type_hints(member, include_extras=True)
    return {each.name: hints[each.name] for each in dataclasses.fields(member) if each.init}


def _member(hint: Any, value: Mapping[str, Any]) -> Any:
    """The settings class that a type stands for; of several, the one whose ``name`` is the value's.

    None where the type is no settings class. Raises InputError for a name that none of them bears.
    """
    classes = [each for each in _alternatives(hint) if dataclasses.is_dataclass(each)]
    if len(classes) < 2:
        return classes[0] if classes else None
    by_name = {_tag(each): each for each in classes}
    name = value.get("name")
    if not isinstance(name, str) or name not in by_name:
        raise InputError(f"there is no {name!r}: give a name, one of {', '.join(sorted(by_name))}")
    return by_name[name]


def _tag(settings: Any) -> str:
    (default,) = get_args(typing.get_type_hints(settings)["name"])
    return str(default)


def _alternatives(hint: Any) -> list[Any]:
    """The types that a type allows, optional and annotated ones unwrapped."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _alternatives(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [each for part in get_args(hint) for each in _alternatives(part)]
    return [] if hint is types.NoneType or origin is Literal else [hint]


def _is_mapping(hint: Any) -> bool:
    return any((get_origin(each) or each) in (dict, Mapping) for each in _alternatives(hint))
