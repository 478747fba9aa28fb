"""The cache policy, the locks and the digest of code, mostly in processes of their own.

Keys must agree between processes, and code is read once in each: so the two modules are copied into
a small first-party tree, which a test may edit between one process and the next.
"""

import enum
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel, SecretStr

from flows.steps.keys import canonical
from flows.steps.locks import ProcessLocks

ROOT = Path(__file__).resolve().parent.parent

TREE = {
    "pipeline/__init__.py": "",
    "pipeline/text.py": '''
"""Text."""

from .steps import clean

def shout(text):
    return clean(text).upper()
''',
    "pipeline/steps.py": """
def clean(text):
    return text.strip()
""",
    "pipeline/unrelated.py": "WIDTH = 3",
    "pipeline/settings.py": """
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    names: dict[str, str] = field(default_factory=dict)
    limit: int | None = None

@dataclass(frozen=True)
class Settings:
    inner: Inner = Inner()
    rate: float = 0.5
    tags: frozenset[str] = frozenset("abcdef")
""",
    "pipeline/problems/__init__.py": "",
    "pipeline/problems/first.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class First:
    window: int = 5
""",
    "pipeline/problems/second.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class Second:
    window: int = 6
""",
    "warehouse/__init__.py": "",
    "warehouse/notes.py": """
import hashlib
from pathlib import Path
from pydantic import BaseModel

class Note(BaseModel, frozen=True):
    digest: str
    path: str

    def cache_digest(self):
        return self.digest

    def intact(self, root):
        return (Path(root) / self.path).is_file()

def write_note(root, text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = Path(root) / (digest + ".txt")
    path.write_text(text)
    return Note(digest=digest, path=path.name)
""",
    "flows/__init__.py": "",
    "flows/work.py": """
import os
import time
from pathlib import Path

from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from pipeline.settings import Settings
from pipeline.text import shout
from warehouse.notes import Note, write_note

SUFFIX = "!"
UNUSED = 1


def decorate(text):
    return text + SUFFIX


def neighbour(text):
    return text + "?"


@cached_task()
def write(root: Path, text: str, settings: Settings, device: str = "cpu") -> Note:
    with open(Path(root) / "executions", "a") as log:
        log.write("write\\n")
    return write_note(root, decorate(shout(text)))


@cached_task()
def measure(root: Path, notes: list[Note]) -> dict[str, int]:
    from pipeline import steps

    texts = [(Path(root) / note.path).read_text() for note in notes]
    return {note.digest[:4]: len(steps.clean(text)) for note, text in zip(notes, texts)}


@cached_task()
def solve(problem: object) -> tuple[str, int]:
    return type(problem).__name__, 1


@cached_task()
def hold(root: Path) -> dict[str, int]:
    with open(Path(root) / "executions", "a") as log:
        log.write("hold\\n")
    (Path(root) / f"holding-{os.getpid()}").touch()
    while not (Path(root) / "go").exists():
        time.sleep(0.01)
    return {"pid": os.getpid()}
""",
}

RUN = """
import json, sys
from pathlib import Path
from flows.steps.steps import Steps
from flows.work import *

root = Path(sys.argv[1])
steps = Steps(root)
device = sys.argv[2]
note = steps.run(write, label="1", text=" tide ", settings=Settings(), device=device)
sizes = steps.run(measure, notes=[note])
states = [each.state for each in steps.states]
print(json.dumps({"note": note.digest, "sizes": sizes, "states": states}))
"""

DIGESTS = """
import json
from flows.steps.code_digest import code_digest
from flows.work import *
from pipeline.problems.first import First
print(json.dumps({
    "write": code_digest(write.fn),
    "measure": code_digest(measure.fn),
    "solve": code_digest(solve.fn, [First]),
}))
"""


