from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dream.errors import ConfigError
from lightning_modules.forecasting import DriftingLoad


def test_same_seed_same_bits() -> None:
    first, second = DriftingLoad().series, DriftingLoad().series
    assert first.values.tobytes() == second.values.tobytes()
    assert not np.array_equal(first.values, DriftingLoad(seed=8).series.values)


def test_global_generator_is_neither_read_nor_moved() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    values = DriftingLoad(rows=200).series.values
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(DriftingLoad(rows=200).series.values, values)


def test_rows_and_columns() -> None:
    data = DriftingLoad(feeders=3, rows=500)
    assert data.series.values.shape == (500, 3)
    assert data.series.values.dtype == np.float64
    assert (data.series.values > 0).all()
    assert data.target_columns == ("feeder_1", "feeder_2", "feeder_3")
    assert data.series.time is not None
    assert set(np.diff(data.series.time)) == {np.timedelta64(1, "h")}


@pytest.mark.parametrize(("drifts", "in_test"), [(0, 0), (1, 1), (2, 1), (6, 2), (9, 3)])
def test_some_drifts_fall_into_the_test_part(drifts: int, in_test: int) -> None:
    data = DriftingLoad(drifts=drifts)
    assert len(data.drift_rows) == drifts
    assert list(data.drift_rows) == sorted(set(data.drift_rows))
    assert sum(row > data.parts.test.start for row in data.drift_rows) == in_test


def test_behaviour_changes_at_drift_rows_only() -> None:
    def jump(row: int) -> float:
        values = DriftingLoad().series.values
        return float(
            np.abs(values[row : row + 168].mean(axis=0) - values[row - 168 : row].mean(axis=0)).mean()
        )

    rows = DriftingLoad().drift_rows
    assert np.mean([jump(row) for row in rows]) > 2 * np.mean([jump(row - 200) for row in rows])


def test_naive_forecasts_are_beaten_and_adapting_beats_standing_still() -> None:
    """A ridge regression on the last 48 hours, trained once, against the same one corrected by recent
    rows."""
    data = DriftingLoad(look_back=48, horizon=24)
    values, split = data.prepared.values.numpy().astype(np.float64), data.parts

    def cases(origins: Any) -> tuple[np.ndarray, np.ndarray]:
        past = np.stack([values[origin - 48 : origin].ravel() for origin in origins])
        return past, np.stack([values[origin : origin + 24].ravel() for origin in origins])

    def ridge(past: np.ndarray, future: np.ndarray, strength: float) -> np.ndarray:
        return np.linalg.solve(past.T @ past + strength * np.eye(past.shape[1]), past.T @ future)

    weights = ridge(*cases(range(48, split.train.stop - 23, 4)), 30)
    repeat, seasonal, still, adaptive = [], [], [], []
    for origin in range(split.test.start, split.test.stop - 47, 48):
        past, future = cases(range(origin, origin + 24, 6))
        recent_past, recent_future = cases(range(origin - 24 - 300, origin - 23))
        update = ridge(recent_past, recent_future - recent_past @ weights, 1000)
        steps = past.reshape(len(past), 48, -1)
        repeat.append(np.tile(steps[:, -1], 24) - future)
        seasonal.append(steps[:, -24:].reshape(future.shape) - future)
        still.append(past @ weights - future)
        adaptive.append(past @ (weights + update) - future)
    mse = [float(np.square(errors).mean()) for errors in (repeat, seasonal, still, adaptive)]
    assert mse[3] < 0.95 * mse[2] < 0.95 * 0.9 * mse[1] < mse[0]


@pytest.mark.parametrize(("name", "value"), [("feeders", 0), ("rows", 99), ("seed", -1), ("drifts", True)])
def test_refuses(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` must be a whole number of at least .*got {value}"):
        DriftingLoad(**{name: value})
