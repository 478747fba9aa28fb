"""What a retraining is asked to do."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from pipeline.errors import InputError
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.networks.variants import Baseline, parse_variant
from pipeline.problems import Classification, Forecasting, LanguageModel, NextWord, Seq2Seq, Tagging
from pipeline.problems.predictor import ModelConfig
from pipeline.problems.scores import EvaluationConfig
from pipeline.records.contract import IN_ORDER, RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from pipeline.training.config import TrainingConfig
from pipeline.training.cuda_graphs import check_recordable
from pipeline.training.loop import check_settings
from pipeline.training.precision import check_precision
from pipeline.training.ranks import check_processes

AnyProblem = Annotated[
    Classification | Forecasting | LanguageModel | NextWord | Seq2Seq | Tagging,
    Field(discriminator="name"),
]
"""A problem that is chosen by its name."""

RESUMES = ("auto", "never")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a retraining, but for its data.

    Attributes:
        problem: what is learnt.
        names: names of the variants, networks and baselines.
        records: how rows of the files are read.
        splits: what is held out.
        text: how text becomes tokens.
        target_text: the same for the target side of pairs; as ``text`` where it is absent.
        vocabulary: which words get an id.
        network: sizes that all variants share.
        training: how each variant is fitted.
        regularisation: regularisation during training.
        evaluation: how each variant is scored.
    """

    problem: AnyProblem
    names: tuple[str, ...]
    records: RecordsConfig
    splits: SplitsConfig
    text: TextConfig
    target_text: TextConfig | None
    vocabulary: VocabularyConfig
    network: NetworkConfig
    training: TrainingConfig
    regularisation: RegularisationConfig
    evaluation: EvaluationConfig

    @cached_property
    def variants(self) -> list[Variant | Baseline]:
        """The variants to train, each once, in the order given."""
        return [parse_variant(name) for name in dict.fromkeys(self.names)]

    @property
    def texts(self) -> tuple[TextConfig, ...]:
        """How each text that the problem reads is tokenized; none for series."""
        return self.problem.texts(self.text, self.target_text)

    def check(self, device: str) -> None:
        """Refuse what cannot work, before any work starts.

        Raises:
            InputError: with the setting, the reason and the valid values.
        """
        if not self.variants:
            raise InputError("variants is empty: name at least one, for example lstm")
        on = resolve_device(device)
        for variant in self.variants:
            check_settings(self.problem, variant, self.network, self.regularisation)
            check_precision(self.training.precision, on, variant)
        if self.training.cuda_graph:
            check_recordable(self.problem, self.network, on)
        check_processes(self.training.num_processes, on)
        kind = self.records.kind
        if kind not in self.problem.kinds:
            raise InputError(
                f"{self.problem.name} cannot learn from {kind}: set records.kind to "
                f"{' or '.join(self.problem.kinds)}, or choose another problem.name"
            )
        self.problem.check_text(self.text)
        if kind in IN_ORDER and self.splits.by != "chronological":
            raise InputError(
                f"rows of {kind} mean something only in their order: set splits.by to chronological"
            )

    def model_config(self, variant: Variant | Baseline) -> ModelConfig:
        """Return what rebuilds a variant's model, apart from weights and vocabularies."""
        return ModelConfig(self.problem, variant, self.network, *self.texts)

    def settings(self) -> dict[str, Any]:
        """Return all settings by dotted name, for the registry's page."""
        parts = (
            *("problem", "network", "training", "regularisation"),
            *("vocabulary", "text", "splits", "evaluation"),
        )
        return {
            f"{part}.{key}": value
            for part in parts
            for key, value in asdict(getattr(self, part)).items()
        }

    def with_batch_size(self, batch_size: int) -> "Recipe":
        """Return the same recipe with another batch size."""
        return replace(self, training=replace(self.training, batch_size=batch_size))
