"""What warehouse/ raises when a person or the storage, not the program, is at fault."""

import errno

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class StorageError(ValueError):
    """A file, table, checkpoint or version that cannot be read or written.

    The message is one sentence that names the culprit and the remedy, fit to be shown as it is.
    """


def remedy_of(error: OSError) -> str:
    """What a person can do where a file of the warehouse cannot be read or written."""
    if error.errno in FULL:
        return "free some space, or choose another warehouse (--warehouse)"
    if error.errno in FORBIDDEN:
        return "make it writable, or choose another warehouse (--warehouse), such as a copy of it"
    return "check the path, or choose another warehouse (--warehouse)"


def one_line(error: BaseException) -> str:
    """What an error says, as one line that is safe to print."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
