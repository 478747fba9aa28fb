"""Cache keys: the content of a task's inputs, its settings and its code.

The key of a task is its name, its inputs in one canonical form, and the first-party code that it
reaches (``flows.steps.code_digest``). Paths, the device and the number of threads are in no key.
A key that cannot be computed fails the task, where Prefect would log it and never cache again.
"""

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.serializers import JSONSerializer
from pydantic import BaseModel

from flows.steps.code_digest import code_digest

KEY_VERSION = 1
"""This module decides keys, not results."""

ALWAYS_EXCLUDED = frozenset({"root", "warehouse", "device", "num_threads", "num_workers", "report"})
"""Inputs that say where or how fast, never what."""

SERIALIZER: JSONSerializer[Any] = JSONSerializer(
    object_encoder="pydantic_core.to_jsonable_python", object_decoder=None
)


def canonical(value: object, name: str = "value") -> Any:
    """``value`` as plain JSON, equal for equal content in every process.

    Accepted: None, booleans, whole and finite decimal numbers, strings, enums (as their values),
    lists, tuples, sets, mappings with string keys, dataclasses and pydantic models of these, and
    anything with a ``cache_digest() -> str``, which then stands for the whole. Every kind is
    tagged, so that a mapping never equals a dataclass, nor a string a number.

    Raises TypeError naming the part (``name`` and the path below it) for anything else: a Path, a
    table, an array or a tensor says nothing about its content.
    """
    if isinstance(value, enum.Enum):
        return canonical(value.value, name)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{name} is {value}, which no cache key can hold; give a finite number")
        return float(value)
    if not isinstance(value, type) and callable(getattr(value, "cache_digest", None)):
        return ["digest", value.cache_digest()]  # type: ignore[attr-defined]
    if isinstance(value, BaseModel):
        return _canonical_fields(value, type(value).model_fields, name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_fields(value, [each.name for each in dataclasses.fields(value)], name)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name} has keys that are no strings, which no cache key can hold")
        members = {key: canonical(each, f"{name}[{key!r}]") for key, each in value.items()}
        return ["mapping", members]
    if isinstance(value, list | tuple):
        return ["list", *(canonical(each, f"{name}[{i}]") for i, each in enumerate(value))]
    if isinstance(value, set | frozenset):
        return ["set", *sorted(json.dumps(canonical(each, name), sort_keys=True) for each in value)]
    raise TypeError(
        f"{name} is a {type(value).__qualname__}, which no cache key can hold; pass plain values, "
        "a settings dataclass or a handle with cache_digest()"
    )


def _canonical_fields(value: object, fields: Iterable[str], name: str) -> list[Any]:
    members = {each: canonical(getattr(value, each), f"{name}.{each}") for each in fields}
    return ["fields", type(value).__qualname__, members]


def classes_of(value: object) -> Iterator[type]:
    """The classes of everything in ``value``, at any depth: their methods may run in a task."""
    members: Iterable[object] = ()
    if isinstance(value, BaseModel):
        members = (getattr(value, name) for name in type(value).model_fields)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = (getattr(value, each.name) for each in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        members = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        members = value
    for each in members:
        yield from classes_of(each)
    if type(value).__module__ != "builtins":
        yield type(value)


@dataclass
class ContentPolicy(CachePolicy):
    """Keys a task by its name, the content of its inputs and the code that it reaches.

    ``fn`` is the task's function; ``exclude`` names inputs, beside ALWAYS_EXCLUDED, that cannot
    change the result.
    """

    fn: Callable[..., Any] | None = None
    exclude: frozenset[str] = frozenset()

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The key, or None where there is none: then the task's own function says why and fails."""
        try:
            return self.key(inputs)
        except Exception:
            return None

    def key(self, inputs: Mapping[str, Any]) -> str:
        """``<task name>/<32 hex digits>``, the address of the record below the result storage.

        Raises TypeError or LookupError where inputs or code have no canonical form.
        """
        assert self.fn is not None
        ignored = ALWAYS_EXCLUDED | self.exclude
        counted = {name: value for name, value in inputs.items() if name not in ignored}
        content = {
            "inputs": {name: canonical(value, name) for name, value in counted.items()},
            "code": code_digest(self.fn, set(classes_of(counted))),
        }
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return f"{self.fn.__name__}/{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def cached_task(*, exclude: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """A Prefect task whose result is kept as JSON under the key of ``ContentPolicy``.

    Its function is a top-level function of a module of flows/, called with plain values, settings
    and handles; it returns pydantic models, or lists or mappings of them. Run it through
    ``Steps.run``.
    """

    def decorate(fn: Callable[..., Any]) -> Task[..., Any]:
        signature = inspect.signature(fn)
        policy = ContentPolicy(fn=fn, exclude=frozenset(exclude))
        unknown = policy.exclude - set(signature.parameters)
        assert not unknown, f"{fn.__name__} excludes inputs that it has not: {sorted(unknown)}"

        @functools.wraps(fn)
        def keyed(*args: Any, **kwargs: Any) -> Any:
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            policy.key(call.arguments)
            return SERIALIZER.loads(SERIALIZER.dumps(fn(*args, **kwargs)))

        return task(
            name=fn.__name__,
            cache_policy=policy,
            persist_result=True,
            result_serializer=SERIALIZER,
            cache_result_in_memory=False,
        )(keyed)

    return decorate
