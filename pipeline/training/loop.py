"""The one training loop: clip, schedule, early stop, seed, exact resume. It knows no tracker.

A run that is cut off anywhere and started again from its last saved state ends with the same bits
as one that was never cut off, on the same CPU with the same number of threads. On a GPU the same
holds as far as its kernels repeat themselves. A state says with which versions and how many threads
it was made; where they are others now, the run goes on and says that the bits may differ: hours of
work are worth more than the last bits of a run that nobody can repeat elsewhere anyway.

Where several processes train one model (``training.num_processes``), every one runs this loop over
the same batches and computes its own columns of each. The first one alone validates, is observed
and gives states away; what it decides, all do.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..networks.recurrent import Hidden, NetworkConfig, Variant
from ..networks.regularisation import RegularisationConfig
from ..networks.variants import Baseline
from ..problems.batches import Batch, Batches, Examples
from ..problems.models import EstimatedModel, Model
from ..problems.problem import Problem, digest_seed
from .averaging import WeightAverage
from .config import OPTIMIZERS, TrainingConfig
from .cuda_graphs import RecordedStep, check_recordable, own_stream
from .precision import Precision, check_precision, matmul_precision, slowness
from .ranks import Ranks

CHECK_EVERY = 50
"""Steps between looks at the loss: each look makes a GPU wait for the host. Several processes also
agree only then whether a state is kept."""


class DivergedError(InputError):
    """Training broke down before it had anything worth keeping."""


@dataclass
class TrainingState:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        tensors: weights, best weights, optimizer, carried hidden state of all columns; generators
            and sums of each process, ``[P, ...]``.
        scalars: counters and history, fit for JSON.
    """

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


