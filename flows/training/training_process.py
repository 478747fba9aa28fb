"""One process that trains, alone or under torchrun.

``processes.py`` starts it as ``python -m flows.training.training_process FOLDER`` and fills FOLDER.
"""

import json
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import nullcontext
from pathlib import Path
from shutil import rmtree
from typing import Any

from flows.training.processes import JOB, OUTCOME


class _JsonLines(logging.Handler):
    """Log records as the parent reads them."""

    def emit(self, record: logging.LogRecord) -> None:
        said = {"logger": record.name, "level": record.levelno, "message": record.getMessage()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Train as the job of the folder says, and leave the outcome there."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    rank, local_rank = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
    code = 0
    try:
        outcome: dict[str, Any] = {"result": _train(folder, rank, local_rank)}
    except BaseException as error:
        said = str(error) or type(error).__name__
        lines = traceback.format_exc()
        outcome = {"error": type(error).__name__, "message": said, "traceback": lines}
        code = 1
    aside = folder / f"aside-{rank}"
    aside.write_text(json.dumps(outcome), encoding="utf-8")
    aside.rename(folder / OUTCOME.format(rank=rank))
    sys.stdout.flush()
    # Other processes that are lost in an exchange must not be waited for.
    os._exit(code)


def _train(folder: Path, rank: int, local_rank: int) -> dict[str, Any] | None:
    from pydantic import TypeAdapter

    from flows.recipe import AnyProblem
    from flows.training.train import TrainingJob, followed, learnt
    from pipeline.networks.devices import resolve_device
    from pipeline.training.ranks import joined

    if rank == 0:
        for package in ("flows", "pipeline", "warehouse"):
            log = logging.getLogger(package)
            log.handlers, log.propagate = [_JsonLines()], False
            log.setLevel(logging.INFO)
    given = json.loads((folder / JOB).read_text(encoding="utf-8"))
    given["problem"] = TypeAdapter(AnyProblem).validate_python(given["problem"])
    job = TrainingJob.model_validate(given)
    device = resolve_device(job.device)
    together = "RANK" in os.environ
    with joined(device, local_rank) if together else nullcontext():
        if rank == 0:
            return learnt(job).model_dump(mode="json")
        followed(job)
    return None


def _end_with_parent(folder: Path) -> None:
    """End this process at once when the parent has ended, or wants it to."""
    while os.read(0, 1):
        pass
    rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
