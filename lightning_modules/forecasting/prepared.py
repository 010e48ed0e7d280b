"""`prepare`: fill and standardise a series, and lay it out as the tables from which batches are cut.

Everything is computed block by block (`Series.blocks`), with the necessary state carried from block to block.
So a series on disk (`StoredSeries`) gets the same tables as one in memory, without ever being loaded.

Shapes: T rows, D columns (targets, their lags, covariates, known covariates, calendar), C targets, H horizon,
K static columns, which follow the D ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from dream.errors import DataError
from lightning_modules.data.columns import (
    age,
    calendar_columns,
    continued,
    lag_columns,
    lagged,
    rows_since,
    timespans,
    with_calendar,
)
from lightning_modules.data.disk.stored import Pieces, StoredSeries, in_memory
from lightning_modules.data.frequency import UNTIMED, Clock
from lightning_modules.data.schema import Schema, step_quartiles
from lightning_modules.data.series import Missing, Scaler, Series, carry_forward, report_missing
from lightning_modules.forecasting.batches import Tables
from lightning_modules.forecasting.known import require_values_ahead


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series, ready to be cut into batches."""

    scaler: Scaler
    steps: tuple[float, ...] | None
    """Quartiles of the time between training rows, in nanoseconds; None without time stamps."""
    missing: np.ndarray
    """Number of missing values in each column."""
    tables: Tables
    """Standardised, float32."""

    @property
    def values(self) -> Tensor:
        """(T, D) inputs, with the mask policy followed by their ages."""
        return self.tables.values


@dataclass(frozen=True, eq=False)
class Joined:
    """Series, ready to be cut into batches, one after another."""

    tables: Tables
    scalers: tuple[Scaler, ...]
    """(S,)"""
    steps: tuple[float, ...] | None
    """As in `Prepared`, of all series."""
    missing: np.ndarray
    """Number of missing values in each column, of all series."""

    @property
    def values(self) -> Tensor:
        """(rows, D) inputs, with the mask policy followed by their ages."""
        return self.tables.values


@dataclass(frozen=True)
class Recipe:
    """Settings of `prepare`. Columns come in the order targets, covariates, known covariates."""

    columns: tuple[str, ...]
    """Names of the columns, without the calendar's."""
    rows: int
    """T; rows after these hold known covariates only."""
    training: slice | None
    """Rows to which scales are fitted; None if they are `recorded`."""
    recorded: Schema | None
    """Schema of a checkpoint, with the scales of all columns and the time between rows."""
    channels: int
    """Number of targets."""
    known: int
    """Number of known covariates, without the calendar's."""
    calendar: tuple[str, ...]
    horizon: int
    missing: Missing
    timed: bool
    """Whether the time between rows is kept."""
    lags: int = 1
    """Values of a single column that each row shows, its own and those before it."""
    first: int = 0
    """Number of the first row in its source, for messages."""
    clock: Clock = UNTIMED
    """By which time stamps go on into the horizon."""
    static: tuple[float, ...] = ()
    """(K,) standardised values that are the same in every row."""

    @property
    def made_columns(self) -> tuple[str, ...]:
        """Names of the D columns."""
        lags = lag_columns(self.columns[0], self.lags)
        return (*self.columns, *lags, *calendar_columns(self.calendar))


def blocks_of(whole: Series | StoredSeries, recipe: Recipe, rows: slice) -> Iterator[Series]:
    """Pieces of these rows, which begin with the first if there are lags, with all D columns."""
    lags = lag_columns(whole.columns[0], recipe.lags)
    before = torch.full((1, len(lags), 1), torch.nan, dtype=torch.float64)
    for block in whole.blocks(rows):
        if lags:
            past, before = lagged(torch.tensor(block.values)[None], before)
            values = np.concatenate([block.values, past[0].numpy()], axis=1)
            block = replace(block, values=values, columns=(*block.columns, *lags))
        yield with_calendar(block, recipe.calendar) if recipe.calendar else block


def prepare(whole: Series | StoredSeries, recipe: Recipe) -> Prepared:
    """Fill, scale and lay out `whole`.

    The policies mask and model fill causally: with the last known value, and before the first with the mean
    of the training rows; missing targets stay NaN. Mask adds the age of each value (`columns.age`) to the
    inputs, model keeps which values were observed, if some were not.

    Raises:
        DataError: values are missing under the error policy, a column is empty in the training rows, there
            are no time stamps for the calendar or the time between rows, or a value is out of all proportion
            to the training rows.
    """
    if recipe.timed and whole.time is None:
        raise DataError(
            f"{whole.source}: `timespans` needs time stamps and the rows have only numbers. Name the "
            "`time_column`, or leave `timespans` out."
        )
    made = _Making(whole, recipe).arrays
    arrays = whole.keep(repr(recipe), made()) if isinstance(whole, StoredSeries) else in_memory(made())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # memory maps are read-only; nothing writes to tables
        parts = {name: torch.from_numpy(arrays[name]) for name in Tables._fields if name in arrays}
    scaler = Scaler(np.array(arrays["mean"]), np.array(arrays["scale"]))
    steps = tuple(arrays["steps"].tolist()) or None
    return Prepared(scaler, steps, np.array(arrays["missing"]), Tables(**parts))


