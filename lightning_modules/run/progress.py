"""`PlainProgress`: progress as plain lines, for logs and pipes."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.waiting import Lines


class PlainProgress(L.Callback):
    """Callback that prints a line to stderr after each epoch, and every ten seconds within any stage.

    After an epoch: its number, loss, monitored metric, seconds so far and an estimate of those left. Within
    an epoch, a validation, a test or a prediction: the share that is done."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first_epoch = 0
        self._epoch = Lines()
        self._stage = Lines()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch.begin()

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch.tell(self._name(trainer), (batch_idx + 1) / trainer.num_training_batches)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        elapsed = time.monotonic() - self._start
        done = trainer.current_epoch - self._first_epoch + 1
        parts = [self._name(trainer)]
        metrics = trainer.callback_metrics
        names = ("train/loss", getattr(pl_module, "monitor", ""))
        parts += [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
        parts.append(f"{elapsed:.0f} s")
        if trainer.max_epochs and trainer.max_epochs > 0:
            left = elapsed / done * (trainer.max_epochs - trainer.current_epoch - 1)
            parts.append(f"at most {left:.0f} s left")
        print("  ".join(parts), file=sys.stderr, flush=True)  # noqa: T201 - the point of this callback

    @staticmethod
    def _name(trainer: L.Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if trainer.max_epochs else "")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stage.begin()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stage.begin()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stage.begin()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *seen: Any) -> None:
        self._tell("validation", trainer.num_val_batches, *seen)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *seen: Any) -> None:
        self._tell("test", trainer.num_test_batches, *seen)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *seen: Any) -> None:
        self._tell("prediction", trainer.num_predict_batches, *seen)

    @rank_zero_only
    def _tell(
        self,
        stage: str,
        batches: list[int | float],
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print the share of a stage that is done, given the number of batches of each loader."""
        self._stage.tell(stage, (batch_idx + 1) / batches[dataloader_idx])
