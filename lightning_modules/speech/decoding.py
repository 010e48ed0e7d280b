"""Decoding of the tokens' probabilities at each step by connectionist temporal classification (CTC).

An alignment assigns a token or the blank (number 0) to every step; removing repeats and then blanks yields
its tokens. Source: Graves et al., Connectionist temporal classification, 2006.

Shapes: T steps, V tokens including the blank.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby

import numpy as np

BLANK = 0
LEAST = 1e-6
"""Probability below which beam search ignores a token in a step."""


def greedy(log_probs: np.ndarray) -> list[int]:
    """Tokens of the likeliest alignment, given `log_probs` (T, V)."""
    return [int(token) for token, _ in groupby(log_probs.argmax(1)) if token != BLANK]


def beam_search(log_probs: np.ndarray, width: int) -> tuple[list[int], float]:
    """Likeliest tokens, given `log_probs` (T, V), and the log-probability of all their alignments together.

    Prefix beam search: the `width` likeliest prefixes are kept at each step, each with the probability of its
    alignments that end in a blank, and of those that end in its last token. The result is exact if `width`
    holds all prefixes and no token is ever below `LEAST`; otherwise a lower bound. Source: Hannun et al.,
    First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs, 2014, here
    without a language model."""
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -np.inf)}
    for step in log_probs:
        grown: defaultdict[tuple[int, ...], list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        likely = [
            (int(token), float(step[token]))
            for token in np.flatnonzero(step > np.log(LEAST))
            if token != BLANK
        ]
        for prefix, (blank, last) in beams.items():
            both = _add(blank, last)
            own = grown[prefix]
            own[0] = _add(own[0], both + float(step[BLANK]))
            for token, value in likely:
                again = bool(prefix) and prefix[-1] == token
                if again:
                    own[1] = _add(own[1], last + value)
                longer = grown[(*prefix, token)]
                longer[1] = _add(longer[1], (blank if again else both) + value)
        best = sorted(grown.items(), key=lambda item: (-_add(*item[1]), item[0]))[:width]
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    prefix, ends = next(iter(beams.items()))
    return list(prefix), _add(*ends)


def _add(a: float, b: float) -> float:
    """log(exp a + exp b)"""
    low, high = (a, b) if a < b else (b, a)
    return high if low == -np.inf else high + float(np.log1p(np.exp(low - high)))
