"""`LayerRecord`: histogram of surprise, surprise and norm of U over a test, and the learned plasticity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from dream import DREAMStack
from dream.cell import DREAMCell
from dream.files import json_text
from dream.sums import write_atomic
from lightning_modules.base import Observation, TaskModule, run_folder

BINS = 64  # bins of a histogram over [0, 1]; a power of two, so that their borders are exact
POINTS = 256  # least number of points of a line over a long test; at most twice as many
LAYERS = "layers.json"


class LayerTally:
    """Running record of a layer, in constant memory and without waiting for the device.

    It does not depend on how a test is cut into batches.

    Args:
        device: Device of the sums.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(BINS + 1, dtype=torch.int64, device=device)
        """Number of steps in each bin of surprise; the last entry counts the steps that are left out."""
        self.sums = torch.zeros(3, 2 * POINTS, dtype=torch.float64, device=device)
        """Sums of surprise, norm of U and number of steps, by point."""
        self.width = 1
        """Places per point."""
        self.place = 0
        """Places so far: steps of streams, or samples that are read one after the other."""
        self.streams = False
        """Whether the places are steps of streams."""

    def add(self, seen: Observation) -> None:
        """Add a batch."""
        self.streams = seen.streams
        surprise, u_norm = seen.surprise.detach().double(), seen.u_norm.detach().double()
        valid = seen.valid & (surprise + u_norm).isfinite()
        bins = torch.where(valid, (surprise * BINS).clamp(0, BINS - 1), BINS).long().flatten()
        self.counts.scatter_add_(0, bins, torch.ones_like(bins))
        values = torch.stack([surprise, u_norm, torch.ones_like(surprise)])
        values = torch.where(valid, values, 0.0).sum(1 if seen.streams else 2)
        length = values.shape[1]
        while self.place + length > self.width * 2 * POINTS:
            halved = self.sums.unflatten(1, (POINTS, 2)).sum(2)
            self.sums = torch.cat([halved, torch.zeros_like(halved)], 1)
            self.width *= 2
        points = torch.arange(self.place, self.place + length, device=values.device) // self.width
        self.sums.index_add_(1, points, values)
        self.place += length

    def tensors(self) -> dict[str, Tensor]:
        """State of the record, for `load`."""
        place = torch.tensor([self.width, self.place, self.streams])
        return {"counts": self.counts, "sums": self.sums, "place": place}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from the state that `tensors` returned."""
        self.counts = tensors["counts"].to(self.counts.device, copy=True)
        self.sums = tensors["sums"].to(self.sums.device, copy=True)
        self.width, self.place, streams = tensors["place"].tolist()
        self.streams = bool(streams)

    def plain(self) -> dict[str, Any]:
        """Record as JSON values: `surprise_counts` by bin; first `place` and means of each point."""
        surprise, u_norm, number = self.sums.cpu().numpy()
        there = np.flatnonzero(number)
        return {
            "surprise_counts": self.counts[:BINS].tolist(),
            "place": (there * self.width).tolist(),
            "surprise": (surprise[there] / number[there]).tolist(),
            "u_norm": (u_norm[there] / number[there]).tolist(),
        }


class LayerRecord(L.Callback):
    """Callback that writes `layers.json` into the run's folder at the end of a test. For each DREAM layer:

    - ``surprise_counts``: number of steps in each of 64 equal bins of surprise in [0, 1];
    - ``place``, ``surprise`` and ``u_norm``: means over the test, at 512 points at most;
    - of layers with fast weights ``plasticity`` and ``tonic``: histograms of the learned eta and of the tonic
      share over the units; and ``target_norm``, the ceiling of |U|.

    The steps are those that the module observes in the test, of all samples. A rival of DREAM has no layers
    to record. Every process reads the whole test, so the first one writes the record. A resumed test
    continues its record: `SaveProgress` keeps it."""

    def __init__(self) -> None:
        self.tallies: list[LayerTally] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        self.tallies, pl_module.observed = [], []
        if isinstance(pl_module.core, DREAMStack):
            self.tallies = [LayerTally(pl_module.device) for _ in pl_module.core.layers]

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, TaskModule)
        if not self.tallies or not pl_module.observed:
            return
        for tally, seen in zip(self.tallies, pl_module.observed, strict=True):
            tally.add(seen)
        pl_module.observed = []

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        if not any(tally.place for tally in self.tallies):
            return
        cells = [module for module in pl_module.core.modules() if isinstance(module, DREAMCell)]
        layers = [tally.plain() | fast_weights(cell) for tally, cell in zip(self.tallies, cells, strict=True)]
        record = {"places": "steps" if self.tallies[0].streams else "rows", "layers": layers}
        write_atomic(run_folder(trainer), LAYERS, json_text(record) + "\n")


def fast_weights(cell: DREAMCell) -> dict[str, Any]:
    """Histograms of the learned eta and the tonic share over a layer's units, and the ceiling of |U|.

    Empty if the layer has no fast weights."""
    if cell.config.base_plasticity == 0:
        return {}
    params = cell.params()
    found: dict[str, Any] = {"target_norm": cell.config.target_norm}
    for name, values in (("plasticity", params.eta), ("tonic", params.tonic)):
        limits = (0.0, 1.0) if name == "tonic" else None
        counts, borders = np.histogram(values.detach().double().cpu().numpy(), BINS // 2, limits)
        found[name] = {"counts": counts.tolist(), "borders": borders.tolist()}
    return found
