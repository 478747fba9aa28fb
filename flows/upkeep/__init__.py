"""Care of a warehouse: forget, verify, collect garbage, compact."""
