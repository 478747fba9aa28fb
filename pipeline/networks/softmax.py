"""From features to words: output layers, and a cross-entropy whose logits never exist whole.

Shape letters: ``N`` predicted positions, ``F`` features, ``V`` words or labels.
"""

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..text.vocabulary import PAD

CHUNK_ROWS = 256
"""Rows whose logits exist at once where they are scored on a CPU: measured best at ``V`` = 10,000.
"""

TRAINING_CHUNK_ROWS = 768
"""The same in training: there each chunk also adds to the gradient of all weights."""

GPU_CHUNK_ROWS = 2048
"""On a GPU each chunk reads and writes all weights once more, so that few are better."""

_kept = threading.local()

IN_CACHE = 2**17
"""Logits that a core of a CPU keeps beside it (512 KB), while several passes go over them."""

HUGE = 1e30
"""Between it and its inverse single precision leaves room for sums and products."""


def chunk_rows(features: Tensor) -> int:
    """Rows whose logits exist at once where they are scored."""
    return GPU_CHUNK_ROWS if features.is_cuda else CHUNK_ROWS


def summed_cross_entropy(
    features: Tensor, output: nn.Linear, targets: Tensor, ignored: int = PAD
) -> Tensor:
    """Cross-entropy of ``features [N, F]`` against ``targets [N]``, summed, in nats.

    Targets that are ``ignored`` are free. Logits never exist whole: memory falls from ``N x V`` to
    that of a chunk of rows, and a training step is up to 1.5 times as fast on CPU. This is the one
    place that decides how: :class:`ChunkedCrossEntropy`, but on a GPU torch's own form where it has
    one (since 2.13). Not under autocast, of which torch's form knows nothing: it would sum the loss
    itself in half precision.
    """
    if not torch.is_grad_enabled():
        size = chunk_rows(features)
        parts = zip(features.split(size), targets.split(size), strict=True)
        losses = [
            functional.cross_entropy(output(rows), goals, ignore_index=ignored, reduction="sum")
            for rows, goals in parts
        ]
        return torch.stack(losses).sum()
    fused = getattr(functional, "linear_cross_entropy", None)
    if not features.is_cuda or fused is None or torch.is_autocast_enabled("cuda"):
        given = (features, output.weight, output.bias, targets, ignored)
        chunked: Tensor = ChunkedCrossEntropy.apply(*given)  # type: ignore[no-untyped-call]
        return chunked
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=GPU_CHUNK_ROWS, chunking_method=None)
    loss: Tensor = fused(
        features,
        output.weight,
        targets,
        linear_bias=output.bias,
        reduction="sum",
        ignore_index=ignored,
        options=options,
    )
    return loss


class ChunkedCrossEntropy(torch.autograd.Function):
    """The summed loss, with gradients that are made beside it while a chunk's logits exist.

    They are those of the mean over the targets, as long as nothing else is asked for: what comes
    from above then asks for no pass over them. Under autocast the products are of its type;
    softmax, loss and the sums over chunks are fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, ignored: int
    ) -> Tensor:
        kind = features.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        kept = (targets != ignored).to(bias.dtype)
        # How many are real only the host may know without waiting.
        share = kept.new_ones(()) if features.is_cuda else 1 / kept.sum().clamp(min=1)
        with torch.autocast(kind, enabled=False):
            loss, *gradients = _loss_and_gradients(
                features.to(low), weight.to(low), bias, targets, kept, kept * share
            )
        ctx.save_for_backward(share, *gradients)
        ctx.of_features = features.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        share, *gradients = ctx.saved_tensors
        factor = upstream[0] / share
        if share.is_cuda or factor != 1:
            gradients = [each * factor for each in gradients]
        of_features, of_weight, of_bias = gradients
        return of_features.to(ctx.of_features), of_weight, of_bias, None, None


def _room(num_cells: int, like: Tensor) -> Tensor:
    """Room for logits. On a CPU the last one is used again: the system clears what it gives."""
    if like.is_cuda:
        return like.new_empty(num_cells)
    room: Tensor | None = getattr(_kept, "room", None)
    if room is None or len(room) < num_cells or room.dtype != like.dtype:
        room = _kept.room = like.new_empty(num_cells)
    return room[:num_cells]


def logits_room(num_rows: int, num_words: int) -> Tensor:
    """The room that a CPU keeps for the logits of a training's next ``num_rows`` positions."""
    return _room(min(num_rows, TRAINING_CHUNK_ROWS) * num_words, torch.empty(0))


