"""Single settings of a flow by dotted name, checked against the types of its parameters."""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InputError, choose_from, nearest

MODEL_NAME = re.compile(r"\w[\w.-]{0,99}")
"""What the registry, the tables and a file system all take as the name of a model."""

ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

MANY = {
    int: "a list of whole numbers, such as [1, 2]",
    float: "a list of numbers, such as [0.1, 0.2]",
    str: 'a list of texts, such as ["a", "b"]',
}
"""The types of settings in a person's words: one value, and a list."""


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
        raise InputError(_no_setting(dotted, name, signature.parameters, _settings_of(signature)))
    return signature.parameters[name]


def _settings_of(signature: inspect.Signature) -> list[str]:
    """Every setting below the parameters of a signature, by its dotted name."""
    found = []
    for name, parameter in signature.parameters.items():
        for settings in _alternatives(parameter.annotation):
            if dataclasses.is_dataclass(settings):
                found += [
                    f"{name}.{each.name}" for each in dataclasses.fields(settings) if each.init
                ]
    return list(dict.fromkeys(found))


def _no_setting(dotted: str, key: str, valid: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """The message about an unknown setting.

    Args:
        dotted: The whole setting.
        key: Its part that is unknown.
        valid: The keys that its level has.
        elsewhere: The dotted settings of all levels, among which the key may be found.
    """
    known, last = sorted(valid), dotted.rpartition(".")[2]
    moved = [each for each in elsewhere if each.rpartition(".")[2] == last]
    parts = dotted.split(".")
    beside = {".".join([*parts[: parts.index(key)], each]) for each in known}
    near = " or ".join(moved) or nearest(dotted, [*beside, *elsewhere])
    hint = f"did you mean {near}? " if near else ""
    return f"there is no setting {dotted}: {hint}{key!r} is not one of {', '.join(known)}"


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
    wanted = f"{place} is {given}: it must be {_in_words(hint)}"
    if hint is str and isinstance(value, bool | int | float):
        return f"{wanted}: write it in double quotes, in a shell as {place}='\"...\"'"
    return wanted


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
        choices = choose_from(str(name), sorted(by_name))
        raise InputError(f"there is no {name!r}: give a name, {choices}")
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
