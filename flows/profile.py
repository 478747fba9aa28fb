"""Profile: what a snapshot holds and how far it moved, counted once a shard, kept as a page.

The counting, the adding up and the drawing are cached tasks: a new file costs the counting of that
file, a changed plot counts nothing again. The pages lie in the warehouse, beside the snapshots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from prefect import flow
from pydantic import BaseModel, TypeAdapter

from flows.catalogue import nothing_under
from flows.environment import warehouse_root
from flows.ingest import IngestReport, ingested_snapshot
from flows.pages.design import design_digest
from flows.pages.reports import show_report
from flows.prepare.series import TimesReport, order_series
from flows.prepare.splits import Cut, SplitRefs, cut_and_divide, divide_series
from flows.prepare.tokens import tokens_of
from flows.prepare.vocabularies import VocabularyRef, read_vocabulary
from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.profile import (
    Contradictions,
    Counts,
    Origin,
    Profile,
    Tally,
    TextCounts,
    VocabularyProfile,
    as_markdown,
    count_texts,
    joined,
    lengths_of,
    profile_texts,
    profile_values,
    sum_by_name,
)
from pipeline.series import NUM_SHOWN, SeriesTimes
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.vocabulary import VocabularyConfig
from warehouse.files import FileRef, PageRef, keep_file
from warehouse.registry.registry import Registry
from warehouse.registry.versions import Version
from warehouse.tables.columns import count_words, ragged_column
from warehouse.tables.example_schemas import LABELS, contradicting_labels, merged_words, words_table
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import SnapshotRef, Tables

TEXTS = {"dialogues": "utterances", "text": "lines", "source": "sources", "target": "targets"}
"""What a person calls the texts of a kind of records, or of a side of pairs; else texts."""

DIALOGUES = "dialogues"
TOPIC = "topic"


class ShardCounts(BaseModel, frozen=True):
    """What was counted in one shard: words and texts by column, dialogues, categories."""

    num_rows: int
    words: dict[str, TableRef]
    texts: dict[str, TextCounts]
    turns: Tally | None
    categories: dict[str, TableRef]


class ProfileRef(BaseModel, frozen=True):
    """The profile of a snapshot: as JSON, as a page, as a picture; paths are below the root."""

    snapshot: SnapshotRef
    data: FileRef
    page: FileRef
    picture: FileRef


@flow(name="profile")
def profile(
    name: str,
    kind: str,
    columns: list[str],
    texts: list[TextConfig],
    splits: SplitsConfig,
    vocabulary: VocabularyConfig,
    period: int = 1,
    snapshot: str = "",
    warehouse: str = "",
) -> ProfileRef:
    """Profile a snapshot of ``name`` as a retraining would read it; no source is read.

    Args:
        kind: of the records.
        columns, texts: which columns of tokens a problem reads, and how they are cut; none for
            series, which have a ``period``.
        snapshot: how its id begins; the newest where it is empty.
    """
    steps = Steps(warehouse_root(warehouse))
    ingested = _ingested(steps, name, kind, snapshot)
    if columns:
        cut = cut_and_divide(
            steps,
            ingested.shards,
            kind,
            columns,
            texts,
            splits,
            vocabulary,
            files=ingested.files,
        )
        made = profile_snapshot(steps, ingested, kind, columns, texts, cut)
    else:
        divided = steps.run(
            divide_series,
            shards=ingested.shards,
            splits=splits,
            period=period,
            files=ingested.files,
        )
        made = profile_series(steps, ingested, divided)
    page = steps.root / made.page.path
    lines = [*as_markdown(read_profile(steps.root, made.data)), "", f"The page: `{page}`"]
    show_report("profile", name, lines)
    return made


def _ingested(steps: Steps, name: str, kind: str, snapshot: str) -> IngestReport:
    """What was ingested as a snapshot.

    Raises:
        InputError: nothing was ingested under this name, or another kind of records.
        StorageError: there is no such snapshot, or its rows were withdrawn.
    """
    tables = Tables(steps.root)
    head = tables.head(name)
    if head is None:
        raise nothing_under(name, tables.names(), "data", "ingest")
    ingested = ingested_snapshot(steps, name, snapshot or head.id)
    if not snapshot:
        # Of versions with the same content this is the newest, and so are those before it.
        ingested = ingested.model_copy(update={"snapshot": head})
    found = tables.snapshot(ingested.snapshot).meta.get("kind", kind)
    if found != kind:
        raise InputError(
            f"snapshot {ingested.snapshot.id[:12]} of {name} holds {found}, and the deployment "
            f"reads {kind}: set records.kind, or name another snapshot"
        )
    return ingested


def profile_snapshot(
    steps: Steps,
    ingested: IngestReport,
    kind: str,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    cut: Cut,
) -> ProfileRef:
    """Count every shard that is not counted yet, add up, compare, and draw the page.

    Args:
        ingested: the snapshot and its tables of records.
        columns, texts: which columns of tokens a problem reads, and how they were cut.
        cut: the same records as tokens, divided, with their vocabularies.
    """

    def counted(shards: Sequence[TableRef], tokens: Sequence[TableRef]) -> dict[str, ShardCounts]:
        return {
            shard.digest: steps.run(
                count_shard,
                label=shard.digest[:8],
                shard=shard,
                tokens=table,
                kind=kind,
                columns=columns,
                texts=texts,
            )
            for shard, table in zip(shards, tokens, strict=True)
        }

    now = counted(ingested.shards, cut.tokens)
    before: dict[str, ShardCounts] = {}
    previous = _previous(steps, ingested.snapshot, kind)
    if previous is not None:
        # Cut as today's texts are: the shards that both snapshots have are counted already.
        shards = Tables(steps.root).snapshot(previous).refs
        before = counted(shards, tokens_of(steps, shards, kind, columns, texts))
    grown = before.keys() < now.keys()
    data: FileRef = steps.run(
        summarise,
        folder=_folder(ingested.snapshot),
        kind=kind,
        columns=columns,
        counts=[now[digest] for digest in sorted(now)],
        before=[before[digest] for digest in sorted(before)],
        # Where all of the snapshot before is still there, the rest is what was added.
        added=[now[digest] for digest in sorted(now.keys() - before.keys())] if grown else [],
        splits=cut.splits,
        vocabularies=cut.vocabularies,
        labelled=ingested.shards if kind == "labelled" else (),
        rejected=ingested.rejected_by_reason,
        num_dropped_utterances=ingested.num_dropped_utterances,
    )
    number = previous.number if previous else None
    return _drawn(steps, ingested.snapshot, data, number, [_cutting(text) for text in texts])


def profile_series(steps: Steps, ingested: IngestReport, splits: SplitRefs) -> ProfileRef:
    """The same of series of numbers, which have no tokens."""
    times: TimesReport = steps.run(order_series, shards=ingested.shards)
    data: FileRef = steps.run(
        summarise_series,
        folder=_folder(ingested.snapshot),
        num_rows=ingested.snapshot.num_rows,
        splits=splits,
        times=times.series,
        rejected=ingested.rejected_by_reason,
    )
    return _drawn(steps, ingested.snapshot, data, None, [])


def _drawn(
    steps: Steps,
    snapshot: SnapshotRef,
    data: FileRef,
    before: int | None,
    cutting: Sequence[str],
) -> ProfileRef:
    drawn: PageRef = steps.run(
        draw_profile,
        folder=_folder(snapshot),
        profile=data,
        origin=Origin(snapshot.name, snapshot.id, snapshot.number, before, tuple(cutting)),
        design=design_digest(),
    )
    return ProfileRef(snapshot=snapshot, data=data, page=drawn.page, picture=drawn.picture)


def _folder(snapshot: SnapshotRef) -> str:
    return f"profiles/{snapshot.id[:16]}"


def show_profile(registry: Registry, version: Version, root: Path, profile: ProfileRef) -> None:
    """Show the page and the picture with a version that was trained on the snapshot."""
    files = {"profile.html": profile.page, "profile.png": profile.picture}
    registry.attach(
        version,
        "profile",
        profile.page.path,
        {name: root / ref.path for name, ref in files.items()},
    )


def read_profile(root: str | Path, ref: FileRef) -> Profile:
    """A profile back from its JSON."""
    return TypeAdapter(Profile).validate_json((Path(root) / ref.path).read_bytes())


def _cutting(text: TextConfig) -> str:
    return f"{text.language} by {text.unit}" + (", in lower case" if text.lowercase else "")


def _previous(steps: Steps, snapshot: SnapshotRef, kind: str) -> SnapshotRef | None:
    """The snapshot before this one, if it holds the same kind of records and is all there."""
    tables = Tables(steps.root)
    ref = tables.before(snapshot)
    if ref is None:
        return None
    found = tables.snapshot(ref)
    same = found.meta.get("kind") == kind and all(tables.intact(each) for each in found.refs)
    return ref if same else None


def _text_columns(kind: str) -> list[str]:
    """The columns of texts in the tables of tokens, which replies are paired from later."""
    if kind == "pairs":
        return ["source", "target"]
    return ["tokens"]


@cached_task()
def count_shard(
    root: str,
    shard: TableRef,
    tokens: TableRef,
    kind: str,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
) -> ShardCounts:
    """Count what one shard of records and its table of tokens hold."""
    tables = Tables(root)
    words: dict[str, TableRef] = {}
    counted: dict[str, TextCounts] = {}
    for place, column in enumerate(_text_columns(kind)):
        tokenizer = Tokenizer(texts[min(place, len(texts) - 1)])
        parts = []
        of_words: list[dict[str, int]] = []
        for dictionary, indices, offsets in tables.encoded(tokens, column):
            characters = tokenizer.characters(dictionary, indices, offsets)
            part, times = count_texts(dictionary, indices, offsets, characters)
            parts.append(part)
            of_words.append(dict(zip(dictionary, times.tolist(), strict=True)))
        total = {word: count for word, count in sum_by_name(of_words).items() if count}
        ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
        counts = np.array([count for _, count in ordered], np.int64)
        words[column] = tables.write([words_table([word for word, _ in ordered], counts)])
        counted[column] = joined(parts)
    categories = {}
    named = {TOPIC: shard} if kind == DIALOGUES else {}
    named |= {column: tokens for column in columns if column in LABELS}
    for name, table in named.items():
        found = count_words(tables.batches(table, [name]), name)
        categories[name] = tables.write([words_table(*found)])
    turns = None
    if kind == DIALOGUES:
        turns = Tally()
        for batch in tables.batches(shard, ["speakers"]):
            turns += Tally.of(np.diff(ragged_column(batch, "speakers")[1]))
    return ShardCounts(
        num_rows=shard.num_rows, words=words, texts=counted, turns=turns, categories=categories
    )


@cached_task()
def summarise(
    root: str,
    folder: str,
    kind: str,
    columns: Sequence[str],
    counts: Sequence[ShardCounts],
    before: Sequence[ShardCounts],
    added: Sequence[ShardCounts],
    splits: SplitRefs,
    vocabularies: Sequence[VocabularyRef],
    labelled: Sequence[TableRef],
    rejected: Mapping[str, int],
    num_dropped_utterances: int,
) -> FileRef:
    """Add up the counts of all shards and compare them: a ``Profile``, as JSON."""
    tables = Tables(root)

    def words_of(shards: Sequence[ShardCounts], column: str) -> tuple[list[str], Counts] | None:
        refs = [shard.words[column] for shard in shards]
        return merged_words(tables, refs) if refs else None

    def values_of(column: str) -> tuple[tuple[str, int], ...]:
        values, times = merged_words(tables, [shard.categories[column] for shard in counts])
        return tuple(zip(values, times.tolist(), strict=True))

    turns = [shard.turns for shard in counts if shard.turns is not None]
    names = {column: TEXTS.get(column, TEXTS.get(kind, "texts")) for column in _text_columns(kind)}
    categories = counts[0].categories if counts else {}
    profile = Profile(
        kind=kind,
        num_rows=sum(shard.num_rows for shard in counts),
        texts=tuple(
            profile_texts(
                name,
                joined(shard.texts[column] for shard in counts),
                *(words_of(counts, column) or ([], np.zeros(0, np.int64))),
                before=words_of(before, column),
                added=words_of(added, column),
            )
            for column, name in names.items()
        ),
        vocabularies=tuple(
            VocabularyProfile(
                names.get(column, column),
                ref.num_words,
                _unknown_rates(tables, ref, splits, column),
            )
            for column, ref in zip(columns, vocabularies, strict=True)
        ),
        turns=lengths_of(sum(turns, Tally())) if turns else None,
        categories={column: values_of(column) for column in categories},
        splits={name: table.num_rows for name, table in splits.tables.items()},
        left_out={
            "exact duplicates": splits.num_duplicates,
            "also in validation or test": splits.num_leaks,
            "near-duplicates of validation or test rows": splits.num_near_copies,
            "near-duplicates": splits.num_near_duplicates,
        },
        rejected=dict(sorted(rejected.items())),
        num_dropped_utterances=num_dropped_utterances,
        contradictions=_contradictions(tables, labelled),
    )
    return _keep_profile(root, folder, profile)


def _contradictions(tables: Tables, labelled: Sequence[TableRef]) -> Contradictions:
    if not labelled:
        return Contradictions()
    num_texts, num_rows, examples = contradicting_labels(tables, labelled, NUM_SHOWN)
    return Contradictions(
        num_texts, num_rows, tuple((text, tuple(labels)) for text, labels in examples)
    )


@cached_task()
def summarise_series(
    root: str,
    folder: str,
    num_rows: int,
    splits: SplitRefs,
    times: Sequence[SeriesTimes],
    rejected: Mapping[str, int],
) -> FileRef:
    """What divided series hold: a ``Profile``, as JSON."""
    tables = Tables(root)
    rows = {name: tables.read(table) for name, table in splits.tables.items()}
    # Of each series its values in all splits; those that were filled are not a number.
    values = {name: _observed(each) for name, each in rows.items()}
    profile = Profile(
        kind="series",
        num_rows=num_rows,
        texts=(),
        series=tuple(
            profile_values(
                of.name,
                np.concatenate((train, valid, test)),
                len(train),
                len(train) + len(valid),
                # Where in the files observations stand is told when they are ingested.
                replace(of, repeated=(), unsorted=()),
            )
            for of, train, valid, test in zip(times, *values.values(), strict=True)
        ),
        splits={name: sum(map(len, each)) for name, each in values.items()},
        left_out={"corrected by a later row": splits.num_duplicates},
        rejected=dict(sorted(rejected.items())),
    )
    return _keep_profile(root, folder, profile)


def _observed(rows: Any) -> list[npt.NDArray[np.float64]]:
    values, offsets = ragged_column(rows, "targets")
    return [each[np.isfinite(each)] for each in np.split(values, offsets[1:-1])]


def _keep_profile(root: str, folder: str, profile: Profile) -> FileRef:
    payload = orjson.dumps(asdict(profile), option=orjson.OPT_INDENT_2)
    return keep_file(root, folder, "json", payload)


def _unknown_rates(
    tables: Tables, ref: VocabularyRef, splits: SplitRefs, column: str
) -> dict[str, float]:
    """Split -> share of its running tokens that have no id."""
    rates = {"train": ref.unknown_rate}
    vocabulary = read_vocabulary(tables, ref)
    for split in ("valid", "test"):
        num_unknown = num_tokens = 0
        for dictionary, indices, _ in tables.encoded(splits.tables[split], column):
            times = np.bincount(indices, minlength=len(dictionary))
            covered = vocabulary.coverage(dictionary, times)
            num_unknown += covered.num_unknown
            num_tokens += covered.num_tokens
        rates[split] = num_unknown / max(1, num_tokens)
    return rates


@cached_task()
def draw_profile(root: str, folder: str, profile: FileRef, origin: Origin, design: str) -> PageRef:
    """The page and the PNG of a profile; ``design`` is the digest of the templates."""
    # matplotlib takes half a second to import, and is needed only for a new profile.
    from flows.pages.profile_page import as_page, as_picture

    read = read_profile(root, profile)
    page, picture = as_page(read, origin), as_picture(read, origin)
    return PageRef(
        page=keep_file(root, folder, "html", page.encode()),
        picture=keep_file(root, folder, "png", picture),
    )
