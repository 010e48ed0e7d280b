"""Trials of a sweep, in one SQLite file that several processes share: none is run twice, none is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import optuna
from filelock import FileLock, Timeout
from lightning.pytorch.trainer.states import TrainerFn
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from dream.errors import CheckpointError
from dream.files import inside, opened
from experiments.folders import LOCK
from experiments.sweep.space import Space
from lightning_modules.base import TaskModule
from lightning_modules.redaction import redacted

STORE = "sweep.db"
PRUNED = "pruned"
"""Attribute of a trial that was stopped early."""
REASON = "reason"
"""Attribute of a trial that failed: why."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
PATIENCE = 60  # seconds that a process waits while another one writes
Mode = Literal["min", "max"]
PRUNERS: dict[str, BasePruner] = {
    "median": MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    "none": NopPruner(),
}
"""Rules by which a trial is hopeless.

`median`: its best value is worse than the median of the others' after as many epochs, once five have ended
and its third epoch is over."""


class Study:
    """Trials that were run, and the choice of the next.

    Args:
        folder: Where `sweep.db` and the folders of the trials are.
        pruner: One of `PRUNERS`.
    """

    def __init__(self, folder: Path, pruner: str = "median") -> None:
        self.folder = folder
        self.pruner = pruner

    def create(self, monitor: str, mode: Mode) -> None:
        """Start the study, unless another process has.

        Trials are judged by the validation metric `monitor`, of which the lowest or highest is best.
        """
        direction = StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE
        with FileLock(inside(self.folder, LOCK)):
            study = optuna.create_study(
                storage=self._storage(), study_name="sweep", direction=direction, load_if_exists=True
            )
            study.set_user_attr("monitor", monitor)

    @property
    def exists(self) -> bool:
        """Whether `create` has been called, in this process or before."""
        if not (self.folder / STORE).exists():
            return False
        with FileLock(inside(self.folder, LOCK)):
            return "sweep" in optuna.get_all_study_names(self._storage())

    def _storage(self) -> optuna.storages.RDBStorage:
        path = inside(self.folder, STORE)
        if path.exists():
            with opened(path):  # refuses what SQLite would wait for
                pass
        url = URL.create("sqlite", database=str(self.folder / STORE)).render_as_string()
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})
        except (SQLAlchemyError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.folder / STORE} must hold the trials of a sweep; it is damaged, or of another "
                f"version of optuna ({str(error).splitlines()[0][:100]}). Give --folder=NEW."
            ) from None

    def open(self) -> None:
        """Open the file.

        Raises:
            CheckpointError: it is damaged.
        """
        self.held = optuna.load_study(
            study_name="sweep",
            storage=self._storage(),
            sampler=optuna.samplers.RandomSampler(),  # not used: see `_propose`
            pruner=PRUNERS[self.pruner],
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number, as they stand now."""
        return self.held.get_trials()

    @property
    def monitor(self) -> str:
        """Validation metric by which trials are judged."""
        return str(self.held.user_attrs["monitor"])

    @property
    def mode(self) -> Mode:
        """Whether the best is the lowest or the highest."""
        return "min" if self.held.direction == StudyDirection.MINIMIZE else "max"

    def place(self, number: int) -> Path:
        """Folder of the run of a trial.

        Raises:
            OSError: it is a link.
        """
        return inside(self.folder, f"trial-{number:04d}")

    @contextmanager
    def next(self, space: Space, most: int, seed: int) -> Iterator[FrozenTrial | None]:
        """Give this process a trial to run until the block ends; None where none is left.

        First those that were under way when their process ended, then new ones, until there are `most`. What
        a new one tries depends on `seed`, its number and the trials that have ended.
        """
        trial, lock = None, None
        with FileLock(inside(self.folder, LOCK)):
            for held in self.held.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                lock = self._claim(held.number)
                if lock and self.trials[held.number].state == TrialState.RUNNING:  # it may have ended since
                    trial = held
                    break
                if lock:
                    lock.release()
            number = len(self.trials)
            if trial is None and number < most:
                lock = self._claim(number)
                self.held.add_trial(
                    create_trial(
                        state=TrialState.RUNNING, params=self._propose(space, seed), distributions=space
                    )
                )
                trial = self.trials[number]
        try:
            yield trial
        finally:
            if lock:
                lock.release()

    def _claim(self, number: int) -> FileLock | None:
        lock = FileLock(inside(self.folder, f".{self.place(number).name}.lock"), blocking=False)
        try:
            return lock if lock.acquire() else None
        except Timeout:
            return None

    def _propose(self, space: Space, seed: int) -> dict[str, Any]:
        """Settings of the next trial.

        A copy of the study in memory proposes them, so that a process which is killed here leaves no half of
        a trial.
        """
        trials = self.trials
        own = int(np.random.SeedSequence([seed, len(trials)]).generate_state(1)[0])
        copy = optuna.create_study(
            direction=self.held.direction, sampler=optuna.samplers.TPESampler(seed=own)
        )
        copy.add_trials(trials)
        return copy.ask(space).params

    def tell(self, number: int, value: float | None = None, reason: str = "") -> None:
        """Record that a trial has ended: with its best value, or with the reason why there is none."""
        trial = Trial(self.held, self.trials[number]._trial_id)
        if value is None:
            trial.set_user_attr(REASON, redacted(reason))
            self.held.tell(number, state=TrialState.FAIL)
        elif PRUNED in trial.user_attrs:
            self.held.tell(number, state=TrialState.PRUNED)
        else:
            self.held.tell(number, value)


class Pruning(L.Callback):
    """Reports each epoch of a trial to its study, and ends the trial when the pruner finds it hopeless.

    A run of several processes is reported, but not ended.

    Args:
        study: where the trial is.
        number: the trial's.
    """

    def __init__(self, study: Study, number: int) -> None:
        self.trial = Trial(study.held, study.trials[number]._trial_id)
        self.number = number
        self.study = study

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        value = trainer.callback_metrics.get(pl_module.monitor)
        if (
            trainer.state.fn != TrainerFn.FITTING
            or trainer.sanity_checking
            or value is None
            or not math.isfinite(value)
        ):
            return
        # reported before, if this process was killed and started again
        if trainer.current_epoch not in self.study.trials[self.number].intermediate_values:
            self.trial.report(float(value), trainer.current_epoch)
        if trainer.world_size == 1 and self.trial.should_prune():
            self.trial.set_user_attr(PRUNED, True)
            trainer.should_stop = True
