"""Fit a variant here or in processes of its own, and score it."""
