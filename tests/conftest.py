"""What every test shares: a Prefect home of its own, no telemetry, one torch thread, fixtures.

The environment is set before anything imports prefect or mlflow, which read it once.
"""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
PREFECT_HOME = Path(tempfile.mkdtemp(prefix="tidemill-tests-"))
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)

# A developer's own server, profile or warehouse must neither help a test nor be written to by one.
for name in list(os.environ):
    if name.startswith(("PREFECT_", "MLFLOW_", "TIDEMILL_")):
        del os.environ[name]

os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PREFECT_HOME": str(PREFECT_HOME),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Where the tests share a machine, the server is slower to start than the default allows.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
)


# Hypothesis counts wall time, which others on the machine take from an example.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of tests/test_code_digest.py; pytest reads options from here alone."""
    parser.addoption("--update-golden-keys", action="store_true", help="accept changed cache keys")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Keep sums in one order, and the test processes from fighting for the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora, which lie beside the repository where they exist at all."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the real corpora in ../shared/data")
    return path


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """An empty warehouse root."""
    root = tmp_path / "warehouse"
    root.mkdir()
    return root


@pytest.fixture
def own_logging() -> Iterator[None]:
    """``main`` sends the packages' log to stderr; the next test shall have it as it was."""
    loggers = [logging.getLogger(name) for name in ("flows", "pipeline", "warehouse")]
    before = [(log, log.level, list(log.handlers), log.propagate) for log in loggers]
    yield
    for log, level, handlers, propagate in before:
        log.level, log.handlers, log.propagate = level, handlers, propagate
