"""Retrain: records, tokens, vocabulary, ids, every variant, scores, versions, champion.

Each arrow is a cached task keyed by content, so a retraining redoes only what changed. Publishing
and promoting act outside the warehouse and are not cached: they are keyed by what they publish and
do nothing where that is there already.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel

from flows.environment import source_addresses, tracking_uri, warehouse_root
from flows.ingest import IngestReport, ingest_sources, ingested_snapshot
from flows.pages.forecast_curves import show_forecast_curves
from flows.pages.learning_curves import show_learning_curves
from flows.pages.reports import markdown_table, show_report
from flows.prepare.ids import encode
from flows.prepare.splits import (
    RehearsalReport,
    SplitRefs,
    cut_and_divide,
    divide_series,
    leave_out_known,
)
from flows.prepare.tokens import with_user_dictionary
from flows.prepare.vocabularies import CoverageReport, VocabularyRef, measure_coverage
from flows.profile import ProfileRef, profile_series, profile_snapshot, read_profile, show_profile
from flows.publish.decision import Candidate, Decision, decide
from flows.publish.extension import Start, check_extension, version_to_extend
from flows.publish.version import publication_of
from flows.recipe import RESUMES, AnyProblem, Recipe
from flows.settings import apply_overrides, checked, signature_of
from flows.steps.steps import Steps, StepState
from flows.training.gpu import GpuPlace
from flows.training.processes import ProcessEndedError, TrainingProcesses
from flows.training.train import (
    FitReport,
    ScoreReport,
    UsableRows,
    align_vectors,
    count_usable,
    find_batch_size,
    score,
    train,
)
from pipeline.errors import InputError, choose_from
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.networks.variants import Baseline
from pipeline.problems import Forecasting
from pipeline.problems.scores import EvaluationConfig
from pipeline.profile import as_markdown
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from pipeline.training.batch_size import GB
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import DivergedError, check_vectors, numerics
from pipeline.training.ranks import num_gpus
from warehouse.checkpoints import CheckpointRef
from warehouse.registry.registry import Registry
from warehouse.registry.versions import Version
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables
from warehouse.word_vectors import VectorFile, find_vectors

logger = logging.getLogger(__name__)


class VariantReport(BaseModel, frozen=True):
    """How one variant did in this retraining; ``failure`` says why it has no version."""

    variant: str
    version: int | None = None
    new: bool = False
    metrics: dict[str, float] = {}
    failure: str = ""


class RetrainReport(BaseModel, frozen=True):
    """What a retraining did: the data, each variant, the champion and the reason, each step."""

    name: str
    ingest: IngestReport
    splits: SplitRefs
    vocabularies: tuple[VocabularyRef, ...]
    coverage: tuple[CoverageReport, ...]
    variants: tuple[VariantReport, ...]
    champion: int | None
    reason: str
    page: str
    profile: ProfileRef
    steps: tuple[StepState, ...]


@flow(name="retrain", log_prints=False)
def retrain(
    name: str,
    problem: AnyProblem,
    sources: list[str],
    variants: list[str],
    records: RecordsConfig = RecordsConfig(),  # noqa: B008
    splits: SplitsConfig = SplitsConfig(),  # noqa: B008
    text: TextConfig = TextConfig(),  # noqa: B008
    target_text: TextConfig | None = None,
    vocabulary: VocabularyConfig = VocabularyConfig(),  # noqa: B008
    network: NetworkConfig = NetworkConfig(),  # noqa: B008
    training: TrainingConfig = TrainingConfig(),  # noqa: B008
    regularisation: RegularisationConfig = RegularisationConfig(),  # noqa: B008
    evaluation: EvaluationConfig = EvaluationConfig(),  # noqa: B008
    snapshot: str = "",
    vectors: str = "",
    user_dictionary: str = "",
    extend_from: str = "",
    rehearsal: float = 1.0,
    device: str = "auto",
    parallel: int = 1,
    training_memory_gb: float | None = None,
    resume: str = "auto",
    save_every_steps: int | None = None,
    warehouse: str = "",
    overrides: dict[str, Any] | None = None,
) -> RetrainReport:
    """Train every variant of a problem on the newest data and register what is new.

    Args:
        name: of the registered model.
        problem: what is learnt, with its settings.
        sources: files, globs, folders, or addresses such as hf://; sample:NAME is bundled data.
        variants: names of networks such as lstm, gru-2, bilstm, rnn_tanh-textbook, bigru-attention,
            and of baselines such as ngram-5.
        records: how rows of the files are read.
        splits: what is held out.
        text: how text becomes tokens.
        target_text: the same for the target side of pairs; as text where it is absent.
        vocabulary: which words get an id.
        network: sizes that all variants share.
        training: how each variant is fitted.
        regularisation: what disturbs or taxes each variant while it is fitted.
        evaluation: how each variant is scored.
        snapshot: the beginning of the id of a snapshot to use as it is; no source is read then.
            Empty: the sources are read. prefect deployment run reads an id such as 12345678 or 1e5
            as a number: quote it twice there, -p 'snapshot="1e5"'.
        vectors: a file of word vectors to begin from, in word2vec's text format, for the words that
            are read; network.embedding says whether they are tuned (learned) or frozen.
        user_dictionary: a file of more text.user_words, one a line, in jieba's format.
        extend_from: champion, or a version's number, to go on learning from: its words keep their
            ids and weights, and what is new comes behind them.
        rehearsal: with extend_from, the share of the rows which that version learnt from that is
            learnt again beside what is new: 1 all of them, 0 none.
        device: auto, cpu or cuda.
        parallel: variants that are trained at once, each in a process of its own, on the GPU that
            has the fewest; 1 trains one after the other in this process. Results are the same to
            the bit: a process has as many threads as this one, OMP_NUM_THREADS where that is set.
        training_memory_gb: GB (10**9 bytes) that a training may take, in each of its processes; the
            batch size of each variant is then the largest that fits, in place of
            training.batch_size. It is counted, not tried, and the same on every machine.
        resume: auto goes on with a training that was cut off, never starts it anew.
        save_every_steps: optimizer steps between kept states, beside one every minute; several
            processes of one training look only every 50 steps.
        warehouse: where everything is kept; TIDEMILL_WAREHOUSE or .warehouse where it is empty.
        overrides: single settings by dotted name, for example {"training.num_epochs": 5}.
    """
    if overrides:
        given = {key: value for key, value in locals().items() if key != "overrides"}
        signature = signature_of(retrain)
        result: RetrainReport = retrain.fn(
            **checked(apply_overrides(given, overrides, signature), signature)
        )
        return result
    text, target_text = with_user_dictionary(text, target_text, user_dictionary)
    recipe = Recipe(
        problem,
        tuple(variants),
        records,
        splits,
        text,
        target_text,
        vocabulary,
        network,
        training,
        regularisation,
        evaluation,
    )
    recipe.check(device)
    check_extension(problem, extend_from, rehearsal, vectors)
    _check_resources(parallel, training_memory_gb, resume, save_every_steps)
    word_vectors = find_vectors(vectors) if vectors else None
    if word_vectors:
        check_vectors(problem, network, word_vectors.size)
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

    steps = Steps(warehouse_root(warehouse))
    # Nobody takes away what this run reads and makes before it is done.
    with Tables(steps.root).held(alone=False):
        registry = Registry(steps.root, tracking_uri())
        start = (
            version_to_extend(steps.root, registry, name, extend_from, recipe)
            if extend_from
            else None
        )
        ingested = (
            ingested_snapshot(steps, name, snapshot)
            if snapshot
            else ingest_sources(steps, name, source_addresses(sources), records)
        )
        data = _prepare(steps, recipe, ingested, start, rehearsal, word_vectors)
        trainings = _Trainings(
            steps, recipe, data, start, device, parallel, training_memory_gb, resume,
            save_every_steps,
        )  # fmt: skip
        published: list[_Published] = []
        failures: dict[str, str] = {}
        for each in trainings.fitted(failures):
            publication = publication_of(
                name=name,
                root=steps.root,
                recipe=each.recipe,
                variant=each.variant,
                fitted=each.fitted,
                scores=each.scores,
                splits=data.splits,
                snapshot=ingested.snapshot.id,
                usable=data.usable,
                vocabularies=data.vocabularies,
                coverage=data.coverage,
                goes_on_from=start.line(data.rehearsal) if start else "",
                retraining=began,
            )
            version = registry.publish(publication)
            show_profile(registry, version, steps.root, data.profile)
            published.append(_Published(each, version, publication.scores))
        if not published:
            raise InputError(
                f"no variant of {name} could be trained; the first failed because "
                f"{next(iter(failures.values()))}"
            )
        _show_curves(steps, registry, name, recipe, published)
        decision = decide(
            steps,
            registry,
            name,
            problem.decides,
            [each.candidate() for each in published],
            lambda ref: trainings.scored("valid", "champion", ref),
        )
        registry.note_decision(name, f"{began}: {decision.reason}")
        reports = {each.trained.variant: each.report() for each in published}
        report = RetrainReport(
            name=name,
            ingest=ingested,
            splits=data.splits,
            vocabularies=data.vocabularies,
            coverage=data.coverage,
            variants=tuple(
                reports.get(variant)
                or VariantReport(variant=variant.name, failure=failures[variant.name])
                for variant in recipe.variants
            ),
            champion=decision.champion,
            reason=decision.reason,
            page=registry.page(name),
            profile=data.profile,
            steps=tuple(steps.states),
        )
        profile_page = registry.artifact_page(published[0].version, "profile.html")
        _show(report, decision, steps.root, profile_page)
        return report


def _check_resources(
    parallel: int, training_memory_gb: float | None, resume: str, save_every_steps: int | None
) -> None:
    """Refuse a way to run that does not exist.

    Raises:
        InputError: with the valid values.
    """
    if parallel < 1:
        raise InputError(f"parallel is {parallel}: it must be at least 1")
    if training_memory_gb is not None and not 0 < training_memory_gb < math.inf:
        raise InputError(
            f"training_memory_gb is {training_memory_gb}: it must be above 0, for example 8, or "
            f"null, to use training.batch_size"
        )
    if resume not in RESUMES:
        raise InputError(f"unknown resume {resume!r}: {choose_from(resume, RESUMES)}")
    if save_every_steps is not None and save_every_steps < 1:
        raise InputError(f"save_every_steps is {save_every_steps}: it must be at least 1")


@dataclass(frozen=True)
class _Prepared:
    """The data of one retraining, from files to ids.

    ``columns`` are those of the token tables: what is read, and for pairs what is predicted; there
    is a vocabulary for each. ``ids`` has a table for each split. ``vectors`` are the given vectors
    of the words that are read.
    """

    ingested: IngestReport
    splits: SplitRefs
    vocabularies: tuple[VocabularyRef, ...]
    ids: dict[str, TableRef]
    usable: UsableRows
    profile: ProfileRef
    coverage: tuple[CoverageReport, ...] = ()
    rehearsal: RehearsalReport | None = None
    vectors: TableRef | None = None


def _prepare(
    steps: Steps,
    recipe: Recipe,
    ingested: IngestReport,
    start: Start | None,
    rehearsal: float,
    vectors: VectorFile | None,
) -> _Prepared:
    """Records, tokens, splits, vocabularies and ids; every step a cached task."""
    problem, kind = recipe.problem, recipe.records.kind
    if isinstance(problem, Forecasting):
        divided = steps.run(
            divide_series,
            shards=ingested.shards,
            splits=recipe.splits,
            period=problem.period,
            fill=problem.fill,
            files=ingested.files,
        )
        usable = steps.run(count_usable, problem=problem, ids=divided.tables)
        profile = profile_series(steps, ingested, divided)
        return _Prepared(ingested, divided, (), divided.tables, usable, profile)
    columns, texts = problem.columns, recipe.texts
    cut = cut_and_divide(
        steps,
        ingested.shards,
        kind,
        columns,
        texts,
        recipe.splits,
        recipe.vocabulary,
        start.checkpoint if start else None,
        ingested.files,
    )
    ids: dict[str, TableRef] = {
        split: steps.run(
            encode,
            label=split,
            rows=rows,
            columns=columns,
            texts=texts,
            vocabularies=cut.vocabularies,
        )
        for split, rows in cut.splits.tables.items()
    }
    rehearsed: RehearsalReport | None = None
    if start and rehearsal < 1:
        before = ingested_snapshot(steps, ingested.snapshot.name, start.snapshot)
        rehearsed = leave_out_known(
            steps,
            cut,
            ids["train"],
            before.shards,
            kind,
            columns,
            texts,
            recipe.splits,
            rehearsal,
            recipe.training.seed,
            before.files,
        )
        ids["train"] = rehearsed.ids
    usable = steps.run(count_usable, problem=problem, ids=ids)
    coverage = tuple(
        steps.run(
            measure_coverage,
            label=column,
            splits=cut.splits.tables,
            column=column,
            vocabulary=known,
        )
        for column, known in zip(columns, cut.vocabularies, strict=True)
    )
    profile = profile_snapshot(steps, ingested, kind, columns, texts, cut)
    aligned = (
        steps.run(align_vectors, vectors=vectors, vocabulary=cut.vocabularies[0])
        if vectors
        else None
    )
    return _Prepared(
        ingested, cut.splits, cut.vocabularies, ids, usable, profile, coverage, rehearsed, aligned
    )


@dataclass(frozen=True)
class _Trained:
    """A variant that is trained and scored; ``recipe`` has its own batch size."""

    variant: Variant | Baseline
    recipe: Recipe
    fitted: FitReport
    scores: dict[str, ScoreReport]


@dataclass(frozen=True)
class _Published:
    """A trained variant and its version."""

    trained: _Trained
    version: Version
    metrics: dict[str, float]

    def candidate(self) -> Candidate:
        """What the decision compares."""
        one = self.trained
        return Candidate(one.variant.name, self.version.version, one.fitted, one.scores)

    def report(self) -> VariantReport:
        """What the flow reports of it."""
        return VariantReport(
            variant=self.trained.variant.name,
            version=self.version.version,
            new=self.version.new,
            metrics=self.metrics,
        )


class _Trainings:
    """Trains and scores the variants of a recipe on its data."""

    def __init__(
        self,
        steps: Steps,
        recipe: Recipe,
        data: _Prepared,
        start: Start | None,
        device: str,
        parallel: int,
        training_memory_gb: float | None,
        resume: str,
        save_every_steps: int | None,
    ) -> None:
        self.steps, self.recipe, self.data, self.start = steps, recipe, data, start
        self.device, self.on, self.parallel = device, resolve_device(device), parallel
        self.resume, self.save_every_steps = resume, save_every_steps
        self.gpu = GpuPlace(self.on.type == "cuda")
        # Before any training starts, so that none is in vain where one does not fit.
        self.recipes = {
            variant: self._sized(variant, training_memory_gb) for variant in recipe.variants
        }

    def fitted(self, failures: dict[str, str]) -> Iterator[_Trained]:
        """Yield every variant in order, trained and scored; note those that break down."""
        with (
            self.gpu.taken(self.parallel > 1),
            TrainingProcesses(numerics(self.on)["threads"], num_gpus(self.on)) as processes,
            processes.at_once(
                lambda variant: self._fit(variant, processes), self.recipe.variants, self.parallel
            ) as trainings,
        ):
            for variant, training_of in zip(self.recipe.variants, trainings, strict=True):
                try:
                    fitted = training_of()
                except (DivergedError, ProcessEndedError) as error:
                    # One variant that breaks down must not cost the others their night.
                    logger.warning("%s", error)
                    failures[variant.name] = str(error)
                    continue
                scores = {
                    split: self.scored(split, variant.name, fitted.checkpoint)
                    for split in ("valid", "test")
                }
                yield _Trained(variant, self.recipes[variant], fitted, scores)

    def scored(self, split: str, label: str, checkpoint: CheckpointRef) -> ScoreReport:
        """Return a checkpoint's scores on one split of the data."""
        with self.gpu.taken():
            report: ScoreReport = self.steps.run(
                score,
                label=f"{label} {split}",
                checkpoint=checkpoint,
                rows=self.data.splits.tables[split],
                columns=self.recipe.problem.columns,
                texts=self.recipe.texts,
                vocabularies=self.data.vocabularies,
                evaluation=self.recipe.evaluation,
                device=self.device,
            )
        return report

    def _fit(self, variant: Variant | Baseline, processes: TrainingProcesses) -> FitReport:
        recipe = self.recipes[variant]
        several = self.parallel > 1 or (
            recipe.training.num_processes > 1 and isinstance(variant, Variant)
        )
        with self.gpu.taken():
            fitted: FitReport = self.steps.run(
                train,
                label=variant.name,
                problem=recipe.problem,
                variant=variant,
                network=recipe.network,
                training=recipe.training,
                regularisation=recipe.regularisation,
                config=recipe.model_config(variant).to_dict(),
                vocabularies=self.data.vocabularies,
                train_ids=self.data.ids["train"],
                valid_ids=self.data.ids["valid"],
                vectors=self.data.vectors,
                start=self.start.checkpoint if self.start else None,
                device=self.device,
                resume=self.resume,
                save_every_steps=self.save_every_steps,
                apart=processes if several else None,
            )
        return fitted

    def _sized(self, variant: Variant | Baseline, memory_gb: float | None) -> Recipe:
        """Return the recipe with the largest batch of the variant that fits the memory."""
        recipe = self.recipe
        if memory_gb is None or isinstance(variant, Baseline):
            return recipe
        found = self.steps.run(
            find_batch_size,
            label=variant.name,
            memory_gb=memory_gb,
            problem=recipe.problem,
            variant=variant,
            network=recipe.network,
            training=recipe.training,
            regularisation=recipe.regularisation,
            vocabularies=self.data.vocabularies,
            train_ids=self.data.ids["train"],
        )
        logger.info(
            "%s: batch size %d: %.3g of %.3g GB",
            variant.name,
            found.batch_size,
            found.num_bytes / GB,
            memory_gb,
        )
        return recipe.with_batch_size(found.batch_size)


