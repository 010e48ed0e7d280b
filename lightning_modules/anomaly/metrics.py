"""Metrics of anomaly detection, by row, by range and by event; none uses point adjustment.

Shapes: T rows of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from dream.errors import DataError

BUFFERS = 11  # lengths of the buffer, from 0 to the longest, in the volume under the surface


def runs(flags: np.ndarray) -> np.ndarray:
    """First and last row (K, 2) of each stretch of True in `flags` (T,).

    >>> runs(np.array([True, False, True, True])).tolist()
    [[0, 0], [2, 3]]
    """
    edges = np.diff(np.concatenate([[0], np.asarray(flags, dtype=bool).astype(np.int8), [0]]))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1], 1)


def row_metrics(
    scores: Sequence[np.ndarray], flags: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> dict[str, float]:
    """Metrics over the rows of all streams together.

    Of the scores: `roc_auc` and average precision `ap`. Of the flags: `f1`, `far`, the percentage of normal
    rows that are flagged, and `mar`, the percentage of anomalous rows that are not.

    Args:
        scores: (T,) for each stream, higher where more anomalous.
        flags: (T,) for each stream, True where the detector reports an anomaly.
        labels: (T,) for each stream, True where there is one.

    Raises:
        DataError: all rows are normal, or all anomalous.
    """
    score = np.concatenate(scores)
    flag = np.concatenate(flags).astype(bool)
    label = np.concatenate(labels).astype(bool)
    if label.all() or not label.any():
        raise DataError(
            f"`labels` must hold normal and anomalous rows; {int(label.sum())} of {len(label)} are anomalous."
        )
    target = torch.from_numpy(label.astype(np.int64))
    # ranks instead of scores: the metrics are the same, and ranks lie within [0, 1]
    order = torch.from_numpy(np.unique(score, return_inverse=True)[1] / len(score))
    hits, alarms, events = int((flag & label).sum()), int(flag.sum()), int(label.sum())
    return {
        "roc_auc": float(binary_auroc(order, target)),
        "ap": float(binary_average_precision(order, target)),
        "f1": 2 * hits / (alarms + events),
        "far": 100 * (alarms - hits) / (len(label) - events),
        "mar": 100 * (events - hits) / events,
    }


def event_metrics(alarms: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
    """Precision, recall and F1 of events: `event_precision`, `event_recall`, `event_f1`.

    An event is a stretch of labelled rows, an alarm a stretch of rows that raise one. Each counts once,
    however long it is. Recall is the share of events that share a row with an alarm, precision the share of
    alarms that share a row with an event; 0 where there is nothing to divide by.

    Args:
        alarms: (T,) for each stream, True where an alarm is on.
        labels: (T,) for each stream, True where there is an anomaly.
    """
    events = found = raised = right = 0
    for alarm, label in zip(alarms, labels, strict=True):
        stretches, claims = runs(label), runs(alarm)
        events, raised = events + len(stretches), raised + len(claims)
        found += sum(bool(alarm[first : last + 1].any()) for first, last in stretches)
        right += sum(bool(label[first : last + 1].any()) for first, last in claims)
    precision, recall = right / max(raised, 1), found / max(events, 1)
    total = precision + recall
    return {
        "event_precision": precision,
        "event_recall": recall,
        "event_f1": 2 * precision * recall / total if total else 0.0,
    }


def soft_labels(label: np.ndarray, buffer: int) -> np.ndarray:
    """`label` (T,) with a slope of ``buffer // 2`` rows on both sides of every stretch.

    The slope is ``sqrt(1 - d / buffer)`` at distance d; where two meet, the higher one counts."""
    soft = np.asarray(label, dtype=np.float64).copy()
    distance = np.arange(1, buffer // 2 + 1)
    slope = np.sqrt(1 - distance / buffer) if buffer else distance
    for first, last in runs(label):
        before, after = distance[distance <= first], distance[distance < len(soft) - last]
        soft[first - before] = np.maximum(soft[first - before], slope[: len(before)])
        soft[last + after] = np.maximum(soft[last + after], slope[: len(after)])
    return soft


def range_pr(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], buffer: int) -> float:
    """Area under the range-aware precision-recall curve with soft labels w, of all streams together.

    At threshold q, over the rows whose score is at least q:

        precision = sum w / rows
        recall    = min(1, sum w / P) * (ranges touched / ranges),    P = (sum w + sum label) / 2

    where a range is a stretch of w > 0. The area is the sum over falling thresholds of (rise of recall) times
    precision.

    Args:
        scores: (T,) for each stream, higher where more anomalous.
        labels: (T,) for each stream, True where there is an anomaly.
        buffer: Rows over which a label fades out, half of them on each side.

    Raises:
        DataError: no row is anomalous.
    """
    soft = [soft_labels(label, buffer) for label in labels]
    peaks = [s[a : b + 1].max() for s, w in zip(scores, soft, strict=True) for a, b in runs(w > 0)]
    if not peaks:
        raise DataError("`labels` must hold at least one anomalous row; got none.")
    score, weight = np.concatenate(scores), np.concatenate(soft)
    order = np.argsort(-score, kind="stable")
    last_of_equals = np.append(np.diff(score[order]) != 0, True)
    thresholds = score[order][last_of_equals]
    gained = np.cumsum(weight[order])[last_of_equals]
    positives = (weight.sum() + np.concatenate(labels).sum()) / 2
    touched = len(peaks) - np.searchsorted(np.sort(peaks), thresholds, side="left")
    recall = np.minimum(gained / positives, 1.0) * touched / len(peaks)
    precision = gained / (np.flatnonzero(last_of_equals) + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def vus_pr(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], longest: int) -> float:
    """Volume under the precision-recall surface: mean of `range_pr` over buffers of 0 to `longest` rows.

    It needs no exact borders: a score that rises a little early or late still counts in part. Own
    implementation of Paparrizos et al., Volume under the surface, 2022, with every occurring score as a
    threshold and at most 11 buffers.

    Args:
        scores: (T,) for each stream, higher where more anomalous.
        labels: (T,) for each stream, True where there is an anomaly.
        longest: Longest buffer, in rows.

    Raises:
        DataError: no row is anomalous.
    """
    buffers = np.unique(np.linspace(0, longest, BUFFERS).round().astype(int))
    return float(np.mean([range_pr(scores, labels, int(buffer)) for buffer in buffers]))
