"""`Member`: one of the series of forecasting data, with parts, scales and clock of its own.

Shapes: T rows, D columns, C targets, K static columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dream.errors import ConfigError, DataError
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.frequency import Clock
from lightning_modules.data.schema import Schema
from lightning_modules.data.series import Scaler, Series
from lightning_modules.data.split import Split, enough_rows, split_rows
from lightning_modules.forecasting.prepared import Prepared, Recipe, blocks_of, prepare

PARTS = ("training", "validation", "test")
ROWS = 1 << 16
"""Rows that are held in memory together."""


class Cutting(NamedTuple):
    """How all series of some data are read and cut."""

    recipe: Recipe
    """Settings of `prepare` for each, without those of one series alone."""
    look_back: int
    split: tuple[int | float | str, ...]
    many: bool
    """Whether there may be several series: one that is too short has no windows then, and is no error."""


class Member:
    """One series, with parts and scales of its own.

    Args:
        whole: All its rows; those after the last known target hold known covariates only.
        cutting: What it shares with others.
        recorded: Schema of a checkpoint as far as it is of this series: without scales if training never saw
            it and each has its own. None in training.
        name: Its id; None for the only series of data without ids.
        static: (K,) its standardised static columns.
    """

    def __init__(
        self,
        whole: Series | StoredSeries,
        cutting: Cutting,
        recorded: Schema | None,
        name: str | None = None,
        static: tuple[float, ...] = (),
    ) -> None:
        self.whole = whole
        self.cutting = cutting
        self.recorded = recorded
        self.name = name
        self.static = static

    @cached_property
    def series(self) -> Series | StoredSeries:
        """Rows up to the last known target, in the source's measurement units, with missing values as NaN."""
        whole, recipe = self.whole, self.cutting.recipe
        if not recipe.known and not recipe.calendar:
            return whole
        rows, last = 0, 0
        for block in whole.blocks(slice(None)):
            targets = block.values[:, : recipe.channels]
            known = np.flatnonzero(~np.isnan(targets).all(axis=1))
            last = rows + int(known[-1]) + 1 if len(known) else last
            rows += len(block)
        return whole.head(last)

    @property
    def span(self) -> int:
        """Rows that it takes in the tables of all series, with those ahead of it."""
        return max(len(self.whole), len(self.series) + self.cutting.recipe.horizon)

    @cached_property
    def parts(self) -> Split:
        """Rows of the training, the validation and the test part.

        Raises:
            DataError: it is the only series, and one is too short for a window.
        """
        (recipe, look_back, split, many), series = self.cutting, self.series
        try:
            parts = split_rows(len(series), split, series.time, series.zone, many)
        except ConfigError as error:
            if not many:
                raise
            raise ConfigError(f"{series.source}: {error}", key="split") from None
        needed = (look_back + recipe.horizon, recipe.horizon, recipe.horizon)
        for name, part, rows in zip(PARTS, parts, needed, strict=True):
            if part.stop - part.start < rows and not many:
                remedy = "Shorten them or change `split`."
                if (enough := enough_rows(len(series), split, needed)) is not None:
                    remedy = f"A table of {enough} rows is long enough; or shorten them, or change `split`."
                raise DataError(
                    f"{series.source}: the {name} part has {part.stop - part.start} rows and one window "
                    f"needs {rows} (look_back {look_back}, horizon {recipe.horizon}). {remedy}"
                )
        return parts

    def origins(self, part: slice) -> range:
        """Rows at which futures begin that lie within `part`; the look-back before may begin before it."""
        first = max(part.start, self.cutting.look_back)
        return range(first, max(part.stop - self.cutting.recipe.horizon + 1, first))

    def scaler(self, pooled: Scaler | None, newest: bool = False) -> Scaler:
        """Mean and deviation of each column: of the checkpoint, or over the training part.

        Where that part holds no look-back, they are over the first look-back.

        Args:
            pooled: Those of all series, for columns without a value in these rows.
            newest: Take all rows of a series that training never saw.
        """
        columns = self.cutting.recipe.made_columns
        if self.recorded is not None and self.recorded.scales:
            return self.recorded.scaler(columns)
        rows = slice(len(self.series) if newest else max(self.parts.train.stop, self.cutting.look_back))
        values = self.blocks(slice(min(rows.stop, len(self.series))))
        kept = [block.values for block in values]
        return Scaler.fit_blocks(lambda: kept, columns, pooled, quiet=self.cutting.many)

    def blocks(self, rows: slice) -> Iterator[Series]:
        """Pieces of these rows with the columns that are made from others, without the static ones."""
        return blocks_of(self.whole, self.cutting.recipe, rows)

    def prepare(self, schema: Schema | None, clock: Clock) -> Prepared:
        """All rows, standardised by the scales of `schema`, or without one by the training part."""
        training = self.parts.train if schema is None else None
        return prepare(self.whole, self._recipe(len(self.series), schema, clock, training=training))

    def newest(self, schema: Schema, clock: Clock) -> Prepared:
        """The last look-back and what is known of the rows after it, prepared as if no row came before.

        So a forecast depends on the last `look_back` rows alone, whatever file they come in.
        """
        first = len(self.series) - self.cutting.look_back
        whole, values = self.whole, self.values_of(slice(first, None))
        time = None if whole.time is None else np.array(whole.time[first:])
        newest = Series(values, whole.columns, time, whole.source, whole.zone)
        return prepare(newest, self._recipe(self.cutting.look_back, schema, clock, first))

    def _recipe(
        self, rows: int, schema: Schema | None, clock: Clock, first: int = 0, training: slice | None = None
    ) -> Recipe:
        return replace(
            self.cutting.recipe,
            rows=rows,
            training=training,
            recorded=schema,
            first=first,
            clock=clock,
            static=self.static,
        )

    def values_of(self, rows: slice) -> np.ndarray:
        """Rows (T, D) of the whole series as they were read."""
        return np.concatenate([piece.values for piece in self.whole.blocks(rows)])

    def season_errors(self, targets: Tensor, season: int) -> Tensor:
        """(C,) mean of ``|y_t - y_(t - season)|`` over the training rows of standardised `targets` (T, C).

        It is NaN for a target without known training values one season apart.
        """
        rows = targets[self.parts.train]
        total = torch.zeros(targets.shape[1], dtype=torch.float64)
        count = torch.zeros(targets.shape[1], dtype=torch.int64)
        for later, earlier in zip(rows[season:].split(ROWS), rows[:-season].split(ROWS), strict=True):
            change = (later - earlier).abs()
            total += change.nansum(dim=0, dtype=torch.float64)
            count += (~change.isnan()).sum(dim=0)
        return (total / count).float()
