"""Losses, ranks and best choices of a model, token by token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..networks.recurrent import Hidden
from ..networks.softmax import chunk_rows
from ..text.vocabulary import PAD, UNK
from .batches import Examples
from .models import TokenModel
from .problem import Problem

UNRANKED = 2**31 - 1
"""The rank of a word that is on no list."""


@dataclass(frozen=True)
class TokenScores:
    """How a model scored every target of a split, flat, in the order of its batches.

    Attributes:
        nats: negative log-probability of each target, float64 ``[N]``.
        ranks: how many words the model would offer before the target, int64 ``[N]``: all that are
            likelier, and half of those that are as likely, rounded up (the mean rank of a tie), the
            same for every model. Specials are never offered, and an unknown target is ``UNRANKED``:
            no list of words contains it; so is everything where scores are no numbers.
        best: the likeliest word or label that is no special, int64 ``[N]``; ``UNK`` where there is
            none.
        rows, positions: as in :class:`Batch`.
    """

    nats: NDArray[np.float64]
    ranks: NDArray[np.int64]
    best: NDArray[np.int64]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]


@torch.inference_mode()
def score_tokens(
    problem: Problem, model: TokenModel, examples: Examples, batch_size: int, device: torch.device
) -> TokenScores:
    """Score every target of ``examples`` once with the model in evaluation mode."""
    was_training = model.training
    model.eval()
    parts: list[tuple[NDArray[Any], ...]] = []
    hidden: Hidden | None = None
    for batch in problem.scoring_batches(examples, batch_size):
        batch = batch.to(device)
        features, hidden = model.features(batch, hidden)
        real = batch.targets != PAD
        kept = real.cpu().numpy()
        scores = _nats_ranks_best(model, features[real], batch.targets[real])
        parts.append((*scores, batch.rows[kept], batch.positions[kept]))
    model.train(was_training)
    if not parts:
        empty = np.zeros(0, np.int64)
        return TokenScores(np.zeros(0), empty, empty, empty, empty)
    return TokenScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _nats_ranks_best(
    model: TokenModel, features: Tensor, targets: Tensor
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    nats, ranks, best = [], [], []
    size = chunk_rows(features)
    for rows, goals in zip(features.split(size), targets.split(size), strict=True):
        standing = model.standing(rows, goals)
        known = (goals != UNK) & standing.nats.isfinite()
        rank = standing.higher + (standing.equal + 1) // 2
        nats.append(standing.nats)
        ranks.append(torch.where(known, rank, UNRANKED))
        best.append(standing.best)
    if not nats:
        return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    return tuple(torch.cat(parts).cpu().numpy() for parts in (nats, ranks, best))  # type: ignore[return-value]
