"""The commands about this machine and its servers: pages, checks, deployments."""

import contextlib
import os
import signal
import socket
import subprocess
from types import FrameType
from typing import Annotated

import typer

from flows.catalogue import catalogue
from flows.command.exit_codes import FAILED, OK
from flows.command.models import open_registry
from flows.command.options import AsJson, CatalogueFile, Warehouse
from flows.command.terminal import loading, print_json, print_table, say
from flows.environment import warehouse_root
from pipeline.errors import InputError


def ui(
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port of 127.0.0.1 that serves the pages.")
    ] = 5000,
    warehouse: Warehouse = "",
) -> int:
    """Show runs and models in the browser."""
    registry = open_registry(warehouse)
    command = registry.server_command(port=port)
    _check_port(port)
    say(f"http://127.0.0.1:{port}  (Ctrl-C ends it)")
    environment = {**os.environ, **registry.server_environment()}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_by_signal)
    # In a process group of its own, so that the server ends together with all that it started.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            return OK
        finally:
            _end_group(server)
    return code if code >= 0 else 128 - code  # as shells say which signal ended it


def _exit_by_signal(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End a server and all processes of its group: first asked to, then killed."""
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(seconds)


def _check_port(port: int) -> None:
    """Raises InputError where no server can listen on a port of 127.0.0.1."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port is {port}: it must be from 1 to 65535")
    with socket.socket() as tried:
        # As servers do: a port whose last connection was just closed is free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from error


def doctor(warehouse: Warehouse = "", as_json: AsJson = False) -> int:
    """Check libraries, device, warehouse and servers.

    The exit code is 1 where a check fails.
    """
    with loading("libraries to check"):
        from flows.command.doctor import diagnose

        checks = diagnose(warehouse_root(warehouse))
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        print_table(
            ("", "subject", "found", "remedy"),
            [
                ("ok" if c.right else "WRONG", c.subject, c.found, "" if c.right else c.remedy)
                for c in checks
            ],
        )
    return OK if all(check.right for check in checks) else FAILED


def deploy(catalogue_file: CatalogueFile = None) -> int:
    """Send all deployments and their schedules to the Prefect server."""
    with loading("Prefect"):
        from flows.command.deploy import deploy

    deploy(catalogue(catalogue_file), tell=say)
    return OK
