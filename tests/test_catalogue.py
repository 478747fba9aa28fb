"""The catalogue as a person edits it: every slip is refused with what would be right."""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)

from flows import environment
from flows.catalogue import ANCHORS, KEYS, catalogue
from flows.environment import source_addresses, tracking_uri, warehouse_root
from flows.retrain import retrain
from flows.settings import apply_overrides, checked, setting, signature_of
from pipeline.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def test_the_keys_are_those_of_prefect() -> None:
    schema = PrefectYamlModel.model_fields
    names = {field.alias or name for name, field in schema.items()}
    assert KEYS["file"] == names | {ANCHORS}
    for kind, model in {
        "deployment": DeploymentConfig,
        "work_pool": WorkPoolConfig,
        "concurrency_limit": ConcurrencyLimitSpec,
        "schedule": RawScheduleConfig,
    }.items():
        assert KEYS[kind] == set(model.model_fields), kind


def test_the_repository_s_catalogue() -> None:
    found = catalogue()
    assert list(found.deployments) == [
        *("demo", "next-word", "language-model", "translate-zh-en", "translate-en-zh", "reply"),
        *("topic", "part-of-speech", "forecast", "time-machine", "wikitext-2"),
    ]
    assert {deployment.flow for deployment in found.deployments.values()} == {"retrain"}
    slugs = [slug for deployment in found.deployments.values() for slug in deployment.slugs]
    by_hand = {"demo", "time-machine", "wikitext-2"}
    assert slugs == [f"{name}-nightly" for name in found.deployments if name not in by_hand]
    assert found.parameters_of("next-word")["sources"] == ["inbox/dialogues/*.jsonl*"]
    found.parameters_of("demo")["training"]["num_epochs"] = 99
    assert found.parameters_of("demo")["training"]["num_epochs"] == 3


@pytest.mark.parametrize("name", list(catalogue().deployments))
def test_every_deployment_fits_the_flow(name: str) -> None:
    from flows.retrain import retrain

    arguments = checked(catalogue().parameters_of(name), signature_of(retrain))
    assert arguments["name"] == name


def test_an_unknown_deployment_is_told_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"'dmeo': did you mean demo\? The choices are demo, next-word"
    ):
        catalogue().parameters_of("dmeo")


