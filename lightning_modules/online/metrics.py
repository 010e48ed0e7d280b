"""Prequential metrics: one that torchmetrics lacks, and the sets that the tables of online learning show."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import CohenKappa, MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class KappaTemporal(Metric):
    """Gain over repeating the previous label, ``(p - p_previous) / (1 - p_previous)``.

    p is the accuracy, and p_previous that of predicting the label of the row before. 1: always right; 0: no
    better than repeating; below 0: worse. NaN if repeating is always right. Source: Zliobaite et al.,
    Evaluation methods and decision theory for classification of streaming data with temporal dependence,
    2015."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    repeated: Tensor
    count: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "repeated", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("last", torch.tensor(-1), dist_reduce_fx=None)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predicted and true classes (M,) of the next rows of the stream."""
        before = torch.cat([self.last.reshape(1).to(target), target[:-1]])
        self.right += (preds == target).sum()
        self.repeated += (before == target).sum()
        self.count += len(target)
        self.last = target[-1]

    def compute(self) -> Tensor:
        """Value () over all rows so far."""
        p, repeat = self.right / self.count, self.repeated / self.count
        return (p - repeat) / (1 - repeat)


def prequential_metrics(classes: int | None) -> MetricCollection:
    """Metrics of a stream of so many `classes`, or of values if None."""
    if classes is None:
        values = MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})
        return values.set_dtype(torch.float64)  # the square of a legal error can exceed float32
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "kappa": CohenKappa("multiclass", num_classes=classes),
            "kappa_temporal": KappaTemporal(),
        },
        compute_groups=False,
    )
