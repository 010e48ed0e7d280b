"""Figure of a change of the rule: error, surprise and norm of U, and the error of a frozen layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.plots import MODEL, NOVEL, TRUTH, WEIGHTS, log_scale, tidy

SMOOTH = 15  # rows of a running mean
OTHERS = ("#e69f00", "#999999")


def adaptation(
    errors: Mapping[str, np.ndarray],
    surprise: np.ndarray,
    u_norm: np.ndarray,
    changes: Sequence[int],
    floor: float,
) -> Figure:
    """Mean over the seeds as a line, the seeds' lowest and highest as a band.

    Args:
        errors: Name of a model, the one that learns first, and its squared error at each row for each seed,
            (K, T).
        surprise: (K, T) surprise of the layer that learns.
        u_norm: (K, T) norm of its fast weights.
        changes: Rows at which the rule changes.
        floor: The error that nobody can go below.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2.4, 1, 1]})
    for k, (name, values) in enumerate(errors.items()):
        _band(top, values, MODEL if k == 0 else OTHERS[(k - 1) % len(OTHERS)], name)
    top.axhline(floor, color=TRUTH, lw=0.8, ls="--", label="the least possible")
    log_scale(top)
    top.margins(y=0.12)  # room for the words above the lines
    top.set_ylabel("squared error")
    _band(middle, surprise, NOVEL)
    middle.set_ylabel("surprise")
    _band(bottom, u_norm, WEIGHTS)
    bottom.set_ylabel("|U|")
    bottom.set_xlabel("row")
    for axis in (top, middle, bottom):
        for change in changes:
            axis.axvline(change, color=TRUTH, lw=1, ls=":")
        tidy(axis, np.arange(surprise.shape[1]))
    for text, change in zip(("the rule changes", "and comes back"), changes, strict=False):
        top.annotate(
            text,
            (change, 1),
            (4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
        )
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    return figure


def _band(axis: Axes, values: np.ndarray, color: str, label: str | None = None) -> None:
    smooth = np.stack([np.convolve(row, np.full(SMOOTH, 1 / SMOOTH), mode="valid") for row in values])
    rows = np.arange(SMOOTH - 1, values.shape[1])  # a point is the mean of the rows up to it, none after
    axis.fill_between(rows, smooth.min(0), smooth.max(0), color=color, alpha=0.2, lw=0)
    axis.plot(rows, smooth.mean(0), color=color, lw=1.4, label=label)