class Observer:
    """What the loop tells of itself. The methods here do nothing; a caller overrides some."""

    def step(self, epoch: int, batch: int, num_batches: int) -> None:
        """Called after every optimizer step; ``epoch`` counts from 1, ``batch`` to its number."""

    def epoch(self, record: dict[str, Any]) -> dict[str, Any]:
        """Called after every epoch; what it returns is added to the history, such as times."""
        return {}

    def save(self, state: Callable[[], TrainingState | None]) -> None:
        """Called after every step; calling ``state`` gives a state to be kept.

        It gives None where the loss is no number any more: the state kept before is a better one.
        Of several processes only the first one calls it, every ``CHECK_EVERY`` steps.
        """

    def warn(self, sentence: str) -> None:
        """Called with what a person should know of this training."""


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        weights: those of the epoch with the lowest validation loss, on the CPU.
        history: one record an epoch: ``epoch``, ``step``, ``metrics`` (losses per target in the
            problem's unit, perplexities where that is nats, learning rate, gradient norm), and what
            the observer added.
        best_epoch: where the weights are from; of an average over epochs, the last of them.
        stopped: why training ended: ``num_epochs``, ``patience`` or ``diverged``.
        num_parameters: weights that were trained, tied ones once; of a baseline, numbers kept.
    """

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    stopped: str
    num_parameters: int


def fit(
    problem: Problem,
    variant: Variant | Baseline,
    network: NetworkConfig,
    config: TrainingConfig,
    training: Examples,
    validation: Examples,
    vocabulary_sizes: Sequence[int],
    *,
    device: torch.device,
    regularisation: RegularisationConfig = RegularisationConfig(),  # noqa: B008
    start: Mapping[str, Tensor] | None = None,
    vectors: NDArray[np.float32] | None = None,
    observer: Observer | None = None,
    state: TrainingState | None = None,
) -> Fitted:
    """Train a variant on a problem.

    Args:
        regularisation: what disturbs or taxes the network while it trains.
        start: weights to begin from by name, such as a champion's; see :meth:`Model.begin_from`.
        vectors: of the words that are read, ``[V, E]``; rows that are NaN stay fresh. A baseline
            begins from nothing.
        observer: is told of every step and epoch, and may keep states.
        state: a kept state to go on from; a new run where it is absent.

    Raises:
        InputError: where the variant does not suit the problem, the device has not the precision,
            or there is nothing to train on.
        DivergedError: where the loss left all bounds before one epoch was whole.
    """
    check_settings(problem, variant, network, regularisation)
    check_precision(config.precision, device, variant)
    if config.cuda_graph and isinstance(variant, Variant):
        check_recordable(problem, network, device)
    check_usable(problem, "training", training, used_to_train=True)
    check_usable(problem, "validation", validation)
    with _own_randomness(device, config.seed), matmul_precision("fp32"):
        model = problem.build(variant, network, vocabulary_sizes).to(device)
        if isinstance(model, EstimatedModel):
            return _estimated(problem, model, config, training, validation, device, observer)
        ranks = Ranks(device)
        if ranks.size != config.num_processes:
            raise InputError(
                f"training.num_processes is {config.num_processes}, and {ranks.size} of them train "
                f"here: start them with torchrun, as a retraining does"
            )
        model.prepare(training)
        model.begin_from(start or {}, vocabulary_sizes)
        if vectors is not None:
            check_vectors(problem, network, vectors.shape[1])
            given = {problem.input_vectors: torch.from_numpy(vectors).to(device)}
            model.begin_from(given, vocabulary_sizes)
        model.regularise(regularisation)
        if device.type != "cpu":
            training, validation = (
                problem.resident(each, device) for each in (training, validation)
            )
        loop = Loop(problem, variant, model, config, device, ranks)
        if observer is None or ranks.rank:
            observer = Observer()
        if slow := slowness(config.precision, device):
            observer.warn(slow)
        if state is not None:
            loop.restore(state)
            _warn_of_other_bits(state, device, observer)
        with own_stream(device) if config.cuda_graph else nullcontext():
            return loop.run(training, validation, observer)


def check_settings(
    problem: Problem,
    variant: Variant | Baseline,
    network: NetworkConfig,
    regularisation: RegularisationConfig,
) -> None:
    """Refuse what does not go together, before any data is read. A baseline has no network.

    Raises:
        InputError: with the reason and the remedy.
    """
    problem.check(variant)
    if not isinstance(variant, Variant):
        return
    problem.check_network(network)
    network.check(variant)
    if network.output == "adaptive" and regularisation.label_smoothing:
        raise InputError(
            "regularisation.label_smoothing spreads over all words, which network.output=adaptive "
            "never scores together: set one of them back to its default"
        )
    for name in regularisation.active:
        if name not in problem.regularisations:
            known = ", ".join(problem.regularisations) or "none"
            raise InputError(
                f"regularisation.{name} has nothing to act on in {problem.name}, which knows "
                f"{known}: leave it at its default"
            )


def check_vectors(problem: Problem, network: NetworkConfig, size: int) -> None:
    """Refuse word vectors of ``size`` numbers where the network has no place for them.

    Raises:
        InputError: with the remedy.
    """
    if not problem.input_vectors:
        raise InputError(f"{problem.name} reads no words: word vectors have no place in it")
    if network.embedding == "one_hot":
        raise InputError(
            "network.embedding is one_hot, which has no vectors: set it to learned, to tune the "
            "given ones, or to frozen"
        )
    if size != network.embedding_size:
        raise InputError(
            f"the word vectors have {size} numbers each, network.embedding_size is "
            f"{network.embedding_size}: set network.embedding_size={size}"
        )


def numerics(device: torch.device) -> dict[str, Any]:
    """What the bits of a training depend on, beside its inputs."""
    found: dict[str, Any] = {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def _warn_of_other_bits(state: TrainingState, device: torch.device, observer: Observer) -> None:
    before, now = state.scalars["numerics"], numerics(device)
    changed = [
        f"{name} {before.get(name)} is {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        observer.warn(
            f"the kept state was made elsewhere ({', '.join(changed)}): training goes on from it, "
            f"but may end with other bits; --resume never starts anew"
        )


def check_usable(
    problem: Problem, name: str, examples: Examples, *, used_to_train: bool = False
) -> int:
    """How many rows of a split a problem can use.

    Raises:
        InputError: where that is none.
    """
    usable = int(problem.usable(examples, training=used_to_train).sum())
    if not usable:
        raise InputError(
            f"the {name} split has {len(examples.inputs)} rows, and {problem.name} can use none of "
            f"them: add data, or hold out other shares (splits.valid, splits.test)"
        )
    return usable


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch inside, leave its generators outside as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _losses(problem: Problem, trained: float, validated: float) -> dict[str, float]:
    """Losses per target, and perplexities where they are nats."""
    losses = {"train/loss": trained, "valid/loss": validated}
    if problem.loss == "nats":
        losses |= {
            f"{name.split('/')[0]}/perplexity": math.exp(min(value, 700.0))
            for name, value in losses.items()
        }
    return losses


def _estimated(
    problem: Problem,
    model: EstimatedModel,
    config: TrainingConfig,
    training: Examples,
    validation: Examples,
    device: torch.device,
    observer: Observer | None,
) -> Fitted:
    """A baseline is learnt in one go: one record of history, no gradient, nothing to resume."""
    model.estimate(training)
    trained, validated = (
        mean_loss(problem, model, examples, config.batch_size, device)
        for examples in (training, validation)
    )
    record: dict[str, Any] = {
        "epoch": 1,
        "step": 1,
        "num_tokens": sum(
            batch.num_targets for batch in problem.scoring_batches(training, config.batch_size)
        ),
        "metrics": _losses(problem, trained, validated),
    }
    record |= (observer or Observer()).epoch(record)
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    return Fitted(weights, [record], 1, "num_epochs", num_parameters)


@dataclass
class _Counters:
    """The loop's plain state. ``batch`` is how many batches of ``epoch`` are done."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    num_tokens: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    num_bad_epochs: int = 0
    num_plateaus: int = 0
    num_diverged_epochs: int = 0
    stopped: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """One training as it goes on, step by step: what :func:`fit` runs."""

    def __init__(
        self,
        problem: Problem,
        variant: Variant | Baseline,
        model: Model,
        config: TrainingConfig,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.problem, self.variant, self.config, self.device = problem, variant, config, device
        self.model, self.ranks = model, ranks
        self.objective = ranks.objective(model)
        if ranks.size > 1:
            torch.manual_seed(digest_seed(config.seed, "rank", ranks.rank))
        options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        self.recorded: RecordedStep | None = None
        if config.cuda_graph:
            self.recorded = RecordedStep(lambda batch, hidden: self._descend([batch], hidden))
            options["lr"] = torch.tensor(config.learning_rate, device=device)
            if config.optimizer != "sgd":
                options["capturable"] = True
        # One fused kernel a step is 5 to 10 % faster than a loop over the weights.
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.model.parameters(), fused=True, **options
        )
        self.counters = _Counters()
        self.average = WeightAverage(
            config.averaging, config.averaging_decay, config.averaging_epochs, model
        )
        self.precision = Precision(config.precision, device)
        self.best: dict[str, Tensor] = {}
        self.hidden: Hidden | None = None
        self.sum_losses = torch.zeros((), dtype=torch.float64, device=device)
        self.sum_norms = torch.zeros((), dtype=torch.float64, device=device)

    def run(self, training: Examples, validation: Examples, observer: Observer) -> Fitted:
        counters = self.counters
        while not counters.stopped and counters.epoch <= self.config.num_epochs:
            generator = np.random.default_rng(digest_seed(self.config.seed, counters.epoch))
            batches = self.problem.training_batches(training, self.config.batch_size, generator)
            with matmul_precision(self.config.precision):
                finite = self._epoch(batches, observer)
            self._close_epoch(finite, validation, observer)
            self._offer_state(observer)
        history, best_epoch = self._pool_epochs(validation)
        return Fitted(
            {name: tensor.cpu() for name, tensor in self.best.items()},
            history,
            best_epoch,
            counters.stopped or "num_epochs",
            sum(each.numel() for each in self.model.parameters() if each.requires_grad),
        )

    def _epoch(self, batches: Batches, observer: Observer) -> bool:
        """The rest of the current epoch; False where the loss is no number any more."""
        counters = self.counters
        self.model.train()
        self._check_divisible(batches)
        num_steps = self._steps_of(len(batches))
        for step in range(self._steps_of(counters.batch), num_steps):
            last = min(counters.batch + self.config.accumulate_batches, len(batches))
            self.step([batches[index] for index in range(counters.batch, last)], step / num_steps)
            counters.batch = last
            observer.step(counters.epoch, counters.batch, len(batches))
            looks = (step + 1) % CHECK_EVERY == 0
            if looks and not self._finite():
                return False
            if counters.batch < len(batches) and (looks or self.ranks.size == 1):
                self._offer_state(observer)
        return self._finite()

    def _check_divisible(self, batches: Batches) -> None:
        """A state that is carried needs a column in every process.

        Raises:
            InputError: where the first batch has too few.
        """
        if self.ranks.size > 1 and batches[0].num_columns < self.ranks.size:
            raise InputError(
                f"the training split fills {batches[0].num_columns} columns of a batch, which "
                f"training.num_processes ({self.ranks.size}) cannot divide among them: lower it"
            )

    def _finite(self) -> bool:
        return bool(self.ranks.total(self.sum_losses).isfinite())

    def _offer_state(self, observer: Observer) -> None:
        """Let the observer keep a state; where it does, all processes give their part of it."""
        if self.ranks.size == 1:
            observer.save(self.snapshot)
        elif self.ranks.rank:
            if self.ranks.agreed(0):
                self.snapshot()
        else:
            states: list[TrainingState | None] = []

            def state() -> TrainingState | None:
                if not states:
                    self.ranks.agreed(1)
                    states.append(self.snapshot())
                return states[0]

            observer.save(state)
            if not states:
                self.ranks.agreed(0)

    def step(self, batches: Sequence[Batch], done: float) -> None:
        """One optimizer step on the gradient of all ``batches``, ``done`` of the epoch before it.

        Sums come before ratios: a batch's objective is per target, and counts by its targets.
        """
        rate = sum(batch.rate for batch in batches) / len(batches)
        self._set_learning_rate(done, rate)
        self.model.num_steps = self.counters.step
        if self.recorded is None:
            self.hidden = self._descend(batches, self.hidden)
        else:
            self.hidden = self.recorded(batches[0].to(self.device), self.hidden)
        self.average.after_step()
        self.counters.num_tokens += sum(batch.num_targets for batch in batches)
        self.counters.step += 1

    def _descend(self, batches: Sequence[Batch], hidden: Hidden | None) -> Hidden | None:
        """What a step does on the device, from the state before it to the one behind it."""
        num_targets = sum(batch.num_targets for batch in batches)
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            part = self.ranks.part(batch).to(self.device)
            with self.ranks.adding_up(self.objective, batch is batches[-1]):
                with self.precision.forward():
                    objective, loss, hidden = self.objective(part, hidden)
                share = batch.num_targets / max(num_targets, 1)
                self.precision.backward(objective if len(batches) == 1 else objective * share)
            self.sum_losses += loss.detach()
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        self.sum_norms += self.precision.step(self.optimizer, limit)
        return hidden

    def _steps_of(self, num_batches: int) -> int:
        """How many optimizer steps so many batches of an epoch make; the last may have fewer."""
        return -(-num_batches // self.config.accumulate_batches)

    def _close_epoch(self, finite: bool, validation: Examples, observer: Observer) -> None:
        counters, config = self.counters, self.config
        loss = math.inf
        if finite:
            with self.average.running_weights():
                loss = self._validated(validation)
                if loss < counters.best_loss:
                    self.keep_weights()
        if not math.isfinite(loss):
            if not self.best:
                raise DivergedError(
                    f"{self.variant.name} diverged in epoch {counters.epoch}: its loss is no "
                    f"number any more; lower training.learning_rate ({config.learning_rate}) or "
                    f"set training.clip_norm"
                )
            self._stop_diverged(observer, "is no number any more")
            return
        trained = float(self.ranks.total(self.sum_losses)) / max(counters.num_tokens, 1)
        num_steps = max(self._steps_of(counters.batch), 1)
        record: dict[str, Any] = {
            "epoch": counters.epoch,
            "step": counters.step,
            "num_tokens": counters.num_tokens,
            "metrics": {
                **_losses(self.problem, trained, loss),
                "train/gradient_norm": float(self.sum_norms) / num_steps,
                "train/learning_rate": config.learning_rate
                * self._scheduled((num_steps - 1) / num_steps),
            },
        }
        record |= observer.epoch(record)
        counters.history.append(record)
        self.average.after_epoch(counters.epoch, loss)
        self._note_stagnation()
        if loss < counters.best_loss:
            counters.best_loss, counters.best_epoch, counters.num_bad_epochs = (
                loss,
                counters.epoch,
                0,
            )
        else:
            counters.num_bad_epochs += 1
            counters.num_plateaus += 1
            if config.patience is not None and counters.num_bad_epochs >= config.patience:
                counters.stopped = "patience"
        if config.divergence_factor and loss > config.divergence_factor * counters.best_loss:
            counters.num_diverged_epochs += 1
            if counters.num_diverged_epochs >= config.divergence_epochs:
                self._stop_diverged(observer, f"was {loss:.4g} of {counters.best_loss:.4g} at best")
        else:
            counters.num_diverged_epochs = 0
        counters.epoch += 1
        counters.batch = counters.num_tokens = 0
        self.hidden = None
        self.sum_losses.zero_()
        self.sum_norms.zero_()

    def keep_weights(self) -> None:
        """The model's present weights are the best so far."""
        self.best = {
            name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()
        }

    def _stop_diverged(self, observer: Observer, how: str) -> None:
        counters = self.counters
        counters.stopped = "diverged"
        observer.warn(
            f"{self.variant.name} diverged in epoch {counters.epoch}, where its loss {how}: the "
            f"weights of epoch {counters.best_epoch} are kept; lower training.learning_rate "
            f"({self.config.learning_rate}) or training.clip_norm ({self.config.clip_norm})"
        )

    def _validated(self, validation: Examples) -> float:
        """The loss on validation, which the first process computes for all."""
        loss = math.nan
        if self.ranks.rank == 0:
            batch_size = self.config.batch_size
            loss = mean_loss(self.problem, self.model, validation, batch_size, self.device)
        return self.ranks.agreed(loss)

    def _note_stagnation(self) -> None:
        """Begin to average where the newest loss is above that of more than so many epochs ago.

        The criterion is not monotonic: one bad epoch does not count. Patience begins anew with it.
        """
        if self.config.averaging != "triggered" or self.average.running:
            return
        losses = [record["metrics"]["valid/loss"] for record in self.counters.history]
        before = losses[: -1 - self.config.averaging_epochs]
        if before and losses[-1] > min(before):
            self.average.trigger()
            self.counters.num_bad_epochs = -1

    def _pool_epochs(self, validation: Examples) -> tuple[list[dict[str, Any]], int]:
        """Take the mean of whole epochs' weights for the best, if it is; history and best epoch."""
        history, pool = list(self.counters.history), self.average.pool
        if len(pool) < 2:
            return history, self.counters.best_epoch
        with self.average.pooled_weights():
            loss = self._validated(validation)
            if loss < self.counters.best_loss:
                self.keep_weights()
        metrics = history[-1]["metrics"] | {"valid/averaged_loss": loss}
        history[-1] = history[-1] | {"metrics": metrics}
        better = loss < self.counters.best_loss
        return history, max(pool) if better else self.counters.best_epoch

    def _scheduled(self, done: float) -> float:
        """What the schedule makes of the learning rate where ``done`` of the epoch is over."""
        config, counters = self.config, self.counters
        if config.schedule == "cosine":
            done = (counters.epoch - 1 + done) / config.num_epochs
            return 0.5 * (1 + math.cos(math.pi * done))
        if config.schedule == "step":
            return config.decay ** (counters.epoch - 1)
        if config.schedule == "plateau":
            return config.decay**counters.num_plateaus
        return 1.0

    def _set_learning_rate(self, done: float, rate: float) -> None:
        learning_rate = self.config.learning_rate * self._scheduled(done) * rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                # Where a recorded step finds it.
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate

    def snapshot(self) -> TrainingState | None:
        """The state after the last step, copied, so that training may go on.

        None where a loss or a gradient was no number: what follows from it is none either.
        """
        if not bool(self.ranks.total(self.sum_losses + self.sum_norms).isfinite()):
            return None
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors |= self.average.tensors()
        scalars: dict[str, Any] = {
            name: value for name, value in vars(self.counters).items() if name != "best_loss"
        }
        # JSON has no infinity.
        if self.best:
            scalars["best_loss"] = self.counters.best_loss
        optimizer: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        for index, entries in optimizer.items():
            tensors |= {
                f"optimizer/{index}/{name}": value
                for name, value in entries.items()
                if isinstance(value, Tensor)
            }
        for index, part in enumerate(self.ranks.whole(self.hidden) or ()):
            tensors[f"hidden/{index}"] = part
        tensors["sums"] = self.ranks.stacked(torch.stack((self.sum_losses, self.sum_norms)))
        tensors["generator/cpu"] = self.ranks.stacked(torch.get_rng_state())
        if self.device.type == "cuda":
            cuda = self.ranks.stacked(torch.cuda.get_rng_state(self.device))
            tensors["generator/cuda"] = cuda
        copies = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        scalars |= {
            "history": list(self.counters.history),
            "num_averaged": self.average.num_averaged,
            # JSON has no whole numbers for keys.
            "pool": [list(entry) for entry in self.average.pool.items()],
            "numerics": numerics(self.device),
            "scaler": self.precision.state(),
        }
        return TrainingState(copies, scalars)

    def restore(self, state: TrainingState) -> None:
        """Go back to a state that :meth:`snapshot` gave."""
        tensors = state.tensors
        self.model.load_state_dict(_under("model/", tensors))
        self.best = {
            name: value.to(self.device) for name, value in _under("best/", tensors).items()
        }
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer/", tensors).items():
            index, entry = name.split("/", 1)
            entries.setdefault(int(index), {})[entry] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        hidden = _under("hidden/", tensors)
        whole = [hidden[str(index)] for index in range(len(hidden))]
        parts = (each[:, self.ranks.columns(each.shape[1])].contiguous() for each in whole)
        self.hidden = tuple(part.to(self.device) for part in parts) or None
        own = self.ranks.rank
        self.sum_losses, self.sum_norms = tensors["sums"][own].to(self.device).clone().unbind()
        scalars = dict(state.scalars)
        del scalars["numerics"]
        self.precision.restore(scalars.pop("scaler"))
        self.average.restore(
            tensors,
            scalars.pop("num_averaged"),
            {int(epoch): loss for epoch, loss in scalars.pop("pool")},
        )
        self.counters = _Counters(**{**scalars, "history": list(scalars["history"])})
        torch.set_rng_state(tensors["generator/cpu"][own].clone())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["generator/cuda"][own].clone(), self.device)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


@torch.inference_mode()
def mean_loss(
    problem: Problem,
    model: Model,
    examples: Examples,
    batch_size: int,
    device: torch.device,
) -> float:
    """The loss of a split per target: sums over all of it, divided once.

    Infinite where the split holds nothing to score.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    num_tokens = 0
    hidden: Hidden | None = None
    for batch in problem.scoring_batches(examples, batch_size):
        loss, hidden = model.summed_loss(batch.to(device), hidden)
        total += loss
        num_tokens += batch.num_targets
    model.train(was_training)
    return float(total) / num_tokens if num_tokens else math.inf
