"""Averages of weights: each against its definition, and beside the weights that are trained."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.training.averaging import WeightAverage


def trajectory(num_steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, generator=generator) for _ in range(num_steps)]


def model() -> nn.Linear:
    return nn.Linear(2, 3, bias=False)


def walk(average: WeightAverage, trained: nn.Linear, steps: list[Tensor]) -> None:
    for weights in steps:
        with torch.no_grad():
            trained.weight.copy_(weights)
        average.after_step()


def test_a_moving_average_forgets_exponentially_after_its_warm_up() -> None:
    trained = model()
    average = WeightAverage("moving", 0.9, 5, trained)
    wanted = trained.weight.detach().clone()
    steps = trajectory(200)
    for count, weights in enumerate(steps, start=1):
        decay = min(0.9, (1 + count) / (10 + count))
        wanted = decay * wanted + (1 - decay) * weights
    walk(average, trained, steps)
    with average.running_weights():
        torch.testing.assert_close(trained.weight.detach(), wanted)
    assert torch.equal(trained.weight, steps[-1]), "what is trained is left as it was"


def test_a_triggered_average_is_the_mean_since_its_trigger() -> None:
    trained = model()
    average = WeightAverage("triggered", 0.9, 5, trained)
    steps = trajectory(30)
    walk(average, trained, steps[:10])
    assert not average.running
    with average.running_weights():
        assert torch.equal(trained.weight, steps[9])
    average.trigger()
    walk(average, trained, steps[10:])
    with average.running_weights():
        torch.testing.assert_close(trained.weight.detach(), torch.stack(steps[10:]).mean(0))


@pytest.mark.parametrize(("kind", "pooled"), [("last", [3, 4, 5]), ("best", [1, 3, 5])])
def test_a_pool_keeps_the_last_or_the_best_epochs(kind: str, pooled: list[int]) -> None:
    trained = model()
    average = WeightAverage(kind, 0.9, 3, trained)
    steps = trajectory(6)
    losses = [9.0, 1.0, 5.0, 2.0, 4.0, 3.0]
    for epoch, loss in enumerate(losses):
        walk(average, trained, [steps[epoch]])
        average.after_epoch(epoch, loss)
    assert sorted(average.pool) == pooled
    with average.pooled_weights():
        wanted = torch.stack([steps[epoch] for epoch in pooled]).mean(0)
        torch.testing.assert_close(trained.weight.detach(), wanted)
    assert torch.equal(trained.weight, steps[-1])


def test_a_failure_inside_gives_the_weights_back() -> None:
    trained = model()
    average = WeightAverage("moving", 0.9, 5, trained)
    steps = trajectory(3)
    walk(average, trained, steps)
    with pytest.raises(ZeroDivisionError), average.running_weights():
        raise ZeroDivisionError
    assert torch.equal(trained.weight, steps[-1])


@pytest.mark.parametrize("kind", ["moving", "triggered", "last", "best"])
def test_an_average_goes_on_from_its_tensors(kind: str) -> None:
    steps = trajectory(12)

    def run(average: WeightAverage, trained: nn.Linear, first: int, last: int) -> None:
        for index in range(first, last):
            if index == 2 and kind == "triggered":
                average.trigger()
            walk(average, trained, [steps[index]])
            average.after_epoch(index, float(-index % 5))

    first, second = model(), model()
    with torch.no_grad():
        second.weight.copy_(first.weight)
    whole = WeightAverage(kind, 0.9, 3, first)
    run(whole, first, 0, 12)
    halved = WeightAverage(kind, 0.9, 3, second)
    run(halved, second, 0, 7)
    third = model()
    resumed = WeightAverage(kind, 0.9, 3, third)
    kept = {name: value.clone() for name, value in halved.tensors().items()}
    resumed.restore(kept, halved.num_averaged, halved.pool)
    run(resumed, third, 7, 12)
    assert whole.tensors().keys() == resumed.tensors().keys()
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
