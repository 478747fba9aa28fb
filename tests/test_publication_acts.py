"""Whatever people do in MLflow's pages, the next publication ends well and destroys nothing."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.problems.next_word.problem import NextWord
from pipeline.problems.predictor import ModelConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary
from warehouse.checkpoints import Checkpoints
from warehouse.registry.publication import DatasetInfo, Publication
from warehouse.registry.registry import Registry


def publication(root: Path, name: str, seed: int, **changes: Any) -> Publication:
    """A publication of an untrained model; another seed makes another one."""
    problem, network, words = (
        NextWord(window=2),
        NetworkConfig(4, 4, 0.0),
        Vocabulary(list("好天气")),
    )
    variant, text = Variant.parse("gru"), TextConfig(unit="char")
    torch.manual_seed(seed)
    weights = problem.build(variant, network, [len(words)]).state_dict()
    config = ModelConfig(problem, variant, network, text).to_dict()
    ref = Checkpoints(root).save(config, weights, {"vocabulary": words.to_json()}, [])
    values: dict[str, Any] = {
        "name": name,
        "key": f"gru-{ref.digest[:32]}",
        "variant": "gru",
        "problem": "next_word",
        "headline": f"top-1 {seed}%",
        "description": "- data: all of it",
        "checkpoint": str(root / ref.path),
        "checkpoint_digest": ref.digest,
        "scores": {"test/top1": seed / 100},
        "datasets": [DatasetInfo(name="chat", digest="c" * 64, context="test")],
        "examples": ["天"],
        "parameters": {"top": (int, 5)},
    }
    return Publication(**{**values, **changes})


@dataclass
class Place:
    """A registry with two versions of a model, of which the second is champion."""

    root: Path
    registry: Registry
    name: str
    database: str

    @property
    def client(self) -> MlflowClient:
        return self.registry._store.client

    def publish(self, seed: int, **changes: Any) -> int:
        return self.registry.publish(publication(self.root, self.name, seed, **changes)).version

    def run_of(self, number: int) -> str:
        return str(self.client.get_model_version(self.name, str(number)).run_id)

    @property
    def experiment_id(self) -> str:
        return str(self.client.get_run(self.run_of(1)).info.experiment_id)

    def whole(self) -> set[tuple[str, int]]:
        """All versions, of all registered models, whose files are there."""
        store = self.registry._store
        return {
            (one.name, int(one.version))
            for one in store.search_versions()
            if store.holds_model(one.name, one.version)
        }

    def gc(self, *run_ids: str) -> None:
        """What `mlflow gc` does with deleted runs."""
        store = SqlAlchemyStore(self.database, "/nowhere")  # type: ignore[no-untyped-call]
        for run_id in run_ids:
            store._hard_delete_run(run_id)  # type: ignore[no-untyped-call]
        store.engine.dispose()


def filled(place: Place) -> Place:
    place.publish(1)
    place.registry.promote(place.name, 1, "the first")
    place.publish(2)
    place.registry.promote(place.name, 2, "better")
    return place


def rename_model(place: Place) -> None:
    place.client.rename_registered_model(place.name, f"{place.name}-prod")


def copy_and_delete_the_original(place: Place) -> None:
    place.client.copy_model_version(f"models:/{place.name}/2", f"{place.name}-copy")
    place.client.delete_model_version(place.name, "2")


def copy_a_copy(place: Place) -> None:
    place.client.copy_model_version(f"models:/{place.name}/1", f"{place.name}-copy")
    place.client.copy_model_version(f"models:/{place.name}-copy/1", f"{place.name}-copy2")
    place.client.delete_registered_model(f"{place.name}-copy")
    place.client.delete_model_version(place.name, "1")


def delete_version(place: Place) -> None:
    place.client.delete_model_version(place.name, "1")


def delete_champion(place: Place) -> None:
    place.client.delete_model_version(place.name, "2")


def delete_run(place: Place) -> None:
    place.client.delete_run(place.run_of(1))


def delete_run_for_good(place: Place) -> None:
    for number in (1, 2):
        run_id = place.run_of(number)
        place.client.delete_run(run_id)
        place.gc(run_id)


def restore_run(place: Place) -> None:
    place.client.delete_run(place.run_of(1))
    place.client.restore_run(place.run_of(1))


def move_alias(place: Place) -> None:
    place.client.set_registered_model_alias(place.name, "champion", "1")
    place.client.set_registered_model_alias(place.name, "gru", "1")


def delete_aliases(place: Place) -> None:
    for alias in ("champion", "previous_champion", "gru"):
        place.client.delete_registered_model_alias(place.name, alias)


def edit_description(place: Place) -> None:
    place.client.update_model_version(place.name, "1", "")
    place.client.update_model_version(place.name, "2", "my own words")
    place.client.delete_tag(place.run_of(1), "mlflow.note.content")


def edit_tags(place: Place) -> None:
    for key in ("variant", "code", "checkpoint", "snapshot"):
        place.client.set_model_version_tag(place.name, "2", key, "mine")
    for key in ("key", "variant"):
        place.client.delete_model_version_tag(place.name, "1", key)


def edit_tags_of_runs(place: Place) -> None:
    for key in ("variant", "code", "checkpoint", "key", "scores", "version"):
        place.client.set_tag(place.run_of(2), key, "mine")
        place.client.delete_tag(place.run_of(1), key)


def delete_experiment(place: Place) -> None:
    place.client.delete_experiment(place.experiment_id)


def restore_experiment(place: Place) -> None:
    place.client.delete_experiment(place.experiment_id)
    place.client.restore_experiment(place.experiment_id)


def rename_experiment(place: Place) -> None:
    place.client.rename_experiment(place.experiment_id, f"{place.name} of old")


def delete_model(place: Place) -> None:
    place.client.delete_registered_model(place.name)


def archive(place: Place) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place.client.transition_model_version_stage(place.name, "1", "Archived")


def own_open_run(place: Place) -> None:
    run = place.client.create_run(place.experiment_id, run_name="notebook")
    place.client.log_text(run.info.run_id, "an evening's work", "notes.txt")


def own_finished_run(place: Place) -> None:
    key = place.client.get_model_version(place.name, "1").tags["key"]
    run = place.client.create_run(place.experiment_id, tags={"key": key}, run_name="notebook")
    place.client.log_text(run.info.run_id, "an evening's work", "notes.txt")
    place.client.set_terminated(run.info.run_id)
    # Its version is gone: what bears its key is made anew.
    place.client.delete_model_version(place.name, "1")


def delete_logged_model(place: Place) -> None:
    source = str(place.client.get_model_version(place.name, "2").source)
    place.client.delete_logged_model(source.removeprefix("models:/"))


ACTS: list[Callable[[Place], None]] = [
    rename_model,
    copy_and_delete_the_original,
    copy_a_copy,
    delete_version,
    delete_champion,
    delete_run,
    delete_run_for_good,
    restore_run,
    move_alias,
    delete_aliases,
    edit_description,
    edit_tags,
    edit_tags_of_runs,
    delete_experiment,
    restore_experiment,
    rename_experiment,
    delete_model,
    archive,
    own_open_run,
    own_finished_run,
    delete_logged_model,
]


def check(place: Place) -> None:
    """A cached retraining and a real one after an act."""
    registry, whole = place.registry, place.whole()
    notes = {run.info.run_id: run.info.status for run in _notebooks(place)}
    assert all(_note(place, run_id) == "an evening's work" for run_id in notes)
    for _ in range(2):
        place.publish(1)
        place.publish(2)
    place.publish(1, scores={"test/top1": 0.5}, headline="top-1 50%")
    assert registry.publish(publication(place.root, place.name, 3)).new
    last = place.publish(2)
    champion = registry.champion(place.name)
    if champion is None:
        registry.promote(place.name, last, "there was none")
    assert len(registry.load(place.name).predict(["天", ""])) == 2
    assert place.whole() >= whole
    for name in registry.names():
        for one in registry.versions(name):
            found = registry.load(name, version=one.version)
            assert len(found.predict(["天"], {"top": 1})["candidates"][0]) == 1
        assert registry.leaderboard_page(name).startswith("http://")
    registry.promote(place.name, last, "again")
    assert {run.info.run_id: run.info.status for run in _notebooks(place)} == notes
    assert all(_note(place, run_id) == "an evening's work" for run_id in notes)


def _notebooks(place: Place) -> list[Any]:
    experiments = place.client.search_experiments(filter_string="name != 'Default'")
    ids = [each.experiment_id for each in experiments if each.name.startswith(place.name)]
    search = "attributes.run_name = 'notebook'"
    return list(place.client.search_runs(ids, search)) if ids else []


def _note(place: Place, run_id: str) -> str:
    return Path(place.client.download_artifacts(run_id, "notes.txt")).read_text()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "root"
    registry = Registry(root)
    filled(Place(root, registry, "demo", registry._store.uri))
    return root


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_retraining_ends_well_after_what_people_do(
    prepared: Path, tmp_path: Path, act: Callable[[Place], None]
) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "root"))
    registry = Registry(root)
    place = Place(root, registry, "demo", registry._store.uri)
    with registry._store.lock():
        act(place)
    check(place)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """An MLflow server on this machine: the folder of its logs, its address, its database."""
    root = tmp_path_factory.mktemp("server")
    registry = Registry(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(
            registry.server_command(port=port),
            env={**os.environ, **registry.server_environment()},
            cwd=root,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                threading.Event().wait(0.1)
        yield root, address, registry._store.uri
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_retraining_ends_well_behind_a_server_too(
    server: tuple[Path, str, str], tmp_path: Path, act: Callable[[Place], None]
) -> None:
    _, address, database = server
    registry = Registry(tmp_path, address)
    place = filled(Place(tmp_path, registry, act.__name__, database))
    with registry._store.lock():
        act(place)
    check(place)
    for name in registry.names():
        # The next act is checked alone.
        registry._store.client.delete_registered_model(name)


def test_a_champion_whose_files_are_gone_is_published_again(prepared: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "root"))
    registry = Registry(root)
    place = Place(root, registry, "demo", registry._store.uri)
    champion = registry.find("demo")
    shutil.rmtree(registry._store.model_directory("demo", 2))
    assert not registry.holds_model(champion)
    with pytest.raises(ValueError, match="files of 'demo' version 2 are gone; promote or name"):
        registry.load("demo")
    assert place.publish(2) == 3
    assert place.publish(2) == 3
    assert len(registry.load("demo", version=3).predict(["天"])) == 1
    assert place.publish(1) == 1


def test_a_copy_keeps_its_files_when_the_original_is_removed(
    prepared: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "root"))
    registry = Registry(root)
    with registry._store.lock():
        registry._store.client.copy_model_version("models:/demo/1", "copy")
    first = registry.find("demo", 1)
    assert registry.find("copy", 1).model_id == first.model_id
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", registry.removal_of(first)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert "a copy of this version uses the same files" in done.stderr
    assert [one.version for one in registry.versions("demo")] == [2]
    assert len(registry.load("copy", version=1).predict(["天"])) == 1


def test_what_cannot_be_shown_is_said_once(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "root"))
    registry = Registry(root)
    place = Place(root, registry, "demo", registry._store.uri)
    with registry._store.lock():
        delete_run(place)
    for _ in range(3):
        assert place.publish(1, scores={"test/top1": 0.5}, headline="top-1 50%") == 1
    assert [each.getMessage() for each in caplog.records] == [
        "the run of 'demo' version 1 was deleted; its new scores are not shown in MLflow"
    ]
    # The page of the version is not the run's.
    assert registry.find("demo", 1).headline == "top-1 50%"


def test_looking_needs_no_torch(prepared: Path) -> None:
    look = """
        import sys
        from warehouse.registry.registry import Registry
        registry = Registry(sys.argv[1])
        assert [one.version for one in registry.versions("demo")] == [2, 1]
        assert registry.champion("demo").version == 2
        registry.leaderboard_page("demo")
        assert "torch" not in sys.modules and "mlflow.pyfunc" not in sys.modules
    """
    script = "\n".join(line.strip() for line in look.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", script, prepared],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
