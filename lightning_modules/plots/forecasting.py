"""The pictures of forecasting: forecasts against truth, and what happens around a drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure

from lightning_modules.plots.common import MODEL, NOVEL, RIVAL, TRUTH, WEIGHTS, tidy


class Example(NamedTuple):
    """One window in the data's own units: first row ahead, past (L, C), future and forecast (H, C)."""

    origin: int
    past: np.ndarray
    future: np.ndarray
    forecast: np.ndarray


def forecasts(
    examples: Sequence[Example], columns: Sequence[str], times: Callable[[np.ndarray], np.ndarray], most: int = 4
) -> Figure:
    """Forecasts against truth: a column for each example window, a row for each of the first `most` targets."""
    names = list(columns)[:most]
    figure = Figure(figsize=(3.6 * len(examples) + 0.6, 1.9 * len(names) + 1.0), layout="constrained")
    axes = figure.subplots(len(names), len(examples), sharex="col", sharey="row", squeeze=False)
    for column, example in enumerate(examples):
        horizon = len(example.future)
        shown = min(len(example.past), 3 * horizon)
        before = times(np.arange(example.origin - shown, example.origin))
        after = times(np.arange(example.origin, example.origin + horizon))
        for row, name in enumerate(names):
            axis = axes[row, column]
            axis.plot(before, example.past[-shown:, row], color=TRUTH, lw=1, alpha=0.6, label="past")
            axis.plot(after, example.future[:, row], color=TRUTH, lw=1.4, label="truth")
            axis.plot(after, example.forecast[:, row], color=MODEL, lw=1.8, label="forecast")
            axis.axvline(after[0], color=RIVAL, lw=0.8)
            tidy(axis, after)
            axis.set_xticks([before[0], after[0]])
            if np.issubdtype(after.dtype, np.datetime64):
                axis.xaxis.set_major_formatter(DateFormatter("%d %b\n%H:%M"))
            if column == 0:
                axis.set_ylabel(name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def adaptation(time: np.ndarray, series: np.ndarray, changes: np.ndarray | None = None, title: str = "DREAM") -> Figure:
    """Error of the model and of repeat-last, mean surprise and norm of U for every test window, over time.

    Args:
        time: (K,) time stamp or row number of each window's first row ahead.
        series: (4, K) squared error of the model, of repeat-last, mean surprise, norm of U.
        changes: When the data are known to change, marked by vertical lines.
        title: Name of the model.
    """
    error, rival, surprise, norm = series
    figure = Figure(figsize=(10, 6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(time, rival, color=RIVAL, lw=1, label="repeat-last")
    top.plot(time, error, color=MODEL, lw=1.2, label=title)
    top.set_yscale("log")
    top.set_ylabel("squared error\n(standardised)")
    middle.plot(time, surprise, color=NOVEL, lw=1.2)
    middle.set_ylabel("mean surprise")
    middle.set_ylim(0, max(1.05 * float(np.max(surprise)), 1e-3))
    bottom.plot(time, norm, color=WEIGHTS, lw=1.2)
    bottom.set_ylabel("|U| at the end\nof the window")
    bottom.set_xlabel("first row forecast")
    for axis in (top, middle, bottom):
        for k, change in enumerate(() if changes is None else changes):
            axis.axvline(change, color=TRUTH, lw=1, ls=":", label=None if k else "known change")
        tidy(axis, time)
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
    return figure
