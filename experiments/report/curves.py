"""Charts of training and test: losses, surprise, fast weights, gate and plasticity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from experiments.report.charts import Chart, Charts
from experiments.report.folder import Line, RunFolder, SweepFolder, mean_line

Groups = Mapping[str, Sequence[RunFolder]]
"""Runs that differ in their seed only, by the name of what they run."""


def over_seeds(groups: Groups, metric: str) -> tuple[dict[str, Line], dict[str, list[Line]]]:
    """Mean over the seeds of each group, and the lines of the seeds where there are several."""
    found = {
        name: [run.metrics[metric] for run in runs if run.metrics.get(metric)]
        for name, runs in groups.items()
    }
    found = {name: lines for name, lines in found.items() if lines}
    return {name: mean_line(lines) for name, lines in found.items()}, {
        name: lines for name, lines in found.items() if len(lines) > 1
    }


def learning_curves(groups: Groups, charts: Charts) -> list[Chart]:
    """Training loss and the validation metric that picks the best checkpoint."""
    monitor = next((run.monitor for run in chain.from_iterable(groups.values()) if run.monitor), None)
    wanted = {
        "train/loss": "Loss while training: it should fall and flatten; jumps, or a line that never falls, "
        "ask for another learning rate or plasticity.",
        monitor: "What picks the best checkpoint: where it turns while the training loss still falls, the "
        "model overfits.",
    }
    made = []
    for metric, caption in wanted.items():
        lines, thin = over_seeds(groups, metric) if metric else ({}, {})
        if metric and lines:
            made.append(charts.lines(metric, with_seeds(caption, thin), lines, "training step", metric, thin))
    return made


def with_seeds(caption: str, thin: Mapping[str, object]) -> str:
    """A caption that explains thin lines, if there are any."""
    return (
        f"{caption} Thick: the mean over the seeds, as far as all of them went; thin: each seed."
        if thin
        else caption
    )


def training_layers(groups: Groups, charts: Charts) -> list[Chart]:
    """Surprise and norm of U of every layer while training."""
    captions = {
        "surprise": (
            "Surprise in training",
            "mean surprise S (0 to 1)",
            "Mean of the gate over a batch: near 1 throughout, nothing is known; near 0, nothing new is "
            "learnt.",
        ),
        "u_norm": (
            "Fast weights in training",
            "|U|",
            "Norm of the fast weights at the end of a batch: at 0 they are not used; stuck at their ceiling "
            "they are full.",
        ),
    }
    made = []
    for kind, (title, label, caption) in captions.items():
        lines: dict[str, Line] = {}
        thins: dict[str, list[Line]] = {}
        for k in range(64):
            some, thin = over_seeds(groups, f"dream/layer_{k}/{kind}")
            if not some:
                break
            # a rival has no fast weights
            moved = {name for name, line in some.items() if any(value for _, value in line)}
            lines |= {layer_name(name, k): line for name, line in some.items() if name in moved}
            thins |= {layer_name(name, k): some for name, some in thin.items() if name in moved}
        if lines:
            made.append(charts.lines(title, with_seeds(caption, thins), lines, "training step", label, thins))
    return made


def layer_name(group: str, k: int) -> str:
    """Name of the line of layer `k`."""
    return f"{group}, layer {k}" if group else f"layer {k}"


def test_layers(groups: Groups, charts: Charts) -> list[Chart]:
    """Charts of the layers in the test: surprise, |U|, and histograms of gate, plasticity, tonic share."""
    held = {
        layer_name(name, k): [run.layers[k] for run in runs if len(run.layers) > k]
        for name, runs in groups.items()
        for k in range(max((len(run.layers) for run in runs), default=0))
    }
    places = {run.places for runs in groups.values() for run in runs if run.layers}
    x = (
        "steps of the test"
        if places == {"steps"}
        else "rows read in the test: a window of a channel, or an utterance"
    )
    made = []
    for kind, title, label, caption in (
        (
            "surprise",
            "Surprise over the test",
            "mean surprise S (0 to 1)",
            "Means over neighbours: rises mark what was unexpected.",
        ),
        (
            "u_norm",
            "Fast weights over the test",
            "|U|",
            "The norm of U grows where something new is learnt and fades where not.",
        ),
    ):
        lines = {name: [line_of(layer, kind) for layer in layers] for name, layers in held.items()}
        moved = {
            name: some for name, some in lines.items() if any(value for line in some for _, value in line)
        }
        if moved:
            means = {name: mean_line(some) for name, some in moved.items()}
            thin = {name: some for name, some in moved.items() if len(some) > 1}
            made.append(charts.lines(title, with_seeds(caption, thin), means, x, label, thin))
    counts = {
        name: summed([layer.get("surprise_counts") for layer in layers]) for name, layers in held.items()
    }
    shares = {name: [value / sum(some) for value in some] for name, some in counts.items() if sum(some)}
    if shares:
        borders = {name: [k / len(some) for k in range(len(some) + 1)] for name, some in shares.items()}
        caption = (
            "How often the gate stood where, over all steps of the test: mass at 0 is routine, mass at "
            "1 is news."
        )
        made.append(charts.histogram("Gate", caption, shares, borders, "surprise S", "share of the steps"))
    for kind, title, x, caption in (
        (
            "plasticity",
            "Plasticity",
            "learned plasticity η of a unit",
            "How fast the units learn: a wide spread is a division of labour.",
        ),
        (
            "tonic",
            "Tonic share",
            "tonic share of a unit",
            "The part of its plasticity that a unit keeps when nothing surprises.",
        ),
    ):
        found = {name: layers[0][kind] for name, layers in held.items() if layers and kind in layers[0]}
        if found:
            units, borders = (
                {name: one[part] for name, one in found.items()} for part in ("counts", "borders")
            )
            first = " Of the first seed." if any(len(layers) > 1 for layers in held.values()) else ""
            made.append(charts.histogram(title, caption + first, units, borders, x, "units"))
    return made


def line_of(layer: Mapping[str, Any], kind: str) -> Line:
    """The line of a layer over the test."""
    return list(zip(layer.get("place", ()), layer.get(kind, ()), strict=False))


def summed(rows: Sequence[Sequence[int] | None]) -> list[int]:
    """Sums of columns."""
    return [sum(column) for column in zip(*(row for row in rows if row), strict=False)]


def trial_curves(folder: SweepFolder, charts: Charts) -> list[Chart]:
    """Validation value of every trial of a sweep, epoch by epoch, the best one in front."""
    held = [trial.get("epochs", {}) for trial in folder.trials]
    lines = [[(float(epoch), value) for epoch, value in epochs.items()] for epochs in held if epochs]
    if not lines or folder.best is None:
        return []
    monitor = str(folder.ended.get("monitor"))
    caption = "Thick: the best trial; thin: the others. Lines that end early were given up or failed."
    name = folder.best.path.name
    return [
        charts.lines(
            f"{monitor} of the trials", caption, {name: lines[0]}, "epoch", monitor, {name: lines[1:]}
        )
    ]
