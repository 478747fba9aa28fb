"""Search for the best output: greedy, beam, exhaustive, sampling."""
