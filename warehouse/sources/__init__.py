"""Source files: addresses, formats, compression."""
