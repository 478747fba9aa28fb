"""The training loop, its settings, precision, averaging and ranks."""
