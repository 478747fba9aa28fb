"""A version as a folder that runs without Tidemill: a graph, a vocabulary and a small client."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flows.prepare.vocabularies import word_rows
from pipeline.errors import InputError
from pipeline.onnx_export import check_exportable, has_preview, onnx_model
from pipeline.prediction import load_predictor
from pipeline.problems import NextWord as NextWordProblem
from pipeline.problems.predictor import Session
from pipeline.text.vocabulary import BOS, EOS, UNK
from warehouse.checkpoints import read_checkpoint
from warehouse.durable import sync_path
from warehouse.registry.registry import Registry
from warehouse.registry.versions import VersionInfo
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables

if TYPE_CHECKING:
    from flows.export.export_client import NextWord

MIN_OVERLAP = 0.98
"""Share of the float model's ten likeliest words that an export must offer, too."""

NUM_OFFERED = 10

NUM_WORDS = 1_000
"""Words of validation after which both are asked, at least, where there are so many."""

FORMAT = 1

FILES = ("client.py", "meta.json", "model.onnx", "vocabulary.json")


class ExportReport(BaseModel, frozen=True):
    """What was exported, and how often it agrees with the model in the registry.

    ``overlap`` is of ``num_words`` words of validation; None where those rows are gone. With a
    ``preview`` only the likely words have logits of all features.
    """

    folder: str
    version: int
    variant: str
    precision: str
    preview: bool
    overlap: float | None
    num_words: int
    num_bytes: int


def export(
    root: Path, registry: Registry, version: VersionInfo, folder: Path, precision: str
) -> ExportReport:
    """Write a version into ``folder``, which appears when it is whole and was compared.

    Raises:
        InputError: for a version that has no export, a folder that holds something else, a library
            that is not installed; and where the export suggests other words than the version, or
            with int8 nothing is left to compare them on.
    """
    folder = folder.resolve()
    _check_folder(folder)
    found = read_checkpoint(registry.checkpoint_directory(version))
    predictor = load_predictor(found.config, found.weights, found.vocabularies)
    check_exportable(predictor.config, precision)
    client = _client()
    uri = registry.dataset_uri(version, "valid")
    rows = _validation_rows(root, uri, predictor.config.problem.columns[0])
    if not rows and precision != "fp32":
        raise InputError(
            f"the validation rows of version {version.version} of {version.name} are not in "
            f"{root}, and without them nobody knows what {precision} costs: make them again with "
            f"tidemill retrain {version.name} --snapshot {version.tags.get('snapshot', '')[:12]}, "
            f"or export with --precision fp32"
        )
    problem, text = predictor.config.problem, found.config["text"]
    window = problem.window if isinstance(problem, NextWordProblem) else None
    meta: dict[str, Any] = {
        "tidemill_export": FORMAT,
        "name": version.name,
        "version": version.version,
        "variant": version.variant,
        "problem": problem.name,
        "checkpoint": version.tags.get("checkpoint", ""),
        "precision": precision,
        "window": window,
        "first_id": BOS if window else EOS,
        "unknown_id": UNK,
        "text": text,
    }
    session = predictor.session()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as outer:
            aside = Path(outer) / "export"
            aside.mkdir()
            (aside / "vocabulary.json").write_text(found.vocabularies["vocabulary"], "utf-8")
            shutil.copyfile(Path(client.__file__), aside / "client.py")
            _write_json(aside / "meta.json", meta)
            # The quickest graph that suggests what the version does.
            for preview in (True, False) if has_preview(found.weights, precision) else (False,):
                model = onnx_model(predictor.config, found.weights, precision, preview=preview)
                (aside / "model.onnx").write_bytes(model)
                typed = client.NextWord(aside)
                overlap, num_words = top_overlap(session, typed, rows, NUM_OFFERED)
                if overlap is None or overlap >= MIN_OVERLAP:
                    break
            else:
                remedy = "export it with --precision fp32" if precision != "fp32" else "report this"
                raise InputError(
                    f"of the {NUM_OFFERED} likeliest words of version {version.version} of "
                    f"{version.name}, the {precision} export has {overlap:.2%} after {num_words} "
                    f"words of validation, and {MIN_OVERLAP:.0%} are asked for: {remedy}"
                )
            compared = {
                "offered": NUM_OFFERED,
                "overlap": overlap,
                "min_overlap": MIN_OVERLAP,
                "num_words": num_words,
                "rows": uri,
                "snapshot": version.tags.get("snapshot", ""),
            }
            _write_json(aside / "meta.json", meta | {"preview": preview, "compared": compared})
            num_bytes = sum((aside / name).stat().st_size for name in FILES)
            _put_in_place(aside, folder, Path(outer) / "before")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): name another folder, or free some "
            f"space"
        ) from error
    return ExportReport(
        folder=str(folder),
        version=version.version,
        variant=version.variant,
        precision=precision,
        preview=preview,
        overlap=overlap,
        num_words=num_words,
        num_bytes=num_bytes,
    )


def top_overlap(
    session: Session, client: "NextWord", rows: Iterable[Sequence[str]], top: int
) -> tuple[float | None, int]:
    """Share of the ``top`` suggestions of ``session`` that ``client`` makes too, after each word of
    each row; and how many words those are. None where there are none, or nothing is suggested."""
    same = offered = num_words = 0
    for row in rows:
        session.reset()
        client.reset()
        for word in row:
            session.feed_words([word])
            client.feed(word)
            wanted = {one.text for one in session.suggest(top)}
            same += len(wanted & {text for text, _ in client.suggest(top)})
            offered += len(wanted)
            num_words += 1
    return (same / offered if offered else None), num_words


def _client() -> Any:
    """The module of the client.

    Raises:
        InputError: what it needs is not installed.
    """
    try:
        import flows.export.export_client as client
    except ImportError as error:
        raise InputError(
            f"an export needs the library {error.name}: pip install 'tidemill[export]'"
        ) from error
    return client


def _validation_rows(root: Path, uri: str, column: str) -> list[list[str]]:
    """Rows of words from all over a split, ``NUM_WORDS`` to twice as many where it has them."""
    path = root / uri
    if not uri or not path.is_file():
        return []
    # A table is read by its path alone.
    ref = TableRef(digest=path.stem, num_rows=0, num_bytes=0, path=uri)
    rows: list[list[str]] = []
    every = num_words = 1
    for index, row in enumerate(word_rows(Tables(root), ref, column)):
        if index % every == 0 and row:
            # What a row has beyond this adds nothing but time.
            rows.append(row[:NUM_WORDS])
            num_words += len(rows[-1])
        while num_words > 2 * NUM_WORDS and len(rows) > 1:
            rows, every = rows[::2], 2 * every
            num_words = sum(map(len, rows))
    return rows


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which something else than an export lies."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder")
    found = {path.name for path in folder.iterdir()} - {"__pycache__"}
    if not found:
        return
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        is_export = isinstance(meta, dict) and "tidemill_export" in meta
    except (OSError, ValueError):
        is_export = False
    if not is_export or found - set(FILES):
        other = ", ".join(sorted(found - set(FILES))[:3])
        raise InputError(
            f"{folder} holds {other or 'files that no export wrote'}: name another folder; only an "
            f"export is replaced"
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _put_in_place(aside: Path, folder: Path, before: Path) -> None:
    """Make the files in ``aside`` durable, and let them take the place of an older export."""
    for path in [*aside.iterdir(), aside]:
        sync_path(path)
    if folder.exists():
        os.rename(folder, before)
    try:
        os.rename(aside, folder)
    except OSError:
        if before.exists():
            os.rename(before, folder)
        raise
    sync_path(folder.parent)
