"""What pipeline/ raises when a person, not the program, is at fault."""


class InputError(ValueError):
    """A setting or a piece of data that cannot be used.

    The message is one sentence that names the culprit and the remedy, fit to be shown as it is.
    """
