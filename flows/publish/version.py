"""From scores to versions: what is published of a model, and which version is the champion."""

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from flows.prepare.splits import SplitRefs
from flows.prepare.vocabularies import CoverageReport, VocabularyRef
from flows.recipe import Recipe
from flows.training.train import FitReport, ScoreReport, UsableRows
from pipeline.metrics import METRICS
from pipeline.networks.recurrent import Variant
from pipeline.networks.variants import Baseline
from pipeline.prediction import PREDICTORS
from warehouse.checkpoints import CheckpointRef, Checkpoints, read_checkpoint
from warehouse.registry.publication import DatasetInfo, Publication
from warehouse.registry.registry import Registry
from warehouse.registry.versions import UNDEFINED_TAG, VersionInfo

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


def publication_of(
    *,
    name: str,
    root: Path,
    recipe: Recipe,
    variant: Variant | Baseline,
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
    problem, settings = recipe.problem, recipe.settings()
    test = scores["test"].metrics
    headline = headline_of(problem.name, test)
    first = ", ".join(
        f"{label} {shown_score(metric, test[metric])}"
        for metric, (label, _) in SHOWN.items()
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
        key=f"{variant.name}-{fitted.checkpoint.digest[:32]}",
        variant=variant.name,
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
            # MLflow cannot show a metric that is no number.
            UNDEFINED_TAG: ", ".join(name for name, value in finals.items() if math.isnan(value)),
            **_origin(),
        },
        examples=_examples(recipe.model_config(variant).to_dict()),
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
    return " ".join(
        f"{SHOWN[metric][0]} {shown_score(metric, metrics[metric])}"
        for metric in HEADLINES[problem]
    )


def shown_score(metric: str, value: float) -> str:
    """A score as people read it."""
    return "undefined" if math.isnan(value) else SHOWN[metric][1].format(value)


def checkpoint_of(version: VersionInfo, root: Path, registry: Registry) -> CheckpointRef:
    """The checkpoint of a version; from the registry where this warehouse has lost it."""
    checkpoints = Checkpoints(root)
    # People edit tags and delete runs in MLflow's pages; the registry has the files all the same.
    digest, path, num_bytes = (
        version.tags.get(key, "") for key in ("checkpoint", "checkpoint_path", "checkpoint_bytes")
    )
    if digest and path and num_bytes.isdecimal():
        ref = CheckpointRef(digest=digest, path=path, num_bytes=int(num_bytes))
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
