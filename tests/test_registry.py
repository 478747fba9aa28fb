"""Versions are published once, whole, quietly; the champion is chosen, kept and brought back."""

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
import venv
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
import torch

from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.prediction import load_predictor
from pipeline.problems import Problem
from pipeline.problems.language_model.problem import LanguageModel
from pipeline.problems.next_word.problem import NextWord
from pipeline.problems.predictor import ModelConfig
from pipeline.problems.seq2seq.problem import Seq2Seq
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary, VocabularyConfig
from warehouse.checkpoints import Checkpoints
from warehouse.errors import StorageError
from warehouse.registry import package
from warehouse.registry.package import REQUIREMENTS, pinned_requirements
from warehouse.registry.publication import DatasetInfo, Publication
from warehouse.registry.registry import Registry
from warehouse.registry.versions import VersionInfo

ROOT = Path(__file__).resolve().parent.parent
NAME = "输入法 next word"

# What travels with a version has this interface; here it is small, and says whose code answers.
PREDICTION = """
import json
from dataclasses import dataclass

from .voice import VOICE


@dataclass(frozen=True)
class Candidate:
    text: str
    score: float


class Predictor:
    example = "好"

    def __init__(self, words, bias):
        self.words, self.bias = words, bias

    def checked_parameters(self, parameters):
        for name, value in parameters.items():
            if name not in ("top", "temperature", "max_length"):
                raise ValueError(f"this has no parameter {name!r}: it takes top, temperature")
            if isinstance(value, str) or value is not None and value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number")
        return {name: value for name, value in parameters.items() if value is not None}

    def predict(self, texts, *, top=2, temperature=1.0, max_length=None, seed=0):
        if any("坏" in text for text in texts):
            raise ValueError("cannot read this")
        return [
            [Candidate(f"{text}{word}{VOICE}", self.bias - rank)
             for rank, word in enumerate(self.words[:top])]
            for text in texts
        ]


def load_predictor(config, weights, vocabularies, device):
    return Predictor(json.loads(vocabularies["vocabulary"]), float(weights["bias"][0]))
"""


def write_package(directory: Path, voice: str) -> Path:
    folder = directory / f"code-{voice}" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""Stand-in."""\n')
    (folder / "prediction.py").write_text(PREDICTION)
    (folder / "voice.py").write_text(f"VOICE = {voice!r}\n")
    (folder / "notes.txt").write_text("stays at home")
    return folder


travelling: list[Path] = []
"""The package that travels with the publication that was made last."""


@pytest.fixture(autouse=True, scope="module")
def small_package() -> Iterator[None]:
    """Let a small package travel in place of ours, unless a test asks for ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "package_directory", lambda: travelling[0])
        yield


def publication(root: Path, **changes: Any) -> Publication:
    """A publication of a small checkpoint; `bias` and `voice` make it another one."""
    bias, voice = changes.pop("bias", 0.5), changes.pop("voice", "!")
    code = root / f"code-{voice}" / "pipeline"
    if not code.is_dir():
        write_package(root, voice)
    travelling[:] = [changes.pop("code", code)]
    ref = Checkpoints(root).save(
        {"problem": "next_word"},
        {"bias": torch.tensor([bias])},
        {"vocabulary": json.dumps(["天气", "今天"], ensure_ascii=False)},
        [],
    )
    values: dict[str, Any] = {
        "name": NAME,
        "key": f"{ref.digest[:24]}-{changes.get('variant', 'gru')}",
        "variant": "gru",
        "problem": "next_word",
        "headline": "top-5 41.8% ppl 85.0",
        "description": "- gate: +1.2 points",
        "checkpoint": str(root / ref.path),
        "checkpoint_digest": ref.digest,
        "params": {"network.hidden_size": 256, "text.user_words": "词" * 7000, "odd(name)": True},
        "history": [
            {
                "epoch": epoch,
                "step": epoch * 400,
                "timestamp_ms": 1_700_000_000_000 + epoch * 1000,
                "metrics": {
                    "train/loss": 6.0 - epoch,
                    "valid/perplexity": 100.0 - epoch,
                    "train/gradient_norm": float("nan") if epoch == 2 else 1.0,
                },
            }
            for epoch in (1, 2, 3)
        ],
        "scores": {
            "test/top_5": 0.418,
            "test/perplexity": 85.0,
            "valid/perplexity": 97.5,
            "speed/tokens_per_second": 20_000.0,
            "test/bits_per_character": float("inf"),
        },
        "datasets": [
            DatasetInfo(name="chat", digest=letter * 64, context=context, profile={"rows": 7})
            for letter, context in (("a", "train"), ("b", "valid"), ("c", "test"))
        ],
        "samples": [{"prompt": "天气", "prediction": "好", "reference": "好"}],
        "tags": {"snapshot": "s1"},
        "examples": ["今天 天气", "我 想"],
        "parameters": {"top": (int, 2), "temperature": (float, 1.0), "max_length": (int, None)},
        "retraining": "r1",
    }
    return Publication(**{**values, **changes})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty registry. Copies of it spare each test the making of a database."""
    root = tmp_path_factory.mktemp("prepared")
    Registry(root)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "root"))


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(root)


@pytest.fixture(scope="module")
def published(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two versions, the first of them champion; only to be read or copied."""
    root = tmp_path_factory.mktemp("published") / "root"
    shutil.copytree(prepared, root)

    def publish() -> None:
        registry = Registry(root)
        registry.publish(publication(root, bias=1.0))
        registry.publish(publication(root, bias=2.0))
        registry.promote(NAME, 1, "the first")

    assert _in_child(publish) == 0
    return root


