from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from dream.errors import ConfigError, DataError
from lightning_modules.data.series import Series
from lightning_modules.forecasting.batches import (
    StreamsInTurn,
    Tables,
    WindowBatch,
    WindowDataset,
    groups_at_random,
    rolling_stream,
    training_streams,
)
from lightning_modules.forecasting.data import ForecastingData

ROWS = 60


class Counting(ForecastingData):
    """Column 0 counts rows, column 1 is its square, column 2 a covariate that falls."""

    covariates = ["down"]

    def __init__(self, change: slice | None = None, dated: bool = True, **options: Any) -> None:
        super().__init__(
            **{"look_back": 5, "horizon": 3, "batch_size": 4, "season": 2, "stride": 5, **options}
        )
        self.change, self.dated, self.reads = change, dated, 0

    def read(self) -> Series:
        self.reads += 1
        row = np.arange(ROWS, dtype=np.float32)
        values = np.stack([row, row**2, -row], axis=1)
        if self.change is not None:
            values[self.change] += 100
        time = np.datetime64("2024-01-01", "ns") + np.arange(ROWS) * np.timedelta64(2, "h")
        return Series(values, ("up", "square", "down"), time if self.dated else None, "counting")


@pytest.fixture
def tables() -> Tables:
    """60 rows of three columns, two of them targets, one known; row r follows r steps after the one
    before."""
    values = torch.arange(ROWS * 3.0).view(ROWS, 3)
    ahead = torch.full((3, 2), torch.nan)
    return Tables(values, torch.cat([values[:, :2], ahead]), values[:, 2:], torch.arange(ROWS) + 1.0)


class TestWindowDataset:
    def test_contents(self, tables: Tables) -> None:
        windows, values = WindowDataset(tables, look_back=5, horizon=3, origins=[range(5, 18)]), tables.values
        assert len(windows) == 20 - 5 - 3 + 1
        batch = windows[[0, 12, 7]]
        assert batch.origin.tolist() == [5, 17, 12]
        assert batch.reset is None
        for window, origin in enumerate(batch.origin.tolist()):
            assert torch.equal(batch.past[window], values[origin - 5 : origin])
            assert torch.equal(batch.future[window], values[origin : origin + 3, :2])
            assert torch.equal(batch.known[window], values[origin : origin + 3, 2:])
            assert batch.timespans[window].tolist() == [*range(origin - 4, origin + 1)]
        assert torch.equal(windows[[12]].past[0], batch.past[1])
        assert batch.afresh(5) is batch

    def test_past_reaches_back_before_the_part(self, tables: Tables) -> None:
        windows = WindowDataset(tables, look_back=5, horizon=3, origins=[range(40, 48)])
        assert len(windows) == 8
        assert torch.equal(windows[[0]].past[0], tables.values[35:40])

    def test_index_past_the_end(self, tables: Tables) -> None:
        windows = WindowDataset(tables, look_back=5, horizon=3, origins=[range(5, 8)])
        assert len(windows) == 3
        with pytest.raises(IndexError):
            windows[[3]]


def check_streams(batches: list[WindowBatch], tables: Tables, stride: int) -> None:
    """Every item goes on where the one before ended, and everything in it belongs to its origins."""
    for before, batch in pairwise(batches):
        assert torch.equal(
            batch.origin[:, 0] - before.origin[:, -1], torch.full((len(batch.origin),), stride)
        )
    for batch in batches:
        assert torch.equal(
            batch.origin.diff(dim=1), torch.full((len(batch.origin), batch.origin.shape[1] - 1), stride)
        )
        for lane, origins in enumerate(batch.origin.tolist()):
            assert torch.equal(batch.past[lane], tables.values[origins[0] - stride - 5 : origins[-1]])
            for k, origin in enumerate(origins):
                assert torch.equal(batch.future[lane, k], tables.targets[origin : origin + 3])
                assert torch.equal(batch.known[lane, k], tables.known[origin : origin + 3])
        windows = batch.afresh(5)
        for window, origin in enumerate(batch.origin.flatten().tolist()):
            assert windows.origin[window] == origin
            assert torch.equal(windows.past[window], tables.values[origin - 5 : origin])
            assert torch.equal(windows.timespans[window], tables.timespans[origin - 5 : origin])
            assert torch.equal(windows.future[window], tables.targets[origin : origin + 3])


