"""Sequence to sequence: a text into another text."""
