"""Storage and registry: where records, tokens, ids, checkpoints and versions are kept."""
