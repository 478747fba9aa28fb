"""The tasks from ids to scores: fit one variant, evaluate it on one split."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, SerializeAsAny

from flows.prepare.ids import encoded_rows, labelled_ids
from flows.prepare.vocabularies import (
    VocabularyRef,
    read_subwords,
    read_vocabulary,
    spelling_beyond,
    word_rows,
)
from flows.steps.keys import ContentPolicy, cached_task
from flows.training.freed_memory import keep_freed_memory
from flows.training.processes import TrainingProcesses
from pipeline.evaluation import evaluate
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.networks.variants import Baseline, parse_variant
from pipeline.prediction import load_predictor
from pipeline.problems import Tagging
from pipeline.problems.batches import Examples
from pipeline.problems.predictor import Predictor
from pipeline.problems.problem import Problem
from pipeline.problems.ragged import Ragged
from pipeline.problems.scores import EvaluationConfig
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.vocabulary import SPECIALS, SUBWORDS, VOCABULARIES
from pipeline.training.batch_size import largest_batch_size
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Fitted, Observer, TrainingState, check_usable, fit
from warehouse.arrays import Arrays
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.tables.columns import ragged_column
from warehouse.tables.example_schemas import (
    LABELS,
    statistics_table,
    token_table,
    vectors_of,
    vectors_table,
)
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables
from warehouse.word_vectors import VectorFile, read_vectors

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_STATES = 60.0
"""A killed training loses at most this much work."""

SECONDS_BETWEEN_NEWS = 5.0
"""How long a training is silent at most."""


class FitReport(BaseModel, frozen=True):
    """A trained variant: where it is, how training went and what it cost."""

    checkpoint: CheckpointRef
    history: list[dict[str, Any]]
    best_epoch: int
    stopped: str
    num_parameters: int
    seconds: float
    tokens_per_second: float
    started_ms: int


class ScoreReport(BaseModel, frozen=True):
    """Scores of one checkpoint on one split, and the table of their statistics, row by row."""

    metrics: dict[str, float]
    statistics: TableRef
    signatures: dict[str, str]
    samples: list[dict[str, str]]
    tables: dict[str, list[dict[str, str]]]


class _Reporter(Observer):
    """Tells the log how a training goes, times it, and keeps its state.

    ``already`` are the seconds that the epoch at hand took before the run was cut off. A state is
    kept every ``SECONDS_BETWEEN_STATES``, and every ``save_every_steps`` where that is given.
    """

    def __init__(
        self,
        name: str,
        num_epochs: int,
        keep: Callable[[TrainingState, float], None],
        already: float,
        save_every_steps: int | None = None,
    ) -> None:
        self.name, self.num_epochs, self.keep = name, num_epochs, keep
        self.save_every_steps, self.num_unkept = save_every_steps, 0
        self.told = self.kept = time.monotonic()
        self.epoch_began = self.told - already

    def step(self, epoch: int, batch: int, num_batches: int) -> None:
        now = time.monotonic()
        self.num_unkept += 1
        if now - self.told >= SECONDS_BETWEEN_NEWS:
            self.told = now
            logger.info(
                "%s: epoch %d of %d, %.0f %%",
                self.name,
                epoch,
                self.num_epochs,
                100 * batch / num_batches,
            )

    def epoch(self, record: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        seconds, self.epoch_began, self.told = now - self.epoch_began, now, now
        losses = record["metrics"]
        shown = "perplexity" if "valid/perplexity" in losses else "loss"
        logger.info(
            "%s: epoch %d of %d done in %.1f s, %s %.4g in training, %.4g in validation",
            self.name,
            record["epoch"],
            self.num_epochs,
            seconds,
            shown,
            losses[f"train/{shown}"],
            losses[f"valid/{shown}"],
        )
        speed = {"speed/tokens_per_second": record["num_tokens"] / max(seconds, 1e-9)}
        return {
            "timestamp_ms": time.time_ns() // 1_000_000,
            "seconds": seconds,
            "metrics": losses | speed,
        }

    def save(self, state: Callable[[], TrainingState | None]) -> None:
        if time.monotonic() - self.kept >= SECONDS_BETWEEN_STATES or (
            self.save_every_steps is not None and self.num_unkept >= self.save_every_steps
        ):
            taken = state()
            if taken is not None:
                self.keep(taken, time.monotonic() - self.epoch_began)
            self.kept, self.num_unkept = time.monotonic(), 0

    def warn(self, sentence: str) -> None:
        logger.warning("%s", sentence)


class UsableRows(BaseModel, frozen=True):
    """How many rows of each split a problem can use."""

    train: int
    valid: int
    test: int


@cached_task()
def count_usable(root: str, problem: Problem, ids: Mapping[str, TableRef]) -> UsableRows:
    """Refuse splits of which a problem can use nothing, before anything is trained on them."""
    return UsableRows(
        **{
            split: check_usable(
                problem, split, mapped_examples(root, ref), used_to_train=split == "train"
            )
            for split, ref in ids.items()
        }
    )


@cached_task()
def align_vectors(root: str, vectors: VectorFile, vocabulary: VocabularyRef) -> TableRef:
    """The given vectors of a vocabulary's words, row by id; specials have none."""
    tables = Tables(root)
    words = read_vocabulary(tables, vocabulary).words
    found = read_vectors(vectors, words)
    specials = np.full((len(SPECIALS), vectors.size), np.nan, np.float32)
    num_found = int((~np.isnan(found[:, 0])).sum())
    logger.info("%d of %d words have a given vector", num_found, len(words))
    return tables.write([vectors_table(np.concatenate((specials, found)))])