def test_a_publication_becomes_a_version(registry: Registry, root: Path) -> None:
    version = registry.publish(publication(root))
    assert (version.name, version.version, version.variant, version.new) == (NAME, 1, "gru", True)
    (info,) = registry.versions(NAME)
    assert info.headline == "top-5 41.8% ppl 85.0"
    assert info.description.splitlines()[0] == info.headline
    assert "- gate: +1.2 points" in info.description
    assert f"/runs/{version.run_id}" in info.description
    assert info.aliases == ("gru",)
    assert not info.champion
    assert info.problem == "next_word"
    assert info.tags["snapshot"] == "s1"
    assert info.tags["retraining"] == "r1"
    assert info.tags["version"] == "1"
    assert info.run_id == version.run_id
    assert registry.names() == [NAME]
    assert registry.champion(NAME) is None


def test_scores_are_final_and_curves_are_curves(registry: Registry, root: Path) -> None:
    version = registry.publish(publication(root))
    client = registry._store.client
    (info,) = registry.versions(NAME)
    assert info.metrics == {
        "train/loss": 3.0,
        "train/gradient_norm": 1.0,
        "epoch/valid/perplexity": 97.0,
        "test/top_5": 0.418,
        "test/perplexity": 85.0,
        "valid/perplexity": 97.5,
        "speed/tokens_per_second": 20_000.0,
    }
    curve = client.get_metric_history(version.run_id, "train/loss")
    assert [(one.step, one.value, one.timestamp) for one in curve] == [
        (1, 5.0, 1_700_000_001_000),
        (2, 4.0, 1_700_000_002_000),
        (3, 3.0, 1_700_000_003_000),
    ]
    assert [one.step for one in client.get_metric_history(version.run_id, "test/top_5")] == [0]
    gaps = client.get_metric_history(version.run_id, "train/gradient_norm")
    assert [one.step for one in gaps] == [1, 3]

    model = client.get_logged_model(version.model_id)
    on_model = {one.key: (one.dataset_name, one.dataset_digest) for one in model.metrics}
    assert on_model == {
        "test/top_5": ("chat", "c" * 12),
        "test/perplexity": ("chat", "c" * 12),
        "valid/perplexity": ("chat", "b" * 12),
        "speed/tokens_per_second": (None, None),
    }
    assert model.status == "READY"
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "gru"
    inputs = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert inputs.keys() == {"train", "valid", "test"}
    assert json.loads(inputs["test"].profile) == {"digest": "c" * 64, "rows": 7}
    assert [one.step for one in run.outputs.model_outputs] == [3]


def test_samples_and_long_settings_are_on_the_run(registry: Registry, root: Path) -> None:
    version = registry.publish(publication(root))
    run = registry._store.client.get_run(version.run_id)
    table = json.loads((Path(run.info.artifact_uri) / "samples.json").read_text())
    assert table == {
        "columns": ["prompt", "prediction", "reference"],
        "data": [["天气", "好", "好"]],
    }
    assert len(run.data.params["text.user_words"]) == 6000
    assert run.data.params["text.user_words"].endswith("词 … (cut)")
    assert run.data.params["odd_name_"] == "True"


def test_the_leaderboard_is_a_saved_view(registry: Registry, root: Path) -> None:
    registry.publish(publication(root, ranked_by="test/perplexity", greater_is_better=False))
    experiment = registry._store.client.get_experiment_by_name(NAME)
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    saved = json.loads(experiment.tags["mlflow.sharedViewState.leaderboard"])
    kind, packed = saved["state"].split(";")
    view = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (kind, saved["name"]) == ("deflate", "Leaderboard")
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`test/perplexity`", True)
    assert "metrics.`test/top_5`" in view["selectedColumns"]
    assert registry.leaderboard_page(NAME) == (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
        "?workflowType=machine_learning&viewStateShareKey=leaderboard"
    )
    assert registry.page("a b") == (
        "http://127.0.0.1:5000/#/models/a%20b?workflowType=machine_learning"
    )


