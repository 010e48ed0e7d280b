"""Known covariates, quantiles, gaps and irregular time: how they reach the forecast, the loss and the
table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from lightning_modules import ForecastingModule
from lightning_modules.forecasting import ForecastingData, TableData
from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.forecasting.heads import KnownEffect, PatchHead
from lightning_modules.forecasting.metrics import pinball
from lightning_modules.forecasting.patches import by_channel, read
from lightning_modules.naive import error_quantiles, repeat_last
from tests.lightning_modules.support import small_data, small_module, small_trainer

LEVELS = [0.1, 0.25, 0.5, 0.9]


def table(folder: Path, **options: Any) -> TableData:
    """Load that follows a price at once; hours between rows jump; some values are missing."""
    random = np.random.default_rng(1)
    price = random.normal(size=608)
    hours = np.cumsum(np.where(np.arange(608) % 7 == 3, 5, 1))
    load = price + 0.1 * random.normal(size=608) + np.sin(hours / 4)
    load[600:] = np.nan
    load[random.choice(500, 60, replace=False)] = np.nan
    time = pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, unit="h")
    path = folder / "table.csv"
    pd.DataFrame({"time": time, "load": load, "other": load[::-1], "price": price}).to_csv(path, index=False)
    defaults = dict(
        look_back=24, horizon=8, batch_size=32, targets=["load"], known_covariates=["price"], missing="mask"
    )
    return TableData(str(path), **{**defaults, **options})


def fitted(data: ForecastingData, **options: Any) -> ForecastingModule:
    """A small module for the columns of `data`."""
    return ForecastingModule.for_data(
        data, **{"config": DREAMConfig(hidden_dim=8, rank=2), "patch": 4} | options
    )


@pytest.mark.parametrize("independent", [True, False])
class TestKnown:
    def test_the_horizon_reaches_its_own_row(self, independent: bool) -> None:
        module = small_module(known=2, channel_independent=independent).eval()
        torch.nn.init.normal_(module.known_effect.out.weight)
        past, known = torch.randn(3, 24, 4), torch.randn(3, 8, 2)
        changed = known.clone()
        changed[:, 5] += 1
        before, after = module(past, known=known).future, module(past, known=changed).future
        assert before.shape == (3, 8, 2)
        assert (before != after).any(0).any(-1).nonzero().flatten().tolist() == [5]

    def test_at_first_nothing_is_added(self, independent: bool) -> None:
        module, past = small_module(known=1, channel_independent=independent).eval(), torch.randn(3, 24, 3)
        assert torch.equal(
            module(past, known=torch.zeros(3, 8, 1)).future, module(past, known=torch.ones(3, 8, 1)).future
        )

    def test_streams_read_those_of_every_origin(self, independent: bool) -> None:
        module = small_module(known=1, channel_independent=independent).eval()
        torch.nn.init.normal_(module.known_effect.out.weight)
        past, known = torch.randn(2, 24 + 16, 3), torch.randn(2, 4, 8, 1)
        fresh = torch.ones(2, dtype=torch.bool)
        whole = module(past, fresh, known, None, 4).future
        module(past[:, :32], fresh, known[:, :2], None, 2)
        rest = module(past[:, 8:], ~fresh, known[:, 2:], None, 2).future
        torch.testing.assert_close(rest, whole[:, 2:])


@pytest.mark.parametrize("normalization", ["last", "mean", "instance"])
def test_known_covariates_count_relative_to_the_past_and_the_calendar_as_it_is(normalization: str) -> None:
    module = small_module(known=2, calendar=1, normalization=normalization).eval()
    torch.nn.init.normal_(module.known_effect.out.weight)
    past, known = torch.randn(3, 24, 4), torch.randn(3, 8, 2)
    before = module(past, known=known).future
    for column, same in ((2, True), (3, False)):
        step = torch.zeros(4)
        step[column] = 5.0
        assert torch.allclose(module(past + step, known=known + step[2:]).future, before, atol=1e-4) is same


def test_known_effect_reads_its_row_and_the_features() -> None:
    effect = KnownEffect(features=3, known=1, outputs=1, width=4)
    torch.nn.init.normal_(effect.out.weight)
    features, known = torch.randn(4, 1, 3), torch.randn(2, 1, 5, 1)
    made = effect(features, known)
    hidden = torch.tanh(effect.state.weight @ features[3, 0] + effect.ahead(known[1, 0, 2]))
    torch.testing.assert_close(made[3, 0, 2], effect.out(hidden))


def test_patch_head_decodes_every_patch_by_the_same_map() -> None:
    head = PatchHead(features=3, width=5, horizon=7, patch=4, outputs=2, dropout=0.5).eval()
    features = torch.randn(2, 1, 3)
    assert head(features).shape == (2, 1, 14)
    with torch.no_grad():
        head.position[1] = head.position[0]
    torch.testing.assert_close(head(features)[..., :6], head(features)[..., 8:])


class TestReading:
    def test_patches_of_a_stream_are_relative_to_the_look_back_that_ends_with_them(self) -> None:
        past = torch.randn(2, 12 + 8, 3)
        for normalization in ("last", "mean", "instance", "none"):
            reading = read(past, 12, 4, 1, 1, 1, normalization)
            for k in range(2):
                window = read(past[:, 4 * k + 4 : 4 * k + 16], 12, 4, None, 1, 1, normalization)
                torch.testing.assert_close(reading.patches[:, k], window.patches[:, -1])
            torch.testing.assert_close(reading.level, window.level)
            torch.testing.assert_close(reading.scale, window.scale)
            assert (reading.scale[..., 1] == 1).all()

    def test_each_target_gets_its_own_column_and_its_age(self) -> None:
        # two targets, one covariate, one calendar column, ages of the first three
        patches = torch.arange(7.0).expand(1, 1, 1, 7)
        assert by_channel(patches, 2, 4).tolist() == [[[0, 2, 3, 6, 4]], [[1, 2, 3, 6, 5]]]


class TestQuantiles:
    def options(self, **options: Any) -> dict[str, Any]:
        return {"loss": "mae", "quantiles": LEVELS, **options}

    @pytest.mark.parametrize("head", ["linear", "patches"])
    @pytest.mark.parametrize("independent", [True, False])
    def test_they_never_cross_and_the_point_forecast_is_the_median(
        self, independent: bool, head: str
    ) -> None:
        forecast = small_module(**self.options(channel_independent=independent, head=head)).eval()(
            torch.randn(5, 24, 2)
        )
        assert forecast.quantiles.shape == (5, 8, 2, 4)
        assert (forecast.quantiles.diff(dim=-1) >= 0).all()
        assert torch.equal(forecast.future, forecast.quantiles[..., 2])

    def test_the_loss_is_twice_the_mean_pinball_loss(self) -> None:
        module = small_module(**self.options(prediction_weight=0.25)).eval()
        batch = WindowBatch(torch.randn(3, 24, 2), torch.randn(3, 8, 2), torch.arange(3))
        terms, quantiles = module.losses(batch), module.on(batch).quantiles
        expected = 2 * pinball(quantiles, batch.future, torch.tensor(LEVELS)).mean()
        torch.testing.assert_close(terms["crps"], expected)
        torch.testing.assert_close(terms["loss"], expected + 0.25 * terms["prediction_loss"])

    def test_table_figure_and_file(self, tmp_path: Path) -> None:
        data = small_data()
        module = small_module(data, **self.options())
        trainer = small_trainer(tmp_path)
        trainer.test(module, datamodule=data, verbose=False)
        for row in module.results.values():
            assert 0 < row["crps"] < row["mae"] * 1.5
            assert 0 <= row["coverage"] <= 1
        module.eval()
        with torch.no_grad():
            batches = list(data.test_dataloader())
            quantiles = torch.cat([module.on(batch).quantiles for batch in batches])
        future = torch.cat([batch.future for batch in batches])
        inside = ((quantiles[..., 0] <= future) & (future <= quantiles[..., -1])).float().mean()
        assert module.results["DREAM"]["coverage"] == pytest.approx(float(inside))
        assert len(module.figures()["forecasts"].axes[0].collections) == 2  # an outer and an inner band
        (path,) = module.write_predictions(trainer.predict(module, datamodule=data), tmp_path)
        frame = pd.read_csv(path)
        names = [f"feeder_1{suffix}" for suffix in ("_q0.1", "_q0.25", "", "_q0.9")]
        assert set(names) <= set(frame.columns)
        assert (frame[names].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)

    def test_naive_forecasts_get_the_quantiles_of_their_training_errors(self) -> None:
        past, future = torch.zeros(101, 4, 1), torch.arange(101.0).view(-1, 1, 1).expand(-1, 2, 1).clone()
        future[:, 1] *= -1
        spread = error_quantiles(lambda past: repeat_last(past, 2), past, future, [0.1, 0.5])
        torch.testing.assert_close(spread, torch.tensor([[[10.0, 50.0]], [[-90.0, -50.0]]]))
        future[0] = torch.nan
        assert error_quantiles(lambda past: repeat_last(past, 2), past, future, [0.0])[0, 0, 0] == 1


class TestMissing:
    def test_missing_targets_are_left_out_of_loss_and_metrics(self, tmp_path: Path) -> None:
        data = table(tmp_path)
        module = fitted(data).eval()
        module.prepare(data)
        batch = next(iter(data.train_dataloader()))
        valid = ~batch.future.isnan()
        assert 0 < valid.sum() < valid.numel()
        error = (module.on(batch).future - batch.future)[valid]
        torch.testing.assert_close(module.losses(batch)["mse"], error.square().mean())
        module.losses(batch)["loss"].backward()
        assert all(
            parameter.grad is None or parameter.grad.isfinite().all() for parameter in module.parameters()
        )
        nothing = batch._replace(future=torch.full_like(batch.future, torch.nan))
        assert module.losses(nothing)["mse"] == 0

    def test_the_age_reaches_the_forecast(self, tmp_path: Path) -> None:
        data = table(tmp_path)
        module, batch = fitted(data).eval(), next(iter(data.val_dataloader()))
        older = batch.past.clone()
        older[:, -1, 2] = 0.9
        assert not torch.allclose(module.on(batch).future, module.on(batch._replace(past=older)).future)


class TestTimespans:
    def test_equal_steps_are_as_good_as_none(self) -> None:
        module, past = small_module().eval(), torch.randn(3, 24, 2)
        assert torch.equal(module(past, timespans=torch.ones(3, 24)).future, module(past).future)

    def test_the_layer_reads_the_time_of_each_patch(self) -> None:
        module, past, spans = small_module().eval(), torch.randn(3, 24, 2), torch.ones(3, 24)
        spans[1, 5] = 9.0  # in the second patch of four rows, (9 + 3) / 4 = 3 times as long as usual
        seen = torch.ones(6, 6)
        seen[2:4, 1] = 3.0
        forecast = module(past, timespans=spans)
        relative = read(past, 24, 4, None, 2, 0, "instance").patches
        _, traces, _ = module.core.trace(by_channel(relative, 2, 2), timespans=seen)
        torch.testing.assert_close(forecast.traces[0].forecast, traces[0].forecast)
        assert not torch.allclose(forecast.future[1], module(past).future[1])
        assert torch.equal(forecast.future[0], module(past).future[0])


@pytest.mark.parametrize("core", ["dream", "gru"])
@pytest.mark.parametrize("independent", [True, False])
def test_everything_together(core: str, independent: bool, tmp_path: Path) -> None:
    """Known covariates, calendar, quantiles, gaps, irregular time, streams: trained, tested and predicted."""
    both = dict(targets=["load"], covariates=["other"], calendar=["hour"], timespans=True)
    data = table(tmp_path, **both, streams=True, rolling=True, stride=8, batch_size=4)
    module = fitted(
        data,
        core=core,
        channel_independent=independent,
        loss="mae",
        quantiles=[0.1, 0.5, 0.9],
        head="patches",
    )
    trainer = small_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert all(np.isfinite(list(row.values())).all() for row in module.results.values())
    assert len(module.results) == 4
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data), tmp_path)
    frame = pd.read_csv(path)
    assert list(frame.columns) == ["time", "load", "load_q0.1", "load_q0.9"]
    assert frame["time"].tolist() == pd.read_csv(tmp_path / "table.csv")["time"].tolist()[600:]


def test_known_covariates_help(tmp_path: Path) -> None:
    """The load follows the price of its own hour, which no past tells."""
    errors = {}
    for known in (["price"], None):
        data = table(tmp_path, known_covariates=known)
        torch.manual_seed(0)
        module = fitted(data, lr=1e-2)
        trainer = small_trainer(tmp_path, max_epochs=8)
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
        errors[bool(known)] = module.results["DREAM"]["mse"]
    assert errors[True] < 0.6 * errors[False]


@pytest.mark.parametrize(
    "options",
    [
        {"missing": "mask", "timespans": True, "calendar": ["hour"]},
        {"missing": "model"},
        {"missing": "ffill", "covariates": ["other"]},
        {"missing": "ffill", "known_covariates": None, "lags": 4},
        {"missing": "mask", "mapped": True},
    ],
)
def test_a_forecast_depends_on_the_last_look_back_alone(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    whole = table(tmp_path, **options)
    frame = pd.read_csv(whole.path)
    ended = 600 if whole.known_covariates else 608
    frame.loc[ended - 24 : ended - 22, "load"] = np.nan  # whose last known values are in no later row
    frame.loc[604:, "load"] = np.nan if whole.known_covariates else 1.0
    frame.to_csv(whole.path, index=False)
    frame.iloc[ended - 24 :].to_csv(tmp_path / "newest.csv", index=False)
    other = TableData(**whole_settings(whole, tmp_path / "newest.csv", options))
    other.follow(whole.schema)
    here, there = (next(iter(data.predict_dataloader())) for data in (whole, other))
    assert here.origin.tolist() == [ended]
    assert whole.future_times(ended).tolist() == other.future_times(24).tolist()
    for name, value in here._asdict().items():
        if isinstance(value, torch.Tensor) and name != "origin":
            torch.testing.assert_close(getattr(there, name), value, rtol=0, atol=0, equal_nan=True)
        else:
            assert name == "origin" or getattr(there, name) is value


def whole_settings(data: TableData, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the same reading of another file."""
    defaults = {"look_back": 24, "horizon": 8, "targets": data.targets, "missing": "mask"}
    return {**defaults, "known_covariates": data.known_covariates, **options, "path": str(path)}
