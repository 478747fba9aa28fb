"""Retrain: records, tokens, vocabulary, ids, every variant, scores, versions, champion.

Each arrow is a cached task keyed by content, so a retraining redoes only what changed. Publishing
and promoting act outside the warehouse and are not cached: they are keyed by what they publish and
do nothing where that is there already.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from flows.prepare.tokens import texts_of, with_user_dictionary
from flows.prepare.vocabularies import CoverageReport, VocabularyRef, measure_coverage
from flows.profile import ProfileRef, profile_series, profile_snapshot, read_profile, show_profile
from flows.publish.decision import Candidate, Decision, decide
from flows.publish.version import checkpoint_of, publication_of
from flows.recipe import apply_overrides, checked, signature_of
from flows.steps.steps import Steps, StepState
from flows.training.gpu import GpuPlace
from flows.training.processes import ProcessEndedError, TrainingProcesses
from flows.training.train import (
    AnyProblem,
    FitReport,
    ScoreReport,
    UsableRows,
    align_vectors,
    count_usable,
    find_batch_size,
    score,
    train,
)
from pipeline.errors import InputError
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.networks.variants import Baseline, parse_variant
from pipeline.prediction import read_config
from pipeline.problems import Forecasting, Tagging
from pipeline.problems.predictor import ModelConfig
from pipeline.problems.scores import EvaluationConfig
from pipeline.profile import as_markdown
from pipeline.records.contract import IN_ORDER, RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from pipeline.training.batch_size import GB
from pipeline.training.config import TrainingConfig
from pipeline.training.cuda_graphs import check_recordable
from pipeline.training.loop import DivergedError, check_settings, check_vectors, numerics
from pipeline.training.precision import check_precision
from pipeline.training.ranks import check_processes, num_gpus
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.registry import Registry, Version
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables
from warehouse.word_vectors import find_vectors

logger = logging.getLogger(__name__)

RESUMES = ("auto", "never")


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
    snapshot: str | None = None,
    vectors: str | None = None,
    user_dictionary: str | None = None,
    extend_from: str | None = None,
    rehearsal: float = 1.0,
    device: str = "auto",
    parallel: int = 1,
    training_memory_gb: float | None = None,
    resume: str = "auto",
    save_every_steps: int | None = None,
    warehouse: str | None = None,
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
        warehouse: where everything is kept; TIDEMILL_WAREHOUSE or .warehouse where it is absent.
        overrides: single settings by dotted name, for example {"training.num_epochs": 5}.
    """
    if overrides:
        given = {key: value for key, value in locals().items() if key != "overrides"}
        signature = signature_of(retrain)
        result: RetrainReport = retrain.fn(
            **checked(apply_overrides(given, overrides, signature), signature)
        )
        return result
    # Refuse what cannot work before any work starts.
    chosen = [parse_variant(variant) for variant in dict.fromkeys(variants)]
    if not chosen:
        raise InputError("variants is empty: name at least one, for example lstm")
    on = resolve_device(device)
    for variant in chosen:
        check_settings(problem, variant, network, regularisation)
        check_precision(training.precision, on, variant)
    if training.cuda_graph:
        check_recordable(problem, network, on)
    check_processes(training.num_processes, on)
    if parallel < 1:
        raise InputError(f"parallel is {parallel}: it must be at least 1")
    if training_memory_gb is not None and not 0 < training_memory_gb < math.inf:
        raise InputError(
            f"training_memory_gb is {training_memory_gb}: it must be above 0, for example 8, or "
            f"null, to use training.batch_size"
        )
    _check_resume(resume, save_every_steps)
    _check_data(problem, records, splits, text)
    _check_rehearsal(problem, rehearsal, extend_from)
    text, target_text = with_user_dictionary(text, target_text, user_dictionary)
    if vectors and extend_from:
        raise InputError("what is extended has its own word vectors: leave out vectors")
    word_vectors = find_vectors(vectors) if vectors else None
    if word_vectors:
        check_vectors(problem, network, word_vectors.size)
    gpu = GpuPlace(on.type == "cuda")
    began = datetime.now(UTC)

    steps = Steps(warehouse_root(warehouse))
    # Nobody takes away what this run reads and makes before it is done.
    with Tables(steps.root).held(alone=False):
        texts = texts_of(problem, text, target_text)
        registry = Registry(steps.root, tracking_uri())
        start = (
            _extended(steps, registry, name, extend_from, problem, chosen, network, texts)
            if extend_from
            else None
        )
        data = _prepare(
            steps,
            problem,
            ingested_snapshot(steps, name, snapshot)
            if snapshot
            else ingest_sources(steps, name, source_addresses(sources), records),
            records.kind,
            splits,
            texts,
            vocabulary,
            start,
            rehearsal,
            training.seed,
        )

        aligned: TableRef | None = None
        if word_vectors:
            aligned = steps.run(
                align_vectors,
                root=str(steps.root),
                vectors=word_vectors,
                vocabulary=data.vocabularies[0],
            )

        def sized(variant: Variant | Baseline) -> TrainingConfig:
            if training_memory_gb is None or isinstance(variant, Baseline):
                return training
            found = steps.run(
                find_batch_size,
                label=variant.name,
                root=str(steps.root),
                memory_gb=training_memory_gb,
                problem=problem,
                variant=variant,
                network=network,
                training=training,
                regularisation=regularisation,
                vocabularies=data.vocabularies,
                train_ids=data.ids["train"],
            )
            logger.info(
                "%s: batch size %d: %.3g of %.3g GB",
                variant.name,
                found.batch_size,
                found.num_bytes / GB,
                training_memory_gb,
            )
            return replace(training, batch_size=found.batch_size)

        # Before any training starts, so that none is in vain where one does not fit.
        trainings_of = {variant: sized(variant) for variant in chosen}

        def scored(split: str, label: str, checkpoint: CheckpointRef) -> ScoreReport:
            with gpu.taken():
                report: ScoreReport = steps.run(
                    score,
                    label=f"{label} {split}",
                    root=str(steps.root),
                    checkpoint=checkpoint,
                    rows=data.splits.tables[split],
                    columns=data.columns,
                    texts=texts,
                    vocabularies=data.vocabularies,
                    evaluation=evaluation,
                    device=device,
                )
            return report

        def trained(variant: Variant | Baseline) -> FitReport:
            several = parallel > 1 or (training.num_processes > 1 and isinstance(variant, Variant))
            with gpu.taken():
                fitted: FitReport = steps.run(
                    train,
                    label=variant.name,
                    root=str(steps.root),
                    problem=problem,
                    variant=variant,
                    network=network,
                    training=trainings_of[variant],
                    regularisation=regularisation,
                    config=ModelConfig(problem, variant, network, *texts).to_dict(),
                    vocabularies=data.vocabularies,
                    train_ids=data.ids["train"],
                    valid_ids=data.ids["valid"],
                    vectors=aligned,
                    start=start.checkpoint if start else None,
                    device=device,
                    resume=resume,
                    save_every_steps=save_every_steps,
                    apart=processes if several else None,
                )
            return fitted

        reports: list[VariantReport] = []
        candidates: list[Candidate] = []
        published: list[tuple[Version, FitReport]] = []
        with (
            gpu.taken(parallel > 1),
            TrainingProcesses(numerics(on)["threads"], num_gpus(on)) as processes,
            processes.at_once(trained, chosen, parallel) as trainings,
        ):
            for variant, training_of in zip(chosen, trainings, strict=True):
                try:
                    fitted = training_of()
                except (DivergedError, ProcessEndedError) as error:
                    # One variant that breaks down must not cost the others their night.
                    logger.warning("%s", error)
                    reports.append(VariantReport(variant=variant.name, failure=str(error)))
                    continue
                scores = {
                    split: scored(split, variant.name, fitted.checkpoint)
                    for split in ("valid", "test")
                }
                publication = publication_of(
                    name=name,
                    root=steps.root,
                    config=ModelConfig(problem, variant, network, *texts).to_dict(),
                    variant=variant.name,
                    problem=problem,
                    settings=_settings(
                        problem,
                        network,
                        trainings_of[variant],
                        regularisation,
                        vocabulary,
                        text,
                        splits,
                        evaluation,
                    ),
                    fitted=fitted,
                    scores=scores,
                    splits=data.splits,
                    snapshot=data.ingested.snapshot.id,
                    usable=data.usable,
                    vocabularies=data.vocabularies,
                    coverage=data.coverage,
                    goes_on_from=_learnt_on(start, data.rehearsal) if start else "",
                    retraining=f"{began:%Y-%m-%d %H:%M} UTC",
                )
                version = registry.publish(publication)
                show_profile(registry, version, steps.root, data.profile)
                published.append((version, fitted))
                candidates.append(Candidate(variant.name, version.version, fitted, scores))
                reports.append(
                    VariantReport(
                        variant=variant.name,
                        version=version.version,
                        new=version.new,
                        metrics=publication.scores,
                    )
                )
        if not candidates:
            raise InputError(
                f"no variant of {name} could be trained; the first failed because "
                f"{reports[0].failure}"
            )
        show_learning_curves(steps, registry, name, problem.loss, published)
        if isinstance(problem, Forecasting):
            samples = [each.scores["test"].samples for each in candidates]
            versions = [version for version, _ in published]
            show_forecast_curves(steps, registry, name, list(zip(versions, samples, strict=True)))
        decision = decide(
            steps,
            registry,
            name,
            problem.decides,
            candidates,
            lambda ref: scored("valid", "champion", ref),
        )
        registry.note_decision(name, f"{began:%Y-%m-%d %H:%M} UTC: {decision.reason}")
        report = RetrainReport(
            name=name,
            ingest=data.ingested,
            splits=data.splits,
            vocabularies=data.vocabularies,
            coverage=data.coverage,
            variants=tuple(reports),
            champion=decision.champion,
            reason=decision.reason,
            page=registry.page(name),
            profile=data.profile,
            steps=tuple(steps.states),
        )
        _show(report, decision, steps.root, registry.artifact_page(published[0][0], "profile.html"))
        return report


