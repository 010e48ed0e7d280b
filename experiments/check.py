"""`dream check`: build everything, run one batch, and print what a fit would do."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from dream.errors import DataError
from dream.ops import registry
from lightning_modules.base import TaskModule
from lightning_modules.cores import BaselineCore, trainable
from lightning_modules.data import TaskData


def check_experiment(trainer: L.Trainer, model: L.LightningModule, data: L.LightningDataModule) -> None:
    """Print data, model, one batch and the time that a fit would take. Nothing is written.

    Raises:
        DataError: the loss is not finite.
    """
    assert isinstance(model, TaskModule)
    assert isinstance(data, TaskData)
    table = Table("", "", title="what `dream fit` would do", title_justify="left", show_header=False)
    for name, text in data.describe():
        table.add_row(name, text)
    table.add_section()
    table.add_row("model", f"{type(model).__name__}, {trainable(model):,} trainable parameters")
    if isinstance(model.core, BaselineCore):
        table.add_row(
            "core",
            f"{model.title}, output {model.core.output_dim}, {trainable(model.core):,} trainable parameters",
        )
    else:
        for k, config in enumerate(model.core.get_config()):
            table.add_row(
                f"layer {k}", f"DREAM {config.input_dim} -> {config.hidden_dim}, rank {config.rank}"
            )
    table.add_row("backends", ", ".join(registry.BACKENDS))
    table.add_section()
    batches = data.train_dataloader()
    if len(batches):
        _run_batch(table, trainer, model, batches)
    else:
        table.add_row("fit", "nothing to train on: the test starts from the first weights")
    table.add_row(
        "device", "cuda" if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    )
    Console().print(table)


def _run_batch(table: Table, trainer: L.Trainer, model: TaskModule, batches: DataLoader[Any]) -> None:
    """Train on one batch, and add its loss and time to the table."""
    batch = next(iter(batches))
    model.losses(batch)["loss"].backward()  # the first call also loads kernels
    start = time.perf_counter()
    loss = model.losses(batch)["loss"]
    loss.backward()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(
            f"the loss of the first batch must be finite; got {value}. Look at the data and the loss's "
            "weights."
        )
    seconds = time.perf_counter() - start
    table.add_row("one batch", f"loss {value:.4f}, {seconds:.2f} s forward and backward")
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
    steps = len(batches)
    table.add_row(
        "fit", f"{steps} steps an epoch, " + (f"at most {epochs} epochs" if epochs else "no limit on epochs")
    )
    if epochs:
        table.add_row(
            "time", f"about {seconds * steps * epochs / 60:.1f} min at the speed of this batch, or less"
        )
