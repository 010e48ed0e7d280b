"""Plan of a sweep: the experiment, the space and the number of trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dream.errors import ConfigError
from experiments.invocation import configs
from experiments.invocation.arguments import FROM, GIVEN, Invocation, one_folder, whole_number
from experiments.sweep import space
from experiments.sweep.study import PRUNERS
from lightning_modules.redaction import redacted

OWN = ("--space", "--trials", "--workers", "--pruner", "--folder", "--seed", "--wandb-template")
SET_HERE = (
    *("--seed_everything", "--resume", "--ckpt_path", FROM),
    *(f"--run.{name}" for name in GIVEN),
)
"""Flags that a sweep sets for each trial."""


@dataclass
class SweepPlan:
    """Trials of a sweep, and what they share."""

    invocation: Invocation
    """The experiment and the settings of every trial."""
    space_path: Path
    space: space.Space
    trials: int = 20
    workers: int = 1
    pruner: str = "median"
    seed: int = 0
    folder: Path = field(default_factory=Path)
    asked: dict[str, Any] = field(default_factory=dict)
    """Identity of the sweep: a folder holds the trials of one only."""
    template: Path | None = None
    """File for the search as a configuration of Weights & Biases; nothing is run then."""


def parse(argv: list[str]) -> SweepPlan:
    """Return the plan for the words after `dream sweep`.

    Raises:
        ConfigError: no experiment, no space, a number that is none, or a setting that is both in the space
            and typed.
    """
    invocation = Invocation.parse(["sweep", *argv], own=OWN, refused=SET_HERE, unit="trial")
    own = invocation.own
    shipped = ", ".join(configs.shipped("spaces"))
    if len(own.get("--space", [])) != 1:
        raise ConfigError(
            f"`--space` must be one YAML file, or one of {shipped}; got {own.get('--space')}.", key="space"
        )
    file = space.load(own["--space"][0])
    plan = SweepPlan(invocation, file.path, space.read(file))
    for name in (name.removeprefix("--").replace(".init_args.", ".") for name in invocation.names):
        if name in plan.space:
            raise ConfigError(
                f"`{name}` is in the space and on the command line. Leave it out of one of them.", key=name
            )
    for name, most in (("trials", 10_000), ("workers", 256)):
        if f"--{name}" in own:
            setattr(plan, name, whole_number(name, own[f"--{name}"], most=most))
    if "--seed" in own:
        plan.seed = whole_number("seed", own["--seed"], 0, 2**32 - 1)
    plan.pruner = " ".join(own.get("--pruner", [plan.pruner]))
    if plan.pruner not in PRUNERS:
        raise ConfigError(
            f"`--pruner` must be one of {', '.join(PRUNERS)}; got {plan.pruner!r}.", key="pruner"
        )
    plan.folder = one_folder(own, f"sweep-{invocation.experiment}")
    if "--wandb-template" in own:
        plan.template = Path(" ".join(own["--wandb-template"]))
    tried = yaml.safe_dump(redacted(file.content), sort_keys=False)
    plan.asked = invocation.identity() | {"space": tried, "seed": plan.seed, "pruner": plan.pruner}
    return plan
