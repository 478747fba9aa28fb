"""From scores to versions: what is published of a model, and which version is the champion."""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from flows.caching import Steps
from flows.learn import FitReport, ScoreReport, UsableRows
from flows.prepare import CoverageReport, SplitRefs, VocabularyRef
from pipeline.metrics import METRICS, paired_bootstrap
from pipeline.prediction import PREDICTORS
from pipeline.problems import Problem
from warehouse.checkpoints import CheckpointRef, Checkpoints, read_checkpoint
from warehouse.examples import statistics_of
from warehouse.publication import DatasetInfo, Publication
from warehouse.registry import Registry, VersionInfo
from warehouse.tables import Tables

MAX_P_VALUE = 0.05
"""A challenger takes over when resampling leaves it better this surely."""

SHOWN = {
    "accuracy": ("accuracy", "{:.1%}"),
    "macro_f1": ("macro F1", "{:.1%}"),
    "entity_f1": ("F1", "{:.1%}"),
    "mase": ("MASE", "{:.3f}"),
    "mase_recursive": ("MASE ahead", "{:.3f}"),
    "mae": ("MAE", "{:.4g}"),
    "rmse": ("RMSE", "{:.4g}"),
    "top1": ("top-1", "{:.1%}"),
    "top5": ("top-5", "{:.1%}"),
    "bleu": ("BLEU", "{:.1f}"),
    "chrf": ("chrF", "{:.1f}"),
    "perplexity": ("ppl", "{:.1f}"),
    "bits_per_character": ("bits/char", "{:.3f}"),
}
"""How metrics are written for people."""

HEADLINES = {
    "classification": ("accuracy", "macro_f1"),
    "forecasting": ("mase", "mae"),
    "next_word": ("top1", "perplexity"),
    "language_model": ("perplexity", "bits_per_character"),
    "seq2seq": ("bleu", "chrf"),
    "tagging": ("entity_f1", "accuracy"),
}
"""Which test scores stand first on a version's page."""

EXAMPLES = {
    "zh": ["今天天气", "你最近在忙什么", "我想"],
    "en": ["How are you?", "I want to", "Today"],
}
"""What a person may type."""


@dataclass(frozen=True)
class Candidate:
    """A variant of this retraining that has a version."""

    variant: str
    version: int
    fitted: FitReport
    scores: Mapping[str, ScoreReport]


@dataclass(frozen=True)
class Decision:
    """The champion after a retraining, why, and a row of scores for each candidate."""

    champion: int | None
    reason: str
    rows: list[dict[str, str]]


