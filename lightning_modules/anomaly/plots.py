"""Figures of anomaly detection: data with anomalies, score and threshold, surprise and norm of U."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.anomaly.data import AnomalyStream
from lightning_modules.data.frequency import figure_times
from lightning_modules.plots import MODEL, NOVEL, RIVAL, TRUTH, WEIGHTS, tidy

MOST_COLUMNS = 4
LABEL = 14  # characters of a column's name that fit beside its axis
POINTS = 1000  # rows; surprise of a longer stream is drawn as a running mean


class Detection(NamedTuple):
    """Series of one stream to draw below its columns, (T,) each."""

    score: np.ndarray
    threshold: float
    raised: np.ndarray
    surprise: np.ndarray
    u_norm: np.ndarray


def detection(stream: AnomalyStream, found: Detection, changes: Sequence[int] = ()) -> Figure:
    """Columns with labelled anomalies and alarms, above score and threshold, surprise, and norm of U.

    Args:
        stream: Data, of which the first four columns are drawn.
        found: Scores and alarms of the stream.
        changes: Rows at which the stream is known to change for good.
    """
    columns, rows = stream.columns[:MOST_COLUMNS], len(stream.values)
    time = figure_times(stream.times, stream.zone)
    figure = Figure(figsize=(11, 1.3 * len(columns) + 4.6), layout="constrained")
    axes = figure.subplots(
        len(columns) + 3, 1, sharex=True, height_ratios=[1.2] * len(columns) + [1.2, 0.8, 0.8]
    )
    raised = time[found.raised]
    for axis, name, values in zip(axes, columns, stream.values.T, strict=False):
        axis.plot(time, values, color=TRUTH, lw=0.7)
        axis.plot(raised, values[found.raised], "v", color=NOVEL, ms=5, label="alarm")
        axis.set_ylabel(name if len(name) <= LABEL else f"{name[: LABEL - 1]}…")
    score, surprise, norm = axes[-3:]
    score.plot(time, found.score, color=MODEL, lw=0.8)
    score.plot(
        time[[stream.training, -1]], [found.threshold] * 2, color=NOVEL, lw=1, ls="--", label="threshold"
    )
    score.set_ylabel("score")
    score.set_ylim(0, 1.02)
    width = max(rows // POINTS, 1)
    mean = np.convolve(found.surprise[:rows], np.ones(width) / width)[:rows]
    surprise.plot(time, mean, color=NOVEL, lw=0.6)
    surprise.set_ylabel("surprise" if width == 1 else f"surprise,\n{width} rows")
    surprise.set_ylim(0, 1.02)
    norm.plot(time, found.u_norm[:rows], color=WEIGHTS, lw=0.8)
    norm.set_ylabel("|U|")
    norm.set_ylim(bottom=0)
    for axis in axes:
        for k, (first, last) in enumerate(stream.windows):
            axis.axvspan(
                time[first],
                time[last],
                color=NOVEL,
                alpha=0.15,
                lw=0,
                label=None if k else "labelled anomaly",
            )
        axis.axvspan(time[0], time[stream.training], color=RIVAL, alpha=0.25, lw=0, label="training part")
        for change in changes:
            axis.axvline(time[change], color=TRUTH, lw=1, ls=":", label="change of regime")
        tidy(axis, time)
    seen = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=len(seen), frameon=False)
    figure.suptitle(stream.name, fontsize="medium")
    return figure
