"""The commands that use and manage registered models."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.catalogue import nothing_under
from flows.command.exit_codes import OK
from flows.command.options import AsJson, Model, Version, Warehouse, words
from flows.command.outputs import AnsweredFile, LeaderboardRow
from flows.command.terminal import (
    finite,
    loading,
    print_json,
    print_table,
    printable_json,
    say,
    short_number,
)
from flows.environment import tracking_uri, warehouse_root
from flows.settings import setting
from pipeline.errors import InputError, NothingYetError, choose_from, nearest

if TYPE_CHECKING:
    from warehouse.registry.registry import Registry
    from warehouse.registry.versions import VersionInfo


def leaderboard(name: Model, warehouse: Warehouse = "", as_json: AsJson = False) -> int:
    """Show all versions of a model and their scores."""
    registry = open_registry(warehouse)
    versions = _versions(registry, name)
    if as_json:
        print_json([asdict(_leaderboard_row(each)) for each in versions])
    else:
        print_leaderboard(registry, name)
    return OK


def predict(
    name: Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="Texts to continue, translate, label or forecast.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Read the texts from FILE: one a line, or JSON lines with the key 'text' where "
            "its name ends in .jsonl.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write the answers to --input to FILE, as JSON lines.",
            show_default=False,
        ),
    ] = None,
    version: Version = "",
    variant: Annotated[
        str,
        typer.Option(
            metavar="VARIANT",
            help="Use the newest version of this variant, for example lstm-2.",
            show_default=False,
        ),
    ] = "",
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of answers to each text. Default: the model's own.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a parameter of the model, for example beam=5, temperature=0.5 or horizon=24. "
            "Repeat the option for several parameters.",
            show_default=False,
        ),
    ] = None,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Answer texts with the champion, or with another version."""
    if bool(texts) == bool(source):
        raise InputError("give texts to predict from, or a file of them with --input")
    if bool(source) != bool(target):
        raise InputError("--input and --output belong together: give both")
    if version and variant:
        raise InputError("--version and --variant exclude each other: give one of them")
    parameters = dict(map(setting, settings or ()))
    if top is not None:
        parameters["top"] = top
    if source and target:
        with loading("PyTorch"):
            from flows.command.answers import check_files
        check_files(source, target)
    registry = open_registry(warehouse)
    chosen = _find(registry, name, version, variant)
    with loading(f"version {chosen.version} of {name}"):
        from flows.command.answers import predict_file, predict_texts

        model = registry.load(name, version=chosen.version)
    _check_parameters(parameters, texts or (), list(model.parameters))
    if source and target:
        num_texts = predict_file(model, source, target, parameters)
        if as_json:
            print_json(asdict(AnsweredFile(model.info.version, num_texts)))
        else:
            say(f"Wrote the answers to {num_texts} texts to {target}")
        return OK
    answers = predict_texts(model, texts or (), parameters)
    if as_json:
        print_json(answers)
    else:
        rows = [
            (answer["text"] if not rank else "", each["text"], f"{each['score']:.4f}")
            for answer in answers
            for rank, each in enumerate(answer["candidates"])
        ]
        print_table(("text", "candidate", "score"), rows, right=("score",))
    return OK


