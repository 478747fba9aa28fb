"""The making of one version, whole or not at all.

A version becomes visible in a single step, after everything it needs is in place. Until then its
run bears a tag of ours. What a kill leaves before that step is removed by the next publication of
the same key, and what it leaves after it is completed. Nothing else is ever removed: not what
people log, rename, copy or delete in MLflow's pages.
"""

import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model

from warehouse.registry.mlflow_store import (
    LONGEST_TAG,
    MlflowStore,
    artifact_uri,
    batches,
    is_active,
    local_path,
)
from warehouse.registry.package import (
    pinned_requirements,
    save_pyfunc,
    signature_of,
    stage_package,
    try_package,
)
from warehouse.registry.pages import VIEW, WORKFLOW, leaderboard_link, leaderboard_view, view_state
from warehouse.registry.publication import DatasetInfo, Publication, fit_key, fit_param, group_of
from warehouse.registry.served_model import INPUT_COLUMN, source_digest
from warehouse.registry.versions import Version, model_id_of

logger = logging.getLogger(__name__)

UNFINISHED = "tidemill.unfinished"
"""The tag of a run whose publication is under way; its value is the publication's key."""

_NOTE = "mlflow.note.content"
_SCORES = "scores"
_FOLDER = re.compile(r"\w[\w.-]*")
_METRICS_A_BATCH = 1000
_PARAMS_A_BATCH = 100


def publish(store: MlflowStore, publication: Publication) -> Version:
    """Make the version, or complete the one that bears the publication's key already.

    The store is locked by the caller.
    """
    experiment = _experiment(store, publication)
    version = _find_version(store, publication)
    new = version is None
    if version is None:
        _remove_halves(store, experiment, publication)
        version = _make_version(store, experiment, publication)
    else:
        _score_again(store, version, publication)
    _complete(store, experiment, version, publication)
    return Version(
        name=publication.name,
        version=int(version.version),
        run_id=str(version.run_id),
        model_id=model_id_of(version, store.find_run(str(version.run_id))),
        variant=publication.variant,
        new=new,
    )


def _find_version(store: MlflowStore, publication: Publication) -> ModelVersion | None:
    """The version that was published under this key, unless somebody has deleted its files."""
    for version in store.find_versions(publication.name, publication.key):
        if store.holds_model(publication.name, version.version):
            return version
        logger.warning(
            "the files of %r version %s are gone; it is published again as a new version",
            publication.name,
            version.version,
        )
    return None


def _make_version(
    store: MlflowStore, experiment: Experiment, publication: Publication
) -> ModelVersion:
    with tempfile.TemporaryDirectory(prefix="tidemill-") as neutral:
        staging = Path(neutral)
        package = stage_package(publication, staging)
        code = source_digest(package)
        run = _start_run(store, experiment, publication, code)
        model = _log_model(store, run, publication, staging, package)
    finished_at = publication.last_timestamp or _now_ms()
    _log_scores(store, run.info.run_id, model.model_id, publication, finished_at)
    store.client.set_terminated(run.info.run_id, "FINISHED", end_time=publication.last_timestamp)
    _ensure_registered_model(store, experiment, publication)
    # MLflow's table of versions shows every tag in full height; the rest is on the run.
    tags = {
        "key": publication.key,
        "variant": publication.variant,
        "checkpoint": publication.checkpoint_digest,
        "code": code,
    }
    # The one step that makes the version visible, with its tags and its description.
    return store.client.create_model_version(
        publication.name,
        source=f"models:/{model.model_id}",
        run_id=run.info.run_id,
        tags=tags,
        description=_description(publication, experiment, run, model),
        await_creation_for=0,
        model_id=model.model_id,
    )