class BatchSizeReport(BaseModel, frozen=True):
    """The batch size that fits a budget, and the bytes that training with it takes a process."""

    batch_size: int
    num_bytes: int


@cached_task()
def find_batch_size(
    root: str,
    memory_gb: float,
    problem: Problem,
    variant: Variant,
    network: NetworkConfig,
    training: TrainingConfig,
    regularisation: RegularisationConfig,
    vocabularies: Sequence[VocabularyRef],
    train_ids: TableRef,
) -> BatchSizeReport:
    """The largest batch with which a variant's training takes at most ``memory_gb`` a process."""
    found = largest_batch_size(
        memory_gb,
        problem,
        variant,
        network,
        training,
        mapped_examples(root, train_ids),
        [len(SPECIALS) + ref.num_words for ref in vocabularies],
        regularisation,
    )
    return BatchSizeReport(batch_size=found.batch_size, num_bytes=found.num_bytes)


class TrainingJob(BaseModel, frozen=True):
    """What one training is given, fit for JSON: it may run in a process of its own.

    ``key`` is that of its kept states, ``variant`` a name; the rest is as in :func:`train`.
    """

    key: str
    root: str
    problem: SerializeAsAny[Problem]
    variant: str
    network: NetworkConfig
    training: TrainingConfig
    regularisation: RegularisationConfig
    config: dict[str, Any]
    vocabularies: tuple[VocabularyRef, ...]
    train_ids: TableRef
    valid_ids: TableRef
    device: str
    vectors: TableRef | None
    start: CheckpointRef | None
    save_every_steps: int | None


@cached_task(exclude=("resume", "save_every_steps", "apart"))
def train(
    root: str,
    problem: Problem,
    variant: Variant | Baseline,
    network: NetworkConfig,
    training: TrainingConfig,
    regularisation: RegularisationConfig,
    config: dict[str, Any],
    vocabularies: Sequence[VocabularyRef],
    train_ids: TableRef,
    valid_ids: TableRef,
    device: str,
    vectors: TableRef | None = None,
    start: CheckpointRef | None = None,
    resume: str = "auto",
    save_every_steps: int | None = None,
    apart: TrainingProcesses | None = None,
) -> FitReport:
    """Fit one variant; a run that was cut off goes on from its last kept state.

    ``config`` is what the checkpoint says of itself, beside weights and vocabularies; ``vectors``
    are those of the words read, of :func:`align_vectors`. Weights begin as those of ``start``,
    whose vocabularies are the first part of these. With
    ``resume`` ``never`` a kept state is thrown away and training starts anew. With ``apart`` it
    runs in a process of its own, or in ``training.num_processes`` of them. Where it runs and how
    often a state is kept changes nothing of the result, so none of these is part of the cache key.
    """
    inputs = {
        "problem": problem,
        "variant": variant,
        "network": network,
        "training": training,
        "regularisation": regularisation,
        "config": config,
        "vocabularies": vocabularies,
        "train_ids": train_ids,
        "valid_ids": valid_ids,
        "vectors": vectors,
        "start": start,
    }
    policy = train.cache_policy
    assert isinstance(policy, ContentPolicy)
    job = TrainingJob.model_validate(
        inputs
        | {
            "key": policy.key(inputs),
            "root": root,
            "variant": variant.name,
            "device": device,
            "save_every_steps": save_every_steps,
        }
    )
    if resume == "never":
        Checkpoints(root).drop_state(job.key)
    if apart is None:
        return learnt(job)
    # A baseline is counted in one pass, which nobody shares.
    num_processes = training.num_processes if isinstance(variant, Variant) else 1
    return FitReport.model_validate(apart.run(variant.name, job, num_processes))


