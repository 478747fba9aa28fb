"""The one cache policy: a task's result is kept under the content of what made it.

The key of a task is its name, its inputs in one canonical form, and the first-party code that it
reaches (``flows.code_digest``). Where a thing lies, which device computes it and with how many
threads are in no key. Three properties that Prefect's own policies lack, and a nightly run needs:

- a key that cannot be computed fails the task, where Prefect would log it and never cache again;
- a result that names a file is good only while that file is whole (``intact``), else it is made
  anew;
- the lock of a key dies with its process, so a killed run never blocks the next one.

What a task returns is what its record gives back: the JSON round trip is made on the first run too.
"""

import dataclasses
import enum
import fcntl
import functools
import hashlib
import inspect
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.to_thread
from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.context import FlowRunContext, TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.locking.protocol import LockManager
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.transactions import IsolationLevel, transaction
from pydantic import BaseModel

from flows.code_digest import code_digest, first_party_sources

__all__ = [
    "ALWAYS_EXCLUDED",
    "ContentPolicy",
    "StepState",
    "Steps",
    "cached_task",
    "canonical",
    "code_digest",
]

ALWAYS_EXCLUDED = frozenset({"root", "warehouse", "device", "num_threads", "num_workers", "report"})
"""Inputs that say where or how fast, never what."""

logger = logging.getLogger(__name__)
_SERIALIZER: JSONSerializer[Any] = JSONSerializer()


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


@dataclass
class ContentPolicy(CachePolicy):
    """Keys a task by its name, the content of its inputs and the code that it reaches.

    ``fn`` is the task's function; ``exclude`` names inputs, beside ALWAYS_EXCLUDED, that cannot
    change the result; ``also`` gives, for the inputs of a call, the modules that one of them
    chooses.
    """

    fn: Callable[..., Any] | None = None
    exclude: frozenset[str] = frozenset()
    also: Callable[[Mapping[str, Any]], Iterable[str]] | None = None

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
        content = {
            "inputs": {
                name: canonical(value, name)
                for name, value in inputs.items()
                if name not in ignored
            },
            "code": code_digest(self.fn, self.also(inputs) if self.also else ()),
        }
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return f"{self.fn.__name__}/{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def cached_task(
    *,
    also: Callable[[Mapping[str, Any]], Iterable[str]] | None = None,
    exclude: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """A Prefect task whose result is kept as JSON under the key of ``ContentPolicy``.

    Its function is a top-level function of a module of flows/, called with plain values, settings
    and handles; it returns pydantic models, or lists or mappings of them. Run it through
    ``Steps.run``.
    """

    def decorate(fn: Callable[..., Any]) -> Task[..., Any]:
        signature = inspect.signature(fn)
        policy = ContentPolicy(fn=fn, exclude=frozenset(exclude), also=also)
        unknown = policy.exclude - set(signature.parameters)
        assert not unknown, f"{fn.__name__} excludes inputs that it has not: {sorted(unknown)}"

        @functools.wraps(fn)
        def keyed(*args: Any, **kwargs: Any) -> Any:
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            policy.key(call.arguments)
            return _SERIALIZER.loads(_SERIALIZER.dumps(fn(*args, **kwargs)))

        return task(
            name=fn.__name__,
            cache_policy=policy,
            persist_result=True,
            result_serializer="json",
            cache_result_in_memory=False,
        )(keyed)

    return decorate


