"""One training for all columns: the same batches, budget and clipping, and a learning rate of its own.

The learning rate falls linearly to 0. Every candidate trains for a share of the budget (`trial` of the
task); the one with the least validation loss then goes on to the end, so that its steps count once. Adam by
`dream.parameter_groups`, without weight decay; gradients are clipped to a norm of 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import dream
from dream.errors import DREAMError
from experiments.benchmarks.adaptation.models import Model, PlasticCore, build
from experiments.benchmarks.adaptation.protocol import (
    BASELINE,
    OPTIMUM,
    PLASTIC,
    REST,
    TRAINED,
    Outcome,
    Predictor,
    Scores,
    SequenceTask,
)
from lightning_modules.cores import trainable
from lightning_modules.waiting import waiting

CLIP = 1.0


class Training:
    """A model on its way, with a learning rate of its own."""

    def __init__(self, task: SequenceTask, column: str, rate: float, steps: int) -> None:
        torch.manual_seed(task.seed)
        self.task, self.rate, self.steps = task, rate, steps
        self.model = build(column, task)
        groups = dream.parameter_groups(self.model, weight_decay=0.0)
        self.optimizer = torch.optim.Adam(groups, lr=rate)
        self.random = task.random("train")
        self.done = 0

    def advance(self, until: int, tell: Callable[[], None]) -> None:
        """Train up to step `until` of the budget; call `tell` after each step."""
        self.model.train()
        while self.done < until:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * (1 - self.done / self.steps)
            batch = self.task.train_batch(self.random)
            loss = self.task.loss(self.model(batch), batch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.done += 1
            tell()


def train(task: SequenceTask, column: str, most_steps: int | None = None) -> tuple[Model, Outcome]:
    """Choose the learning rate of a column and train it; the outcome has no scores yet.

    Raises:
        DREAMError: no learning rate left a finite validation loss.
    """
    begun = time.monotonic()
    steps = task.steps if most_steps is None else min(task.steps, most_steps)
    first = math.ceil(task.trial * steps)
    told, all_steps = 0, steps + (len(task.rates) - 1) * first
    trials: dict[str, Training] = {}
    losses: dict[str, float] = {}
    with waiting(f"{task.name}, seed {task.seed}: {column}") as show:

        def tell() -> None:
            nonlocal told
            told += 1
            show(told / all_steps)

        for rate in task.rates:
            trial = trials[f"{rate:g}"] = Training(task, column, rate, steps)
            trial.advance(first, tell)
            losses[f"{rate:g}"] = validation(task, trial.model.eval())
        chosen = least(losses, f"no learning rate trains {column} on {task.name}")
        trials[chosen].advance(steps, tell)
    model = trials[chosen].model.eval()
    seconds = time.monotonic() - begun
    return model, Outcome(
        Scores({}), parameters=trainable(model), seconds=seconds, tried=losses, chosen=chosen
    )


@torch.no_grad()
def validation(task: SequenceTask, predict: Predictor) -> float:
    """Mean loss over the validation batches."""
    batches = task.held_out("validation")
    return sum(float(task.loss(predict(batch), batch)) for batch in batches) / len(batches)


def least(losses: dict[str, float], otherwise: str) -> str:
    """Key of the least finite loss.

    Raises:
        DREAMError: none is finite, which begins with `otherwise`.
    """
    finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        raise DREAMError(f"{otherwise}: every validation loss of {losses} should be finite. Try lower ones.")
    return min(finite, key=lambda name: finite[name])


@torch.no_grad()
def scores(task: SequenceTask, predict: Predictor) -> Scores:
    """Figures on the test batches."""
    batches = task.held_out("test")
    predictions: list[Tensor] = [predict(batch) for batch in batches]
    return task.score(predictions, batches)


def run_columns(task: SequenceTask, most_steps: int | None) -> dict[str, Outcome]:
    """Train and score every column of a task."""
    task.setup()
    found: dict[str, Outcome] = {}
    for column in TRAINED:
        model, outcome = train(task, column, most_steps)
        outcome.scores = scores(task, model)
        found[column] = outcome
        if column == PLASTIC:
            assert isinstance(model.core, PlasticCore)
            with model.core.layer.plasticity(False):
                found[REST] = Outcome(scores(task, model), parameters=outcome.parameters)
    rivals = task.baselines()
    if rivals:
        losses = {name: validation(task, predict) for name, predict in rivals.items()}
        name = least(losses, f"no method without a core predicts {task.name}")
        found[BASELINE] = Outcome(scores(task, rivals[name]), tried=losses, chosen=name)
    best = task.optimum()
    if best is not None:
        found[OPTIMUM] = Outcome(scores(task, best))
    return found
