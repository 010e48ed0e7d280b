"""`Windows`: a forecaster that was trained on windows, as row objects use it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream import DREAMStack
from dream.errors import ConfigError, DataError, DREAMWarning
from lightning_modules.data.columns import continued
from lightning_modules.data.frequency import UNTIMED, Clock
from lightning_modules.data.schema import Schema
from lightning_modules.data.series import Series, carry_forward
from lightning_modules.forecasting import ForecastingModule
from lightning_modules.forecasting.prepared import Recipe, prepare
from lightning_modules.learners.from_run import TIME, Origin, Run, Times
from lightning_modules.stream.checks import require_like


class Windows:
    """Forecasts from the last `look_back` rows of a stream, as the run's module does; nothing changes it.

    Args:
        columns: Names of the columns of a row, targets first, those that are known ahead last.
        origin: Facts of the run, with the arguments of the module.
        lags: Values of a single column that each row shows.
        weights: The module's, by name.

    Raises:
        CheckpointError: they are not those of such a module.
    """

    def __init__(self, columns: list[str], origin: Origin, lags: int, weights: Mapping[str, Tensor]) -> None:
        assert origin.window is not None
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            warnings.simplefilter("ignore", DREAMWarning)  # advice for training
            self.module = ForecastingModule(**origin.window).eval()
            require_like(weights, self.module.state_dict())
            self.module.load_state_dict(dict(weights))
        assert isinstance(self.module.core, DREAMStack)
        self.module.core.missing = origin.missing == "model"
        shape = self.module.shape
        self.columns = tuple(columns)
        self.look_back, self.horizon = shape.look_back, shape.horizon
        self.fills = origin.missing in ("error", "ffill")
        self.scaler = origin.scaler(origin.targets)
        self.known, self.times = origin.known, origin.times
        times = self.times
        self.recipe = Recipe(
            columns=self.columns,
            rows=self.look_back,
            training=None,
            recorded=Schema(scales=origin.scales, steps=None if times is None else times.steps),
            channels=shape.channels,
            known=len(self.known),
            calendar=() if times is None else times.calendar,
            horizon=self.horizon,
            missing="ffill" if self.fills else origin.missing,
            timed=times is not None and times.timespans,
            lags=lags,
            clock=UNTIMED if times is None else Clock(times.frequency, times.zone),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Windows:
        return self  # nothing changes it

    def weights(self) -> dict[str, Tensor]:
        """Weights of the module, by name."""
        return self.module.state_dict()

    def forecast(
        self, rows: np.ndarray, time: np.ndarray | None = None, ahead: np.ndarray | None = None
    ) -> np.ndarray:
        """Forecast (H, C), in measurement units.

        Args:
            rows: (look_back, D), the last ones, in measurement units.
            time: (look_back,) datetime64[ns], their time stamps, where the run reads them.
            ahead: (H, known), the columns that are known of the rows after them, where there are any.

        Raises:
            DataError: a column whose gaps are filled has no value in these rows.
        """
        if self.fills:
            rows = carry_forward(rows)
            if (empty := np.isnan(rows).any(0)).any():
                name = self.columns[int(empty.argmax())]
                raise DataError(
                    f"`{name}` must have a value in the last {self.look_back} rows, from which the run "
                    "forecasts; it has none. Train with `data.missing=mask` or `model` for such gaps."
                )
        if ahead is not None:
            more = np.full((self.horizon, len(self.columns)), np.nan)
            more[:, -len(self.known) :] = ahead
            rows = np.concatenate([rows, more])
            if time is not None and self.times is not None:
                places = np.arange(len(rows))
                time = continued(time, places, self.times.steps[1], self.recipe.clock)
        zone = self.recipe.clock.zone
        made = prepare(Series(rows, self.columns, time, "the last rows", zone), self.recipe)
        past = torch.arange(self.look_back)[None]
        window = made.tables.cut(past, torch.tensor([self.look_back]), self.horizon)
        with torch.inference_mode():
            future = self.module.on(window).future[0]
        assert self.scaler is not None
        return self.scaler.inverse(future.double().numpy())


def window_origin(run: Run) -> Origin:
    """Facts of a run whose module forecasts from windows.

    Raises:
        ConfigError: it is of a class of its own.
    """
    module = run.module
    assert isinstance(module, ForecastingModule)
    if type(module) is not ForecastingModule:
        raise ConfigError(
            f"`source` must be a ForecastingModule as it is, which a saved object can build again; "
            f"{run.source} is a {type(module).__name__}.",
            key="source",
        )
    read, columns = run.schema, run.schema.columns
    calendar, timespans = tuple(columns.get("calendar", ())), bool(read.settings["timespans"])
    times = None
    if read.steps is not None:
        times = Times(read.steps, read.frequency, read.zone, read.time_format, calendar, timespans)
    if module.shape.static > 0:
        raise ConfigError(
            "`source` must read the columns of past rows alone, which are all that a row object is given; "
            f"{run.source} also reads `data.static`. Train without, or forecast with `dream predict`.",
            key="source",
        )
    if read.settings.get("scaling") == "series":
        raise ConfigError(
            f"`source` must scale all rows alike, since a row object does not know which series a row is of; "
            f"{run.source} scales each of {len(run.schema.series)} series by itself. Train with "
            "`data.scaling=global`, or forecast with `dream predict`.",
            key="source",
        )
    return Origin(
        run.schema.columns["targets"],
        run.schema.scales,
        module.missing,
        window=dict(config=asdict(module.config), shape=asdict(module.shape), **asdict(module.settings)),
        known=tuple(columns.get("known_covariates", ())),
        time_column=read.time_column or TIME,
        times=times,
        categories=run.schema.categories,
    )
