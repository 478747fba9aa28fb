"""The output layers: each form of a loss against the plain one, gradients included."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.networks.softmax import AdaptiveSoftmax, ChunkedCrossEntropy, summed_cross_entropy
from pipeline.text.vocabulary import PAD

F, V = 5, 50


def layer_and_rows(num_rows: int = 600) -> tuple[torch.nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    output = torch.nn.Linear(F, V)
    features = torch.randn(num_rows, F, requires_grad=True)
    return output, features, torch.randint(0, V, (num_rows,))


@pytest.mark.parametrize("num_rows", [0, 1, 256, 600, 1025])
@pytest.mark.parametrize("ignored", [PAD, -100])
def test_the_chunked_loss_is_the_plain_one(ignored: int, num_rows: int) -> None:
    output, features, targets = layer_and_rows(num_rows)
    loss = summed_cross_entropy(features, output, targets, ignored)
    plain = functional.cross_entropy(
        output(features), targets, ignore_index=ignored, reduction="sum"
    )
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    # What comes from above is part of a gradient; a mean is what is expected.
    given = [features, output.weight, output.bias]
    for factor in (0.3, 1 / max(int((targets != ignored).sum()), 1)):
        ours = torch.autograd.grad(loss * factor, given, retain_graph=True)
        theirs = torch.autograd.grad(plain * factor, given, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        scored = summed_cross_entropy(features, output, targets, ignored)
    torch.testing.assert_close(scored, plain, rtol=1e-6, atol=1e-6)


def test_the_chunked_loss_is_exact() -> None:
    """In double precision nothing but the order of sums is left between the forms."""
    output, features, targets = layer_and_rows()
    output, features = output.double(), features.detach().double().requires_grad_()
    given = (features, output.weight, output.bias)
    loss = ChunkedCrossEntropy.apply(*given, targets, PAD)
    plain = functional.cross_entropy(output(features), targets, ignore_index=PAD, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(loss, given), torch.autograd.grad(plain, given), rtol=1e-11, atol=1e-13
    )


def test_tied_weights_get_the_gradients_of_both_uses() -> None:
    output, _, targets = layer_and_rows()
    ids = torch.randint(0, V, (600,))

    def gradients(chunked: bool) -> tuple[Tensor, ...]:
        read = torch.tanh(functional.embedding(ids, output.weight))
        if chunked:
            loss = summed_cross_entropy(read, output, targets)
        else:
            loss = functional.cross_entropy(
                output(read), targets, ignore_index=PAD, reduction="sum"
            )
        return torch.autograd.grad(loss, [output.weight, output.bias])

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-5, atol=1e-5)


def test_extreme_logits_have_finite_losses() -> None:
    output, features, targets = layer_and_rows()
    features = (features * 1e4).detach().requires_grad_()
    loss = ChunkedCrossEntropy.apply(features, output.weight, output.bias, targets, PAD)
    plain = functional.cross_entropy(output(features), targets, ignore_index=PAD, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(loss, [features])
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("words", "shift"),
    [(7, -200.0), (7, -100.0), (slice(None), -300.0), (slice(None), 82.0), (slice(None), 300.0)],
)
def test_rows_beyond_single_precision_have_exact_losses(words: int | slice, shift: float) -> None:
    """Some rows have a target that cannot be, by their exponentials, or no word that can be."""
    output, features, targets = layer_and_rows()
    with torch.no_grad():
        output.bias[words] += shift
    targets[::10] = 7
    given = (features, output.weight, output.bias)
    loss = summed_cross_entropy(features, output, targets)
    plain = functional.cross_entropy(output(features), targets, ignore_index=PAD, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(loss, given), torch.autograd.grad(plain, given), rtol=1e-5, atol=1e-5
    )


def test_rows_of_great_logits_have_the_gradients_of_the_plain_loss() -> None:
    """Of the rows, some have exponentials that are infinite."""
    output, features, targets = layer_and_rows()
    features = (features * torch.where(torch.arange(600) % 3 == 0, 200.0, 1.0)[:, None]).detach()
    given = (features.requires_grad_(), output.weight, output.bias)
    loss = summed_cross_entropy(features, output, targets)
    plain = functional.cross_entropy(output(features), targets, ignore_index=PAD, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    ours, theirs = torch.autograd.grad(loss, given), torch.autograd.grad(plain, given)
    for our, their in zip(ours, theirs, strict=True):
        assert float((our - their).norm() / their.norm()) < 1e-6


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_under_autocast_losses_and_sums_stay_single(half: torch.dtype) -> None:
    output, features, targets = layer_and_rows()
    plain = functional.cross_entropy(output(features), targets, ignore_index=PAD, reduction="sum")
    given = (features, output.weight, output.bias)
    theirs = torch.autograd.grad(plain, given)
    for read in (features, features.to(half)):
        with torch.autocast("cpu", half):
            loss = summed_cross_entropy(read, output, targets)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain, rtol=1e-3, atol=0)
        ours = torch.autograd.grad(loss, given)
        for our, their in zip(ours, theirs, strict=True):
            assert our.dtype == torch.float32
            assert float((our - their).norm() / their.norm()) < 0.01


def adaptive(num_features: int = 16, cutoffs: tuple[int, ...] = (10, 30)) -> AdaptiveSoftmax:
    torch.manual_seed(1)
    output = AdaptiveSoftmax(num_features, V, cutoffs)
    for parameter in output.parameters():
        torch.nn.init.normal_(parameter)
    return output


def test_the_adaptive_softmax_is_that_of_torch() -> None:
    ours = adaptive()
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(16, V, [10, 30], div_value=4.0, head_bias=True)
    with torch.no_grad():
        theirs.head.load_state_dict(ours.head.state_dict())
        for project, group, tail in zip(ours.projections, ours.groups, theirs.tail, strict=True):
            # torch's groups have no bias.
            group.bias.zero_()  # type: ignore[operator, union-attr]
            tail[0].weight.copy_(project.weight)  # type: ignore[index]
            tail[1].weight.copy_(group.weight)  # type: ignore[index]
    features, targets = torch.randn(300, 16), torch.randint(1, V, (300,))
    torch.testing.assert_close(ours(features), theirs.log_prob(features))
    torch.testing.assert_close(
        ours.summed_loss(features, targets), -theirs(features, targets).output.sum()
    )


@pytest.mark.parametrize("words", [range(V), range(9), range(30, V), [PAD]])
def test_the_adaptive_loss_is_that_of_its_probabilities(words: range | list[int]) -> None:
    """Also where a group is never meant, and with gradients; padding is free."""
    output = adaptive()
    features = torch.randn(300, 16, requires_grad=True)
    targets = torch.tensor(words)[torch.randint(len(words), (300,))]
    logarithms = output(features)
    torch.testing.assert_close(logarithms.exp().sum(-1), torch.ones(300))
    plain = functional.nll_loss(logarithms, targets, ignore_index=PAD, reduction="sum")
    loss = output.summed_loss(features, targets)
    torch.testing.assert_close(loss, plain)
    given = [features, *output.parameters()]
    ours = torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(plain, given)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(output.summed_loss(features, targets), plain)
    with torch.autocast("cpu", torch.bfloat16):
        half = output.summed_loss(features, targets)
    torch.testing.assert_close(half, plain, rtol=0.02, atol=0)


def test_a_vocabulary_that_ends_before_the_last_group_is_refused() -> None:
    with pytest.raises(InputError, match=r"cutoffs is \[10, 50\] and the vocabulary has 50 words"):
        adaptive(cutoffs=(10, 50))
