"""The model registry: publish, compare, promote, roll back, load. MLflow is behind it.

Under the warehouse's root:

    mlflow/mlflow.db     runs, metrics, versions, aliases (SQLite, write-ahead log)
    mlflow/artifacts/    what runs and versions consist of
    mlflow/lock          held by whoever changes something

One registered model and one experiment bear the same name; each version has one flat run of its
own. A version becomes visible in a single step, after everything it needs is in place: what a kill
leaves before that step is removed by the next publication, what it leaves after it is completed.
"""

import fcntl
import json
import logging
import math
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import mlflow
import pandas as pd
from mlflow import MlflowClient, environment_variables
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
    ViewType,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.telemetry import set_telemetry_client
from mlflow.types.schema import Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property
from mlflow.types.schema import Schema as ModelSchema
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from warehouse.checkpoints import checkpoint_digest, read_checkpoint
from warehouse.errors import StorageError, remedy_of
from warehouse.publication import (
    DatasetInfo,
    Publication,
    fit_key,
    fit_param,
    group_of,
    leaderboard_view,
    pinned_requirements,
    stage_package,
)
from warehouse.served_model import CANDIDATES_COLUMN, INPUT_COLUMN, PREDICTION_COLUMN, source_digest

CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
DECISION = "last_retraining"
DEFAULT_PAGES = "http://127.0.0.1:5000"


_NO_ANSWER = re.compile(r"^API request to (https?://[^/\s]+).* failed with (?:exception|timeout)")
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
}
_NOTE = "mlflow.note.content"
_LONGEST_TAG = 5000
_METRICS_A_BATCH = 1000
_PARAMS_A_BATCH = 100
_VIEW = "leaderboard"
# Without it MLflow opens its pages for language model applications.
_WORKFLOW = "workflowType=machine_learning"

# MLflow keeps a loaded model's code, and the address it talks to, in globals of the process.
_mlflow_globals = threading.RLock()

T = TypeVar("T")


class Version(BaseModel, frozen=True):
    """A published version. `new` is False when the same key had been published before."""

    name: str
    version: int
    run_id: str
    model_id: str
    variant: str
    new: bool


class VersionInfo(BaseModel, frozen=True):
    """A row of the leaderboard: a version as the registry knows it now."""

    name: str
    version: int
    variant: str
    problem: str
    headline: str
    champion: bool
    aliases: tuple[str, ...]
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    description: str
    created: datetime
    run_id: str
    model_id: str


class LoadedModel:
    """A version in memory, ready to predict."""

    def __init__(self, info: VersionInfo, model: PyFuncModel) -> None:
        self.info = info
        self._model = model

    @property
    def parameters(self) -> dict[str, tuple[str, Any]]:
        """What predict takes beside texts: name -> (type, default)."""
        schema = self._model.metadata.signature.params
        return {spec.name: (spec.dtype.name, spec.default) for spec in schema or ()}

    def predict(
        self,
        texts: Sequence[str] | pd.DataFrame,
        params: Mapping[str, str | bool | int | float | None] | None = None,
    ) -> pd.DataFrame:
        """One row for each text: `prediction` and `candidates`, a list of {"text", "score"}.

        A frame must have the column `text`. Raises StorageError when it has not, and when a
        parameter is unknown or of the wrong type.
        """
        unknown = sorted(set(params or {}) - set(self.parameters))
        if unknown:
            raise StorageError(
                f"{_label(self.info)} takes no parameter {unknown[0]!r}; "
                f"it takes {', '.join(self.parameters) or 'none'}."
            )
        frame = texts
        if not isinstance(frame, pd.DataFrame):
            frame = pd.DataFrame({INPUT_COLUMN: list(texts)}, dtype="object")
        if INPUT_COLUMN not in frame.columns:
            raise StorageError(
                f"{_label(self.info)} reads the column {INPUT_COLUMN!r}; "
                f"the frame has {', '.join(map(str, frame.columns)) or 'none'}."
            )
        try:
            # The rows' own labels are the caller's business; ours are 0, 1, 2.
            answer = self._model.predict(frame.reset_index(drop=True), params=dict(params or {}))
        except MlflowException as error:
            raise StorageError(
                # MLflow repeats the whole frame before it says what is wrong.
                f"{_label(self.info)} cannot take this input: "
                f"{_one_line(str(error).rpartition('Error: ')[2]).rstrip('.')}."
            ) from error
        except ValueError as error:
            # The travelling code has its own error classes; this process knows their base.
            raise StorageError(f"{_label(self.info)} cannot take this input: {error}") from error
        assert isinstance(answer, pd.DataFrame)
        return answer


