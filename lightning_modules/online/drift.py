"""Detection of changes in a stream from its errors."""

from __future__ import annotations

import numpy as np


def page_hinkley(
    values: np.ndarray, tolerance: float = 0.25, threshold: float = 25.0, settle: int = 100
) -> list[int]:
    """Rows at which the mean of `values` (T,) rose, by the Page-Hinkley test.

    With the running mean and deviation since the last alarm,
    ``m_t = m_(t-1) + (x_t - mean_t) / std_t - tolerance``; an alarm is raised at ``m_t - min m > threshold``,
    and all statistics start again. Source: Page, Continuous inspection schemes, 1954; Hinkley, 1971.

    Args:
        values: One value for each row, such as the error.
        tolerance: Rise that counts as no change, in deviations.
        threshold: Sum of rises that counts as a change; a higher one raises fewer false alarms, and later.
        settle: Rows after each start in which no alarm is raised.
    """
    alarms: list[int] = []
    count, mean, square, total, lowest = 0, 0.0, 0.0, 0.0, 0.0
    for row, value in enumerate(values):
        count += 1
        gap = float(value) - mean
        mean += gap / count
        square += gap * (float(value) - mean)
        if count <= settle:
            continue
        deviation = (square / count) ** 0.5
        total += (float(value) - mean) / deviation - tolerance if deviation > 0 else 0.0
        lowest = min(lowest, total)
        if total - lowest > threshold:
            alarms.append(row)
            count, mean, square, total, lowest = 0, 0.0, 0.0, 0.0, 0.0
    return alarms
