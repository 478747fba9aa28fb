"""The tasks from records to tokens, shard by shard."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.text.config import TextConfig, check_user_word
from pipeline.text.normalise import normalise
from pipeline.text.part_of_speech import PartOfSpeechTagger
from pipeline.text.segmentation import (
    Segmenter,
    deleted_words,
    dictionary_digest,
    packaged_jieba,
    packaged_segmenter,
)
from pipeline.text.segmentation import Tables as DictionaryTables
from pipeline.text.tokenizer import Tokenizer, uncut_batch
from pipeline.text.utf8 import Utf8
from warehouse.arrays import Arrays
from warehouse.sources.files import printable
from warehouse.sources.sources import read_user_dictionary
from warehouse.tables.columns import utf8_column
from warehouse.tables.example_schemas import (
    LABEL_CUT,
    PAIRS_CUT,
    TAGS_CUT,
    UTTERANCES,
    labelled_rows,
    of_each_utterance,
    pair_rows,
    tagged_rows,
    utterance_rows,
    utterance_texts,
)
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables


def with_user_dictionary(
    text: TextConfig, target_text: TextConfig | None, address: str
) -> tuple[TextConfig, TextConfig | None]:
    """The settings with the entries of a user dictionary among their words, where jieba cuts.

    The entries themselves are part of the settings from here on: of the keys under which results
    are kept, and of the checkpoint, so that a prediction cuts as the training did.

    Raises:
        StorageError: the file cannot be read.
        InputError: an entry is wrong, or none of the texts is cut by jieba.
    """
    if not address:
        return text, target_text
    entries = read_user_dictionary(address)
    configs = [text] if target_text is None else [text, target_text]
    if not any(config.uses_jieba for config in configs):
        raise InputError("user_dictionary needs language zh and unit word: it goes to jieba")
    changed = []
    for config in configs:
        if config.uses_jieba:
            for line, entry in entries:
                try:
                    check_user_word(entry, config)
                except InputError as error:
                    raise InputError(f"{printable(address)} line {line}: {error}") from None
            words = (*config.user_words, *(entry for _, entry in entries))
            config = replace(config, user_words=words)
        changed.append(config)
    return changed[0], changed[1] if target_text else None


def tokens_of(
    steps: Steps,
    shards: Sequence[TableRef],
    kind: str,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
) -> list[TableRef]:
    """The table of tokens of each of these shards of records."""
    return [
        steps.run(
            tokenize,
            label=shard.digest[:8],
            shard=shard,
            kind=kind,
            columns=columns,
            text=texts[0],
            target_text=texts[-1] if kind == "pairs" else None,
        )
        for shard in shards
    ]


def tokens_schema(kind: str, columns: Sequence[str]) -> Any:
    """What records of a kind become for a problem that reads these columns."""
    if "label" in columns:
        return LABEL_CUT
    if "tags" in columns:
        return TAGS_CUT
    return PAIRS_CUT if kind == "pairs" else UTTERANCES


@cached_task()
def tokenize(
    root: str,
    shard: TableRef,
    kind: str,
    columns: Sequence[str],
    text: TextConfig,
    target_text: TextConfig | None,
) -> TableRef:
    """Cut one shard of records into tokens.

    Of dialogues a label is the topic, and tags are jieba's parts of speech.
    """
    tables = Tables(root)
    batches = tables.batches(shard)
    schema = tokens_schema(kind, columns)
    rows: Iterator[Any]
    if kind == "tagged":
        rows = (_normalised_tags(batch, text) for batch in batches)
    elif schema is TAGS_CUT:
        tagger = PartOfSpeechTagger(text)
        rows = (
            tagged_rows(
                of_each_utterance(batch, "group"),
                *tagger.tag(batch.column("utterances").flatten().to_pylist()),
            )
            for batch in batches
        )
    else:
        tokenizer = tokenizer_of(root, text)
        if kind == "labelled":
            rows = (
                labelled_rows(
                    batch.column("group"),
                    _cut(tokenizer, utf8_column(batch.column("text"))),
                    batch.column("label"),
                )
                for batch in batches
            )
        elif schema is LABEL_CUT:
            rows = (
                labelled_rows(
                    of_each_utterance(batch, "group"),
                    _cut(tokenizer, utterance_texts(batch)),
                    of_each_utterance(batch, "topic"),
                )
                for batch in batches
            )
        elif kind == "pairs":
            target_tokenizer = tokenizer_of(root, target_text or text)
            rows = (
                pair_rows(
                    batch,
                    _cut(tokenizer, utf8_column(batch.column("source"))),
                    _cut(target_tokenizer, utf8_column(batch.column("target"))),
                )
                for batch in batches
            )
        else:
            rows = (
                utterance_rows(batch, _cut(tokenizer, utterance_texts(batch))) for batch in batches
            )
    return tables.write(rows, schema)


def _cut(tokenizer: Tokenizer, texts: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """The tokens of a column; what is cut into subwords stays whole until they are learnt."""
    if tokenizer.config.unit == "subword":
        normalised, token_offsets, list_offsets = uncut_batch(Utf8(*texts), tokenizer.config)
    else:
        normalised, token_offsets, list_offsets = tokenizer.tokenize_batch(Utf8(*texts))
    return normalised.data, token_offsets, list_offsets


def _normalised_tags(batch: Any, text: TextConfig) -> Any:
    """Tagged texts as they are cut, each token as predictions will see it."""
    tokens = [
        [normalise(token, text.normalisation) or token for token in row]
        for row in batch.column("tokens").to_pylist()
    ]
    return tagged_rows(batch.column("group"), tokens, batch.column("tags").to_pylist())


def tokenizer_of(root: str, text: TextConfig) -> Tokenizer:
    """A tokenizer; one that cuts Chinese words has the warehouse's tables of jieba's dictionary."""
    if not text.uses_jieba:
        return Tokenizer(text)
    return Tokenizer(text, _stored_segmenter(root, text.user_words))


@lru_cache(maxsize=4)
def _stored_segmenter(root: str, user_words: tuple[str, ...]) -> Segmenter:
    """As ``packaged_segmenter``, with tables that are made once and then mapped from files."""
    arrays = Arrays(root)
    key = dictionary_digest(user_words)
    found = arrays.load(key)
    if found is None:
        arrays.save(key, packaged_segmenter(user_words).tables.to_arrays())
        return packaged_segmenter(user_words)
    return Segmenter(
        DictionaryTables.from_arrays(found),
        lambda: packaged_jieba(user_words),
        deleted_words(user_words),
    )
