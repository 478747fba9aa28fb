"""What is shown: nothing that a terminal acts on, and no number that JSON has not."""

import json
import logging

import pytest

from flows.command.terminal import (
    finite,
    log_to_stderr,
    print_json,
    print_table,
    printable_json,
    say,
    short_number,
)

HOSTILE = "\x1b[31m[bold]red\u202e\x9b2J"


def test_json_stays_json_and_holds_nothing_that_a_terminal_acts_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {"text": f"{HOSTILE}好\n", "scores": (1.5, float("nan"), [float("-inf")])}
    print_json(value)
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"text": f"{HOSTILE}好\n", "scores": [1.5, None, [None]]}
    assert all(c.isprintable() or c == "\n" for c in shown) and "好" in shown
    assert json.loads(printable_json('"\x7f\u2028"')) == "\x7f\u2028"
    assert finite({"a": [float("inf"), 2, "x"]}) == {"a": [None, 2, "x"]}


def test_tables_read_nothing_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "rows"), [(HOSTILE, "1"), ("b", "20")], right=("rows",))
    head, first, second = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert head.split() == ["name", "rows"]
    assert first.startswith(r"\x1b[31m[bold]red\u202e\x9b2J") and first.endswith(" 1")
    assert second.endswith("20") and len(first) == len(second)
    say(f"{HOSTILE} " + "long " * 100)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(r"\x1b[31m[bold]red\u202e\x9b2J long")


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, ""),
        (0.12345, "0.1235"),
        (39.152, "39.15"),
        (999.96, "1,000"),
        (453097.0, "453,097"),
        (-45309.7, "-45,310"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_short(number: float | None, shown: str) -> None:
    assert short_number(number) == shown


@pytest.mark.usefixtures("own_logging")
def test_the_log_escapes_what_comes_from_data(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    logging.getLogger("flows.test").info("read %s\nand on", HOSTILE)
    logging.getLogger("elsewhere").info("not ours")
    said = capsys.readouterr()
    assert said.err.endswith(" read \\x1b[31m[bold]red\\u202e\\x9b2J\nand on\n") and not said.out
