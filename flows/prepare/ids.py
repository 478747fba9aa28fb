"""The task from tokens to ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.prepare.vocabularies import VocabularyRef, read_vocabulary, spelling_beyond
from flows.steps.keys import cached_task
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.vocabulary import UNK, Spelling, Vocabulary
from warehouse.tables.columns import dictionary_column
from warehouse.tables.example_schemas import LABELS, id_table
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables


@cached_task()
def encode(
    root: str,
    rows: TableRef,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    vocabularies: Sequence[VocabularyRef],
) -> TableRef:
    """Ids of one split, ``TEXT_IDS`` or ``PAIR_IDS``, of columns that were cut as ``texts`` say."""
    tables = Tables(root)
    known = [read_vocabulary(tables, ref) for ref in vocabularies]
    table = tables.read(rows, columns)
    if columns[-1] in LABELS:
        return tables.write([labelled_ids(table, columns, known)])
    spelling = spelling_beyond(tables, vocabularies[-1], known[-1])
    return tables.write([encoded_rows(table, columns, known, spelling, Tokenizer(texts[-1]))])


def labelled_ids(rows: Any, columns: Sequence[str], vocabularies: Sequence[Vocabulary]) -> Any:
    """The ids of a table of tokens and labels."""
    encoded: dict[str, tuple[Any, Any]] = {}
    for name, column, vocabulary in zip(("inputs", "targets"), columns, vocabularies, strict=True):
        dictionary, indices, offsets = dictionary_column(rows.column(column))
        encoded[name] = (vocabulary.ids_of(dictionary)[indices], offsets)
    nothing = np.zeros(len(offsets), np.int64)
    encoded["characters"] = encoded["spelling"] = (np.zeros(0), nothing)
    return id_table(encoded)


def encoded_rows(
    rows: Any,
    columns: Sequence[str],
    vocabularies: Sequence[Vocabulary],
    spelling: Spelling,
    tokenizer: Tokenizer,
) -> Any:
    """The ids of a table of tokens; the last column, cut by ``tokenizer``, is the predicted one."""
    encoded: dict[str, tuple[Any, Any]] = {}
    for name, column, vocabulary in zip(("inputs", "targets"), columns, vocabularies, strict=False):
        dictionary, indices, offsets = dictionary_column(rows.column(column))
        ids = vocabulary.ids_of(dictionary)
        encoded[name] = (ids[indices], offsets)
    unknown = np.flatnonzero(ids == UNK)
    costs = np.zeros(len(ids), np.float32)
    costs[unknown] = spelling.nats([dictionary[index] for index in unknown])
    encoded["characters"] = (tokenizer.characters(dictionary, indices, offsets), offsets)
    encoded["spelling"] = (costs[indices], offsets)
    return id_table(encoded)