class _Making:
    """One pass over all rows to count gaps, two over the training rows to fit the scaler, one for tables."""

    def __init__(self, whole: Series | StoredSeries, recipe: Recipe) -> None:
        self.whole = whole
        self.recipe = recipe
        made = calendar_columns(recipe.calendar)
        self.columns = recipe.made_columns
        self.known = recipe.known + len(made)

    def _blocks(self, rows: slice) -> Iterator[Series]:
        return blocks_of(self.whole, self.recipe, rows)

    def arrays(self) -> Pieces:
        """Arrays of `Prepared`, piece by piece; the small ones in one piece."""
        recipe = self.recipe
        missing, first = np.zeros(len(self.columns), dtype=np.int64), np.full(len(self.columns), np.nan)
        for block in self._blocks(slice(recipe.rows)):
            gaps = np.isnan(block.values)
            missing += gaps.sum(axis=0)
            earliest = block.values[(~gaps).argmax(axis=0), np.arange(len(first))]
            first = np.where(np.isnan(first), earliest, first)
        if recipe.missing == "error":
            own = slice(len(self.whole.columns))
            report_missing(missing[own], self.whole.columns, self.whole.source, "error")
        scaler, time = self._scaler(), self.whole.time
        steps = recipe.recorded.steps if recipe.recorded is not None else None
        if steps is None and time is not None:
            steps = step_quartiles([time[recipe.training or slice(None)]])
        yield {
            "mean": scaler.mean,
            "scale": scaler.scale,
            "missing": missing[: len(self.whole.columns)],
            "steps": np.array(steps or ()),
        }
        self.step = steps[1] if steps else 1.0
        self.masked = recipe.missing == "model" and bool(missing.any())
        unknown = np.isnan(first) | (recipe.missing in ("mask", "model"))
        yield from self._tables(scaler, np.where(unknown, scaler.mean, first))

    def _scaler(self) -> Scaler:
        recipe = self.recipe
        if recipe.training is None:
            assert recipe.recorded is not None
            return recipe.recorded.scaler(self.columns)
        training = recipe.training
        return Scaler.fit_blocks(lambda: (b.values for b in self._blocks(training)), self.columns)

    def _tables(self, scaler: Scaler, before: np.ndarray) -> Pieces:
        """Arrays of `Tables`; `before` (D,) fills the gaps before a column's first value."""
        recipe, whole = self.recipe, self.whole
        known = slice(-self.known, None) if self.known else slice(0, 0)
        targets, aged = slice(recipe.channels), slice(len(self.columns) - self.known + recipe.known)
        ahead = self.known + len(recipe.static) > 0
        since: np.ndarray | float = np.inf
        row, stamp = recipe.first, None
        for block in self._blocks(slice(recipe.rows)):
            filled = carry_forward(block.values, before)
            values = scaler.standardise(filled, self.columns, whole.source, first=row)
            observed = block.values if recipe.missing in ("mask", "model") else filled
            piece = {
                "values": self._with_static(values),
                "targets": scaler.transform(observed[:, targets], targets),
            }
            if ahead:
                piece["known"] = self._with_static(values[:, known])
            if recipe.missing == "mask":
                ages = rows_since(block.values[:, aged], since)
                piece["values"], since = np.concatenate([piece["values"], age(ages)], axis=1), ages[-1]
            if recipe.timed and block.time is not None:
                piece["timespans"], stamp = timespans(block.time, stamp, self.step), block.time[-1]
            before, row = filled[-1], row + len(filled)
            made = {name: part.astype(np.float32) for name, part in piece.items()}
            known_here = {"observed": ~np.isnan(self._with_static(block.values))} if self.masked else {}
            yield made | known_here
        yield {"targets": np.full((recipe.horizon, recipe.channels), np.nan, dtype=np.float32)}
        if not ahead:
            return
        before = before[known]
        horizon = slice(recipe.rows, recipe.rows + recipe.horizon)
        for block in chain(self._blocks(horizon), self._made_ahead()):
            later = replace(block, values=block.values[:, known], columns=self.columns[known])
            if recipe.missing == "error":
                require_values_ahead(later.values, later.columns, later.time, row, later.zone, whole.source)
            report_missing(np.isnan(later.values).sum(axis=0), later.columns, whole.source, recipe.missing)
            filled = carry_forward(later.values, before)
            values = scaler.standardise(filled, later.columns, whole.source, known, row)
            before, row = filled[-1] if len(filled) else before, row + len(filled)
            yield {"known": self._with_static(values).astype(np.float32)}

    def _with_static(self, values: np.ndarray) -> np.ndarray:
        """Values (T, ...) with the static ones after them."""
        static = self.recipe.static
        return np.hstack([values, np.tile(static, (len(values), 1))]) if static else values

    def _made_ahead(self) -> Iterator[Series]:
        """Rows of the horizon after the last row, if only their calendar or what is static is known."""
        whole, recipe = self.whole, self.recipe
        if recipe.known or not (recipe.calendar or recipe.static):
            return
        values = np.full((recipe.horizon, len(whole.columns)), np.nan)
        time = None
        if whole.time is not None:
            rows = len(whole) + np.arange(recipe.horizon)
            time = continued(whole.time, rows, self.step, recipe.clock)
        made = Series(values, whole.columns, time, whole.source, whole.zone)
        yield with_calendar(made, recipe.calendar) if recipe.calendar else made
