"""How text becomes tokens: the settings."""

from dataclasses import dataclass

from ..errors import InputError, choose_from
from .normalise import DEFAULT_STEPS, check_steps, normalise_row
from .segmentation import can_join, user_word

LANGUAGES = ("zh", "en")

UNITS = ("word", "char", "whitespace", "subword")

MAX_FREQUENCY = 1_000_000_000
"""Of a user word: jieba's whole dictionary counts 60 million words of text."""


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextConfig:
    """How text becomes tokens.

    - `language`: "zh" or "en"; decides what a word is.
    - `unit`: "word" (zh: as jieba cuts; en: words, clitics, numbers and punctuation), "char" (every
      code point, blanks too), "whitespace" (what stands between blanks, for text cut before) or
      "subword" (pieces of words that are learnt from the training split).
    - `hmm`: let jieba's hidden Markov model find words that its dictionary lacks.
    - `user_words`: words to add to jieba's dictionary, each as a line of a user dictionary: the
      word, `WORD FREQUENCY` (0 deletes it), `WORD TAG` or `WORD FREQUENCY TAG`.
    - `normalisation`: the steps of `normalise`, in order.
    - `lowercase`: lower case, after normalisation.
    - `subword_size`: how many subwords are learnt, single characters included; all get an id,
      whatever the settings of the vocabulary say.

    Raises `InputError` for a value that cannot work.
    """

    language: str = "zh"
    unit: str = "word"
    hmm: bool = True
    user_words: tuple[str, ...] = ()
    normalisation: tuple[str, ...] = DEFAULT_STEPS
    lowercase: bool = False
    subword_size: int = 8000

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise InputError(
                f"there is no language {self.language!r}: {choose_from(self.language, LANGUAGES)}"
            )
        if self.unit not in UNITS:
            raise InputError(
                f"there is no text unit {self.unit!r}: {choose_from(self.unit, UNITS)}"
            )
        # A configuration that was read from JSON brings lists.
        object.__setattr__(self, "user_words", tuple(self.user_words))
        object.__setattr__(self, "normalisation", tuple(self.normalisation))
        check_steps(self.normalisation)
        if self.subword_size < 1:
            raise InputError(f"subword_size is {self.subword_size}: give 1 or more, such as 8000")
        if self.user_words and not self.uses_jieba:
            raise InputError("user_words need language zh and unit word: they go to jieba")
        seen: set[str] = set()
        for entry in self.user_words:
            check_user_word(entry, self)
            if user_word(entry).word in seen:
                raise InputError(f"the user word {user_word(entry).word!r} is given twice")
            seen.add(user_word(entry).word)

    @property
    def uses_jieba(self) -> bool:
        """Whether text is cut into Chinese words."""
        return (self.language, self.unit) == ("zh", "word")


def check_user_word(entry: str, config: TextConfig) -> None:
    """Raise `InputError` for an entry of a user dictionary that could never have an effect."""
    word, frequency, _ = user_word(entry)
    clean = normalise_row(word, config.normalisation, config.lowercase)
    if word != clean:
        raise InputError(f"the user word {word!r} never occurs in normalised text: write {clean!r}")
    if not can_join(word):
        raise InputError(
            f"the user word {word!r} can never be found: jieba joins only Chinese characters, "
            "ASCII letters, digits and + # & . _ % -; behind it may stand its frequency (0 deletes "
            "it) and its tag, with one blank before each"
        )
    if frequency is not None and frequency > MAX_FREQUENCY:
        raise InputError(
            f"the user word {word!r} has the frequency {frequency}: give at most {MAX_FREQUENCY}"
        )
