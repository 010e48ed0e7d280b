"""Figure of a comparison: a point for every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.plots import MODEL, RIVAL, TRUTH, tidy


def comparison(values: Mapping[str, Sequence[float]], metric: str) -> Figure:
    """Draw `metric` of every model: its mean as a bar, each seed as a point, the first model in colour."""
    shown = {name: np.asarray(points) for name, points in values.items() if len(points)}
    figure = Figure(figsize=(8, 0.42 * len(shown) + 1.2), layout="constrained")
    axis = figure.subplots()
    for place, points in enumerate(shown.values()):
        colour = MODEL if place == 0 else RIVAL
        axis.plot([0, points.mean()], [place, place], color=colour, lw=6, alpha=0.35, solid_capstyle="butt")
        axis.plot(points, np.full(len(points), place), "o", color=TRUTH, ms=4, alpha=0.8)
        axis.annotate(
            f"{points.mean():.3f}",
            (float(points.max()), place),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(shown)), list(shown))
    axis.invert_yaxis()
    axis.set_xlabel(metric)
    tidy(axis, np.arange(len(shown)))
    axis.margins(x=0.1)
    return figure