GOOD = """
name: tidemill
definitions: {pool: &pool {name: tidemill}}
deployments:
  - name: demo
    entrypoint: flows.retrain.retrain
    work_pool: *pool
    concurrency_limit: {limit: 1}
    schedules: [{cron: "0 1 * * *", slug: nightly}]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    concurrency_limit",
            "    concurency_limit",
            "demo has the unknown key 'concurency_limit'",
        ),
        ("name: tidemill\n", "name: tidemill\nparameters: {}\n", "unknown key 'parameters'"),
        ("{limit: 1}", "{limits: 1}", "concurrency_limit has the unknown key 'limits'"),
        ("slug:", "slugg:", "schedules has the unknown key 'slugg'"),
        ("{name: tidemill}", "{nam: tidemill}", "work_pool has the unknown key 'nam'"),
        ("  - name: demo", "  - description: demo", "needs a name"),
        ("    entrypoint: flows.retrain.retrain\n", "", "give an entrypoint"),
        ("deployments:", "deployments: [", "is not YAML"),
        (GOOD, "- a list", "must be a mapping"),
        (GOOD, "deployments: 3", "deployments must be a list, not 3"),
        (GOOD, "deployments: 2024-13-45", "is not YAML"),
        ("- name: demo\n", "- name: demo\n    tags: nightly\n", "tags must be a list"),
        ("- name: demo\n", "- name: demo\n    tags: [1]\n", "1 must be a text"),
        ("- name: demo\n", "- name: demo\n    description: 3\n", "3 must be a text"),
        ('[{cron: "0 1 * * *", slug: nightly}]', "daily", "schedules must be a list, not 'daily'"),
    ],
)
def test_what_prefect_would_drop_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    file = tmp_path / "prefect.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert catalogue(file).deployment("demo").slugs == ("nightly",)
    file.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        catalogue(file)
    assert "\n" not in str(caught.value)


def test_a_second_deployment_of_one_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    entry = "\n  - {name: demo, entrypoint: a.b}"
    file.write_text(f"deployments:{entry}{entry}", encoding="utf-8")
    with pytest.raises(InputError, match="two deployments have the name 'demo'"):
        catalogue(file)


def test_a_catalogue_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"absent\.yaml cannot be read \(No such file.*--catalogue"
    ):
        catalogue(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.yaml cannot be read"):
        catalogue(tmp_path / "binary.yaml")


@dataclass(frozen=True)
class Schedule:
    kind: str = "plateau"
    decay: float = 0.5


@dataclass(frozen=True)
class Training:
    num_epochs: int = 10
    clip_norm: float | None = 1.0
    betas: tuple[float, ...] = (0.9, 0.999)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise InputError(f"training.num_epochs is {self.num_epochs}: it must be at least 1")


@dataclass(frozen=True)
class Window:
    name: Literal["window"] = "window"
    size: int = 5


@dataclass(frozen=True)
class Stream:
    name: Literal["stream"] = "stream"
    carry: bool = True


@dataclass(frozen=True)
class Records:
    fields: dict[str, str] = field(default_factory=dict)


def learn(
    name: str,
    problem: Window | Stream,
    variants: list[str],
    training: Training = Training(num_epochs=7),
    target: Training | None = None,
    records: Records = Records(),
) -> None:
    """A flow in miniature."""


SIGNATURE = signature_of(learn)
PARAMETERS: dict[str, Any] = {
    "name": "demo",
    "problem": {"name": "window", "size": 3},
    "variants": ["lstm"],
}


@pytest.mark.parametrize(
    ("parameters", "overrides", "changed"),
    [
        ({}, {"name": "other"}, {"name": "other"}),
        ({}, {"problem.size": 4}, {"problem": Window(size=4)}),
        ({}, {"problem": {"name": "stream"}}, {"problem": Stream()}),
        ({}, {"training.clip_norm": None}, {"training": Training(num_epochs=7, clip_norm=None)}),
        (
            {"training": {"clip_norm": 2}},
            {"training.schedule.decay": 0.1, "training.num_epochs": "3"},
            {"training": Training(num_epochs=3, clip_norm=2.0, schedule=Schedule(decay=0.1))},
        ),
        (
            {"training": Training(betas=(0.5,))},
            {"training.num_epochs": 1},
            {"training": Training(1, betas=(0.5,))},
        ),
        ({}, {"target.num_epochs": 2}, {"target": Training(num_epochs=2)}),
        ({}, {"records.fields.source": "zh"}, {"records": Records({"source": "zh"})}),
    ],
)
def test_one_setting_is_changed_and_its_neighbours_kept(
    parameters: dict[str, Any], overrides: dict[str, Any], changed: dict[str, Any]
) -> None:
    plain = checked({**PARAMETERS, **parameters}, SIGNATURE)
    result = checked(apply_overrides({**PARAMETERS, **parameters}, overrides, SIGNATURE), SIGNATURE)
    assert result == {**plain, **changed}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": 5}, "no setting epochs: 'epochs' is not one of name, problem"),
        (
            {"training.epochs": 5},
            "did you mean training.num_epochs? 'epochs' is not one of betas, clip_norm, num_epochs",
        ),
        ({"training.schedule.rate": 5}, "'rate' is not one of decay, kind"),
        ({"training.num_epochs.more": 5}, "training.num_epochs has no settings of its own"),
        ({"name.first": "a"}, "name has no settings of its own"),
        ({"problem.carry": True}, "'carry' is not one of name, size"),
        ({"problem.name": "other"}, "there is no 'other': give a name, choose from stream, window"),
        ({"training.num_epochs": 0}, "training.num_epochs is 0: it must be at least 1"),
        (
            {"training.num_epochs": "many"},
            "training.num_epochs is 'many': it must be a whole number",
        ),
        ({"training.num_epochs": 1.5}, "training.num_epochs is 1.5: it must be a whole number"),
        ({"training.num_epochs": None}, "training.num_epochs is null: it must be a whole number"),
        ({"training.clip_norm": [1]}, "training.clip_norm is [1]: it must be a number or null"),
        ({"training": 5}, "is 5: it must be a mapping with some of betas, clip_norm, num_epochs"),
        ({"training": {"betas": [1, "x"]}}, "training.betas is [1, 'x']: it must be a list of num"),
        (
            {"problem": "window"},
            "problem is 'window': it must be a mapping whose name is one ",
        ),
        ({"problem.size": "x"}, "problem.size is 'x': it must be a whole number"),
        (
            {"records": {"fields": {"a": 1}}},
            "records.fields is {'a': 1}: it must be a mapping",
        ),
        ({"training": {"epochs": 1}}, "no setting training.epochs"),
        ({"training": {"schedule": {"rate": 1}}}, "no setting training.schedule.rate"),
        ({"variants": "lstm"}, "variants is 'lstm': it must be a list of texts, such as ["),
        ({"problem": {"size": 3}}, "give a name, choose from stream, window"),
        ({"name": "../x"}, "name is '../x': the name of a model has up to 100 letters"),
        ({"name": "字" * 70}, "the name of a model has up to 100 letters"),
    ],
)
def test_a_wrong_setting_is_one_sentence(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(apply_overrides(PARAMETERS, overrides, SIGNATURE), SIGNATURE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_has_a_type_that_can_be_told() -> None:
    real = signature_of(retrain)
    base = catalogue().parameters_of("demo")
    for key, settings in checked(base, real).items():
        for each in fields(settings) if is_dataclass(settings) else ():
            wrong = apply_overrides(base, {f"{key}.{each.name}": {"x": [1]}}, real)
            with pytest.raises(InputError) as caught:
                checked(wrong, real)
            assert f"{key}.{each.name} is {{'x': [1]}}: it must be " in str(caught.value) or (
                each.name == "name"
            )


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(InputError, match="the parameter variants is missing"):
        checked({"name": "a", "problem": {"name": "stream"}}, SIGNATURE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.num_epochs=5", ("training.num_epochs", 5)),
        ("training.learning_rate=1e-3", ("training.learning_rate", 0.001)),
        ("training.clip_norm=null", ("training.clip_norm", None)),
        ("problem.carry=false", ("problem.carry", False)),
        ("variants=[lstm, gru-2]", ("variants", ["lstm", "gru-2"])),
        ('records.fields={"source": "zh"}', ("records.fields", {"source": "zh"})),
        ("text.language=no", ("text.language", "no")),
        ("name=a=b", ("name", "a=b")),
        ("name=", ("name", "")),
    ],
)
def test_settings_of_the_command_line(text: str, expected: tuple[str, Any]) -> None:
    assert setting(text) == expected


@pytest.mark.parametrize("text", ["training.num_epochs", "=5", "variants=[lstm"])
def test_a_setting_without_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="the setting"):
        setting(text)


def test_samples_are_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dialogues.jsonl").touch()
    (tmp_path / "pairs.jsonl.gz").touch()
    monkeypatch.setattr(environment, "SAMPLES", tmp_path)
    assert source_addresses(
        ["sample:dialogues", "inbox/*.jsonl", "s3://bucket/a", "sample:pairs"]
    ) == [
        *(f"{tmp_path}/dialogues.jsonl", "inbox/*.jsonl", "s3://bucket/a"),
        f"{tmp_path}/pairs.jsonl.gz",
    ]
    with pytest.raises(InputError, match="no sample:poems: did you mean sample:pairs"):
        source_addresses(["sample:poems"])


def test_the_catalogue_s_samples_exist() -> None:
    sources = catalogue().parameters_of("demo")["sources"]
    assert all(Path(address).is_file() for address in source_addresses(sources))


def test_the_root_of_the_warehouse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert warehouse_root() == tmp_path / ".warehouse"
    monkeypatch.setenv("TIDEMILL_WAREHOUSE", "elsewhere")
    assert warehouse_root() == tmp_path / "elsewhere"
    assert warehouse_root(str(tmp_path / "given")) == tmp_path / "given"
    with pytest.raises(InputError, match="no local folder"):
        warehouse_root("s3://bucket/warehouse")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("http://host:5000", "http://host:5000"), ("sqlite:////tmp/mlflow.db", None), ("", None)],
)
def test_only_a_server_keeps_the_registry_elsewhere(
    monkeypatch: pytest.MonkeyPatch, address: str, expected: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert tracking_uri() == expected
