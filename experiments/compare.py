"""`dream compare`: the same experiment with several models and seeds, and one table of all runs."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dream.errors import ConfigError
from experiments import baselines, comparison, ending, launch, run
from experiments.ending import say
from experiments.folders import CONFIG, PLAN, RESULTS, claim, discard_if_empty, require_claimed
from experiments.invocation.arguments import FROM, Invocation, one_folder, refuse_changes, whole_number

USAGE = """\
usage: dream compare -c EXPERIMENT [--models NAME ...] [--seeds N] [--folder FOLDER]
                     [any setting of `dream fit`]

Runs `dream fit` for every model and seed, the same data and budget, and shows mean and spread over the seeds.

  --models   of {models}; all of them if not given.
             Recurrent rivals get as many parameters as DREAM; naive rivals are rows of every run.
  --seeds    N seeds, 0 to N - 1; 3 if not given
  --folder   where it goes; runs/compare-EXPERIMENT if not given

Cells that are done are not run again: the same command goes on where it was stopped.
"""


SET_HERE = ("--seed", "--seed_everything", "--run.name", "--run.folder", "--ckpt_path", FROM, "--model.core")


@dataclass
class ComparisonPlan:
    """Runs of a comparison, and what they share."""

    invocation: Invocation
    """The experiment and the settings of every run."""
    models: list[str] = field(default_factory=lambda: list(baselines.MODELS))
    seeds: int = 3
    folder: Path = Path()
    asked: dict[str, Any] = field(default_factory=dict)
    """Identity of the comparison: a folder holds the cells of one only."""

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Model and seed of every run, seed by seed, so that an early stop leaves whole lines to compare."""
        return [(model, seed) for seed in range(self.seeds) for model in self.models]


def main(argv: list[str]) -> int:
    """Run `dream compare` with the words after it.

    Returns:
        0; 130 or 143 if it was interrupted, what is done being kept.

    Raises:
        DREAMError: words that make no sense, a folder that holds another comparison, or a run that was
            refused.
    """
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE.format(models=", ".join(baselines.MODELS)), end="")  # noqa: T201
        return 0
    if launch.started_by_torchrun():
        raise ConfigError(
            "`dream compare` starts its runs one by one; leave out torchrun and give --trainer.devices=N."
        )
    plan = parse(argv)
    if plan.invocation.prints_only:
        return run.execute(fit(plan, *plan.cells[0]))
    claim(
        plan.folder,
        plan.asked,
        held(plan),
        [comparison.cell_folder(plan.folder, *cell) for cell in plan.cells],
    )
    try:
        return run_cells(plan, argv)
    finally:
        if not plan.folder.is_dir():
            pass  # there is nothing to show, and no place for it
        elif any(comparison.record(plan.folder, *cell) for cell in plan.cells):
            comparison.show(plan.folder, plan.cells, asked=plan.asked)
        elif not held(plan):
            (plan.folder / PLAN).unlink(missing_ok=True)
            discard_if_empty(plan.folder)


def run_cells(plan: ComparisonPlan, argv: list[str]) -> int:
    """Run every cell that is not done, until one fails; return its exit code."""
    todo = [cell for cell in plan.cells if comparison.record(plan.folder, *cell) is None]
    start = time.monotonic()
    code = 0
    for done, (model, seed) in enumerate(todo):
        left = (
            f", about {(time.monotonic() - start) / done * (len(todo) - done) / 60:.1f} min left"
            if done
            else ""
        )
        number = len(plan.cells) - len(todo) + done + 1
        require_claimed(plan.folder)
        refuse_changes(plan.asked, parse(argv).asked, plan.folder)
        say(f"[{number}/{len(plan.cells)}] {model}, seed {seed}{left}")
        try:
            code = run_cell(plan, model, seed)
        except KeyboardInterrupt as stop:  # before the run could say so itself
            say("dream: interrupted.")
            code = ending.code(stop)
        record = comparison.record(plan.folder, model, seed)
        if code or record is None:
            break
        say(comparison.headline(record))
    return code


def parse(argv: list[str]) -> ComparisonPlan:
    """Return the plan for the words after `dream compare`.

    Raises:
        ConfigError: no experiment, an unknown model, or seeds that are no number.
    """
    invocation = Invocation.parse(
        ["compare", *argv], own=("--models", "--seeds", "--folder"), refused=SET_HERE
    )
    own = invocation.own
    plan = ComparisonPlan(invocation, asked=invocation.identity())
    if "--models" in own:
        plan.models = list(
            dict.fromkeys(name for text in own["--models"] for name in text.split(",") if name)
        )
        if not plan.models:
            raise ConfigError(
                f"`--models` must name at least one of {', '.join(baselines.MODELS)}; got none.", key="models"
            )
        for model in plan.models:
            baselines.flags(model)
    if "--seeds" in own:
        plan.seeds = whole_number("seeds", own["--seeds"])
    plan.folder = one_folder(own, f"compare-{invocation.experiment}")
    return plan


def held(plan: ComparisonPlan) -> bool:
    """Whether the folder holds a run that has ended."""
    return any(plan.folder.glob(f"*/{RESULTS}"))


def run_cell(plan: ComparisonPlan, model: str, seed: int) -> int:
    """Run one `dream fit`; return its exit code.

    An interrupted run is resumed, a damaged one is started over.
    """
    folder = comparison.cell_folder(plan.folder, model, seed)
    if (folder / RESULTS).exists():
        say(f"{folder} is damaged, or lacks its {CONFIG}: it is run again.")
        shutil.rmtree(folder)
    return run.execute(fit(plan, model, seed))


def fit(plan: ComparisonPlan, model: str, seed: int) -> Invocation:
    """Return the `dream fit` of a cell."""
    folder = comparison.cell_folder(plan.folder, model, seed)
    return plan.invocation.fit(folder, *baselines.flags(model), f"--seed={seed}")
