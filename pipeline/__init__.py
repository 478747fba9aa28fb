"""Recurrent sequence models: text, vocabularies, networks, training, search and metrics.

Values in, values out: no file, no clock, no environment, no tracker. With torch and numpy alone
this package trains and evaluates. Its modules import each other relatively, because a copy of it
travels inside every registered version and is imported there under a name of its own.
"""
