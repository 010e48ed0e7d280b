"""Known covariates, gaps and time between rows, from the file to the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream.errors import ConfigError, DataError
from lightning_modules.forecasting import DriftingLoad, TableData

ROWS, AHEAD = 80, 4


def table(folder: Path, change: slice | None = None, gaps: list[int] | None = None, time: Any = None) -> Path:
    """80 hours of a load, and of a price that is known for 4 hours more."""
    row = np.arange(ROWS + AHEAD, dtype=float)
    frame = pd.DataFrame({"load": np.sin(row) + row / 50, "price": row**2})
    frame.loc[ROWS:, "load"] = np.nan
    if change is not None:
        frame.iloc[change] += 9
    if gaps is not None:
        frame.loc[gaps, "load"] = np.nan
    frame.insert(
        0, "time", pd.date_range("2024-01-01", periods=len(frame), freq="h") if time is None else time
    )
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return path


def data(path: Path, **options: Any) -> TableData:
    defaults = {"look_back": 8, "horizon": AHEAD, "season": 4, "batch_size": 8, "known_covariates": ["price"]}
    return TableData(str(path), **{**defaults, **options})


class TestKnown:
    def test_rows_after_the_last_target_are_for_prediction_only(self, tmp_path: Path) -> None:
        forecast = data(table(tmp_path))
        assert len(forecast.series.values) == ROWS
        assert (forecast.channels, forecast.covariate_count, forecast.known_count, forecast.shape.inputs) == (
            1,
            0,
            1,
            2,
        )
        assert forecast.parts.test.stop == ROWS
        (batch,) = forecast.predict_dataloader()
        assert batch.origin.tolist() == [ROWS]
        mean, scale = forecast.scaler.mean[1], forecast.scaler.scale[1]
        price = np.arange(ROWS, ROWS + AHEAD) ** 2.0
        np.testing.assert_allclose(batch.known[0, :, 0], (price - mean) / scale, rtol=1e-6)
        assert batch.future.isnan().all()
        assert pd.Index(forecast.future_times(ROWS)).equals(
            pd.date_range("2024-01-04 08:00", periods=4, freq="h")
        )

    def test_windows_know_the_covariates_of_their_horizon(self, tmp_path: Path) -> None:
        forecast = data(table(tmp_path))
        batch = next(iter(forecast.test_dataloader()))
        for window, origin in enumerate(batch.origin.tolist()):
            assert torch.equal(batch.known[window], forecast.prepared.tables.known[origin : origin + AHEAD])
            assert torch.equal(batch.known[window], forecast.prepared.values[origin : origin + AHEAD, 1:])

    def test_too_few_rows_ahead(self, tmp_path: Path) -> None:
        forecast = data(table(tmp_path), horizon=6)
        list(forecast.test_dataloader())
        with pytest.raises(
            DataError,
            match=r"forecast of 6 rows needs .* price of each; there are 4 rows after the last target, and "
            r"2 of those needed are missing, 2024-01-04T12:00:00, 2024-01-04T13:00:00. Append rows",
        ):
            forecast.predict_dataloader()

    def future(self, folder: Path, ahead: int, drop: list[int] = [], empty: list[int] = []) -> TableData:  # noqa: B006
        """A horizon of 24 hours, of which so many rows are there; some of them without a time or a price."""
        row = np.arange(ROWS + ahead, dtype=float)
        frame = pd.DataFrame({"load": np.sin(row), "price": row**2})
        frame.insert(0, "time", pd.date_range("2024-01-01", periods=len(frame), freq="h"))
        frame.loc[ROWS:, "load"] = np.nan
        frame.loc[[ROWS + k for k in empty], "price"] = np.nan
        frame.drop([ROWS + k for k in drop]).to_csv(folder / "table.csv", index=False)
        return data(folder / "table.csv", horizon=24, split=[32, 24, 24])

    @pytest.mark.parametrize(
        ("ahead", "drop", "empty", "message"),
        [
            (23, [], [], "there are 23 rows .* 1 of those needed is missing, 2024-01-05T07:00:00. Append"),
            (24, [5], [], "there are 23 rows .* 1 of those needed is missing, 2024-01-04T13:00:00. Append"),
            (40, [5, 7], [], "2 of those needed are missing, 2024-01-04T13:00:00, 2024-01-04T15:00:00"),
            (0, [], [], "there are 0 .* 24 of those .*T08:00:00, .*T09:00:00, .*T10:00:00 and 21 more"),
            (24, [], [3], r"`price` must have a value .* row 83 .2024-01-04T11:00:00. has none .1 such"),
        ],
    )
    def test_what_is_missing_is_named(
        self, ahead: int, drop: list[int], empty: list[int], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match=message):
            list(self.future(tmp_path, ahead, drop, empty).predict_dataloader())

    @pytest.mark.parametrize(("ahead", "drop", "empty"), [(24, [], []), (40, [], []), (40, [30], [25])])
    def test_more_rows_than_the_horizon(
        self, ahead: int, drop: list[int], empty: list[int], tmp_path: Path
    ) -> None:
        forecast = self.future(tmp_path, ahead, drop, empty)
        (batch,) = forecast.predict_dataloader()
        assert batch.known.shape == (1, 24, 1)
        price = forecast.scaler.inverse(batch.known[0].double(), slice(1, 2))[:, 0].numpy()
        np.testing.assert_allclose(price, np.arange(ROWS, ROWS + 24) ** 2.0, rtol=1e-6)

    def test_a_row_between_two(self, tmp_path: Path) -> None:
        self.future(tmp_path, 30)
        frame = pd.read_csv(tmp_path / "table.csv")
        frame.loc[len(frame)] = ["2024-01-04 12:30:00", None, 1.0]
        frame.sort_values("time").to_csv(tmp_path / "table.csv", index=False)
        forecast = data(tmp_path / "table.csv", horizon=24, split=[32, 24, 24])
        with pytest.raises(DataError, match=r"must follow by h; row 85, 2024-01-04T12:30:00, lies between"):
            forecast.predict_dataloader()

    def test_the_calendar_is_known_for_ever(self, tmp_path: Path) -> None:
        forecast = data(
            table(tmp_path), known_covariates=None, targets=["load"], calendar=["hour", "weekday"], horizon=6
        )
        assert forecast.known_count == 4
        assert forecast.columns == ("load", "hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
        (batch,) = forecast.predict_dataloader()
        hour = np.arange(ROWS, ROWS + 6) % 24
        own = batch.known[0, :, 0].numpy() * forecast.scaler.scale[1] + forecast.scaler.mean[1]
        np.testing.assert_allclose(own, np.sin(2 * np.pi * hour / 24), atol=1e-6)

    def test_a_column_has_one_role(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"column `price` must be used once; .* `known_covariates`"):
            data(table(tmp_path), covariates=["price"])

    def test_the_embedded_load_has_a_temperature(self) -> None:
        plain, warm = (DriftingLoad(rows=300, feeders=2, temperature=value) for value in (False, True))
        assert warm.columns == ("feeder_1", "feeder_2", "temperature")
        assert (warm.channels, warm.known_count) == (2, 1)
        assert plain.columns == ("feeder_1", "feeder_2")
        assert len(warm.series.values) == 300 - warm.horizon
        follows = np.corrcoef((warm.series.values[:, :2] - plain.series.values[: 300 - warm.horizon]).T)
        assert follows[0, 1] > 0.9  # the same fronts in both
        assert len(warm.predict_dataloader().dataset) == 1


class TestMask:
    GAPS = [0, 1, 20, 21, 22, 70]

    def test_gaps_are_filled_from_the_past_and_shown(self, tmp_path: Path) -> None:
        forecast = data(table(tmp_path, gaps=self.GAPS), missing="mask")
        values, targets = forecast.prepared.values, forecast.prepared.tables.targets
        assert forecast.shape.aged == 2
        assert values.shape == (ROWS, 4)
        assert torch.equal(values[20:23, 0], values[19, 0].expand(3))
        assert values[:2, 0].tolist() == [0, 0]  # the mean of the training rows, for want of a past
        torch.testing.assert_close(values[18:24, 2], torch.tensor([0, 0, 1 / 2, 2 / 3, 3 / 4, 0]))
        assert values[:2, 2].tolist() == [1, 1]
        assert not values[:, 3].any()
        assert targets[:ROWS, 0].isnan().nonzero().flatten().tolist() == self.GAPS

    def test_the_past_does_not_see_the_future(self, tmp_path: Path) -> None:
        before = data(table(tmp_path, gaps=self.GAPS), missing="mask").prepared.tables.values
        after = data(
            table(tmp_path, change=slice(60, 80), gaps=[*self.GAPS, 61, 75]), missing="mask"
        ).prepared.tables.values
        assert torch.equal(before[:60], after[:60])
        assert not torch.equal(before[60:], after[60:])

    def test_the_scaler_and_mase_know_observed_values_only(self, tmp_path: Path) -> None:
        forecast = data(table(tmp_path, gaps=self.GAPS), missing="mask")
        train = pd.read_csv(tmp_path / "table.csv")["load"].to_numpy()[:56]
        assert forecast.scaler.mean[0] == pytest.approx(np.nanmean(train))
        assert forecast.scaler.scale[0] == pytest.approx(np.nanstd(train))
        season = np.nanmean(np.abs(train[4:] - train[:-4])) / np.nanstd(train)
        assert float(forecast.mase_scale[0]) == pytest.approx(season, rel=1e-5)

    def test_a_gap_in_the_plan_is_carried_on(self, tmp_path: Path) -> None:
        path = table(tmp_path)
        frame = pd.read_csv(path)
        frame.loc[[ROWS, ROWS + 1], "price"] = np.nan
        frame.to_csv(path, index=False)
        known = data(path, missing="mask").prepared.tables.known
        assert torch.equal(known[ROWS : ROWS + 2, 0], known[ROWS - 1, 0].expand(2))
        with pytest.raises(
            DataError,
            match=r"`price` must have a value in each row to forecast; row 80 .* has none .2 such values.",
        ):
            data(path).setup()

    @pytest.mark.parametrize("missing", ["mask", "ffill"])
    def test_an_empty_training_part_is_refused(self, missing: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="columns without a value in the training rows: load"):
            data(table(tmp_path, gaps=list(range(57))), missing=missing).setup()

    def test_a_validation_part_without_a_target_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the validation part holds no known target to score"):
            data(table(tmp_path, gaps=list(range(56, 64))), missing="mask").setup()


class TestTimespans:
    def test_batches_hold_them(self, tmp_path: Path) -> None:
        steps = np.where(np.arange(ROWS + AHEAD) % 10 == 5, 3, 1)
        time = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.cumsum(steps), unit="h")
        forecast = data(table(tmp_path, time=time), timespans=True)
        batch = next(iter(forecast.val_dataloader()))
        for window, origin in enumerate(batch.origin.tolist()):
            assert batch.timespans[window].tolist() == steps[origin - 8 : origin].tolist()
        assert next(iter(data(table(tmp_path)).val_dataloader())).timespans is None

    def test_numbers_are_no_time(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.csv"
        pd.DataFrame({"load": np.arange(99.0) % 7}).to_csv(path, index=False)
        with pytest.raises(DataError, match="`timespans` needs time stamps"):
            data(path, known_covariates=None, timespans=True).setup()


def test_known_covariates_of_another_file_are_read_by_name_and_on_the_scales_of_the_training(
    tmp_path: Path,
) -> None:
    learned = data(table(tmp_path), missing="mask", timespans=True)
    schema = learned.schema
    (expected,) = learned.predict_dataloader()
    frame = pd.read_csv(learned.path)
    for rows in (8, 9, 40):
        new = TableData.of(
            frame.tail(rows + AHEAD)[["time", "price", "load"]],
            look_back=8,
            horizon=AHEAD,
            season=4,
            known_covariates=["price"],
            missing="mask",
            timespans=True,
        )
        new.follow(schema)
        (batch,) = new.predict_dataloader()
        for name in ("past", "known"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert torch.equal(batch.timespans[:, 1:], expected.timespans[:, 1:])
        assert (new.future_times(rows) == learned.future_times(ROWS)).all()
        assert torch.equal(new.mase_scale, learned.mase_scale)
        assert torch.equal(new.unscale(torch.ones(1)), learned.unscale(torch.ones(1)))
    new.follow(None)  # by itself again
    assert not torch.equal(new.unscale(torch.ones(1)), learned.unscale(torch.ones(1)))
