"""The exit codes of every command."""

OK, FAILED, MISTAKE, NOTHING_YET, INTERRUPTED = 0, 1, 2, 3, 130

EXPLAINED = (
    "Exit codes: 0 success. 1 failure: a check found a problem, the storage is full or not "
    "writable, or an unexpected error occurred. 2 wrong usage: correct the argument, the setting "
    "or the file that the message names. 3 nothing there yet: no data or no model is stored under "
    "this name. 130 interrupted."
)
