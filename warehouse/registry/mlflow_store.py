"""MLflow as the registry uses it: one lock, whole searches, tags, and a database that may move."""

import fcntl
import logging
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeGuard, TypeVar
from urllib.parse import quote, unquote, urlsplit

import mlflow
from mlflow import MlflowClient, environment_variables
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client

from warehouse.registry.complaints import sentence
from warehouse.registry.versions import VersionInfo

LONGEST_TAG = 5000

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_PLAIN = re.compile(r"[\w/.@:=+~, ()-]+")

# MLflow keeps a loaded model's code, and the address it talks to, in globals of the process.
mlflow_globals = threading.RLock()

T = TypeVar("T")


class MlflowStore:
    """MLflow under the warehouse's ``root``, or behind ``tracking_uri`` where a server keeps it."""

    def __init__(self, root: Path, tracking_uri: str | None = None) -> None:
        configure_mlflow()
        self._home = root / "mlflow"
        self._database = self._home / "mlflow.db"
        self.artifacts = self._home / "artifacts"
        self.local = tracking_uri is None
        self.uri = tracking_uri or sqlite_uri(self._database)
        self.remote = urlsplit(self.uri).scheme in ("http", "https")
        with sentence("the registry cannot be opened"):
            self._home.mkdir(parents=True, exist_ok=True)
            if self.local:
                with self.lock():
                    self._prepare_database()
            self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            if self.remote:
                # Whoever is about to train for hours learns now that nobody would take the result.
                self.client.search_registered_models(max_results=1)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One change at a time, over all threads and processes that share the root."""
        with mlflow_globals, (self._home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # SQLite's store looks logged models up at the process's own address, which MLflow also
            # writes into the environment: it must not outlive us there.
            before = environment_variables.MLFLOW_TRACKING_URI.get_raw()  # type: ignore[no-untyped-call]
            mlflow.set_tracking_uri(self.uri)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(before)

    def _prepare_database(self) -> None:
        if not self._database.exists():
            # Slow to import, and needed once.
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            with tempfile.TemporaryDirectory(prefix=".aside-", dir=self._home) as directory:
                aside = Path(directory) / "mlflow.db"
                store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
                    sqlite_uri(aside), artifact_uri(self.artifacts)
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
            here = artifact_uri(self.artifacts)
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

    def find_versions(self, name: str, key: str) -> list[ModelVersion]:
        """The versions that were published under a key, the newest first."""
        found = [one for one in self.search_versions(name) if one.tags.get("key") == key]
        return sorted(found, key=lambda one: int(one.version), reverse=True)

    def search_versions(self, name: str | None = None) -> list[ModelVersion]:
        """All versions of a registered model, or of all of them."""
        search = None if name is None else _search_by_name(name)
        found: list[ModelVersion] = []
        token: str | None = None
        while True:
            page = self.client.search_model_versions(search, max_results=1000, page_token=token)
            # A server's collation may take names for equal that are not.
            found.extend(one for one in page if name in (None, one.name))
            token = page.token
            if not token:
                return found

    def search_runs(
        self, experiment_id: str, search: str, view: int = ViewType.ACTIVE_ONLY
    ) -> list[Run]:
        """All runs of an experiment that a search finds."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [experiment_id], search, view, max_results=1000, page_token=token
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def find_run(self, run_id: str) -> Run | None:
        """A run, deleted or not; None where it is gone for good."""
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def runs_of(self, versions: Iterable[ModelVersion]) -> dict[str, Run]:
        """Run id -> run, for the runs that versions come from; without those that are gone."""
        missing = {str(version.run_id) for version in versions if version.run_id}
        runs: dict[str, Run] = {}
        while missing:
            run = self.find_run(missing.pop())
            if run is None:
                continue
            runs[run.info.run_id] = run
            if missing:
                # Runs of one model lie in one experiment: a page of them costs as much as one.
                some = self.search_runs(run.info.experiment_id, "", ViewType.ALL)
                runs |= {one.info.run_id: one for one in some if one.info.run_id in missing}
                missing -= runs.keys()
        return runs

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version number; empty where there is no such registered model."""
        with sentence(f"{name!r} cannot be read"):
            try:
                # Searches leave the aliases out; only the model itself has them.
                model = self.client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return {}
                raise
            return {alias: int(number) for alias, number in model.aliases.items()}

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Give an alias to a version."""
        if self.aliases(name).get(alias) != number:
            self.client.set_registered_model_alias(name, alias, str(number))

    def set_version_tag(self, info: VersionInfo, key: str, value: str) -> None:
        """Set a tag of a version."""
        self.client.set_model_version_tag(info.name, str(info.version), key, value[:LONGEST_TAG])

    def drop_version_tag(self, info: VersionInfo, key: str) -> None:
        """Take a tag from a version, if it has it."""
        if key in info.tags:
            self.client.delete_model_version_tag(info.name, str(info.version), key)

    def set_run_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run, unless the run is deleted."""
        # Somebody may have deleted the run in the pages; the version goes on without it.
        run = self.find_run(run_id)
        if is_active(run) and run.data.tags.get(key) != value:
            self.client.set_tag(run_id, key, value)

    def drop_run_tag(self, run_id: str, key: str) -> None:
        """Remove a tag from a run, if it has it and is not deleted."""
        run = self.find_run(run_id)
        if is_active(run) and key in run.data.tags:
            self.client.delete_tag(run_id, key)

    def has_logged_model(self, model_id: str) -> bool:
        """Whether there is a logged model that nobody has deleted."""
        try:
            self.client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return False
            raise
        return True

    def has_registered_model(self, name: str) -> bool:
        """Whether there is a registered model of this name."""
        try:
            self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return False
            raise
        return True

    def location(self, name: str, version: int | str) -> str:
        """The address of the files of a version's model, also of a copied version."""
        return str(self.client.get_model_version_download_uri(name, str(version)))

    def holds_model(self, name: str, version: int | str) -> bool:
        """Whether the files of a version's model are there."""
        location = self.location(name, version)
        directory = local_path(location)
        if directory is not None:
            return (directory / "MLmodel").is_file()
        found = mlflow.artifacts.list_artifacts(artifact_uri=location, tracking_uri=self.uri)
        return any(Path(each.path).name == "MLmodel" for each in found)

    def model_directory(self, name: str, version: int | str) -> Path:
        """The files of a version's model, on this machine."""
        location = self.location(name, version)
        directory = local_path(location)
        if directory is not None:
            return directory
        return Path(
            mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=self.uri)
        )


