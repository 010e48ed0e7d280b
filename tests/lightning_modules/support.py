"""Small experiments that the tests of tasks, callbacks and logs share."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dream import DREAMConfig, DREAMStack
from lightning_modules import ForecastingModule
from lightning_modules.forecasting import DriftingLoad


def small_data(**options: Any) -> DriftingLoad:
    """Two feeders, 400 rows, windows of 24 + 8 rows."""
    return DriftingLoad(
        **{"feeders": 2, "rows": 400, "look_back": 24, "horizon": 8, "batch_size": 16, "season": 24} | options
    )


def small_module(data: DriftingLoad | None = None, **options: Any) -> ForecastingModule:
    """A small layer on `small_data`; `options` are settings, or facts about other data."""
    shape = (data or small_data()).shape
    facts = {name: options.pop(name) for name in asdict(shape) if name in options}
    settings = {"config": DREAMConfig(hidden_dim=8, rank=2), "patch": 4} | options
    return ForecastingModule(shape=replace(shape, **facts), **settings)


def small_trainer(folder: Path, **options: Any) -> L.Trainer:
    """A Trainer on the CPU that prints nothing and, unless told otherwise, writes nothing."""
    quiet = dict(
        enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False
    )
    settings = dict(
        accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0, max_epochs=1, log_every_n_steps=1
    )
    return L.Trainer(**{**settings, **quiet, **options})


def prediction_errors(core: DREAMStack, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """(N, T) mean squared error of each layer's prediction of what it reads, summed over the layers; 0 where
    padded."""
    found = torch.zeros(x.shape[:2])
    for layer in core.layers:
        output, trace, _ = layer.trace(x, lengths=lengths)
        found = found + (trace.prediction - x).square().mean(-1)
        x = output
    steps = torch.arange(x.shape[1])
    return found if lengths is None else torch.where(steps < lengths[:, None], found, 0.0)
