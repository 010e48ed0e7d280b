"""One process of two: its second step is bad in rank 1 only, by a norm of U that no gradient shows. For
torchrun."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch

from experiments.benchmarks.ranks import quiet_trainer
from lightning_modules.run.guard import NaNGuard
from tests.lightning_modules.support import small_data, small_module


class Spoil(L.Callback):
    """Callback that loses the fast weights of rank 1 in the second step, and records the weights."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_before_backward(self, trainer: L.Trainer, module: Any, loss: torch.Tensor) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 1:
            module.observed[0].u_norm[0, -1] = torch.inf

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.weights.append(
            torch.cat([value.detach().flatten().double() for value in module.state_dict().values()])
        )


def main(out: str) -> None:
    torch.manual_seed(0)
    data, spoil, guard = small_data(), Spoil(), NaNGuard()
    module = small_module(data, dropout=0.0, schedule="constant", warmup=0.0)
    trainer = quiet_trainer(
        module, callbacks=[spoil, guard], max_steps=4, limit_val_batches=0, log_every_n_steps=2
    )
    trainer.fit(module, datamodule=data)
    torch.save(
        {"weights": torch.stack(spoil.weights), "skipped": guard.skipped}, f"{out}.{trainer.global_rank}"
    )


if __name__ == "__main__":
    main(sys.argv[1])
