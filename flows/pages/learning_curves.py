"""Learning curves: the losses of all variants of one retraining on one page.

MLflow draws the curves of each run on a page of its own. This page is attached to every version of
the retraining.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.pages.design import design_digest
from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from flows.training.train import FitReport
from warehouse.files import PageRef, keep_file
from warehouse.registry.registry import Registry
from warehouse.registry.versions import Version

MANY_TIMES = 100
"""Losses with a larger ratio of the greatest to the least have a logarithmic axis."""


class LearningCurve(BaseModel, frozen=True):
    """The training of one variant.

    Attributes:
        history: one entry per epoch, as the training loop wrote it.
        seconds: training time.
        stopped: why the training ended.
    """

    variant: str
    history: list[dict[str, Any]]
    best_epoch: int
    num_parameters: int
    seconds: float
    stopped: str

    @classmethod
    def of(cls, variant: str, fitted: FitReport) -> "LearningCurve":
        """The curve of a variant from the report of its training."""
        names = set(cls.model_fields) - {"variant"}
        return cls(variant=variant, **fitted.model_dump(include=names))


def show_learning_curves(
    steps: Steps,
    registry: Registry,
    name: str,
    unit: str,
    trained: Sequence[tuple[Version, FitReport]],
) -> PageRef:
    """Draw the curves of all trained variants and attach them to each version.

    Args:
        unit: unit of the loss.
    """
    drawn: PageRef = steps.run(
        draw_learning_curves,
        name=name,
        unit=unit,
        learnt=[LearningCurve.of(version.variant, fitted) for version, fitted in trained],
        design=design_digest(),
    )
    files = {"learning_curves.html": drawn.page, "learning_curves.png": drawn.picture}
    paths = {file: Path(steps.root) / ref.path for file, ref in files.items()}
    for version, _ in trained:
        # A version keeps the page of its own retraining, which may have had more variants.
        registry.attach(version, "learning_curves", drawn.page.path, paths, replace=False)
    return drawn


@cached_task()
def draw_learning_curves(
    root: str, name: str, unit: str, learnt: Sequence[LearningCurve], design: str
) -> PageRef:
    """The page and the PNG of the curves; ``design`` is the digest of the templates."""
    # matplotlib takes half a second to import, and is needed only for new curves.
    from flows.pages.html import render
    from flows.pages.plots import Plot, as_png, curves, drawable

    def points(curve: LearningCurve, split: str, over: str) -> list[tuple[float, float]]:
        found, seconds = [], 0.0
        for entry in curve.history:
            seconds += entry["seconds"]
            loss = entry["metrics"].get(f"{split}/loss")
            if loss is not None:
                found.append((seconds if over == "seconds" else entry["epoch"], loss))
        return found

    drawn = [points(each, split, "epoch") for each in learnt for split in ("train", "valid")]
    losses = [loss for line in drawn for _, loss in line]

    def plot(title: str, over: str, label: str, both: bool) -> Plot:
        return curves(
            title,
            label,
            {each.variant: points(each, "valid", over) for each in learnt},
            dashed={each.variant: points(each, "train", over) for each in learnt} if both else {},
            y_label=f"loss, {unit}",
            log_y=0 < MANY_TIMES * min(losses, default=0) < max(losses, default=0),
        )

    by_epoch = plot("Loss by epoch (dashed: training)", "epoch", "epoch", True)
    by_time = plot("Validation loss by time", "seconds", "training time, seconds", False)
    page = render(
        "learning_curves.html",
        name=name,
        unit=unit,
        by_epoch=by_epoch,
        by_time=by_time,
        curves=[(each, _best(each)) for each in learnt],
    )
    title = f"Learning curves: {drawable(name)}"
    picture = as_png([by_epoch, by_time], title, width=5.4, height=3.6)
    return PageRef(
        page=keep_file(root, "learning_curves", "html", page.encode()),
        picture=keep_file(root, "learning_curves", "png", picture),
    )


def _best(curve: LearningCurve) -> float | None:
    """The validation loss at the best epoch, whose weights were kept."""
    losses: list[float | None] = [
        entry["metrics"].get("valid/loss")
        for entry in curve.history
        if entry["epoch"] == curve.best_epoch
    ]
    return losses[0] if losses else None
