"""A profile from files to page, by the tasks that a retraining runs."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from flows.ingest import ingest_sources
from flows.pages.profile_page import as_page
from flows.prepare.splits import cut_and_divide, divide_series
from flows.profile import ProfileRef, profile_series, profile_snapshot, read_profile
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.profile import Origin, Profile, as_markdown, key_figures, profile_values
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from warehouse.errors import StorageError
from warehouse.tables.tables import Tables

CHARACTERS = TextConfig(unit="char")
HOSTILE = ["<script>alert(1)</script>", "\u202etxt.exe", "<b>&amp;", "a\x1b[2J", "$x^2$", "﷽"]


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, and the text that stands in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def dialogues(path: Path, *texts: str, topic: str = "闲聊") -> str:
    lines = [
        json.dumps(
            {
                "topic": topic,
                "user1": "甲",
                "user2": "乙",
                "dialog": [f"user1：{text}", f"user2：{number}也是。"],
            },
            ensure_ascii=False,
        )
        for number, text in enumerate(texts)
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def profiled(
    root: Path,
    *sources: str,
    records: RecordsConfig | None = None,
    columns: tuple[str, ...] = ("tokens",),
    texts: tuple[TextConfig, ...] = (CHARACTERS,),
) -> tuple[ProfileRef, Profile, dict[str, list[str]]]:
    """The profile after an ingest, and task -> the states of its steps."""
    steps = Steps(root)
    records = records or RecordsConfig(max_rejected=0.5)
    ingested = ingest_sources(steps, "talks", list(sources), records)
    cut = cut_and_divide(
        steps,
        ingested.shards,
        records.kind,
        columns,
        texts,
        SplitsConfig(0.2, 0.2),
        VocabularyConfig(max_size=30),
    )
    ref = profile_snapshot(steps, ingested, records.kind, columns, texts, cut)
    states: dict[str, list[str]] = {}
    for step in steps.states:
        states.setdefault(step.task, []).append(step.state)
    return ref, read_profile(root, ref.data), states


def test_the_numbers_are_those_of_the_texts(warehouse: Path, tmp_path: Path) -> None:
    texts = [f"第{number}次去北京。" for number in range(30)]
    source = Path(dialogues(tmp_path / "a.jsonl", *texts, "OK"))
    source.write_text(source.read_text(encoding="utf-8") + "no row\n", encoding="utf-8")
    ref, profile, _ = profiled(warehouse, str(source))
    (text,) = profile.texts
    said = [*texts, "OK", *(f"{number}也是。" for number in range(31))]
    assert (profile.num_rows, text.tokens.num) == (31, 62)
    assert text.tokens.total == text.characters.total == sum(map(len, said))
    assert text.num_words == len(set("".join(said)))
    assert dict(text.top_words)["第"] == 30
    assert text.mixes == {"Han": 61, "Latin": 1}
    assert text.drift is None
    assert profile.turns is not None and profile.turns.mean == 2
    assert profile.categories == {"topic": (("闲聊", 31),)}
    assert profile.rejected == {"not_json": 1}
    assert sum(profile.splits.values()) + sum(profile.left_out.values()) == 62
    assert list(profile.left_out)[2:] == [
        "near-duplicates of validation or test rows",
        "near-duplicates",
    ]
    (vocabulary,) = profile.vocabularies
    assert vocabulary.num_words <= 26
    assert set(vocabulary.unknown_rates) == {"train", "valid", "test"}
    page = (warehouse / ref.page.path).read_text(encoding="utf-8")
    assert "31 distinct" not in page and "not JSON" in page and "北" in Reader(page).text
    assert (warehouse / ref.picture.path).read_bytes().startswith(b"\x89PNG")


def test_only_what_is_new_is_counted_and_drawn(warehouse: Path, tmp_path: Path) -> None:
    monday = dialogues(tmp_path / "a.jsonl", *(f"周一去第{n}次北京。" for n in range(40)))
    first, _, states = profiled(warehouse, monday)
    assert states["count_shard"] == states["draw_profile"] == ["Completed"]
    again, _, states = profiled(warehouse, monday)
    assert again == first
    assert {state for each in states.values() for state in each} == {"Cached"}
    # A page that somebody removed is drawn again, the same to the byte.
    (warehouse / first.page.path).unlink()
    drawn, _, states = profiled(warehouse, monday)
    assert drawn == first and states["summarise"] == ["Cached"]
    # A new file costs the counting of that file, and is compared with what was there before.
    tuesday = dialogues(tmp_path / "b.jsonl", *(f"星期二看第{n}部电影！" for n in range(40)))
    second, profile, states = profiled(warehouse, monday, tuesday)
    assert sorted(states["count_shard"]) == ["Cached", "Cached", "Completed"]
    (text,) = profile.texts
    assert text.drift is not None and text.drift_of_added is not None
    assert text.drift_of_added.psi > text.drift.psi > 0.1
    assert {mover.word for mover in text.drift_of_added.movers} > {"影", "京"}
    assert any("Strong drift" in line for line in as_markdown(profile))
    page = Reader((warehouse / second.page.path).read_text(encoding="utf-8")).text
    assert "compared with snapshot 1" in page and "new rows" in page
    # Where something was taken away there is nothing that was only added.
    _, profile, _ = profiled(warehouse, tuesday)
    assert profile.texts[0].drift is not None and profile.texts[0].drift_of_added is None
    assert Tables(warehouse).verify() == []


def test_nothing_from_data_is_markup(warehouse: Path, tmp_path: Path) -> None:
    words = TextConfig(unit="whitespace", normalisation=())
    source = dialogues(
        tmp_path / "a.jsonl", *(f"{word} 好 {word}" for word in HOSTILE * 3), topic=HOSTILE[0]
    )
    before = dialogues(tmp_path / "b.jsonl", "早上 好", "晚上 好", "你 好", "她 好", "我 好")
    profiled(warehouse, before, texts=(words,))
    ref, profile, _ = profiled(warehouse, before, source, texts=(words,))
    assert HOSTILE[0] in dict(profile.texts[0].top_words)
    raw = (warehouse / ref.page.path).read_text(encoding="utf-8")
    page = Reader(raw)
    assert "script" not in page.elements and "b" in page.elements
    assert "<script>alert(1)</script>" in page.text
    assert "\\u202etxt.exe" in page.text and "\\x1b[2J" in page.text
    assert not [c for c in raw if not c.isprintable() and c != "\n"]
    assert "default-src 'none'" in raw and not re.search(r"""(?:src|href)=["'](?!#)""", raw)
    assert raw.isprintable() or set(raw) - {c for c in raw if c.isprintable()} == {"\n"}