def publication_of(
    *,
    name: str,
    root: Path,
    config: Mapping[str, Any],
    variant: str,
    problem: Problem,
    settings: Mapping[str, Any],
    fitted: FitReport,
    scores: Mapping[str, ScoreReport],
    splits: SplitRefs,
    snapshot: str,
    usable: UsableRows,
    vocabularies: Sequence[VocabularyRef],
    coverage: Sequence[CoverageReport],
    goes_on_from: str,
    retraining: str,
) -> Publication:
    """Everything that the registry shows of a trained variant."""
    finals = {
        f"{split}/{metric}": value
        for split, report in scores.items()
        for metric, value in report.metrics.items()
    }
    test = scores["test"].metrics
    headline = headline_of(problem.name, test)
    first = ", ".join(
        f"{label} {form.format(test[metric])}"
        for metric, (label, form) in SHOWN.items()
        if metric in test
    )
    lines = [
        f"Test: {first}.",
        "",
        (
            f"- data: snapshot `{snapshot[:12]}`, {splits.train.num_rows} training rows, "
            f"{splits.valid.num_rows} validation, {splits.test.num_rows} test; "
            f"left out: {splits.num_duplicates} copies, {splits.num_leaks} leaks, "
            f"{splits.num_near_copies} near copies of validation or test rows, "
            f"{splits.num_near_duplicates} near duplicates"
        ),
        (
            f"- training: {fitted.num_parameters:,} parameters, best of "
            f"{len(fitted.history)} epochs is {fitted.best_epoch}, {fitted.seconds:.0f} s, "
            f"{fitted.tokens_per_second:,.0f} tokens/s, ended by {fitted.stopped}"
        ),
    ]
    lines += [f"- {goes_on_from}"] if goes_on_from else []
    lines += [_coverage_line(each) for each in coverage]
    lines += [f"- {metric}: `{text}`" for metric, text in scores["test"].signatures.items()]
    return Publication(
        name=name,
        key=f"{variant}-{fitted.checkpoint.digest[:32]}",
        variant=variant,
        problem=problem.name,
        headline=headline,
        description="\n".join(lines),
        checkpoint=str(root / fitted.checkpoint.path),
        checkpoint_digest=fitted.checkpoint.digest,
        params={key: _param(value) for key, value in settings.items()},
        history=fitted.history,
        scores=finals
        | {
            "speed/tokens_per_second": fitted.tokens_per_second,
            "speed/training_seconds": fitted.seconds,
            "size/parameters": float(fitted.num_parameters),
            **_vocabulary_scores(vocabularies),
            "data/train_rows": float(usable.train),
            "data/train_rows_left_out": float(splits.train.num_rows - usable.train),
            "data/duplicates": float(splits.num_duplicates),
            "data/leaks": float(splits.num_leaks),
            "data/near_copies": float(splits.num_near_copies),
            "data/near_duplicates": float(splits.num_near_duplicates),
            **_coverage_scores(coverage),
        },
        datasets=[
            DatasetInfo(
                name=name,
                digest=table.digest[:12],
                context=split,  # type: ignore[arg-type]  # the keys are the three splits
                profile={"rows": table.num_rows, "snapshot": snapshot, "uri": table.path},
                uri=table.path,
            )
            for split, table in splits.tables.items()
        ],
        samples=scores["test"].samples,
        tables=scores["test"].tables,
        tags={
            "snapshot": snapshot,
            **({"vocabulary": vocabularies[-1].cache_digest()} if vocabularies else {}),
            "checkpoint_path": fitted.checkpoint.path,
            "checkpoint_bytes": str(fitted.checkpoint.num_bytes),
            **{f"signature.{metric}": text for metric, text in scores["test"].signatures.items()},
            **_origin(),
        },
        examples=_examples(config),
        parameters=PREDICTORS[problem.name].parameters,  # type: ignore[arg-type]  # names its types
        retraining=retraining,
        ranked_by=f"test/{problem.decides}",
        greater_is_better=METRICS[problem.decides].greater_is_better,
        requirements=("tokenizers",) if any(each.subwords for each in vocabularies) else (),
        started_ms=fitted.started_ms,
    )


def _vocabulary_scores(vocabularies: Sequence[VocabularyRef]) -> dict[str, float]:
    if not vocabularies:
        return {}
    return {
        "size/vocabulary": float(vocabularies[-1].num_words),
        "train/unknown_rate": vocabularies[-1].unknown_rate,
    }


def _examples(config: Mapping[str, Any]) -> list[str]:
    """Inputs that a version answers before it is registered."""
    if config["text"] is None:
        return [" ".join(map(str, range(1, config["problem"]["window"] + 1)))]
    return EXAMPLES[config["text"]["language"]]


def _coverage_line(report: CoverageReport) -> str:
    """What a vocabulary leaves out, and what others would cover, in one line of the page."""
    unknown = ", ".join(f"{rate:.2%} in {name}" for name, rate in report.unknown_rates.items())
    sizes = ", ".join(
        f"{each.num_words:,} cover {each.share:.1%}" for each in report.coverage_by_size
    )
    return (
        f"- {report.column}: {report.num_words:,} words have an id; unknown are {unknown}; of the "
        f"running words of training, the most frequent {sizes}"
    )


def _coverage_scores(coverage: Sequence[CoverageReport]) -> dict[str, float]:
    """The same as metrics, so that versions can be compared by them."""
    scores = {}
    for report in coverage:
        for split, rate in report.unknown_rates.items():
            scores[f"data/{report.column}_unknown_rate_{split}"] = rate
        for each in report.coverage_by_size:
            scores[f"data/{report.column}_coverage_{each.num_words}"] = each.share
    return scores


def headline_of(problem: str, metrics: Mapping[str, float]) -> str:
    """The scores that stand first, in some 20 characters: MLflow's list of versions shows 30."""
    shown = (SHOWN[metric] + (metrics[metric],) for metric in HEADLINES[problem])
    return " ".join(f"{label} {form.format(value)}" for label, form, value in shown)


