"""The forecasting task: what it reads, what it predicts, what it carries, and that it learns."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import mse_loss

from dream import ConfigError, DataError, DREAMConfig
from lightning_modules import ForecastingModule
from lightning_modules.forecasting import DriftingLoad, TableData
from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.naive import repeat_last
from lightning_modules.run.tracking import JSONLLogger
from tests.lightning_modules.support import small_data, small_module, small_trainer


def with_zero_head(**options: object) -> ForecastingModule:
    module = small_module(**options).eval()
    torch.nn.init.zeros_(module.head.weight)
    torch.nn.init.zeros_(module.head.bias)
    return module


@pytest.mark.parametrize("independent", [True, False])
class TestForward:
    def test_normalisation_is_put_back(self, independent: bool) -> None:
        past = 3 + torch.randn(5, 24, 2)
        expected = {
            "instance": past.mean(1),
            "mean": past.mean(1),
            "last": past[:, -1],
            "none": torch.zeros(5, 2),
        }
        for normalization, level in expected.items():
            module = with_zero_head(normalization=normalization, channel_independent=independent)
            torch.testing.assert_close(module(past).future, level[:, None].expand(-1, 8, -1))

    def test_instance_normalisation_makes_forecasts_follow_shift_and_scale(self, independent: bool) -> None:
        module, past = small_module(channel_independent=independent).eval(), torch.randn(4, 24, 2)
        shift, scale = torch.tensor([5.0, -3.0]), torch.tensor([2.0, 0.5])
        torch.testing.assert_close(
            module(past * scale + shift).future, module(past).future * scale + shift, rtol=1e-4, atol=1e-4
        )

    def test_a_constant_window_is_forecast_finitely(self, independent: bool) -> None:
        assert (
            small_module(channel_independent=independent)
            .eval()(torch.full((2, 24, 2), 7.0))
            .future.isfinite()
            .all()
        )

    def test_covariates_reach_the_forecast_and_are_not_forecast(self, independent: bool) -> None:
        module = small_module(covariates=1, channel_independent=independent).eval()
        past = torch.randn(3, 24, 3)
        changed = past.clone()
        changed[:, :12, 2] += 1
        assert module(past).future.shape == (3, 8, 2)
        assert not torch.allclose(module(past).future, module(changed).future)


def test_independent_channels_do_not_see_each_other() -> None:
    module, past = small_module().eval(), torch.randn(3, 24, 2)
    changed = past.clone()
    changed[..., 1] = torch.randn(3, 24)
    torch.testing.assert_close(module(past).future[..., 0], module(changed).future[..., 0])
    torch.testing.assert_close(module(past.flip(-1)).future, module(past).future.flip(-1))


def test_the_head_reads_the_first_layers_forecast() -> None:
    module, past = small_module(hidden_dims=[8, 6]).eval(), torch.randn(3, 24, 2)
    torch.nn.init.zeros_(module.head.weight)
    torch.nn.init.zeros_(module.head.bias)
    with torch.no_grad():
        module.head.weight[:, 6] = (
            1.0  # after the 6 outputs of the last layer: the first value of the forecast patch
        )
    forecast = module(past)
    level, scale = past.mean(1), past.std(1, correction=0)
    first = forecast.traces[0].forecast[:, -1, 0].reshape(3, 2)
    torch.testing.assert_close(forecast.future, (first * scale + level)[:, None].expand(-1, 8, -1))


def test_the_upper_layers_own_predictions_are_trained() -> None:
    module, past = small_module(hidden_dims=[8, 6]).eval(), torch.randn(3, 24, 2)
    _, upper = module.core.layers
    (gradient,) = torch.autograd.grad(module(past).prediction_loss, upper.cell.W)
    assert gradient.abs().amax() > 1e-4


def test_the_loss_is_the_forecasts_error_and_the_weighted_prediction_error() -> None:
    module = small_module(prediction_weight=0.25).eval()
    batch = WindowBatch(torch.randn(3, 24, 2), torch.randn(3, 8, 2), torch.arange(3))
    forecast, terms = module(batch.past), module.losses(batch)
    torch.testing.assert_close(terms["mse"], mse_loss(forecast.future, batch.future))
    relative = (batch.past - batch.past.mean(1, keepdim=True)) / batch.past.std(1, keepdim=True, correction=0)
    seen = relative.transpose(1, 2).reshape(6, 6, 4)
    torch.testing.assert_close(terms["prediction_loss"], mse_loss(forecast.traces[0].prediction, seen))
    torch.testing.assert_close(terms["loss"], terms["mse"] + 0.25 * terms["prediction_loss"])


def test_the_prediction_loss_cannot_pull_the_encoder_towards_a_constant() -> None:
    module = small_module(encoder="linear", patch=24, config=DREAMConfig(input_dim=5, hidden_dim=8, rank=2))
    batch = WindowBatch(torch.randn(3, 24, 2), torch.randn(3, 8, 2), torch.arange(3))
    module.losses(batch)["prediction_loss"].backward()
    # with a single patch the prediction is c: only the target depends on the encoder
    weight = module.encoder.weight.grad
    assert weight is None or not weight.any()


def stream(
    past: torch.Tensor, reset: bool, origins: int = 2
) -> tuple[torch.Tensor, torch.Tensor, None, None, int]:
    """The arguments of a module for the next rows of streams."""
    return past, torch.full((len(past),), reset), None, None, origins


class TestStreams:
    @pytest.mark.parametrize("normalization", ["none", "last", "mean", "instance"])
    @pytest.mark.parametrize("independent", [True, False])
    def test_two_batches_are_one_long_pass(self, normalization: str, independent: bool) -> None:
        module = small_module(normalization=normalization, channel_independent=independent).eval()
        past = torch.randn(3, 24 + 48, 2)
        whole = module(*stream(past, True, origins=4))
        first, second = module(*stream(past[:, :48], True)), module(*stream(past[:, 24:], False))
        torch.testing.assert_close(torch.cat([first.future, second.future], 1), whole.future)
        torch.testing.assert_close(second.states[0].U, whole.states[0].U)
        assert all(not tensor.requires_grad for tensor in vars(module._states[0]).values())

    def test_the_future_changes_nothing_before_it(self) -> None:
        module, past = small_module().eval(), torch.randn(2, 24 + 48, 2)
        changed = past.clone()
        changed[:, 24 + 24 :] = torch.randn(2, 24, 2)  # after the second of four origins
        one, other = module(*stream(past, True, 4)).future, module(*stream(changed, True, 4)).future
        assert torch.equal(one[:, :2], other[:, :2])
        assert not torch.equal(one[:, 2:], other[:, 2:])

    def test_a_stream_without_memory_forecasts_like_windows(self) -> None:
        """Level and scale at an origin are those of the window that ends there, and the newest patch is the
        same."""
        module, past = small_module(look_back=24, patch=24, horizon=8).eval(), torch.randn(2, 24 + 48, 2)
        batch = WindowBatch(
            past, torch.zeros(2, 2, 8, 2), torch.tensor([[48, 72]] * 2), torch.ones(2, dtype=torch.bool)
        )
        carried, afresh = module.on(batch).future, module.on(batch.afresh(24)).future
        torch.testing.assert_close(carried[:, 0], afresh.unflatten(0, (2, 2))[:, 0])
        # the second has read the first patch
        assert not torch.allclose(carried[:, 1], afresh.unflatten(0, (2, 2))[:, 1])

    def test_only_the_rows_of_the_mask_start_afresh(self) -> None:
        module, past = small_module().eval(), torch.randn(2, 48, 2)
        alone = module(*stream(past, True)).states[0]
        mixed = module(past, torch.tensor([True, False]), None, None, 2).states[0]
        torch.testing.assert_close(mixed.U[:2], alone.U[:2])
        assert not torch.allclose(mixed.U[2:], alone.U[2:])

    def test_windows_neither_use_nor_touch_the_carried_state(self) -> None:
        module, past = small_module().eval(), torch.randn(2, 48, 2)
        module(*stream(past, True))
        before = module._states
        module(past[:, :24])
        assert module._states is before

    @pytest.mark.parametrize("boundary", ["on_train_epoch_start", "on_validation_epoch_start"])
    def test_epochs_and_validation_start_afresh(self, boundary: str) -> None:
        module = small_module().eval()
        module.prepare(small_data())
        module(*stream(torch.randn(2, 48, 2), True))
        getattr(module, boundary)()
        assert module._states is None

    def test_training_on_streams(self, tmp_path: Path) -> None:
        data = small_data(streams=True, batch_size=4, stride=8)
        module = small_module(data)
        trainer = small_trainer(tmp_path, max_epochs=2)
        trainer.fit(module, datamodule=data)
        assert trainer.global_step == 2 * len(data.train_dataloader())
        assert all(parameter.isfinite().all() for parameter in module.parameters())

    def test_a_stride_that_cuts_patches_is_refused(self, tmp_path: Path) -> None:
        data = small_data(rolling=True, stride=6)
        with pytest.raises(
            ConfigError, match=r"`data\.stride` must be a multiple of `model\.patch`, 4, for streams; got 6"
        ):
            small_module(data).prepare(data)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[ForecastingModule, DriftingLoad, Path]:
    """A rolling test, and where it wrote."""
    folder = tmp_path_factory.mktemp("rolling")
    data = small_data(rolling=True, stride=4)
    module = small_module(data)
    small_trainer(folder).test(module, datamodule=data, verbose=False)
    return module, data, folder


class TestRolling:
    def test_carried_state_stands_beside_windows_afresh_on_the_same_origins(self, tested: tuple) -> None:
        module, data, _folder = tested
        assert list(module.results) == [
            "DREAM, carried state",
            "DREAM, windows afresh",
            "repeat-last",
            "seasonal-naive",
        ]
        windows = data._windows("test")
        batch = windows[list(range(0, len(windows), 4))]
        module.eval()
        with torch.no_grad():
            afresh = float(mse_loss(module.on(batch).future, batch.future))
        assert module.results["DREAM, windows afresh"]["mse"] == pytest.approx(afresh, rel=1e-5)
        naive = float(mse_loss(repeat_last(batch.past, 8), batch.future))
        assert module.results["repeat-last"]["mse"] == pytest.approx(naive, rel=1e-5)

    def test_every_origin_is_in_the_table_and_the_figure(self, tested: tuple) -> None:
        module, data, folder = tested
        table, test = pd.read_csv(folder / "origins.csv"), data.parts.test
        assert table["row"].tolist() == list(range(test.start, test.stop - 8 + 1, 4))
        for name in ("DREAM, carried state", "DREAM, windows afresh", "repeat-last"):
            assert table[name].mean() == pytest.approx(module.results[name]["mse"], rel=1e-5)
        figures = module.figures()
        assert len(figures["forecasts"].axes) == 2 * 4  # two targets at four origins
        lines = {line.get_label(): line for line in figures["adaptation"].axes[0].lines}
        np.testing.assert_allclose(
            lines["DREAM, carried state"].get_ydata(), table["DREAM, carried state"], rtol=1e-6
        )

    def test_the_state_goes_on_from_before_the_test_part(self, tested: tuple) -> None:
        module, data, _folder = tested
        warm_up, first = (
            next(item for item in data.test_dataloader() if keep(item))
            for keep in (
                lambda item: item.reset.all(),
                lambda item: item.origin.min() >= data.parts.test.start,
            )
        )
        assert warm_up.origin.max() < data.parts.test.start == first.origin.min()
        module.forget_states()
        with torch.no_grad():
            module.eval().on(warm_up)
            carried = module.on(first)
        error = float((carried.future[0, 0] - first.future[0, 0]).square().mean())
        assert module._backtest.origins()["DREAM, carried state"].iloc[0] == pytest.approx(error, rel=1e-5)

    def test_prediction_goes_on_from_the_carried_state(self, tested: tuple, tmp_path: Path) -> None:
        module, data, _folder = tested
        batches = list(data.predict_dataloader())
        assert batches[-1].origin.tolist() == [[len(data.series.values)]]
        assert batches[-1].future.isnan().all()
        predictions = small_trainer(tmp_path).predict(module, datamodule=data)
        assert predictions[-1].shape == (1, 8, 2, 1)
        assert predictions[-1].isfinite().all()


def test_it_learns(tmp_path: Path) -> None:
    data = small_data(rows=900)
    module = small_module(data, config=DREAMConfig(hidden_dim=16, rank=4), lr=1e-2)
    logger = JSONLLogger(tmp_path)
    trainer = small_trainer(tmp_path, max_epochs=4, logger=logger)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    losses = [
        row["train/mse"]
        for row in map(json.loads, logger.path.read_text().splitlines())
        if "train/mse" in row
    ]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert module.results["DREAM"]["mse"] < 0.7 * module.results["repeat-last"]["mse"]


def test_the_table_holds_the_naive_forecasts_of_the_same_windows(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["DREAM", "repeat-last", "seasonal-naive"]
    batches = list(data.test_dataloader())
    past, future = torch.cat([b.past for b in batches]), torch.cat([b.future for b in batches])
    assert module.results["repeat-last"]["mse"] == pytest.approx(
        float(mse_loss(repeat_last(past, 8), future)), rel=1e-5
    )
    season = past[:, :8]  # look-back and season are both 24 rows
    assert module.results["seasonal-naive"]["mae"] == pytest.approx(
        float((season - future).abs().mean()), rel=1e-5
    )
    own = float((data.unscale(repeat_last(past, 8)) - data.unscale(future)).abs().mean())
    assert module.results["repeat-last"]["mae_data"] == pytest.approx(own, rel=1e-4)


def test_figures_show_the_test_part(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    assert module.figures() == {}
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    figures = module.figures()
    assert set(figures) == {"forecasts", "adaptation"}
    windows = len(data.test_dataloader().dataset)
    _error, surprise, norm = (axis.lines[0] for axis in figures["adaptation"].axes[:3])
    assert len(surprise.get_ydata()) == windows
    assert 0 < np.min(surprise.get_ydata()) < np.max(surprise.get_ydata()) < 1
    assert np.min(norm.get_ydata()) > 0
    truth = figures["forecasts"].axes[0].lines[1].get_ydata()
    first = next(iter(data.test_dataloader()))
    np.testing.assert_allclose(truth, data.unscale(first.future[0])[:, 0].numpy(), rtol=1e-5)


def test_predictions_continue_the_data_in_its_own_units(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    trainer = small_trainer(tmp_path)
    predictions = trainer.predict(module, datamodule=data)
    (path,) = module.write_predictions(predictions, tmp_path)
    table = pd.read_csv(path, parse_dates=["time"])
    assert list(table.columns) == ["time", *data.target_columns]
    assert table["time"].iloc[0] == pd.Timestamp(data.series.time[-1]) + pd.Timedelta(hours=1)
    module.eval()
    with torch.no_grad():
        expected = data.unscale(module(data.prepared.values[None, -24:]).future)[0]
    np.testing.assert_allclose(table[list(data.target_columns)].to_numpy(), expected.numpy(), rtol=1e-4)


def test_a_target_may_be_called_time(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    module.prepare(data)
    data.whole = replace(data.whole, columns=("time", "load"))
    (path,) = module.write_predictions([torch.zeros(1, 8, 2, 1)], tmp_path)
    assert list(pd.read_csv(path).columns) == ["time_", "time", "load"]


def test_a_column_called_like_a_formula_is_a_text_for_a_spreadsheet(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data)
    module.prepare(data)
    data.whole = replace(data.whole, columns=("=cmd()", "load"))
    (path,) = module.write_predictions([torch.full((1, 8, 2, 1), -1e3)], tmp_path)
    table = pd.read_csv(path)
    assert list(table.columns) == ["time", "'=cmd()", "load"]
    assert (table[["'=cmd()", "load"]] < 0).all(axis=None)


def test_a_checkpoint_loads_safely_and_gives_the_same_forecasts(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data, hidden_dims=[8, 6], encoder="linear")
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    hyper = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert hyper["config"]["hidden_dim"] == 8
    again = ForecastingModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    past = torch.randn(2, 24, 2)
    torch.testing.assert_close(again.eval()(past).future, module.eval()(past).future)


def test_a_checkpoint_is_measured_in_the_units_of_the_data_at_hand(tmp_path: Path) -> None:
    first, other = small_data(), small_data(seed=8)
    trained = small_module(first)
    trainer = small_trainer(tmp_path)
    trainer.fit(trained, datamodule=first)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module = small_module(other)
    small_trainer(tmp_path).test(
        module, datamodule=other, ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True
    )
    errors = [
        (other.unscale(repeat_last(b.past, 8)) - other.unscale(b.future)).abs()
        for b in other.test_dataloader()
    ]
    assert module.results["repeat-last"]["mae_data"] == pytest.approx(
        float(torch.cat(errors).mean()), rel=1e-4
    )


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    data = small_data()
    module = small_module(data, lr=0.01, warmup=0.2)
    trainer = small_trainer(tmp_path, max_epochs=5, limit_train_batches=10, limit_val_batches=1)
    trainer.fit(module, datamodule=data)
    factor = trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0]
    total = trainer.global_step
    rising = round(0.2 * total)
    assert factor(0) == pytest.approx(1 / rising)
    assert factor(rising - 1) == 1.0
    assert factor(rising + (total - rising) // 2) == pytest.approx(0.505, abs=0.03)
    assert factor(total) == pytest.approx(0.01)
    decays = {group["weight_decay"] for group in trainer.optimizers[0].param_groups}
    assert decays == {0.01, 0.0}


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"patch": 5}, r"`patch` must be a divisor of look_back, 24, such as 12; got 5"),
        ({"patch": 0}, r"`patch` must be a divisor of look_back, 24, such as 12; got 0"),
        ({"encoder": "conv"}, r"`encoder` must be identity or linear; got 'conv'"),
        ({"normalization": "batch"}, r"`normalization` must be last, mean, instance or none; got 'batch'"),
        ({"loss": "wild"}, r"`loss` must be mse or mae; got 'wild'"),
        (
            {"loss": "mae", "quantiles": [0.9, 0.5]},
            r"`quantiles` must be increasing levels.* 0\.5 among them.*; got \[0\.9, 0\.5\]",
        ),
        ({"loss": "mae", "quantiles": [0.1, 0.9]}, r"`quantiles` must be increasing levels"),
        ({"loss": "mae", "quantiles": [0.5, 1.0]}, r"`quantiles` must be increasing levels"),
        ({"quantiles": [0.1, 0.5, 0.9]}, r"`loss` must be mae with `quantiles`.*; got 'mse'"),
        (
            {"prediction_weight": -1.0},
            r"`prediction_weight` must be a finite number of at least 0; got -1\.0",
        ),
        ({"lr": 0.0}, r"`lr` must be a finite number above 0; got 0\.0"),
        ({"weight_decay": math.nan}, r"`weight_decay` must be a finite number.*; got nan"),
        ({"warmup": 1.0}, r"`warmup` must be a share of the steps.*; got 1\.0"),
        ({"schedule": "linear"}, r"`schedule` must be cosine or constant; got 'linear'"),
        ({"dropout": 1.0}, r"`dropout` must be a share from 0 to below 1; got 1\.0"),
        ({"backend": "gpu"}, r"`backend` must be auto or cpu or triton or reference; got 'gpu'"),
        ({"hidden_dims": [8, 0]}, r"`hidden_dims` must hold positive integers; got \[8, 0\]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, object], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        small_module(**setting)


def test_of_a_long_test_part_some_origins_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.forecasting.backtest.DRAWN", 20)
    data = small_data()
    module = small_module(data)
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert module._backtest is not None
    test = data.parts.test
    every = (test.stop - test.start) // 20
    expected = [row for row in range(test.start, test.stop - 8 + 1) if row % every == 0]
    assert module._backtest.origins()["row"].tolist() == expected
    assert max(len(line.get_ydata()) for line in module.figures()["adaptation"].axes[0].lines) == len(
        expected
    )


def test_a_module_reads_all_data_as_those_that_it_was_trained_on(tmp_path: Path) -> None:
    row = np.arange(120.0)
    time = pd.date_range("2024-01-01", periods=120, freq="h")
    frame = pd.DataFrame({"time": time, "a": np.sin(row / 3) + row, "b": 50 * np.cos(row / 5)})
    shape = {"look_back": 24, "horizon": 4, "batch_size": 16}
    data = TableData.of(frame, split=[70, 25, 25], **shape)
    settings = {"config": DREAMConfig(hidden_dim=8, rank=2), "patch": 4, "channel_independent": False}
    module = ForecastingModule.for_data(data, **settings, normalization="none")
    trainer = small_trainer(tmp_path, limit_train_batches=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    (expected,) = small_trainer(tmp_path).predict(module, datamodule=data)
    loaded = ForecastingModule.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True)
    assert loaded.schema == module.schema == data.schema
    swapped = frame[["time", "b", "a"]].tail(24)
    for known in (module, loaded):
        (found,) = small_trainer(tmp_path).predict(known, datamodule=TableData.of(swapped, **shape))
        assert torch.equal(found, expected)
    fresh = ForecastingModule.for_data(data, **settings, normalization="none")
    other = TableData.of(
        frame[["time", "b", "a"]].assign(a=frame.a - 9 * (row < 60)), split=data.split, **shape
    )
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    small_trainer(tmp_path).test(
        fresh, datamodule=other, ckpt_path=tmp_path / "it.ckpt", weights_only=True, verbose=False
    )
    assert fresh.results == module.results
    with pytest.raises(ConfigError, match="built for; `look_back` is 28, not 24"):
        small_trainer(tmp_path).test(loaded, datamodule=TableData.of(frame, **shape | {"look_back": 28}))


def test_weights_start_on_other_data_as_if_these_were_the_first(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((200, 2)), columns=["a", "b"])
    options = dict(look_back=24, horizon=4, season=4)
    model = ForecastingModule.for_data(TableData.of(frame, **options))
    model.schema = TableData.of(frame, **options).schema
    other = TableData.of(1000 * frame.rename(columns={"a": "x"}), **options)
    trainer = small_trainer(tmp_path, limit_train_batches=1)
    with pytest.raises(DataError, match="missing: a; unknown to it: x"):
        trainer.fit(model, datamodule=other)
    model.schema = None
    trainer.fit(model, datamodule=other)
    assert model.schema == other.schema
    assert model.schema.columns["targets"] == ("x", "b")
    assert model.schema.scales["b"][1] > 100
    model.schema = None
    with pytest.raises(ConfigError, match="built for; `channels` is 3, not 2"):
        trainer.fit(model, datamodule=TableData.of(frame.assign(c=frame.a), **options))
