"""Text: normalisation, tokens, subwords, vocabularies."""
