"""`tidemill ui` ends together with everything that it started."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from warehouse.registry.registry import Registry

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def wait_until(port: int, listening: bool, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if listens(port) == listening:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server_and_its_children(warehouse: Path, number: int) -> None:
    assert Registry(warehouse).names() == []
    port = free_port()
    command = [sys.executable, "-m", "flows.command.cli", "ui", "--port", str(port)]
    environment = os.environ | {"TIDEMILL_WAREHOUSE": str(warehouse)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as ui:
        try:
            assert wait_until(port, listening=True, seconds=120)
            ui.send_signal(number)
            assert ui.wait(30) == 128 + number
            assert wait_until(port, listening=False, seconds=30)
        finally:
            ui.kill()
