"""`TuningAdvisor`: recognise the guide's five symptoms during a run, and log the guide's advice."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from dream import DREAMStack, sums
from dream.files import json_text
from dream.tuning import SYMPTOMS
from lightning_modules.base import TaskModule, is_logging_step, run_folder
from lightning_modules.checks import require

log = logging.getLogger(__name__)

REMARKS = "remarks.json"

STALLED = 0.01  # relative fall of the loss within the window below which it counts as not decreasing
LEARNT = 0.1  # relative fall since the start of the run above which a level loss has converged, not stalled
ZIGZAG = 0.8  # share of steps at which an oscillating loss turns; pure noise turns at two thirds
SWING = 0.2  # typical step of an oscillation, relative to the loss at the start of the run
JUMP = 3.0  # multiple of the window's typical loss that counts as a jump
LOST = 0.5  # share of the peak norm of U below which it counts as forgotten
CALM, ALARMED = 0.2, 0.5  # mean surprise below and above which a stream is known and unknown


class LoggedStep(NamedTuple):
    """Training loss at one logging step, and the first layer's mean surprise, mean |U| and ceiling of |U|.

    The ceiling is 0 where fast weights are switched off."""

    loss: float
    surprise: float
    u_norm: float
    target_norm: float


class TuningAdvisor(L.Callback):
    """Callback that reports each symptom of the guide at most once, by the last `window` logging steps.

    A report is a warning in the log and an entry (step, symptom, adjustment) of `remarks.json` in the run's
    folder.

    With loss l, mean surprise S and mean |U| of the first layer, at each logging step, over a full window:

    - *Loss not decreasing*: the median of l over the later half is not at least 1 % below that over the
      earlier half, nor 10 % below that at the start of the run.
    - *Too much oscillation*: l turns at 80 % or more of its steps, and the median step is above 20 % of l at
      the start.
    - *Forgets too quickly*: |U| is below half of its peak in the window although S stayed below 0.2: nothing
      new overwrote it, it decayed.
    - *Doesn't adapt*: S is above 0.5 in both halves, not falling by 10 %, while |U| is below 10 % of
      `target_norm`.
    - *Unstable training*: l is not finite, or its last value is above 3 times the window's median and above
      30 % of l at the start.

    The loss at the start is the median over the first tenth of a window: later much is often learned,
    and epochs have their ups and downs. Fast weights that are switched off (`base_plasticity` 0) cannot
    forget and need not adapt.

    The adjustments are `dream.tuning.SYMPTOMS`. They concern DREAM's settings, so its rivals are not watched.

    Args:
        window: Logging steps that a symptom must last; at least 4.

    Raises:
        ConfigError: the window is shorter.
    """

    def __init__(self, window: int = 50) -> None:
        require("window", window, window >= 4, "at least 4 logging steps")
        self.window = window
        self.steps: deque[LoggedStep] = deque(maxlen=self.window)
        self.reported: dict[str, tuple[int, str]] = {}
        """Step and adjustment of each symptom seen so far."""
        self.start = math.nan
        """Median loss over the first tenth of a window of the run."""

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [tuple(step) for step in self.steps], "reported": self.reported, "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps.extend(LoggedStep(*step) for step in state_dict["steps"])
        self.reported = dict(state_dict["reported"])
        self.start = state_dict["start"]

    @rank_zero_only
    def write(self, folder: str | Path) -> None:
        """Write `remarks.json`: the window, and all reports so far in the order of their steps."""
        remarks = [
            {"step": step, "symptom": symptom, "adjustment": text}
            for symptom, (step, text) in self.reported.items()
        ]
        text = json_text({"window": self.window, "remarks": remarks}, indent=2)
        sums.write_atomic(folder, REMARKS, text + "\n")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the reports that a resumed run made after the step from which it resumes."""
        assert isinstance(pl_module, TaskModule)
        if isinstance(pl_module.core, DREAMStack):
            self.write(run_folder(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TaskModule)
        if not is_logging_step(trainer) or not isinstance(pl_module.core, DREAMStack):
            return
        first = pl_module.observed[0]
        config = pl_module.core.get_config()[0]
        target = config.target_norm if config.base_plasticity > 0 else 0.0
        loss, surprise = float(outputs["loss"]), float(first.mean(first.surprise))
        self.steps.append(LoggedStep(loss, surprise, float(first.last_u_norm.mean()), target))
        if len(self.steps) == max(self.window // 10, 1) and math.isnan(self.start):
            self.start = float(np.median([step.loss for step in self.steps]))
        for symptom in symptoms(self.steps, self.window, self.start):
            if symptom not in self.reported:
                self.reported[symptom] = (trainer.global_step, str(SYMPTOMS[symptom]))
                self.write(run_folder(trainer))
                log.warning("step %d: %s. Try: %s.", trainer.global_step, symptom, SYMPTOMS[symptom])


def symptoms(logged: Sequence[LoggedStep], window: int, start: float) -> list[str]:
    """Symptoms that the last `window` logging steps show, by the rules of `TuningAdvisor`.

    `start` is the loss at the start of the run."""
    if logged and not math.isfinite(logged[-1].loss):
        return ["Unstable training"]
    if len(logged) < window:
        return []
    loss, surprise, u_norm, target = np.array(logged, dtype=float).T
    half = len(loss) // 2
    later = np.median(loss[half:])
    steps = np.diff(loss)
    turns = np.mean(steps[1:] * steps[:-1] < 0)
    shown = {
        "Loss not decreasing": later > max((1 - STALLED) * np.median(loss[:half]), (1 - LEARNT) * start),
        "Too much oscillation": turns >= ZIGZAG and np.median(np.abs(steps)) > SWING * start,
        "Forgets too quickly": surprise.max() < CALM and u_norm[-1] < LOST * u_norm.max(),
        "Doesn't adapt": surprise[:half].mean() > ALARMED
        and surprise[half:].mean() > max(ALARMED, 0.9 * surprise[:half].mean())
        and u_norm.mean() < 0.1 * target.mean(),
        "Unstable training": loss[-1] > JUMP * max(np.median(loss), LEARNT * start),
    }
    return [name for name, holds in shown.items() if holds]