def test_the_same_key_registers_nothing_again(registry: Registry, root: Path) -> None:
    first = registry.publish(publication(root))
    again = registry.publish(publication(root, headline="other words"))
    assert again == first.model_copy(update={"new": False})
    assert Registry(root).publish(publication(root)) == again
    assert len(registry.versions(NAME)) == 1
    assert len(_runs(registry)) == 1


def test_new_scores_of_the_same_model_are_shown_on_its_version(
    registry: Registry, root: Path
) -> None:
    first = publication(root)
    registry.publish(first)
    registry.promote(NAME, 1, "the first")
    changed = first.model_copy(
        update={
            "headline": "top-5 44.0% ppl 80.0",
            "description": "- gate: scored with another beam",
            "scores": {**first.scores, "test/perplexity": 80.0, "test/top_5": 0.44},
            "samples": [{"prompt": "天气", "prediction": "很", "reference": "好"}],
        }
    )
    for _ in range(2):
        assert not registry.publish(changed).new
    (info,) = registry.versions(NAME)
    assert info.metrics["test/perplexity"] == 80.0
    assert info.metrics["test/top_5"] == 0.44
    assert info.headline == "top-5 44.0% ppl 80.0"
    assert "another beam" in info.description
    assert "+1.2 points" not in info.description
    assert "the first" in info.description


def test_files_are_shown_with_a_version(registry: Registry, root: Path, tmp_path: Path) -> None:
    version = registry.publish(publication(root))
    page = tmp_path / "1f.html"
    page.write_text("<p>first")
    files = {"profile.html": page}
    registry.attach(version, "profile", "profiles/1f.html", files)
    page.write_text("<p>not looked at: the tag says that it is there")
    registry.attach(version, "profile", "profiles/1f.html", files)

    def shown() -> str:
        info = registry.versions(version.name)[0]
        run = registry._store.client.get_run(info.run_id)
        assert run.data.tags["profile"].startswith("profiles/")
        names = [each.path for each in registry._store.client.list_artifacts(info.run_id)]
        assert names.count("profile.html") == 1
        return Path(
            registry._store.client.download_artifacts(info.run_id, "profile.html")
        ).read_text()

    assert shown() == "<p>first"
    page.write_text("<p>second")
    registry.attach(version, "profile", "profiles/2e.html", files, replace=False)
    assert shown() == "<p>first"
    registry.attach(version, "profile", "profiles/2e.html", files)
    assert shown() == "<p>second"
    address = registry.artifact_page(version, "profile.html")
    assert f"/runs/{version.run_id}/artifacts/profile.html" in address
    with pytest.raises(StorageError, match=r"profile.html cannot be shown with .*No such file"):
        registry.attach(version, "profile", "3", {"profile.html": tmp_path / "absent"})


def test_an_alias_follows_the_newest_version_of_a_variant(registry: Registry, root: Path) -> None:
    registry.publish(publication(root, bias=1.0))
    registry.publish(publication(root, bias=2.0, variant="bilstm-2"))
    registry.publish(publication(root, bias=3.0))
    registry.publish(publication(root, bias=1.0))
    found = [(one.version, one.variant, one.aliases) for one in registry.versions(NAME)]
    assert found == [(3, "gru", ("gru",)), (2, "bilstm-2", ("bilstm-2",)), (1, "gru", ())]


def test_loading_answers_with_the_versions_own_weights(registry: Registry, root: Path) -> None:
    registry.publish(publication(root, bias=1.0))
    registry.publish(publication(root, bias=7.0, variant="lstm"))
    registry.promote(NAME, 2, "better")
    champion, first = registry.load(NAME), registry.load(NAME, version=1)
    assert champion.info.version == 2
    assert registry.load(NAME, variant="gru").info.version == 1
    assert champion.parameters == {
        "top": ("integer", 2),
        "temperature": ("double", 1.0),
        "max_length": ("integer", None),
    }
    answer = champion.predict(["我", "你"], {"top": 1})
    assert answer.to_dict("list") == {
        "prediction": ["我天气!", "你天气!"],
        "candidates": [[{"text": "我天气!", "score": 7.0}], [{"text": "你天气!", "score": 7.0}]],
    }
    frame = pd.DataFrame({"text": ["我", None], "other": [1, 2]}, index=[5, 9])
    assert list(first.predict(frame)["prediction"]) == ["我天气!", "天气!"]
    assert first.predict(frame)["candidates"][0][1] == {"text": "我今天!", "score": 0.0}
    assert list(first.predict([]).columns) == ["prediction", "candidates"]


def test_two_versions_with_different_code_each_run_their_own(
    registry: Registry, root: Path
) -> None:
    registry.publish(publication(root, bias=1.0, voice="old"))
    registry.publish(publication(root, bias=2.0, voice="new"))
    old, new = registry.load(NAME, version=1), registry.load(NAME, version=2)
    assert list(new.predict(["a"])["prediction"]) == ["a天气new"]
    assert list(old.predict(["a"])["prediction"]) == ["a天气old"]
    assert "pipeline.voice" not in sys.modules


