"""Records: one module for each kind, its fields, its check and its reader."""
