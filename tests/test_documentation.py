"""The documentation: its commands work, its links lead somewhere, its English is plain.

``python tests/test_documentation.py`` prints every phrase of the whole repository that is not plain
English, a line each.
"""

import importlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ("data", "train", "schedule", "registry", "use", "troubleshooting", "erase")
FRONT = ("README.md", "docs/index.md", *(f"docs/guide/{name}.md" for name in GUIDE))
"""Pages whose commands are run."""
CHINESE = ("README.zh.md", "docs/zh/index.md", *(f"docs/zh/{name}.md" for name in GUIDE))
"""The same pages in Chinese, with the same commands."""
PAGES = (
    *FRONT,
    *CHINESE,
    *(f"docs/{name}.md" for name in ("recipes", "chapters", "results", "ablation")),
    *("docs/benchmarks.md", "docs/performance.md"),
)
MAX_README_LINES = 150
MAX_PICTURE_BYTES = 300 << 10


# --- what a page shows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A command line of a page; ``exported`` are the variables that its block set before."""

    page: str
    text: str
    exported: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def shown(page: str) -> Iterator[Line]:
    """The lines of the ``sh`` blocks, and the commands in tables, in the order of the page."""
    found = r"^```sh\n(.*?)^```|^\|[^\n]*\| `(tidemill [^`]*)` \|$"
    for match in re.finditer(found, text_of(page), re.DOTALL | re.MULTILINE):
        exported: list[str] = []
        for line in (match[1] or match[2]).replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield Line(page, line, tuple(exported))
                if words[0] == "export":
                    exported += [word.partition("=")[0] for word in words[1:]]


def tidemill_arguments(line: Line) -> list[str] | None:
    """What follows ``tidemill`` in a line, or None for another command."""
    words = line.words
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    return words[1:] if words and Path(words[0]).name == "tidemill" else None


ALL = [line for page in PAGES for line in shown(page)]
TIDEMILL = [(line, found) for line in ALL if (found := tidemill_arguments(line)) is not None]


# --- every command is one that the program understands --------------------------------------------


def entry_point() -> tuple[Any, Callable[[Sequence[str]], int]]:
    """The module of the command, and its function."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["tidemill"].partition(":")
    found = importlib.import_module(module)
    return found, getattr(found, function)


@pytest.fixture(scope="module")
def parse() -> Callable[[list[str]], Any]:
    """The command's own parser, which runs nothing and raises for what it does not understand."""
    module, _ = entry_point()
    import typer

    group: Any = typer.main.get_command(module.app)
    for command in group.commands.values():
        command.callback = lambda **_: 0
    return lambda arguments: group.main(arguments, prog_name="tidemill", standalone_mode=False)


def test_pages_show_commands() -> None:
    assert len(TIDEMILL) > 100
    assert {line.page for line, _ in TIDEMILL} >= {*FRONT, *CHINESE, "docs/recipes.md"}


def test_every_command_is_understood(parse: Callable[[list[str]], Any]) -> None:
    for line, arguments in TIDEMILL:
        try:
            parse(arguments)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{line.page}: {line.text}: {error}")


