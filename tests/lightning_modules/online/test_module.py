"""The online task: what a pass over a stream scores, in which modes, and that the trained weights outlive
it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import mse_loss

from dream import ConfigError, DREAMConfig
from lightning_modules import OnlineModule
from lightning_modules.online import DriftingStream
from lightning_modules.online.drift import page_hinkley
from lightning_modules.online.metrics import KappaTemporal
from lightning_modules.plots import rolling
from lightning_modules.stream import Reading, Updates
from tests.lightning_modules.support import prediction_errors, small_data, small_module, small_trainer

ALL = ["fast weights + head", "head", "fast weights", "frozen", "fast weights + all weights", "all weights"]


def data_of(kind: str = "regression", **options: Any) -> DriftingStream:
    small = dict(length=260, columns=3, crop=32, context=8, crops=16, batch_size=8, chunk=64, drifts=2)
    return DriftingStream(kind=kind, **small | {"horizon": 3 if kind == "forecasting" else 1} | options)  # type: ignore[arg-type]


def module_of(data: DriftingStream, **options: Any) -> OnlineModule:
    settings = dict(
        config=DREAMConfig(hidden_dim=8, rank=2),
        reading=Reading("running", 0.05, lags=2),
        updates=Updates(every=4, lr=0.01),
        all_updates=Updates(every=16, replay=16),
    )
    return OnlineModule.for_data(data, **settings | options)


@pytest.mark.parametrize("kind", ["forecasting", "regression", "classification"])
def test_every_mode_stands_beside_the_rivals(kind: str, tmp_path: Path) -> None:
    data = data_of(kind, label_delay=1)
    module = module_of(data, modes=ALL)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.test(module, datamodule=data, verbose=False)
    rivals = ["previous label", "majority class"] if kind == "classification" else ["repeat-last"]
    assert list(module.results) == [f"DREAM, {mode}" for mode in ALL] + rivals
    metrics = {"accuracy", "kappa", "kappa_temporal"} if kind == "classification" else {"mse", "mae"}
    assert all(set(row) == metrics for row in module.results.values())
    assert all(np.isfinite(list(row.values())).all() for row in module.results.values())
    assert len({tuple(row.values()) for row in module.results.values()}) >= 4
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert set(module.figures()) == {"stream"}
    again = copy.deepcopy(module.results)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.results == again


def test_the_score_is_the_mean_over_the_streams_windows(tmp_path: Path) -> None:
    data = data_of("forecasting", chunk=37)
    module = module_of(data, modes=["frozen"])
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    learner = module.make_learner("frozen")
    rows, scored = data.values[0], data.scored
    first = learner.process(rows[: scored.start]).predictions
    learner.learning = False
    said = torch.cat([first, learner.process(rows[scored.start :]).predictions])[scored.start : scored.stop]
    future = torch.stack([rows[row + 1 : row + 4] for row in scored])
    assert module.results["DREAM, frozen"]["mse"] == pytest.approx(float(mse_loss(said, future)), rel=1e-4)
    repeated = rows[scored.start : scored.stop, None].expand_as(future)
    assert module.results["repeat-last"]["mse"] == pytest.approx(float(mse_loss(repeated, future)), rel=1e-6)


def test_modes_without_fast_weights_are_run_once(tmp_path: Path) -> None:
    data = data_of()
    lstm, plain = (
        module_of(data, core="lstm"),
        module_of(data, config=DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0.0)),
    )
    assert (lstm.modes, lstm.title) == (["head", "frozen"], "LSTM")
    assert (plain.modes, plain.title) == (["head", "frozen"], "DREAM without plasticity")
    small_trainer(tmp_path).test(lstm, datamodule=data, verbose=False)
    assert list(lstm.results) == ["LSTM, head", "LSTM, frozen", "repeat-last"]


def test_a_stream_from_its_first_row(tmp_path: Path) -> None:
    data = data_of("classification", warm_up=0, validation=0)
    module = module_of(data, modes=["fast weights + head"], updates=Updates("sgd", replay=1, lr=0.05))
    trainer = small_trainer(tmp_path, max_epochs=0)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert (
        module.results["DREAM, fast weights + head"]["accuracy"]
        > module.results["majority class"]["accuracy"]
    )
    assert module.record is not None
    assert sum(map(len, module.record.errors["previous label"])) == 260


def test_learning_follows_a_drift_that_frozen_weights_do_not(tmp_path: Path) -> None:
    data = data_of("forecasting", length=1600, drift="abrupt", drifts=1, horizon=1, warm_up=0.3, crops=64)
    module = module_of(
        data, updates=Updates("least_squares", every=2, forgetting=0.99), modes=["head", "frozen"]
    )
    trainer = small_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.results["DREAM, head"]["mse"] < 0.8 * module.results["DREAM, frozen"]["mse"]
    assert module.results["DREAM, head"]["mse"] < 0.6 * module.results["repeat-last"]["mse"]


def test_a_crop_starts_as_the_stream_had_left_it() -> None:
    data = data_of("forecasting")
    module = module_of(data)
    module.prepare(data)
    batch = data.piece(48, 32)
    features, _ = module._read(batch)
    whole, _ = module.network.relate(data.values[0][None, :80], module.network.init_state())
    torch.testing.assert_close(features.level, whole.level[:, 48:])
    torch.testing.assert_close(features.values[..., -whole.shown.shape[-1] :], whole.shown[:, 48:].float())


@pytest.mark.parametrize("hidden_dims", [[8], [8, 5]])
def test_every_layer_is_trained_to_expect_what_it_reads(hidden_dims: list[int]) -> None:
    data = data_of("forecasting")
    module = module_of(data, hidden_dims=hidden_dims).eval()
    module.prepare(data)
    with torch.no_grad():
        features, found = module._read(next(iter(data.train_dataloader())))
        first = features.traces[0]
        expected = prediction_errors(module.core, first.prediction + first.error).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_other_data_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`data` must be an OnlineData; got DriftingLoad\. Try TableStream"
    ):
        module_of(data_of()).prepare(small_data())
    with pytest.raises(ConfigError, match="`data` must be a ForecastingData; got DriftingStream"):
        small_module().prepare(data_of())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`modes` must be some of .* got \['head', 'head'\]"):
        module_of(data_of(), modes=["head", "head"])
    with pytest.raises(ConfigError, match="`channel_independent` must be false for regression"):
        module_of(data_of(), reading=Reading(channel_independent=True))
    with pytest.raises(ConfigError, match="a number or a list of whole numbers from 0 to 10000; got -1"):
        Reading(lags=-1)
    with pytest.raises(ConfigError, match=r"`updates.every` must be a whole number of at least 1; got 1.5"):
        Updates(every=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`lags` must be above 0 where the head reads nothing else; got 0"):
        module_of(data_of(), reading=Reading(lags=0, output=False, forecast=False))
    with pytest.raises(ConfigError, match=r"`through_head` must be false unless `updates.rule` is least_sq"):
        module_of(data_of(), through_head=True)
    with pytest.raises(ConfigError, match="`through_head` must be false for classification; got True"):
        module_of(data_of("classification"), through_head=True, updates=Updates("least_squares"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(updates=Updates(trust=0.9)), "`updates.trust` must be 0 for classification"),
        (
            dict(all_updates=Updates("least_squares"), modes=["all weights"]),
            "`updates.rule` must be adam or sgd where all",
        ),
        (dict(hidden_dims=[]), "`hidden_dims` must list the width of each layer"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    data = data_of("classification")
    with pytest.raises(ConfigError, match=message):
        module_of(data, **options).prepare(data)


def test_rows_that_do_not_suffice_are_refused_before_anything_runs() -> None:
    data = data_of()
    module = module_of(data)
    short = data_of(warm_up=0.99)
    with pytest.raises(ConfigError, match="must leave rows for the stream"):
        module.prepare(short)


@pytest.mark.parametrize(
    ("kind", "file"), [("forecasting", "forecast.csv"), ("classification", "predictions.csv")]
)
def test_predictions_are_written(kind: str, file: str, tmp_path: Path) -> None:
    data = data_of(kind)
    module = module_of(data)
    said = small_trainer(tmp_path).predict(module, datamodule=data)
    assert said is not None
    (path,) = module.write_predictions(said, tmp_path)
    table = pd.read_csv(path)
    assert path.name == file
    if kind == "forecasting":
        assert table["time"].tolist() == [260, 261, 262]
        np.testing.assert_allclose(table[["x1", "x2", "x3"]].to_numpy(), said[-1][-1].numpy())
    else:
        assert len(table) == 260
        np.testing.assert_allclose(table["below"] + table["above"], 1.0)
        assert ((table["predicted"] == "above") == (table["above"] > table["below"])).all()


def test_kappa_temporal_is_relative_to_the_previous_label() -> None:
    target = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1])
    said = torch.tensor([0, 0, 0, 1, 1, 0, 1, 1])
    metric = KappaTemporal()
    for part in (slice(0, 3), slice(3, 8)):
        metric.update(said[part], target[part])
    repeated = 4 / 8  # the first row has no label before it
    assert float(metric.compute()) == pytest.approx((6 / 8 - repeated) / (1 - repeated))


def test_page_hinkley_raises_the_alarm_soon_after_a_rise_and_not_before() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(3000)
    assert page_hinkley(values) == []
    values[2000:] += 2
    (alarm,) = page_hinkley(values)
    assert 2000 <= alarm < 2060


def test_rolling_means() -> None:
    np.testing.assert_allclose(rolling(np.array([1.0, 2, 3, 4, 5]), 3), [1, 1.5, 2, 3, 4])


@pytest.mark.parametrize(
    ("kind", "core"), [("forecasting", "dream"), ("regression", "dream"), ("forecasting", "lstm")]
)
@pytest.mark.parametrize("delay", [0, 2])
def test_training_reads_a_crop_as_the_test_reads_a_stream(kind: str, core: str, delay: int) -> None:
    data = data_of(kind, label_delay=delay)
    rule = Updates("least_squares", every=3, forgetting=0.97, ridge=0.01)
    module = module_of(data, core=core, updates=rule, through_head=True).eval()
    module.prepare(data)
    torch.nn.init.normal_(module.network.head.weight, std=0.2)
    batch = next(iter(data.train_dataloader()))
    features, _ = module._read(batch)
    future = batch.targets.unsqueeze(2)
    if kind == "forecasting":
        future = batch.targets[:, 1:].unfold(1, data.horizon, 1).transpose(2, 3)
    wanted = ((future - features.level.unsqueeze(2)) / features.scale.unsqueeze(2)).float()
    trained = module.network.to_data(module.outputs(features, wanted), features)
    for crop, row in enumerate(batch.start.tolist()):
        learner = module.make_learner("fast weights + head")
        start = module._starts.at([0], [row])
        learner.state = replace(start, core=learner.network.core.init_state(1))
        targets = None if kind == "forecasting" else batch.targets[crop]
        read = learner.process(batch.rows[crop], targets).predictions
        torch.testing.assert_close(trained[crop], read, rtol=1e-4, atol=1e-4)


def test_training_through_the_head_reaches_core_and_prior() -> None:
    data = data_of("forecasting")
    module = module_of(data, updates=Updates("least_squares", every=4), through_head=True)
    module.prepare(data)
    batch = next(iter(data.train_dataloader()))
    module.losses(batch)["fit"].backward()
    still = {
        name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()
    }
    assert not [name for name in still if "head" in name]
    assert module.core.layers[0].cell.B.grad.abs().sum() > 0  # type: ignore[union-attr] # although the head is 0
