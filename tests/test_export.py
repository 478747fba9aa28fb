"""A version leaves as a folder that runs alone, and types as the version does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows.command.cli import main
from flows.export import export as export_module
from flows.export.export import export
from flows.export.export_client import NextWord, splitter
from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.variants import parse_variant
from pipeline.prediction import load_predictor
from pipeline.problems import LanguageModel, Problem
from pipeline.problems import NextWord as NextWordProblem
from pipeline.problems.batches import Examples
from pipeline.problems.predictor import ModelConfig, Predictor
from pipeline.problems.ragged import Ragged
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit
from warehouse.checkpoints import Checkpoints, read_checkpoint
from warehouse.registry.publication import DatasetInfo, Publication
from warehouse.registry.registry import Registry
from warehouse.registry.versions import Version
from warehouse.tables.example_schemas import token_table
from warehouse.tables.tables import Tables

TEXTS = ["我们 今天 去 看 电影", "今天 天气 很 好", "你 想 去 看 电影 吗", "我 想 吃 \x1b[31m饺子"]
ROWS = [text.split(" ") for text in TEXTS]
WORDS = Vocabulary(sorted({word for row in ROWS for word in row}))
WHITESPACE = TextConfig(unit="whitespace", normalisation=())


pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with a model of each kind, which know their texts by heart."""
    root = tmp_path_factory.mktemp("export") / "warehouse"
    registry = Registry(root)
    table = Tables(root).write([token_table(["tokens"], [ROWS])])
    stream = publish(root, registry, LanguageModel(bptt=8, scoring_streams=1), "lstm-2", table.path)
    registry.promote("stream", stream.version, "the only one")
    publish(root, registry, NextWordProblem(window=2), "bigru", table.path)
    return root


def publish(root: Path, registry: Registry, problem: Problem, variant: str, uri: str) -> Version:
    config = ModelConfig(problem, parse_variant(variant), NetworkConfig(16, 32, 0.0), WHITESPACE)
    examples = Examples(Ragged.of([WORDS.encode(row) for row in ROWS]))
    fitted = fit(
        problem,
        config.variant,
        config.network,
        TrainingConfig(num_epochs=40, batch_size=8, learning_rate=0.02, patience=None),
        examples,
        examples,
        [len(WORDS)],
        device=torch.device("cpu"),
    )
    checkpoint = Checkpoints(root).save(
        config.to_dict(), fitted.weights, {"vocabulary": WORDS.to_json()}, []
    )
    return registry.publish(
        Publication(
            name="stream" if isinstance(problem, LanguageModel) else "window",
            key=f"{variant}-1",
            variant=variant,
            problem=problem.name,
            headline="by heart",
            checkpoint=str(root / checkpoint.path),
            checkpoint_digest=checkpoint.digest,
            datasets=[DatasetInfo(name="texts", digest="1" * 12, context="valid", uri=uri)],
            tags={"snapshot": "5" * 64},
            examples=["今天"],
        )
    )


def predictor_of(registry: Registry, name: str, version: int) -> Predictor:
    found = read_checkpoint(registry.checkpoint_directory(registry.find(name, version)))
    return load_predictor(found.config, found.weights, found.vocabularies)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize(("name", "version"), [("stream", 1), ("window", 1)])