def test_the_parser_refuses_what_is_wrong(
    parse: Callable[[list[str]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["retrian", "demo"], ["retrain", "demo", "--epochs", "5"], ["predict"]):
        with pytest.raises((Exception, SystemExit)):
            parse(arguments)


def test_every_setting_and_variant_exists() -> None:
    from flows.catalogue import catalogue
    from flows.retrain import retrain
    from flows.settings import apply_overrides, checked, setting, signature_of
    from pipeline.networks.variants import parse_variant

    deployments, signature = catalogue(), signature_of(retrain)
    for line, (command, *arguments) in TIDEMILL:
        if command not in ("retrain", "ingest", "quarantine"):
            continue
        pairs = list(pairwise(arguments))
        overrides = dict(setting(value) for option, value in pairs if option == "--set")
        parameters = deployments.parameters_of(arguments[0])
        try:
            checked(apply_overrides(parameters, overrides, signature), signature)
            for option, value in pairs:
                if option == "--variants":
                    list(map(parse_variant, value.split(",")))
        except Exception as error:
            pytest.fail(f"{line.page}: {line.text}: {error}")


def test_other_commands_exist() -> None:
    """A make target, a script of this repository, or a program that a reader has."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", text_of("Makefile")))
    for line in ALL:
        first, *others = re.sub(r"^([A-Z_]+=\S* )+", "", line.text).split()
        if first == "make":
            assert others[0] in targets, line
        elif first == "python":
            assert (ROOT / others[0]).exists(), line
        elif tidemill_arguments(line) is None:
            known = {"source", "export", "prefect", "pip", "rm", "echo", "head"}
            assert first in known, line


@pytest.mark.parametrize(("english", "chinese"), list(zip(FRONT, CHINESE, strict=True)))
def test_the_chinese_page_has_the_same_commands(english: str, chinese: str) -> None:
    assert [untranslated(line) for line in shown(english)] == [
        untranslated(line) for line in shown(chinese)
    ]


def untranslated(line: Line) -> list[str]:
    """The words of a line without what a reader writes in their own language."""
    words = line.words
    return [word for before, word in zip(["", *words], words, strict=False) if before != "--reason"]


# --- every command of the guide is run ------------------------------------------------------------

ELSEWHERE = {
    "ui": "serves until it is stopped: tests/test_cli.py",
    "deploy": "needs a Prefect server: tests/test_deployment.py",
    "search": "15 s for a network that learned so little: tests/test_search_comparison.py",
    "MLFLOW_TRACKING_URI": "needs an MLflow server: tests/test_registry.py",
}
"""Commands of the guide that the run below leaves out, and why."""
BEFORE: dict[str, Callable[[Path, Callable[[Sequence[str]], int]], object]] = {
    # Only a version with the network of the deployment can be extended.
    "--extend-from": lambda folder, main: main(["promote", "next-word", "1"]),
    "--retry rows.jsonl": lambda folder, main: correct(folder / "rows.jsonl"),
    "rollback demo": lambda folder, main: twice(main, "demo"),
    "rollback next-word": lambda folder, main: twice(main, "next-word"),
}
"""What a reader has done by hand before a command."""


def twice(main: Callable[[Sequence[str]], int], name: str) -> None:
    """Change the champion, so that there is a previous one."""
    assert [main(["promote", name, number]) for number in "12"] == [0, 0]


def correct(rows: Path) -> None:
    """Put a sound row in place of each rejected one, as a person does in an editor."""
    sound = (ROOT / "flows/sample/dialogues.jsonl").read_text(encoding="utf-8").splitlines()[200:]
    rejected = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    corrected = [{**row, "raw": raw} for row, raw in zip(rejected, sound, strict=False)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in corrected), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the guide names, and its deployments, made small."""
    folder = tmp_path_factory.mktemp("documented")
    sample = (ROOT / "flows/sample/dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    dialogues = [*sample[:60], '{"topic": "美食", "user1": "李明", "user2": "王芳"}']
    reviews = [
        {"review": f"第{i}家很{'好' if i % 2 else '差'}。", "label": str(i % 2)} for i in range(60)
    ]
    months = [100 + i % 12 * 5 + i for i in range(96)]
    written = {
        "chats/monday.jsonl": dialogues,
        "chats.jsonl": dialogues,
        "inbox/dialogues/monday.jsonl": dialogues,
        "inbox/series/passengers.csv": [
            "time,value",
            *(f"{1949 + i // 12}-{i % 12 + 1:02},{value}" for i, value in enumerate(months)),
        ],
        "reviews.jsonl": [json.dumps(each, ensure_ascii=False) for each in reviews],
        "texts.txt": ["今天天气", "你喜欢"],
        "months.txt": [" ".join(map(str, months[-24:]))],
        "vectors.txt": ["2 300", *(f"{word} " + " ".join(["0.1"] * 300) for word in "我你")],
        "words.txt": ["蓝牙耳机 100 n"],
    }
    for name, lines in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = yaml.safe_load(text_of("prefect.yaml"))
    for deployment in content["deployments"]:
        parameters = deployment["parameters"]
        parameters["network"] = {"embedding_size": 8, "hidden_size": 8}
        parameters["training"] = {"num_epochs": 1, "batch_size": 64}
        parameters["variants"] = ["lstm", "gru"]
        parameters["vocabulary"] = {"max_size": 300}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def reason_to_leave_out(line: Line) -> str:
    words = " ".join([*line.exported, *(tidemill_arguments(line) or [])])
    return next((why for part, why in ELSEWHERE.items() if f" {part} " in f" {words} "), "")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("own_logging")
def test_every_command_of_the_guide_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages, in one warehouse, as a reader would; each command once."""
    _, main = entry_point()
    monkeypatch.chdir(project)
    typed = io.TextIOWrapper(io.BytesIO("我们\n周六\n".encode()), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    own = {"retrain", "ingest", "profile", "quarantine"}

    def run(arguments: list[str]) -> int:
        catalogue = ["--catalogue", "prefect.yaml"] if arguments[0] in own else []
        return main([*arguments, *catalogue])

    for name in ("demo", "next-word", "forecast"):
        assert run(["retrain", name]) == 0, capfd.readouterr().err
    done: list[list[str]] = []
    for page in FRONT:
        for line in shown(page):
            arguments = tidemill_arguments(line)
            if arguments is None or arguments in done or reason_to_leave_out(line):
                continue
            done.append(arguments)
            for part, prepare in BEFORE.items():
                if part in " ".join(arguments):
                    prepare(project, main)
            capfd.readouterr()
            code = run(arguments)
            assert code == 0, f"{line.page}: {line.text}: {capfd.readouterr().err}"
    assert len(done) > 35
    check_python_blocks(project)
    check_client(project)


def check_python_blocks(project: Path) -> None:
    """The programs of the pages, one after the other, in a process of their own."""
    blocks = [
        block
        for page in (*FRONT, *CHINESE)
        for block in re.findall(r"(?ms)^```python\n(.*?)^```", text_of(page))
    ]
    assert len(blocks) == 6
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("candidates") >= 4


def check_client(project: Path) -> None:
    (line,) = [line for line in shown("docs/guide/use.md") if line.text.startswith("echo")]
    shell = line.text.replace("python", shlex.quote(sys.executable))
    done = subprocess.run(shell, shell=True, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


# --- links, pictures, length ----------------------------------------------------------------------


def test_the_readme_fits_on_a_few_screens() -> None:
    for page in ("README.md", "README.zh.md"):
        assert len(text_of(page).splitlines()) <= MAX_README_LINES


def test_links_of_the_readme_and_the_pages_lead_to_files() -> None:
    for page in PAGES:
        text = re.sub(r"(?ms)^```.*?^```", "", text_of(page))
        for address in re.findall(r"\]\(([^)\s]+)\)", text):
            path = address.partition("#")[0]
            made = path.startswith(("../reference/", "reference/"))  # by docs/generate.py
            if path and not made and "://" not in address:
                assert ((ROOT / page).parent / path).exists(), f"{page}: {address}"


def test_pictures_are_small_and_used() -> None:
    shown_text = "".join(map(text_of, PAGES))
    for path in (ROOT / "docs/images").iterdir():
        assert path.stat().st_size <= MAX_PICTURE_BYTES, path
        assert path.name in shown_text, f"{path} is shown nowhere"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_or_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    # A copy, so that the pages of a developer's own build stay as they are.
    for name in ("docs", "flows", "pipeline", "warehouse", "prefect.yaml", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    subprocess.run(["cp", "-R", str(ROOT / "docs"), str(tmp_path / "docs")], check=True)
    subprocess.run(["cp", str(ROOT / "zensical.toml"), str(tmp_path)], check=True)
    for command in (
        ["docs/generate.py"],
        ["-m", "zensical", "build", "--strict", "--clean"],
        ["docs/check_links.py", "site"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert {arguments[0] for _, arguments in TIDEMILL} <= set(
        re.findall(r"(?m)^## tidemill (.*)$", commands)
    )
    settings = (tmp_path / "docs/reference/settings.md").read_text(encoding="utf-8")
    for name in ("`training.num_epochs`", "`problem.bptt`", "`network.hidden_size`"):
        assert name in settings


# --- plain English --------------------------------------------------------------------------------

BANNED = {
    r"\bis nothing that\b": "is not supported",
    r"\bsays so\b": "reports it",
    r"\bgo(es|ing)? on (from|with|learning)\b": "resume, continue",
    r"\bso many \w+ at once\b": "number of ... in parallel",
    r"\bwhat its name says\b": "all checksums match",
    r"\bis no (number|single|file|folder|snapshot|label|word|line)\b": "is not a, is ambiguous",
    r"\bno (number|word|longer needed) any more\b": "became NaN",
    r"\b(disturbs|taxes)\b": "regularises",
    r"\bwords have an id\b": "vocabulary size",
    r"\brecorded nowhere else\b": "are not recorded",
    r"\bnear cop(y|ies)\b": "near-duplicate",
    r"\bmended\b": "corrected",
    r"\b(is|are|costs?) dear(ly)?\b": "is expensive",
    r"\bonly say what would go\b": "show what would be removed",
    r"\bout of everything\b": "from all stored data",
    r"\btheir owner withdr(aws|ew)\b": "withdrawn",
    r"\b(shall|whoever)\b": "must, will; anyone who",
    r"\banew\b": "again, from new weights",
    r"\bby heart\b": "memorise",
    r"\blearnt\b": "learned, trained",
    r"\bin vain\b": "wasted",
    r"\b(stands?|stood) (in|on|under|beside|behind|there)\b": "is in",
    r"\blies? (in|under|there|beside)\b": "is in",
    r"\bis told\b": "is reported",
    r"\bnobody (needs|takes|reads|who)\b": "nothing needs",
    r"\bwhat (was|is) (made|cut|kept|learned) of\b": "results of",
    r"\bmay go on\b": "can continue",
    r"\bthe house\b": "the repository, the layout",
    r"\bworked (out|off)\b": "computed",
    r"\bdo(es)? not compare\b": "cannot be compared",
    r"\bby the clock\b": "wall time",
    r"\bbut for\b": "except",
    r"\bin the midst\b": "during",
    r"\bmakes? of (it|them|a|each|the)\b": "does with",
    r"\bwishe?[sd]? (for|so)\b": "wanted",
    r"\btells? (which|what|how|whether|the)\b": "shows, reports",
}
"""A phrase that reads like a translation or a riddle (a pattern), and what to write."""
EXCEPTIONS = {
    "tests/test_documentation.py": r".",  # the list itself
    "docs/chapters.md": r"by_heart",
}
"""A pattern of lines that may stay, by file: names, and quotations of data."""
SCOPE = ("README.md", "README.zh.md", "CHANGELOG.md", "prefect.yaml", "Makefile", "docs/*.md")
"""What must be plain today; widen it with "flows/**/*.py", "pipeline/**/*.py" and the others."""
REPOSITORY = ("*.md", "*.yaml", "*.toml", "Makefile", "**/*.py")


def offences(patterns: Sequence[str]) -> Iterator[str]:
    """One line for each banned phrase in the files of these patterns."""
    generated = {ROOT / name for name in ("docs/reference", "site", ".venv", ".warehouse", "build")}
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    for path in sorted(path for path in files if not generated.intersection(path.parents)):
        name = str(path.relative_to(ROOT))
        allowed = EXCEPTIONS.get(name)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if allowed and re.search(allowed, line):
                continue
            for pattern, better in BANNED.items():
                for match in re.finditer(pattern, line, re.IGNORECASE):
                    yield f"{name}:{number}: {match[0]!r} (write: {better}): {line.strip()}"


def test_the_english_is_plain() -> None:
    assert not (found := list(offences([*SCOPE, "docs/guide/*.md"]))), "\n".join(found)


def test_a_banned_phrase_is_found() -> None:
    assert re.search(r"\bgo(es|ing)? on (from|with|learning)\b", "the same command goes on from it")
    assert any(re.search(pattern, "the files lie in one folder") for pattern in BANNED)


if __name__ == "__main__":
    print("\n".join(offences(REPOSITORY)))  # noqa: T201
