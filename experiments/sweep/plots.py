"""Figure of a sweep: the value of every trial, and how it depends on each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.plots import MODEL, NOVEL, RIVAL, TRUTH, tidy

COLUMNS = 3
FEW = 6  # whole numbers that are all named on an axis
WIDE = 100  # highest over lowest number from which on an axis is logarithmic


def sweep(trials: Sequence[Mapping[str, Any]], metric: str, mode: Literal["min", "max"]) -> Figure:
    """Draw `metric` against the trial, with the best so far as a line, and against each setting.

    Args:
        trials: ``trial``, ``state``, ``value`` (None where there is none) and ``params`` of each, in their
            order.
        metric: name of the value.
        mode: whether the lowest or the highest is best.
    """
    shown = [trial for trial in trials if trial["value"] is not None]
    names = list(dict.fromkeys(name for trial in trials for name in trial["params"]))
    rows = math.ceil((1 + len(names)) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    values = np.array([trial["value"] for trial in shown], dtype=float)
    pruned = np.array([trial["state"] == "pruned" for trial in shown], dtype=bool)
    numbers = np.array([trial["trial"] for trial in shown], dtype=float)
    first = axes[0]
    if len(shown):
        best = (np.minimum if mode == "min" else np.maximum).accumulate(values)
        first.step(numbers, best, where="post", color=NOVEL, lw=1.2, label="best so far")
    _points(first, numbers, values, pruned)
    first.set_xlabel("trial")
    first.xaxis.get_major_locator().set_params(integer=True)
    first.legend(frameon=False, fontsize=8)
    for axis, name in zip(axes[1:], names, strict=False):
        _against(axis, [trial["params"][name] for trial in shown], values, pruned)
        axis.set_xlabel(name)
    for axis in axes[: 1 + len(names)]:
        axis.set_ylabel(metric)
        tidy(axis, numbers)
        axis.margins(x=0.05)
    for axis in axes[1 + len(names) :]:
        axis.set_visible(False)
    return figure


def _points(axis: Axes, places: np.ndarray, values: np.ndarray, pruned: np.ndarray) -> None:
    axis.plot(places[~pruned], values[~pruned], "o", color=MODEL, ms=5, alpha=0.8, label="complete")
    if pruned.any():
        axis.plot(places[pruned], values[pruned], "x", color=RIVAL, ms=5, label="pruned")
    if len(values) and values.min() > 0 and values.max() > WIDE * np.quantile(values, 0.75):
        axis.set_yscale("log")


def _against(axis: Axes, settings: list[Any], values: np.ndarray, pruned: np.ndarray) -> None:
    """Draw `values` over the numbers in `settings`, or over its words in their order of appearance."""
    numbers = all(isinstance(setting, (int, float)) and not isinstance(setting, bool) for setting in settings)
    if numbers:
        places = np.array(settings, dtype=float)
    else:
        words = list(dict.fromkeys(map(str, settings)))
        places = np.array([words.index(str(setting)) for setting in settings], dtype=float)
        axis.set_xticks(range(len(words)), words, color=TRUTH)
    _points(axis, places, values, pruned)
    if numbers and len(places) and places.min() > 0 and places.max() / places.min() >= WIDE / 5:
        axis.set_xscale("log")
    elif numbers and len(places) and len(set(settings)) <= FEW and (places == places.round()).all():
        axis.set_xticks(sorted(set(settings)))
