"""Language model: the next token of a stream of text."""
