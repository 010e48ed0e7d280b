"""`DREAMClassifier` and `DREAMRegressor`: the target of a row from its columns and from all rows before."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Self

import numpy as np
import torch

from dream import DREAMConfig
from dream.errors import ConfigError, DataError, shown
from lightning_modules.calls import alone, whole
from lightning_modules.checks import require_int
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.from_run import Run
from lightning_modules.learners.values import (
    Row,
    Table,
    known_number,
    listed,
    number,
    numbers,
    plain,
    require_as_many,
)
from lightning_modules.stream import LAYER, Moves, Reading, Shape, Updates
from lightning_modules.stream.network import class_shares


class DREAMClassifier(OnlineObject):
    """Predicts the class of each row of a stream, and learns from the true one.

    A class is known from the first row that has it; True, 1 and 1.0 are one class, with a warning. Ties go to
    the class that came first.

    Args:
        config, reading, updates, moves, seed, lags: See `OnlineObject`.
        classes: Largest number of classes.

    Example:
        >>> model = DREAMClassifier(seed=1)
        >>> for k in range(200):
        ...     row, truth = {"a": k % 7 - 3.0, "b": 1.0}, k % 7 > 3
        ...     model = model.learn_one(row, truth)
        >>> model.predict_one({"a": 3.0, "b": 1.0}), model.predict_one({"a": -3.0, "b": 1.0})
        (True, False)
    """

    kind = "classifier"

    def __init__(
        self,
        config: DREAMConfig = LAYER,
        reading: Reading = Reading(rate=0.02),  # noqa: B008 - frozen
        updates: Updates = Updates("sgd", replay=1, lr=0.05),  # noqa: B008 - frozen
        moves: Moves = "head",
        seed: int = 0,
        classes: int = 10,
        lags: int = 1,
    ) -> None:
        super().__init__(config, reading, updates, moves, seed, lags)
        require_int("classes", classes, least=2)
        self.most = classes
        self.labels: list[Hashable] = []
        """The classes known so far, in the order in which they came."""

    @classmethod
    def _arguments(cls, run: Run) -> dict[str, Any]:
        return {"classes": len(run.schema.vocabulary)}

    @classmethod
    def _of_run(cls, run: Run) -> Self:
        new = super()._of_run(run)
        new.labels = list(run.schema.vocabulary)
        return new

    def _shape(self) -> Shape:
        return Shape("classification", len(self.columns), self.most, lags=self.lags)

    def _extra(self) -> dict[str, Any]:
        return {"arguments": {"classes": self.most}, "labels": self.labels}

    def _set_extra(self, extra: Mapping[str, Any]) -> None:
        labels = [plain(label) for label in extra["labels"]]
        if len(set(labels)) != len(labels) or len(labels) > self.most:
            raise ValueError(f"`labels` must be at most {self.most} classes that differ; got {shown(labels)}")
        self.labels = labels

    @whole
    def learn_one(self, x: Row, y: Hashable) -> DREAMClassifier:
        """Learn that row `x` is of class `y`: a text, a number, True or False.

        Raises:
            DataError: the columns are others, or a value or the class is not allowed.
        """
        number = self._number(y)
        row = self._row(x, fix=True)
        self._start().advance(row[None], np.array([number]))
        return self

    @whole
    def learn_many(self, x: Table, y: Iterable[Hashable]) -> DREAMClassifier:
        """Learn a table of rows, oldest first, and their classes: as `learn_one` of each, but faster.

        Args:
            x: A DataFrame, or a list of rows.
            y: The class of each row.

        Raises:
            DataError: the columns are others, a value or a class is not allowed, or there is not one for each
                row.
        """
        rows, labels = self._table(x), listed("y", y)
        require_as_many("y", labels, rows)
        self._learn_table(rows, np.array([self._number(label) for label in labels]))
        return self

    def _number(self, y: Hashable) -> int:
        """Number of a class, which may be a new one.

        Raises:
            DataError: it is none, or there are as many as may be.
        """
        label = plain(y)
        if self.origin is not None:  # a run knows its classes by their names in the file
            label = str(label)
            if label not in self.labels:
                known = ", ".join(map(str, self.labels))
                raise DataError(
                    f"`y` must be one of the classes that the run was trained on, {known}; got {shown(y)}. "
                    "Train again with it."
                )
        if label not in self.labels:
            if len(self.labels) == self.most:
                raise DataError(
                    f"`y` must be one of at most {self.most} classes; {label!r} is one more. Raise `classes`."
                )
            self.labels = [*self.labels, label]
        number = self.labels.index(label)
        if type(self.labels[number]) is not type(label):
            self._warn(f"`y`={label!r} is read as the class {self.labels[number]!r}, to which it is equal.")
        return number

    @alone
    def predict_proba_one(self, x: Row) -> dict[Hashable, float]:
        """Probability of each class known so far; empty before the first.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        row = self._row(x)
        if self.learner is None:
            return {}
        outputs = self.learner.foresee(row)[0, : len(self.labels)]
        least_squares = self.updates.rule == "least_squares" and self.moves != "all"
        shares = class_shares(torch.from_numpy(outputs), least_squares)
        return dict(zip(self.labels, shares.tolist(), strict=True))

    @alone
    def predict_one(self, x: Row) -> Hashable | None:
        """The most probable class; None before the first.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        shares = self.predict_proba_one(x)
        return max(shares, key=lambda label: shares[label]) if shares else None


class DREAMRegressor(OnlineObject):
    """Predicts a number for each row of a stream, and learns from the true one.

    Args:
        config, reading, updates, moves, seed, lags: See `OnlineObject`.

    Example:
        >>> model = DREAMRegressor()
        >>> for k in range(200):
        ...     x = {"a": (k * 37 % 100) / 50 - 1}
        ...     model = model.learn_one(x, 3 * x["a"] + 2)
        >>> abs(model.predict_one({"a": 0.5}) - 3.5) < 0.3
        True
    """

    kind = "regressor"

    def __init__(
        self,
        config: DREAMConfig = LAYER,
        reading: Reading = Reading(rate=0.001),  # noqa: B008 - frozen
        updates: Updates = Updates("least_squares", forgetting=0.999),  # noqa: B008 - frozen
        moves: Moves = "head",
        seed: int = 0,
        lags: int = 1,
    ) -> None:
        super().__init__(config, reading, updates, moves, seed, lags)

    @classmethod
    def _of_run(cls, run: Run) -> Self:
        if len(targets := run.schema.columns["targets"]) > 1:
            raise ConfigError(
                f"`source` must predict one number, as a {cls.__name__} does; {run.source} predicts "
                f"{', '.join(targets)}. Train a run for each.",
                key="source",
            )
        return super()._of_run(run)

    @property
    def _may_lack(self) -> bool:
        """Whether numbers to predict may be missing, as in the run's data."""
        return self.origin is not None and self.origin.missing == "model"

    def _targets(self, values: np.ndarray) -> np.ndarray:
        """Targets (T,) as the learner takes them, (T, 1), on the scale of the run's data.

        Raises:
            DataError: one is out of all proportion to those of the run's training.
        """
        if self._target_scaler is None or self.origin is None:
            return values[:, None]
        return self._target_scaler.standardise(values[:, None], self.origin.targets, "the stream")

    def _shape(self) -> Shape:
        return Shape("regression", len(self.columns), 1, lags=self.lags)

    @whole
    def learn_one(self, x: Row, y: float | None) -> DREAMRegressor:
        """Learn that row `x` belongs to the number `y`.

        With the object of a run with `data.missing=model`, `y` may be None where it is not known.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        target = self._targets(np.array([number("y", y) if self._may_lack else known_number("y", y)]))
        row = self._row(x, fix=True)
        self._start().advance(row[None], target)
        return self

    @whole
    def learn_many(self, x: Table, y: Iterable[float]) -> DREAMRegressor:
        """Learn a table of rows, oldest first, and their numbers: as `learn_one` of each, but faster.

        Args:
            x: A DataFrame, or a list of rows.
            y: The number of each row.

        Raises:
            DataError: the columns are others, a value is not allowed, or there is not a number for each row.
        """
        rows, targets = self._table(x), numbers("y", y)
        require_as_many("y", targets, rows)
        if np.isnan(targets).any() and not self._may_lack:
            known_number("y", math.nan)
        self._learn_table(rows, self._targets(targets))
        return self

    @alone
    def predict_one(self, x: Row) -> float:
        """Predict the number of row `x`; 0 before the first row was learnt.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        row = self._row(x)
        return 0.0 if self.learner is None else float(self._in_units(self.learner.foresee(row))[0, 0])
