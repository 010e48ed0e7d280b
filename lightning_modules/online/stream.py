"""`OnlineStream`: one series and what is to be predicted of it.

Shapes: T rows, C targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dream.errors import DataError
from lightning_modules.data.schema import Schema
from lightning_modules.data.series import Series
from lightning_modules.stream.settings import Task


@dataclass(frozen=True, eq=False)
class OnlineStream:
    """A series and its targets."""

    series: Series
    """The input columns; for forecasting the columns to predict come first."""
    task: Task
    targets: tuple[str, ...]
    """Names of the columns to predict; for classification, names of the classes."""
    truth: np.ndarray | None = None
    """(T, C) float64 for regression, (T,) int64 class numbers for classification; None for forecasting, whose
    targets are inputs."""

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """The columns by their role."""
        columns = self.series.columns
        if self.task == "forecasting":
            return {"targets": self.targets, "covariates": columns[len(self.targets) :]}
        return {"inputs": columns} | ({} if self.task == "classification" else {"targets": self.targets})

    def matched(self, recorded: Schema, scaling: str | None = None) -> OnlineStream:
        """The stream with columns in the order of a schema, and with the class numbers of it.

        Args:
            recorded: The schema.
            scaling: How the data are scaled if they hold several series, as the schema's settings have it.

        Raises:
            DataError: they do not match.
        """
        source = self.series.source
        recorded.require_settings({"task": self.task, "scaling": scaling}, source)
        found = {role: recorded.ordered(role, names, source) for role, names in self.roles.items()}
        targets, truth = found.get("targets", self.targets), self.truth
        if self.task == "classification":
            targets = tuple(recorded.vocabulary)
            if unknown := [name for name in self.targets if name not in targets]:
                raise DataError(
                    f"{source}: classes must be those that the checkpoint was trained on, "
                    f"{', '.join(targets)}; unknown to it: {', '.join(unknown)}. Rename them, or train again."
                )
            truth = np.array([targets.index(name) for name in self.targets])[truth]
        elif truth is not None:
            truth = truth[:, [self.targets.index(name) for name in targets]]
        inputs = found.get("inputs") or (*found["targets"], *found["covariates"])
        return OnlineStream(self.series.ordered(inputs), self.task, targets, truth)


def part_rows(part: int | float, count: int) -> int:
    """Rows of a part that is given as their number, or as a share of `count`."""
    return part if isinstance(part, int) else math.floor(part * count + 1e-6)


def check_truth(truth: np.ndarray, source: str, name: str) -> None:
    """Refuse targets with missing values.

    Raises:
        DataError: naming the first row without one.
    """
    missing = (
        np.isnan(truth).reshape(len(truth), -1).any(1)
        if truth.dtype.kind == "f"
        else np.zeros(len(truth), bool)
    )
    if missing.any():
        raise DataError(
            f"{source}: column `{name}` must hold a value in every row; row {int(missing.argmax())} has "
            "none. Leave out the rows without one."
        )
