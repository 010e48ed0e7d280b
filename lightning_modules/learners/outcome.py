"""`Outcome`: what one row of a row object of any kind comes to, predicted or scored, and learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dream.errors import DataError, shown
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.detector import DREAMAnomalyDetector, Judgement
from lightning_modules.learners.forecaster import DREAMForecaster
from lightning_modules.learners.supervised import DREAMClassifier, DREAMRegressor

Model = TypeVar("Model", bound=OnlineObject)
LAST = 2**63 - 1  # largest number of a row


class Outcome(NamedTuple):
    """Outcome of one row."""

    prediction: Any = None
    """Forecast after the row, or class or number of the row before it was learnt; None from a detector."""
    judgement: Judgement | None = None
    """A detector's, before the row was learnt."""
    seq: int = 0
    """Number of the last row of the stream that was learnt."""
    flushed: int = 0
    """Number of the last one that is on disk."""
    repeated: bool = False
    """Whether the row had been learnt before, so that nothing was done."""


def learn(model: OnlineObject, row: Any, target: Any) -> Outcome:
    """Predict or score a row, then learn it; see `Streams.learn_streams`.

    Raises:
        DataError: the row or its target is not allowed.
    """
    if isinstance(model, DREAMForecaster):
        model.learn_one(*_parted(model, row))
        return Outcome(model.forecast())
    if isinstance(model, DREAMAnomalyDetector):
        judgement = model.judge_one(row)
        model.learn_one(row)
        return Outcome(judgement=judgement)
    assert isinstance(model, DREAMClassifier | DREAMRegressor)
    outcome = Outcome(model.predict_one(row))
    model.learn_one(row, target)
    return outcome


def predict(model: Model, row: Any, copy: Callable[[Model], Model] = deepcopy) -> Outcome:
    """Predict or score a row if it came next; see `Streams.predict_streams`.

    Raises:
        DataError: the row is not allowed.
    """
    if isinstance(model, DREAMForecaster):
        return Outcome(model.forecast()) if row is None else learn(copy(model), row, None)
    if isinstance(model, DREAMAnomalyDetector):
        return Outcome(judgement=model.judge_one(row))
    assert isinstance(model, DREAMClassifier | DREAMRegressor)
    return Outcome(model.predict_one(row))


def require_seq(seq: object) -> int:
    """`seq` as the number of a row.

    Raises:
        DataError: it is none.
    """
    if isinstance(seq, bool) or not isinstance(seq, int | np.integer) or not 1 <= seq <= LAST:
        raise DataError(f"`seq` must be a whole number from 1 to {LAST}; got {shown(seq)}.")
    return int(seq)


def _parted(model: DREAMForecaster, row: Any) -> tuple[Any, Any]:
    """The columns of a row that are forecast, and those that are only read."""
    if not isinstance(row, Mapping):
        return row, None
    targets = ["y"] if model.targets is None else model.targets
    others = {name: value for name, value in row.items() if name not in targets}
    if model.targets is None:
        return row.get("y"), others
    return {name: row.get(name) for name in targets}, others
