"""Figure of a text: loss of each model, gain from learning while reading, surprise and norm of U."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.plots import MODEL, MODES, NOVEL, RIVAL, WEIGHTS, line_rows, rolling, tidy


def reading(nats: Mapping[str, np.ndarray], surprise: np.ndarray, u_norm: np.ndarray) -> Figure:
    """Rolling loss of every model, its difference to the first one's, surprise and norm of U over a text.

    Args:
        nats: Loss (T,) of each token, by name of the model, the module's own first.
        surprise: (T,) of the first layer.
        u_norm: (T,) norm of the fast weights.
    """
    count = len(surprise)
    window = max(count // 50, 20)
    figure = Figure(figsize=(10, 8), layout="constrained")
    top, gain, middle, bottom = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1, 1, 1]}
    )
    points = line_rows(window, count)
    lines = {name: rolling(values, window)[points] for name, values in nats.items()}
    own = next(iter(lines))
    for number, (name, values) in reversed(list(enumerate(lines.items()))):
        related = name.startswith(own)
        color, style = (
            (MODES[number % len(MODES)], "-") if related else (RIVAL, "--" if name == "bigram" else ":")
        )
        top.plot(points, values, color=color, ls=style, lw=1 if number else 1.6, label=name)
        if related and number:
            gain.plot(points, values - lines[own], color=color, lw=1.2)
    gain.axhline(0.0, color=MODEL, lw=1)
    top.set_ylabel(f"nats\n(mean of {window} tokens)")
    gain.set_ylabel(f"nats more\nthan {own}")
    middle.plot(points, rolling(surprise, window)[points], color=NOVEL, lw=1.2)
    middle.set_ylabel("surprise")
    middle.set_ylim(0, None)
    bottom.plot(points, rolling(u_norm, window)[points], color=WEIGHTS, lw=1.2)
    bottom.set_ylabel("|U|")
    bottom.set_xlabel("token")
    for axis in (top, gain, middle, bottom):
        tidy(axis, points)
    handles, labels = top.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return figure
