"""The chapters' character model, which learns the beginning of a novel by heart and recites it.

    python examples/time_machine.py timemachine.txt [--variant gru] [--epochs 150]

As in the chapters, training text and the text that perplexity is measured on are the same: a
retraining never does that, and would keep the epoch that suits unseen text best instead.
"""

import argparse
import re
from pathlib import Path

from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.prediction import PREDICTORS
from pipeline.problems import LanguageModel
from pipeline.problems.batches import Examples
from pipeline.problems.predictor import ModelConfig
from pipeline.problems.ragged import Ragged
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit

NUM_CHARACTERS = 10_000
PROMPTS = ("the time traveller", "traveller", "his grey eyes")


def main() -> None:
    """Train, then go on from a few words, by beam search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("novel", type=Path)
    parser.add_argument("--variant", default="gru")
    parser.add_argument("--epochs", type=int, default=150)
    given = parser.parse_args()
    letters = re.sub("[^a-z]+", " ", given.novel.read_text(encoding="utf-8").lower())
    text = letters.strip()[:NUM_CHARACTERS]
    words = Vocabulary(sorted(set(text)))
    examples = Examples(Ragged.of([words.encode(list(text))]))
    config = ModelConfig(
        LanguageModel(bptt=35, scoring_streams=1),
        Variant.parse(given.variant),
        NetworkConfig(embedding_size=32, hidden_size=256, dropout=0.0),
        TextConfig(language="en", unit="char"),
    )
    training = TrainingConfig(
        num_epochs=given.epochs,
        batch_size=32,
        learning_rate=0.005,
        schedule="cosine",
        patience=None,
    )
    device = resolve_device("cpu")
    fitted = fit(
        config.problem,
        config.variant,
        config.network,
        training,
        examples,
        examples,
        [len(words)],
        device=device,
    )
    last = fitted.history[-1]
    print(
        f"{given.variant}: perplexity {last['metrics']['train/perplexity']:.3f} in training, epoch "
        f"{last['epoch']}; {last['metrics']['valid/perplexity']:.3f} of the same text read through"
    )
    model = config.problem.build(config.variant, config.network, [len(words)])
    model.load_state_dict(fitted.weights)
    reader = PREDICTORS["language_model"](config, model, [words], device)
    for prompt in PROMPTS:
        ((best,),) = reader.predict([prompt], temperature=0.0, beam=2, max_tokens=70)
        print(f"{prompt}|{best.text}")


if __name__ == "__main__":
    main()
