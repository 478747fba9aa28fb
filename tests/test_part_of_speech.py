"""Parts of speech: the words make up the text, and user words are kept whole."""

from pipeline.text.config import TextConfig
from pipeline.text.part_of_speech import PartOfSpeechTagger


def test_every_word_has_a_tag() -> None:
    texts = ["我爱北京天安门。", "<b>今天</b>很好", ""]
    words, tags = PartOfSpeechTagger(TextConfig()).tag(texts)
    assert ["".join(row) for row in words] == ["我爱北京天安门。", "今天很好", ""]
    assert [len(row) for row in words] == [len(row) for row in tags]
    assert dict(zip(words[0], tags[0], strict=True))["北京"] == "ns"


def test_user_words_are_kept_whole() -> None:
    words, _ = PartOfSpeechTagger(TextConfig(user_words=("天安门广场东",))).tag(["在天安门广场东"])
    assert "天安门广场东" in words[0]
