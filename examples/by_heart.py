"""Two toys of the chapters, learnt by heart by every cell: the last word, and four translations.

    python examples/by_heart.py

A network that cannot learn three sentences by heart has a fault; one that can has proved no more
than that. So the sentences that train are also those that are asked for.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from pipeline.metrics import textbook_bleu
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.prediction import PREDICTORS
from pipeline.problems import NextWord, Problem, Seq2Seq
from pipeline.problems.batches import Examples
from pipeline.problems.predictor import ModelConfig, Predictor
from pipeline.problems.ragged import Ragged
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit

AS_GIVEN = TextConfig(language="en", unit="whitespace")
LAST_WORDS = ["我 喜欢 狗", "我 爱 咖啡", "我 讨厌 牛奶"]
"""Sentences whose last word follows from the two before it."""
TRANSLATIONS = {
    "go .": "va !",
    "i lost .": "j'ai perdu .",
    "he's calm .": "il est calme .",
    "i'm home .": "je suis chez moi .",
}
"""The four pairs on which the textbook tries its translator."""
CELLS = [
    *("rnn_tanh", "rnn_tanh-textbook", "rnn_relu", "gru", "gru-textbook", "gru_cho-textbook"),
    *("lstm", "lstm-textbook", "lstm-2"),
]

VARIANT = Column("variant", no_wrap=True)


def learnt(problem: Problem, variant: str, *sides: Sequence[str], num_epochs: int) -> Predictor:
    """A model that was trained on these texts, or pairs of texts, and on nothing else."""
    tokenizer = Tokenizer(AS_GIVEN)
    rows = [[tokenizer.tokenize(text) for text in side] for side in sides]
    words = [Vocabulary(sorted({word for row in side for word in row})) for side in rows]
    ids = [
        Ragged.of([known.encode(row) for row in side])
        for known, side in zip(words, rows, strict=True)
    ]
    examples = Examples(*ids)
    config = ModelConfig(
        problem,
        Variant.parse(variant),
        NetworkConfig(embedding_size=16, hidden_size=32, dropout=0.0),
        AS_GIVEN,
        AS_GIVEN if len(sides) == 2 else None,
    )
    sizes = [len(known) for known in words]
    training = TrainingConfig(
        num_epochs=num_epochs, batch_size=4, learning_rate=0.01, patience=None
    )
    device = resolve_device("cpu")
    fitted = fit(
        problem, config.variant, config.network, training, examples, examples, sizes, device=device
    )
    model = problem.build(config.variant, config.network, sizes)
    model.load_state_dict(fitted.weights)
    return PREDICTORS[problem.name](config, model, words, device)


def last_words() -> Table:
    """What each cell says comes last."""
    table = Table(VARIANT, *(text.rpartition(" ")[0] + " …" for text in LAST_WORDS), "right")
    for variant in CELLS:
        model = learnt(NextWord(window=2), variant, LAST_WORDS, num_epochs=80)
        begun, ends = zip(*(text.rsplit(" ", 1) for text in LAST_WORDS), strict=True)
        said = [best.text for (best,) in model.predict(begun, top=1)]
        right = sum(one == other for one, other in zip(said, ends, strict=True))
        table.add_row(variant, *said, f"{right} of {len(ends)}")
    return table


def translations() -> Table:
    """How each cell translates, and the chapters' BLEU of it."""
    table = Table(VARIANT, *TRANSLATIONS, "mean BLEU")
    for variant in [*CELLS, "bigru-attention", "bilstm-attention"]:
        model = learnt(
            Seq2Seq(), variant, [*TRANSLATIONS], [*TRANSLATIONS.values()], num_epochs=120
        )
        said = [best.text for (best,) in model.predict([*TRANSLATIONS])]
        scores = [
            textbook_bleu(text.split(), reference.split())
            for text, reference in zip(said, TRANSLATIONS.values(), strict=True)
        ]
        table.add_row(variant, *said, f"{sum(scores) / len(scores):.3f}")
    return table


if __name__ == "__main__":
    console = Console()
    console.print(last_words())
    console.print(translations())
