from pathlib import Path

import pytest

from flows.pages.learning_curves import LearningCurve, draw_learning_curves
from flows.steps.steps import Steps
from warehouse.files import PageRef


def curve(variant: str, *losses: float | None) -> LearningCurve:
    history = [
        {
            "epoch": epoch,
            "seconds": 2.0,
            "metrics": {} if loss is None else {"train/loss": loss + 0.5, "valid/loss": loss},
        }
        for epoch, loss in enumerate(losses, 1)
    ]
    return LearningCurve(
        variant=variant,
        history=history,
        best_epoch=len(losses),
        num_parameters=1234,
        seconds=2.0 * len(losses),
        stopped="num_epochs",
    )


@pytest.mark.parametrize(
    "learnt",
    [
        [curve("gru", 3.0, 2.5), curve("lstm", 3.5, 2.75)],
        [curve("ngram", 4.25)],
        [curve("x", None)],
    ],
)
def test_all_variants_are_on_one_page(warehouse: Path, learnt: list[LearningCurve]) -> None:
    steps = Steps(warehouse)

    def drawn() -> PageRef:
        ref: PageRef = steps.run(
            draw_learning_curves,
            root=str(warehouse),
            name="words",
            unit="nats",
            learnt=learnt,
            design="0",
        )
        return ref

    ref = drawn()
    page = (warehouse / ref.page.path).read_text(encoding="utf-8")
    assert "Learning curves: words" in page and "1,234" in page
    for each in learnt:
        assert f">{each.variant}<" in page
        last = each.history[-1]["metrics"].get("valid/loss")
        assert last is None or f"{last:.4f}" in page
    assert (warehouse / ref.picture.path).read_bytes().startswith(b"\x89PNG")
    assert drawn() == ref
    assert [step.state for step in steps.states] == ["Completed", "Cached"]
