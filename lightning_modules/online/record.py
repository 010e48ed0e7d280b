"""`StreamRecord`: metrics and figure of one pass over a stream, and of the rivals that need no training.

Shapes: M rows, H rows ahead, C targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_modules import naive
from lightning_modules.data.frequency import figure_times, table_times
from lightning_modules.data.long_table import ID
from lightning_modules.data.series import carry_forward
from lightning_modules.online import plots
from lightning_modules.online.data import OnlineData
from lightning_modules.online.drift import page_hinkley
from lightning_modules.online.metrics import prequential_metrics
from lightning_modules.stream import Steps
from lightning_modules.tables import free, long_forecast_table

ALARM = 25.0  # sum of rises of the error, in deviations, that counts as a change
SMALLEST = 1e-12  # added to squared errors before their logarithm is taken


class StreamRecord:
    """Scored predictions of each mode, and of the rivals, for the rows of a stream.

    Args:
        data: The stream.
        title: Name of the model in tables.
        modes: Modes of the module, its own first.
    """

    def __init__(self, data: OnlineData, title: str, modes: Sequence[str]) -> None:
        self.data = data
        self.title = title
        self.modes = list(modes)
        classes = data.channels if data.task == "classification" else None
        self.metrics: dict[str, MetricCollection] = {
            name: prequential_metrics(classes) for name in (*modes, *self.rivals)
        }
        for metric in self.metrics.values():
            metric.persistent()  # a test can be interrupted and resumed
        self.errors: dict[str, list[Tensor]] = {name: [] for name in self.metrics}
        """Error of each row; NaN where nothing to predict was observed."""
        self.seen: list[Tensor] = []
        """Surprise and norm of U of the first mode, (M, 2)."""

    @property
    def rivals(self) -> list[str]:
        """Names of the predictions that need no training."""
        if self.data.task == "classification":
            return ["previous label", "majority class"]
        if self.data.task == "regression":
            return ["repeat-last"]
        season = self.data.season_rows
        seasonal = season > 1 and self.data.scored.start + 1 >= season
        return ["repeat-last", *(["seasonal-naive"] if seasonal else [])]

    def add(self, mode: str, start: int, steps: Steps) -> None:
        """Score predictions of `mode` for the rows from `start` on, and with the first mode the rivals'."""
        scored = self.data.scored
        first, stop = max(start, scored.start), min(start + len(steps.predictions), scored.stop)
        if first >= stop:
            return
        rows, part = torch.arange(first, stop), slice(first - start, stop - start)
        found = steps.predictions[part].cpu()
        self._score(mode, rows, found[:, 0].argmax(-1) if self.data.task == "classification" else found)
        if mode == self.modes[0]:
            self.seen.append(torch.stack([steps.surprise[part], steps.u_norm[part]], 1).cpu())
            for rival in self.rivals:
                self._score(rival, rows, self._naive(rival, rows))

    def _truth(self, rows: Tensor) -> Tensor:
        """True classes (M,), or values (M, H, C)."""
        targets = self.data.values[1]
        if self.data.task == "classification":
            return targets[rows]
        if self.data.task == "regression":
            return targets[rows].unsqueeze(1)
        return targets[rows.unsqueeze(1) + torch.arange(1, self.data.horizon + 1)]

    @cached_property
    def _filled(self) -> Tensor:
        """The targets, each missing value replaced by the last known one, and by 0 before the first."""
        targets = self.data.values[1]
        if self.data.task == "classification":
            return targets
        return torch.tensor(carry_forward(targets.numpy(), np.zeros(targets.shape[1])))

    def _naive(self, rival: str, rows: Tensor) -> Tensor:
        targets, data = self._filled, self.data
        if rival == "previous label":
            return naive.previous_label(targets, data.label_delay)[rows]
        if rival == "majority class":
            return naive.majority_class(targets, data.channels, data.label_delay)[rows]
        if data.task == "regression":
            late = torch.cat([torch.zeros_like(targets[: data.label_delay + 1]), targets])[rows]
            return late.unsqueeze(1)
        season = 1 if rival == "repeat-last" else data.season_rows
        # as `naive.seasonal_naive`, without a copy of the whole season for each row
        return targets[rows.unsqueeze(1) + 1 - season + torch.arange(data.horizon) % season]

    def _score(self, model: str, rows: Tensor, found: Tensor) -> None:
        truth = self._truth(rows)
        if truth.dim() == 1:
            self.metrics[model].update(found.contiguous(), truth)
            self.errors[model].append((found != truth).double())
            return
        known = ~truth.isnan()
        if bool(known.any()):
            self.metrics[model].update(found[known], truth[known])
        self.errors[model].append((found - truth).square().nanmean((1, 2)))

    def tensors(self) -> dict[str, Any]:
        """State of the record, for `load`."""
        return {
            "metrics": {name: dict(metric.state_dict()) for name, metric in self.metrics.items()},
            "errors": {name: torch.cat(parts) for name, parts in self.errors.items() if parts},
            "seen": self.seen and torch.cat(self.seen),
        }

    def load(self, tensors: dict[str, Any]) -> None:
        """Resume from the state that `tensors` of a record of the same modes returned."""
        for name, state in tensors["metrics"].items():
            self.metrics[name].load_state_dict(state)
        self.errors |= {name: [parts] for name, parts in tensors["errors"].items()}
        self.seen = [tensors["seen"]] if len(tensors["seen"]) else []

    def results(self) -> dict[str, dict[str, float]]:
        """Metrics of every mode, the module's own first, and of every rival."""
        names = {mode: f"{self.title}, {mode}" for mode in self.modes}
        scored = {name: metric for name, metric in self.metrics.items() if self.errors[name]}
        return {
            names.get(name, name): {key: float(value) for key, value in metric.compute().items()}
            for name, metric in scored.items()
        }

    @property
    def empty(self) -> bool:
        """Whether nothing was scored."""
        return not self.seen

    def figure(self) -> Figure:
        """See `lightning_modules.online.plots.stream`."""
        # a row that could not be scored is drawn like the one before
        errors = {
            name: carry_forward(torch.cat(parts).numpy()[:, None])[:, 0]
            for name, parts in self.errors.items()
        }
        surprise, u_norm = torch.cat(self.seen).double().numpy().T
        first = self.data.scored.start
        rows = np.arange(first, first + len(surprise))
        own = errors[self.modes[0]]
        classes = self.data.task == "classification"
        # errors of overlapping windows are correlated: their sum wanders with the root of the horizon
        threshold = ALARM * self.data.horizon**0.5
        detected = page_hinkley(own if classes else np.log(own + SMALLEST), threshold=threshold)
        known = [row for row in self.data.drift_rows if rows[0] <= row <= rows[-1]]

        def times(rows: np.ndarray) -> np.ndarray:
            return figure_times(self.data.times(rows), self.data.clock.zone)

        return plots.stream(
            times(rows),
            errors,
            len(self.modes),
            surprise,
            u_norm,
            times(np.array(known, dtype=np.int64)),
            times(first + np.array(detected, dtype=np.int64)),
            "share of errors" if classes else "squared error (standardised)",
        )


