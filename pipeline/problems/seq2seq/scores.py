"""BLEU and chrF of the outputs that search finds."""

from collections.abc import Sequence

import numpy as np

from ...metrics import Statistics, bleu_statistics, chrf, textbook_bleu
from ..batches import Examples
from ..predictor import BATCH_ROWS, Predictor
from ..ragged import Ragged
from ..scores import EvaluationConfig


def score_searches(
    predictor: Predictor,
    examples: Examples,
    texts: Sequence[str],
    references: Sequence[str],
    config: EvaluationConfig,
    rows: Sequence[int],
    statistics: dict[str, Statistics],
    metrics: dict[str, float],
    signatures: dict[str, str],
) -> list[dict[str, str]]:
    """BLEU and chrF of what is found by search, added to what is given; samples of some rows."""
    target = predictor.texts[-1]
    greedy = _outputs(predictor, examples, 1, config)
    searched = greedy if config.beam == 1 else _outputs(predictor, examples, config.beam, config)
    statistics["bleu"], signatures["bleu"] = bleu_statistics(
        searched, references, target.language, lowercase=target.lowercase
    )
    statistics["bleu_greedy"], _ = bleu_statistics(
        greedy, references, target.language, lowercase=target.lowercase
    )
    metrics["chrf"], signatures["chrf"] = chrf(searched, references)
    return [
        {
            "source": texts[row],
            "output": searched[row],
            "greedy": greedy[row],
            "reference": references[row],
            "textbook BLEU": f"{_textbook_bleu(predictor, searched[row], references[row]):.3f}",
        }
        for row in rows
    ]


def _textbook_bleu(predictor: Predictor, output: str, reference: str) -> float:
    """The chapters' BLEU of one sentence, over the model's own target tokens."""
    tokenizer = predictor.tokenizers[-1]
    return textbook_bleu(tokenizer.tokenize(output), tokenizer.tokenize(reference))


def _outputs(
    predictor: Predictor, examples: Examples, beam: int, config: EvaluationConfig
) -> list[str]:
    """The best output for every source of the split, searched in batches of like length."""
    outputs = [""] * len(examples.inputs)
    order = np.argsort(examples.inputs.lengths, kind="stable")
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        ids = Ragged.of([examples.inputs[row] for row in rows])
        answers = predictor.answer(ids, top=1, beam=beam, max_tokens=config.max_tokens)
        for row, answer in zip(rows.tolist(), answers, strict=True):
            outputs[row] = answer[0].text
    return outputs
