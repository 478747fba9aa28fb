"""What ``--json`` prints, command by command, and the command that prints the schemas.

A number that is undefined is null. Where nothing is stored under a name yet (exit code 3), a
command of ``LISTS`` prints ``[]`` and every other one ``null``. A refused command prints no JSON.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from flows.command.exit_codes import OK
from flows.command.options import words
from flows.command.terminal import loading
from pipeline.errors import InputError, choose_from

LISTS = frozenset(
    {"leaderboard", "quarantine", "predict", "search", "verify", "doctor", "type_as_you_go"}
)
"""Functions of the commands that print a list."""


@dataclass(frozen=True)
class LeaderboardRow:
    """One version of a model.

    ``metrics`` has every score by its name, such as ``test/perplexity``, null where it is
    undefined. ``reason`` says why the
    version was promoted; empty where it was not. ``snapshot`` is the beginning of the id of the
    data.
    """

    version: int
    variant: str
    champion: bool
    metrics: dict[str, float | None]
    reason: str
    unit: str
    snapshot: str


@dataclass(frozen=True)
class RejectedRow:
    """A rejected row: the file and the line it was read from, what is wrong, and its text."""

    address: str
    line: int
    detail: str
    raw: str


@dataclass(frozen=True)
class RejectionReason:
    """A reason for rejection, how many rows have it, and some of them."""

    reason: str
    num_rows: int
    samples: tuple[RejectedRow, ...]


@dataclass(frozen=True)
class ExportedQuarantine:
    """How many rejected rows ``quarantine --export`` wrote, and to which file."""

    num_rows: int
    file: str


@dataclass(frozen=True)
class Candidate:
    """One answer to a text, and its score."""

    text: str
    score: float


@dataclass(frozen=True)
class Answer:
    """The answers to one text, the best first."""

    text: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class AnsweredFile:
    """The version that answered a file, and how many texts the file has."""

    version: int
    num_texts: int


@dataclass(frozen=True)
class TypedLine:
    """One line of output of ``type``: the words so far, and what is likely to come next."""

    words: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def _retrain() -> Any:
    from flows.retrain import RetrainReport

    return RetrainReport


def _ingest() -> Any:
    from flows.ingest import IngestReport

    return IngestReport


def _profile() -> Any:
    from pipeline.profile import Profile

    @dataclass(frozen=True, kw_only=True)
    class ProfileOutput(Profile):
        """A profile, the id of its snapshot, and the file of its page."""

        snapshot: str
        page: str

    return ProfileOutput


def _quarantine() -> Any:
    from flows.quarantine import RetryReport

    return list[RejectionReason] | RetryReport | ExportedQuarantine


def _forget() -> Any:
    from flows.upkeep.forget import ForgetReport

    return ForgetReport


def _verify() -> Any:
    from warehouse.tables.handles import Fault

    return list[Fault]


def _gc() -> Any:
    from flows.upkeep.garbage import GarbageReport

    return GarbageReport


def _compact() -> Any:
    from flows.upkeep.compact import CompactReport

    return CompactReport


def _search() -> Any:
    from pipeline.search_comparison import SearchResult

    return list[SearchResult]


def _export() -> Any:
    from flows.export.export import ExportReport

    return ExportReport


def _doctor() -> Any:
    from flows.command.doctor import Check

    return list[Check]


OUTPUTS: dict[str, Callable[[], Any]] = {
    "retrain": _retrain,
    "ingest": _ingest,
    "profile": _profile,
    "quarantine": _quarantine,
    "forget": _forget,
    "predict": lambda: list[Answer] | AnsweredFile,
    "search": _search,
    "type": lambda: TypedLine,
    "export": _export,
    "leaderboard": lambda: list[LeaderboardRow],
    "verify": _verify,
    "gc": _gc,
    "compact": _compact,
    "doctor": _doctor,
}
"""Command -> the type of what its ``--json`` prints, imported when it is asked for."""


def schema(
    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND",
            help="Name of a command that has --json.",
            autocompletion=words(*OUTPUTS),
            show_default=False,
        ),
    ],
) -> int:
    """Print the JSON Schema of what a command prints with --json.

    'type' prints one such value a line. With exit code 3, nothing is stored under the name yet:
    the output is then an empty list or null.
    """
    if command not in OUTPUTS:
        raise InputError(f"{command!r} has no --json: {choose_from(command, OUTPUTS)}")
    with loading("the schema"):
        found = json_schema(command)
    print(json.dumps(found, ensure_ascii=False, indent=2))  # noqa: T201
    return OK


def json_schema(command: str) -> dict[str, Any]:
    """The JSON Schema of what a command prints with ``--json``."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core import core_schema

    class NullForUndefined(GenerateJsonSchema):
        """JSON has no NaN: where a number is undefined, null stands for it."""

        def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
            return {"anyOf": [super().float_schema(schema), {"type": "null"}]}

    adapter: TypeAdapter[Any] = TypeAdapter(OUTPUTS[command]())
    return adapter.json_schema(schema_generator=NullForUndefined, mode="serialization")
