"""Learning curves: how the variants of one retraining learnt, side by side.

The registry draws the curves of each run by itself; this is the picture of all of them together,
shown with every version of the retraining.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from flows.training.train import FitReport
from warehouse.files import PageRef, keep_file
from warehouse.registry import Registry, Version


class LearningCurve(BaseModel, frozen=True):
    """How one variant learnt.

    Attributes:
        history: an entry an epoch, as the training made it.
        seconds: that training took; ``stopped`` says what ended it.
    """

    variant: str
    history: list[dict[str, Any]]
    best_epoch: int
    num_parameters: int
    seconds: float
    stopped: str

    @classmethod
    def of(cls, variant: str, fitted: FitReport) -> "LearningCurve":
        """From what a training reported."""
        names = set(cls.model_fields) - {"variant"}
        return cls(variant=variant, **fitted.model_dump(include=names))


def show_learning_curves(
    steps: Steps,
    registry: Registry,
    name: str,
    unit: str,
    trained: Sequence[tuple[Version, FitReport]],
) -> PageRef:
    """Draw the curves of all variants that were trained, and show them with each version.

    Args:
        unit: of the loss.
    """
    drawn: PageRef = steps.run(
        draw_learning_curves,
        name=name,
        unit=unit,
        learnt=[LearningCurve.of(version.variant, fitted) for version, fitted in trained],
    )
    files = {"learning_curves.html": drawn.page, "learning_curves.png": drawn.picture}
    paths = {file: Path(steps.root) / ref.path for file, ref in files.items()}
    for version, _ in trained:
        # A version keeps those of the retraining that made it, which may have had more variants.
        registry.attach(version, "learning_curves", drawn.page.path, paths, replace=False)
    return drawn


@cached_task()
def draw_learning_curves(
    root: str, name: str, unit: str, learnt: Sequence[LearningCurve]
) -> PageRef:
    """The page and the picture of the curves."""
    # matplotlib takes half a second to import, and is needed only where something new was learnt.
    from flows.pages.html import data, document, figure, grid, section, table
    from flows.pages.plots import Plot, as_png, curves

    def points(curve: LearningCurve, split: str, over: str) -> list[tuple[float, float]]:
        found, seconds = [], 0.0
        for entry in curve.history:
            seconds += entry["seconds"]
            loss = entry["metrics"].get(f"{split}/loss")
            if loss is not None:
                found.append((seconds if over == "seconds" else entry["epoch"], loss))
        return found

    def plot(title: str, over: str, label: str, both: bool) -> Plot:
        return curves(
            title,
            label,
            {each.variant: points(each, "valid", over) for each in learnt},
            dashed={each.variant: points(each, "train", over) for each in learnt} if both else {},
            y_label=f"loss, {unit}",
            markers=True,
        )

    by_epoch = plot("Loss by epoch (dashed: training)", "epoch", "epoch", True)
    by_time = plot("Validation loss by time", "seconds", "seconds of training", False)
    rows = [
        (
            data(each.variant),
            f"{each.num_parameters:,}",
            f"{len(each.history)}",
            f"{each.best_epoch}",
            _best(each),
            f"{each.seconds:,.0f}",
            escape(each.stopped),
        )
        for each in learnt
    ]
    head = ("variant", "parameters", "epochs", "best", f"validation loss, {unit}", "seconds", "end")
    body = grid(
        figure(by_epoch, "Training and validation loss of each variant, by epoch", 3.4),
        figure(by_time, "Validation loss of each variant, by seconds of training", 3.4),
    ) + table(head, rows)
    about = "All variants that were trained together. Test scores are on the leaderboard."
    page = document(f"Learning curves: {name}", about, [section("Loss", body)])
    picture = as_png([by_epoch, by_time], f"Learning curves: {name}", width=5.4, height=3.6)
    return PageRef(
        page=keep_file(root, "learning_curves", "html", page.encode()),
        picture=keep_file(root, "learning_curves", "png", picture),
    )


def _best(curve: LearningCurve) -> str:
    """The validation loss of the epoch whose weights were kept."""
    losses = [
        entry["metrics"].get("valid/loss")
        for entry in curve.history
        if entry["epoch"] == curve.best_epoch
    ]
    return f"{losses[0]:.4f}" if losses and losses[0] is not None else ""
