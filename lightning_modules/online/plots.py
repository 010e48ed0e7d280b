"""Figure of a stream: error of each mode and rival, surprise, norm of U, and changes of the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.plots import MODES, NOVEL, TRUTH, WEIGHTS, line_rows, log_scale, rolling, tidy


def stream(
    time: np.ndarray,
    errors: Mapping[str, np.ndarray],
    own: int,
    surprise: np.ndarray,
    u_norm: np.ndarray,
    known: np.ndarray,
    detected: np.ndarray,
    label: str,
) -> Figure:
    """Rolling error of every model, surprise and norm of U over a stream.

    Args:
        time: (T,) time stamp or number of each row.
        errors: Error (T,) at each row, by name of the model.
        own: Number of modes of the module, which come first; the others are rivals.
        surprise: (T,) surprise of the first layer.
        u_norm: (T,) norm of the fast weights.
        known: Times at which the data are known to change.
        detected: Times of detected changes.
        label: Name of the error.
    """
    window = max(len(time) // 100, 20)
    figure = Figure(figsize=(10, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1, 1]})
    points = line_rows(window // 2, len(time))
    greys = np.linspace(0.45, 0.75, max(len(errors) - own, 1))
    lines = {name: rolling(values, window)[points] for name, values in errors.items()}
    for number, (name, values) in reversed(list(enumerate(lines.items()))):
        rival = number >= own
        color = str(greys[number - own]) if rival else MODES[number % len(MODES)]
        top.plot(
            time[points], values, color=color, lw=1 if number else 1.6, ls="--" if rival else "-", label=name
        )
    if min(values.min() for values in lines.values()) > 0 and label != "share of errors":
        log_scale(top)
    top.set_ylabel(f"{label}\n(mean of {window} rows)")
    mean_surprise = rolling(surprise, window)[points]
    middle.plot(time[points], mean_surprise, color=NOVEL, lw=1.2)
    middle.set_ylabel("surprise")
    middle.set_ylim(0, max(1.05 * float(mean_surprise.max()), 1e-3))
    bottom.plot(time[points], u_norm[points], color=WEIGHTS, lw=1.2)
    bottom.set_ylabel("|U|")
    bottom.set_xlabel("row" if not np.issubdtype(time.dtype, np.datetime64) else "time")
    for axis in (top, middle, bottom):
        for k, change in enumerate(known):
            axis.axvline(change, color=TRUTH, lw=1, ls=":", label=None if k else "known change")
        for k, change in enumerate(detected):
            axis.axvline(change, color=NOVEL, lw=0.8, alpha=0.5, label=None if k else "detected change")
        tidy(axis, time)
    handles, labels = top.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
    return figure
