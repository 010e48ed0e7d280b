"""`PlainProgress`: a line for each epoch, and now and then in a test, for logs and pipes, where a bar would be noise."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

QUIET = 10.0  # seconds of a test without a word


class PlainProgress(L.Callback):
    """Prints, to stderr, epoch, loss, the monitored metric, seconds so far and an estimate of those left; in a test that
    takes longer, every ten seconds how far it is."""

    def __init__(self) -> None:
        self._start = 0.0
        self._first_epoch = 0
        self._said = 0.0

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

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = self._said = time.monotonic()

    @rank_zero_only
    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        now = time.monotonic()
        batches = trainer.num_test_batches[dataloader_idx]
        if now - self._said < QUIET or batch_idx + 1 == batches:
            return
        self._said = now
        elapsed, share = now - self._start, (batch_idx + 1) / batches
        print(  # noqa: T201
            f"test {share:.0%}  {elapsed:.0f} s  about {elapsed / share * (1 - share):.0f} s left",
            file=sys.stderr,
            flush=True,
        )