def _show_curves(
    steps: Steps, registry: Registry, name: str, recipe: Recipe, published: list[_Published]
) -> None:
    """Plots of all variants of this retraining, among each version's artifacts."""
    fits = [(each.version, each.trained.fitted) for each in published]
    show_learning_curves(steps, registry, name, recipe.problem.loss, fits)
    if not recipe.problem.columns:
        samples = [(each.version, each.trained.scores["test"].samples) for each in published]
        show_forecast_curves(steps, registry, name, samples)


def _show(report: RetrainReport, decision: Decision, warehouse: Path, profile_page: str) -> None:
    """The reason in the log, and the result as a page of the flow run."""
    logger.info("%s: %s", report.name, report.reason)
    lines = [f"# {report.name}", "", report.reason, "", f"[Versions]({report.page})", ""]
    lines += markdown_table(decision.rows)
    lines += ["", "## Data", ""]
    lines += as_markdown(read_profile(warehouse, report.profile.data))
    lines += ["", f"[Profile of the data]({profile_page})"]
    lines += ["", "## Steps", ""]
    lines += markdown_table(
        [
            {
                "task": step.task,
                "of": step.label,
                "state": step.state,
                "seconds": f"{step.seconds:.2f}",
            }
            for step in report.steps
        ]
    )
    show_report("retrain", report.name, lines)
