"""Is this machine fit to run everything? One check a line, each with its remedy."""

import platform
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.catalogue import catalogue
from flows.environment import tracking_uri
from pipeline.errors import InputError

MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, whether it is right, and what to do where it is not."""

    subject: str
    found: str
    right: bool = True
    remedy: str = ""


def diagnose(root: Path) -> list[Check]:
    """Look at libraries, device, catalogue, warehouse and servers; nothing is changed.

    ``root`` is the warehouse's folder, which need not exist yet.
    """
    checks = [Check("python", platform.python_version())]
    checks += [*_libraries(), _device(), _catalogue(), _warehouse(root)]
    if (root / "mlflow" / "mlflow.db").exists():
        checks.append(_registry(root))
    return [*checks, *_servers()]


def _libraries() -> Iterator[Check]:
    for name in ("torch", "jieba", "pyarrow", "pandas", "mlflow"):
        yield _installed(name)
    prefect = _installed("prefect")
    yield prefect
    # Prefect pins neither; each of these broke its server once, the second one silently.
    if _release(prefect.found) < (3, 9):
        yield _installed("fastapi", below=(0, 155), why="Prefect's server does not start with it")
        yield _installed(
            "sqlalchemy", below=(2, 1), why="Prefect's server schedules nothing with it"
        )


def _installed(name: str, below: tuple[int, int] | None = None, why: str = "") -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "not installed", False, f"pip install {name}")
    if below and _release(found) >= below:
        limit = ".".join(map(str, below))
        return Check(name, f"{found}: {why}", False, f"pip install '{name}<{limit}'")
    return Check(name, found)


def _release(text: str) -> tuple[int, ...]:
    parts = text.split(".")[:2]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)


def _device() -> Check:
    from pipeline.networks.devices import resolve_device

    return _try("device", lambda: str(resolve_device("auto")), "install torch for this machine")


def _catalogue() -> Check:
    return _try("catalogue", lambda: ", ".join(catalogue().deployments), "correct the file")


def _warehouse(root: Path) -> Check:
    folder = next(each for each in (root, *root.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = "choose a writable folder: TIDEMILL_WAREHOUSE or --warehouse"
        return Check("warehouse", f"{root}: {error.strerror}", False, remedy)
    found = f"{root}, {free / (1 << 30):.1f} GiB free"
    return Check("warehouse", found, free >= MIN_FREE_BYTES, "free at least 1 GiB")


def _registry(root: Path) -> Check:
    from warehouse.registry.registry import Registry

    remedy = "restore the folder mlflow from a backup, or move it away and retrain"
    return _try("models", lambda: ", ".join(Registry(root).names()) or "none yet", remedy)


def _servers() -> Iterator[Check]:
    from flows.command.deploy import server_address

    absent = "none configured; runs are made here and recorded nowhere else"
    remedy = "prefect server start, or unset PREFECT_API_URL"
    yield _try("prefect server", lambda: server_address() or absent, remedy)
    tracking = tracking_uri()
    if tracking:
        remedy = "start the MLflow server, or unset MLFLOW_TRACKING_URI"
        yield _try("mlflow server", lambda: _answering(tracking), remedy)


def _answering(address: str) -> str:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=5):  # noqa: S310
            return address
    except (OSError, urllib.error.URLError) as error:
        raise InputError(f"{address} does not answer: {error}") from error


def _try(subject: str, look: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(subject, look())
    except Exception as error:  # whatever is wrong is a finding here
        return Check(subject, str(error), False, remedy)
