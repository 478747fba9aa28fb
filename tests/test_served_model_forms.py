"""Every form of input that MLflow lets through: the right rows, or one sentence."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.problems.next_word.problem import NextWord
from pipeline.problems.predictor import ModelConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary
from warehouse.checkpoints import Checkpoints
from warehouse.errors import StorageError
from warehouse.registry.loaded_model import LoadedModel
from warehouse.registry.publication import Publication
from warehouse.registry.registry import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A version of an untrained model, whose two likeliest next words depend on the text."""
    root = tmp_path_factory.mktemp("forms")
    problem, network = NextWord(window=2), NetworkConfig(8, 8, 0.0)
    words = Vocabulary(list("今天气好"))
    variant, text = Variant.parse("gru"), TextConfig(unit="char")
    torch.manual_seed(1)
    weights = problem.build(variant, network, [len(words)]).state_dict()
    config = ModelConfig(problem, variant, network, text).to_dict()
    ref = Checkpoints(root).save(config, weights, {"vocabulary": words.to_json()}, [])
    registry = Registry(root)
    registry.publish(
        Publication(
            name="forms",
            key="one",
            variant="gru",
            problem="next_word",
            headline="",
            checkpoint=str(root / ref.path),
            checkpoint_digest=ref.digest,
            examples=["今天"],
            parameters={"top": (int, 2)},
        )
    )
    return registry


@pytest.fixture(scope="module")
def loaded(registry: Registry) -> LoadedModel:
    return registry.load("forms", version=1)


@pytest.fixture(scope="module")
def model(loaded: LoadedModel) -> PyFuncModel:
    return loaded._model


@pytest.fixture(scope="module")
def http(model: PyFuncModel) -> TestClient:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        return TestClient(scoring_server.init(model))


def scores(answer: Any) -> list[list[float]]:
    return [[one["score"] for one in row] for row in answer]


def expected(model: PyFuncModel, texts: list[str]) -> list[list[float]]:
    return scores(model.predict(pd.DataFrame({"text": texts}, dtype="object"))["candidates"])


AB = ["今天", "天气"]

FORMS: list[tuple[Any, list[str]]] = [
    ("今天", ["今天"]),
    ("", [""]),
    (np.str_("今天"), ["今天"]),
    (AB, AB),
    (tuple(AB), AB),
    ([], []),
    (["今天", None], ["今天", ""]),
    (np.array(AB), AB),
    (np.array(AB, dtype=object), AB),
    (np.array("今天"), ["今天"]),
    (np.array([], dtype=object), []),
    (pd.Series(AB, index=[7, 3], name="other"), AB),
    (pd.Series(AB, dtype="string"), AB),
    (pd.Series(AB, dtype="category"), AB),
    (pd.Series([None, "天气"], dtype="string"), ["", "天气"]),
    ({"text": AB}, AB),
    ({"text": "今天"}, ["今天"]),
    ({"text": tuple(AB)}, AB),
    ({"text": np.array(AB)}, AB),
    ({"text": pd.Series(AB)}, AB),
    ({"text": []}, []),
    ({"text": None}, [""]),
    ({"text": AB, "label": [1, 2]}, AB),
    ([{"text": "今天"}, {"text": "天气", "label": 1}], AB),
    (pd.DataFrame({"text": AB}), AB),
    (pd.DataFrame({"text": AB}, index=[9, 9]), AB),
    (pd.DataFrame({"label": [1, 2], "text": AB}), AB),
    (pd.DataFrame({"text": ["今天", None, float("nan"), pd.NA]}), ["今天", "", "", ""]),
    (pd.DataFrame({"text": [float("nan")]}), [""]),
    (pd.DataFrame({"text": []}), []),
    (pd.DataFrame(), []),
]

REFUSED: list[tuple[Any, str]] = [
    (None, "the input is null: give a text, a list of texts or a table with the column 'text'"),
    (3, "the input is a number, 3: give"),
    (True, "the input is a boolean, True: give"),
    (b"\xe4", "the input is bytes"),
    ({1}, "the input is of type set"),
    ({}, "reads the column 'text': the columns of the input are none"),
    ({"prompt": AB}, "reads the column 'text': the columns of the input are 'prompt'"),
    ({"text": {"0": "a"}}, "row 1 is an object, {'0': 'a'}: give a text"),
    ({"text": [AB]}, "row 1 is a list, "),
    ({"text": ["a", b"b"]}, "row 2 is bytes, "),
    ({"text": [1, 2]}, "row 1 is a number, 1: give a text"),
    ([AB], "row 1 is a list, "),
    (["a", 1.5], "row 2 is a number, 1.5: give a text"),
    (["a", True], "row 2 is a boolean, True: give a text"),
    ([b"a"], "row 1 is bytes, "),
    ([{"prompt": "a"}], "reads the column 'text': the columns of row 1 are 'prompt'"),
    (np.array([["a"], ["b"]]), "the array has 2 dimensions: give one text a row"),
    (np.array([1, 2]), "row 1 is a number, 1: give a text"),
    (np.array([b"a"]), "row 1 is bytes, "),
    (pd.DataFrame({"prompt": AB}), "the columns of the input are 'prompt'"),
    (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "has 2 columns 'text': give one"),
    (pd.DataFrame({"text": [AB]}), "row 1 is a list, "),
    (pd.DataFrame({"text": [1, 2]}), "row 1 is a number, 1: give a text"),
    (pd.DataFrame({0: AB}), "the columns of the input are 0"),
    (pd.Series([1.5]), "row 1 is a number, 1.5: give a text"),
    (["a", "\ud83d"], "row 2 has half of a surrogate pair as character 1"),
]

