"""`prepare`: a series without gaps, standardised, as the tables that batches are cut from.

Shapes: T rows, D columns (targets, covariates, known covariates, calendar), C targets, H horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dream.errors import DataError
from lightning_modules.data.batches import Tables
from lightning_modules.data.columns import age, timespans
from lightning_modules.data.series import Scaler, Series, Split, fill_missing


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series without gaps (in the source's units), its parts, its scaler, and its standardised tables, float32."""

    series: Series
    split: Split
    scaler: Scaler
    tables: Tables

    @property
    def values(self) -> Tensor:
        """(T, D) inputs, and with the mask policy their ages after them."""
        return self.tables.values


@dataclass(frozen=True)
class Layout:
    """How many of a series' columns are what: first `channels` targets, last `known` known ones, `calendar` of them made."""

    channels: int
    known: int
    calendar: int


def prepare(
    whole: Series,
    rows: int,
    split: Split,
    layout: Layout,
    horizon: int,
    missing: Literal["error", "ffill", "mask"],
    timed: bool,
) -> Prepared:
    """Fill, scale and lay out `whole`, whose first `rows` rows are the series and the others hold known covariates only.

    The mask policy fills causally: with the last known value, and before the first with the mean of the training rows. It
    adds the age of each value (`columns.age`) to the inputs and leaves missing targets NaN.

    Raises:
        DataError: values are missing under the error policy, a column is empty in the training rows, or there are no time
            stamps for `timed`, or a value is out of all proportion to the training rows.
    """
    read = replace(whole, values=whole.values[:rows], time=None if whole.time is None else whole.time[:rows])
    scaler = Scaler.fit(read.values[split.train], read.columns)
    series = fill_missing(read, missing, scaler.mean if missing == "mask" else None)
    observed = read if missing == "mask" else series
    for name, part in zip(("validation", "test"), split[1:], strict=True):
        if np.isnan(observed.values[part, : layout.channels]).all():
            raise DataError(f"{whole.source}: the {name} part holds no known target to score. Change `split`.")
    values = scaler.standardise(series.values, series.columns, whole.source)
    targets = scaler.transform(observed.values)[:, : layout.channels]
    targets = np.concatenate([targets, np.full((horizon, layout.channels), np.nan)])
    known = None
    if layout.known:
        ahead = replace(whole, values=np.concatenate([series.values[-1:], whole.values[rows:]])[:, -layout.known :])
        ahead = fill_missing(replace(ahead, columns=whole.columns[-layout.known :]), missing)
        after = scaler.standardise(ahead.values[1:], ahead.columns, whole.source, slice(-layout.known, None), first=rows)
        known = _float(np.concatenate([values[:, -layout.known :], after]))
    if missing == "mask":
        aged = len(series.columns) - layout.calendar
        values = np.concatenate([values, age(observed.values[:, :aged])], axis=1)
    spans = _float(timespans(series, split.train)) if timed else None
    return Prepared(series, split, scaler, Tables(_float(values), _float(targets), known, spans))


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
