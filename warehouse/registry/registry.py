"""The model registry: publish, compare, promote, roll back, load. MLflow is behind it.

Under the warehouse's root:

    mlflow/mlflow.db     runs, metrics, versions, aliases (SQLite, write-ahead log)
    mlflow/artifacts/    what runs and versions consist of
    mlflow/lock          held by whoever changes something

One registered model and one experiment bear the same name; each version has one flat run of its
own.
"""

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from warehouse.errors import StorageError
from warehouse.registry.complaints import one_line, sentence, without_password
from warehouse.registry.mlflow_store import LONGEST_TAG, MlflowStore, artifact_uri, is_active
from warehouse.registry.pages import WORKFLOW, leaderboard_link
from warehouse.registry.publication import Publication
from warehouse.registry.versions import (
    CHAMPION,
    PREVIOUS_CHAMPION,
    Version,
    VersionInfo,
    label,
    nothing_published,
    version_info,
)

if TYPE_CHECKING:
    from warehouse.registry.loaded_model import LoadedModel

DECISION = "last_retraining"
PAGES = "http://127.0.0.1:5000"
"""Where `tidemill ui` shows MLflow's pages, unless it is given another port."""


class Registry:
    """The registry under `root`, or behind `tracking_uri` where a server keeps it."""

    def __init__(self, root: str | Path, tracking_uri: str | None = None) -> None:
        self.root = Path(root).absolute()
        self._store = MlflowStore(self.root, tracking_uri)
        shown = without_password(self._store.uri) if self._store.remote else PAGES
        self._pages = shown.rstrip("/")

    # --- publish ----------------------------------------------------------------------------------

    def publish(self, publication: Publication) -> Version:
        """Make a version of a checkpoint, its code, its scores and its history.

        Idempotent by the publication's key: a key that is there already makes no second version,
        and where its scores have changed, the version shows the new ones. Before anything becomes
        visible the packaged model is loaded and answers the examples.

        Raises StorageError when a setting cannot be used, the checkpoint is not what its digest
        says, the packaged model does not answer, or the store refuses.
        """
        # Publishing imports torch, which looking does without.
        from warehouse.registry.publishing import publish

        publication.check()
        with sentence(f"{publication.name!r} could not be published"), self._store.lock():
            return publish(self._store, publication)

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
        with (
            sentence(f"{', '.join(files)} cannot be shown with {version.name!r}"),
            self._store.lock(),
        ):
            run = self._store.find_run(version.run_id)
            # Somebody may have deleted the run in the pages; the version goes on without it.
            if not is_active(run):
                return
            shown = run.data.tags.get(tag)
            if shown == value or (shown and not replace):
                return
            with tempfile.TemporaryDirectory(prefix="tidemill-") as staging:
                for name, file in files.items():
                    shutil.copyfile(file, Path(staging) / name)
                    self._store.client.log_artifact(version.run_id, str(Path(staging) / name))
            self._store.set_run_tag(version.run_id, tag, value)

    def removal_of(self, version: VersionInfo) -> str:
        """A shell command that deletes a version, and for good what no other version uses.

        The run and the model of a version that was copied stay as long as there is a copy. Where a
        server keeps the registry, `mlflow gc` beside that server has the last word.
        """
        uri = shlex.quote(self._store.uri)
        calls = (
            "import mlflow, sys; client = mlflow.MlflowClient(sys.argv[1], sys.argv[1]); "
            "client.delete_model_version(sys.argv[2], sys.argv[3]); run = sys.argv[5]; "
            "client.search_model_versions(f\"run_id = '{run}'\") and sys.exit('kept: a copy of "
            "this version uses the same files'); "
            "sys.argv[4] and client.delete_logged_model(sys.argv[4]); client.delete_run(run)"
        )
        named = [version.name, str(version.version), version.model_id, version.run_id]
        command = f"python -c {shlex.quote(calls)} {uri} {shlex.join(named)}"
        if self._store.local:
            command += (
                f" && MLFLOW_TRACKING_URI={uri} mlflow gc --backend-store-uri {uri}"
                f" --run-ids {version.run_id}"
            )
        return command

    # --- look -------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The registered models, in the order of the alphabet."""
        with sentence("the registry cannot be read"):
            found = self._store.client.search_registered_models(max_results=1000)
            return sorted(model.name for model in found)

    def versions(self, name: str) -> list[VersionInfo]:
        """All versions, the newest first; empty when nothing was published under this name."""
        with sentence(f"{name!r} cannot be read"):
            aliases = self._store.aliases(name)
            found = self._store.search_versions(name)
            runs = self._store.runs_of(found)
            infos = [version_info(one, runs.get(str(one.run_id)), aliases) for one in found]
        return sorted(infos, key=lambda info: info.version, reverse=True)

    def champion(self, name: str) -> VersionInfo | None:
        """The version that `load` gives by default, or None before the first promotion."""
        with sentence(f"{name!r} cannot be read"):
            number = self._store.aliases(name).get(CHAMPION)
            return None if number is None else self._info(name, number)

    def page(self, name: str) -> str:
        """The address of a registered model's page."""
        return f"{self._pages}/#/models/{quote(name)}?{WORKFLOW}"

    def leaderboard_page(self, name: str) -> str:
        """The address of the page that compares all versions of a model.

        Raises StorageError when nothing was published under this name.
        """
        with sentence(f"{name!r} cannot be read"):
            experiment = self._store.client.get_experiment_by_name(name)
            if experiment is not None:
                return f"{self._pages}/{leaderboard_link(experiment.experiment_id)}"
            # A model that was renamed or copied has its runs in the experiment it came from.
            versions = self._store.search_versions(name)
            if not versions:
                raise nothing_published(name, self.names())
            for run in self._store.runs_of(versions[:1]).values():
                return f"{self._pages}/{leaderboard_link(run.info.experiment_id)}"
        return self.page(name)

    def artifact_page(self, version: Version, name: str) -> str:
        """The address of the page that shows an artifact of a version's run.

        Where the run is gone, the page of the registered model.
        """
        with sentence(f"{version.name!r} cannot be read"):
            run = self._store.find_run(version.run_id)
        if run is None:
            return self.page(version.name)
        return (
            f"{self._pages}/#/experiments/{run.info.experiment_id}/runs/{version.run_id}/artifacts/"
            f"{quote(name)}?{WORKFLOW}"
        )

    # --- choose -----------------------------------------------------------------------------------

    def promote(self, name: str, version: int, reason: str) -> None:
        """Make a version the champion, and write down why.

        The champion before it can be brought back by `rollback`. Repeating a promotion changes
        nothing but completes one that was cut short.

        Raises StorageError when there is no such version.
        """
        with sentence(f"{name!r} version {version} could not be promoted"), self._store.lock():
            info = self._info(name, int(version))
            current = self._store.aliases(name).get(CHAMPION)
            if current is not None and current != info.version:
                self._store.set_alias(name, PREVIOUS_CHAMPION, current)
            self._crown(info, since=current)
            finished = "promoted_at" in info.tags and "rolled_back" not in info.tags
            if current == info.version and finished:
                return
            self._tell(info, f"**Promoted to champion**: {one_line(reason)}")
            self._store.drop_version_tag(info, "rolled_back")
            self._store.set_version_tag(info, "promotion_reason", one_line(reason))
            self._store.set_version_tag(info, "promoted_at", _now_text())

    def rollback(self, name: str) -> VersionInfo:
        """Bring the previous champion back, and mark the one that had to go.

        A second rollback swaps the two again. Raises StorageError when there is no other champion
        to go back to.
        """
        with sentence(f"{name!r} could not be rolled back"), self._store.lock():
            aliases = self._store.aliases(name)
            current, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS_CHAMPION)
            if not aliases and not self._store.search_versions(name):
                raise nothing_published(name, self.names())
            if current is None or previous is None or current == previous:
                raise StorageError(
                    f"{name!r} has no earlier champion to go back to; "
                    "promote a version by its number instead."
                )
            loser, winner = self._info(name, current), self._info(name, previous)
            self._crown(winner, since=current)
            self._store.set_alias(name, PREVIOUS_CHAMPION, current)
            self._tell(loser, f"**Rolled back**: to version {previous}")
            self._tell(winner, f"**Champion again**: rolled back from version {current}")
            self._store.set_version_tag(
                loser, "rolled_back", f"{_now_text()}, to version {previous}"
            )
            self._store.drop_version_tag(winner, "rolled_back")
            self._store.set_version_tag(winner, "promoted_at", _now_text())
            self._store.set_version_tag(
                winner, "promotion_reason", f"rolled back from version {current}"
            )
            return self._info(name, previous)

    def _tell(self, info: VersionInfo, note: str) -> None:
        """Put a paragraph at the end of a version's page, once."""
        before = [each for each in info.description.split("\n\n") if each != note]
        told = "\n\n".join([*before, note])
        if told != info.description:
            self._store.client.update_model_version(info.name, str(info.version), told)

    def note_decision(self, name: str, said: str) -> None:
        """Show with a model what its last retraining came to, also where the champion stayed.

        Raises StorageError when nothing was published under this name.
        """
        with sentence(f"{name!r} cannot show its last retraining"), self._store.lock():
            self._store.client.set_registered_model_tag(
                name, DECISION, one_line(said)[:LONGEST_TAG]
            )

    def decision(self, name: str) -> str:
        """What the last retraining of a model came to; empty where nobody noted it."""
        with sentence(f"{name!r} cannot be read"):
            return str(self._store.client.get_registered_model(name).tags.get(DECISION, ""))

    def _crown(self, info: VersionInfo, since: int | None) -> None:
        """Give the alias, and show it where MLflow's pages have no place for aliases."""
        if since is not None and since != info.version:
            self._store.drop_run_tag(self._info(info.name, since).run_id, CHAMPION)
        self._store.set_alias(info.name, CHAMPION, info.version)
        self._store.set_run_tag(info.run_id, CHAMPION, "yes")
        headline = f"v{info.version} {info.variant}: {info.headline}"
        self._store.client.set_registered_model_tag(info.name, CHAMPION, headline[:LONGEST_TAG])

    # --- load -------------------------------------------------------------------------------------

    def load(
        self,
        name: str,
        *,
        version: int | None = None,
        variant: str | None = None,
        device: str = "cpu",
    ) -> "LoadedModel":
        """The champion, or a version by its number, or the newest version of a variant.

        The version's own code runs, not this process's. Raises StorageError when there is no such
        version, or its weights or code are not those that were published.
        """
        from warehouse.registry.loaded_model import LoadedModel, check_package, load_pyfunc

        with sentence(f"{name!r} could not be loaded"):
            number = self._resolve(name, version, variant)
            info = self._info(name, number)
            directory = self._model_directory(info)
            check_package(directory, info, self._seals(info))
            return LoadedModel(info, load_pyfunc(directory, device))

    def find(self, name: str, version: int | None = None) -> VersionInfo:
        """The champion, or a version by its number. Raises StorageError when there is none."""
        with sentence(f"{name!r} could not be found"):
            return self._info(name, self._resolve(name, version, None))

    def dataset_uri(self, info: VersionInfo, context: str) -> str:
        """Where the split of a context (train, valid, test) lies, as it was published with a
        version; empty where none was.
        """
        with sentence(f"the data of {label(info)} cannot be found"):
            run = self._store.find_run(info.run_id)
        inputs = run.inputs if run else None
        for one in inputs.dataset_inputs if inputs else ():
            if context in (tag.value for tag in one.tags):
                return str(json.loads(one.dataset.source)["uri"])
        return ""

    def _resolve(self, name: str, version: int | None, variant: str | None) -> int:
        if version is not None:
            return int(version)
        aliases = self._store.aliases(name)
        if variant is not None:
            if variant not in aliases:
                known = sorted({info.variant for info in self.versions(name)})
                if not known:
                    raise nothing_published(name, self.names())
                raise StorageError(
                    f"{name!r} has no version of the variant {variant!r}; "
                    f"it has {', '.join(known)}."
                )
            return aliases[variant]
        if CHAMPION not in aliases:
            if not self._store.search_versions(name):
                raise nothing_published(name, self.names())
            raise StorageError(
                f"{name!r} has no champion yet; promote a version or name one to load."
            )
        return aliases[CHAMPION]

    def checkpoint_directory(self, info: VersionInfo) -> Path:
        """The checkpoint that travels with a version, on this machine.

        Raises StorageError when it cannot be had.
        """
        with sentence(f"the checkpoint of {label(info)} cannot be read"):
            return self._model_directory(info) / "artifacts" / "checkpoint"

    def holds_model(self, info: VersionInfo) -> bool:
        """Whether the files of a version's model are there; people can delete them in MLflow."""
        with sentence(f"the files of {label(info)} cannot be looked up"):
            return self._store.holds_model(info.name, info.version)

    def _model_directory(self, info: VersionInfo) -> Path:
        directory = self._store.model_directory(info.name, info.version)
        if not (directory / "MLmodel").is_file():
            raise StorageError(
                f"the files of {label(info)} are gone; promote or name another version, or "
                "retrain to publish it again."
            )
        return directory

    def _seals(self, info: VersionInfo) -> list[dict[str, str]]:
        """The tags that say what was published: the version's own and its run's.

        People edit tags in MLflow's pages, so one of the two is enough.
        """
        version = self._store.client.get_model_version(info.name, str(info.version))
        run = self._store.find_run(info.run_id)
        return [dict(version.tags), dict(run.data.tags) if run else {}]

    # --- serve ------------------------------------------------------------------------------------

    def server_command(self, port: int = 5000) -> list[str]:
        """The command line of the server that shows these pages.

        It asks nobody for a password, so it listens to this machine only. Raises StorageError when
        a server keeps the registry already.
        """
        if not self._store.local:
            raise StorageError(f"the registry is shown at {self._pages} already; open that page.")
        return [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--workers", "2", "--gunicorn-opts", "--timeout 120 --log-level warning"),
            *("--host", "127.0.0.1", "--port", str(int(port))),
            *("--backend-store-uri", self._store.uri),
            *("--artifacts-destination", artifact_uri(self._store.artifacts)),
        ]

    def server_environment(self) -> dict[str, str]:
        """What the server's environment needs beside the usual."""
        return {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        }

    def _info(self, name: str, number: int) -> VersionInfo:
        found = self._store.search_versions(name)
        for one in found:
            if int(one.version) == number:
                runs = self._store.runs_of([one])
                return version_info(one, runs.get(str(one.run_id)), self._store.aliases(name))
        if not found:
            raise nothing_published(name, self.names())
        known = ", ".join(str(one) for one in sorted(int(one.version) for one in found))
        raise StorageError(f"{name!r} has no version {number}; it has {known}.")


def _now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