@pytest.mark.parametrize("problem", [LanguageModel(), NextWord(), Seq2Seq()], ids=lambda p: p.name)
def test_the_real_pipeline_travels(registry: Registry, root: Path, problem: Problem) -> None:
    """The loaded version answers as the predictor that this process makes of the checkpoint."""
    sides = 2 if (len(problem.columns) == 2) else 1
    vocabulary = Vocabulary.build(["今天", "天气", "很", "好"], [4, 3, 2, 1], VocabularyConfig())
    variant, network = Variant.parse("gru"), NetworkConfig(embedding_size=4, hidden_size=6)
    model = problem.build(variant, network, [len(vocabulary)] * sides)
    config = ModelConfig(
        problem, variant, network, TextConfig(), TextConfig() if sides > 1 else None
    )
    names = ["vocabulary", "target_vocabulary"][:sides]
    vocabularies = {name: vocabulary.to_json() for name in names}
    ref = Checkpoints(root).save(config.to_dict(), model.state_dict(), vocabularies, [])
    here = load_predictor(config.to_dict(), model.state_dict(), vocabularies)
    registry.publish(
        publication(
            root,
            checkpoint=str(root / ref.path),
            checkpoint_digest=ref.digest,
            code=ROOT / "pipeline",
            parameters=here.parameters,
        )
    )
    loaded = registry.load(NAME, version=1)
    assert loaded.parameters.keys() == here.parameters.keys()
    texts = ["今天天气", "好", ""]
    answer = loaded.predict(texts, {"top": 2})
    expected = [
        [{"text": one.text, "score": one.score} for one in row]
        for row in here.predict(texts, top=2)
    ]
    assert list(answer["candidates"]) == expected
    assert list(answer["prediction"]) == [row[0]["text"] for row in expected]
    code = type(loaded._model.unwrap_python_model()._predictor).__module__
    assert code.startswith("tidemill_pipeline_")


