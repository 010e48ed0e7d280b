"""`dream sweep`: what was asked for, and the trials one after the other, or several at a time."""

from __future__ import annotations

import shlex
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dream.errors import CheckpointError, ConfigError, DataError, DREAMError
from dream.files import write_atomic
from experiments import ending, folders, launch, run
from experiments.folders import CONFIG
from experiments.invocation import configs, own_code
from experiments.invocation.arguments import (
    configurations,
    experiment_name,
    identity,
    one_folder,
    refuse_changes,
    split_configs,
    split_own,
    whole_number,
)
from experiments.sweep import outcome, space, wandb_template, workers
from experiments.sweep.study import ENDED, PRUNERS, STORE, Pruning, Study
from experiments.wording import say
from lightning_modules.run.redaction import redacted

USAGE = """\
usage: dream sweep -c EXPERIMENT --space SPACE [--trials N] [--workers N] [--pruner NAME] [--folder FOLDER]
                   [--seed N] [--wandb-template FILE] [any setting of `dream fit`]

Searches the settings in SPACE for those with the best validation value. The test part is never looked at.

  --space    a YAML file that maps settings to what to try, or a shipped one: {spaces}
                 model.lr: {{low: 1.0e-4, high: 1.0e-2, log: true}}
                 model.config.rank: [4, 8, 16]
  --trials   trials in all; 20 if not given
  --workers  trials at a time; 1 if not given. The same command in another terminal joins in, too.
  --pruner   when a trial is given up: {pruners}; median if not given
  --folder   where it goes; runs/sweep-EXPERIMENT if not given
  --seed     fixes what is tried, and all that is random in each trial; 0 if not given
  --wandb-template
             write the same search for Weights & Biases to FILE, and run nothing

The same command goes on where it was stopped; more --trials add to those that are done.
"""

OWN = ("--space", "--trials", "--workers", "--pruner", "--folder", "--seed", "--wandb-template")
SET_HERE = (
    *("--seed_everything", "--resume", "--ckpt_path"),
    *(f"--run.{name}" for name in ("name", "folder", "group", "table", "test")),
)
"""What sweep says to each trial itself."""


@dataclass
class Plan:
    """What was asked for."""

    paths: list[Path]
    """The YAML files."""
    flags: list[str]
    """Settings of every trial."""
    space_path: Path
    space: space.Space
    trials: int = 20
    workers: int = 1
    pruner: str = "median"
    seed: int = 0
    folder: Path = field(default_factory=Path)
    asked: dict[str, Any] = field(default_factory=dict)
    """What all trials share; a folder holds the trials of one identity only."""
    template: Path | None = None
    """Where the search goes as a configuration for Weights & Biases."""

    @property
    def fixed(self) -> list[str]:
        """The words that every trial shares."""
        return [
            *(word for path in self.paths for word in ("-c", str(path))),
            *self.flags,
            f"--seed={self.seed}",
        ]


