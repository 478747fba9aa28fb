"""A trained model's scores on one split, the statistics behind them, and samples to look at."""

from collections.abc import Sequence

from .errors import InputError
from .metrics import METRICS
from .problems import Classification, Forecasting, Seq2Seq, Tagging
from .problems.batches import Examples
from .problems.forecasting.scores import score_forecasts
from .problems.label_scores import score_labels
from .problems.models import TokenModel
from .problems.predictor import Predictor
from .problems.scores import (
    SCORING_ROWS,
    EvaluationConfig,
    Scores,
    sample_continuations,
    spread_rows,
    token_statistics,
    unknown_rate,
)
from .problems.seq2seq.scores import score_searches
from .problems.token_scores import score_tokens


def evaluate(
    predictor: Predictor,
    examples: Examples,
    texts: Sequence[str],
    references: Sequence[str],
    config: EvaluationConfig,
    tags: Sequence[Sequence[str]] = (),
) -> Scores:
    """Score a model on one split.

    Args:
        texts: the split's rows as text: what is read, ``[N]``.
        references: the target side as text, ``[N]``; empty without pairs.
        tags: of tagged texts the tags of each as they are written, ``[N]``, so that a tag without
            an id counts as it is; empty elsewhere.

    Raises:
        InputError: where the split holds nothing to score.
    """
    problem = predictor.config.problem
    if isinstance(problem, Forecasting):
        return score_forecasts(problem, predictor, examples)
    assert isinstance(predictor.model, TokenModel)
    scored = score_tokens(problem, predictor.model, examples, SCORING_ROWS, predictor.device)
    if not len(scored.nats):
        raise InputError(
            f"{problem.name} has nothing to score: no row of the split is long enough; add data"
        )
    if isinstance(problem, Classification | Tagging):
        return score_labels(predictor, examples, scored, texts, tags, config)
    statistics = token_statistics(scored, examples)
    metrics: dict[str, float] = {}
    signatures: dict[str, str] = {}
    rows = spread_rows(len(texts), config.num_samples)
    if isinstance(problem, Seq2Seq):
        samples = score_searches(
            predictor, examples, texts, references, config, rows, statistics, metrics, signatures
        )
    else:
        samples = sample_continuations(predictor, [texts[row] for row in rows])
    metrics |= {name: METRICS[name].score(each) for name, each in statistics.items()}
    words = examples.predicted.values[scored.positions[scored.positions >= 0]]
    metrics["unknown_rate"] = unknown_rate(words)
    return Scores(metrics, statistics, signatures, samples)
