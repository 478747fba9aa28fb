"""What pipeline/ raises when a person, not the program, is at fault."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A setting or a piece of data that cannot be used.

    The message is one sentence that names the culprit and the remedy, fit to be shown as it is.
    """


class NothingYetError(InputError):
    """Nothing is stored under a name yet.

    The message names the command that stores something there.
    """


def nearest(word: str, valid: Iterable[str]) -> str:
    """The valid word that ``word`` is most like; empty where none is close."""
    by_lower_case = {each.lower(): each for each in valid}
    found = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return by_lower_case[found[0]] if found else ""


def choose_from(word: str, valid: Iterable[str]) -> str:
    """The end of a message about the unknown ``word``: the nearest valid word, then all of them."""
    known = list(valid)
    near = nearest(word, known)
    everything = ", ".join(known)
    return (
        f"did you mean {near}? The choices are {everything}"
        if near
        else f"choose from {everything}"
    )
