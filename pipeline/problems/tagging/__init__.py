"""Tagging: a label for every token."""
