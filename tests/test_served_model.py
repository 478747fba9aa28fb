"""The file that travels with a version: each copy of the package runs under its own name."""

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from warehouse.registry import served_model
from warehouse.registry.served_model import ServedModel, import_under_own_name, source_digest

PREDICTION = """
import json
from collections import namedtuple

from .rules import RULE

Candidate = namedtuple("Candidate", "text score")


class Predictor:
    example = "a"

    def __init__(self, words, scale, device):
        self.words, self.scale, self.device = words, scale, device

    def checked_parameters(self, parameters):
        return {name: value for name, value in parameters.items() if value is not None}

    def predict(self, texts, *, top=3, max_length=9):
        return [
            [Candidate(f"{text}{word}{RULE}{max_length}", self.scale) for word in self.words[:top]]
            for text in texts
        ]


def load_predictor(config, weights, vocabularies, device):
    assert config == {"problem": "next_word"} and set(vocabularies) == {"vocabulary"}
    words = json.loads(vocabularies["vocabulary"])
    return Predictor(words, float(weights["scale"][0]), device)
"""


def write_package(package: Path, rule: str) -> Path:
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "prediction.py").write_text(PREDICTION)
    (package / "rules.py").write_text(f"RULE = {rule!r}\n")
    return package


def load(directory: Path, rule: str, device: str | None = "cpu") -> ServedModel:
    package = write_package(directory / rule / "pipeline", rule)
    checkpoint = directory / rule / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"problem": "next_word"}')
    (checkpoint / "history.json").write_text("[]")
    (checkpoint / "vocabulary.json").write_text(json.dumps(["天", "人"]))
    save_file({"scale": torch.tensor([0.25])}, checkpoint / "weights.safetensors")
    model = ServedModel()
    model.load_context(
        SimpleNamespace(  # type: ignore[arg-type]
            artifacts={"checkpoint": str(checkpoint), "pipeline": str(package)},
            model_config={"device": device} if device else None,
        )
    )
    return model


def predict(model: ServedModel, texts: list[Any], **params: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"text": texts}, dtype="object")
    return model.predict(None, frame, params)  # type: ignore[arg-type]


def test_one_row_for_each_text_with_all_its_candidates(tmp_path: Path) -> None:
    answer = predict(load(tmp_path, "a"), ["今", None, ""], top=1)
    assert answer.to_dict("list") == {
        "prediction": ["今天a9", "天a9", "天a9"],
        "candidates": [[{"text": f"{text}天a9", "score": 0.25}] for text in ("今", "", "")],
    }


def test_no_rows_and_no_candidates_are_answers_too(tmp_path: Path) -> None:
    model = load(tmp_path, "a")
    empty = predict(model, [])
    assert (len(empty), list(empty.columns)) == (0, ["prediction", "candidates"])
    none = predict(model, ["x"], top=0)
    assert none.to_dict("list") == {"prediction": [""], "candidates": [[]]}


def test_a_parameter_that_is_none_keeps_its_default(tmp_path: Path) -> None:
    model = load(tmp_path, "a", device=None)
    assert list(predict(model, ["x"], max_length=None)["prediction"]) == ["x天a9"]
    assert list(predict(model, ["x"], max_length=4)["prediction"]) == ["x天a4"]


def test_different_code_lives_side_by_side(tmp_path: Path) -> None:
    old, new = load(tmp_path, "old"), load(tmp_path, "new")
    assert list(predict(new, ["x"])["prediction"]) == ["x天new9"]
    assert list(predict(old, ["x"])["prediction"]) == ["x天old9"]


def test_the_same_code_is_imported_once(tmp_path: Path) -> None:
    first = import_under_own_name(write_package(tmp_path / "a" / "pipeline", "same"))
    second = import_under_own_name(write_package(tmp_path / "b" / "pipeline", "same"))
    assert second is first
    assert first.__name__.startswith("tidemill_pipeline_")


def test_code_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    package = write_package(tmp_path / "pipeline", "broken")
    (package / "rules.py").write_text("raise RuntimeError('half')\n")
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="half"):
            import_under_own_name(package)
    assert set(sys.modules) == before


def test_importing_writes_nothing_beside_the_sources(tmp_path: Path) -> None:
    package = write_package(tmp_path / "pipeline", "clean")
    import_under_own_name(package)
    assert sorted(path.name for path in package.rglob("*")) == [
        "__init__.py",
        "prediction.py",
        "rules.py",
    ]


def test_the_digest_is_of_names_and_sources(tmp_path: Path) -> None:
    one = write_package(tmp_path / "a", "x")
    two = write_package(tmp_path / "b", "x")
    (two / "notes.txt").write_text("not code")
    assert source_digest(one) == source_digest(two)
    (two / "rules.py").rename(two / "laws.py")
    assert source_digest(one) != source_digest(two)
    (one / "rules.py").write_text("RULE = 'y'\n")
    assert source_digest(one) != source_digest(write_package(tmp_path / "c", "x"))


def test_the_file_stands_alone_and_ends_by_naming_its_model() -> None:
    """MLflow reads a global that any code after this line could change."""
    tree = ast.parse(Path(served_model.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"mlflow", "numpy", "pandas", "safetensors"}
    assert ast.unparse(tree.body[-1]) == "set_model(ServedModel())"