def _start_run(
    store: MlflowStore, experiment: Experiment, publication: Publication, code: str
) -> Run:
    tags = {
        "key": publication.key,
        "variant": publication.variant,
        "problem": publication.problem,
        "retraining": publication.retraining,
        "checkpoint": publication.checkpoint_digest,
        "code": code,
        "mlflow.user": "tidemill",
        "mlflow.source.name": f"retrain/{publication.name}",
        "mlflow.source.type": "JOB",
        _SCORES: publication.scores_digest,
        UNFINISHED: publication.key,
        _NOTE: publication.note,
        **publication.tags,
    }
    run = store.client.create_run(
        experiment.experiment_id,
        start_time=publication.first_timestamp,
        tags={key: value[:LONGEST_TAG] for key, value in tags.items() if value},
        run_name=publication.variant,
    )
    run_id = run.info.run_id
    params = [Param(fit_key(name), fit_param(value)) for name, value in publication.params.items()]
    for some_params in batches(params, _PARAMS_A_BATCH):
        store.client.log_batch(run_id, params=some_params)
    for some_metrics in batches(_history_metrics(publication), _METRICS_A_BATCH):
        store.client.log_batch(run_id, metrics=some_metrics)
    store.client.log_inputs(run_id, [_dataset_input(one) for one in publication.datasets])
    _log_tables(store, run_id, publication)
    return run


def _log_tables(store: MlflowStore, run_id: str, publication: Publication) -> None:
    """Tables that MLflow's pages compare over runs."""
    listed = []
    for name, lines in ({"samples": publication.samples} | publication.tables).items():
        if not lines:
            continue
        columns = list(dict.fromkeys(key for line in lines for key in line))
        rows = [[line.get(key) for key in columns] for line in lines]
        table = json.dumps({"columns": columns, "data": rows}, ensure_ascii=False)
        store.client.log_text(run_id, table, f"{name}.json")
        listed.append({"path": f"{name}.json", "type": "table"})
    if listed:
        store.client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))


def _log_model(
    store: MlflowStore, run: Run, publication: Publication, staging: Path, package: Path
) -> LoggedModel:
    """Package the model, try it, and only then hand it to the store."""
    model = store.client.create_logged_model(
        run.info.experiment_id,
        name=publication.variant,
        source_run_id=run.info.run_id,
        tags={
            "key": publication.key,
            "variant": publication.variant,
            _NOTE: publication.headline,
        },
        params={fit_key(k): fit_param(v) for k, v in publication.params.items()},
        model_type=publication.problem,
    )
    packaged = staging / "model"
    save_pyfunc(
        path=str(packaged),
        python_model=str(staging / "served_model.py"),
        artifacts={"checkpoint": str(staging / "checkpoint"), "pipeline": str(package)},
        mlflow_model=Model(
            artifact_path=publication.variant,
            model_uuid=model.model_id,
            run_id=run.info.run_id,
            model_id=model.model_id,
        ),
        signature=signature_of(publication),
        input_example=pd.DataFrame({INPUT_COLUMN: publication.examples}, dtype="object"),
        model_config={"device": "cpu"},
        pip_requirements=pinned_requirements(publication.requirements),
        metadata={
            "problem": publication.problem,
            "variant": publication.variant,
            "checkpoint": publication.checkpoint_digest,
            "code": source_digest(package),
        },
    )
    try_package(packaged, publication)
    store.client.log_model_artifacts(model.model_id, str(packaged))
    store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    step = max((int(entry["epoch"]) for entry in publication.history), default=0)
    store.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=step)])
    return model


def _log_scores(
    store: MlflowStore,
    run_id: str,
    model_id: str | None,
    publication: Publication,
    timestamp: int,
) -> None:
    datasets: dict[str, DatasetInfo] = {one.context: one for one in publication.datasets}
    metrics = []
    for name, value in publication.scores.items():
        if not math.isfinite(value):
            continue
        dataset = datasets.get(group_of(name))
        metrics.append(
            Metric(
                fit_key(name),
                float(value),
                timestamp,
                0,
                model_id=model_id,
                dataset_name=dataset.name if dataset else None,
                dataset_digest=_short(dataset.digest) if dataset else None,
                run_id=run_id,
            )
        )
    for part in batches(metrics, _METRICS_A_BATCH):
        store.client.log_batch(run_id, metrics=part)


