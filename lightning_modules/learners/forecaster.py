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
from lightning_modules.data.categories import expanded
from lightning_modules.data.frames import as_pandas
from lightning_modules.forecasting import ForecastingModule
from lightning_modules.forecasting.module import ROWS, TIMES
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.from_run import Origin, Run
from lightning_modules.learners.values import Row, Table, by_name, number, numbers, require_as_many, texts
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
        self.times = np.zeros(0, "datetime64[ns]")
        """Their time stamps, if the run reads them."""

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
        columns = [*origin.targets, *run.schema.columns["covariates"], *origin.known]
        new._settle_columns(columns, origin)
        new._open_windows({name: value.cpu() for name, value in run.module.state_dict().items()})
        if run.end is not None:
            new.past = run.end.tensors[ROWS].cpu().numpy()
            if new._timed:
                new.times = run.end.tensors[TIMES].cpu().numpy().astype("datetime64[ns]")
        return new

    @property
    def _timed(self) -> bool:
        """Whether forecasts depend on the time stamps of the rows."""
        return self.windows is not None and self.windows.times is not None and self.windows.times.read

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

    def _read(self, rows: np.ndarray, times: np.ndarray) -> None:
        """Read rows (T, D), with time stamps where they are read, and learn from them; nothing of a run that
        was trained on windows learns.

        Raises:
            DataError: there is none.
        """
        if self.windows is None:
            self.latest = self._in_units(self._learn_table(rows)[-1])
        elif not len(rows):
            raise DataError("`y` must hold at least one row; got none.")
        else:
            self.past = np.concatenate([self.past, rows])[-self.windows.look_back :]
            self.times = np.concatenate([self.times, times])[-self.windows.look_back :]

    def _stamps(self, given: Iterable[Any] | None) -> np.ndarray:
        """Time stamps of the next rows, as their time column holds them; none where nothing reads them.

        Raises:
            DataError: one is missing, none, or not after the one before.
        """
        if self.windows is None or self.windows.times is None or not self._timed:
            return np.zeros(0, "datetime64[ns]")
        assert self.time_column is not None
        values = [] if given is None else list(given)
        if given is None or any(value is None for value in values):
            raise DataError(
                f"a row must hold its time stamp as `{self.time_column}`, by which the run reads calendar or "
                "timespans; got none. Give it as the run's data have it."
            )
        before = self.times[-1] if len(self.times) else None
        return self.windows.times.stamps(values, self.time_column, before)

    def _held(self, core: bool = True) -> dict[str, Tensor]:
        if self.windows is None:
            return super()._held(core)
        weights = {f"module.{name}": value for name, value in self.windows.weights().items()} if core else {}
        times = {"times": torch.from_numpy(self.times.astype(np.int64))} if self._timed else {}
        return weights | {"past": torch.from_numpy(self.past.copy())} | times

    def _hold(self, tensors: Mapping[str, Tensor], core: bool = True) -> None:
        if self.origin is None or self.origin.window is None:
            super()._hold(tensors, core)
            return
        own = {name: tensors[name] for name in ("past", "times") if name in tensors}
        if core:
            self._open_windows(part({k: v for k, v in tensors.items() if k not in own}, "module."))
        assert self.windows is not None
        rows = min(len(own["past"]), self.windows.look_back)
        like = {"past": torch.zeros(rows, len(self.columns), dtype=torch.float64)}
        require_like(own, like | ({"times": torch.zeros(rows, dtype=torch.int64)} if self._timed else {}))
        self.past = own["past"].numpy()
        if self._timed:
            self.times = own["times"].numpy().astype("datetime64[ns]")

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

        With a run that reads calendar or timespans, `y` or `x` also holds the time stamp of the row, as the
        run's data do.

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
        named = values | others
        row = self._row(named, fix=True)
        if first:
            self.targets = list(values) if many else None
        self._read(row[None], self._stamps([named.get(self.time_column or "")]))
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
        table = pd.concat(parts, axis=1)
        rows = self._table(table)
        if first:
            self.targets = [str(column) for column in own.columns] if many else None
        self._read(rows, self._stamps(table.get(self.time_column)))
        return self

    @alone
    def forecast(self, horizon: int | None = None, known: Table | None = None) -> list[Any]:
        """Forecast the next rows: numbers, or dictionaries where rows are; none before the first row, or of a
        run that was trained on windows before `data.look_back` rows.

        Args:
            horizon: Number of rows, at most and by default the horizon that is learnt.
            known: The next rows, as many as are learnt: the values of the run's known covariates in them, by
                name. Needed where it has any.

        Raises:
            ConfigError: more rows than are learnt.
            DataError: `known` does not hold what the run reads of the next rows.
        """
        ahead = self.horizon if horizon is None else horizon
        require(
            "horizon",
            horizon,
            isinstance(ahead, int) and 1 <= ahead <= self.horizon,
            f"from 1 to {self.horizon}",
        )
        return self._forecast(ahead, known)

    def _forecast(self, ahead: int, known: Table | None = None) -> list[Any]:
        latest = self.latest
        if self.windows is not None and len(self.past) == self.windows.look_back:
            latest = self.windows.forecast(
                self.past, self.times if self._timed else None, self._known(self.windows, known)
            )
        if latest is None:
            return []
        rows = latest[:ahead].tolist()
        return [row[0] if self.targets is None else dict(zip(self.targets, row, strict=True)) for row in rows]

    def _known(self, windows: Windows, given: Table | None) -> np.ndarray | None:
        """Known covariates (H, known) of the next rows; None where the run has none.

        Raises:
            DataError: there are too few rows, or a value is missing or no number.
        """
        names, rows = windows.known, windows.horizon
        if not names:
            return None
        given = as_pandas(given)
        table = pd.DataFrame(given if isinstance(given, pd.DataFrame) else list(given or ()))
        table.columns = table.columns.map(str)
        words = {} if self.origin is None else self.origin.categories
        of_word = {one: name for name, category in words.items() for one in category.columns(name)}
        asked = list(dict.fromkeys(of_word.get(name, name) for name in names))
        lacking = [name for name in asked if name not in table]
        if lacking or len(table) < rows:
            raise DataError(
                f"`known` must hold {', '.join(asked)} of the next {rows} rows, which the run knows ahead; "
                f"got {f'no `{lacking[0]}`' if lacking else f'{len(table)} rows'}."
            )
        table, _ = expanded(table, [name for name in words if name in asked], words)
        ahead = np.stack([numbers("known", table[name], name) for name in names], 1)[:rows]
        if windows.fills and np.isnan(ahead).any():
            raise DataError("`known` must hold a number in each place; one is missing.")
        return ahead