class TestStreams:
    @pytest.mark.parametrize("lanes", [1, 2, 4])
    @pytest.mark.parametrize("stride", [2, 5])
    def test_lanes_reproduce_the_series(self, tables: Tables, lanes: int, stride: int) -> None:
        streams = training_streams(
            tables, look_back=5, horizon=3, rows=slice(0, 50), streams=lanes, stride=stride
        )
        batches = [streams[index] for index in range(streams.chunks)]
        check_streams(batches, tables, stride)
        new = torch.cat([batch.past[:, 5:] for batch in batches], dim=1).reshape(-1, 3)
        assert torch.equal(new, tables.values[47 - len(new) : 47])
        assert int(batches[-1].origin[-1, -1]) + 3 == 50
        assert [bool(batch.reset.all()) for batch in batches] == [True] + [False] * (len(batches) - 1)

    def test_each_phase_begins_elsewhere(self, tables: Tables) -> None:
        streams = training_streams(tables, look_back=5, horizon=3, rows=slice(0, 50), streams=2, stride=5)
        assert streams.phases == 5
        starts = set()
        order = groups_at_random(StreamsInTurn([streams]))
        for epoch in range(20):
            order.set_epoch(epoch)
            batches = [streams[index] for index in order]
            check_streams(batches, tables, 5)
            assert batches[0].reset.all()
            starts.add(int(batches[0].origin[0, 0]))
        assert starts == {22, 21, 20, 19, 18}
        with pytest.raises(IndexError):
            streams[len(streams)]

    def test_too_short(self, tables: Tables) -> None:
        shape = {"look_back": 5, "horizon": 3, "streams": 4, "stride": 5}
        with pytest.raises(
            DataError, match=r"4 streams need .* = 28 training rows; there are 27\. Lower `batch_size`"
        ):
            training_streams(tables, rows=slice(0, 27), **shape)
        assert len(training_streams(tables, rows=slice(0, 28), **shape)) == 1

    @pytest.mark.parametrize(("warm_up", "before"), [(0, 0), (12, 4), (1000, 8)])
    def test_a_rolling_stream_has_every_origin_and_warms_up(
        self, tables: Tables, warm_up: int, before: int
    ) -> None:
        streams = rolling_stream(tables, 5, 3, first=35, last=48, stride=3, chunk=4, warm_up=warm_up)
        batches = list(streams)
        check_streams(batches, tables, 3)
        origins = torch.cat([batch.origin for batch in batches], 1)[0].tolist()
        assert origins == [35 - 3 * k for k in range(before, 0, -1)] + [35, 38, 41, 44, 47]
        assert all((batch.origin < 35).all() or (batch.origin >= 35).all() for batch in batches)

    def test_a_rolling_stream_begins_when_the_series_allows(self, tables: Tables) -> None:
        streams = rolling_stream(tables, 5, 3, first=6, last=20, stride=3, chunk=4, warm_up=100)
        assert next(iter(streams)).origin[0, 0] == 8