def _score_again(store: MlflowStore, version: ModelVersion, publication: Publication) -> None:
    """Show the scores of a publication on the version that is there already.

    Of two values of a metric MLflow shows the later one; the earlier stays in its history. Where
    somebody has deleted the run, the version's description alone shows the new scores.
    """
    run = store.find_run(str(version.run_id))
    digest = publication.scores_digest
    kept_in = run.data.tags if is_active(run) else version.tags
    if kept_in.get(_SCORES) == digest:
        return
    name, number = publication.name, str(version.version)
    old_note = run.data.tags.get(_NOTE, "") if run else ""
    description = str(version.description or "")
    written = old_note.split("\n\n", 1)
    for old, new in zip(written, (publication.headline, publication.description), strict=False):
        if old:
            description = description.replace(old, new.strip(), 1)
    if description != version.description:
        store.client.update_model_version(name, number, description)
    if is_active(run):
        _log_scores(
            store, run.info.run_id, _living_model(store, version, run), publication, _now_ms()
        )
        _log_tables(store, run.info.run_id, publication)
        store.set_run_tag(run.info.run_id, _NOTE, publication.note)
        store.set_run_tag(run.info.run_id, _SCORES, digest)
        return
    logger.warning(
        "the run of %r version %s was deleted; its new scores are not shown in MLflow", name, number
    )
    # The next publication has nothing to say about it.
    store.client.set_model_version_tag(name, number, _SCORES, digest)


def _living_model(store: MlflowStore, version: ModelVersion, run: Run) -> str | None:
    """The id of the logged model that scores belong to; None where it was deleted."""
    model_id = model_id_of(version, run)
    return model_id if model_id and store.has_logged_model(model_id) else None


def _complete(
    store: MlflowStore, experiment: Experiment, version: ModelVersion, publication: Publication
) -> None:
    """What belongs to a visible version; repeated on every publication, so that it is never
    missing."""
    run_id, number = str(version.run_id), int(version.version)
    store.set_run_tag(run_id, "version", str(number))
    store.drop_run_tag(run_id, UNFINISHED)
    same = [
        int(one.version)
        for one in store.search_versions(publication.name)
        if one.tags.get("variant") == publication.variant
    ]
    if number == max(same, default=number):
        store.set_alias(publication.name, publication.variant, number)
    view = leaderboard_view(publication)
    tag = f"mlflow.sharedViewState.{VIEW}"
    if view_state(experiment.tags.get(tag)) != view:
        now = _now_ms()
        saved = {"name": "Leaderboard", "createdAt": now, "updatedAt": now, "state": view}
        store.client.set_experiment_tag(experiment.experiment_id, tag, json.dumps(saved))


def _remove_halves(store: MlflowStore, experiment: Experiment, publication: Publication) -> None:
    """Remove what earlier tries of this publication left behind, and report what only looks so.

    We hold the lock: a run that bears our tag with this key belongs to a publication that ended
    early. It is kept all the same where a version of any registered model uses it.
    """
    runs = store.search_runs(experiment.experiment_id, f"tags.key = '{publication.key}'")
    for run in runs:
        run_id = run.info.run_id
        models = store.client.search_logged_models(
            [experiment.experiment_id], filter_string=f"source_run_id = '{run_id}'"
        )
        used_by = _users_of(store, [run_id, *(model.model_id for model in models)])
        if not used_by and run.data.tags.get(UNFINISHED) == publication.key:
            _remove_half(store, run, models)
        elif not used_by:
            logger.warning(
                "run %s of %r has no version any more; it is kept, and can be deleted in MLflow's "
                "pages",
                run_id,
                publication.name,
            )


def _users_of(store: MlflowStore, ids: Sequence[str]) -> list[ModelVersion]:
    """The versions, of all registered models, that come from a run or a logged model."""
    used = []
    for version in store.search_versions():
        origin = (str(version.run_id), str(version.source))
        places = "/".join((*origin, store.location(version.name, version.version)))
        if any(one in places for one in ids):
            used.append(version)
    return used


