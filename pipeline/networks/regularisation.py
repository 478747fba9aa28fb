"""What disturbs or taxes a network while it trains, and leaves it alone afterwards.

Shape letters: ``T`` time, ``B`` batch, ``F`` features, ``H`` hidden, ``N`` predicted positions.

None of it is needed to rebuild a model, so a checkpoint's configuration does not hold it: a model
is built, then :class:`RegularisationConfig` is handed to its modules for the time of training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError


@dataclass(frozen=True)
class RegularisationConfig:
    """How training is made harder, so that the network generalises. All of it is off at first.

    The share of features that plain dropout takes is ``network.dropout``.

    Attributes:
        locked_dropout: dropout takes the same features at every step of a sequence (variational
            dropout: Gal and Ghahramani 2016; Merity, Keskar and Socher 2018, section 4.2).
        embedding_dropout: share of the vocabulary's words whose vectors are zero for a whole batch,
            wherever they occur (Gal and Ghahramani 2016; Merity et al. 2018, section 4.3).
        word_dropout: share of the tokens read that become ``<unk>``, each by itself (Iyyer et al.
            2015; Bowman et al. 2016, section 3.1). Specials stay.
        weight_drop: share of the recurrent weights, hidden to hidden, that are zero for a whole
            sequence (DropConnect: Wan et al. 2013; Merity et al. 2018, section 2).
        label_smoothing: share of a target's probability that is spread evenly over the vocabulary
            (Szegedy et al. 2016, section 7). Reported losses are without it.
        activation_penalty: AR, weight of the mean square of what enters the output layer (Merity,
            McCann and Socher 2017; 2 in Merity et al. 2018).
        temporal_penalty: TAR, weight of the mean square of the change of the top layer's output
            from step to step (Merity, McCann and Socher 2017; 1 in Merity et al. 2018).

    Raises:
        InputError: for a share outside [0, 1) or a negative weight.
    """

    locked_dropout: bool = False
    embedding_dropout: float = 0.0
    word_dropout: float = 0.0
    weight_drop: float = 0.0
    label_smoothing: float = 0.0
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("embedding_dropout", "word_dropout", "weight_drop", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"regularisation.{name} is {getattr(self, name)}: it must be in [0, 1)"
                )
        for name in ("activation_penalty", "temporal_penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(
                    f"regularisation.{name} is {getattr(self, name)}: it must be 0 or above"
                )

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the settings that are on."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


class Regularised(nn.Module):
    """A module that acts otherwise in training, as its configuration says.

    A mask that is meant for a whole sequence must outlive the call where a sequence is computed
    word by word: inside :func:`one_sequence` the first mask of a kind stays.
    """

    regularisation = RegularisationConfig()
    _held: dict[str, Tensor] | None = None

    def kept(self, kind: str, shape: tuple[int, ...], like: Tensor, share: float) -> Tensor:
        """A mask of ``shape``: 0 for ``share`` of its places, ``1 / (1 - share)`` elsewhere."""
        if self._held is not None and kind in self._held:
            return self._held[kind]
        mask = like.new_empty(shape).bernoulli_(1 - share).div_(1 - share)
        if self._held is not None:
            self._held[kind] = mask
        return mask


@contextmanager
def one_sequence(model: nn.Module) -> Iterator[None]:
    """All calls inside belong to one batch of sequences: masks that span a sequence stay."""
    modules = [module for module in model.modules() if isinstance(module, Regularised)]
    for module in modules:
        module._held = {}
    try:
        yield
    finally:
        for module in modules:
            module._held = None


class FeatureDropout(Regularised):
    """Dropout of features ``[T, B, F]``: at every step anew, or locked for the sequence."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        """The features, ``share`` of them zero, the others larger by as much."""
        if not self.regularisation.locked_dropout or features.dim() < 3:
            return functional.dropout(features, self.share, self.training)
        if not self.training or not self.share:
            return features
        return features * self.kept("features", (1, *features.shape[1:]), features, self.share)


class Penalties:
    """AR and TAR of one forward pass in training (Merity, McCann and Socher 2017).

    Args:
        stack: gives ``(outputs [T, B, H], state)``; called once, or word by word.
        dropout: gives what enters the output layer.
    """

    def __init__(self, config: RegularisationConfig, stack: nn.Module, dropout: nn.Module) -> None:
        self.config = config
        self.outputs: list[Tensor] = []
        self.features: list[Tensor] = []
        stack.register_forward_hook(lambda module, _, given: self._note(module, given[0]))
        dropout.register_forward_hook(
            lambda module, _, given: self.features.append(given) if module.training else None
        )

    def _note(self, stack: nn.Module, outputs: Tensor) -> None:
        if stack.training:
            self.outputs.append(outputs)

    def forget(self) -> None:
        """Begin a new forward pass."""
        self.outputs.clear()
        self.features.clear()

    def sum(self, scored: Tensor, inside: Tensor) -> Tensor:
        """The penalty of the pass, weighed, a scalar.

        Each sequence has its own mean, and the penalty is the mean of these: what pads a batch does
        not count, and the penalties of parts of a batch add up by their shares of its columns. A
        sequence of one step has no TAR.

        Args:
            scored: which positions are learnt from, bool ``[T, B]`` or ``[1, B]``.
            inside: which outputs of the stack are of a sequence, bool ``[T, B]``, the first always.
        """
        penalty = torch.zeros((), device=scored.device)
        if self.config.activation_penalty:
            # Word by word, the words drawn are scored too; what is learnt from comes last.
            squares = self.features[-1].float().square().mean(-1).view(scored.shape)
            penalty = penalty + self.config.activation_penalty * _mean_of_columns(squares, scored)
        outputs = torch.cat(self.outputs).float()
        if self.config.temporal_penalty and len(outputs) > 1:
            changes = (outputs[1:] - outputs[:-1]).square().mean(-1)
            penalty = penalty + self.config.temporal_penalty * _mean_of_columns(changes, inside[1:])
        self.forget()
        return penalty


def _mean_of_columns(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the columns' means over what is ``counted``; a column without any has 0."""
    sums = values.where(counted, 0).sum(0)
    return (sums / counted.sum(0).clamp(min=1)).mean()
