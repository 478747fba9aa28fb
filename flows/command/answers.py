"""Texts through a registered model: a few at once, or a whole file in batches."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.prediction import load_predictor
from pipeline.search_comparison import SearchResult, compare_searches
from warehouse.checkpoints import read_checkpoint
from warehouse.durable import open_aside
from warehouse.registry.loaded_model import LoadedModel
from warehouse.registry.registry import Registry
from warehouse.registry.versions import VersionInfo

BATCH_SIZE = 256
"""Texts that a model sees at once."""


def predict_texts(
    model: LoadedModel, texts: Sequence[str], parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """``{"text", "candidates": [{"text", "score"}]}`` for each text, the best candidate first.

    ``parameters`` are those that the model's problem knows, such as ``top``.
    """
    answers = model.predict(texts, parameters)
    return [
        {
            "text": text,
            "candidates": [
                {"text": str(each["text"]), "score": float(each["score"])} for each in candidates
            ],
        }
        for text, candidates in zip(texts, answers["candidates"], strict=True)
    ]


def search_texts(
    registry: Registry, version: VersionInfo, text: str, max_tokens: int
) -> list[SearchResult]:
    """One text answered by every way of searching."""
    found = read_checkpoint(registry.checkpoint_directory(version))
    predictor = load_predictor(found.config, found.weights, found.vocabularies)
    return compare_searches(predictor, text, max_tokens=max_tokens)


def check_files(source: Path, target: Path) -> None:
    """Refuse, before a model is loaded, what could not be read or would destroy something.

    Raises InputError where ``source`` is no file, or ``target`` cannot become one.
    """
    if not source.exists() or source.is_dir():
        raise InputError(f"there is no file {source} to read: correct --input")
    if not target.absolute().parent.is_dir():
        raise InputError(f"the folder of {target} does not exist: make it, or correct --output")
    if target.exists():
        if not target.is_file():
            raise InputError(f"{target} is not a file: name one with --output")
        if target.samefile(source):
            raise InputError(f"{target} is --input as well: give --output another name")


def predict_file(
    model: LoadedModel, source: Path, target: Path, parameters: Mapping[str, Any]
) -> int:
    """Answer every text of ``source`` in ``target``, a JSON line each; returns how many.

    ``source`` has a text a line; or, named ``.jsonl``, an object with the key ``text`` a line.
    ``target`` appears when it is whole. Raises InputError naming the line that cannot be read,
    or the file that cannot be written.
    """
    try:
        # What gets replaced is the file that a link leads to, never the link.
        return _predict_file(model, source, target.resolve(), parameters)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}): correct --output, or free some space"
        ) from error


def _predict_file(
    model: LoadedModel, source: Path, target: Path, parameters: Mapping[str, Any]
) -> int:
    descriptor, aside = open_aside(target.parent, f".{target.name}.")
    try:
        num_texts = 0
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            texts = _texts(source)
            while batch := list(islice(texts, BATCH_SIZE)):
                answers = predict_texts(model, batch, parameters)
                file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in answers)
                num_texts += len(batch)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return num_texts


def _texts(source: Path) -> Iterator[str]:
    try:
        with source.open("rb") as file:
            read = _texts_of_json if source.suffix == ".jsonl" else _texts_of_lines
            yield from read(source, file)
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


def _texts_of_lines(source: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{source}, line {number} is not UTF-8: convert the file") from error


def _texts_of_json(source: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(_texts_of_lines(source, lines), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{source}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InputError(f"{source}, line {number} is no object with a text under 'text'")
        yield row["text"]
