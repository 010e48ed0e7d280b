"""The same search as a sweep of Weights & Biases."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.sweep.space import Space

HEAD = """\
# A search of settings for Weights & Biases. Start it with `wandb sweep FILE`, then as many agents as you
# like with the command that it prints, where `dream` is installed. Of the test part nothing is looked at.
"""


def text(space: Space, command: list[str], monitor: str, mode: Literal["min", "max"]) -> str:
    """Return the YAML file: Bayesian search for the best `monitor`, hopeless runs ended after three epochs.

    Args:
        space: what is tried.
        command: the words after ``dream`` that all runs share.
        monitor: the metric.
        mode: whether the lowest or the highest is best.
    """
    sweep = {
        "method": "bayes",
        "metric": {"name": monitor, "goal": "minimize" if mode == "min" else "maximize"},
        "parameters": {name: _parameter(distribution) for name, distribution in space.items()},
        "early_terminate": {"type": "hyperband", "min_iter": 3},
        "command": ["${env}", "dream", *command, "--run.wandb=online", "${args}"],
    }
    return HEAD + yaml.safe_dump(sweep, sort_keys=False)


def _parameter(distribution: BaseDistribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"values": list(distribution.choices)}
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    ends = {"min": distribution.low, "max": distribution.high}
    if isinstance(distribution, IntDistribution):
        if distribution.step > 1:
            return {"values": list(range(distribution.low, distribution.high + 1, distribution.step))}
        return {"distribution": "int_uniform", **ends}  # there is no logarithmic one of whole numbers
    if distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return {"values": [round(distribution.low + k * distribution.step, 12) for k in range(steps + 1)]}
    return {"distribution": "log_uniform_values" if distribution.log else "uniform", **ends}
