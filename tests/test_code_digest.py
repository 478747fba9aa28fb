"""The table of edits and keys, the rules of scope, and the golden keys."""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from prefect import Task

from flows.steps.code_digest import (
    FIRST_PARTY,
    Code,
    Definition,
    Source,
    definition_of,
    first_party_code,
)
from flows.steps.keys import ALWAYS_EXCLUDED, ContentPolicy
from pipeline.problems import PROBLEMS, Problem

GOLDEN = Path(__file__).parent / "golden_keys.json"
UPDATE = "python -m pytest tests/test_code_digest.py --update-golden-keys"


# --- the tasks ------------------------------------------------------------------------------------


@cache
def tasks() -> dict[str, tuple[Definition, frozenset[Definition]]]:
    """Every cached task by name, and the classes of its inputs; one a problem that it may get."""
    found = {}
    code = first_party_code()
    for module in sorted(code.sources):
        if "@cached_task(" not in code.sources[module].text:
            continue
        for value in vars(importlib.import_module(module)).values():
            if not isinstance(value, Task) or value.fn.__module__ != module:
                continue
            policy = value.cache_policy
            assert isinstance(policy, ContentPolicy)
            hints = get_type_hints(value.fn)
            ignored = ALWAYS_EXCLUDED | policy.exclude | {"return"}
            classes = {each for name in hints.keys() - ignored for each in classes_in(hints[name])}
            if Problem not in classes:
                found[value.name] = roots(value, classes)
                continue
            for name, problem in PROBLEMS.items():
                found[f"{value.name} {name}"] = roots(value, classes - {Problem} | {problem})
    return found


def roots(task: Task[..., Any], classes: set[type]) -> tuple[Definition, frozenset[Definition]]:
    return definition_of(task.fn), frozenset(map(definition_of, classes))


def classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and hint.__module__.partition(".")[0] in FIRST_PARTY:
        yield hint
    for part in get_args(hint):
        yield from classes_in(part)


def digests(sources: Mapping[str, Source]) -> dict[str, str]:
    code = Code(sources)
    return {name: code.reached(*roots).digest for name, roots in tasks().items()}


@cache
def unedited() -> dict[str, str]:
    return digests(first_party_code().sources)


# --- the table of edits and keys ------------------------------------------------------------------


def edited(old: str, new: str) -> dict[str, Source]:
    """The sources with one edit, in the one module that holds ``old``."""
    sources = dict(first_party_code().sources)
    (module,) = [name for name, source in sources.items() if old in source.text]
    text = sources[module].text
    assert text.count(old) == 1
    sources[module] = replace(sources[module], text=text.replace(old, new))
    return sources


def tasks_changed(sources: Mapping[str, Source]) -> set[str]:
    """The tasks, without the names of their problems, whose code is another than it was."""
    return {
        name.split()[0] for name, digest in digests(sources).items() if digest != unedited()[name]
    }


# The code of a class counts as a whole. What follows these tasks in a run takes their results as
# inputs, so it has another key too, where the results differ: that is "tokenize and on".
MAKE_TOKENIZERS = {"tokenize", "cut_into_subwords", "encode", "count_shard", "score"}
TRAIN = {"train", "find_batch_size", "count_usable"}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        # What cannot change a result.
        pytest.param(
            "Score a checkpoint on one split of token rows", "Scores", set(), id="docstring"
        ),
        pytest.param(
            "def read_block(", "# A block is some lines.\ndef read_block(", set(), id="comment"
        ),
        pytest.param("there is no language {self", "unknown: {self", set(), id="raise"),
        pytest.param("the word vectors {address} cannot be read", "bad", set(), id="raise from"),
        pytest.param("the kept state was made elsewhere", "beware", set(), id="warning"),
        pytest.param("%d of %d words have a given", "%d/%d words have a", set(), id="log line"),
        pytest.param(
            "    examples, written = _read_split(",
            "    logger.info('%s', root)\n    examples, written = _read_split(",
            set(),
            id="new log line",
        ),
        pytest.param(
            "first_line: int, config: RecordsConfig) -> Block:",
            "first_line: object, config: object) -> object:",
            set(),
            id="annotation",
        ),
        pytest.param(
            "    rows: list[Any] = []\n    failed: dict",
            "    rows = []\n    failed: dict",
            set(),
            id="annotation of a variable",
        ),
        pytest.param(
            "import can_join, user_word", "import user_word, can_join", set(), id="import"
        ),
        pytest.param("os.replace(aside, path)", "aside.rename(path)", set(), id="durable write"),
        pytest.param("write_page_checksum=True", "version='2.4'", set(), id="Parquet writer"),
        # Only the flow changes, not the task that has a local variable of that name.
        pytest.param(
            "    ingested = _ingested(steps, name, kind, snapshot)\n    if columns:",
            "    ingested = _ingested(steps, name, kind, '')\n    if columns:",
            set(),
            id="a local variable named like a flow",
        ),
        # What can.
        pytest.param(
            "a key is given twice in one object", "twice", {"ingest_file"}, id="reason of rejection"
        ),
        pytest.param("np.minimum(_rate(sums), 700.0)", "_rate(sums)", {"score"}, id="metric"),
        pytest.param('_STATES = "BMES"', '_STATES = "BEMS"', MAKE_TOKENIZERS, id="segmenter"),
        pytest.param(
            "self.optimizer.zero_grad(set_to_none=True)",
            "self.optimizer.zero_grad()",
            {"train", "find_batch_size"},
            id="training loop",
        ),
        pytest.param("torch.tanh(x_new + reset * h_new)", "x_new", TRAIN | {"score"}, id="cell"),
        pytest.param(
            "num_accepted = num_dropped = num_withdrawn = 0",
            "num_accepted = num_dropped = num_withdrawn = 1",
            {"ingest_file"},
            id="ingest",
        ),
    ],
)
def test_the_key_of_a_task_changes_with_its_result(old: str, new: str, changed: set[str]) -> None:
    assert tasks_changed(edited(old, new)) == changed


