"""`PlainProgress`: one line for each epoch, for logs and pipes, where a bar would only make noise."""

from __future__ import annotations

import sys
import time

import lightning as L
from lightning.pytorch.utilities import rank_zero_only


class PlainProgress(L.Callback):
    """Prints epoch, loss, the monitored metric, seconds so far and an estimate of those left, to stderr."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._first_epoch = time.monotonic(), trainer.current_epoch

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        elapsed = time.monotonic() - self._start
        done = trainer.current_epoch - self._first_epoch + 1
        parts = [f"epoch {trainer.current_epoch + 1}" + (f"/{trainer.max_epochs}" if trainer.max_epochs else "")]
        known = [name for name in ("train/loss", getattr(pl_module, "monitor", "")) if name in trainer.callback_metrics]
        parts += [f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in known]
        parts.append(f"{elapsed:.0f} s")
        if trainer.max_epochs and trainer.max_epochs > 0:
            left = elapsed / done * (trainer.max_epochs - trainer.current_epoch - 1)
            parts.append(f"at most {left:.0f} s left")
        print("  ".join(parts), file=sys.stderr, flush=True)  # noqa: T201 - the point of this callback
