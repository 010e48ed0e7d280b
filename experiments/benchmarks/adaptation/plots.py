"""The picture of the suite: figures of every column as the sequence goes on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.adaptation.protocol import BASELINE, COLUMNS, OPTIMUM
from experiments.benchmarks.adaptation.record import Record, metric_of
from lightning_modules.plots import MODES, RIVAL, TRUTH, log_scale, tidy

COLORS = dict(zip([name for name in COLUMNS if name not in (BASELINE, OPTIMUM)], MODES, strict=False))
WIDTH = 3  # panels beside each other, at most


def curves(tasks: Mapping[str, Record]) -> Figure:
    """A panel for each of `tasks`: mean over the seeds as a line, their lowest and highest as a band."""
    across = min(len(tasks), WIDTH)
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(4.5 * across, 3.2 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel, task in zip(panels, tasks.values(), strict=False):
        draw(panel, task)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    labelled = {
        text: line for panel in panels for line, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labelled.values(), labelled, loc="outside upper left", ncols=min(2 * across, 4), frameon=False
    )
    return figure


def draw(axis: Axes, task: Record) -> None:
    """Draw the curves of a task."""
    at = np.array(task["positions"])
    for column in COLUMNS:
        if column not in task["columns"]:
            continue
        values = np.array(task["columns"][column]["curves"])  # (seeds, positions)
        style = "--" if column in (BASELINE, OPTIMUM) else "-"
        color = {BASELINE: RIVAL, OPTIMUM: TRUTH}.get(column) or COLORS[column]
        if len(values) > 1:
            axis.fill_between(at, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)
        axis.plot(at, values.mean(0), style, color=color, lw=1.4, label=column)
    if not metric_of(task["metrics"][0]).higher:
        log_scale(axis)
    axis.set_title(task["title"], fontsize="medium", loc="left")
    axis.set_xlabel(task["axis"])
    tidy(axis, at)