@dataclass(frozen=True)
class Prepared:
    """The data of one retraining, from files to ids.

    ``columns`` are those of the token tables: what is read, and for pairs what is predicted; there
    is a vocabulary for each. ``ids`` has a table for each split.
    """

    ingested: IngestReport
    splits: SplitRefs
    columns: tuple[str, ...]
    vocabularies: tuple[VocabularyRef, ...]
    ids: dict[str, TableRef]
    usable: UsableRows
    profile: ProfileRef
    coverage: tuple[CoverageReport, ...] = ()
    rehearsal: RehearsalReport | None = None


@dataclass(frozen=True)
class Start:
    """The version to go on learning from."""

    version: int
    snapshot: str
    checkpoint: CheckpointRef


def _prepare(
    steps: Steps,
    problem: AnyProblem,
    ingested: IngestReport,
    kind: str,
    splits: SplitsConfig,
    texts: tuple[TextConfig, ...],
    vocabulary: VocabularyConfig,
    start: Start | None,
    rehearsal: float,
    seed: int,
) -> Prepared:
    """Records, tokens, splits, vocabularies and ids; every step a cached task."""
    root = str(steps.root)
    if isinstance(problem, Forecasting):
        divided = steps.run(
            divide_series, root=root, shards=ingested.shards, splits=splits, period=problem.period
        )
        usable = steps.run(count_usable, root=root, problem=problem, ids=divided.tables)
        profile = profile_series(steps, ingested, divided)
        return Prepared(ingested, divided, (), (), divided.tables, usable, profile)
    columns = problem.columns
    checkpoint = start.checkpoint if start else None
    cut = cut_and_divide(
        steps, ingested.shards, kind, columns, texts, splits, vocabulary, checkpoint
    )
    ids: dict[str, TableRef] = {
        split: steps.run(
            encode,
            label=split,
            root=root,
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
            splits,
            rehearsal,
            seed,
        )
        ids["train"] = rehearsed.ids
    usable = steps.run(count_usable, root=root, problem=problem, ids=ids)
    coverage = tuple(
        steps.run(
            measure_coverage,
            label=column,
            root=root,
            splits=cut.splits.tables,
            column=column,
            vocabulary=known,
        )
        for column, known in zip(columns, cut.vocabularies, strict=True)
    )
    profile = profile_snapshot(steps, ingested, kind, columns, texts, cut)
    return Prepared(
        ingested,
        cut.splits,
        columns,
        cut.vocabularies,
        ids,
        usable,
        profile,
        coverage,
        rehearsed,
    )


def _extended(
    steps: Steps,
    registry: Registry,
    name: str,
    which: str,
    problem: AnyProblem,
    variants: Sequence[Variant | Baseline],
    network: NetworkConfig,
    texts: tuple[TextConfig, ...],
) -> Start:
    """The version to go on learning from.

    Raises:
        InputError: there is no such version, or what shall be trained is another model.
    """
    known = {str(version.version): version for version in registry.versions(name)}
    version = registry.champion(name) if which == "champion" else known.get(which)
    if version is None:
        wanted_version = "champion" if which == "champion" else f"version {which}"
        found = f"its versions are {', '.join(sorted(known, key=int))}" if known else "it has none"
        raise InputError(
            f"{name} has no {wanted_version} to extend ({found}): retrain it without, or name "
            f"a version that it has"
        )
    checkpoint = checkpoint_of(version, steps.root, registry)
    # A setting that is younger than the version has its default there.
    there = read_config(Checkpoints(steps.root).load(checkpoint).config).to_dict()
    for variant in variants:
        wanted = ModelConfig(problem, variant, network, *texts).to_dict()
        for part in ("problem", "variant", "network", "text", "target_text"):
            # As JSON, since a configuration that was kept has lists in place of tuples.
            here, then = (json.dumps(each.get(part)) for each in (wanted, there))
            if here != then:
                raise InputError(
                    f"version {version.version} of {name} cannot be extended: its {part} is "
                    f"{then}, and {here} is asked for"
                )
    return Start(version.version, version.tags["snapshot"], checkpoint)


def _learnt_on(start: Start, rehearsal: RehearsalReport | None) -> str:
    """What a version that goes on from another one has learnt, in a line of its page."""
    line = f"goes on from version {start.version}"
    if rehearsal is None:
        return line
    return (
        f"{line}, with {rehearsal.num_new} new training rows and {rehearsal.num_rehearsed} of the "
        f"{rehearsal.num_known} that it had learnt"
    )


def _check_rehearsal(problem: AnyProblem, rehearsal: float, extend_from: str | None) -> None:
    """Refuse a share of known rows where there are none, or that is no share.

    Raises:
        InputError: with the remedy.
    """
    if not 0 <= rehearsal <= 1:
        raise InputError(f"rehearsal is {rehearsal}: it must be from 0 (none) to 1 (all)")
    if rehearsal < 1 and not extend_from:
        raise InputError(
            "rehearsal is a share of what a version has learnt already: set extend_from, or leave "
            "rehearsal at 1"
        )
    if isinstance(problem, Forecasting) and rehearsal < 1:
        raise InputError("a series is learnt as a whole: leave rehearsal at 1")


def _check_resume(resume: str, save_every_steps: int | None) -> None:
    """Refuse another way to resume than the two there are, and steps below 1.

    Raises:
        InputError: with the valid values.
    """
    if resume not in RESUMES:
        raise InputError(f"unknown resume {resume!r}: choose from {', '.join(RESUMES)}")
    if save_every_steps is not None and save_every_steps < 1:
        raise InputError(f"save_every_steps is {save_every_steps}: it must be at least 1")


def _check_data(
    problem: AnyProblem, records: RecordsConfig, splits: SplitsConfig, text: TextConfig
) -> None:
    """Refuse data that a problem cannot learn from, or that cannot be divided so.

    Raises:
        InputError: with what would do.
    """
    if records.kind not in problem.kinds:
        raise InputError(
            f"{problem.name} cannot learn from {records.kind}: set records.kind to "
            f"{' or '.join(problem.kinds)}, or choose another problem.name"
        )
    if isinstance(problem, Tagging) and text.unit == "subword":
        raise InputError("tagging gives a label to each word: set text.unit to word")
    if records.kind in IN_ORDER and splits.by != "chronological":
        raise InputError(
            f"rows of {records.kind} mean something only in their order: set splits.by to "
            f"chronological"
        )


def _settings(problem: Any, *parts: Any) -> dict[str, Any]:
    """All settings of a training by dotted name, for the registry's page."""
    names = (
        *("network", "training", "regularisation"),
        *("vocabulary", "text", "splits", "evaluation"),
    )
    settings = {f"problem.{key}": value for key, value in asdict(problem).items()}
    for name, part in zip(names, parts, strict=True):
        settings |= {f"{name}.{key}": value for key, value in asdict(part).items()}
    return settings


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
