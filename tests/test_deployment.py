"""From prefect.yaml to a run that a worker completes, with a real server and a real worker."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.catalogue import catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120
"""Seconds to wait for a server that shares its machine with other tests."""


class Server:
    """A Prefect server on a free port of this machine, with a home of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PYTHONPATH": str(ROOT),
            "TIDEMILL_WAREHOUSE": str(home / "warehouse"),
        }
        self.log = (home / "server.log").open("w")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "prefect", "server", "start"),
                *("--host", "127.0.0.1", "--port", str(port), "--no-ui"),
            ],
            env={**self.environment, "PREFECT_API_URL": ""},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        for _ in range(PATIENCE * 5):
            try:
                with urllib.request.urlopen(f"{self.api}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, "the server has ended"
                time.sleep(0.2)
        raise AssertionError("the server does not answer")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.api}/{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def scheduled_runs(self) -> list[dict[str, Any]]:
        states = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", {"flow_runs": states})
        return found

    def command(self, *arguments: str, cwd: Path = ROOT) -> str:
        result = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout


BY_HAND = ("demo", "time-machine", "wikitext-2")
"""Deployments without a schedule."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("prefect"))
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def test_a_bad_catalogue_changes_nothing(server: Server, tmp_path: Path) -> None:
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    (tmp_path / "prefect.yaml").write_text(text.replace("bptt: 64", "btpt: 64"), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"no setting problem\.btpt"):
        server.command("flows.command.cli", "deploy", "--catalogue", str(tmp_path / "prefect.yaml"))
    assert server.ask("deployments/filter", {}) == []


def test_the_whole_way(server: Server, tmp_path: Path) -> None:
    names = list(catalogue().deployments)
    assert "deployed demo, next-word" in server.command("flows.command.cli", "deploy")
    deployments = {each["name"]: each for each in server.ask("deployments/filter", {})}
    assert sorted(deployments) == sorted(names)
    for name, deployment in deployments.items():
        assert [each["slug"] for each in deployment["schedules"]] == (
            [] if name in BY_HAND else [f"{name}-nightly"]
        )
        (step,) = deployment["pull_steps"]
        directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
        assert Path(directory) == ROOT
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    limits = {
        each["name"]: each["limit"] for each in server.ask("v2/concurrency_limits/filter", {})
    }
    assert limits["gpu"] == 1

    # A scheduler that schedules nothing says so only in its own log: look at what it has made.
    for _ in range(PATIENCE * 5):
        if {each["deployment_id"] for each in server.scheduled_runs()} >= {
            deployments[name]["id"] for name in names if name not in BY_HAND
        }:
            break
        time.sleep(0.2)
    else:
        raise AssertionError("no scheduled runs")

    output = server.command(
        *("prefect", "deployment", "run", "retrain/demo"),
        *("--param", 'variants=["gru"]', "--param", f"warehouse={tmp_path / 'warehouse'}"),
        *("--param", 'overrides={"training.num_epochs": 1, "network.hidden_size": 8}'),
    )
    assert "Created flow run" in output
    # Started from another folder, on purpose: the pull step leads it home.
    output = server.command(
        *("prefect", "worker", "start", "--pool", "tidemill", "--run-once"), cwd=tmp_path
    )
    state = {"deployment_id": {"any_": [deployments["demo"]["id"]]}}
    (run,) = server.ask("flow_runs/filter", {"flow_runs": state})
    assert run["state"]["type"] == "COMPLETED", f"{run['state']}\n{output}"

    output = server.command(
        *("flows.command.cli", "leaderboard", "demo", "--json"),
        *("--warehouse", str(tmp_path / "warehouse")),
    )
    rows = json.loads(output.removeprefix("Loading MLflow ...\n"))
    assert [row["variant"] for row in rows] == ["gru"]


def test_a_run_of_the_command_line_is_recorded(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"zh": "你好。", "en": "Hello."}\n', encoding="utf-8")
    arguments = ("flows.command.cli", "ingest", "translate-zh-en", "--source", str(source))
    assert "rows accepted" in server.command(*arguments)
    flows = {each["id"]: each["name"] for each in server.ask("flows/filter", {})}
    runs = server.ask(
        "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    )
    assert "ingest" in {flows[run["flow_id"]] for run in runs}


def test_a_text_that_prefect_reads_as_a_number_is_refused(server: Server) -> None:
    """Prefect sends 1e345678 as null: it must not mean that the sources are read."""
    server.command("flows.command.cli", "deploy")
    with pytest.raises(AssertionError, match=r"'snapshot'.*not of type 'string'"):
        server.command(
            *("prefect", "deployment", "run", "retrain/demo", "--param", "snapshot=1e345678")
        )
    path = "deployments/name/retrain/demo"
    create = f"deployments/{server.ask(path)['id']}/create_flow_run"
    for name in ("snapshot", "extend_from", "vectors", "user_dictionary", "warehouse"):
        for value in (None, 12345678, 1e5, True):
            with pytest.raises(urllib.error.HTTPError) as refused:
                server.ask(create, {"parameters": {name: value}})
            assert f"'{name}'" in refused.value.read().decode()


def test_a_second_deploy_drops_a_schedule_that_left_the_file(
    server: Server, tmp_path: Path
) -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    reply = next(each for each in content["deployments"] if each["name"] == "reply")
    del reply["schedules"]
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    output = server.command("flows.command.cli", "deploy", "--catalogue", str(file))
    assert "dropped the schedule reply-nightly of reply" in output
    deployments = {each["name"]: each for each in server.ask("deployments/filter", {})}
    assert deployments["reply"]["schedules"] == []
    assert len(deployments["next-word"]["schedules"]) == 1
