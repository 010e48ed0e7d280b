"""Figure of speech: one utterance as the layer read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.plots import NOVEL, WEIGHTS, tidy

LINES = 10  # posteriors that are drawn, those that come nearest to 1


class DrawnUtterance(NamedTuple):
    """One utterance to draw."""

    title: str
    seconds: np.ndarray
    """(T,) start of each step."""
    features: np.ndarray
    """(frames, features), a whole number of frames for each step."""
    surprise: np.ndarray
    """(T,)"""
    u_norm: np.ndarray
    """(T,)"""
    posteriors: np.ndarray
    """(T, V)"""
    names: Sequence[str]
    """(V) names of the posteriors."""


def utterance(drawn: DrawnUtterance) -> Figure:
    """Features, surprise, norm of U and posteriors over the time of an utterance."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    features, surprise, norm, posteriors = figure.subplots(
        4, 1, sharex=True, height_ratios=[1.6, 0.8, 0.8, 1.4]
    )
    time = drawn.seconds
    end = 2 * time[-1] - time[-2] if len(time) > 1 else time[-1] + 1
    extent = (time[0], end, -0.5, drawn.features.shape[1] - 0.5)
    features.imshow(
        drawn.features.T, aspect="auto", origin="lower", extent=extent, cmap="RdBu_r", vmin=-3, vmax=3
    )
    features.set_ylabel("feature")
    surprise.plot(time, drawn.surprise, color=NOVEL, lw=1)
    surprise.set_ylabel("surprise")
    surprise.set_ylim(0, 1.02)
    norm.plot(time, drawn.u_norm, color=WEIGHTS, lw=1)
    norm.set_ylabel("|U|")
    norm.set_ylim(bottom=0)
    shown = sorted(np.argsort(-drawn.posteriors.max(0), kind="stable")[:LINES])
    for number in shown:
        style = "--" if drawn.names[number] == "blank" else "-"
        posteriors.plot(time, drawn.posteriors[:, number], style, lw=1.2, label=drawn.names[number])
    posteriors.set_ylabel("posterior")
    posteriors.set_ylim(0, 1.02)
    posteriors.set_xlabel("s")
    legend = posteriors.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    for axis in (features, surprise, norm, posteriors):
        tidy(axis, time)
        axis.margins(x=0)
    figure.suptitle(drawn.title, fontsize="medium", parse_math=False)
    return figure
