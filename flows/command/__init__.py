"""The command ``tidemill``: one typed function a command, its options beside it."""
