"""English words and punctuation, and back to text."""

import re

# --- tokens ---------------------------------------------------------------------------------------

# Marks the side on which a token sticks to its neighbour, as in OpenNMT's tokenizer.
JOINER = "￭"

_ESCAPE = "￮"

_ESCAPES = {JOINER: _ESCAPE + "j", _ESCAPE: _ESCAPE + "e"}

_ESCAPED = {code: char for char, code in _ESCAPES.items()}

_LETTER = r"[^\W\d_]"

_PIECE = re.compile(
    rf"(?P<clitic>(?<={_LETTER})(?:n['’]t|['’](?:s|m|d|re|ve|ll))(?!\w))"
    rf"|(?P<word>{_LETTER}+?(?=n['’]t(?!\w))|(?:{_LETTER}[\u0300-\u036f]*)+|\d+(?:[.,:]\d+)*)"
    r"|(?P<mark>(.)\4{0,2})",
    re.IGNORECASE | re.DOTALL,
)

# A blank between two words is where tokens part; any other white space is a token of its own.
_PARTING_BLANK = re.compile(r"(?<=\S) (?=\S)")


def split_at_blanks(text: str) -> list[str]:
    """Split at single blanks; a token of subwords may hold other ones."""
    parts = text.split()
    return parts if " ".join(parts) == text else _PARTING_BLANK.split(text)


def english_tokens(between_blanks: str) -> list[str]:
    """The tokens of what stands between two blanks, with joiner marks where they stick together.

    The mark goes on the side of the clitic or the punctuation: on an opening mark's right, on a
    closing mark's left, on both sides of one between words.
    """
    found = list(_PIECE.finditer(between_blanks))
    tokens = [re.sub(f"[{JOINER}{_ESCAPE}]", lambda m: _ESCAPES[m[0]], m[0]) for m in found]
    seen_word = False
    for index in range(len(found) - 1):
        here, after = found[index].lastgroup, found[index + 1].lastgroup
        seen_word |= here != "mark"
        if here == "mark" and (after == "word" or not seen_word):
            tokens[index] += JOINER
        else:
            tokens[index + 1] = JOINER + tokens[index + 1]
    return tokens


def unmarked(token: str) -> str:
    """An English token as it stands in the text."""
    bare = token.removeprefix(JOINER).removesuffix(JOINER)
    return re.sub(f"{_ESCAPE}[je]", lambda found: _ESCAPED[found[0]], bare)