class ProcessLocks(LockManager):
    """One lock file a key, locked by the kernel on behalf of the process: kill -9 frees it.

    A holder deletes its file before it lets go, so the folder holds the locks of running tasks
    only. Prefect copies and compares its policies, and with them this object: a copy is the object
    itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, tuple[str, int]] = {}
        self._guard = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProcessLocks":
        return self

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Wait for the lock of ``key``; False if ``acquire_timeout`` seconds pass first."""
        if self.is_lock_holder(key, holder):
            return True
        descriptor = self._open_locked(key, acquire_timeout)
        if descriptor is None:
            return False
        with self._guard:
            self._held[key] = (holder, descriptor)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """As ``acquire_lock``, without blocking the event loop."""
        return await anyio.to_thread.run_sync(self.acquire_lock, key, holder, acquire_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Free the lock; ValueError if ``holder`` does not hold it."""
        with self._guard:
            held_by, descriptor = self._held.get(key, ("", -1))
            if held_by != holder:
                raise ValueError(f"{holder} holds no lock for {key}")
            del self._held[key]
        self._path(key).unlink(missing_ok=True)
        os.close(descriptor)

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        descriptor = self._open_locked(key, timeout=0)
        if descriptor is None:
            return True
        self._path(key).unlink(missing_ok=True)
        os.close(descriptor)
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether ``holder``, in this process, holds the lock."""
        with self._guard:
            return self._held.get(key, ("", -1))[0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until the lock is free; False if ``timeout`` seconds pass first."""
        descriptor = self._open_locked(key, timeout)
        if descriptor is None:
            return False
        self._path(key).unlink(missing_ok=True)
        os.close(descriptor)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As ``wait_for_lock``, without blocking the event loop."""
        return await anyio.to_thread.run_sync(self.wait_for_lock, key, timeout)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '.')}.lock"

    def _open_locked(self, key: str, timeout: float | None) -> int | None:
        """A descriptor of the lock file with the lock on it, or None after ``timeout`` seconds."""
        path = self._path(key)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if deadline is None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                elif not _flock_until(descriptor, deadline):
                    os.close(descriptor)
                    return None
                # The holder before us may have deleted the file that we waited on.
                if _is_file_at(path, descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _flock_until(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class StepState:
    """How one step of a run went: ``state`` is Completed (computed now), Cached or Failed."""

    task: str
    label: str
    state: str
    seconds: float


@dataclass
class Steps:
    """Runs the tasks of one flow in order, keeps their results under ``root`` and notes how each
    went.

    Inside a flow run every step is a Prefect task run. Outside of one (no server is configured, or
    a test) the same function runs under the same key, the same lock and the same record, so that
    either way finds what the other has made; only nobody lists it.
    """

    root: Path
    states: list[StepState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(self.root).absolute()
        self._locks = ProcessLocks(self.root / "results" / "locks")
        first_party_sources()

    def run(self, step: Task[..., Any], /, *, label: str = "", **inputs: Any) -> Any:
        """The result of one task; ``label`` tells calls of the same task apart (a file, a variant).

        A kept result whose handles are not all intact is made anew. Whatever the task raises comes
        out unchanged.
        """
        name = step.fn.__name__
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)
        begin = time.perf_counter()
        state, result = "Failed", None
        try:
            state, result = self._run(step, shown, inputs)
            if state == "Cached" and not self._intact(result):
                state, result = self._run(step, shown, inputs, refresh=True)
        finally:
            seconds = time.perf_counter() - begin
            self.states.append(StepState(name, shown, state, seconds))
            logger.info("%s: %s in %.2f s", f"{name} {shown}".rstrip(), state, seconds)
        return result

    def _run(
        self, step: Task[..., Any], label: str, inputs: dict[str, Any], refresh: bool = False
    ) -> tuple[str, Any]:
        if FlowRunContext.get() is None:
            return self._run_without_prefect(step, inputs, refresh)
        options: dict[str, Any] = {}
        if label:
            options["task_run_name"] = lambda: f"{step.fn.__name__} {label}"
        if isinstance(step.cache_policy, ContentPolicy):
            options["cache_policy"] = step.cache_policy.configure(
                lock_manager=self._locks, isolation_level="SERIALIZABLE"
            )
            options["result_storage"] = self.root / "results"
            options["refresh_cache"] = refresh
        state = step.with_options(**options)(**inputs, return_state=True)
        return state.name, state.result()

    def _run_without_prefect(
        self, step: Task[..., Any], inputs: dict[str, Any], refresh: bool
    ) -> tuple[str, Any]:
        policy = step.cache_policy
        if not isinstance(policy, ContentPolicy):
            return "Completed", step.fn(**inputs)
        call = inspect.signature(step.fn).bind(**inputs)
        call.apply_defaults()
        store = ResultStore(
            result_storage=LocalFileSystem(basepath=str(self.root / "results")),
            lock_manager=self._locks,
            serializer=_SERIALIZER,
            cache_result_in_memory=False,
        )
        with transaction(
            key=policy.key(call.arguments),
            store=store,
            isolation_level=IsolationLevel.SERIALIZABLE,
            overwrite=refresh,
        ) as kept:
            if kept.is_committed():
                record = kept.read()
                assert record is not None
                return "Cached", record.result
            result = step.fn(**inputs)
            kept.stage(result)
        return "Completed", result

    def _intact(self, result: Any) -> bool:
        return all(handle.intact(self.root) for handle in _handles(result))


def _handles(result: object) -> Iterator[Any]:
    """Everything in a result, at any depth, that can say whether the file it names is whole."""
    if callable(getattr(result, "intact", None)):
        yield result
    if isinstance(result, BaseModel):
        for name in type(result).model_fields:
            yield from _handles(getattr(result, name))
    elif isinstance(result, Mapping):
        for each in result.values():
            yield from _handles(each)
    elif isinstance(result, list | tuple):
        for each in result:
            yield from _handles(each)