def test_pairs_have_two_sides(warehouse: Path, tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text(
        "".join(
            json.dumps({"zh": f"我有{n}只猫。", "en": f"I have {n} cats."}) + "\n"
            for n in range(40)
        )
    )
    ref, profile, _ = profiled(
        warehouse,
        str(source),
        records=RecordsConfig("pairs", {"source": "zh", "target": "en"}),
        columns=("source", "target"),
        texts=(CHARACTERS, TextConfig(language="en")),
    )
    assert [text.name for text in profile.texts] == ["sources", "targets"]
    assert [text.mixes for text in profile.texts] == [{"Han": 40}, {"Latin": 40}]
    assert [each.name for each in profile.vocabularies] == ["sources", "targets"]
    assert profile.turns is None and profile.categories == {}
    assert "distinct tokens of targets" in key_figures(profile)
    assert "without a space" in (warehouse / ref.page.path).read_text(encoding="utf-8")


def test_labels_are_counted(warehouse: Path, tmp_path: Path) -> None:
    source = tmp_path / "reviews.jsonl"
    source.write_text(
        "".join(
            json.dumps({"text": f"第{n}本书", "label": "好" if n % 4 else "坏"}) + "\n"
            for n in range(40)
        )
    )
    _, profile, _ = profiled(
        warehouse,
        str(source),
        records=RecordsConfig("labelled"),
        columns=("tokens", "label"),
    )
    assert profile.categories == {"label": (("好", 30), ("坏", 10))}
    assert [each.name for each in profile.vocabularies] == ["texts", "label"]


def test_series_have_values_and_no_words(warehouse: Path, tmp_path: Path) -> None:
    source = tmp_path / "series.jsonl"
    source.write_text(
        "".join(json.dumps({"time": f"{n:03}", "value": n % 12}) + "\n" for n in range(60))
    )
    steps = Steps(warehouse)
    ingested = ingest_sources(steps, "talks", [str(source)], RecordsConfig("series"))
    divided = steps.run(
        divide_series,
        root=str(warehouse),
        shards=ingested.shards,
        splits=SplitsConfig(0.2, 0.2, by="chronological"),
        period=12,
    )
    ref = profile_series(steps, ingested, divided)
    (series,) = read_profile(warehouse, ref.data).series
    assert (series.num, series.minimum, series.maximum) == (60, 0, 11)
    assert (series.train_end, series.valid_end) == (36, 48)
    page = Reader((warehouse / ref.page.path).read_text(encoding="utf-8")).text
    assert "observations" in page and "standard deviation" in page


def test_a_page_of_nothing_is_a_page() -> None:
    origin = Origin("empty", "0" * 64, 1, None, ())
    assert "No unusual values" in as_page(Profile("dialogues", 0, ()), origin)
    nothing = profile_values("none", np.zeros(0), 0, 0)
    assert "Series" in as_page(Profile("series", 0, (), series=(nothing,)), origin)


def test_a_snapshot_that_is_not_there_is_one_sentence(warehouse: Path, tmp_path: Path) -> None:
    from flows.profile import profile

    def call(**changes: str) -> ProfileRef:
        settings = {"name": "talks", "kind": "dialogues", **changes}
        made: ProfileRef = profile.fn(
            columns=["tokens"],
            texts=[CHARACTERS],
            splits=SplitsConfig(),
            vocabulary=VocabularyConfig(),
            warehouse=str(warehouse),
            **settings,
        )
        return made

    with pytest.raises(InputError, match="no data of 'talks' yet: run tidemill ingest talks"):
        call()
    profiled(warehouse, dialogues(tmp_path / "a.jsonl", *"天地玄黄宇宙洪荒"))
    ref = call()
    assert call(snapshot=ref.snapshot.id[:8]) == ref
    with pytest.raises(StorageError, match=rf"no snapshot of 'talks'.* {ref.snapshot.id[:12]}"):
        call(snapshot="x")
    with pytest.raises(InputError, match="holds dialogues, and the deployment reads pairs"):
        call(kind="pairs")
    with pytest.raises(InputError, match="no data of 'walks': did you mean talks"):
        call(name="walks")
