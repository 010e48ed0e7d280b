"""Parts of all figures: colours that are safe for colour blindness, and axes without clutter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

TRUTH, MODEL, RIVAL, NOVEL, WEIGHTS = "#333333", "#0072b2", "#b0b0b0", "#d55e00", "#009e73"
MODES = (MODEL, "#cc79a7", "#56b4e9", "#e69f00", WEIGHTS, "#7a5195")
"""Ways to run one model, the one that the table names first in the model's own colour."""
LINE_POINTS = 2000
"""Points of a line, at most."""
COUNTED = 20
"""Classes of a confusion matrix whose cells show their counts, at most."""


def rolling(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` of `values` (T,), of fewer at the start."""
    sums = np.cumsum(np.insert(values.astype(np.float64), 0, 0.0))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (sums[last] - sums[first]) / (last - first)


def line_rows(first: int, count: int) -> np.ndarray:
    """Rows at which a line over `count` rows is drawn, `LINE_POINTS` at most, from row `first` on."""
    return np.unique(np.linspace(min(first, count - 1), count - 1, LINE_POINTS).astype(int))


def tidy(axis: Axes, time: np.ndarray) -> None:
    """Remove the upper and right part of the frame, and label dates concisely.

    Args:
        axis: Axes to change.
        time: Values of its x axis: time stamps or row numbers.
    """
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.01)
    if np.issubdtype(np.asarray(time).dtype, np.datetime64):
        locator = AutoDateLocator()
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def log_scale(axis: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2 and 5 times each power of ten."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Matrix of `counts` (V, V) of predicted classes, with a row for each true one."""
    size = len(classes)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure = Figure(figsize=(2 + 0.42 * min(size, 40), 1.6 + 0.42 * min(size, 40)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(size), classes, rotation=60, ha="right", parse_math=False)
    axis.set_yticks(range(size), classes, parse_math=False)  # `$` is a sign like any other
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if size <= COUNTED:
        for row, column in np.argwhere(counts):
            light = shares[row, column] > 0.5
            color = "white" if light else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    return figure
