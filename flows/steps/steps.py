"""Runs the steps of a flow: looks up a result under its key, computes it where it is missing.

A result that names a file counts only while that file is intact; otherwise the step runs again. A
step returns what its stored record gives back, as its signature says: the JSON round trip is made
on the first run too. A record names no class, so that a class may move to another module.
"""

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from prefect import Task
from prefect.context import FlowRunContext
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.transactions import IsolationLevel, transaction
from pydantic import BaseModel, TypeAdapter, ValidationError

from flows.steps.code_digest import first_party_code
from flows.steps.keys import SERIALIZER, ContentPolicy
from flows.steps.locks import ProcessLocks

KEY_VERSION = 1
"""Stands in cache keys for the code of this module: count it up where records read otherwise."""

logger = logging.getLogger(__name__)


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
        first_party_code()

    def run(self, step: Task[..., Any], /, *, label: str = "", **inputs: Any) -> Any:
        """The result of one task; ``label`` tells calls of the same task apart (a file, a variant).

        A task with a parameter ``root`` gets the root of the warehouse. A stored result whose
        handles are not all intact is computed again. What the task raises comes out unchanged.
        """
        name = step.fn.__name__
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)
        if "root" in inspect.signature(step.fn).parameters:
            inputs["root"] = str(self.root)
        begin = time.perf_counter()
        state, result = "Failed", None
        try:
            state, record = self._run(step, shown, inputs)
            if state == "Cached" and not self._intact(step, record):
                state, record = self._run(step, shown, inputs, refresh=True)
            result = _read(step, record)
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
            serializer=SERIALIZER,
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

    def _intact(self, step: Task[..., Any], record: Any) -> bool:
        try:
            return all(handle.intact(self.root) for handle in _handles(_read(step, record)))
        except ValidationError:
            return False


def _read(step: Task[..., Any], record: Any) -> Any:
    """What the task returned, of the class that its signature names."""
    return _returned(step.fn).validate_python(record)


@functools.cache
def _returned(fn: Callable[..., Any]) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(fn)["return"])


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