def _loss_and_gradients(
    features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, kept: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and the gradients by features, weight and bias, of the bias's type.

    Args:
        kept: 1 for targets that are real, 0 elsewhere, ``[N]``.
        shares: what each target counts in the gradients, ``[N]``.
    """
    goals = (targets * kept.to(targets.dtype))[:, None]
    loss = bias.new_zeros(())
    of_features = torch.empty_like(features, dtype=bias.dtype)
    of_weight: Tensor | None = None
    of_bias = torch.zeros_like(bias)
    most = GPU_CHUNK_ROWS if features.is_cuda else TRAINING_CHUNK_ROWS
    num_chunks = max(1, -(-len(features) // most))
    size = -(-len(features) // num_chunks)
    room = _room(size * len(weight), features).view(size, len(weight))
    for begin in range(0, num_chunks * size, max(size, 1)):
        part = slice(begin, begin + size)
        rows, goal = features[part], goals[part]
        logits = torch.mm(rows, weight.T, out=room[: len(rows)]).to(bias.dtype)
        if logits.is_cuda or weight.dtype != bias.dtype:
            nats, sums = _probabilities(logits.add_(bias), goal)
        else:
            nats, sums = _exponentials(logits, bias, goal)
            wrong = ~((sums < HUGE) & (logits.gather(1, goal)[:, 0] > 1 / HUGE))
            if wrong.any():
                exact = functional.linear(rows[wrong], weight, bias)
                nats[wrong], sums[wrong] = _probabilities(exact, goal[wrong])
                logits[wrong] = exact
        loss += torch.dot(nats, kept[part])
        # By logits: softmax less 1 at the target. Masks and sums act on F columns, not on V.
        logits.scatter_add_(1, goal, -sums[:, None])
        share = shares[part] / sums
        of_bias.addmv_(logits.T, share)
        by_logits = logits.to(weight.dtype)
        torch.mul(by_logits @ weight, share[:, None], out=of_features[part])
        counted = rows * share[:, None].to(rows.dtype)
        if of_weight is None:
            of_weight = (by_logits.T @ counted).to(bias.dtype)
        elif weight.dtype == bias.dtype:
            of_weight.addmm_(by_logits.T, counted)
        else:
            of_weight += by_logits.T @ counted
    if of_weight is None:
        of_weight = torch.zeros_like(weight, dtype=bias.dtype)
    return loss, of_features, of_weight, of_bias


def _probabilities(logits: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Puts probabilities in the place of ``logits [n, V]``.

    Returns:
        The nats of each row's target ``goal [n, 1]``, and 1 for each row.
    """
    nats = logits.logsumexp(1) - logits.gather(1, goal)[:, 0]
    torch.softmax(logits, 1, out=logits)
    return nats, torch.ones_like(nats)


def _exponentials(logits: Tensor, bias: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Puts the exponentials of ``logits [n, V] + bias`` in their place, on a CPU.

    A softmax takes three passes more: for the largest of a row, which keeps it within the numbers
    that there are, and to divide. Both can wait: a row that is not within them is found by its sum
    and its target.

    Returns:
        The nats of each row's target ``goal [n, 1]``, and the sum of each row.
    """
    sums = torch.empty_like(logits[:, 0])
    num_rows = max(1, IN_CACHE // len(bias))
    for rows, row_sums in zip(logits.split(num_rows), sums.split(num_rows), strict=True):
        torch.sum(rows.add_(bias).exp_(), 1, out=row_sums)
    return sums.log() - logits.gather(1, goal)[:, 0].log(), sums


class FullSoftmax(nn.Linear):
    """Every word has a row of weights and a bias; calling it gives logits ``[..., V]``."""

    def __init__(self, num_features: int, num_words: int) -> None:
        super().__init__(num_features, num_words)
        _begin(self)

    def summed_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """The summed cross-entropy of ``features [N, F]`` in nats; PAD is free."""
        return summed_cross_entropy(features, self, targets)


class AdaptiveSoftmax(nn.Module):
    """The adaptive softmax of Grave, Joulin, Cisse, Grangier and Jegou (2017).

    The head scores the words before the first cutoff and one entry for each group of rarer words; a
    group's words are scored from ``F / 4``, ``F / 16``, ... features. The probability of a rare
    word is that of its group times its own within it, so that these are probabilities of all words
    as those of a full softmax are. Calling it gives their logarithms, ``[..., V]``.

    A group is computed where it is meant: which rows these are is known to the host alone, so that
    a GPU waits once for each group and step.

    Raises:
        InputError: where the vocabulary has no word behind the last cutoff.
    """

    def __init__(self, num_features: int, num_words: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        if num_words <= cutoffs[-1]:
            raise InputError(
                f"network.cutoffs is {list(cutoffs)} and the vocabulary has {num_words} words: the "
                f"last group would be empty; lower the cutoffs, or set network.output=full"
            )
        self.cutoffs = (*cutoffs, num_words)
        self.head = nn.Linear(num_features, cutoffs[0] + len(cutoffs))
        _begin(self.head)
        self.projections, self.groups = nn.ModuleList(), nn.ModuleList()
        for number, (first, end) in enumerate(pairwise(self.cutoffs), 1):
            size = max(1, num_features // 4**number)
            self.projections.append(nn.Linear(num_features, size, bias=False))
            group = nn.Linear(size, end - first)
            _begin(group)
            self.groups.append(group)

    def forward(self, features: Tensor) -> Tensor:
        first = self.cutoffs[0]
        head = self.head(features).log_softmax(-1)
        parts = [head[..., :first]]
        for number, (project, group) in enumerate(self._groups()):
            inside = group(project(features)).log_softmax(-1)
            parts.append(head[..., first + number, None] + inside)
        return torch.cat(parts, dim=-1)

    def summed_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """The summed cross-entropy of ``features [N, F]`` in nats; PAD is free."""
        loss = features.new_zeros((), dtype=self.head.weight.dtype)
        goals = targets
        for number, (project, group) in enumerate(self._groups()):
            first, end = self.cutoffs[number : number + 2]
            meant = (targets >= first) & (targets < end)
            goals = torch.where(meant, self.cutoffs[0] + number, goals)
            rows = meant.nonzero()[:, 0]
            inside = targets.index_select(0, rows) - first
            chosen = project(features.index_select(0, rows))
            loss = loss + summed_cross_entropy(chosen, group, inside, ignored=-100)
        return loss + summed_cross_entropy(features, self.head, goals)

    def _groups(self) -> list[tuple[nn.Linear, nn.Linear]]:
        """The projection and the output layer of each group."""
        return list(zip(self.projections, self.groups, strict=True))  # type: ignore[arg-type]


def _begin(output: nn.Linear) -> None:
    """Uniform in +-0.1, biases zero (Zaremba, Sutskever and Vinyals 2014)."""
    nn.init.zeros_(output.bias)
    nn.init.uniform_(output.weight, -0.1, 0.1)
