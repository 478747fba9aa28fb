"""Recurrent networks: cells, the stack, words in and out, regularisation."""