def test_a_change_to_one_problem_trains_no_other() -> None:
    found = digests(edited("    window: int = 5\n", "    window: int = 6\n"))
    changed = {name for name in found if found[name] != unedited()[name]}
    assert changed == {f"{task} next_word" for task in TRAIN} | {"score"}


def test_files_may_move() -> None:
    """A module with another name, and all who import it by that name, say what they said before."""
    sources = {}
    for name, source in first_party_code().sources.items():
        text = re.sub(
            r"(from (\.{1,3}|pipeline\.))metrics import", r"\1figures import", source.text
        )
        name = "pipeline.figures" if name == "pipeline.metrics" else name
        sources[name] = replace(source, module=name, text=text)
    assert "pipeline.metrics" not in sources
    assert digests(sources) == unedited()


# --- rules ----------------------------------------------------------------------------------------

PROGRAM = {
    "pipeline": "",
    "pipeline.text": """
import numpy as np
from . import tools
from .tools import clean as cleaned

LIMIT = 3
ORDER = {}
ORDER["a"] = 1


class Settings:
    size: int = 1


def task(text, settings=Settings):
    profile = text.strip()
    [tools for tools in profile]
    return [cleaned(each) for each in profile[:LIMIT]], lambda order: np.sort(order)


def order():
    return 1


def profile():
    return 2


def caught(text):
    try:
        return cleaned(text)
    except ValueError as error:
        return str(error)


def raised(text):
    try:
        return cleaned(text)
    except ValueError as error:
        raise KeyError(f"{error} {text}") from error
""",
    "pipeline.tools": """
class EmptyError(ValueError):
    pass


def clean(text):
    if not text:
        raise EmptyError("nothing there")
    return text


def unused():
    return 3
""",
    "pipeline.store": """
from .tools import unused

KEY_VERSION = 1


def keep(text):
    return unused()
""",
    "pipeline.keeping": """
from .store import keep


def task(text):
    return keep(text)
""",
}


def program_digest(task: str, *edits: tuple[str, str]) -> str:
    module, name = task.rsplit(".", 1)
    sources = {}
    for each, text in PROGRAM.items():
        for old, new in edits:
            text = text.replace(old, new)
        sources[each] = Source(each, each == "pipeline", text)
    return Code(sources).reached(Definition(module, name)).digest


@pytest.mark.parametrize(
    ("task", "old", "new", "is_changed"),
    [
        ("pipeline.text.task", "return 1", "return 10", False),  # an argument of a lambda
        ("pipeline.text.task", "return 2", "return 20", False),  # a local variable
        ("pipeline.text.task", "return 3", "return 30", False),  # the variable of a comprehension
        ("pipeline.text.task", "LIMIT = 3", "LIMIT = 4", True),
        ("pipeline.text.task", '"a"] = 1', '"a"] = 2', True),  # runs on import
        ("pipeline.text.task", "size: int = 1", "size: float = 1", True),  # a field
        ("pipeline.text.task", "if not text:", "if text:", True),  # behind an alias
        ("pipeline.text.task", "nothing there", "empty", False),
        ("pipeline.text.raised", "nothing there", "empty", False),
        ("pipeline.text.caught", "nothing there", "empty", True),  # becomes data
        ("pipeline.text.caught", "return str(error)", "return isinstance(error, str)", True),
        ("pipeline.keeping.task", "return unused()", "return None", False),
        ("pipeline.keeping.task", "return 3", "return 30", False),
        ("pipeline.keeping.task", "KEY_VERSION = 1", "KEY_VERSION = 2", True),
    ],
)
def test_rules(task: str, old: str, new: str, is_changed: bool) -> None:
    assert (program_digest(task, (old, new)) != program_digest(task)) == is_changed


def test_what_is_not_at_the_top_of_a_module_has_no_key() -> None:
    with pytest.raises(LookupError, match="nothing cannot be part of a cache key"):
        program_digest("pipeline.text.nothing")


# --- golden keys ----------------------------------------------------------------------------------


def test_golden_keys(request: pytest.FixtureRequest) -> None:
    found = dict(sorted(unedited().items()))
    if request.config.getoption("update_golden_keys"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    changed = [name for name in {**golden, **found} if golden.get(name) != found.get(name)]
    assert not changed, (
        f"The cache keys of these tasks have changed: {', '.join(changed)}. Every user computes "
        "their results again. If results change, or that is worth it, update the file with "
        f"`{UPDATE}`."
    )
