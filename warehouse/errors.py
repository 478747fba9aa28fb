"""What warehouse/ raises when a person or the storage, not the program, is at fault."""


class StorageError(ValueError):
    """A file, table, checkpoint or version that cannot be read or written.

    The message is one sentence that names the culprit and the remedy, fit to be shown as it is.
    """