def test_versions_load_in_many_threads_at_once(registry: Registry, root: Path) -> None:
    for bias in (1.0, 2.0, 3.0):
        registry.publish(publication(root, bias=bias, voice=f"v{bias:.0f}"))
    wrong: list[object] = []

    def load(number: int) -> None:
        model = registry.load(NAME, version=number)
        said = model.predict(["x"])["prediction"][0]
        if said != f"x天气v{number}":
            wrong.append((number, said))

    threads = [threading.Thread(target=load, args=(1 + i % 3,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_travels_is_the_checkpoint_the_code_and_nothing_else(
    registry: Registry, root: Path
) -> None:
    version = registry.publish(publication(root))
    directory = Path(registry._store.client.get_logged_model(version.model_id).artifact_location)
    registry.load(NAME, version=1).predict(["x"])
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*.*")}
    assert files == {
        "artifacts/checkpoint/config.json",
        "artifacts/checkpoint/history.json",
        "artifacts/checkpoint/vocabulary.json",
        "artifacts/checkpoint/weights.safetensors",
        "artifacts/pipeline/__init__.py",
        "artifacts/pipeline/prediction.py",
        "artifacts/pipeline/voice.py",
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "served_model.py",
        "serving_input_example.json",
    }
    text = "".join((directory / name).read_text() for name in ("MLmodel", "requirements.txt"))
    assert str(root) not in text
    assert str(ROOT) not in text
    assert "+cpu" not in text
    example = json.loads((directory / "input_example.json").read_text())
    assert example["data"] == [["今天 天气"], ["我 想"]]


def test_requirements_are_few_and_pinned() -> None:
    lines = pinned_requirements()
    assert [line.partition("==")[0] for line in lines] == list(REQUIREMENTS)
    assert all("==" in line and "+" not in line for line in lines)


def test_a_version_is_removed_by_the_command_that_is_told(registry: Registry, root: Path) -> None:
    registry.publish(publication(root, tags={"snapshot": "s1"}))
    registry.publish(publication(root, bias=0.7, variant="lstm"))
    gone, kept = sorted(registry.versions(NAME), key=lambda each: each.version)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", registry.removal_of(gone)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert registry.versions(NAME) == [kept]
    left = [each.as_posix() for each in (root / "mlflow").rglob("*") if each.is_file()]
    assert any(kept.run_id in each for each in left)
    assert not any(gone.run_id in each or gone.model_id in each for each in left)


def test_promotion_names_the_champion_and_the_one_before(registry: Registry, root: Path) -> None:
    for bias in (1.0, 2.0, 3.0):
        registry.publish(publication(root, bias=bias))
    registry.promote(NAME, 1, "the first")
    registry.promote(NAME, 3, "better by\n 1.2 points")
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.version == 3
    assert champion.champion
    assert champion.aliases == ("champion", "gru")
    assert champion.tags["promotion_reason"] == "better by 1.2 points"
    assert champion.tags["promoted_at"].endswith("+00:00")
    assert champion.tags["champion"] == "yes"
    assert champion.headline == "top-5 41.8% ppl 85.0"
    assert champion.description.endswith("**Promoted to champion**: better by 1.2 points")
    before = _by_number(registry)[1]
    assert before.aliases == ("previous_champion",)
    assert "champion" not in before.tags
    model = registry._store.client.get_registered_model(NAME)
    assert model.tags["champion"] == "v3 gru: top-5 41.8% ppl 85.0"

    registry.promote(NAME, 3, "said again")
    assert registry.champion(NAME) == champion
    assert _by_number(registry)[1] == before


def test_the_last_retraining_is_told_also_where_the_champion_stayed(
    registry: Registry, root: Path
) -> None:
    with pytest.raises(StorageError, match="'talks' cannot show its last retraining"):
        registry.note_decision("talks", "no such model")
    registry.publish(publication(root))
    assert registry.decision(NAME) == ""
    registry.note_decision(NAME, "gru has the best\nvalidation score: lstm stays")
    assert registry.decision(NAME) == "gru has the best validation score: lstm stays"


def test_rollback_swaps_the_champions(registry: Registry, root: Path) -> None:
    with pytest.raises(StorageError, match=r"no registered model .*; nothing was published yet"):
        registry.rollback(NAME)
    registry.publish(publication(root, bias=1.0))
    registry.publish(publication(root, bias=2.0, variant="lstm"))
    registry.promote(NAME, 1, "the first")
    with pytest.raises(StorageError, match="has no earlier champion to go back to"):
        registry.rollback(NAME)
    registry.promote(NAME, 2, "better")
    back = registry.rollback(NAME)
    assert (back.version, back.champion, back.tags["champion"]) == (1, True, "yes")
    loser = _by_number(registry)[2]
    assert loser.aliases == ("lstm", "previous_champion")
    assert loser.tags["rolled_back"].endswith("to version 1")
    assert "champion" not in loser.tags
    assert loser.description.endswith("champion**: better\n\n**Rolled back**: to version 1")
    assert back.description.endswith("the first\n\n**Champion again**: rolled back from version 2")
    assert registry.load(NAME).info.version == 1

    assert registry.rollback(NAME).version == 2
    assert "rolled_back" not in _by_number(registry)[2].tags
    assert "rolled_back" in _by_number(registry)[1].tags
    registry.promote(NAME, 1, "the first")
    again = _by_number(registry)[1]
    assert "rolled_back" not in again.tags
    assert again.description.endswith("**Promoted to champion**: the first")
    assert again.description.count("the first") == 1


def test_a_wrong_question_gets_a_sentence(published: Path, tmp_path: Path) -> None:
    registry = Registry(published)
    asked: list[tuple[Callable[[], object], str]] = [
        (lambda: registry.load("nobody"), f"no registered model 'nobody'; there are {NAME}"),
        (lambda: registry.load(NAME, version=7), "has no version 7; it has 1, 2"),
        (lambda: registry.load(NAME, variant="lstm"), "no version of the variant 'lstm'; it has"),
        (lambda: registry.load("nobody", variant="lstm"), "no registered model 'nobody'"),
        (lambda: registry.promote(NAME, 7, "x"), "has no version 7; it has 1, 2"),
        (lambda: registry.promote('it\'s "odd"', 1, "x"), "no registered model"),
        (lambda: registry.leaderboard_page("nobody"), "no registered model 'nobody'"),
        (lambda: registry.rollback(NAME), "has no earlier champion to go back to"),
        (lambda: registry.rollback("nobody"), f"no registered model 'nobody'; there are {NAME}"),
        (lambda: Registry(tmp_path / "file" / "below"), "the registry cannot be opened"),
    ]
    (tmp_path / "file").write_text("")
    for ask, message in asked:
        with pytest.raises(StorageError, match=message):
            ask()


def test_without_a_champion_nothing_is_loaded_by_default(registry: Registry, root: Path) -> None:
    with pytest.raises(StorageError, match=r"no registered model .*; nothing was published yet"):
        registry.load(NAME)
    registry.publish(publication(root))
    with pytest.raises(StorageError, match="has no champion yet; promote a version"):
        registry.load(NAME)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "leave out slashes, colons and control characters"),
        ({"name": "a\nb"}, "leave out slashes, colons and control characters"),
        ({"name": ".."}, "do not begin with a blank or two dots"),
        ({"key": "it's"}, "use letters, digits"),
        ({"variant": "champion"}, "cannot be an alias"),
        ({"variant": "v1"}, "cannot be an alias"),
        ({"variant": "GRU"}, "cannot be an alias"),
        ({"examples": []}, "needs at least one example"),
        ({"parameters": {"top": ("int64", 1)}}, "'top' has the type 'int64'; use one of string"),
        ({"ranked_by": "test/bleu"}, "no score 'test/bleu' to rank by; there are test/top_5"),
        ({"checkpoint": "/nowhere"}, "checkpoint /nowhere cannot be read"),
        ({"checkpoint_digest": "0" * 64}, "does not have the digest"),
        ({"code": Path("/nowhere")}, "the package /nowhere has no module prediction"),
    ],
)
def test_what_cannot_be_published_leaves_nothing_behind(
    registry: Registry, root: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        registry.publish(publication(root, **changes))
    assert registry.names() == []


def test_a_wrong_input_gets_a_sentence(published: Path) -> None:
    model = Registry(published).load(NAME)
    asked: list[tuple[list[str] | pd.DataFrame, dict[str, Any], str]] = [
        (["x"], {"beam": 3}, "this has no parameter 'beam': it takes top, temperature"),
        (["x"], {"top": "many"}, "top is 'many': give a whole number"),
        (["坏"], {}, "cannot read this"),
        (pd.DataFrame({"prompt": ["x"]}), {}, "reads the column 'text': the .* are 'prompt'"),
        (pd.DataFrame({"text": [1]}), {}, "row 1 is a number, 1: give a text"),
    ]
    for texts, params, message in asked:
        with pytest.raises(StorageError, match=message):
            model.predict(texts, params)


def test_a_package_that_does_not_predict_is_not_registered(registry: Registry, root: Path) -> None:
    with pytest.raises(StorageError, match=r"does not predict .*cannot read this.*; nothing was"):
        registry.publish(publication(root, examples=["坏"]))
    assert registry.names() == []
    assert registry.publish(publication(root)).version == 1
    assert len(_runs(registry)) == 1


@pytest.mark.parametrize("part", ["checkpoint/config.json", "pipeline/voice.py"])
def test_a_version_that_was_tampered_with_is_not_loaded(
    published: Path, tmp_path: Path, part: str
) -> None:
    registry = Registry(shutil.copytree(published, tmp_path / "root"))
    model_id = _by_number(registry)[1].model_id
    directory = Path(registry._store.client.get_logged_model(model_id).artifact_location)
    file = directory / "artifacts" / part
    file.write_text(file.read_text().replace("next_word", "other").replace("!", "?"))
    with pytest.raises(StorageError, match="are not those that were published"):
        registry.load(NAME, version=1)


NASTY = [
    "a?b",
    "a?mode=ro",
    "a%41b",
    "%3F%",
    "a#b",
    "a;b",
    "a b",
    " a ",
    "a&b=c",
    "a:b@c",
    "a\\b",
    "it's",
    'say "x"',
    "both ' and \"",
    "$(touch x)`touch y`",
    "-rf",
    "...",
    "{0}%s",
    "词😀",
    "é\u0301",
    "line\nbreak",
    "a' OR name != 'a",
    "x" * 200,
]
"""Names with characters that mean something in an address, a query, a shell or a format."""


@pytest.mark.parametrize("folder", NASTY, ids=lambda each: ascii(each)[:20])
def test_a_warehouse_may_lie_in_a_folder_of_any_name(
    published: Path, tmp_path: Path, folder: str
) -> None:
    root = Path(shutil.copytree(published, tmp_path / "in" / folder / folder))
    registry = Registry(root)
    assert list(registry.load(NAME).predict(["x"])["prediction"]) == ["x天气!"]
    assert registry.publish(publication(root, bias=3.0)).version == 3
    assert not registry.publish(publication(root, bias=3.0)).new
    info = registry.find(NAME, 3)
    assert Registry(root).checkpoint_directory(info).is_relative_to(root)
    found = sorted(path.relative_to(root).as_posix() for path in tmp_path.rglob("*.db"))
    assert found == ["mlflow/mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == [folder]


@pytest.mark.parametrize("folder", ["a?b%41#c;d", 'it\'s "x"'])
def test_a_new_database_lies_in_its_folder(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / folder
    registry = Registry(root)
    registry.publish(publication(root))
    assert [path.relative_to(root).as_posix() for path in tmp_path.rglob("*.db")] == [
        "mlflow/mlflow.db"
    ]
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", registry.removal_of(registry.find(NAME, 1))],
        env={**os.environ, "PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert registry.versions(NAME) == []
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_a_model_may_have_any_name(registry: Registry, root: Path) -> None:
    names = [name.strip() for name in NASTY if not {":", "\n"} & set(name) and name != "..."]
    for number, name in enumerate(names):
        said = publication(root, name=name, bias=float(number), tags={"snapshot": name})
        assert registry.publish(said).version == 1
        registry.promote(name, 1, name)
        assert not registry.publish(said).new
        assert [one.tags["snapshot"] for one in registry.versions(name)] == [name]
        assert registry.load(name).predict(["x"])["candidates"][0][0]["score"] == number
        assert quote(name) in registry.page(name)
        registry.note_decision(name, name)
    assert registry.names() == sorted(names)
    experiments = root / "mlflow" / "artifacts"
    assert len(list(experiments.iterdir())) == len(names)
    assert sorted(path.name for path in (root / "mlflow").iterdir() if path.is_dir()) == [
        "artifacts"
    ]


@pytest.mark.parametrize("num_bytes", [0, 5_000, 200_000])
def test_a_damaged_database_gets_a_sentence(root: Path, num_bytes: int) -> None:
    database = root / "mlflow" / "mlflow.db"
    database.write_bytes(database.read_bytes()[:num_bytes])
    with pytest.raises(StorageError, match=r"database is damaged .*restore .* from a backup"):
        Registry(root).versions(NAME)


def test_a_database_that_is_damaged_in_use_gets_a_sentence(
    registry: Registry, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert registry.versions(NAME) == []
    with closing(sqlite3.connect(root / "mlflow" / "mlflow.db")) as database:
        database.execute("drop table registered_models")
    with pytest.raises(StorageError, match="database is damaged"):
        registry.versions(NAME)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_does_not_answer_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    remedy = "http://127.0.0.1:1 does not answer; start it or unset MLFLOW_TRACKING_URI"
    for address in ("http://127.0.0.1:1", "http://me:secret@127.0.0.1:1"):
        with pytest.raises(StorageError, match=remedy) as raised:
            Registry(tmp_path, address)
        assert "secret" not in str(raised.value)


def test_a_moved_warehouse_still_works(registry: Registry, root: Path, tmp_path: Path) -> None:
    registry.publish(publication(root, bias=1.0))
    moved = root.rename(tmp_path / "moved")
    again = Registry(moved)
    assert list(again.load(NAME, version=1).predict(["x"])["prediction"]) == ["x天气!"]
    assert again.publish(publication(moved, bias=2.0)).version == 2
    assert not root.exists()


def test_the_database_is_made_once_by_many_processes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fresh SQLite file kills most of those who meet at it, unless one makes it for all."""
    started = [_fork(lambda: Registry(tmp_path)) for _ in range(4)]
    assert [_exit_status(child) for child in started] == [0, 0, 0, 0]
    # Nothing of MLflow's and Alembic's own talk may reach the terminal.
    assert capfd.readouterr() == ("", "")
    with closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as database:
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)
    assert not Path("mlruns").exists()
    assert Registry(tmp_path).names() == []


def test_publishing_says_nothing(
    registry: Registry, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    registry.publish(publication(root))
    registry.promote(NAME, 1, "the first")
    registry.load(NAME).predict(["x"])
    assert capfd.readouterr() == ("", "")


# --- kills ----------------------------------------------------------------------------------------


def _fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process, whose id this gives.

    Forking spares each kill the seconds that importing MLflow takes. The parent must not have
    opened the registry that the child works on.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def _exit_status(child: int) -> int:
    """Wait for a child; its status, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _in_child(work: Callable[[], object]) -> int:
    return _exit_status(_fork(work))


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


KILLS = [
    ("create_experiment", "before"),
    ("create_experiment", "after"),
    ("create_run", "before"),
    ("create_run", "after"),
    ("log_batch", "after"),
    ("log_inputs", "after"),
    ("log_text", "after"),
    ("create_logged_model", "after"),
    ("log_model_artifacts", "before"),
    ("log_model_artifacts", "after"),
    ("finalize_logged_model", "after"),
    ("log_outputs", "after"),
    ("set_terminated", "after"),
    ("create_registered_model", "before"),
    ("create_registered_model", "after"),
    ("create_model_version", "before"),
    ("create_model_version", "after"),
    ("set_tag", "after"),
    ("set_registered_model_alias", "after"),
    ("set_experiment_tag", "before"),
]


@pytest.mark.parametrize(("method", "moment"), KILLS)
def test_a_publication_that_was_killed_is_made_good_by_the_next(
    root: Path, method: str, moment: str
) -> None:
    wanted = publication(root)

    def killed() -> None:
        registry = Registry(root)
        real = getattr(registry._store.client, method)

        def fatal(*args: Any, **kwargs: Any) -> None:
            if moment == "after":
                real(*args, **kwargs)
            _die()

        setattr(registry._store.client, method, fatal)
        registry.publish(wanted)

    assert _in_child(killed) == -signal.SIGKILL

    registry = Registry(root)
    registry.publish(wanted)
    again = registry.publish(wanted)
    assert (again.version, again.new) == (1, False)
    (info,) = registry.versions(NAME)
    assert info.aliases == ("gru",)
    assert info.tags["version"] == "1"
    assert info.metrics["test/top_5"] == 0.418
    (run,) = _runs(registry)
    assert (run.info.run_id, run.info.status) == (info.run_id, "FINISHED")
    experiment = registry._store.client.get_experiment_by_name(NAME)
    assert experiment is not None
    assert "mlflow.sharedViewState.leaderboard" in experiment.tags
    models = registry._store.client.search_logged_models([experiment.experiment_id])
    assert [model.model_id for model in models] == [info.model_id]
    # Nothing of the dead attempt takes up space.
    artifacts = Path(experiment.artifact_location)
    assert [path.name for path in (artifacts / "models").iterdir()] == [info.model_id]
    assert {path.name for path in artifacts.iterdir()} == {"models", info.run_id}
    assert list(registry.load(NAME, version=1).predict(["x"])["prediction"]) == ["x天气!"]


@pytest.mark.parametrize(
    ("method", "moment"),
    [
        ("set_registered_model_alias", "before"),
        ("set_registered_model_alias", "after"),
        ("set_tag", "after"),
        ("set_registered_model_tag", "before"),
        ("update_model_version", "before"),
        ("update_model_version", "after"),
        ("set_model_version_tag", "before"),
    ],
)
def test_a_promotion_that_was_killed_is_completed_by_the_next(
    published: Path, tmp_path: Path, method: str, moment: str
) -> None:
    root = Path(shutil.copytree(published, tmp_path / "root"))

    def killed() -> None:
        registry = Registry(root)
        real = getattr(registry._store.client, method)

        def fatal(*args: Any, **kwargs: Any) -> None:
            if moment == "after":
                real(*args, **kwargs)
            _die()

        setattr(registry._store.client, method, fatal)
        registry.promote(NAME, 2, "better")

    assert _in_child(killed) == -signal.SIGKILL
    registry = Registry(root)
    registry.promote(NAME, 2, "better")
    champion, before = _by_number(registry)[2], _by_number(registry)[1]
    assert champion.champion
    assert champion.tags["champion"] == "yes"
    assert "champion" not in before.tags
    assert champion.description.count("**Promoted to champion**: better") == 1
    assert champion.tags["promotion_reason"] == "better"
    assert before.aliases == ("previous_champion",)


# --- servers and clean environments ---------------------------------------------------------------


@pytest.mark.slow
def test_the_server_shows_what_was_published(registry: Registry, root: Path) -> None:
    registry.publish(publication(root))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            registry.server_command(port=port),
            env={**os.environ, **registry.server_environment()},
            cwd=root,
            stdout=log,
            stderr=log,
        )
    try:
        page = f"http://127.0.0.1:{port}"
        _wait_for(f"{page}/health", server)
        remote = Registry(root / "elsewhere", tracking_uri=page)
        assert remote.page("a") == f"{page}/#/models/a?workflowType=machine_learning"
        assert [one.version for one in remote.versions(NAME)] == [1]
        published = remote.publish(publication(root, bias=2.0, name="remote"))
        assert published.version == 1
        assert not remote.publish(publication(root, bias=2.0, name="remote")).new
        remote.promote("remote", 1, "the first")
        assert list(remote.load("remote").predict(["x"])["prediction"]) == ["x天气!"]
        with pytest.raises(StorageError, match="is shown at"):
            remote.server_command()
    finally:
        server.terminate()
        server.wait()


@pytest.mark.network
@pytest.mark.timeout(1200)
def test_a_version_loads_where_only_its_requirements_are(
    registry: Registry, root: Path, tmp_path: Path
) -> None:
    version = registry.publish(publication(root))
    source = Path(registry._store.client.get_logged_model(version.model_id).artifact_location)
    model = shutil.copytree(source, tmp_path / "model")
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", with_pip=True)
    environment = {
        key: value for key, value in os.environ.items() if key.startswith(("PATH", "PIP_", "HOME"))
    }
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", model / "requirements.txt"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"pip cannot make the environment: {done.stderr.strip().splitlines()[-1]}")
    script = """
        import sys, mlflow.pyfunc, pandas as pd
        model = mlflow.pyfunc.load_model(sys.argv[1])
        answer = model.predict(pd.DataFrame({"text": ["我"]}), params={"top": 1})
        assert not {"warehouse", "pipeline"} & set(sys.modules)
        print(answer.to_json(orient="records", force_ascii=False))
    """
    done = subprocess.run(
        [python, "-c", "\n".join(line.strip() for line in script.splitlines()), model],
        env={**environment, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"prediction": "我天气!", "candidates": [{"text": "我天气!", "score": 0.5}]}
    ]


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, TimeoutError):
            threading.Event().wait(0.1)
        else:
            return
    raise AssertionError(f"the server at {address} did not answer")


def _runs(registry: Registry) -> list[Any]:
    experiment = registry._store.client.get_experiment_by_name(NAME)
    return [] if experiment is None else registry._store.search_runs(experiment.experiment_id, "")


def _by_number(registry: Registry) -> dict[int, VersionInfo]:
    return {info.version: info for info in registry.versions(NAME)}


def test_the_address_of_a_registry_does_not_outlive_its_use(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry.publish(publication(root))
    registry.load(NAME, version=1)
    assert "MLFLOW_TRACKING_URI" not in os.environ
