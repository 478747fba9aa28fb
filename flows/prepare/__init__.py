"""From records to ids: tokens, splits, vocabularies, ids."""