def main(argv: list[str]) -> int:
    """Run `dream sweep` with the words after it.

    Returns:
        0; 130 or 143 if it was interrupted, what is done being kept.

    Raises:
        DREAMError: words that make no sense, a folder that holds another sweep, or settings that no trial
            could run with.
    """
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE.format(spaces=", ".join(configs.shipped("spaces")), pruners=", ".join(PRUNERS)), end="")  # noqa: T201
        return 0
    if launch.started_by_torchrun():
        raise ConfigError("`dream sweep` starts its runs itself; leave out torchrun and give --workers=N.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = parse(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return _sweep(plan, argv)
        except KeyboardInterrupt as stop:  # between two trials
            say(f"dream: interrupted; what is done is in {plan.folder}.")
            return ending.code(stop)
        except optuna.exceptions.StorageInternalError as error:
            reason = str(error.__cause__).partition("\n")[0]
            raise DataError(
                f"{plan.folder / STORE} could not be read or written: {reason}. Free or change the disk; if "
                "the file is "
                "damaged, give --folder=NEW."
            ) from error


def parse(argv: list[str]) -> Plan:
    """The plan that the words mean.

    Raises:
        ConfigError: no experiment, no space, a number that is none, or a setting that is both in the space
            and typed.
    """
    paths, rest = split_configs(argv)
    own, flags = split_own(rest, OWN)
    if not paths:
        raise ConfigError("-c must name an experiment; got none. `dream config list` shows the shipped ones.")
    shipped = ", ".join(configs.shipped("spaces"))
    if len(own.get("--space", [])) != 1:
        raise ConfigError(
            f"`--space` must be one YAML file, or one of {shipped}; got {own.get('--space')}.", key="space"
        )
    names = [flag.partition("=")[0] for flag in flags]
    for taken in SET_HERE:
        if taken in names:
            raise ConfigError(
                f"`{taken}` is set by sweep for each trial; leave it out. See `dream sweep --help`."
            )
    path = space.resolve(own["--space"][0])
    configurations(paths)  # loads the Python files beside them
    plan = Plan(paths, flags, path, space.read(path))
    for name in (name.removeprefix("--").replace(".init_args.", ".") for name in names):
        if name in plan.space:
            raise ConfigError(
                f"`{name}` is in the space and on the command line. Leave it out of one of them.", key=name
            )
    for name in ("trials", "workers"):
        if f"--{name}" in own:
            setattr(plan, name, whole_number(name, own[f"--{name}"]))
    if "--seed" in own:
        plan.seed = whole_number("seed", own["--seed"], 0)
    plan.pruner = " ".join(own.get("--pruner", [plan.pruner]))
    if plan.pruner not in PRUNERS:
        raise ConfigError(
            f"`--pruner` must be one of {', '.join(PRUNERS)}; got {plan.pruner!r}.", key="pruner"
        )
    plan.folder = one_folder(own, f"sweep-{experiment_name(paths)}")
    if "--wandb-template" in own:
        plan.template = Path(" ".join(own["--wandb-template"]))
    plan.asked = identity(paths, flags, own_code.sources()) | {
        "space": path.read_text(encoding="utf-8"),
        "seed": plan.seed,
        "pruner": plan.pruner,
    }
    return plan


def _sweep(plan: Plan, argv: list[str]) -> int:
    """All of it; the exit code."""
    if plan.template is not None:
        return _write_template(plan, plan.template)
    study = Study(plan.folder, plan.pruner)
    if workers.is_worker():
        launch.end_with_parent(for_good=True)
        study.open()
        return _run_trials(plan, study, argv)
    held = (plan.folder / STORE).exists() or any(plan.folder.glob(f"*/{folders.RESULTS}"))
    folders.claim(plan.folder, plan.asked, held)
    try:
        if not study.exists:
            code, module = _try_corners(plan)
            if code or module is None:
                return code
            study.create(module.monitor, module.monitor_mode)
    finally:
        if not (plan.folder / STORE).exists():
            (plan.folder / folders.PLAN).unlink(missing_ok=True)
            folders.discard_if_empty(plan.folder)
    study.open()
    try:
        return workers.run(plan, study, argv) if plan.workers > 1 else _run_trials(plan, study, argv)
    finally:
        outcome.show(study, plan.trials, plan.asked)


def _try_corners(plan: Plan) -> tuple[int, Any]:
    """Build an experiment with every end of every range and every choice, so that mistakes show before
    anything is run."""
    code, module = 0, None
    for corner in space.corners(plan.space):
        code, module = _build(plan, corner)
        if code or module is None:
            break
    return code, module


def _build(plan: Plan, params: dict[str, Any]) -> tuple[int, Any]:
    words = space.flags(params)
    try:
        return run.build([*plan.fixed, *words])
    except DREAMError as error:
        raise type(error)(
            f"{error}\nThat is of a trial with {shlex.join(words)}; see {plan.space_path}."
        ) from error


def _write_template(plan: Plan, path: Path) -> int:
    code, module = _try_corners(plan)
    if not code and module is not None:
        names = [path.stem if path in configs.shipped().values() else str(path) for path in plan.paths]
        shared = [*(word for name in names for word in ("-c", name)), *plan.flags, f"--seed={plan.seed}"]
        command = ["fit", *redacted(shared), "--run.test=false"]
        text = wandb_template.text(plan.space, command, module.monitor, module.monitor_mode)
        try:
            write_atomic(path, text)
        except OSError as error:
            message = f"`--wandb-template` must be a file that can be written; {path}: {error.strerror}."
            raise ConfigError(message, key="wandb-template") from None
        print(f"{path}: start the search with `wandb sweep {path}`, then the agents that it names.")  # noqa: T201
    return code


def _run_trials(plan: Plan, study: Study, argv: list[str]) -> int:
    """Trials until there is none left for this process, or one is interrupted; the exit code."""
    begin, done = time.monotonic(), 0
    while True:
        refuse_changes(plan.asked, parse(argv).asked, plan.folder)
        with study.next(plan.space, plan.trials, plan.seed) as trial:
            if trial is None:
                return 0
            ended = sum(each.state in ENDED for each in study.trials)
            left = (time.monotonic() - begin) / max(done, 1) * (plan.trials - ended)
            estimate = f", about {left / 60:.1f} min left" if done else ""
            say(f"[{trial.number + 1}/{plan.trials}] {outcome.settings(trial.params)}{estimate}")
            if code := _run_trial(plan, study, trial):
                return code
            done += 1
            say(f"      {outcome.headline(study, study.trials[trial.number])}")


def _run_trial(plan: Plan, study: Study, trial: FrozenTrial) -> int:
    """One `dream fit`, or what is left of it; the exit code.

    Raises:
        DREAMError: no trial could be run, for want of a file or of room, say. This one goes on when the sweep
            does.
    """
    folder = study.place(trial.number)
    own = {
        "folder": plan.folder,
        "name": folder.name,
        "group": plan.folder.name,
        "table": "false",
        "test": "false",
    }
    words = [
        *plan.fixed,
        *space.flags(trial.params),
        "--resume",
        *(f"--run.{name}={value}" for name, value in own.items()),
    ]
    try:
        code = run.main(["fit", *words], [Pruning(study, trial.number)])
    except DREAMError as error:
        if not (folder / CONFIG).is_file():
            _build(plan, space.corners(plan.space)[0])  # raises if it is not the combination that is refused
        elif isinstance(error, (DataError, CheckpointError)):
            raise
        study.tell(trial.number, reason=str(error))
        return 0
    if not code:
        value = outcome.value(study, trial.number)
        study.tell(trial.number, value, f"there was no validation with a finite `{study.monitor}`")
    return code
