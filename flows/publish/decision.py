"""Which version is the champion after a retraining, and why."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flows.publish.version import SHOWN, checkpoint_of, shown_score
from flows.steps.steps import Steps
from flows.training.train import FitReport, ScoreReport
from pipeline.metrics import METRICS, paired_bootstrap
from warehouse.checkpoints import CheckpointRef
from warehouse.registry.registry import Registry
from warehouse.tables.example_schemas import statistics_of
from warehouse.tables.tables import Tables

MAX_P_VALUE = 0.05
"""A challenger takes over when resampling leaves it better this surely."""


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
    label, _ = SHOWN[metric_name]

    def valid(one: Candidate) -> float:
        return one.scores["valid"].metrics[metric_name]

    def shown(value: float) -> str:
        return shown_score(metric_name, value)

    ranked = sorted(candidates, key=lambda one: metric.rank_key(valid(one)))
    rows = [_row(one, metric_name) for one in ranked]
    champion, lost = registry.champion(name), ""
    if champion and not registry.holds_model(champion):
        lost = f"The model files of the champion, version {champion.version}, are gone."
        champion = None
    # What a person has taken back stays back, however well it scores.
    withdrawn = {one.version for one in registry.versions(name) if "rolled_back" in one.tags}
    standing = [one for one in ranked if one.version not in withdrawn]
    if not standing:
        reason = f"{lost} Every version of this retraining was rolled back before: nothing changes."
        reason = reason.strip()
        return Decision(champion.version if champion else None, reason, rows)
    best, *others = standing
    if math.isnan(valid(best)):
        reason = (
            f"The validation {label} of every variant is undefined: the validation split has "
            f"nothing that it measures. Nothing changes: add data or raise splits.valid, or run "
            f"tidemill promote {name} VERSION."
        )
        return Decision(champion.version if champion else None, reason, rows)
    wins = f"{best.variant} (version {best.version}) has the best validation {label}, "
    wins += shown(valid(best))
    if others:
        wins += f", of {len(standing)} variants; next is {others[0].variant} with "
        wins += shown(valid(others[0]))
    if champion is None or champion.version == best.version:
        ending = "It stays the champion." if champion else lost or "There was no champion before."
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
        # The best of many variants is often the best by luck (Bonferroni's correction).
        bar=MAX_P_VALUE / len(standing),
    )
    against = (
        f"The champion, {champion.variant} (version {champion.version}), has "
        f"{shown(comparison.champion)} on the same {comparison.num_rows} rows "
        f"(paired bootstrap, p = {comparison.p_value:.3f})"
    )
    if not comparison.challenger_wins:
        return Decision(champion.version, f"{wins}. {against}: it stays.", rows)
    reason = f"{wins}. {against}."
    registry.promote(name, best.version, reason)
    return Decision(best.version, reason, rows)


def _row(one: Candidate, metric_name: str) -> dict[str, str]:
    """A candidate's line in the report of a flow run."""
    label, _ = SHOWN[metric_name]
    test = one.scores["test"].metrics
    return {
        "variant": one.variant,
        "version": str(one.version),
        f"valid {label}": shown_score(metric_name, one.scores["valid"].metrics[metric_name]),
        **{
            f"test {title}": shown_score(key, test[key])
            for key, (title, _) in SHOWN.items()
            if key in test
        },
        "parameters": f"{one.fitted.num_parameters:,}",
        "seconds": f"{one.fitted.seconds:.0f}",
    }