PARAMETERS: list[tuple[Any, str]] = [
    ({"beam": 3}, "next_word has no parameter 'beam': it takes top"),
    ({"top": 0}, "top is 0: it must be at least 1 and below 2 ** 31"),
    ({"top": -1}, "top is -1: it must be at least 1 and below 2 ** 31"),
    ({"top": 2.5}, "top is 2.5: give a whole number"),
    ({"top": "3"}, "top is '3': give a whole number"),
    ({"top": True}, "top is True: give a whole number"),
    ({"top": [1]}, "top is [1]: give a whole number"),
    ({"top": {"a": 1}}, "top is {'a': 1}: give a whole number"),
    ({"top": 10**30}, "top is 1000000000000000000000000000000: it must be at least 1"),
    ({"": 1}, "next_word has no parameter '': it takes top"),
    ([3], "the parameters are a list, [3]: give an object of names and values"),
    ("top=3", "the parameters are of type str, 'top=3': give an object of names and values"),
]


@pytest.mark.parametrize(("given", "texts"), FORMS, ids=lambda each: repr(each)[:40])
def test_a_form_has_the_rows_that_it_names(
    model: PyFuncModel, given: Any, texts: list[str]
) -> None:
    answer = model.predict(given)
    assert list(answer.columns) == ["prediction", "candidates"]
    assert list(answer.index) == list(range(len(texts)))
    assert scores(answer["candidates"]) == expected(model, texts)


@pytest.mark.parametrize(("given", "sentence"), REFUSED, ids=lambda each: repr(each)[:40])
def test_another_form_is_refused_in_one_sentence(
    model: PyFuncModel, given: Any, sentence: str
) -> None:
    with pytest.raises(MlflowException) as raised:
        model.predict(given)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.get_http_status_code() == 400


@pytest.mark.parametrize("value", [1, 1.0, np.int64(1), np.float32(1)], ids=repr)
def test_a_whole_number_is_a_parameter(model: PyFuncModel, value: Any) -> None:
    assert [len(row) for row in model.predict(AB, params={"top": value})["candidates"]] == [1, 1]
    assert [len(row) for row in model.predict(AB, params={"top": None})["candidates"]] == [2, 2]
    # A dictionary of the caller is the caller's.
    given = {"top": value}
    model.predict(AB, params=given)
    assert given == {"top": value}


@pytest.mark.parametrize(("params", "sentence"), PARAMETERS, ids=lambda each: repr(each)[:40])
def test_a_wrong_parameter_is_refused_in_the_same_sentence_everywhere(
    loaded: LoadedModel, http: TestClient, params: Any, sentence: str
) -> None:
    with pytest.raises(MlflowException) as raised:
        loaded._model.predict(AB, params=params)
    assert str(raised.value).startswith(sentence)
    if isinstance(params, dict):
        with pytest.raises(StorageError) as told:
            loaded.predict(AB, params)
        assert str(told.value) == str(raised.value)
    answer = http.post("/invocations", json={"inputs": AB, "params": params})
    assert answer.status_code == 400
    assert answer.json() == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": str(raised.value),
    }


BODIES: list[tuple[dict[str, Any], list[str]]] = [
    ({"dataframe_split": {"columns": ["text"], "data": [["今天"], ["天气"]]}}, AB),
    ({"dataframe_split": {"columns": ["text"], "data": []}}, []),
    ({"dataframe_split": {"columns": ["x", "text"], "index": [5], "data": [[1, "好"]]}}, ["好"]),
    ({"dataframe_split": {"columns": ["text"], "data": [["今天"], [None]]}}, ["今天", ""]),
    ({"dataframe_records": [{"text": "今天"}, {"text": "天气"}]}, AB),
    ({"dataframe_records": [{"text": "今天"}, {"text": None}]}, ["今天", ""]),
    ({"dataframe_records": []}, []),
    ({"instances": AB}, AB),
    ({"instances": [{"text": "今天"}, {"text": "天气"}]}, AB),
    ({"instances": []}, []),
    ({"inputs": AB}, AB),
    ({"inputs": "今天"}, ["今天"]),
    ({"inputs": ""}, [""]),
    ({"inputs": {"text": AB}}, AB),
    ({"inputs": {"text": "今天"}}, ["今天"]),
    ({"inputs": {"text": ["今天", None]}}, ["今天", ""]),
    ({"inputs": {"text": None}}, [""]),
    ({"inputs": [{"text": "今天"}, {"text": "天气"}]}, AB),
    ({"inputs": []}, []),
    ({"inputs": ["None", "nan"]}, ["None", "nan"]),
]

