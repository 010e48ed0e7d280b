"""Score of the Numenta Anomaly Benchmark: early detections earn most, and false alarms cost.

Shapes: T rows of a stream. Source: Lavin and Ahmad, Evaluating real-time anomaly detection algorithms, 2015;
with the rules of the benchmark's version 1.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dream.errors import DataError

PROBATION_SHARE, PROBATION_ROWS = 0.15, 750
FAR_PAST = 3.0  # window lengths after a window from which on a false alarm costs in full


class Profile(NamedTuple):
    """Weights that an application gives to a hit, a miss and a false alarm."""

    hit: float
    miss: float
    false_alarm: float


PROFILES = {
    "nab": Profile(1.0, 1.0, 0.11),
    "nab_low_fp": Profile(1.0, 1.0, 0.22),
    "nab_low_fn": Profile(1.0, 2.0, 0.11),
}
"""The benchmark's profiles by name of the metric: standard, reward few false positives, reward few misses."""


class Score(NamedTuple):
    """Best score of a detector on a corpus, and the threshold that reaches it."""

    value: float
    """100 for a perfect detector, 0 for one that never detects anything."""
    threshold: float
    """Least score of a detection; inf if it is best to detect nothing."""


class ScoredStream(NamedTuple):
    """Scores and labelled windows of one stream."""

    scores: np.ndarray
    """(T,)"""
    windows: Sequence[tuple[int, int]]
    """First and last row of each, in time order, not overlapping."""


def probation(rows: int) -> int:
    """Number of rows at the start of a stream that are never scored: 15 %, at most 750."""
    return min(int(PROBATION_SHARE * rows), PROBATION_ROWS)


def worth(rows: int, windows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Value (T,) of a detection at each row, before weights.

    Inside a window of w rows, at its row k from 0: ``s(-(w - k) / w) / s(-1)``, from 1 down to almost 0, with
    ``s(y) = 2 / (1 + exp(5 y)) - 1``. After it, d rows past its last: ``s(d / (w - 1))``, from almost 0 down
    to -1; -1 further than 3 (w - 1) rows away, and before the first window."""
    value = np.full(rows, -1.0)
    for k, (first, last) in enumerate(windows):
        width = last - first + 1
        value[first : last + 1] = _sigmoid(-np.arange(width, 0, -1) / width) / _sigmoid(np.array(-1.0))
        end = windows[k + 1][0] if k + 1 < len(windows) else rows
        distance = np.arange(1, end - last) / max(width - 1, 1)
        value[last + 1 : end] = np.where(distance > FAR_PAST, -1.0, _sigmoid(np.minimum(distance, FAR_PAST)))
    return value


def _sigmoid(y: np.ndarray) -> np.ndarray:
    return 2 / (1 + np.exp(5 * y)) - 1


def nab_scores(corpus: Mapping[str, ScoredStream]) -> dict[str, Score]:
    """Score of a detector in each of `PROFILES`, each at the threshold that is best for the whole corpus.

    A row whose score is at least the threshold is a detection. Of the detections in a window only the best
    counts, and a window without one costs the profile's miss; each detection outside of windows and probation
    costs ``false alarm * worth``. The sum over all streams is scaled so that a detector without detections
    gets 0 and a perfect one 100.

    The sum changes only at thresholds that occur as scores, so one sort of all scores yields every sum at
    once.

    Raises:
        DataError: no stream has a window, or scores are not finite.
    """
    total = sum(len(stream.windows) for stream in corpus.values())
    if total == 0:
        raise DataError("`corpus` must hold at least one labelled window for a NAB score; got none.")
    changes = np.concatenate([_changes(name, *stream) for name, stream in corpus.items()])
    changes = changes[np.argsort(-changes[:, 0], kind="stable")]
    thresholds = changes[:, 0]
    last_of_equals = np.append(thresholds[1:] != thresholds[:-1], True)
    thresholds = thresholds[last_of_equals]
    gained, found, false = np.cumsum(changes[:, 1:], 0)[last_of_equals].T
    results = {}
    for name, profile in PROFILES.items():
        null, perfect = -profile.miss * total, profile.hit * total
        sums = null + profile.hit * gained + profile.miss * found + profile.false_alarm * false
        best = int(np.argmax(sums))
        silent = sums[best] <= null
        value = null if silent else float(sums[best])
        threshold = np.inf if silent else float(thresholds[best])
        results[name] = Score(100 * (value - null) / (perfect - null), threshold)
    return results


def _changes(name: str, scores: np.ndarray, windows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Gains (K, 4) at each threshold: the threshold, value of hits, windows found, value of false alarms."""
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise DataError(
            f"the scores of {name} must be finite; row {int(np.argmin(np.isfinite(scores)))} is not."
        )
    value, start = worth(len(scores), windows), probation(len(scores))
    outside = np.arange(len(scores)) >= start
    parts = []
    for first, last in windows:
        outside[first : last + 1] = False
        rows = np.arange(max(first, start), last + 1)
        if len(rows) == 0:
            continue
        highest = np.maximum.accumulate(scores[rows])
        rows = rows[np.append(True, highest[1:] > highest[:-1])]  # the first, and so the best, at a threshold
        gained = value[rows] - np.append(value[rows[1:]], 0.0)
        parts.append(np.stack([scores[rows], gained, rows == rows[-1], np.zeros(len(rows))], 1))
    nothing = np.zeros(int(outside.sum()))
    return np.concatenate([*parts, np.stack([scores[outside], nothing, nothing, value[outside]], 1)])
