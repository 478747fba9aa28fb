"""Part-of-speech tags by jieba, so that any Chinese text is an example of tagging."""

import warnings
from collections.abc import Sequence

from .config import TextConfig
from .segmentation import packaged_jieba
from .tokenizer import Tokenizer


class PartOfSpeechTagger:
    """Words and their tags in the notation of ICTCLAS: ``n`` noun, ``v`` verb, ``r`` pronoun ...

    The words are those of ``jieba.posseg``, which are nearly always those of ``jieba.lcut``.
    """

    def __init__(self, config: TextConfig) -> None:
        self._tokenizer = Tokenizer(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba 0.42.1 has invalid escape sequences
            from jieba.posseg import POSTokenizer
        # Own dictionaries: what others add to jieba's global tokenizer must not change a tag.
        self._tagger = POSTokenizer(packaged_jieba(config.user_words))
        self._hmm = config.hmm

    def tag(self, texts: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
        """The words of each normalised text, and the tag of each word."""
        words: list[list[str]] = []
        tags: list[list[str]] = []
        for text in texts:
            pairs = self._tagger.lcut(self._tokenizer.normalise(text), HMM=self._hmm)
            words.append([pair.word for pair in pairs])
            tags.append([pair.flag for pair in pairs])
        return words, tags