class Project:
    """A small first-party tree, and Python processes that run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name, text in TREE.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        shutil.copytree(ROOT / "flows" / "steps", path / "flows" / "steps")
        self.root = path / "warehouse-root"
        self.root.mkdir()

    def start(self, code: str, *args: object, hash_seed: int = 0) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(self.path)}
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python(self, code: str, *args: object, hash_seed: int = 0) -> Any:
        process = self.start(code, *args, hash_seed=hash_seed)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return json.loads(output)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text(encoding="utf-8")
        assert old in text
        (self.path / name).write_text(text.replace(old, new), encoding="utf-8")

    @property
    def executions(self) -> list[str]:
        return (self.root / "executions").read_text().splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_second_process_finds_what_the_first_has_made(project: Project) -> None:
    first = project.python(RUN, project.root, "cpu", hash_seed=1)
    assert first["states"] == ["Completed", "Completed"]

    second = project.python(RUN, project.root, "cuda", hash_seed=2)
    assert second == {**first, "states": ["Cached", "Cached"]}

    (project.root / f"{first['note']}.txt").unlink()
    third = project.python(RUN, project.root, "cpu", hash_seed=3)
    assert third == {**first, "states": ["Completed", "Cached"]}

    moved = project.root.rename(project.path / "elsewhere")
    fourth = project.python(RUN, moved, "cpu", hash_seed=4)
    assert fourth["states"] == ["Cached", "Cached"]


def test_a_class_may_move_to_another_module(project: Project) -> None:
    first = project.python(RUN, project.root, "cpu")
    notes = project.path / "warehouse" / "notes.py"
    notes.rename(notes.with_name("kept.py"))
    project.edit("flows/work.py", "warehouse.notes", "warehouse.kept")
    assert project.python(RUN, project.root, "cpu") == {**first, "states": ["Cached", "Cached"]}


def test_a_record_of_another_shape_is_made_anew(project: Project) -> None:
    first = project.python(RUN, project.root, "cpu")
    (record,) = (project.root / "results" / "write").iterdir()
    record.write_text(record.read_text().replace("digest", "digits"))
    assert project.python(RUN, project.root, "cpu") == {**first, "states": ["Completed", "Cached"]}


def test_a_torn_record_is_made_anew(project: Project) -> None:
    first = project.python(RUN, project.root, "cpu")
    (record,) = (project.root / "results" / "write").iterdir()
    record.write_bytes(record.read_bytes()[:40])
    assert project.python(RUN, project.root, "cpu") == {**first, "states": ["Completed", "Cached"]}


def test_the_result_is_the_same_object_computed_or_kept(project: Project) -> None:
    code = """
import json, sys
from pathlib import Path
from flows.steps.steps import Steps
from flows.work import *
from pipeline.problems.first import First
steps = Steps(Path(sys.argv[1]))
results = [steps.run(solve, problem=First()) for _ in range(2)]
assert results[0] == results[1] == ("First", 1), results
print(json.dumps([each.state for each in steps.states]))
"""
    assert project.python(code, project.root) == ["Completed", "Cached"]


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("pipeline/steps.py", "return text.strip()", "return text.strip()  # both ends", set()),
        ("pipeline/steps.py", "def clean(text):", "def clean(text: str) -> str:", set()),
        ("pipeline/text.py", '"""Text."""', '"""Another word."""\n\n\n# and a comment', set()),
        ("pipeline/steps.py", "text.strip()", "text.lstrip()", {"write", "measure"}),
        ("pipeline/text.py", ".upper()", ".lower()", {"write"}),
        ("warehouse/notes.py", '".txt"', '".text"', {"write"}),
        ("pipeline/unrelated.py", "3", "4", set()),
        ("pipeline/problems/first.py", "5", "7", {"solve"}),
        ("pipeline/problems/second.py", "6", "7", set()),
        ("flows/work.py", 'SUFFIX = "!"', 'SUFFIX = "."', {"write"}),
        ("flows/work.py", "UNUSED = 1", "UNUSED = 2", set()),
        ("flows/work.py", 'text + "?"', 'text + "??"', set()),
        ("flows/work.py", "__name__, 1", "__name__, 2", {"solve"}),
        ("flows/steps/steps.py", "class Steps:", "class Steps:\n    NEW = 1\n", set()),
    ],
)
def test_the_key_follows_the_code_that_is_reached(
    project: Project, file: str, old: str, new: str, changed: set[str]
) -> None:
    before = project.python(DIGESTS, hash_seed=1)
    project.edit(file, old, new)
    after = project.python(DIGESTS, hash_seed=2)
    assert {name for name in before if before[name] != after[name]} == changed


def test_what_cannot_enter_a_key_fails_the_task(project: Project) -> None:
    code = """
import json, sys
from pathlib import Path
from flows.steps.steps import Steps
from flows.work import *
steps = Steps(Path(sys.argv[1]))
try:
    steps.run(measure, notes=[Path("a.txt")])
except TypeError as error:
    print(json.dumps([str(error), steps.states[0].state]))
"""
    message, state = project.python(code, project.root)
    assert "notes[0] is a" in message and "Path" in message
    assert state == "Failed"


def wait_for(project: Project, process: subprocess.Popen[str]) -> None:
    while not (project.root / f"holding-{process.pid}").exists():
        assert process.poll() is None, process.communicate()[1]


HOLD = """
import json, sys
from pathlib import Path
from flows.steps.steps import Steps
from flows.work import *
steps = Steps(Path(sys.argv[1]))
result = steps.run(hold)
print(json.dumps([steps.states[0].state, result["pid"]]))
"""


def test_two_processes_with_one_key_execute_once(project: Project) -> None:
    first = project.start(HOLD, project.root)
    wait_for(project, first)
    second = project.start(HOLD, project.root)
    (project.root / "go").touch()
    assert json.loads(first.communicate(timeout=60)[0]) == ["Completed", first.pid]
    assert json.loads(second.communicate(timeout=60)[0]) == ["Cached", first.pid]
    assert project.executions == ["hold"]
    assert not list((project.root / "results" / "locks").iterdir())


def test_a_killed_holder_blocks_nobody(project: Project) -> None:
    first = project.start(HOLD, project.root)
    wait_for(project, first)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    (project.root / "go").touch()
    state, _ = project.python(HOLD, project.root)
    assert state == "Completed"
    assert project.executions == ["hold", "hold"]


@pytest.mark.slow
def test_prefect_runs_share_the_records(project: Project) -> None:
    """Inside flow runs the steps are Prefect task runs, with the states that it records."""
    code = """