class TestForecastingData:
    def test_columns_before_setup_and_one_read(self) -> None:
        data = Counting()
        assert (data.channels, data.shape.inputs) == (2, 3)
        assert data.columns == ("up", "square", "down")
        assert data.target_columns == ("up", "square")
        data.setup("fit")
        data.setup("test")
        assert data.reads == 1

    def test_parts_and_windows(self) -> None:
        data = Counting()
        origins = {
            name: sorted(torch.cat([batch.origin for batch in loader]).tolist())
            for name, loader in [
                ("train", data.train_dataloader()),
                ("val", data.val_dataloader()),
                ("test", data.test_dataloader()),
            ]
        }
        assert origins == {"train": [*range(5, 40)], "val": [*range(42, 46)], "test": [*range(48, 58)]}
        assert len(data.test_dataloader()) == 3
        assert torch.cat([batch.origin for batch in data.test_dataloader()]).tolist() == [*range(48, 58)]

    def test_values_are_standardised_with_the_training_rows(self) -> None:
        data = Counting()
        train = np.arange(42.0)
        batch = next(iter(data.test_dataloader()))
        expected = (np.arange(43, 48) - train.mean()) / train.std()
        np.testing.assert_allclose(batch.past[0, :, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(data.unscale(batch.future)[0, :, 1], np.arange(48, 51) ** 2, rtol=1e-5)
        assert batch.past.dtype == torch.float32

    @pytest.mark.parametrize(("change", "same"), [(slice(42, None), True), (slice(41, 42), False)])
    def test_scaler_sees_training_rows_only(self, change: slice, same: bool) -> None:
        before, after = Counting().scaler, Counting(change).scaler
        assert np.array_equal(before.mean, after.mean) is same
        assert np.array_equal(before.scale, after.scale) is same

    def test_one_seed_fixes_the_shuffle(self) -> None:
        def order() -> list[int]:
            torch.manual_seed(3)
            return torch.cat([batch.origin for batch in Counting().train_dataloader()]).tolist()

        assert order() == order()
        assert order() != sorted(order())

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @pytest.mark.parametrize("streams", [False, True])
    def test_worker_gives_the_same_batches(self, streams: bool) -> None:
        torch.manual_seed(0)
        alone = list(Counting(streams=streams).train_dataloader())
        torch.manual_seed(0)
        loader = Counting(streams=streams, num_workers=1).train_dataloader()
        for ours, theirs in zip(alone, loader, strict=True):
            assert isinstance(theirs, WindowBatch)
            assert torch.equal(ours.past, theirs.past)
            assert torch.equal(ours.origin, theirs.origin)
        del loader

    def test_streams_train_in_order(self) -> None:
        first, second, *_ = list(Counting(streams=True, batch_size=2).train_dataloader())
        assert first.reset.tolist() == [True, True]
        assert (second.origin - first.origin).tolist() == [[5], [5]]
        assert next(iter(Counting(streams=True).val_dataloader())).reset is None

    def test_predict_gives_the_window_after_the_last_row(self) -> None:
        data = Counting()
        (batch,) = data.predict_dataloader()
        assert batch.past.shape == (1, 5, 3)
        assert torch.equal(batch.past[0], data.prepared.values[-5:])
        assert batch.future.shape == (1, 3, 2)
        assert batch.future.isnan().all()
        assert batch.origin.tolist() == [ROWS]

    def test_times(self) -> None:
        data = Counting()
        assert data.times(torch.tensor([0, 59])).astype(str).tolist() == [
            "2024-01-01T00:00:00.000000000",
            "2024-01-05T22:00:00.000000000",
        ]
        hours = (data.future_times(58) - np.datetime64("2024-01-05T20")) / np.timedelta64(1, "h")
        assert hours.tolist() == [0, 2, 4]
        assert Counting(dated=False).future_times(58, 4).tolist() == [58, 59, 60, 61]

    def test_mase_scale(self) -> None:
        data = Counting(season=3)
        row = np.arange(42.0)
        expected = [3 / row.std(), (row[3:] ** 2 - row[:-3] ** 2).mean() / (row**2).std()]
        np.testing.assert_allclose(data.mase_scale, expected, rtol=1e-5)

    def test_mase_scale_of_an_exact_season_is_one(self, caplog: pytest.LogCaptureFixture) -> None:
        class Square(Counting):
            def read(self) -> Series:
                return Series(
                    np.tile([[1.0, 0, 0], [-1, 1, 1]], (30, 1)).astype(np.float32), ("a", "b", "c"), None, "x"
                )

        assert Square().mase_scale.tolist() == [1, 1]
        assert "MASE scale of 1: a, b" in caplog.text

    def test_describe(self) -> None:
        rows = dict(Counting().describe())
        assert rows["training"] == "rows 0 to 41, 35 windows"
        assert rows["test"] == "rows 48 to 59, 10 windows"
        assert rows["time"] == "2024-01-01T00:00:00 to 2024-01-05T22:00:00, 2h, even"
        assert (rows["targets"], rows["covariates"], rows["missing"]) == ("up, square", "down", "none")
        assert dict(Counting(streams=True, batch_size=2).describe())["training"].endswith(
            "3 batches of 2 streams"
        )

    @pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
    @pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
    @pytest.mark.parametrize("streams", [False, True])
    def test_every_loader_survives_the_trainer(self, streams: bool) -> None:
        class Zero(L.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(1))
                self.seen: list[WindowBatch] = []

            def training_step(self, batch: WindowBatch, index: int) -> torch.Tensor:
                self.seen.append(batch)
                return (batch.future - self.bias).square().mean()

            def validation_step(self, batch: WindowBatch, index: int) -> None:
                assert batch.reset is None

            def test_step(self, batch: WindowBatch, index: int) -> None:
                self.seen.append(batch)

            def predict_step(self, batch: WindowBatch, index: int) -> torch.Tensor:
                return batch.origin

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        data, model = Counting(streams=streams, batch_size=2), Zero()
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.fit(model, datamodule=data)
        assert len(model.seen) == (3 if streams else 18)
        assert all(isinstance(batch, WindowBatch) for batch in model.seen)
        if streams:
            resets = [batch.reset for batch in model.seen if batch.reset is not None]
            assert [bool(reset.all()) for reset in resets] == [True, False, False]
        trainer.test(model, datamodule=data)
        assert trainer.predict(model, datamodule=data) == [torch.tensor([ROWS])]

    def test_no_warnings(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for loader in (Counting().train_dataloader(), Counting().predict_dataloader()):
                list(loader)

    @pytest.mark.parametrize("name", ["look_back", "horizon", "batch_size", "season"])
    @pytest.mark.parametrize("value", [0, -1, True, 1.5, "3"])
    def test_refuses_what_is_no_positive_number(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=f"`{name}` must be a whole number of at least 1; got") as error:
            Counting(**{name: value})
        assert error.value.key == name

    @pytest.mark.parametrize(("name", "value"), [("streams", 1), ("missing", "drop"), ("num_workers", -1)])
    def test_refuses_other_values(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=f"`{name}` must be .*got"):
            Counting(**{name: value})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"look_back": 40}, "training part has 42 rows and one window needs 43"),
            ({"horizon": 7, "look_back": 1}, "validation part has 6 rows and one window needs 7"),
            ({"split": [40, 15, 2]}, "test part has 2 rows and one window needs 3"),
        ],
    )
    def test_refuses_parts_that_are_too_short(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            Counting(**options).setup("fit")

    def test_refuses_a_season_longer_than_the_training_part(self) -> None:
        with pytest.raises(DataError, match="`season` is 42 rows and the training part has only 42"):
            _ = Counting(season=42).mase_scale
