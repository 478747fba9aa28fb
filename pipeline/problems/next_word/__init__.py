"""Next word: the word after a window of words."""
