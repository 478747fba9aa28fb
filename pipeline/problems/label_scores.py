"""Scores of labels, of whole texts or of tokens, and their confusion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..metrics import METRICS, entity_statistics, macro_f1_statistics, tag_scheme
from ..text.vocabulary import UNK, Vocabulary
from .batches import Examples
from .models import TokenModel
from .predictor import Predictor
from .ragged import Ragged
from .scores import EvaluationConfig, Scores, row_sums, spread_rows, unknown_rate
from .tagging.problem import Tagging
from .token_scores import TokenScores


def score_labels(
    predictor: Predictor,
    examples: Examples,
    scored: TokenScores,
    texts: Sequence[str],
    tags: Sequence[Sequence[str]],
    config: EvaluationConfig,
) -> Scores:
    """Scores of labels: of whole texts, or of the tokens of texts."""
    assert examples.targets is not None and isinstance(predictor.model, TokenModel)
    num_rows, labels = len(examples.inputs), predictor.vocabularies[1]
    wanted = examples.targets.values[scored.positions].astype(np.int64)
    given = scored.best
    labelled = row_sums(np.ones(len(wanted)), scored.rows, num_rows)
    hits = row_sums(given == wanted, scored.rows, num_rows)
    nats = row_sums(scored.nats, scored.rows, num_rows)
    statistics = {
        "accuracy": np.stack((hits, labelled), axis=1),
        "perplexity": np.stack((nats, labelled), axis=1),
        "macro_f1": macro_f1_statistics(given, wanted, scored.rows, (num_rows, len(labels))),
    }
    rows = spread_rows(num_rows, config.num_samples)
    tables: dict[str, list[dict[str, str]]] = {}
    # Of all labels in the flat order of the targets.
    named = np.full(len(examples.targets.values), UNK, np.int64)
    named[scored.positions] = given
    ours, theirs = (
        [labels.decode(row) for row in Ragged(values, examples.targets.offsets)]
        for values in (named, examples.targets.values)
    )
    signatures = {}
    if isinstance(predictor.config.problem, Tagging):
        # A tag that training did not have has no id, and yet says where an entity is.
        theirs = [list(row) for row in tags] or theirs
        scheme = tag_scheme(labels.words)
        statistics["entity_f1"] = entity_statistics(ours, theirs, scheme)
        signatures["entity_f1"] = f"average:micro|mode:default|scheme:{scheme}|as:seqeval"
    tables["confusion"] = _confusion(given, wanted, labels)
    samples = [
        {
            "text": texts[row],
            "output": " ".join(ours[row]),
            "label": " ".join(theirs[row]),
        }
        for row in rows
    ]
    metrics = {name: METRICS[name].score(each) for name, each in statistics.items()}
    metrics["unknown_rate"] = unknown_rate(examples.inputs.values[examples.inputs.positions])
    return Scores(metrics, statistics, signatures, samples, tables)


CONFUSION_LABELS = 30
"""Labels of a confusion matrix, the most frequent ones."""


def _confusion(
    given: NDArray[np.int64], wanted: NDArray[np.int64], labels: Vocabulary
) -> list[dict[str, str]]:
    """How often each label was taken for which: a row for each that was wanted."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (wanted, given), 1)
    frequency = counts.sum(0) + counts.sum(1)
    shown = [i for i in np.argsort(-frequency, kind="stable") if frequency[i]][:CONFUSION_LABELS]
    names = labels.decode(shown)
    return [
        {"wanted": name}
        | {f"as {other}": str(counts[i, j]) for other, j in zip(names, shown, strict=True)}
        for name, i in zip(names, shown, strict=True)
    ]