def learnt(job: TrainingJob) -> FitReport:
    """Fit, say how it goes, keep states and in the end the checkpoint."""
    tables, checkpoints = Tables(job.root), Checkpoints(job.root)
    began = time.time_ns() // 1_000_000
    kept = checkpoints.load_state(job.key)
    already = kept[1].pop("seconds_of_epoch") if kept else 0.0
    if kept:
        logger.info("%s: going on after step %d", job.variant, kept[1]["step"])

    def keep(state: TrainingState, seconds: float) -> None:
        scalars = state.scalars | {"seconds_of_epoch": seconds}
        checkpoints.save_state(job.key, state.tensors, scalars)

    # A baseline learns in one pass.
    one_pass = isinstance(parse_variant(job.variant), Baseline)
    num_epochs = 1 if one_pass else job.training.num_epochs
    observer = _Reporter(job.variant, num_epochs, keep, already, job.save_every_steps)
    found = fitted(job, TrainingState(*kept) if kept else None, observer)
    words = [read_vocabulary(tables, ref) for ref in job.vocabularies]
    length_ratio = job.problem.length_ratio(mapped_examples(job.root, job.train_ids))
    checkpoint = checkpoints.save(
        job.config | {"length_ratio": length_ratio},
        found.weights,
        {name: each.to_json() for name, each in zip(VOCABULARIES, words, strict=False)}
        | {
            name: read_subwords(tables, each.subwords).to_json()
            for name, each in zip(SUBWORDS, job.vocabularies, strict=False)
            if each.subwords
        },
        found.history,
    )
    checkpoints.drop_state(job.key)
    seconds = sum(record["seconds"] for record in found.history)
    return FitReport(
        checkpoint=checkpoint,
        history=found.history,
        best_epoch=found.best_epoch,
        stopped=found.stopped,
        num_parameters=found.num_parameters,
        seconds=seconds,
        tokens_per_second=sum(record["num_tokens"] for record in found.history)
        / max(seconds, 1e-9),
        started_ms=began,
    )


def followed(job: TrainingJob) -> None:
    """Take part in a training that another process keeps and tells of."""
    kept = Checkpoints(job.root).load_state(job.key)
    if kept:
        del kept[1]["seconds_of_epoch"]
    fitted(job, TrainingState(*kept) if kept else None, Observer())


def fitted(job: TrainingJob, state: TrainingState | None, observer: Observer) -> Fitted:
    """The training itself, from a kept state on, where there is one."""
    with keep_freed_memory():
        return fit(
            job.problem,
            parse_variant(job.variant),
            job.network,
            job.training,
            mapped_examples(job.root, job.train_ids),
            mapped_examples(job.root, job.valid_ids),
            [len(SPECIALS) + ref.num_words for ref in job.vocabularies],
            device=resolve_device(job.device),
            regularisation=job.regularisation,
            vectors=vectors_of(Tables(job.root).read(job.vectors)) if job.vectors else None,
            observer=observer,
            state=state,
            start=Checkpoints(job.root).load(job.start).weights if job.start else None,
        )