def _remove_half(store: MlflowStore, run: Run, models: Sequence[LoggedModel]) -> None:
    for model in models:
        _remove_artifacts(store, model.artifact_location)
        store.client.delete_logged_model(model.model_id)
    _remove_artifacts(store, run.info.artifact_uri)
    store.client.delete_run(run.info.run_id)


def _remove_artifacts(store: MlflowStore, location: str) -> None:
    directory = local_path(location)
    # MLflow's directories end in `artifacts`; the one above bears the id.
    if directory is None or directory.name != "artifacts":
        return
    directory = directory.resolve().parent
    if store.artifacts.resolve() in directory.parent.parents:
        shutil.rmtree(directory, ignore_errors=True)


def _experiment(store: MlflowStore, publication: Publication) -> Experiment:
    experiment = store.client.get_experiment_by_name(publication.name)
    if experiment is None:
        folder = store.artifacts / _folder_of(publication.name)
        location = artifact_uri(folder) if store.local else None
        tags = {
            "mlflow.experimentKind": "custom_model_development",
            "mlflow.note.content": f"{publication.name}: one run for each version of the "
            f"registered model of the same name ({publication.problem}).",
        }
        number = store.client.create_experiment(publication.name, location, tags)
        experiment = store.client.get_experiment(number)
    elif experiment.lifecycle_stage == "deleted":
        store.client.restore_experiment(experiment.experiment_id)
    return experiment


def _folder_of(name: str) -> str:
    """A folder that an experiment of this name has to itself; another one for another name."""
    if _FOLDER.fullmatch(name) and len(name.encode()) <= 100:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9-]', '_', name)[:50]}-{digest}"


def _ensure_registered_model(
    store: MlflowStore, experiment: Experiment, publication: Publication
) -> None:
    if not store.has_registered_model(publication.name):
        store.client.create_registered_model(
            publication.name,
            tags={"problem": publication.problem},
            description="The alias `champion` is the version in use; every variant has its "
            "newest version under its own alias. "
            f"[Leaderboard]({leaderboard_link(experiment.experiment_id)})",
        )


def _description(
    publication: Publication, experiment: Experiment, run: Run, model: LoggedModel
) -> str:
    """The version's page. Its first line is all that MLflow's table of versions shows."""
    number = experiment.experiment_id
    links = (
        f"[run](#/experiments/{number}/runs/{run.info.run_id}?{WORKFLOW})"
        f" · [model](#/experiments/{number}/models/{model.model_id}?{WORKFLOW})"
        f" · [leaderboard]({leaderboard_link(experiment.experiment_id)})"
    )
    facts = f"{publication.problem} · {publication.variant}"
    parts = (publication.headline, facts, publication.description.strip(), links)
    return "\n\n".join(part for part in parts if part)


def _history_metrics(publication: Publication) -> list[Metric]:
    """One point for each metric and epoch.

    Where final scores bear the same first word, a curve goes under `epoch/`: MLflow would otherwise
    take the last epoch for the final score, and draw both in one chart.
    """
    final = {group_of(name) for name in publication.scores}
    return [
        Metric(
            fit_key(f"epoch/{name}" if group_of(name) in final else name),
            float(value),
            int(entry["timestamp_ms"]),
            int(entry["epoch"]),
        )
        for entry in publication.history
        for name, value in entry["metrics"].items()
        if math.isfinite(value)
    ]


def _dataset_input(info: DatasetInfo) -> DatasetInput:
    profile = {"digest": info.digest, **info.profile}
    if info.uri:
        profile["uri"] = info.uri
    return DatasetInput(
        Dataset(
            name=info.name,
            digest=_short(info.digest),
            source_type="warehouse",
            source=json.dumps({"uri": info.uri}),
            profile=json.dumps(profile, ensure_ascii=False),
        ),
        [InputTag("mlflow.data.context", info.context)],
    )


def _short(digest: str) -> str:
    return digest[:12]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