def decide(
    steps: Steps,
    registry: Registry,
    name: str,
    metric_name: str,
    candidates: Sequence[Candidate],
    rescore: Callable[[CheckpointRef], ScoreReport],
) -> Decision:
    """Promote the best candidate of this retraining, if it beats the champion.

    Both are scored on today's validation split, the test split has no say. A first champion is the
    best candidate; later ones must be better by paired bootstrap, not just score higher.

    Args:
        metric_name: the metric of ``METRICS`` that decides.
        rescore: gives the champion's scores on today's validation split.
    """
    metric = METRICS[metric_name]
    label, form = SHOWN[metric_name]

    def valid(one: Candidate) -> float:
        return one.scores["valid"].metrics[metric_name]

    ranked = sorted(candidates, key=valid, reverse=metric.greater_is_better)
    rows = [_row(one, metric_name) for one in ranked]
    champion = registry.champion(name)
    # What a person has taken back stays back, however well it scores.
    withdrawn = {one.version for one in registry.versions(name) if "rolled_back" in one.tags}
    standing = [one for one in ranked if one.version not in withdrawn]
    if not standing:
        reason = "Every version of this retraining was rolled back before: nothing changes."
        return Decision(champion.version if champion else None, reason, rows)
    best, *others = standing
    wins = f"{best.variant} (version {best.version}) has the best validation {label}, "
    wins += form.format(valid(best))
    if others:
        wins += f", of {len(standing)} variants; next is {others[0].variant} with "
        wins += form.format(valid(others[0]))
    if champion is None or champion.version == best.version:
        ending = "It stays the champion." if champion else "There was no champion before."
        reason = f"{wins}. {ending}"
        registry.promote(name, best.version, reason)
        return Decision(best.version, reason, rows)
    same = [one.scores["valid"] for one in candidates if one.version == champion.version]
    held = same[0] if same else rescore(checkpoint_of(champion, steps.root, registry))
    tables = Tables(steps.root)
    comparison = paired_bootstrap(
        metric,
        statistics_of(tables.read(best.scores["valid"].statistics), metric_name),
        statistics_of(tables.read(held.statistics), metric_name),
    )
    against = (
        f"The champion, {champion.variant} (version {champion.version}), has "
        f"{form.format(comparison.champion)} on the same {comparison.num_rows} rows "
        f"(paired bootstrap, p = {comparison.p_value:.3f})"
    )
    # The best of many variants is often the best by luck (Bonferroni's correction).
    if comparison.p_value > MAX_P_VALUE / len(standing):
        return Decision(champion.version, f"{wins}. {against}: it stays.", rows)
    reason = f"{wins}. {against}."
    registry.promote(name, best.version, reason)
    return Decision(best.version, reason, rows)


def _row(one: Candidate, metric_name: str) -> dict[str, str]:
    """A candidate's line in the report of a flow run."""
    label, form = SHOWN[metric_name]
    test = one.scores["test"].metrics
    return {
        "variant": one.variant,
        "version": str(one.version),
        f"valid {label}": form.format(one.scores["valid"].metrics[metric_name]),
        **{
            f"test {title}": layout.format(test[key])
            for key, (title, layout) in SHOWN.items()
            if key in test
        },
        "parameters": f"{one.fitted.num_parameters:,}",
        "seconds": f"{one.fitted.seconds:.0f}",
    }


def checkpoint_of(version: VersionInfo, root: Path, registry: Registry) -> CheckpointRef:
    """The checkpoint of a version; from the registry where this warehouse has lost it."""
    checkpoints = Checkpoints(root)
    ref = CheckpointRef(
        digest=version.tags["checkpoint"],
        path=version.tags["checkpoint_path"],
        num_bytes=int(version.tags["checkpoint_bytes"]),
    )
    if ref.intact(root):
        return ref
    found = read_checkpoint(registry.checkpoint_directory(version))
    return checkpoints.save(found.config, found.weights, found.vocabularies, found.history)


def _param(value: Any) -> str | int | float | bool:
    if isinstance(value, str | int | float):
        return value
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _origin() -> dict[str, str]:
    """The flow run and the commit that a version comes from, where they are known."""
    found: dict[str, str] = {}
    if flow_run.id:
        found |= {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": flow_run.name}
    commit = _git("rev-parse", "HEAD") if _git("ls-files", Path(__file__).name) else ""
    return found | ({"git_commit": commit} if commit else {})


def _git(*arguments: str) -> str:
    """What git says of the folder of this file; nothing where there is no git or repository."""
    program = shutil.which("git")
    if program is None:
        return ""
    said = subprocess.run(
        [program, *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() if said.returncode == 0 else ""
