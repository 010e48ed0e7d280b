"""Language models that only count: the naive rivals.

Shapes: n tokens of the training text, T tokens to predict, V symbols.
"""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 20
"""Number of tokens that are counted at once."""


class NGrams:
    """Unigram and interpolated bigram of a training text.

    ``P(b) = (c(b) + 1) / (n + V)`` and ``P(b | a) = (c(a b) + t(a) P(b)) / (c(a .) + t(a))``, with counts c
    and t(a) the number of different symbols that follow a. Source of the second: Witten and Bell, The
    zero-frequency problem, 1991.

    Args:
        tokens: (n,) the training text, of at least two tokens.
        symbols: V.
    """

    def __init__(self, tokens: np.ndarray, symbols: int) -> None:
        self.symbols = symbols
        self._pairs, self._counts = self._counted(tokens)
        before, after = np.divmod(self._pairs, symbols)
        self._total = np.bincount(before, self._counts, symbols)
        self._followers = np.bincount(before, minlength=symbols)
        count = np.bincount(after, self._counts, symbols)
        count[tokens[0]] += 1  # nothing is before it
        self._share = (count + 1) / (len(tokens) + symbols)

    def _counted(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sorted codes of the pairs that occur, and their counts; block by block, to save memory."""
        blocks = (tokens[start : start + BLOCK + 1] for start in range(0, len(tokens) - 1, BLOCK))
        parts = [np.unique(self._codes(block[:-1], block[1:]), return_counts=True) for block in blocks]
        codes, counts = (np.concatenate(held) for held in zip(*parts, strict=True))
        pairs, place = np.unique(codes, return_inverse=True)
        return pairs, np.bincount(place, counts)

    def _codes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return before.astype(np.int64) * self.symbols + after

    def unigram(self, targets: np.ndarray) -> np.ndarray:
        """Loss (T,) of `targets` (T,), in nats."""
        return -np.log(self._share[targets])

    def bigram(self, before: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Loss (T,) of `targets` (T,), each after the symbol in `before` (T,), in nats."""
        codes = self._codes(before, targets)
        place = np.searchsorted(self._pairs, codes).clip(max=len(self._pairs) - 1)
        seen = np.where(self._pairs[place] == codes, self._counts[place], 0)
        followers, total = self._followers[before], self._total[before]
        unigram = self._share[targets]
        bigram = (seen + followers * unigram) / np.maximum(followers + total, 1)
        return -np.log(np.where(followers + total > 0, bigram, unigram))  # nothing followed some symbols
