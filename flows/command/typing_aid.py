"""Next words as somebody types, line by line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.prediction import load_predictor
from pipeline.problems.predictor import Candidate, Session
from warehouse.checkpoints import read_checkpoint
from warehouse.registry.registry import Registry
from warehouse.registry.versions import VersionInfo

UNDO = "/undo"
"""A line that takes the last word back."""


@dataclass(frozen=True)
class Suggestion:
    """The text so far as it was cut, and what is likely to come next."""

    words: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "words": list(self.words),
            "candidates": [{"text": each.text, "score": each.score} for each in self.candidates],
        }


def open_session(registry: Registry, version: VersionInfo) -> Session:
    """A new text for a version.

    Raises InputError where it predicts no next word.
    """
    found = read_checkpoint(registry.checkpoint_directory(version))
    return load_predictor(found.config, found.weights, found.vocabularies).session()


def suggestions(session: Session, lines: Iterable[bytes], top: int) -> Iterator[Suggestion]:
    """What is likely after each line, which goes behind those before it.

    An empty line begins a new text, and ``UNDO`` takes the last word back. Raises InputError for a
    line that is not UTF-8.
    """
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of the input is not UTF-8: convert it") from error
        if text == UNDO:
            session.undo(min(1, len(session.words)))
        elif text:
            session.feed(text)
        else:
            session.reset()
        yield Suggestion(tuple(session.words), tuple(session.suggest(top)))
