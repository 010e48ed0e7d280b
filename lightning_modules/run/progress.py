"""`PlainProgress`: a line for each epoch, and now and then within what takes longer, for logs and pipes."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.waiting import Lines


class PlainProgress(L.Callback):
    """Prints, to stderr, epoch, loss, the monitored metric, seconds so far and an estimate of those left; and
    every ten seconds how far an epoch, a validation, a test or a prediction is."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first_epoch = 0
        self._epoch, self._stage = Lines(), Lines()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._first_epoch = time.monotonic(), trainer.current_epoch

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
        known = [
            name
            for name in ("train/loss", getattr(pl_module, "monitor", ""))
            if name in trainer.callback_metrics
        ]
        parts += [f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in known]
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
        """How far a stage is, of so many batches of each loader."""
        self._stage.tell(stage, (batch_idx + 1) / batches[dataloader_idx])
