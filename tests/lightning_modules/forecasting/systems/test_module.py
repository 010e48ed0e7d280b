"""Forecasts of systems that are new in each sequence: batches, losses, tests, and recursive least squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dream import ConfigError, DREAMConfig, DREAMError
from lightning_modules.forecasting.systems import SystemsData, SystemsModule
from lightning_modules.forecasting.systems.reference import regressors
from lightning_modules.naive import recursive_least_squares
from tests.lightning_modules.support import prediction_errors, small_data, small_trainer


def small_systems(**options: Any) -> SystemsData:
    """Sequences of 40 steps, forecast 1 and 3 steps ahead, from 2 lags."""
    settings: dict[str, Any] = dict(steps=40, ahead=[1, 3], lags=2, systems=20, batch_size=8, skip=10)
    return SystemsData(**settings | dict(validation_systems=5, test_systems=9) | options)


def module_of(data: SystemsData, **options: Any) -> SystemsModule:
    torch.manual_seed(0)
    module = SystemsModule.for_data(data, **{"config": DREAMConfig(hidden_dim=16, rank=4)} | options)
    module.prepare(data)
    return module


def test_what_a_step_holds() -> None:
    data = small_systems()
    batch = next(iter(data.test_dataloader()))
    assert batch.inputs.shape == (8, 40, data.shape.inputs)
    assert batch.targets.shape == (8, 40, 2)
    u, y = (torch.from_numpy(values).float() for values in data.sequence("test", 3))
    for step in (0, 7, 39):
        now = step + 1  # one row before the first step fills its lags
        expected = torch.stack([y[now], y[now - 1], *(u[now + ahead] for ahead in (3, 2, 1, 0))])
        assert torch.equal(batch.inputs[3, step], expected)
        assert torch.equal(batch.targets[3, step], y[[now + 1, now + 3]])
        read = regressors(batch.inputs, data.shape, 1)[3, step]
        assert torch.equal(read, torch.cat([torch.ones(1), expected[:2], expected[4:]]))
        read = regressors(batch.inputs, data.shape, 3)[3, step]
        assert torch.equal(read, torch.cat([torch.ones(1), expected]))


def test_parts_have_systems_of_their_own_and_training_draws_them_anew() -> None:
    data = small_systems()
    first = [data.batch(part, [0]).inputs for part in ("train", "val", "test")]
    assert not any(torch.equal(a, b) for a, b in zip(first, [*first[1:], first[0]], strict=True))
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append(torch.cat([batch.inputs for batch in loader]))
    assert len(epochs[0]) == 20
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert small_systems(seed=1).fingerprint != data.fingerprint == small_systems().fingerprint


def test_recursive_least_squares_are_the_least_squares_of_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 60, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 60, generator=generator, dtype=torch.float64)
    for delay, forgetting in ((1, 1.0), (3, 1.0), (2, 0.9)):
        found = recursive_least_squares(x, y, delay, forgetting, ridge=0.1)
        for step in (0, 2, 3, 10, 59):
            known = max(step - delay + 1, 0)
            age = torch.arange(known - 1, -1, -1, dtype=x.dtype)
            weight = forgetting**age
            seen, asked = x[0, :known], y[0, :known]
            normal = (seen.mT * weight) @ seen + 0.1 * forgetting**known * torch.eye(4, dtype=x.dtype)
            expected = torch.linalg.solve(normal, (seen.mT * weight) @ asked) @ x[0, step]
            assert float(found[0, step]) == pytest.approx(float(expected), abs=1e-9)


def test_linear_systems_are_learnt_exactly() -> None:
    data = small_systems(steps=200, noise=0.0)
    batch = data.batch("test", [0])
    weights = torch.randn(data.shape.inputs + 1, generator=torch.Generator().manual_seed(1))
    linear = regressors(batch.inputs, data.shape, 3)
    target = linear @ weights
    found = recursive_least_squares(linear, target, 3, ridge=1e-8)
    assert float((found - target)[:, 100:].abs().max()) < 1e-3


@pytest.mark.parametrize("hidden_dims", [[16], [16, 7]])
def test_the_losses_are_those_of_the_formulas(hidden_dims: list[int]) -> None:
    data = small_systems()
    module = module_of(data, prediction_weight=0.5, hidden_dims=hidden_dims).eval()
    batch = data.batch("val", [0, 1, 2])
    with torch.no_grad():
        terms, output = module.losses(batch), module(batch.inputs)
        error = prediction_errors(module.core, module.reference(batch.inputs).beside(batch.inputs)).mean()
    units = (output.future - batch.targets) / output.scale
    assert units.abs().max() > 10
    assert float(terms["misfit"]) == pytest.approx(float(units.clamp(-10, 10).square().mean()), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(float(terms["misfit"] + 0.5 * error), rel=1e-5)
    with torch.no_grad():
        assert float(module.losses(batch._replace(spare=True))["loss"]) == 0


@pytest.mark.parametrize("reference", ["linear", "last"])
def test_an_untrained_model_is_its_reference(reference: str) -> None:
    data = small_systems(steps=80)
    module, batch = module_of(data, reference=reference).eval(), data.batch("val", [0, 1])
    row = {"linear": "recursive least squares", "last": "repeat-last"}[reference]
    expected = module.guesses(batch)[row]
    torch.testing.assert_close(module(batch.inputs).future, expected)
    found = module.reference(batch.inputs)
    for place, distance in enumerate((1, 3)):
        y = batch.inputs[..., 0]
        errors = y[:, distance:] - expected[:, :-distance, place]
        torch.testing.assert_close(found.error[:, distance:, place], errors)
        assert (found.error[:, :distance, place] == 0).all()
        assert (found.scale[:, :distance, place] == 1).all()
        for step in (distance, 20, 79):
            newest = errors[:, : step - distance + 1][:, -50:]
            usual = newest.square().mean(1).sqrt().clamp_min(1e-3)
            torch.testing.assert_close(found.scale[:, step, place], usual, rtol=1e-4, atol=1e-6)


def test_a_forecast_depends_on_nothing_that_is_not_known_yet() -> None:
    data = small_systems()
    module, batch = module_of(data).eval(), data.batch("val", [0, 1])
    with torch.no_grad():
        torch.nn.init.normal_(module.head.weight)
        changed = batch.inputs.clone()
        changed[:, 25:] += 1
        before, after = (module(inputs).future[:, :25] for inputs in (batch.inputs, changed))
    assert torch.equal(before, after)


def test_it_trains_tests_and_predicts(tmp_path: Path) -> None:
    data = small_systems()
    module = module_of(data)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    names = ["DREAM", "DREAM, plasticity off", "recursive least squares", "repeat-last"]
    assert list(module.results) == names
    module.eval()
    with torch.no_grad():
        batches = [data.batch("test", list(range(start, min(start + 8, 9)))) for start in (0, 8)]
        errors = torch.cat([module(batch.inputs).future - batch.targets for batch in batches])[:, 10:]
    for place, name in enumerate(("rmse_1", "rmse_3")):
        expected = float(errors[..., place].square().mean().sqrt())
        assert module.results["DREAM"][name] == pytest.approx(expected, rel=1e-5)
    assert set(module.figures()) == {"systems"}
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data) or [], tmp_path)
    table = pd.read_csv(path)
    assert list(table.columns) == ["sequence", "step", "ahead_1", "ahead_3"]
    assert len(table) == 9 * 40


@pytest.mark.data
def test_the_circuit_is_read_in_pieces() -> None:
    data = small_systems(tested="circuit", test_systems=500)
    assert data.count("test") == 500
    assert small_systems(tested="circuit", test_systems=5000).count("test") == 83_000 // data.length
    assert data.batch("test", [499]).names == ["circuit test system 499"]
    assert data.batch("val", [0]).names == ["generated val system 0"]
    with pytest.raises(ConfigError, match="`steps`, `lags` and the longest of `ahead` must be at most 83000"):
        small_systems(tested="circuit", steps=90_000).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ahead=[]), "`ahead` must be increasing distances of at least 1, such as [1, 10]; got []"),
        (dict(ahead=[3, 1]), "`ahead` must be increasing distances"),
        (dict(lags=0), "`lags` must be a whole number of at least 1"),
        (dict(noise=-0.1), "`noise` must be from 0 to 10 deviations"),
        (dict(skip=40), "`skip` must be below `steps`, 40; got 40"),
        (dict(tested="plant"), "`tested` must be generated or circuit; got 'plant'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        small_systems(**options)
    assert message in str(refused.value)


def test_other_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="`data` must be a SystemsData; got DriftingLoad"):
        SystemsModule().prepare(small_data())
    with pytest.raises(ConfigError, match="`lags` is 3, not 2"):
        module_of(small_systems()).prepare(small_systems(lags=3))


def test_forecasts_that_are_not_finite_are_refused_by_name() -> None:
    data = small_systems()
    module = module_of(data).eval()
    with torch.no_grad():
        module.head.weight.fill_(torch.nan)
    with pytest.raises(DREAMError, match="not finite: the forecasts, first of generated test system 4"):
        module.predict_step(data.batch("test", [4]), 0)