class Registry:
    """The registry under `root`, or behind `tracking_uri` where a server keeps it.

    `pages` is the address at which people look at it, for links.
    """

    def __init__(
        self, root: str | Path, tracking_uri: str | None = None, *, pages: str = DEFAULT_PAGES
    ) -> None:
        _configure_mlflow()
        self.root = Path(root).absolute()
        self._home = self.root / "mlflow"
        self._database = self._home / "mlflow.db"
        self._artifacts = self._home / "artifacts"
        self._local = tracking_uri is None
        self._uri = tracking_uri or _sqlite_uri(self._database)
        remote = urlsplit(self._uri).scheme in ("http", "https")
        self._pages = (_without_password(self._uri) if remote else pages).rstrip("/")
        with _sentence("the registry cannot be opened"):
            self._home.mkdir(parents=True, exist_ok=True)
            if self._local:
                with self._lock():
                    self._prepare_database()
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            if remote:
                # Whoever is about to train for hours learns now that nobody would take the result.
                self._client.search_registered_models(max_results=1)

    # --- publish ----------------------------------------------------------------------------------

    def publish(self, publication: Publication) -> Version:
        """Make a version of a checkpoint, its code, its scores and its history.

        Idempotent by the publication's key: a key that is there already makes no second version,
        and where its scores have changed, the version shows the new ones. Before anything becomes
        visible the packaged model is loaded and answers the examples.

        Raises StorageError when a setting cannot be used, the checkpoint is not what its digest
        says, the packaged model does not answer, or the store refuses.
        """
        publication.check()
        with _sentence(f"{publication.name!r} could not be published"), self._lock():
            experiment = self._experiment(publication)
            version = self._find_version(publication.name, publication.key)
            new = version is None
            if version is None:
                self._remove_halves(experiment, publication.key)
                version = self._make_version(experiment, publication)
            else:
                self._score_again(version, publication)
            self._complete(experiment, version, publication)
        return Version(
            name=publication.name,
            version=int(version.version),
            run_id=str(version.run_id),
            model_id=_model_id(version),
            variant=publication.variant,
            new=new,
        )

    def attach(
        self,
        version: Version,
        tag: str,
        value: str,
        files: Mapping[str, Path],
        *,
        replace: bool = True,
    ) -> None:
        """Show files among the artifacts of a version's run, and say in a tag what they are.

        Where the tag has this value already the files are there, and nothing is done. Older files
        of the same names are replaced.

        Args:
            value: names the content of the files.
            files: name on the page -> file.
            replace: files of another content; otherwise those that are shown already stay.

        Raises StorageError when the store refuses.
        """
        with _sentence(f"{', '.join(files)} cannot be shown with {version.name!r}"), self._lock():
            run = self._client.get_run(version.run_id)
            shown = run.data.tags.get(tag)
            if run.info.lifecycle_stage != "active" or shown == value or (shown and not replace):
                return
            with tempfile.TemporaryDirectory(prefix="tidemill-") as staging:
                for name, file in files.items():
                    shutil.copyfile(file, Path(staging) / name)
                    self._client.log_artifact(version.run_id, str(Path(staging) / name))
            self._set_run_tag(version.run_id, tag, value)

    def _make_version(self, experiment: Experiment, publication: Publication) -> ModelVersion:
        with tempfile.TemporaryDirectory(prefix="tidemill-") as neutral:
            staging = Path(neutral)
            package = stage_package(publication, staging)
            code = source_digest(package)
            run = self._start_run(experiment, publication, code)
            model = self._log_model(run, publication, staging, package)
        finished_at = publication.last_timestamp or _now_ms()
        self._log_scores(run.info.run_id, model.model_id, publication, finished_at)
        self._client.set_terminated(
            run.info.run_id, "FINISHED", end_time=publication.last_timestamp
        )
        self._ensure_registered_model(experiment, publication)
        # MLflow's table of versions shows every tag in full height; the rest is on the run.
        tags = {
            "key": publication.key,
            "variant": publication.variant,
            "checkpoint": publication.checkpoint_digest,
            "code": code,
        }
        # The one step that makes the version visible, with its tags and its description.
        return self._client.create_model_version(
            publication.name,
            source=f"models:/{model.model_id}",
            run_id=run.info.run_id,
            tags=tags,
            description=_description(publication, experiment, run, model),
            await_creation_for=0,
            model_id=model.model_id,
        )

    def _start_run(self, experiment: Experiment, publication: Publication, code: str) -> Run:
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
            "scores": publication.scores_digest,
            _NOTE: publication.note,
            **publication.tags,
        }
        run = self._client.create_run(
            experiment.experiment_id,
            start_time=publication.first_timestamp,
            tags={key: value[:_LONGEST_TAG] for key, value in tags.items() if value},
            run_name=publication.variant,
        )
        run_id = run.info.run_id
        params = [
            Param(fit_key(name), fit_param(value)) for name, value in publication.params.items()
        ]
        for some_params in _batches(params, _PARAMS_A_BATCH):
            self._client.log_batch(run_id, params=some_params)
        for some_metrics in _batches(_history_metrics(publication), _METRICS_A_BATCH):
            self._client.log_batch(run_id, metrics=some_metrics)
        self._client.log_inputs(run_id, [_dataset_input(one) for one in publication.datasets])
        self._log_tables(run_id, publication)
        return run

    def _log_tables(self, run_id: str, publication: Publication) -> None:
        """Tables that MLflow's pages compare over runs."""
        listed = []
        for name, lines in ({"samples": publication.samples} | publication.tables).items():
            if not lines:
                continue
            columns = list(dict.fromkeys(key for line in lines for key in line))
            rows = [[line.get(key) for key in columns] for line in lines]
            table = json.dumps({"columns": columns, "data": rows}, ensure_ascii=False)
            self._client.log_text(run_id, table, f"{name}.json")
            listed.append({"path": f"{name}.json", "type": "table"})
        if listed:
            self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(listed))

    def _log_model(
        self, run: Run, publication: Publication, staging: Path, package: Path
    ) -> LoggedModel:
        """Package the model, try it, and only then hand it to the store."""
        model = self._client.create_logged_model(
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
        _save_pyfunc(
            path=str(packaged),
            python_model=str(staging / "served_model.py"),
            artifacts={"checkpoint": str(staging / "checkpoint"), "pipeline": str(package)},
            mlflow_model=Model(
                artifact_path=publication.variant,
                model_uuid=model.model_id,
                run_id=run.info.run_id,
                model_id=model.model_id,
            ),
            signature=_signature(publication),
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
        _try(packaged, publication)
        self._client.log_model_artifacts(model.model_id, str(packaged))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        step = max((int(entry["epoch"]) for entry in publication.history), default=0)
        self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=step)])
        return model

    def _log_scores(
        self, run_id: str, model_id: str, publication: Publication, timestamp: int
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
        for part in _batches(metrics, _METRICS_A_BATCH):
            self._client.log_batch(run_id, metrics=part)

    def _score_again(self, version: ModelVersion, publication: Publication) -> None:
        """Show the scores of a publication on the version that is there already.

        Of two values of a metric MLflow shows the later one; the earlier stays in its history.
        """
        run_id = str(version.run_id)
        tags = self._run_tags(run_id)
        digest = publication.scores_digest
        if tags.get("scores") == digest:
            return
        self._log_scores(run_id, _model_id(version), publication, _now_ms())
        self._log_tables(run_id, publication)
        description = str(version.description or "")
        written = tags.get(_NOTE, "").split("\n\n", 1)
        for old, new in zip(written, (publication.headline, publication.description), strict=False):
            description = description.replace(old, new.strip(), 1)
        self._client.update_model_version(publication.name, str(version.version), description)
        self._set_run_tag(run_id, _NOTE, publication.note)
        self._set_run_tag(run_id, "scores", digest)

    def _complete(
        self, experiment: Experiment, version: ModelVersion, publication: Publication
    ) -> None:
        """What hangs on a visible version; repeated on every publication, so that it is never
        missing."""
        run_id, number = str(version.run_id), str(version.version)
        if self._run_tags(run_id).get("version") != number:
            self._set_run_tag(run_id, "version", number)
        same = [
            int(one.version)
            for one in self._search_versions(publication.name)
            if one.tags.get("variant") == publication.variant
        ]
        if int(number) == max(same):
            self._set_alias(publication.name, publication.variant, int(number))
        view = leaderboard_view(publication)
        tag = f"mlflow.sharedViewState.{_VIEW}"
        if _view_state(experiment.tags.get(tag)) != view:
            now = _now_ms()
            saved = {"name": "Leaderboard", "createdAt": now, "updatedAt": now, "state": view}
            self._client.set_experiment_tag(experiment.experiment_id, tag, json.dumps(saved))

    def _remove_halves(self, experiment: Experiment, key: str) -> None:
        """Remove what publications that were killed left behind.

        We hold the lock: a run under this key that has no version is nobody's, and under a local
        root so is every run that still counts as running.
        """
        dead = f"tags.key = '{key}'"
        searches = [dead, "attributes.status = 'RUNNING'"] if self._local else [dead]
        for search in searches:
            for run in self._search_runs(experiment, search):
                self._remove_run(experiment, run)

    def removal_of(self, version: VersionInfo) -> str:
        """A shell command that deletes a version for good, with its run and all that they keep.

        Where a server keeps the registry, `mlflow gc` beside that server has the last word.
        """
        uri = shlex.quote(self._uri)
        calls = (
            "import mlflow, sys; client = mlflow.MlflowClient(sys.argv[1], sys.argv[1]); "
            "client.delete_model_version(sys.argv[2], sys.argv[3]); "
            "client.delete_logged_model(sys.argv[4]); client.delete_run(sys.argv[5])"
        )
        named = [version.name, str(version.version), version.model_id, version.run_id]
        command = f"python -c {shlex.quote(calls)} {uri} {shlex.join(named)}"
        if self._local:
            command += (
                f" && MLFLOW_TRACKING_URI={uri} mlflow gc --backend-store-uri {uri}"
                f" --run-ids {version.run_id}"
            )
        return command

    def _remove_run(self, experiment: Experiment, run: Run) -> None:
        run_id = run.info.run_id
        models = self._client.search_logged_models(
            [experiment.experiment_id], filter_string=f"source_run_id = '{run_id}'"
        )
        for model in models:
            self._remove_artifacts(model.artifact_location)
            self._client.delete_logged_model(model.model_id)
        self._remove_artifacts(run.info.artifact_uri)
        self._client.delete_run(run_id)

    def _remove_artifacts(self, location: str) -> None:
        directory = _local_path(location)
        if directory is not None and directory.is_relative_to(self._artifacts):
            # MLflow's directories end in `artifacts`; the one above bears the id.
            shutil.rmtree(directory.parent, ignore_errors=True)

    # --- look -------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The registered models, in the order of the alphabet."""
        with _sentence("the registry cannot be read"):
            found = self._client.search_registered_models(max_results=1000)
            return sorted(model.name for model in found)

    def versions(self, name: str) -> list[VersionInfo]:
        """All versions, the newest first; empty when nothing was published under this name."""
        with _sentence(f"{name!r} cannot be read"):
            aliases = self._aliases(name)
            found = self._search_versions(name)
            runs = self._runs_of(name, found)
            infos = [_version_info(one, runs.get(str(one.run_id)), aliases) for one in found]
        return sorted(infos, key=lambda info: info.version, reverse=True)

    def champion(self, name: str) -> VersionInfo | None:
        """The version that `load` gives by default, or None before the first promotion."""
        with _sentence(f"{name!r} cannot be read"):
            number = self._aliases(name).get(CHAMPION)
            return None if number is None else self._info(name, number)

    def page(self, name: str) -> str:
        """The address of a registered model's page."""
        return f"{self._pages}/#/models/{quote(name)}?{_WORKFLOW}"

    def leaderboard_page(self, name: str) -> str:
        """The address of the page that compares all versions of a model.

        Raises StorageError when nothing was published under this name.
        """
        with _sentence(f"{name!r} cannot be read"):
            experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            raise _nothing_published(name, self.names())
        return f"{self._pages}/{_leaderboard_link(experiment)}"

    def artifact_page(self, version: Version, name: str) -> str:
        """The address of the page that shows an artifact of a version's run."""
        with _sentence(f"{version.name!r} cannot be read"):
            experiment = self._client.get_run(version.run_id).info.experiment_id
        return (
            f"{self._pages}/#/experiments/{experiment}/runs/{version.run_id}/artifacts/"
            f"{quote(name)}?{_WORKFLOW}"
        )

    # --- choose -----------------------------------------------------------------------------------

    def promote(self, name: str, version: int, reason: str) -> None:
        """Make a version the champion, and write down why.

        The champion before it can be brought back by `rollback`. Repeating a promotion changes
        nothing but completes one that was cut short.

        Raises StorageError when there is no such version.
        """
        with _sentence(f"{name!r} version {version} could not be promoted"), self._lock():
            info = self._info(name, int(version))
            current = self._aliases(name).get(CHAMPION)
            if current is not None and current != info.version:
                self._set_alias(name, PREVIOUS_CHAMPION, current)
            self._crown(info, since=current)
            finished = "promoted_at" in info.tags and "rolled_back" not in info.tags
            if current == info.version and finished:
                return
            self._tell(info, f"**Promoted to champion**: {_one_line(reason)}")
            self._drop_version_tag(info, "rolled_back")
            self._set_version_tag(info, "promotion_reason", _one_line(reason))
            self._set_version_tag(info, "promoted_at", _now_text())

    def rollback(self, name: str) -> VersionInfo:
        """Bring the previous champion back, and mark the one that had to go.

        A second rollback swaps the two again. Raises StorageError when there is no other champion
        to go back to.
        """
        with _sentence(f"{name!r} could not be rolled back"), self._lock():
            aliases = self._aliases(name)
            current, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS_CHAMPION)
            if not aliases and not self._search_versions(name):
                raise _nothing_published(name, self.names())
            if current is None or previous is None or current == previous:
                raise StorageError(
                    f"{name!r} has no earlier champion to go back to; "
                    "promote a version by its number instead."
                )
            loser, winner = self._info(name, current), self._info(name, previous)
            self._crown(winner, since=current)
            self._set_alias(name, PREVIOUS_CHAMPION, current)
            self._tell(loser, f"**Rolled back**: to version {previous}")
            self._tell(winner, f"**Champion again**: rolled back from version {current}")
            self._set_version_tag(loser, "rolled_back", f"{_now_text()}, to version {previous}")
            self._drop_version_tag(winner, "rolled_back")
            self._set_version_tag(winner, "promoted_at", _now_text())
            self._set_version_tag(winner, "promotion_reason", f"rolled back from version {current}")
            return self._info(name, previous)

    def _tell(self, info: VersionInfo, note: str) -> None:
        """Put a paragraph at the end of a version's page, once."""
        before = [each for each in info.description.split("\n\n") if each != note]
        told = "\n\n".join([*before, note])
        if told != info.description:
            self._client.update_model_version(info.name, str(info.version), told)

    def note_decision(self, name: str, said: str) -> None:
        """Show with a model what its last retraining came to, also where the champion stayed.

        Raises StorageError when nothing was published under this name.
        """
        with _sentence(f"{name!r} cannot show its last retraining"), self._lock():
            self._client.set_registered_model_tag(name, DECISION, _one_line(said)[:_LONGEST_TAG])

    def decision(self, name: str) -> str:
        """What the last retraining of a model came to; empty where nobody noted it."""
        with _sentence(f"{name!r} cannot be read"):
            return str(self._client.get_registered_model(name).tags.get(DECISION, ""))

    def _crown(self, info: VersionInfo, since: int | None) -> None:
        """Give the alias, and show it where MLflow's pages have no place for aliases."""
        if since is not None and since != info.version:
            self._drop_run_tag(self._info(info.name, since).run_id, CHAMPION)
        self._set_alias(info.name, CHAMPION, info.version)
        self._set_run_tag(info.run_id, CHAMPION, "yes")
        headline = f"v{info.version} {info.variant}: {info.headline}"
        self._client.set_registered_model_tag(info.name, CHAMPION, headline[:_LONGEST_TAG])

    # --- load -------------------------------------------------------------------------------------

    def load(
        self,
        name: str,
        *,
        version: int | None = None,
        variant: str | None = None,
        device: str = "cpu",
    ) -> LoadedModel:
        """The champion, or a version by its number, or the newest version of a variant.

        The version's own code runs, not this process's. Raises StorageError when there is no such
        version, or its weights or code are not those that were published.
        """
        with _sentence(f"{name!r} could not be loaded"):
            number = self._resolve(name, version, variant)
            info = self._info(name, number)
            directory = self._model_directory(info)
            _check_package(directory, info)
            return LoadedModel(info, _load_pyfunc(directory, device))

    def find(self, name: str, version: int | None = None) -> VersionInfo:
        """The champion, or a version by its number. Raises StorageError when there is none."""
        with _sentence(f"{name!r} could not be found"):
            return self._info(name, self._resolve(name, version, None))

    def dataset_uri(self, info: VersionInfo, context: str) -> str:
        """Where the split of a context (train, valid, test) lies, as it was published with a
        version; empty where none was.
        """
        with _sentence(f"the data of {_label(info)} cannot be found"):
            inputs = self._client.get_run(info.run_id).inputs
        for one in inputs.dataset_inputs if inputs else ():
            if context in (tag.value for tag in one.tags):
                return str(json.loads(one.dataset.source)["uri"])
        return ""

    def _resolve(self, name: str, version: int | None, variant: str | None) -> int:
        if version is not None:
            return int(version)
        aliases = self._aliases(name)
        if variant is not None:
            if variant not in aliases:
                known = sorted({info.variant for info in self.versions(name)})
                if not known:
                    raise _nothing_published(name, self.names())
                raise StorageError(
                    f"{name!r} has no version of the variant {variant!r}; "
                    f"it has {', '.join(known)}."
                )
            return aliases[variant]
        if CHAMPION not in aliases:
            if not self._search_versions(name):
                raise _nothing_published(name, self.names())
            raise StorageError(
                f"{name!r} has no champion yet; promote a version or name one to load."
            )
        return aliases[CHAMPION]

    def checkpoint_directory(self, info: VersionInfo) -> Path:
        """The checkpoint that travels with a version, on this machine.

        Raises StorageError when it cannot be had.
        """
        with _sentence(f"the checkpoint of {_label(info)} cannot be read"):
            return self._model_directory(info) / "artifacts" / "checkpoint"

    def _model_directory(self, info: VersionInfo) -> Path:
        location = self._client.get_logged_model(info.model_id).artifact_location
        directory = _local_path(location)
        if directory is not None:
            return directory
        return Path(
            mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=self._uri)
        )

    # --- serve ------------------------------------------------------------------------------------

    def server_command(self, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
        """The command line of the server that shows these pages.

        It asks nobody for a password, so it listens to this machine only. Raises StorageError for
        any other host, and when a server keeps the registry already.
        """
        if not self._local:
            raise StorageError(f"the registry is shown at {self._pages} already; open that page.")
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise StorageError(
                f"the pages have no password and cannot listen on {host!r}; use 127.0.0.1, and a "
                "reverse proxy or an SSH tunnel to reach it from elsewhere."
            )
        return [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--workers", "2", "--gunicorn-opts", "--timeout 120 --log-level warning"),
            *("--host", host, "--port", str(int(port))),
            *("--backend-store-uri", self._uri),
            *("--artifacts-destination", str(self._artifacts)),
        ]

    def server_environment(self) -> dict[str, str]:
        """What the server's environment needs beside the usual."""
        return {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        }

    # --- the store --------------------------------------------------------------------------------

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One change at a time, over all threads and processes that share the root."""
        with _mlflow_globals, (self._home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # SQLite's store looks logged models up at the process's own address, which MLflow also
            # writes into the environment: it must not outlive us there.
            before = environment_variables.MLFLOW_TRACKING_URI.get_raw()  # type: ignore[no-untyped-call]
            mlflow.set_tracking_uri(self._uri)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(before)

    def _prepare_database(self) -> None:
        if not self._database.exists():
            with tempfile.TemporaryDirectory(prefix=".aside-", dir=self._home) as directory:
                aside = Path(directory) / "mlflow.db"
                store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
                    _sqlite_uri(aside), str(self._artifacts)
                )
                store.engine.dispose()
                with closing(sqlite3.connect(aside)) as database:
                    database.execute("pragma journal_mode = wal")
                aside.rename(self._database)
        self._follow_move()

    def _follow_move(self) -> None:
        """MLflow stores absolute addresses; a warehouse that was moved gets its new ones here."""
        with closing(sqlite3.connect(self._database, timeout=60)) as database:
            row = database.execute(
                "select artifact_location from experiments where experiment_id = 0"
            ).fetchone()
            here = str(self._artifacts)
            there = str(row[0]).removesuffix("/0") if row else here
            if there == here:
                return
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
                ("model_versions", "storage_location"),
            ):
                database.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608
                    f"where substr({column}, 1, ?) = ?",
                    (here, len(there) + 1, len(there) + 1, f"{there}/"),
                )
            database.commit()

    def _experiment(self, publication: Publication) -> Experiment:
        experiment = self._client.get_experiment_by_name(publication.name)
        if experiment is None:
            folder = re.sub(r"[^\w.-]", "_", publication.name)
            location = (self._artifacts / folder).as_posix() if self._local else None
            tags = {
                "mlflow.experimentKind": "custom_model_development",
                "mlflow.note.content": f"{publication.name}: one run for each version of the "
                f"registered model of the same name ({publication.problem}).",
            }
            number = self._client.create_experiment(publication.name, location, tags)
            experiment = self._client.get_experiment(number)
        elif experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return experiment

    def _ensure_registered_model(self, experiment: Experiment, publication: Publication) -> None:
        known = self._client.search_registered_models(f"name = {_quoted(publication.name)}")
        if not known:
            self._client.create_registered_model(
                publication.name,
                tags={"problem": publication.problem},
                description="The alias `champion` is the version in use; every variant has its "
                "newest version under its own alias. "
                f"[Leaderboard]({_leaderboard_link(experiment)})",
            )

    def _find_version(self, name: str, key: str) -> ModelVersion | None:
        found = self._search_versions(name, f" and tags.`key` = '{key}'")
        return found[0] if found else None

    def _search_versions(self, name: str, condition: str = "") -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token: str | None = None
        while True:
            page = self._client.search_model_versions(
                f"name = {_quoted(name)}{condition}", max_results=1000, page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _search_runs(
        self, experiment: Experiment, search: str, view: int = ViewType.ACTIVE_ONLY
    ) -> list[Run]:
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment.experiment_id], search, view, max_results=1000, page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _runs_of(self, name: str, versions: Iterable[ModelVersion]) -> dict[str, Run]:
        wanted = {str(version.run_id) for version in versions}
        if not wanted:
            return {}
        if len(wanted) == 1:
            return {run_id: self._client.get_run(run_id) for run_id in wanted}
        experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        runs = self._search_runs(experiment, "", ViewType.ALL)
        return {run.info.run_id: run for run in runs if run.info.run_id in wanted}

    def _info(self, name: str, number: int) -> VersionInfo:
        found = self._search_versions(name)
        for one in found:
            if int(one.version) == number:
                runs = self._runs_of(name, [one])
                return _version_info(one, runs.get(str(one.run_id)), self._aliases(name))
        if not found:
            raise _nothing_published(name, self.names())
        known = ", ".join(str(one) for one in sorted(int(one.version) for one in found))
        raise StorageError(f"{name!r} has no version {number}; it has {known}.")

    def _aliases(self, name: str) -> dict[str, int]:
        with _sentence(f"{name!r} cannot be read"):
            try:
                # Searches leave the aliases out; only the model itself has them.
                model = self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise
            return {alias: int(number) for alias, number in model.aliases.items()}

    def _set_alias(self, name: str, alias: str, number: int) -> None:
        if self._aliases(name).get(alias) != number:
            self._client.set_registered_model_alias(name, alias, str(number))

    def _set_version_tag(self, info: VersionInfo, key: str, value: str) -> None:
        self._client.set_model_version_tag(info.name, str(info.version), key, value[:_LONGEST_TAG])

    def _drop_version_tag(self, info: VersionInfo, key: str) -> None:
        if key in info.tags:
            self._client.delete_model_version_tag(info.name, str(info.version), key)

    def _run_tags(self, run_id: str) -> dict[str, str]:
        return dict(self._client.get_run(run_id).data.tags)

    def _set_run_tag(self, run_id: str, key: str, value: str) -> None:
        # Somebody may have deleted the run in the pages; the version goes on without it.
        if self._client.get_run(run_id).info.lifecycle_stage == "active":
            self._client.set_tag(run_id, key, value)

    def _drop_run_tag(self, run_id: str, key: str) -> None:
        run = self._client.get_run(run_id)
        if run.info.lifecycle_stage == "active" and key in run.data.tags:
            self._client.delete_tag(run_id, key)


def _configure_mlflow() -> None:
    """MLflow takes these settings from the environment alone; everything of ours is set here.

    No telemetry, no pickle, no project files in models, nothing on the user's terminal but errors.
    """
    for variable, value in (
        (environment_variables.MLFLOW_DISABLE_TELEMETRY, "true"),
        (environment_variables.MLFLOW_UV_AUTO_DETECT, "false"),
        (environment_variables.MLFLOW_ALLOW_PICKLE_DESERIALIZATION, "false"),
        (environment_variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT, "true"),
        (environment_variables.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, "false"),
        (environment_variables.MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING, "false"),
        (environment_variables.MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK, "true"),
        (environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES, "3"),
    ):
        variable.set(value)  # type: ignore[no-untyped-call]
    set_telemetry_client()  # type: ignore[no-untyped-call]
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs what it raises as well, with a traceback.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def _sentence(what: str) -> Iterator[None]:
    """What MLflow and the disk complain about, as one sentence."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StorageError(f"{what}: {_complaint(error)}.") from error


def _complaint(error: Exception) -> str:
    """What is wrong and what helps; MLflow hides what the database or the disk said in causes."""
    if server := _NO_ANSWER.search(str(error)):
        return (
            f"the MLflow server {_without_password(server[1])} does not answer; start it or unset "
            "MLFLOW_TRACKING_URI"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlite3.Error):
            return _database_complaint(cause)
        if isinstance(cause, OSError) and cause.errno is not None:
            where = f" ({cause.filename})" if cause.filename else ""
            return f"{cause.strerror}{where}; {remedy_of(cause)}"
        cause = cause.__cause__ or cause.__context__
    return _first_line(error)


def _database_complaint(error: sqlite3.Error) -> str:
    said = _first_line(error)
    # SQLite's extended codes have the plain one in their lowest byte.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another program holds the registry's database ({said}); try again when it is done"
    if code in _UNWRITABLE:
        return (
            f"the registry's database cannot be written ({said}); free some space and make the "
            "folder writable, or choose another warehouse (--warehouse)"
        )
    return (
        f"the registry's database is damaged ({said}); restore mlflow/mlflow.db of the warehouse "
        "from a backup, or move the folder mlflow away and retrain"
    )


def _try(packaged: Path, publication: Publication) -> None:
    try:
        model = _load_pyfunc(packaged, "cpu")
        answer = model.predict(pd.DataFrame({INPUT_COLUMN: publication.examples}, dtype="object"))
    except Exception as error:
        # Whatever the travelling code raises, the version must not come to be.
        raise StorageError(
            f"the packaged {publication.variant!r} of {publication.name!r} does not predict "
            f"({type(error).__name__}: {_first_line(error)}); nothing was registered."
        ) from error
    if len(answer) != len(publication.examples):
        raise StorageError(
            f"the packaged {publication.variant!r} of {publication.name!r} gave {len(answer)} "
            f"answers to {len(publication.examples)} examples; nothing was registered."
        )


def _save_pyfunc(**settings: Any) -> None:
    with warnings.catch_warnings(), _without_bytecode():
        # MLflow compares frames in a way that pandas 3 calls outdated; nothing we could change.
        warnings.simplefilter("ignore", DeprecationWarning)
        mlflow.pyfunc.save_model(**settings)


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Import without leaving ``__pycache__`` behind: a version stays as it was registered."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _load_pyfunc(directory: Path, device: str) -> PyFuncModel:
    with _mlflow_globals, _without_bytecode():
        model: PyFuncModel = mlflow.pyfunc.load_model(
            str(directory), model_config={"device": device}
        )
        return model


def _check_package(directory: Path, info: VersionInfo) -> None:
    """Whether weights and code are those that were published."""
    artifacts = directory / "artifacts"
    content = read_checkpoint(artifacts / "checkpoint")
    weights = checkpoint_digest(content.config, content.weights, content.vocabularies)
    code = source_digest(artifacts / "pipeline")
    for what, found, key in (("weights", weights, "checkpoint"), ("code", code, "code")):
        if found != info.tags.get(key):
            raise StorageError(
                f"the {what} of {_label(info)} in {directory} are not those that were published; "
                "promote another version and publish this one again."
            )


def _signature(publication: Publication) -> ModelSignature:
    candidate = Object([Property("text", DataType.string), Property("score", DataType.double)])
    return ModelSignature(
        inputs=ModelSchema([ColSpec(DataType.string, INPUT_COLUMN)]),
        outputs=ModelSchema(
            [
                ColSpec(DataType.string, PREDICTION_COLUMN),
                ColSpec(Array(candidate), CANDIDATES_COLUMN),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec(name, kind, default)
                for name, (kind, default) in publication.parameters.items()
            ]
        ),
    )


def _description(
    publication: Publication, experiment: Experiment, run: Run, model: LoggedModel
) -> str:
    """The version's page. Its first line is all that MLflow's table of versions shows."""
    number = experiment.experiment_id
    links = (
        f"[run](#/experiments/{number}/runs/{run.info.run_id}?{_WORKFLOW})"
        f" · [model](#/experiments/{number}/models/{model.model_id}?{_WORKFLOW})"
        f" · [leaderboard]({_leaderboard_link(experiment)})"
    )
    facts = f"{publication.problem} · {publication.variant}"
    parts = (publication.headline, facts, publication.description.strip(), links)
    return "\n\n".join(part for part in parts if part)


def _leaderboard_link(experiment: Experiment) -> str:
    return f"#/experiments/{experiment.experiment_id}/runs?{_WORKFLOW}&viewStateShareKey={_VIEW}"


def _view_state(tag: str | None) -> str | None:
    return None if tag is None else json.loads(tag).get("state")


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


def _version_info(version: ModelVersion, run: Run | None, aliases: dict[str, int]) -> VersionInfo:
    number = int(version.version)
    own = tuple(sorted(alias for alias, one in aliases.items() if one == number))
    description = version.description or ""
    tags = {} if run is None else dict(run.data.tags)
    tags |= version.tags
    return VersionInfo(
        name=version.name,
        version=number,
        variant=tags.get("variant", ""),
        problem=tags.get("problem", ""),
        headline=description.partition("\n")[0],
        champion=CHAMPION in own,
        aliases=own,
        metrics=dict(run.data.metrics) if run else {},
        params=dict(run.data.params) if run else {},
        tags={key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        description=description,
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        run_id=str(version.run_id),
        model_id=_model_id(version),
    )


def _model_id(version: ModelVersion) -> str:
    # The version's own field for it stays empty outside of Databricks.
    return str(version.source).removeprefix("models:/")


def _nothing_published(name: str, names: list[str]) -> StorageError:
    known = f"there are {', '.join(names)}" if names else "nothing was published yet"
    return StorageError(f"there is no registered model {name!r}; {known}.")


def _without_password(address: str) -> str:
    """An address as it may stand in a log or on a page."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _label(info: VersionInfo) -> str:
    return f"{info.name!r} version {info.version}"


def _short(digest: str) -> str:
    return digest[:12]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_line(error: Exception) -> str:
    return _one_line(str(error).strip().partition("\n")[0]).rstrip(".")


def _quoted(name: str) -> str:
    # MLflow's filters know no escape; either quote works as long as the name has not both.
    return f'"{name}"' if "'" in name else f"'{name}'"


def _sqlite_uri(path: Path) -> str:
    return f"sqlite:///{path}"


def _local_path(location: str) -> Path | None:
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if parts.scheme == "" else None


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