def _check_parameters(given: dict[str, Any], texts: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError for an unknown parameter, and for one that was read as a text."""
    for key in given:
        if key not in known:
            raise InputError(f"the model has no parameter {key!r}: {choose_from(key, known)}")
    for text in texts if given else ():
        key, separator, _ = text.partition("=")
        if separator and key in known:
            raise InputError(f"{text} is read as a text: write --set {text} to set the parameter")


def type_as_you_go(
    name: Model,
    version: Version = "",
    top: Annotated[int, typer.Option(metavar="N", help="Number of words to suggest.")] = 5,
    warehouse: Warehouse = "",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object a line on stdout.", show_default=False),
    ] = False,
) -> int:
    """Suggest the likeliest next words as you type.

    Every line of stdin continues the text. An empty line begins a new text, /undo removes the last
    word, Ctrl-D ends.
    """
    registry = open_registry(warehouse)
    chosen = _find(registry, name, version)
    with loading(f"version {chosen.version} of {name}"):
        from flows.command.typing_aid import open_session, suggestions

        session = open_session(registry, chosen)
        session.suggest(top)  # nobody who types waits for what the first answer loads
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
        for each in suggestions(session, sys.stdin.buffer, top):
            if as_json:
                line = json.dumps(finite(each.to_dict()), ensure_ascii=False, allow_nan=False)
                print(printable_json(line), flush=True)  # noqa: T201
            else:
                say("  ".join(f"{one.text} {one.score:.3f}" for one in each.candidates))
                sys.stdout.flush()
            print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
    except KeyboardInterrupt:
        pass  # that is how one stops typing
    if prompt:
        print(file=sys.stderr)  # noqa: T201
    return OK


def export(
    name: Model,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder to write. An older export there is replaced.",
            show_default=False,
        ),
    ],
    version: Version = "",
    precision: Annotated[
        str,
        typer.Option(
            metavar="int8|fp32",
            autocompletion=words("int8", "fp32"),
            help="int8 is small and fast, and is compared with the model first. fp32 is exact.",
        ),
    ] = "int8",
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Export a next-word model to a folder that needs only onnxruntime and numpy.

    The folder holds an ONNX graph of one step, the vocabulary and a small client.
    """
    registry = open_registry(warehouse)
    chosen = _find(registry, name, version)
    with loading("PyTorch"):
        from flows.export.export import export
    report = export(warehouse_root(warehouse), registry, chosen, folder, precision)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return OK
    say(
        f"version {report.version} ({report.variant}) of {name} is in {report.folder}: "
        f"{report.precision}, {report.num_bytes:,} bytes"
    )
    if report.overlap is None:
        say("Its validation rows are not stored any more: nothing was compared.")
    else:
        say(
            f"Agreement with the model on its ten likeliest words: {report.overlap:.2%}, over "
            f"{report.num_words:,} words of validation"
        )
    return OK


def search(
    name: Model,
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="Text to continue, translate or answer.", show_default=False
        ),
    ],
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Maximum length of an answer in tokens.")
    ] = 6,
    version: Version = "",
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Compare greedy, beam and exhaustive search on one text."""
    registry = open_registry(warehouse)
    chosen = _find(registry, name, version)
    with loading(f"version {chosen.version} of {name}"):
        from flows.command.answers import search_texts
    results = search_texts(registry, chosen, text, max_tokens)
    if as_json:
        print_json([asdict(each) for each in results])
        return OK
    rows = [
        (
            each.search,
            each.text if each.finished else "(gave up)",
            f"{each.log_probability:.3f}" if each.finished else "",
            f"{each.score:.3f}" if each.finished else "",
            f"{each.num_hypotheses:,}",
        )
        for each in results
    ]
    titles = ("search", "answer", "log P", "score", "prefixes")
    print_table(titles, rows, right=titles[2:])
    return OK


def rollback(name: Model, warehouse: Warehouse = "") -> int:
    """Make the previous champion the champion again.

    A second rollback reverses the first.
    """
    registry = open_registry(warehouse)
    _versions(registry, name)
    champion = registry.rollback(name)
    say(f"version {champion.version} ({champion.variant}) is the champion of {name} again")
    return OK


def promote(
    name: Model,
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="Number of the version, as the leaderboard shows it.",
            show_default=False,
        ),
    ],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Reason that the leaderboard shows.")
    ] = "promoted by hand",
    warehouse: Warehouse = "",
) -> int:
    """Make a version the champion, whatever its scores."""
    registry = open_registry(warehouse)
    chosen = _find(registry, name, version)
    registry.promote(name, chosen.version, reason)
    say(f"version {chosen.version} is the champion of {name}")
    return OK


def open_registry(warehouse: str) -> "Registry":
    """The registry to read from; NothingYetError where nothing was ever published to it."""
    root, server = warehouse_root(warehouse), tracking_uri()
    if server is None and not (root / "mlflow").is_dir():
        raise NothingYetError(
            f"{root} holds no models yet: run tidemill retrain demo, or name another warehouse"
        )
    with loading("MLflow"):
        from warehouse.registry.registry import Registry

        return Registry(root, server)


def _versions(registry: "Registry", name: str) -> "list[VersionInfo]":
    """The versions of a model; InputError or NothingYetError where there are none."""
    versions = registry.versions(name)
    if not versions:
        raise nothing_under(name, registry.names(), "registered model", "retrain")
    return versions


def _find(registry: "Registry", name: str, version: str = "", variant: str = "") -> "VersionInfo":
    """A version by its number, the newest of a variant, or else the champion.

    Raises:
        InputError: There is no such version; the message lists those there are.
        NothingYetError: The model has no versions yet, or no champion.
    """
    if not version and not variant:
        champion = registry.champion(name)
        if champion is None:
            _versions(registry, name)
            raise NothingYetError(f"{name} has no champion yet: run tidemill promote {name} NUMBER")
        return champion
    versions = _versions(registry, name)
    wanted = version or variant
    known = {str(each.version) if version else each.variant: each for each in versions}
    if wanted in known:
        return known[wanted]
    if variant:
        raise InputError(
            f"{name} has no variant {variant!r}: {choose_from(variant, sorted(known))}"
        )
    # A word that is no number: the champion or the newest version of a variant was meant.
    numbers = {each.variant: str(each.version) for each in versions}
    for each in versions:
        if each.champion:
            numbers["champion"] = str(each.version)
    word = nearest(version, numbers)
    near = numbers[word] if word else nearest(version, known)
    shown = ", ".join(
        f"{each.version} ({each.variant}{', champion' if each.champion else ''})"
        for each in sorted(versions, key=lambda each: each.version)
    )
    hint = f"did you mean {near}? " if near else ""
    raise InputError(f"{name} has no version {version!r}: {hint}Its versions are {shown}")


def _leaderboard_row(version: "VersionInfo") -> LeaderboardRow:
    return LeaderboardRow(
        version=version.version,
        variant=version.variant,
        champion=version.champion,
        metrics=version.scores,
        reason=version.tags.get("promotion_reason", ""),
        unit=version.params.get("text.unit", ""),
        snapshot=version.tags.get("snapshot", "")[:12],
    )


def print_leaderboard(registry: "Registry", name: str, why: str = "") -> None:
    """The versions of a model as a table, which is champion and why, and where to see more.

    ``why`` is today's reason; where it is absent, the one that was written down at the promotion,
    and what the last retraining came to, which may have left the champion where it was.
    """
    versions = registry.versions(name)
    found = {each.version: each.scores for each in versions}
    scores = sorted({key for each in found.values() for key in each if key.startswith("test/")})
    shown = [*scores, "size/parameters", "speed/training_seconds"]
    titles = [*(key.removeprefix("test/") for key in scores), "parameters", "seconds"]
    origins = {
        (
            each.tags.get("snapshot", ""),
            each.tags.get("vocabulary", ""),
            each.params.get("text.unit", ""),
        )
        for each in versions
    }
    print_table(
        ("version", "variant", "", *titles, "data"),
        [
            (
                str(each.version),
                each.variant,
                "champion" if each.champion else "",
                *(
                    "undefined"
                    if key in found[each.version] and found[each.version][key] is None
                    else short_number(found[each.version].get(key))
                    for key in shown
                ),
                each.tags.get("snapshot", "")[:8],
            )
            for each in versions
        ],
        right=("version", *titles),
    )
    if scores:
        say("scores: on the test split; the champion is chosen on the validation split")
    for each in versions:
        if each.champion:
            say(f"champion: {why or each.tags.get('promotion_reason', 'no reason is known')}")
    if not why and (last := registry.decision(name)):
        say(f"last retraining, {last}")
    if len(origins) > 1 and "test/perplexity" in scores:
        say(
            "These versions differ in data, in the unit of text or in vocabulary: their "
            "perplexities do not compare; bits per character do where the data is the same."
        )
    say(f"pages: tidemill ui, then {registry.page(name)}")
    say(f"side by side: {registry.leaderboard_page(name)}")