def is_active(run: Run | None) -> TypeGuard[Run]:
    """Whether there is a run, and nobody has deleted it."""
    return run is not None and run.info.lifecycle_stage == "active"


def configure_mlflow() -> None:
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


def _search_by_name(name: str) -> str | None:
    """A search for the versions of one registered model; None where MLflow cannot express it."""
    # MLflow's filters know no escape: a name is quoted by the quotes that it does not have.
    for quote_mark in "'\"":
        if quote_mark not in name:
            return f"name = {quote_mark}{name}{quote_mark}"
    return None


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite database.

    A path with characters that mean something in an address is percent-encoded; SQLite decodes it.
    The name of the driver keeps MLflow from taking the encoded path for a folder to make.
    """
    if _is_plain(path):
        return f"sqlite:///{path}"
    return f"sqlite+pysqlite:///file:{quote(str(path))}?uri=true"


def artifact_uri(path: Path) -> str:
    """The address of a folder of artifacts; percent-encoded only where MLflow would misread it."""
    return str(path) if _is_plain(path) else path.as_uri()


def _is_plain(path: Path) -> bool:
    """Whether a path reads the same as an address."""
    return _PLAIN.fullmatch(str(path)) is not None


def local_path(location: str) -> Path | None:
    """The path that an artifact location means on this machine; None for any other."""
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if parts.scheme == "" else None


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, at most ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