def test_the_client_types_as_the_version_does(
    root: Path, tmp_path: Path, name: str, version: int, precision: str
) -> None:
    registry = Registry(root)
    report = export(root, registry, registry.find(name, version), tmp_path / "a" / "b", precision)
    folder = Path(report.folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(export_module.FILES)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["b"]
    assert report.num_words == sum(map(len, ROWS))
    assert report.overlap is not None and report.overlap >= (1 if precision == "fp32" else 0.98)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert (meta["variant"], meta["precision"]) == (report.variant, precision)
    assert meta["compared"]["overlap"] == report.overlap
    assert meta["compared"]["snapshot"] == "5" * 64

    session, client = predictor_of(registry, name, version).session(), NextWord(folder)
    close = 1e-5 if precision == "fp32" else 0.05

    def same() -> None:
        ours, theirs = session.suggest(3), client.suggest(3)
        assert dict(theirs)[ours[0].text] == pytest.approx(ours[0].score, abs=close)
        assert len(theirs) == 3

    for word in ["今天", "天气", "龘"]:
        session.feed(word)
        client.feed(word)
        same()
    session.undo()
    client.undo()
    same()
    assert client.suggest(1)[0][0] == "很"
    session.reset()
    client.reset()
    client.undo()
    same()
    assert len(client.suggest(100)) == len(WORDS.words)
    assert sum(share for _, share in client.suggest(100)) <= 1 + 1e-6


def test_the_client_reads_again_what_it_no_longer_keeps(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(root)
    export(root, registry, registry.find("stream"), tmp_path / "e", "fp32")
    monkeypatch.setattr("flows.export.export_client.KEPT_STATES", 2)
    client, fresh = NextWord(tmp_path / "e"), NextWord(tmp_path / "e")
    client.feed(*ROWS[0], *ROWS[1])
    for _ in range(7):
        client.undo()
    fresh.feed(*ROWS[0][:2])
    assert dict(client.suggest(5)) == pytest.approx(dict(fresh.suggest(5)))


def test_an_export_that_suggests_other_words_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(root)
    version = registry.find("stream")
    export(root, registry, version, tmp_path / "e", "fp32")
    before = (tmp_path / "e" / "model.onnx").read_bytes()
    # Two bits a weight are too few for any network.
    monkeypatch.setattr("pipeline.onnx_export.LARGEST_WEIGHT", 1)
    monkeypatch.setattr(export_module, "NUM_OFFERED", 2)
    with pytest.raises(InputError, match=r"the int8 export has \d\d\.\d\d%.*--precision fp32"):
        export(root, registry, version, tmp_path / "e", "int8")
    assert (tmp_path / "e" / "model.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_a_preview_that_misses_likely_words_stays_behind(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(root)
    version = registry.find("stream")
    assert not export(root, registry, version, tmp_path / "e", "int8").preview
    monkeypatch.setattr("pipeline.onnx_export.MIN_PREVIEWED", 1)
    monkeypatch.setattr("pipeline.onnx_export.NUM_PREVIEWED", 5)
    monkeypatch.setattr(export_module, "NUM_OFFERED", 3)
    monkeypatch.setattr(export_module, "MIN_OVERLAP", 0.9)
    # A preview of all features is as good as none; one of a single feature is not.
    for share, preview in ((1, True), (32, False)):
        monkeypatch.setattr("pipeline.onnx_export.PREVIEW_SHARE", share)
        report = export(root, registry, version, tmp_path / "e", "int8")
        meta = json.loads((tmp_path / "e" / "meta.json").read_text(encoding="utf-8"))
        assert (report.preview, meta["preview"]) == (preview, preview)
        assert report.overlap is not None and report.overlap >= 0.9


def test_without_validation_rows_only_fp32_goes_out(root: Path, tmp_path: Path) -> None:
    registry = Registry(root)
    version, elsewhere = registry.find("window", 1), tmp_path / "warehouse"
    with pytest.raises(InputError, match="window --snapshot 555555555555, or export with --prec"):
        export(elsewhere, registry, version, tmp_path / "e", "int8")
    assert not (tmp_path / "e").exists()
    report = export(elsewhere, registry, version, tmp_path / "e", "fp32")
    assert (report.overlap, report.num_words) == (None, 0)


def test_only_an_export_is_replaced(root: Path, tmp_path: Path) -> None:
    registry = Registry(root)
    version = registry.find("stream")
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    for name, said in (("file", "is a file"), ("mine", "holds notes.txt")):
        with pytest.raises(InputError, match=said):
            export(root, registry, version, tmp_path / name, "fp32")
    folder = tmp_path / "empty"
    folder.mkdir()
    for _ in range(2):
        export(root, registry, version, folder, "fp32")
    (folder / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        export(root, registry, version, folder, "fp32")
    (folder / "notes.txt").unlink()
    (folder / "meta.json").write_text("{}")
    with pytest.raises(InputError, match="files that no export wrote"):
        export(root, registry, version, folder, "fp32")


def test_many_rows_are_thinned_out_evenly(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "NUM_WORDS", 10)
    rows = [[str(number)] * (1 + number % 3) for number in range(200)]
    table = Tables(root).write([token_table(["tokens"], [rows])])
    kept = export_module._validation_rows(root, table.path, "tokens")
    numbers = [int(row[0]) for row in kept]
    assert 10 <= sum(map(len, kept)) <= 20
    assert len({b - a for a, b in pairwise(numbers)}) == 1
    assert numbers[-1] > 150


def test_the_command_tells_what_it_measured(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--warehouse", str(root)]
    assert main(["export", "window", str(tmp_path / "e"), "--version", "1", *place]) == 0
    shown = capsys.readouterr().out
    assert (
        "version 1 (bigru) of window" in shown
        and f"over {sum(map(len, ROWS))} words of validation" in shown
    )
    wrong = ["--version", "1", "--precision", "int4", *place]
    assert main(["export", "window", str(tmp_path / "e"), *wrong]) == 2
    assert "did you mean int8? The choices are int8, fp32" in capsys.readouterr().err

    # In a process of its own, which knows nothing of Tidemill.
    lines = "今天 天气\n\n我 想 吃\n"
    answer = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "e" / "client.py"), "--top", "2"],
        input=lines.encode(),
        capture_output=True,
        check=True,
        cwd="/",
    )
    first, begin, last = answer.stdout.decode().splitlines()
    assert first.startswith("很 0.") and len(begin.split("  ")) == 2
    assert last.startswith(r"\x1b[31m饺子 0.") and not answer.stderr


def test_lines_are_cut_as_training_cut_them() -> None:
    words = {"language": "zh", "unit": "word", "user_words": [], "hmm": True}
    assert splitter({"text": words})("今天天气 很好") == ["今天天气", "很", "好"]
    assert splitter({"text": words | {"unit": "char"}})("今 天") == ["今", " ", "天"]
    assert splitter({"text": words | {"language": "en"}})("to day") == ["to", "day"]


# --- typing ---------------------------------------------------------------------------------------


def type_(monkeypatch: pytest.MonkeyPatch, root: Path, lines: Any, *arguments: str) -> int:
    stdin = SimpleNamespace(buffer=lines, isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    return main(["type", *arguments, "--warehouse", str(root)])


def test_suggestions_come_line_by_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = BytesIO("今天\n天气\r\n/undo\n\n我 想\n吃".encode())
    assert type_(monkeypatch, root, lines, "stream", "--top", "2", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["words"] for each in found] == [
        ["今天"],
        ["今天", "天气"],
        ["今天"],
        [],
        ["我", "想"],
        ["我", "想", "吃"],
    ]
    assert found[0] == found[2] and found[1]["candidates"][0]["text"] == "很"
    assert found[-1]["candidates"][0]["text"] == "\x1b[31m饺子"
    assert {len(each["candidates"]) for each in found} == {2}

    assert type_(monkeypatch, root, BytesIO("我 想 吃\n".encode()), "window", "--version", "1") == 0
    shown = capsys.readouterr()
    assert r"\x1b[31m饺子 0." in shown.out and "\x1b" not in shown.out
    assert shown.err == "Loading MLflow ...\nLoading version 1 of window ...\n"


def test_typing_ends_cleanly(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> Iterator[bytes]:
        yield "今天\n".encode()
        raise KeyboardInterrupt

    assert type_(monkeypatch, root, interrupted(), "stream") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert type_(monkeypatch, root, BytesIO(), "stream") == 0
    assert type_(monkeypatch, root, BytesIO(b"\xff\n"), "stream") == 2
    assert "line 1 of the input is not UTF-8" in capsys.readouterr().err
    assert type_(monkeypatch, root, BytesIO(), "stream", "--top", "0") == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_version_that_mlflow_loads_has_sessions(root: Path) -> None:
    registry = Registry(root)
    session = registry.load("stream")._model.unwrap_python_model().session()
    session.feed("今天 天气")
    assert session.suggest(1)[0].text == "很"