def prediction_table(data: OnlineData, predictions: Tensor) -> pd.DataFrame:
    """Predictions (M, H, C) in the data's own units as a table: of all rows, or for forecasting of the rows
    after the last. The first prediction is that of row `data.begin`, or of the last row if that was read."""
    names = list(data.stream.targets)
    first = min(data.begin, data.end - 1)
    predictions, rows = predictions.cpu(), first + np.arange(len(predictions))
    if data.task == "forecasting":
        values, rows = predictions[-1], rows[-1] + 1 + np.arange(data.horizon)
    else:
        values = predictions[:, 0]
    table = pd.DataFrame(values.numpy(), columns=names)
    if data.task == "classification":
        table.insert(0, "predicted", np.array(names)[values.argmax(-1).numpy()])
    times = table_times(data.times(rows), data.clock.zone)
    table.insert(0, free("time", [str(column) for column in table.columns]), times)
    return table


def long_table(data: OnlineData, predictions: Tensor) -> pd.DataFrame:
    """Predictions (M, H, C) of several series, one after another, as one table: of forecasts in the form of
    `long_forecast_table`, and otherwise with the ids in the first column."""
    rows = [member.end - member.begin for member in data.members]
    stops = np.minimum(np.cumsum(rows), len(predictions)).tolist()  # a limit may have left some out
    read = [
        (member, predictions[start:stop])
        for member, start, stop in zip(data.members, [0, *stops], stops, strict=False)
        if start < stop
    ]
    if data.task == "forecasting":
        parts = []
        for member, made in read:
            last = member.begin + len(made)
            times = member.times(last + np.arange(member.horizon))
            shown = table_times(times, member.clock.zone)
            parts.append((str(member.name), made[-1].cpu().numpy()[..., None], shown))
        return long_forecast_table(parts, data.stream.targets, [])
    tables = [prediction_table(member, made) for member, made in read]
    whole = pd.concat(tables, ignore_index=True)
    ids = np.repeat([str(member.name) for member, _ in read], [len(table) for table in tables])
    whole.insert(0, free(ID, [str(column) for column in whole.columns]), ids.astype(object))
    return whole


def mean_results(parts: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over series of the metrics of every model that was scored in all of them; a metric that a series
    does not have (NaN) is left out."""
    models = [model for model in parts[0] if all(model in part for part in parts)]
    found = {}
    for model in models:
        values = {name: [part[model][name] for part in parts] for name in parts[0][model]}
        known = {name: [one for one in each if not np.isnan(one)] for name, each in values.items()}
        found[model] = {name: float(np.mean(each)) if each else np.nan for name, each in known.items()}
    return found