REFUSED_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"dataframe_split": {"columns": ["prompt"], "data": [["a"]]}}, "reads the column 'text'"),
    ({"dataframe_split": {"columns": ["text"], "data": [[["a", "b"]]]}}, "row 1 is a list"),
    ({"dataframe_split": {"columns": ["text"], "data": [[1]]}}, "row 1 is a number, 1"),
    ({"dataframe_split": {"columns": ["text"], "data": [[True]]}}, "row 1 is a boolean, True"),
    ({"dataframe_records": [{"text": {"a": 1}}]}, "row 1 is an object"),
    ({"dataframe_records": [{"text": ["a", "b"]}]}, "row 1 is a list"),
    ({"dataframe_records": ["a"]}, "reads the column 'text'"),
    ({"instances": [["a"], ["b"]]}, "the array has 2 dimensions"),
    ({"instances": [1]}, "row 1 is a number, 1"),
    ({"instances": [{"text": 1}]}, "row 1 is a number, 1"),
    ({"inputs": None}, "the input is null"),
    ({"inputs": 3}, "the input is a number, 3"),
    ({"inputs": {}}, "reads the column 'text'"),
    ({"inputs": {"text": [["a"], ["b"]]}}, "the array has 2 dimensions"),
    ({"inputs": {"text": [1, 2]}}, "row 1 is a number, 1"),
    ({"prompt": "a"}, "the columns of the input are 'prompt'"),
    ({"messages": [{"role": "user", "content": "a"}]}, "the columns of the input are 'messages'"),
    ({}, "exactly one of the input fields"),
    ({"inputs": AB, "instances": AB}, "exactly one of the input fields"),
]


@pytest.mark.parametrize(("body", "texts"), BODIES, ids=lambda each: repr(each)[:50])
def test_a_body_has_the_rows_that_it_names(
    model: PyFuncModel, http: TestClient, body: dict[str, Any], texts: list[str]
) -> None:
    answer = http.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    found = scores([row["candidates"] for row in answer.json()["predictions"]])
    assert found == pytest.approx(np.array(expected(model, texts))) if texts else found == []


@pytest.mark.parametrize(("body", "sentence"), REFUSED_BODIES, ids=lambda each: repr(each)[:50])
def test_another_body_is_refused_without_a_trace(
    http: TestClient, body: dict[str, Any], sentence: str
) -> None:
    answer = http.post("/invocations", json=body)
    assert answer.status_code == 400
    assert sentence in answer.json()["message"]
    for secret in ("Traceback", "stack_trace", "site-packages", str(Path.home())):
        assert secret not in answer.text


def test_a_table_as_csv_is_read_too(model: PyFuncModel, http: TestClient) -> None:
    headers = {"content-type": "text/csv"}
    answer = http.post("/invocations", content="text,x\n今天,1\n天气,2\n".encode(), headers=headers)
    found = scores([row["candidates"] for row in answer.json()["predictions"]])
    assert found == pytest.approx(np.array(expected(model, AB)))


def test_a_model_that_breaks_down_shows_no_path(
    model: PyFuncModel, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot read {__file__}")

    monkeypatch.setattr(model.unwrap_python_model()._predictor, "predict", broken)
    answer = http.post("/invocations", json={"inputs": AB})
    assert answer.status_code == 500
    assert answer.json() == {
        "error_code": "INTERNAL_ERROR",
        "message": "the model failed (RuntimeError): see the log of the program",
    }


@pytest.mark.filterwarnings("ignore:.*type hints")
def test_other_models_are_called_as_before(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return [model_input, params]

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    mlflow.pyfunc.save_model(str(tmp_path / "echo"), python_model=Echo(), pip_requirements=[])
    assert loaded.predict(AB) is not None
    echo = mlflow.pyfunc.load_model(str(tmp_path / "echo"))
    assert echo.predict(["a"], params={"b": 1}) == [["a"], {}]


@pytest.mark.slow
def test_a_real_server_answers_the_same(registry: Registry) -> None:
    directory = registry.checkpoint_directory(registry.find("forms", 1)).parent.parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("--model-uri", str(directory), "--host", "127.0.0.1", "--port", str(port)),
        ],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        page = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(f"{page}/ping", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                threading.Event().wait(0.2)
        assert _post(page, {"inputs": AB})[0] == 200
        for params, sentence in PARAMETERS:
            status, answer = _post(page, {"inputs": AB, "params": params})
            assert (status, answer["message"][: len(sentence)]) == (400, sentence)
            assert answer.keys() == {"error_code", "message"}
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _post(page: str, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{page}/invocations", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
