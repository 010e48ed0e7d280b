"""From one long series to batches of windows, without copying the series.

Shapes: N windows, D inputs (targets, then covariates), C targets, T rows. Values are standardised.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.data.base import TaskData, require_int
from lightning_modules.data.series import Scaler, Series, Split, fill_missing, split_rows

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
_PARTS = ("training", "validation", "test")


class WindowBatch(NamedTuple):
    """Windows of one series."""

    past: Tensor
    """(N, look_back, D) inputs."""
    future: Tensor
    """(N, horizon, C) targets of the rows right after `past`; NaN where they are not known yet."""
    origin: Tensor
    """(N,) int64: the row of the series that `future` starts with."""
    reset: Tensor | None = None
    """(N,) bool, only for streams: True where this row of the batch starts a new stream and carried state must go."""


class WindowDataset(Dataset[WindowBatch]):
    """Every window, stride 1, of the series `values` (T, D) whose future lies inside `rows`.

    The first `targets` columns are predicted. The past may reach back before `rows`, not before the series.
    """

    def __init__(self, values: Tensor, targets: int, look_back: int, horizon: int, rows: slice) -> None:
        self.origins = range(max(rows.start, look_back), rows.stop - horizon + 1)
        self.look_back = look_back
        self.pasts = values.unfold(0, look_back, 1).transpose(1, 2)
        self.futures = values[:, :targets].unfold(0, horizon, 1).transpose(1, 2)

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: int) -> WindowBatch:
        """One window, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> WindowBatch:
        origin = torch.tensor([self.origins[index] for index in indices])
        return WindowBatch(self.pasts[origin - self.look_back], self.futures[origin], origin)


