"""Figure of driven systems: error as a sequence goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.plots import MODES, RIVAL, log_scale, rolling, tidy

WINDOW = 20  # steps whose mean is drawn


def errors(squares: Mapping[str, np.ndarray], ahead: Sequence[int], others: Sequence[str]) -> Figure:
    """Root of the mean squared error (T, A) of each model at each step, a panel for each distance.

    Args:
        squares: Mean squared error by model, its own first.
        ahead: (A) distances, in steps.
        others: Models that are drawn in grey.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, len(ahead), sharex=True, squeeze=False)[0]
    colours = dict(zip((name for name in squares if name not in others), MODES, strict=False))
    styles = dict(zip(others, ("--", ":"), strict=False))
    for column, (axis, distance) in enumerate(zip(axes, ahead, strict=True)):
        for order, (name, values) in enumerate(squares.items()):
            drawn = np.sqrt(rolling(values[:, column], WINDOW))
            style, colour = styles.get(name, "-"), colours.get(name, RIVAL)
            axis.plot(drawn, style, color=colour, lw=1.2, label=name, zorder=5 - order)
        log_scale(axis)
        axis.set_title(f"{distance} step{'s' if distance > 1 else ''} ahead", fontsize="medium")
        axis.set_xlabel("steps of a new system that were read")
        tidy(axis, np.arange(2))
    axes[0].set_ylabel("RMSE, in deviations of the output")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    return figure
