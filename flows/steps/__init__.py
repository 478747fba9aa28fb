"""How a step runs: its key, its lock, the digest of its code, its result."""
