"""`TuningAdvisor`: recognises the guide's five symptoms while a run goes on, and says what the guide
advises."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from dream import DREAMStack
from dream.files import write_atomic
from dream.tuning import SYMPTOMS
from lightning_modules.base import TaskModule, is_logging_step, require

log = logging.getLogger(__name__)

REMARKS = "remarks.json"

STALLED = 0.01  # relative fall of the loss within the window below which it counts as not decreasing
LEARNT = 0.1  # relative fall since the start of the run above which a level loss has converged, not stalled
ZIGZAG = 0.8  # share of turns of an oscillation; noise turns at two thirds of its steps
# size of a typical step relative to the start of the run: near 0 any noise is large beside the loss itself
SWING = 0.2
JUMP = 3.0  # times the typical loss of the window
LOST = 0.5  # share of the norm of U that must be left
CALM, ALARMED = 0.2, 0.5  # mean surprise below and above which a stream is known and unknown


class Sample(NamedTuple):
    """One logging step: training loss, and the first layer's mean surprise and mean |U| with its ceiling, 0
    where fast weights are switched off."""

    loss: float
    surprise: float
    u_norm: float
    target_norm: float


class TuningAdvisor(L.Callback):
    """Watches the last `window` logging steps and reports each symptom of the guide at most once, as a
    warning in the log and in `remarks.json` in the run's folder, which says of each its step, the symptom and
    the adjustment.

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

    The start is the median over the first tenth of a window: later ones are often half learnt, and epochs
    have their ups and downs. Fast weights that are switched off (`base_plasticity` 0) neither forget nor have
    to adapt.

    A rival of DREAM is not watched: the adjustments are of DREAM's knobs.

    The adjustments are `dream.tuning.SYMPTOMS`.

    Args:
        window: Logging steps that a symptom must last; at least 4.

    Raises:
        ConfigError: a shorter window.
    """

    def __init__(self, window: int = 50) -> None:
        require("window", window, window >= 4, "at least 4 logging steps")
        self.window = window
        self.samples: deque[Sample] = deque(maxlen=self.window)
        self.reported: dict[str, tuple[int, str]] = {}
        """Step and adjustment of each symptom that was met."""
        self.start = math.nan
        """Median loss over the first tenth of a window of the run."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "samples": [tuple(sample) for sample in self.samples],
            "reported": self.reported,
            "start": self.start,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples.extend(Sample(*sample) for sample in state_dict["samples"])
        self.reported, self.start = dict(state_dict["reported"]), state_dict["start"]

    @rank_zero_only
    def write(self, folder: str | Path) -> None:
        """`remarks.json`: the window and what was reported so far, in the order of the steps."""
        remarks = [
            {"step": step, "symptom": symptom, "adjustment": text}
            for symptom, (step, text) in self.reported.items()
        ]
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomic(
            Path(folder) / REMARKS, json.dumps({"window": self.window, "remarks": remarks}, indent=2) + "\n"
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that goes on forgets what it reported after the step that it goes on from."""
        assert isinstance(pl_module, TaskModule)
        if isinstance(pl_module.core, DREAMStack):
            self.write(trainer.default_root_dir)

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
        self.samples.append(Sample(loss, surprise, float(first.last_u_norm.mean()), target))
        if len(self.samples) == max(self.window // 10, 1) and math.isnan(self.start):
            self.start = float(np.median([sample.loss for sample in self.samples]))
        for symptom in symptoms(self.samples, self.window, self.start):
            if symptom not in self.reported:
                self.reported[symptom] = (trainer.global_step, str(SYMPTOMS[symptom]))
                self.write(trainer.default_root_dir)
                log.warning("step %d: %s. Try: %s.", trainer.global_step, symptom, SYMPTOMS[symptom])


def symptoms(samples: Sequence[Sample], window: int, start: float) -> list[str]:
    """The symptoms that the last `window` samples show, by the rules of `TuningAdvisor`; `start` is the run's
    first loss."""
    if samples and not math.isfinite(samples[-1].loss):
        return ["Unstable training"]
    if len(samples) < window:
        return []
    loss, surprise, u_norm, target = np.array(samples, dtype=float).T
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
