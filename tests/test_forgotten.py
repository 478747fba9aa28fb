"""A withdrawn text is found however it is written, and nothing else is."""

import html
import json
import unicodedata
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from warehouse.forgotten import Sought, holding, is_utf8

Way = Callable[[str], str]


def json_escapes(text: str, digits: str = "04x") -> str:
    codes = text.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{int.from_bytes(codes[i : i + 2], 'big'):{digits}}" for i in range(0, len(codes), 2)
    )


def full_width(text: str) -> str:
    return "".join(
        "\u3000" if c == " " else chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text
    )


WAYS: dict[str, Way] = {
    "as it is": str,
    "lower escapes": json_escapes,
    "upper escapes": lambda text: json_escapes(text, "04X"),
    "JSON in ASCII": lambda text: json.dumps(text)[1:-1],
    "JSON": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[1:-1],
    "entities": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "hexadecimal entities": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "named entities": html.escape,
    "entities in entities": lambda text: html.escape("".join(f"&#{ord(c)};" for c in text)),
    "full width": full_width,
    **{
        form: lambda text, form=form: unicodedata.normalize(form, text)
        for form in ("NFC", "NFD", "NFKC", "NFKD")  # type: ignore[misc]
    },
}
plain = st.text(
    st.sampled_from("abzXY09 _-李明王芳电话號éüñÅ각한ガか😀𠮷ﬁ①½Ａｶﾞ"), min_size=2, max_size=10
).filter(lambda text: text.strip() == text)


@settings(max_examples=500)
@given(plain, st.lists(st.sampled_from(sorted(WAYS)), min_size=1, max_size=3))
def test_a_text_is_found_however_it_is_written(text: str, ways: list[str]) -> None:
    written = text
    for way in ways:
        written = WAYS[way](written)
    said = f"他说：{written}。"
    assert Sought(text).is_in(said)
    assert Sought(text).is_in_line(f'{{"x": "{said}"'.encode())
    assert Sought(WAYS[ways[0]](text)).is_in(said)
    batch = pa.record_batch({"topic": ["", said, "x"], "utterances": [["a", said], [], ["b"]]})
    assert holding(batch, Sought(text)).to_pylist() == [True, True, False]


@settings(max_examples=500)
@given(plain, plain, st.lists(st.sampled_from(sorted(WAYS)), max_size=2))
def test_another_text_is_not_found(text: str, other: str, ways: list[str]) -> None:
    forms = [unicodedata.normalize("NFKC", each) for each in (text, other)]
    assume(forms[0] not in forms[1])
    assume(not set(forms[0]) <= set("u0123456789abcdefABCDEFX"))  # may be part of an escape
    for way in ways:
        other = WAYS[way](other)
    assert not Sought(text).is_in(f"。{other}。")


def test_what_a_character_looks_like_is_not_what_it_is() -> None:
    assert not Sought("Rene").is_in("Ren\u00e9")
    assert not Sought("Rene").is_in("&#82;en\u00e9")
    assert not Sought("가").is_in("각")
    assert Sought("René").is_in("Rene\u0301e")
    # A text that means only a blank is looked for as it is written.
    assert not Sought("&nbsp;").is_in("a b")
    assert Sought("&nbsp;").is_in("a&nbsp;b")


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16", "utf-16-le", "utf-16-be"])
def test_lines_in_other_encodings_are_searched(encoding: str) -> None:
    raw = '{"name": "李明", "x": 1}'.encode(encoding)
    assert Sought("李明").is_in_line(raw)
    assert Sought("name").is_in_line(raw)
    assert not Sought("王芳").is_in_line(raw)
    assert is_utf8("李明".encode()) and is_utf8("李明".encode()[:-1])
    assert not is_utf8("李明。".encode("gb18030"))


def test_a_text_may_reach_over_several_tokens() -> None:
    tokens = [["我", "是", "李", "明"], ["New", "York"], ["李"], []]
    batch = pa.record_batch({"tokens": tokens, "tags": [["O"] * len(row) for row in tokens]})
    assert holding(batch, Sought("李明")).to_pylist() == [True, False, False, False]
    assert holding(batch, Sought("New York")).to_pylist() == [False, True, False, False]


@pytest.mark.parametrize("nesting", ["&amp;", "\\\\"])
def test_deep_nesting_ends(nesting: str) -> None:
    assert not Sought("李明").is_in("&" + nesting.lstrip("&") * 50_000)
