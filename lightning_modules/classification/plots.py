"""Figure of classification: accuracy by instance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.plots import MODES, RIVAL, tidy

STYLES = ("--", ":", "-.")


def instances(
    models: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray], most: int = 30
) -> Figure:
    """Accuracy at the first, second, ... time that a class comes up in its sequence.

    Args:
        models: Accuracy (K,) of each way to run the model, its own first.
        baselines: The same of what needs no training.
        most: Instances that are drawn.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for order, (name, shares) in enumerate(models.items()):
        part = shares[:most]
        axis.plot(
            np.arange(1, len(part) + 1), part, "o-", ms=3, color=MODES[order], label=name, zorder=5 - order
        )
    for (name, shares), style in zip(baselines.items(), STYLES, strict=False):
        part = shares[:most]
        axis.plot(np.arange(1, len(part) + 1), part, style, color=RIVAL, label=name)
    tidy(axis, np.arange(2))
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("time that a class comes up in its sequence")
    axis.set_ylabel("accuracy")
    axis.legend(frameon=False)
    return figure