class StreamBatches(Dataset[WindowBatch]):
    """Batches in which row i continues row i of the batch before, for training with carried state.

    The rows are cut into `batch_size` parallel lanes of equal length, and each lane into adjacent chunks of
    `look_back` rows. Item t holds every lane's chunk t with the `horizon` rows after it. Chunks and futures lie inside
    `rows`; what doesn't fill a chunk is left out at the old end.
    """

    def __init__(self, values: Tensor, targets: int, look_back: int, horizon: int, rows: slice, batch_size: int) -> None:
        available = rows.stop - rows.start
        self.chunks = max(available - horizon, 0) // (batch_size * look_back)
        if self.chunks == 0:
            raise DataError(
                f"{batch_size} streams need batch_size * look_back + horizon = {batch_size * look_back + horizon} "
                f"training rows; there are {available}. Lower `batch_size` or `look_back`."
            )
        lane = self.chunks * look_back
        start = rows.stop - horizon - batch_size * lane
        self.first_origins = torch.arange(batch_size) * lane + start + look_back
        self.windows = WindowDataset(values, targets, look_back, horizon, slice(start, rows.stop))

    def __len__(self) -> int:
        return self.chunks

    def __getitem__(self, index: int) -> WindowBatch:
        """Chunk `index` of every lane."""
        windows, chunk = self.windows, range(self.chunks)[index]
        origin = self.first_origins + chunk * windows.look_back
        reset = torch.full((len(origin),), chunk == 0)
        return WindowBatch(windows.pasts[origin - windows.look_back], windows.futures[origin], origin, reset)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series without gaps (in the source's units), its parts, and its standardised values, float32 (T, D)."""

    series: Series
    split: Split
    scaler: Scaler
    values: Tensor


class ForecastingData(TaskData, ABC):
    """One series cut in time order into training, validation and test part, as windows to forecast.

    Windows move by one row. Training windows lie inside the training part; validation and test windows have their
    future inside their part, and their past may reach back before it. The data are read on first use and once.

    Args:
        look_back: Rows of the past that a window holds.
        horizon: Rows of the future to forecast.
        batch_size: Windows in a batch; with `streams`, the number of parallel streams.
        season: Rows in one season, e.g. 24 for hourly data with a daily rhythm. MASE and the seasonal-naive forecast
            use it.
        split: Training, validation and test part, in time order. Three fractions, three row counts, or two to three
            ISO dates (the first moment after training, after validation and, if given, after test).
        streams: Train on contiguous streams that carry their state from batch to batch, not on shuffled windows.
        missing: What to do about missing values: stop with an error, or carry the last known value forward.
        num_workers: Processes that prepare batches; 0 prepares them in the main process.
    """

    targets: list[str] | None = None
    covariates: list[str] | None = None
    """Columns to predict (None for all but the covariates), and columns that are only read."""

    def __init__(
        self,
        look_back: int = 96,
        horizon: int = 24,
        batch_size: int = 32,
        season: int = 24,
        split: list[int | float | str] = [0.7, 0.1, 0.2],  # noqa: B006 - shown by --print_config, never changed
        streams: bool = False,
        missing: Literal["error", "ffill"] = "error",
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.look_back = require_int("look_back", look_back)
        self.horizon = require_int("horizon", horizon)
        self.batch_size = require_int("batch_size", batch_size)
        self.season = require_int("season", season)
        self.num_workers = require_int("num_workers", num_workers, least=0)
        if not isinstance(streams, bool):
            raise ConfigError(f"`streams` must be true or false; got {streams!r}.", key="streams")
        if missing not in ("error", "ffill"):
            raise ConfigError(f"`missing` must be `error` or `ffill`; got {missing!r}.", key="missing")
        self.split, self.streams, self.missing = list(split), streams, missing

    @abstractmethod
    def read(self) -> Series:
        """Reads the whole series, its columns being the targets and then the covariates."""

    @cached_property
    def series(self) -> Series:
        """As read: in the source's units, missing values still missing."""
        return self.read()

    @property
    def columns(self) -> tuple[str, ...]:
        """The inputs' names."""
        return self.series.columns

    @property
    def target_columns(self) -> tuple[str, ...]:
        return self.columns[: self.inputs - len(self.covariates or [])]

    @property
    def inputs(self) -> int:
        """D, the number of columns that a model reads."""
        return len(self.columns)

    @property
    def covariate_count(self) -> int:
        """The number of columns that are only read."""
        return self.inputs - self.channels

    @property
    def channels(self) -> int:
        """C, the number of columns that a model predicts."""
        return len(self.target_columns)

    @cached_property
    def prepared(self) -> Prepared:
        split = split_rows(len(self.series.values), self.split, self.series.time)
        needed = (self.look_back + self.horizon, self.horizon, self.horizon)
        for name, part, rows in zip(_PARTS, split, needed, strict=True):
            if part.stop - part.start < rows:
                raise DataError(
                    f"{self.series.source}: the {name} part has {part.stop - part.start} rows and one window needs "
                    f"{rows} (look_back {self.look_back}, horizon {self.horizon}). Shorten them or change `split`."
                )
        series = fill_missing(self.series, self.missing)
        scaler = Scaler.fit(series.values[split.train], series.columns)
        return Prepared(series, split, scaler, torch.from_numpy(scaler.transform(series.values)).float())

    def setup(self, stage: str | None = None) -> None:
        """Reads, splits and standardises the data; calling it again changes nothing."""
        _ = self.prepared

    def train_dataloader(self) -> DataLoader[WindowBatch]:
        if not self.streams:
            return self._loader(self._windows(self.prepared.split.train), self.batch_size, shuffle=True)
        if self.trainer is not None and self.trainer.world_size > 1:
            raise ConfigError("`streams` trains on one device; set `trainer.devices=1`.", key="streams")
        return self._loader(self._stream_batches(), None)

    def val_dataloader(self) -> DataLoader[WindowBatch]:
        return self._loader(self._windows(self.prepared.split.val), self.batch_size)

    def test_dataloader(self) -> DataLoader[WindowBatch]:
        return self._loader(self._windows(self.prepared.split.test), self.batch_size)

    def predict_dataloader(self) -> DataLoader[WindowBatch]:
        """One window: the last rows of the series, with a future that nobody knows yet (NaN)."""
        values, future = self.prepared.values, torch.full((1, self.horizon, self.channels), torch.nan)
        return self._loader([WindowBatch(values[None, -self.look_back :], future, torch.tensor([len(values)]))], None)

    def _windows(self, rows: slice) -> WindowDataset:
        return WindowDataset(self.prepared.values, self.channels, self.look_back, self.horizon, rows)

    def _stream_batches(self) -> StreamBatches:
        shape = (self.channels, self.look_back, self.horizon)
        return StreamBatches(self.prepared.values, *shape, self.prepared.split.train, self.batch_size)

    def _loader(
        self, windows: Dataset[WindowBatch] | list[WindowBatch], batch_size: int | None, shuffle: bool = False
    ) -> DataLoader[WindowBatch]:
        workers = 0 if isinstance(windows, list) else self.num_workers
        return DataLoader(
            dataset=cast("Dataset[WindowBatch]", windows),
            batch_size=batch_size,
            shuffle=shuffle,
            collate_fn=_same,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    @cached_property
    def mase_scale(self) -> Tensor:
        """(C,) the denominator of MASE: mean over the standardised training rows of |y_t - y_(t - season)|.

        It is 1 for a target that repeats itself exactly, whose MASE is then its plain mean absolute error.
        """
        rows = self.prepared.values[self.prepared.split.train, : self.channels]
        if len(rows) <= self.season:
            raise DataError(f"`season` is {self.season} rows and the training part has only {len(rows)}. Lower it.")
        scale = (rows[self.season :] - rows[: -self.season]).abs().mean(dim=0)
        if (repeats := scale == 0).any():
            names = ", ".join(name for name, same in zip(self.target_columns, repeats.tolist(), strict=True) if same)
            logger.warning("Targets that repeat exactly every season have a MASE scale of 1: %s.", names)
        return torch.where(repeats, torch.ones_like(scale), scale)

    def unscale(self, targets: Tensor) -> Tensor:
        """Standardised targets (..., C) back in the source's units, in float64."""
        return self.prepared.scaler.inverse(targets.double(), slice(self.channels))

    def times(self, origins: Tensor | np.ndarray) -> np.ndarray:
        """The time stamp of each row, or the row's number for a series without time stamps.

        Rows after the last one follow at the median distance of the known time stamps.
        """
        rows, time = torch.as_tensor(origins).cpu().numpy(), self.series.time
        if time is None:
            return rows
        step = np.median(np.diff(time).astype(np.int64)).astype("timedelta64[ns]")
        return time[np.minimum(rows, len(time) - 1)] + np.maximum(rows - len(time) + 1, 0) * step

    def future_times(self, origin: int, horizon: int | None = None) -> np.ndarray:
        """The time stamps of the `horizon` rows that start with row `origin`."""
        return self.times(np.arange(origin, origin + (horizon or self.horizon)))

    def describe(self) -> list[tuple[str, str]]:
        """What a person wants to know before training, as (name, text) rows."""
        series, split, time = self.series, self.prepared.split, self.series.time
        counts = zip(series.columns, np.isnan(series.values).sum(axis=0), strict=True)
        windows = [f"{len(self._windows(part))} windows" for part in split]
        if self.streams:
            windows[0] = f"{len(self._stream_batches())} batches of {self.batch_size} streams"
        parts = [f"rows {part.start} to {part.stop - 1}, {what}" for part, what in zip(split, windows, strict=True)]
        return [
            ("source", series.source),
            ("rows", str(len(series.values))),
            ("targets", ", ".join(self.target_columns)),
            ("covariates", ", ".join(self.covariates or []) or "none"),
            ("time", "row numbers" if time is None else " to ".join(np.datetime_as_string(time[[0, -1]], unit="s"))),
            *zip(_PARTS, parts, strict=True),
            ("missing", ", ".join(f"{name} {count}" for name, count in counts if count) or "none"),
            ("scaling", "mean 0 and deviation 1 over the training rows"),
        ]


def _same(batch: Item) -> Item:
    return batch