import json, logging, sys
from pathlib import Path
from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness
from flows.steps.steps import Steps
from flows.work import *

@flow
def both(root: str, device: str = "cpu", path: bool = False):
    steps = Steps(Path(root))
    inputs = {"root": root, "text": " tide ", "settings": Settings(), "device": device}
    note = steps.run(write, label="{one}", **inputs)
    steps.run(measure, notes=[Path("a")] if path else [note])
    return [each.state for each in steps.states]

with prefect_test_harness(server_startup_timeout=120), temporary_settings(
    {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
):
    root = sys.argv[1]
    states = [both(root), both(root, "cuda")]
    next(Path(root).glob("*.txt")).unlink()
    states.append(both(root))
    failed = both(root, path=True, return_state=True)
    states.append([failed.name, type(failed.result(raise_on_failure=False)).__name__])
print(json.dumps(states))
"""
    assert project.python(code, project.root) == [
        ["Completed", "Completed"],
        ["Cached", "Cached"],
        ["Completed", "Cached"],
        ["Failed", "TypeError"],
    ]
    kept = project.python(RUN, project.root, "cpu", hash_seed=9)
    assert kept["states"] == ["Cached", "Cached"]


def test_one_lock_between_threads(tmp_path: Path) -> None:
    locks = ProcessLocks(tmp_path / "locks")
    assert locks.acquire_lock("write/a", "one") and locks.acquire_lock("write/a", "one")
    assert locks.is_locked("write/a") and not locks.is_locked("write/b")
    assert not ProcessLocks(tmp_path / "locks").acquire_lock("write/a", "two", acquire_timeout=0)
    assert not locks.wait_for_lock("write/a", timeout=0)
    with pytest.raises(ValueError, match="two holds no lock"):
        locks.release_lock("write/a", "two")

    waiting = threading.Thread(target=locks.acquire_lock, args=("write/a", "two"))
    waiting.start()
    locks.release_lock("write/a", "one")
    waiting.join(timeout=30)
    assert locks.is_lock_holder("write/a", "two")
    locks.release_lock("write/a", "two")
    assert locks.wait_for_lock("write/a", timeout=0)


class Cell(enum.Enum):
    GRU = "gru"


class Kind(enum.StrEnum):
    PAIRS = "pairs"


@dataclass(frozen=True)
class Window:
    size: int = 5


@dataclass(frozen=True)
class Stream:
    size: int = 5


@dataclass(frozen=True)
class Recipe:
    problem: Window | Stream = Window()
    sizes: tuple[int, ...] = (1, 2)
    names: Mapping[str, str | None] = field(default_factory=dict)


class Handle(BaseModel, frozen=True):
    digest: str
    path: str

    def cache_digest(self) -> str:
        return self.digest


class Row(BaseModel, frozen=True):
    handle: Handle
    kind: Kind = Kind.PAIRS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Handle(digest="a", path="x"), Handle(digest="a", path="y")),
        (Row(handle=Handle(digest="a", path="x")), Row(handle=Handle(digest="a", path="y"))),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, frozenset([2, 3, 1])),
        (Recipe(), Recipe(problem=Window(size=5), names={})),
        (Kind.PAIRS, "pairs"),
    ],
)
def test_equal_content_is_one_key(one: object, other: object) -> None:
    assert as_text(one) == as_text(other)


def test_different_content_is_another_key() -> None:
    values: list[object] = [
        *(None, False, 0, 0.0, "0", "", [], {}, set(), [[]], [None], ["list"], {"a": None}),
        *(Window(), Stream(), Window(6), {"size": 5}),
        *(Recipe(), Recipe(names={"a": None}), Recipe(sizes=(2, 1))),
        *(Handle(digest="a", path="x"), "a", ["digest", "a"], {"digest": "a"}, Cell.GRU, "GRU"),
        Row(handle=Handle(digest="a", path="x")),
    ]
    assert len({as_text(value) for value in values}) == len(values)


def as_text(value: object) -> str:
    return json.dumps(canonical(value), sort_keys=True, allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [
        Path("a"),
        pd.DataFrame({"a": [1]}),
        torch.zeros(1),
        np.zeros(1),
        np.int64(1),
        float("nan"),
        {1: 2},
        b"bytes",
        SecretStr("a"),
        Window,
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_says_nothing_about_its_content_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"recipe\['part'\]\[0\]"):
        canonical({"part": [value]}, "recipe")
