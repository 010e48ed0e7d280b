"""`dream sweep`: the trials of a search, one after the other, or several at a time."""

from __future__ import annotations

import shlex
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from dream.errors import CheckpointError, ConfigError, DataError, DREAMError
from dream.files import write_atomic
from experiments import ending, folders, launch, run
from experiments.ending import say
from experiments.folders import CONFIG
from experiments.invocation import configs
from experiments.invocation.arguments import refuse_changes
from experiments.sweep import outcome, space, wandb_template, workers
from experiments.sweep.plan import SweepPlan, parse
from experiments.sweep.study import ENDED, PRUNERS, STORE, Pruning, Study
from lightning_modules.checks import FolderGoneError
from lightning_modules.redaction import redacted

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
            folders.require_claimed(plan.folder)
            reason = str(error.__cause__).partition("\n")[0]
            raise DataError(
                f"{plan.folder / STORE} could not be read or written: {reason}. Free or change the disk; if "
                "the file is damaged, give --folder=NEW."
            ) from error


def _sweep(plan: SweepPlan, argv: list[str]) -> int:
    """Run the whole sweep; return the exit code."""
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
        if (plan.folder / STORE).is_file():
            outcome.show(study, plan.trials, plan.asked)


def _try_corners(plan: SweepPlan) -> tuple[int, Any]:
    """Build an experiment with every end of every range and every choice.

    Mistakes show so before anything is run.
    """
    code, module = 0, None
    for corner in space.corners(plan.space):
        code, module = _build(plan, corner)
        if code or module is None:
            break
    return code, module


def _build(plan: SweepPlan, params: dict[str, Any]) -> tuple[int, Any]:
    words = space.flags(params)
    try:
        return run.build(plan.invocation.then("check", f"--seed={plan.seed}", *words))
    except DREAMError as error:
        raise type(error)(
            f"{error}\nThat is of a trial with {shlex.join(words)}; see {plan.space_path}."
        ) from error


def _write_template(plan: SweepPlan, path: Path) -> int:
    code, module = _try_corners(plan)
    if not code and module is not None:
        files = [file.path for file in plan.invocation.files]
        names = [path.stem if path in configs.shipped().values() else str(path) for path in files]
        shared = [*(word for name in names for word in ("-c", name)), *plan.invocation.flags]
        command = ["fit", *redacted([*shared, f"--seed={plan.seed}"]), "--run.test=false"]
        text = wandb_template.text(plan.space, command, module.monitor, module.monitor_mode)
        try:
            write_atomic(path, text)
        except OSError as error:
            message = f"`--wandb-template` must be a file that can be written; {path}: {error.strerror}."
            raise ConfigError(message, key="wandb-template") from None
        print(f"{path}: start the search with `wandb sweep {path}`, then the agents that it names.")  # noqa: T201
    return code


def _run_trials(plan: SweepPlan, study: Study, argv: list[str]) -> int:
    """Run trials until none is left for this process, or one is interrupted; return the exit code."""
    begin, done = time.monotonic(), 0
    while True:
        folders.require_claimed(plan.folder)
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


def _run_trial(plan: SweepPlan, study: Study, trial: FrozenTrial) -> int:
    """Run one `dream fit`, or resume it; return the exit code.

    Raises:
        DREAMError: no trial could be run, for want of a file or of room, say. This one goes on when the sweep
            does.
    """
    folder = study.place(trial.number)
    flags = (f"--seed={plan.seed}", *space.flags(trial.params))
    try:
        code = run.execute(plan.invocation.fit(folder, *flags, test="false"), [Pruning(study, trial.number)])
    except (CheckpointError, FolderGoneError):  # no combination is to blame for what was saved
        raise
    except DREAMError as error:
        folders.require_claimed(plan.folder)
        if not (folder / CONFIG).is_file():
            _build(plan, space.corners(plan.space)[0])  # raises if it is not the combination that is refused
        elif isinstance(error, DataError):
            raise
        study.tell(trial.number, reason=str(error))
        return 0
    if not code:
        value = outcome.value(study, trial.number)
        study.tell(trial.number, value, f"there was no validation with a finite `{study.monitor}`")
    return code
