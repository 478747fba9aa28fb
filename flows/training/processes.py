"""Trainings in processes of their own: started, listened to, ended.

A process gets its job as a JSON file in a private folder, reports on stdout, one JSON line a
message, and leaves its outcome in the folder (``training_process.py`` is the other side). Its stdin
is a pipe that nobody writes to: the pipe ends when the parent does, however that ends, and then so
does the process. Nothing is pickled.

One training takes one process, or ``training.num_processes`` of them, which torchrun starts. Of
several at once on GPUs, each goes to the GPU that has the fewest. Where NVIDIA's multi-process
service runs (``nvidia-cuda-mps-control -d``), the processes of one GPU compute at the same time
instead of taking turns; nothing here changes for it.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

import flows
from pipeline.errors import InputError
from pipeline.training.loop import DivergedError
from warehouse.errors import StorageError

JOB = "job.json"

OUTCOME = "outcome-{rank}.json"

STDERR = "stderr.txt"

RAISED: dict[str, type[Exception]] = {
    each.__name__: each for each in (DivergedError, InputError, StorageError)
}
"""What a process may end with as if it were raised here."""

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

Result = TypeVar("Result")


class ProcessEndedError(Exception):
    """A process ended, or was ended, before it was done; what it had kept is there."""


class TrainingProcesses:
    """The processes of one retraining, in a ``with`` that none of them outlives.

    Args:
        num_threads: of a training, whatever number of them runs: its bits depend on it. Several
            processes of one training divide them.
        num_gpus: GPUs that trainings are divided among; 0 where they compute on the CPU.
    """

    def __init__(self, num_threads: int, num_gpus: int = 0) -> None:
        self.num_threads, self.num_gpus = num_threads, num_gpus
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._trainings = Counter(dict.fromkeys(range(num_gpus), 0))
        self._ended = False

    def __enter__(self) -> "TrainingProcesses":
        return self

    def __exit__(self, *raised: object) -> None:
        """End all that still run."""
        with self._guard:
            self._ended = True
            running = list(self._running)
        for process in running:
            _end(process)

    @contextmanager
    def at_once(
        self, work: Callable[[Item], Result], items: Sequence[Item], num_workers: int
    ) -> Iterator[list[Callable[[], Result]]]:
        """``work`` on each item, by ``num_workers`` threads; calling a result waits for it.

        One worker needs no thread: an item is then worked on when its result is called for.
        """
        if num_workers == 1:
            yield [partial(work, item) for item in items]
            return
        pool = ThreadPoolExecutor(num_workers)
        try:
            # A thread belongs to the same flow run, where there is one.
            futures = [pool.submit(copy_context().run, work, item) for item in items]
            yield [future.result for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self.__exit__()
            pool.shutdown()

    def run(self, name: str, job: BaseModel, num_processes: int = 1) -> dict[str, Any]:
        """What a process, or several together, made of a training's job; ``name`` is for people.

        Raises:
            ProcessEndedError: where one of them was killed or failed.
            DivergedError, InputError, StorageError: what the training itself raised.
        """
        with (
            tempfile.TemporaryDirectory(prefix="tidemill-", ignore_cleanup_errors=True) as made,
            self._gpus(num_processes) as gpus,
        ):
            folder = Path(made)
            (folder / JOB).write_text(job.model_dump_json(), encoding="utf-8")
            process = self._start(folder, num_processes, gpus)
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    _relay(line)
                process.wait()
            finally:
                _end(process)
                process.stdout.close()
                with self._guard:
                    self._running.discard(process)
            return _outcome(name, folder, process.returncode)

    @contextmanager
    def _gpus(self, num_processes: int) -> Iterator[list[int]]:
        """The GPUs of one training: those that have the fewest."""
        with self._guard:
            gpus = sorted(self._trainings, key=lambda gpu: (self._trainings[gpu], gpu))
            gpus = gpus[:num_processes]
            self._trainings.update(gpus)
        try:
            yield gpus
        finally:
            with self._guard:
                self._trainings.subtract(gpus)

    def _start(
        self, folder: Path, num_processes: int, gpus: Sequence[int]
    ) -> subprocess.Popen[str]:
        command = ["-m", "flows.training.training_process", str(folder)]
        if num_processes > 1:
            several = [
                "--standalone",
                "--local-addr=localhost",
                f"--nproc-per-node={num_processes}",
            ]
            command = ["-m", "torch.distributed.run", *several, *command]
        with (folder / STDERR).open("w") as stderr, self._guard:
            if self._ended:
                raise ProcessEndedError("the retraining has ended")
            process = subprocess.Popen(
                [sys.executable, *command],
                env=self._environment(num_processes, gpus),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                # Ctrl-C is for the parent alone, which ends its processes.
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def _environment(self, num_processes: int, gpus: Sequence[int]) -> dict[str, str]:
        """This process's own, but for the threads, the GPUs and where our packages lie."""
        packages = [str(Path(path).parent) for path in flows.__path__]
        given = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        changed = {
            "PYTHONPATH": os.pathsep.join([*packages, *given]),
            # Nothing in the current folder is taken for a package of ours.
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": str(max(1, self.num_threads // num_processes)),
        }
        if gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(gpu) for gpu in range(self.num_gpus)]
            changed["CUDA_VISIBLE_DEVICES"] = ",".join(names[gpu] for gpu in gpus)
        if num_processes > 1:
            # They are all here: gloo need not look for this machine's name.
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            changed["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", loopback)
        return {**os.environ, **changed}


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and those that it has started."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    process.kill()
    process.wait()


def _relay(line: str) -> None:
    """What a process says, in this one's log."""
    try:
        said = json.loads(line)
        name, level, message = said["logger"], said["level"], said["message"]
    except (ValueError, KeyError, TypeError):
        # A library that speaks for itself.
        logger.info("%s", line.rstrip())
        return
    logging.getLogger(name).log(level, "%s", message)


def _outcome(name: str, folder: Path, returncode: int) -> dict[str, Any]:
    """What the first process left; without it, the reason that was left first."""
    left = sorted(folder.glob(OUTCOME.format(rank="*")), key=lambda path: path.stat().st_mtime_ns)
    outcomes = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in left}
    first: dict[str, Any] = outcomes.get(OUTCOME.format(rank=0), {})
    if "result" in first:
        result: dict[str, Any] = first["result"]
        return result
    for outcome in outcomes.values():
        if outcome["error"] in RAISED:
            raise RAISED[outcome["error"]](outcome["message"])
    failed = next((each for each in outcomes.values() if not _lost_another(each)), None)
    stderr = (folder / STDERR).read_text(encoding="utf-8", errors="replace")
    if returncode < 0:
        ended_by = signal.Signals(-returncode).name
    else:
        # Torchrun's own words on the process that ended first.
        ended_by = next(reversed(re.findall(r"Signal \d+ \((SIG\w+)\)", stderr)), "")
    if failed:
        logger.error("%s", failed["traceback"].rstrip())
        reason = f"failed: {failed['error']}: {failed['message'].splitlines()[0]}"
    elif ended_by:
        reason = f"was ended by {ended_by}"
        if ended_by == "SIGKILL":
            reason += ", as the system does where memory runs out"
    else:
        logger.error("%s", stderr.rstrip())
        reason = f"ended with code {returncode}"
    raise ProcessEndedError(
        f"{name}: a process of its training {reason}; the next run goes on from what is kept"
    )


def _lost_another(outcome: dict[str, Any]) -> bool:
    """Whether a process failed in an exchange, because another one was no longer there."""
    return outcome["error"] == "DistBackendError" or "gloo" in outcome["message"]
