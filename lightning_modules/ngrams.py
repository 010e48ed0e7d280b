"""Language models that count: the naive rivals.

Shapes: n tokens of the training text, T tokens to predict, V symbols.
"""

from __future__ import annotations

import numpy as np


class NGrams:
    """Unigram and interpolated bigram of a training text.

    ``P(b) = (c(b) + 1) / (n + V)``  and  ``P(b | a) = (c(a b) + t(a) P(b)) / (c(a .) + t(a))``, t(a) being the number of
    different symbols that follow a. Source of the second: Witten and Bell, The zero-frequency problem, 1991.

    Args:
        tokens: (n,) the training text.
        symbols: V.
    """

    def __init__(self, tokens: np.ndarray, symbols: int) -> None:
        self.symbols = symbols
        self._share = (np.bincount(tokens, minlength=symbols) + 1.0) / (len(tokens) + symbols)
        pairs, self._counts = np.unique(self._codes(tokens[:-1], tokens[1:]), return_counts=True)
        self._pairs = pairs
        self._total = np.bincount(tokens[:-1], minlength=symbols)
        self._followers = np.bincount(pairs // symbols, minlength=symbols)

    def _codes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return before.astype(np.int64) * self.symbols + after

    def unigram(self, targets: np.ndarray) -> np.ndarray:
        """(T,) nats of `targets` (T,)."""
        return -np.log(self._share[targets])

    def bigram(self, before: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(T,) nats of `targets` (T,), each after the symbol in `before` (T,)."""
        codes = self._codes(before, targets)
        place = np.searchsorted(self._pairs, codes).clip(max=max(len(self._pairs) - 1, 0))
        seen = np.where(self._pairs[place] == codes, self._counts[place], 0)
        followers, total = self._followers[before], self._total[before]
        known = np.maximum(followers + total, 1)  # a symbol that nothing follows says nothing
        share = np.where(followers + total > 0, (seen + followers * self._share[targets]) / known, self._share[targets])
        return -np.log(share)
