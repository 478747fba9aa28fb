"""The grammar that made the sample: ``python -m flows.sample.grammar`` writes both files anew.

Everything is drawn from seeded generators, so the files are always the same bytes.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flows.sample.sales import draw_sales
from flows.sample.sentences import Pair, draw_pair
from flows.sample.topics import COMMON, FAREWELLS, GREETINGS, NAMES, TOPICS, Topic

SEED = 2026
NUM_DIALOGUES = 400
NUM_PAIRS = 1000
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Slot:
    """A word to be drawn: ``{dish}``, or ``{dish2}`` for another one."""

    column: str
    number: str


@dataclass(frozen=True)
class Choice:
    """One of several templates: ``[a|b]``."""

    templates: list["Template"]


Template = list[str | Slot | Choice]


@dataclass
class World:
    """What one dialogue has settled so far: which row of which list, and who speaks to whom."""

    rng: random.Random
    lists: dict[str, str]
    me: str = ""
    you: str = ""
    drawn: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def word(self, slot: Slot) -> str:
        """The word in a slot, drawn on its first use; two numbers never share a row."""
        if slot.column in {"me", "you"}:
            return self.me if slot.column == "me" else self.you
        columns = next(names for names in self.lists if slot.column in names.split())
        if (columns, slot.number) not in self.drawn:
            taken = [row for (names, _), row in self.drawn.items() if names == columns]
            rows = [
                dict(zip(columns.split(), row.split("/"), strict=True))
                for row in self.lists[columns].split()
            ]
            free = [row for row in rows if row not in taken]
            self.drawn[columns, slot.number] = self.rng.choice(free)
        return self.drawn[columns, slot.number][slot.column]


def parse(template: str) -> Template:
    """Read the notation of topics.py."""
    pieces = re.finditer(r"[\[\]|]|\{([a-z_]+?)(\d*)\}|[^\[\]|{}]+", template)
    parsed, mark = _parse(pieces)
    assert not mark, f"brackets do not match in {template!r}"
    return parsed


def _parse(pieces: Iterator[re.Match[str]]) -> tuple[Template, str]:
    """Read up to a bar or bracket that closes what was opened before; return it, too."""
    parsed: Template = []
    for piece in pieces:
        if piece[1]:
            parsed.append(Slot(piece[1], piece[2]))
        elif piece[0] == "[":
            templates, mark = [], "|"
            while mark == "|":
                template, mark = _parse(pieces)
                templates.append(template)
            assert mark == "]", "a choice is not closed"
            parsed.append(Choice(templates))
        elif piece[0] in {"|", "]"}:
            return parsed, piece[0]
        else:
            parsed.append(piece[0])
    return parsed, ""


def expand(template: Template, world: World) -> str:
    """One text of a template; a word from a list may be a template itself."""
    text = ""
    for part in template:
        if isinstance(part, Slot):
            text += expand(parse(world.word(part)), world)
        elif isinstance(part, Choice):
            text += expand(world.rng.choice(part.templates), world)
        else:
            text += part
    return text


def exchanges(text: str) -> list[list[str]]:
    """The blocks of a text, each a list of its lines."""
    return [block.split("\n") for block in text.strip("\n").split("\n\n")]


def draw_dialogue(topic: Topic, rng: random.Random) -> dict[str, str | list[str]]:
    """One dialogue in the schema of HundredCV-Chat: topic, user1, user2, dialog."""
    plan = []
    if not topic.strangers and rng.random() < 0.3:
        plan.append(rng.choice(exchanges(GREETINGS)))
    plan.append(rng.choice(exchanges(topic.openings)))
    plan.extend(rng.sample(exchanges(topic.talk), rng.choice((1, 2, 2, 3))))
    if rng.random() < 0.6:
        plan.append(rng.choice(exchanges(topic.closings)))
    elif not topic.strangers and rng.random() < 0.5:
        plan.append(rng.choice(exchanges(FAREWELLS)))

    names = rng.sample(NAMES.split(), 2)
    world = World(rng, COMMON | topic.lists)
    turns: list[str] = []
    for line in (line for exchange in plan for line in exchange):
        speaker = len(turns) % 2
        world.me, world.you = names[speaker], names[1 - speaker]
        turns.append(f"user{speaker + 1}：{expand(parse(line), world)}")
    return {"topic": topic.name, "user1": names[0], "user2": names[1], "dialog": turns}


def draw_dialogues(num: int = NUM_DIALOGUES, seed: int = SEED) -> list[dict[str, str | list[str]]]:
    """``num`` dialogues, no two with the same turns, the topics in turn."""
    rng = random.Random(seed)
    dialogues: dict[tuple[str, ...], dict[str, str | list[str]]] = {}
    while len(dialogues) < num:
        dialogue = draw_dialogue(TOPICS[len(dialogues) % len(TOPICS)], rng)
        dialogues.setdefault(tuple(dialogue["dialog"]), dialogue)
    return list(dialogues.values())


def draw_pairs(num: int = NUM_PAIRS, seed: int = SEED) -> list[Pair]:
    """``num`` pairs; no Chinese and no English sentence occurs twice."""
    rng = random.Random(seed)
    pairs: dict[str, Pair] = {}
    english: set[str] = set()
    while len(pairs) < num:
        pair = draw_pair(rng)
        if pair.zh not in pairs and pair.en not in english:
            pairs[pair.zh] = pair
            english.add(pair.en)
    return list(pairs.values())


def files() -> dict[str, str]:
    """The sample's files: name to content."""
    rows = {
        "dialogues.jsonl": draw_dialogues(),
        "pairs.jsonl": [pair._asdict() for pair in draw_pairs()],
        "sales.jsonl": draw_sales(),
    }
    return {
        name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        for name, content in rows.items()
    }


def main() -> None:
    """Write the files beside this module."""
    for name, content in files().items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
