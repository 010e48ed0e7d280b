"""Figures of forecasting: forecasts against truth, and errors around a drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure

from lightning_modules.plots import MODEL, MODES, NOVEL, RIVAL, TRUTH, WEIGHTS, log_scale, tidy


class Example(NamedTuple):
    """One window, in the measurement units of the data."""

    origin: int
    """First row ahead."""
    past: np.ndarray
    """(L, C)"""
    future: np.ndarray
    """(H, C)"""
    forecast: np.ndarray
    """(H, C)"""
    quantiles: np.ndarray | None = None
    """(H, C, Q)"""


def forecasts(
    examples: Sequence[Example],
    columns: Sequence[str],
    times: Callable[[np.ndarray], np.ndarray],
    most: int = 4,
) -> Figure:
    """Forecasts against truth: a column for each example window, a row for each of the first `most` targets.

    Quantile forecasts are bands between outer pairs of quantiles, darker towards the median."""
    names = list(columns)[:most]
    figure = Figure(figsize=(3.6 * len(examples) + 0.6, 1.9 * len(names) + 1.0), layout="constrained")
    axes = figure.subplots(len(names), len(examples), sharex="col", sharey="row", squeeze=False)
    for column, example in enumerate(examples):
        horizon = len(example.future)
        shown = min(len(example.past), 3 * horizon)
        before = times(np.arange(example.origin - shown, example.origin))
        after = times(np.arange(example.origin, example.origin + horizon))
        thin = 1.0 if horizon <= 200 else 0.5
        for row, name in enumerate(names):
            axis = axes[row, column]
            axis.plot(before, example.past[-shown:, row], color=TRUTH, lw=thin, alpha=0.6, label="past")
            axis.plot(after, example.future[:, row], color=TRUTH, lw=1.4 * thin, label="truth")
            axis.plot(after, example.forecast[:, row], color=MODEL, lw=1.8 * thin, label="forecast")
            bands = np.empty((horizon, 0)) if example.quantiles is None else example.quantiles[:, row]
            for pair in range(bands.shape[1] // 2):
                label = None if pair else "quantiles"
                axis.fill_between(
                    after, bands[:, pair], bands[:, -1 - pair], color=MODEL, alpha=0.2, lw=0, label=label
                )
            axis.axvline(after[0], color=RIVAL, lw=0.8)
            tidy(axis, after)
            axis.set_xticks([after[0], before[0] if shown > horizon else after[-1]])
            if np.issubdtype(after.dtype, np.datetime64):
                axis.xaxis.set_major_formatter(DateFormatter("%d %b\n%H:%M"))
            if column == 0:
                axis.set_ylabel(name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def adaptation(
    time: np.ndarray,
    errors: Mapping[str, np.ndarray],
    surprise: np.ndarray,
    norm: np.ndarray,
    changes: np.ndarray | None = None,
) -> Figure:
    """Errors, mean surprise and norm of U at every origin of the test part, over time.

    Args:
        time: (K,) time stamp or row number of each origin's first row ahead.
        errors: Squared error (K,) by name: of the model, drawn on top, and of the others.
        surprise: (K,)
        norm: (K,) of U.
        changes: Times of known changes of the data, marked by vertical lines.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    colours = [*MODES[: len(errors) - 1], RIVAL]
    for order, (name, colour) in enumerate(zip(errors, colours, strict=False)):
        top.plot(time, errors[name], color=colour, lw=1 if order else 1.2, label=name, zorder=3 - order)
    log_scale(top)
    top.set_ylabel("squared error\n(standardised)")
    middle.plot(time, surprise, color=NOVEL, lw=1.2)
    middle.set_ylabel("mean surprise")
    middle.set_ylim(0, max(1.05 * float(np.max(surprise)), 1e-3))
    bottom.plot(time, norm, color=WEIGHTS, lw=1.2)
    bottom.set_ylabel("|U| at the origin")
    bottom.set_xlabel("first row forecast")
    for axis in (top, middle, bottom):
        for k, change in enumerate(() if changes is None else changes):
            axis.axvline(change, color=TRUTH, lw=1, ls=":", label=None if k else "known change")
        tidy(axis, time)
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    return figure
