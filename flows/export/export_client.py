"""Next words from an exported model. This file stands alone: it needs onnxruntime and numpy.

    from client import NextWord

    typed = NextWord("folder of the export")
    typed.feed("我们")
    typed.suggest(5)            # [("明天", 0.18), ...], the likeliest first
    typed.undo()                # the last word is taken back
    typed.reset()               # a new text

A word is what the model learnt as one: cut text as meta.json says under "text", or give words. As a
program, this file reads a text a line, words apart by blanks, and prints the next words:

    echo 我们 今天 | python client.py --top 5

Where a model of Chinese words finds jieba installed, lines need no blanks.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

KEPT_STATES = 256
"""Words that can be taken back at no cost; beyond them the text is read again."""


class NextWord:
    """A text that is typed, and the words that are likely to come next.

    Attributes:
        meta: what meta.json says of the model.
        words: the words that can be suggested, the most frequent of training first.
    """

    def __init__(self, folder: str | Path | None = None, num_threads: int = 1) -> None:
        """The model in ``folder``; in the folder of this file where it is absent."""
        folder = Path(folder) if folder is not None else Path(__file__).parent
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self.words: list[str] = vocabulary["words"]
        self._num_specials = len(vocabulary["specials"])
        self._ids = {word: i for i, word in enumerate(self.words, self._num_specials)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._model = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        # A window model reads its last words anew; any other carries a state from word to word.
        self._window: int = self.meta["window"] or 0
        self._states = {one.name: one.shape for one in self._model.get_inputs()[1:]}
        self._text: list[int] = []
        # Each word and the state before it, and what follows from the last ones once it is asked.
        self._places: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT_STATES + 1)
        self._ahead: tuple[Any, dict[str, Any]] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new text."""
        self._ahead = None
        self._text.clear()
        self._places.clear()
        zeros = {name: np.zeros(shape, np.float32) for name, shape in self._states.items()}
        self._places.append((self.meta["first_id"], zeros))

    def feed(self, *words: str) -> None:
        """Put words behind the text; one that the model does not know counts as unknown."""
        for word in words:
            self._feed(self._ids.get(word, self.meta["unknown_id"]))

    def undo(self) -> None:
        """Take the last word back; nothing happens where there is none."""
        if not self._text:
            return
        self._ahead = None
        self._text.pop()
        if len(self._places) > 1:
            self._places.pop()
        elif not self._window:
            again = list(self._text)
            self.reset()
            for word in again:
                self._feed(word)

    def suggest(self, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest next words and their probabilities, the likeliest first."""
        logits = self._run()[0]
        words = logits[self._num_specials :]
        first = max(len(words) - top, 0)
        best = np.argpartition(words, first)[first:] if first else np.arange(len(words))
        largest = logits.max()
        total = np.exp(logits - largest).sum()
        best = best[np.argsort(-words[best], kind="stable")]
        shares = np.exp(words[best] - largest) / total
        return [(self.words[i], share) for i, share in zip(best, shares.tolist(), strict=True)]

    def _feed(self, word: int) -> None:
        if not self._window:
            self._places.append((word, self._run()[1]))
        self._text.append(word)
        self._ahead = None

    def _run(self) -> tuple[Any, dict[str, Any]]:
        """The logits of the next word, and the state behind the last one."""
        if self._ahead is None:
            first, states = self._places[-1]
            if self._window:
                last = self._text[-self._window :]
                ids = [first] * (self._window - len(last)) + last
                inputs: dict[str, Any] = {"words": np.array(ids)}
            else:
                inputs = {"word": np.array([first]), **states}
            logits, *following = self._model.run(None, inputs)
            self._ahead = logits[0], dict(zip(states, following, strict=True))
        return self._ahead


def splitter(meta: dict[str, Any]) -> Callable[[str], list[str]]:
    """What cuts a line into words: into characters where the model learnt those; by jieba where it
    learnt Chinese words and jieba is installed; else at blanks."""
    text = meta["text"]
    if text["unit"] == "char":
        return list
    if (text["language"], text["unit"]) == ("zh", "word") and not text["user_words"]:
        try:
            import jieba
        except ImportError:
            return str.split
        jieba.setLogLevel("ERROR")
        return lambda line: [
            word for part in line.split() for word in jieba.lcut(part, HMM=text["hmm"])
        ]
    return str.split


def main() -> None:
    """Read a text a line, and print the next words of each."""
    parser = argparse.ArgumentParser(description="next words from an exported model")
    parser.add_argument("--top", type=int, default=5, help="words to suggest (default: 5)")
    top: int = parser.parse_args().top
    typed = NextWord()
    cut = splitter(typed.meta)
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for line in sys.stdin:
        typed.reset()
        typed.feed(*cut(line.rstrip("\r\n")))
        found = "  ".join(f"{word} {share:.3f}" for word, share in typed.suggest(top))
        # What a model learnt from data is never sent to a terminal as a command.
        sys.stdout.write("".join(c if c.isprintable() else ascii(c)[1:-1] for c in found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.stderr.close()
