"""`DREAMForecaster`: the next rows of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dream import DREAMConfig
from dream.errors import DataError, shown
from lightning_modules.calls import alone, whole
from lightning_modules.checks import require, require_int
from lightning_modules.data.frames import as_pandas
from lightning_modules.forecasting import ForecastingModule
from lightning_modules.forecasting.module import ROWS
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.from_run import Origin, Run
from lightning_modules.learners.values import Row, by_name, number, numbers, require_as_many, texts
from lightning_modules.learners.windows import Windows, window_origin
from lightning_modules.online.module import NEWEST
from lightning_modules.stream import LAYER, Moves, Reading, Shape, Updates
from lightning_modules.stream.checks import require_like
from lightning_modules.stream.state import part


class DREAMForecaster(OnlineObject):
    """Reads a stream of one number or of several, and forecasts its next rows.

    Args:
        config, reading, updates, moves, seed, lags: See `OnlineObject`.
        horizon: Rows ahead that are learnt, and the most that can be forecast.
        season: Rows in one season, for the seasonal profile.

    Example:
        >>> model = DREAMForecaster(horizon=3)
        >>> for k in range(300):
        ...     model = model.learn_one([0.0, 1.0, 0.0, -1.0][k % 4])
        >>> [round(value, 1) + 0.0 for value in model.forecast()]
        [0.0, 1.0, 0.0]
    """

    kind = "forecaster"

    def __init__(
        self,
        config: DREAMConfig = LAYER,
        reading: Reading = Reading("differences", 0.002, lags=8),  # noqa: B008 - frozen
        updates: Updates = Updates("least_squares", forgetting=0.9995, ridge=1e-6),  # noqa: B008 - frozen
        moves: Moves = "head",
        seed: int = 0,
        horizon: int = 1,
        season: int = 1,
        lags: int = 1,
    ) -> None:
        super().__init__(config, reading, updates, moves, seed, lags)
        require_int("horizon", horizon)
        require_int("season", season)
        self.horizon = horizon
        self.season = season
        self.targets: list[str] | None = None
        """Names of the columns to forecast; None where rows are plain numbers."""
        self.latest: np.ndarray | None = None
        """(H, C) forecast after the last row, in the data's units; None where `windows` forecasts."""
        self.windows: Windows | None = None
        """Forecasts of a run that was trained on windows."""
        self.past = np.zeros((0, 0))
        """Last rows, (at most look_back, D), which `windows` forecasts from."""

    @classmethod
    def _arguments(cls, run: Run) -> dict[str, Any]:
        return {"horizon": run.module.shape.horizon, "season": run.module.shape.season}

    @classmethod
    def _of_run(cls, run: Run) -> Self:
        if isinstance(run.module, ForecastingModule):
            return cls._of_windows(run)
        new = super()._of_run(run)
        new.targets = list(run.schema.columns["targets"])
        if run.end is not None:
            new.latest = run.end.tensors[NEWEST][0].double().cpu().numpy()
        return new

    @classmethod
    def _of_windows(cls, run: Run) -> Self:
        """The object of a run that was trained on windows."""
        origin = window_origin(run)
        lags = run.schema.settings["lags"]
        new = cls(run.module.config, lags=lags, **cls._arguments(run))
        new.targets = list(origin.targets)
        new._settle_columns([*origin.targets, *run.schema.columns["covariates"]], origin)
        new._open_windows({name: value.cpu() for name, value in run.module.state_dict().items()})
        if run.end is not None:
            new.past = run.end.tensors[ROWS].cpu().numpy()
        return new

    def _open_windows(self, weights: Mapping[str, Tensor]) -> None:
        assert self.origin is not None
        self.windows = Windows(self.columns, self.origin, self.lags, weights)
        self.past = np.zeros((0, len(self.columns)))

    @property
    def started(self) -> bool:
        return self.windows is not None or super().started

    def _as_in_run(self, rows: np.ndarray, origin: Origin) -> np.ndarray:
        if self.windows is None:
            return super()._as_in_run(rows, origin)
        self._tell_missing(rows, origin, "the last known one stands in for it")
        assert self._scaler is not None
        self._scaler.standardise(rows, self.columns, "the stream")  # refuses what is out of all proportion
        return rows

    def _read(self, rows: np.ndarray) -> None:
        """Read rows (T, D), and learn from them; nothing of a run that was trained on windows learns.

        Raises:
            DataError: there is none.
        """
        if self.windows is None:
            self.latest = self._in_units(self._learn_table(rows)[-1])
        elif not len(rows):
            raise DataError("`y` must hold at least one row; got none.")
        else:
            self.past = np.concatenate([self.past, rows])[-self.windows.look_back :]

    def _held(self, core: bool = True) -> dict[str, Tensor]:
        if self.windows is None:
            return super()._held(core)
        weights = {f"module.{name}": value for name, value in self.windows.weights().items()} if core else {}
        return weights | {"past": torch.from_numpy(self.past.copy())}

    def _hold(self, tensors: Mapping[str, Tensor], core: bool = True) -> None:
        if self.origin is None or self.origin.window is None:
            super()._hold(tensors, core)
            return
        own = {"past": tensors["past"]}
        if core:
            self._open_windows(part({k: v for k, v in tensors.items() if k not in own}, "module."))
        assert self.windows is not None
        rows = min(len(own["past"]), self.windows.look_back)
        require_like(own, {"past": torch.zeros(rows, len(self.columns), dtype=torch.float64)})
        self.past = own["past"].numpy()

    def _shared(self) -> list[Any]:
        return super()._shared() if self.windows is None else [self.windows]

    def _share(self, first: OnlineObject) -> None:
        if self.windows is None:
            super()._share(first)

    def _shape(self) -> Shape:
        targets = len(self.targets or [""])
        return Shape("forecasting", len(self.columns), targets, self.horizon, self.season, self.lags)

    def _extra(self) -> dict[str, Any]:
        return {"arguments": {"horizon": self.horizon, "season": self.season}, "targets": self.targets}

    def _set_extra(self, extra: Mapping[str, Any]) -> None:
        targets = extra["targets"]
        self.targets = None if targets is None else texts("targets", targets)
        if self.columns and self.columns[: len(self.targets or [""])] != (self.targets or ["y"]):
            raise ValueError(f"`targets` must be the first columns; got {targets}")

    def _tensors(self) -> dict[str, Tensor]:
        return {} if self.latest is None else {"latest": torch.from_numpy(self.latest)}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        require_like(tensors, {"latest": torch.zeros(self.horizon, len(self.targets or [""])).double()})
        self.latest = tensors["latest"].numpy()

    @whole
    def learn_one(self, y: float | Row | None, x: Row | None = None) -> DREAMForecaster:
        """Read the next row and learn from it.

        Args:
            y: Values of the columns that are forecast, by name, or a single number; None if nothing of them
                was observed.
            x: Values of the columns that are only read, by name.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        first = not self.columns
        if isinstance(y, Mapping | pd.Series):
            many, own = True, by_name("y", y)
        else:
            many = y is None and self.targets is not None
            own = {} if many else {"y": y}
        if not first and many != (self.targets is not None):
            raise DataError(
                f"`y` must be of the kind of the first row, a number or a dictionary; got {shown(y)}."
            )
        if first and not own:
            raise DataError(
                "`y` must name the columns to forecast in the first row; got {}. Give None where one is not "
                "known."
            )
        known = self.columns or own  # a new column is left out below, whatever it holds
        values = {
            name: number("y", value, name if many else None) if name in known else value
            for name, value in own.items()
        }
        others = {} if x is None else by_name("x", x)
        if twice := [name for name in others if name in values or name in (self.targets or [])]:
            raise DataError(f"`x` must hold other columns than `y`; `{twice[0]}` is one of `y`.")
        row = self._row(values | others, fix=True)
        if first:
            self.targets = list(values) if many else None
        self._read(row[None])
        return self

    @whole
    def learn_many(
        self, y: pd.DataFrame | Iterable[float | None], x: pd.DataFrame | None = None
    ) -> DREAMForecaster:
        """Read a table of rows, oldest first, and learn from it: as `learn_one` of each row, but faster.

        Args:
            y: The columns that are forecast, or the values of a single one.
            x: The columns that are only read.

        Raises:
            DataError: the columns are others, a value is not allowed, or the tables are not of one length.
        """
        y, x = as_pandas(y), as_pandas(x)
        many = isinstance(y, pd.DataFrame)
        first = not self.columns
        if not first and many != (self.targets is not None):
            raise DataError("`y` must be of the kind of the first row: a DataFrame for columns with names.")
        own = y if isinstance(y, pd.DataFrame) else pd.DataFrame({"y": numbers("y", y)})
        parts = [part.reset_index(drop=True) for part in (own, x) if part is not None]
        names = [str(column) for part in parts for column in part.columns]
        if len(set(names)) < len(names) or (
            x is not None and set(map(str, x.columns)) & set(self.targets or [])
        ):
            raise DataError(f"`x` must hold other columns than `y`, each once; got {shown(names)}.")
        if x is not None:
            require_as_many("x", x, own)
        rows = self._table(pd.concat(parts, axis=1))
        if first:
            self.targets = [str(column) for column in own.columns] if many else None
        self._read(rows)
        return self

    @alone
    def forecast(self, horizon: int | None = None) -> list[Any]:
        """Forecast the next rows: numbers, or dictionaries where rows are; none before the first row, or of a
        run that was trained on windows before `data.look_back` rows.

        Args:
            horizon: Number of rows, at most and by default the horizon that is learnt.

        Raises:
            ConfigError: more rows than are learnt.
        """
        ahead = self.horizon if horizon is None else horizon
        require(
            "horizon",
            horizon,
            isinstance(ahead, int) and 1 <= ahead <= self.horizon,
            f"from 1 to {self.horizon}",
        )
        latest = self.latest
        if self.windows is not None and len(self.past) == self.windows.look_back:
            latest = self.windows.forecast(self.past)
        if latest is None:
            return []
        rows = latest[:ahead].tolist()
        return [row[0] if self.targets is None else dict(zip(self.targets, row, strict=True)) for row in rows]
