"""What a classifier or tagger has to beat: always the most frequent answer.

Shape letters: ``N`` rows or tokens, ``K`` classes or tags, ``V`` vocabulary.

Probabilities are smoothed so that no answer is impossible and the perplexity stays finite. The most
probable answer is the most frequent one all the same.
"""

import torch
from torch import Tensor, nn


class MostFrequentClass(nn.Module):
    """Each class as often as in training, every one counted once more (Laplace's add-one).

    Attributes:
        logarithms: natural logarithms of the classes' probabilities, float64 ``[K]``.
    """

    logarithms: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        uniform = torch.ones(num_classes, dtype=torch.float64) / num_classes
        self.register_buffer("logarithms", uniform.log())

    def estimate(self, classes: Tensor) -> None:
        """Count ``classes [N]`` (int64)."""
        counts = torch.bincount(classes, minlength=len(self.logarithms)).double() + 1
        self.logarithms = (counts / counts.sum()).log().to(self.logarithms)

    def forward(self, num_rows: int) -> Tensor:
        """The same logarithms for every row: ``[N, K]``."""
        return self.logarithms.expand(num_rows, -1)


class MostFrequentTag(nn.Module):
    """The tag that a word most often has; for a word never seen, the most frequent tag of all.

    A word's tags count as often as they were seen, and the tags of all words together count as one
    more occurrence of it: ``P(k | w) = (c(w, k) + P(k)) / (c(w) + 1)``, a Dirichlet prior (MacKay
    and Peto 1995). It decides between tags that a word has equally often. ``P(k)`` is add-one
    smoothed.

    Attributes:
        logarithms: natural logarithms of each word's tags' probabilities, float64 ``[V, K]``.
    """

    logarithms: Tensor

    def __init__(self, num_words: int, num_tags: int) -> None:
        super().__init__()
        uniform = torch.ones(num_words, num_tags, dtype=torch.float64) / num_tags
        self.register_buffer("logarithms", uniform.log())

    def estimate(self, words: Tensor, tags: Tensor) -> None:
        """Count tokens: ``words [N]`` and their ``tags [N]`` (int64)."""
        num_words, num_tags = self.logarithms.shape
        counts = torch.bincount(words * num_tags + tags, minlength=num_words * num_tags)
        table = counts.view(num_words, num_tags).double()
        overall = table.sum(0) + 1
        table = table + overall / overall.sum()
        self.logarithms = (table / table.sum(1, keepdim=True)).log().to(self.logarithms)

    def forward(self, words: Tensor) -> Tensor:
        """Logarithms of the tags' probabilities of ``words [N]``: ``[N, K]``."""
        return self.logarithms[words]