@cached_task()
def score(
    root: str,
    checkpoint: CheckpointRef,
    rows: TableRef,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    vocabularies: Sequence[VocabularyRef],
    evaluation: EvaluationConfig,
    device: str,
) -> ScoreReport:
    """Score a checkpoint on one split of token rows, whose columns were cut as ``texts`` say.

    The checkpoint reads with its own vocabularies, and cuts the text anew where it was trained with
    another cut: so the champion of another day is scored on today's split as its challengers are.
    What an unknown word costs to spell comes from the letters of today's training split.
    """
    tables = Tables(root)
    found = Checkpoints(root).load(checkpoint)
    predictor = load_predictor(found.config, found.weights, found.vocabularies, device)
    examples, written = _read_split(tables, predictor, rows, columns, texts, vocabularies)
    tagged = isinstance(predictor.config.problem, Tagging)
    scores = evaluate(
        predictor,
        examples,
        written[0] if written else [],
        written[1] if len(written) > 1 else [],
        evaluation,
        list(word_rows(tables, rows, columns[-1])) if tagged else [],
    )
    return ScoreReport(
        metrics=scores.metrics,
        statistics=tables.write([statistics_table(scores.statistics)]),
        signatures=scores.signatures,
        samples=scores.samples,
        tables=scores.tables,
    )


def _read_split(
    tables: Tables,
    predictor: Predictor,
    rows: TableRef,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    vocabularies: Sequence[VocabularyRef],
) -> tuple[Examples, list[list[str]]]:
    """A split as the model reads it, and the text of each column that is text."""
    if not columns:
        return examples_of(tables.read(rows)), []
    written = [
        [tokenizer.detokenise(tokens) for tokens in word_rows(tables, rows, column)]
        for column, tokenizer in zip(columns, map(Tokenizer, texts), strict=False)
    ]
    cut = tables.read(rows, columns)
    # The tokens of tagged texts were given, whatever cuts the texts of predictions.
    given = isinstance(predictor.config.problem, Tagging)
    learnt = [ref.subwords and read_subwords(tables, ref.subwords) for ref in vocabularies]
    same = tuple(texts) == predictor.texts and predictor.subwords == tuple(learnt[: len(texts)])
    if not same and not given:
        sides = [
            [tokenizer.tokenize(text) for text in side]
            for side, tokenizer in zip(written, predictor.tokenizers, strict=True)
        ]
        rest = [list(word_rows(tables, rows, column)) for column in columns[len(sides) :]]
        cut = token_table(columns, [*sides, *rest])
    if columns[-1] in LABELS:
        return examples_of(labelled_ids(cut, columns, predictor.vocabularies)), written
    spelling = spelling_beyond(tables, vocabularies[-1], predictor.vocabularies[-1])
    ids = encoded_rows(cut, columns, predictor.vocabularies, spelling, predictor.tokenizers[-1])
    return examples_of(ids), written


def mapped_examples(root: str, ids: TableRef) -> Examples:
    """As ``examples_of`` the table, from files that are mapped to memory.

    So the batches of a training come from the disk as they are asked for, and all that train on the
    same ids share one copy of them.
    """
    arrays = Arrays(root)
    key = f"ids-{ids.digest}"
    found = arrays.load(key)
    if found is None:
        made = examples_of(Tables(root).read(ids))
        arrays.save(key, _arrays_of(made))
        found = arrays.load(key)
        if found is None:
            return made
    targets = Ragged(found["targets"], found["target_offsets"]) if "targets" in found else None
    return Examples(
        Ragged(found["inputs"], found["offsets"]),
        targets,
        **{name: found[name] for name in ("characters", "spelling", "scales")},
    )


def _arrays_of(examples: Examples) -> dict[str, Any]:
    arrays = {
        "inputs": examples.inputs.values,
        "offsets": examples.inputs.offsets,
        "characters": examples.characters,
        "spelling": examples.spelling,
        "scales": examples.scales,
    }
    if examples.targets is not None:
        arrays |= {"targets": examples.targets.values, "target_offsets": examples.targets.offsets}
    return arrays


def examples_of(ids: Any) -> Examples:
    """A table of ids, or of series, as the arrays that a model reads."""
    names = ids.column_names
    inputs = Ragged(*ragged_column(ids, "inputs"))
    targets = Ragged(*ragged_column(ids, "targets")) if "targets" in names else None
    if "scale" in names:
        return Examples(inputs, targets, scales=ids.column("scale").to_numpy())
    return Examples(
        inputs,
        targets,
        characters=ragged_column(ids, "characters")[0],
        spelling=ragged_column(ids, "spelling")[0],
    )
