"""Write the kept results into docs/benchmarks.md, between their markers, and draw the ratios.

    python benchmarks/report.py

Reads benchmarks/results/*.json, which word_language_model.py and translation.py leave behind; what
has no result stays as it is.
"""

import json
import re
from statistics import median, quantiles
from typing import Any

import translation
import word_language_model
from matplotlib.figure import Figure
from rounds import RESULTS, ROOT, caption

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "speed.png"
PAIRS = (("tidemill 2x256, fed", "JoeyNMT"), ("tidemill 2x128, fed", "OpenNMT-py"))
"""Of the same architecture, as the peers come."""
BAR, FRAME, INK = "#2a78d6", "#c3c2b7", "#52514e"


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of_language_models(results: dict[str, Any]) -> str:
    headings = ["size", "way", "words a CPU second", "x example", "x textbook", "x limit"]
    table = markdown(headings, word_language_model.table(results["seconds"]))
    counts = ", ".join(str(len(each["limit"])) for each in results["seconds"].values())
    return (
        f"{table}\n\nMedian and quartiles of {counts} rounds; text {results['text']}; "
        f"{caption(results['machine'])}."
    )


def of_translation(results: dict[str, Any]) -> str:
    rows = translation.table(results["runs"])
    sizes = results["sizes"]
    return (
        f"{markdown(list(translation.HEADINGS), rows)}\n\n{sizes['pairs']:,} pairs of "
        f"{results['pairs']}, vocabularies of {sizes['words.src']:,} and {sizes['words.tgt']:,} "
        f"words; {translation.effort(results)}; {caption(results['machine'])}."
    )


SECTIONS = {"word_language_model": of_language_models, "translation": of_translation}


def bars(found: dict[str, dict[str, Any]]) -> list[tuple[str, list[float]]]:
    """What is drawn: a label and the ratios of its rounds."""
    drawn = []
    if "word_language_model" in found:
        for name, seconds in found["word_language_model"]["seconds"].items():
            size, batch = name.split("-")
            for way, label in (("example", "PyTorch example"), ("textbook", "d2l, from scratch")):
                pairs = zip(seconds[way], seconds["tidemill"], strict=True)
                heading = f"word model {size}, batch {batch}: {label}"
                drawn.append((heading, [a / b for a, b in pairs]))
    if "translation" in found:
        runs = found["translation"]["runs"]
        for ours, peer in PAIRS:
            if {ours, peer} <= runs.keys():
                for task in ("training", "beam"):
                    found_ratios = translation.common(task, runs[ours], runs[peer])
                    what = "translation, training" if task == "training" else "translation, beam 5"
                    drawn.append((f"{what}: {peer}", found_ratios))
    return drawn


def draw(drawn: list[tuple[str, list[float]]]) -> None:
    figure = Figure(figsize=(8, 0.42 * len(drawn) + 1.1), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, (_, values) in enumerate(reversed(drawn)):
        middle = median(values)
        low, high = min(values), max(values)
        if len(values) >= 8:
            low, _, high = quantiles(values, n=4)
        axes.barh(place, middle, height=0.62, color=BAR)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
        axes.text(max(high, middle) + 0.08, place, f"{middle:.2f}", va="center", color=INK)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(drawn)), [label for label, _ in reversed(drawn)])
    figure.suptitle("How many times as fast as others, in CPU seconds side by side", fontsize=11)
    axes.set_xlabel("the line at a bar's end spans the middle half of the rounds", color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FRAME)
    axes.margins(x=0.08)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Software": None})


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = {}
    for name, write in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
            between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            text = write(found[name])
            page, count = between.subn(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page)
            if count != 1:
                raise SystemExit(f"{PAGE} has {count} places for {name}: put its markers once")
    PAGE.write_text(page, encoding="utf-8")
    if found:
        draw(bars(found))


if __name__ == "__main__":
    main()
