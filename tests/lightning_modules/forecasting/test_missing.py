"""`data.missing: model`: what is not observed, from the file to the forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from dream import DREAMConfig, DREAMStack
from dream.errors import ConfigError, DataError
from lightning_modules import ForecastingModule
from lightning_modules.forecasting import ForecastingData, TableData
from lightning_modules.forecasting.batches import WindowDataset
from lightning_modules.forecasting.patches import read
from tests.lightning_modules.support import small_trainer

GAPS = [0, 1, 20, 21, 22, 40, 90, 170]


def data(gaps: list[int], missing: str = "model", **options: Any) -> TableData:
    """200 hours of a load, which has gaps, and of a temperature, which has none."""
    row = np.arange(200)
    noise = np.random.default_rng(0).normal(size=(2, 200))
    frame = pd.DataFrame({"load": np.sin(row / 3) + 0.2 * noise[0], "warm": np.cos(row / 5) + 0.2 * noise[1]})
    frame.loc[gaps, "load"] = np.nan
    defaults = dict(
        look_back=12,
        horizon=4,
        season=4,
        batch_size=16,
        targets=["load"],
        covariates=["warm"],
        missing=missing,
    )
    return TableData.of(frame, **{**defaults, **options})


def module_for(data: ForecastingData, **options: Any) -> ForecastingModule:
    torch.manual_seed(0)
    config = DREAMConfig(hidden_dim=8, rank=2)
    module = ForecastingModule.for_data(data, **{"config": config, "patch": 4, "dropout": 0.0} | options)
    module.prepare(data)
    return module.eval()


def test_the_data_tell_what_was_observed_and_carry_the_rest_forward() -> None:
    tables = data(GAPS).prepared.tables
    masked = data(GAPS, "mask").prepared.tables
    assert torch.equal(tables.values, masked.values[:, :2])
    torch.testing.assert_close(tables.targets, masked.targets, equal_nan=True)
    assert (~tables.observed).nonzero().tolist() == [[row, 0] for row in GAPS]
    (batch, *_) = data(GAPS).val_dataloader()
    rows = batch.origin[:, None] + torch.arange(-12, 0)
    assert torch.equal(batch.observed, tables.observed[rows])


@pytest.mark.parametrize("core", ["dream", "lstm", "linear"])
@pytest.mark.parametrize("options", [{}, {"streams": True, "rolling": True, "stride": 4, "batch_size": 4}])
def test_without_gaps_nothing_changes(core: Any, options: dict[str, Any]) -> None:
    results = []
    for missing in ("model", "ffill"):
        whole = data([], missing, **options)
        module = module_for(whole, core=core)
        batch = whole._training_streams()[0][0] if options else whole._windows("train")[[3, 50]]
        terms = module.train().losses(batch)
        terms["loss"].backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        results.append([module.on(batch).future, *terms.values(), *grads])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_the_core_reads_what_is_missing_as_not_observed() -> None:
    """The forecast by hand: normalised by what was observed, NaN in the core's input, then the head."""
    gappy = data(GAPS)
    module = module_for(gappy, patch=4, normalization="instance", loss="mse")
    batch = WindowDataset(gappy.prepared.tables, 12, 4, [range(12, 57)])[
        [12]
    ]  # rows 12 to 23, of which 20 to 22 are missing
    load, warm = batch.past[0].double().numpy().T
    known = load[[0, 1, 2, 3, 4, 5, 6, 7, 11]]
    mean, scale = known.mean(), known.std()
    relative = np.where(np.isin(np.arange(12), [8, 9, 10]), np.nan, (load - mean) / scale)
    seen = np.stack([relative, (warm - warm.mean()) / warm.std()], 1)
    core = module.core
    assert isinstance(core, DREAMStack)
    output, traces, _ = core.trace(torch.from_numpy(seen).float().reshape(1, 3, 8))
    ahead = module.head(torch.cat([output[:, -1], traces[0].forecast[:, -1]], -1))
    torch.testing.assert_close(
        module.on(batch).future[0, :, 0], ahead[0] * scale + mean, atol=1e-5, rtol=1e-4
    )
    error = traces[0].error[0]
    assert error.reshape(12, 2)[8:11, 0].tolist() == [0, 0, 0]
    wanted = error.square().sum() / 21  # of 24 values 3 were not observed
    torch.testing.assert_close(module.on(batch).prediction_loss, wanted, atol=1e-5, rtol=1e-4)


def test_what_is_carried_forward_does_not_reach_the_forecast() -> None:
    gappy = data(GAPS)
    batch = WindowDataset(gappy.prepared.tables, 12, 4, [range(12, 57)])[[12]]
    other = batch._replace(past=torch.where(batch.observed, batch.past, batch.past + 9.0))
    for core, same in (("dream", True), ("gru", False)):  # a rival reads it
        module = module_for(gappy, core=core)
        assert torch.equal(module.on(batch).future, module.on(other).future) == same


def test_levels_and_scales_are_those_of_what_was_observed() -> None:
    past = torch.tensor([1.0, 5.0, 5.0, 3.0]).view(1, 4, 1)
    observed = torch.tensor([True, True, False, True]).view(1, 4, 1)

    def relative(observed: Tensor | None, kind: Any) -> tuple[float, float, list[float]]:
        made = read(past, 4, 2, None, 1, 0, kind, observed)
        return float(made.level), float(made.scale), made.patches.flatten().tolist()

    level, scale, patches = relative(observed, "instance")
    assert (level, scale) == (3, pytest.approx((8 / 3) ** 0.5))
    assert patches[:2] + patches[3:] == pytest.approx([-2 / scale, 2 / scale, 0])
    assert np.isnan(patches[2])
    assert relative(observed, "last")[:2] == (3, 1)
    level, scale, patches = relative(torch.zeros_like(observed), "instance")
    assert level == 3  # the last known value, from before the window
    assert np.isnan(patches).all()


def test_streams_and_windows_agree() -> None:
    """Level and scale of an origin are those of the window that ends there, with gaps as without."""
    gappy = data(GAPS, rolling=True, stride=4)
    module = module_for(gappy, normalization="instance")
    stream = gappy._rolling({0: (16, 60)})[0][0][0]
    windows = stream.afresh(12)
    assert torch.equal(windows.past, gappy.prepared.values[windows.origin[:, None] + torch.arange(-12, 0)])
    assert torch.equal(
        windows.observed, gappy.prepared.tables.observed[windows.origin[:, None] + torch.arange(-12, 0)]
    )
    carried = read(stream.past, 12, 4, stream.origin.shape[1], 2, 0, "instance", stream.observed)
    afresh = read(windows.past, 12, 4, None, 2, 0, "instance", windows.observed)
    torch.testing.assert_close(carried.level[0], afresh.level[:, 0])
    torch.testing.assert_close(carried.scale[0], afresh.scale[:, 0])
    assert module.on(stream).future.isfinite().all()


@pytest.mark.parametrize("core", ["dream", "lstm"])
def test_a_whole_run(core: Any, tmp_path: Path) -> None:
    gappy = data(GAPS, rolling=True, stride=4)
    module = module_for(gappy, core=core).train()
    trainer = small_trainer(tmp_path)
    trainer.fit(module, gappy)
    trainer.test(module, gappy, verbose=False)
    assert all(np.isfinite(value) for row in module.results.values() for value in row.values())
    table = module.prediction_table(trainer.predict(module, gappy))
    assert table["load"].notna().all()


def test_a_learned_projection_cannot_leave_out_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"with `model.encoder: linear`.*got model. Use mask"):
        module_for(data(GAPS), encoder="linear")


def test_the_refusal_names_it() -> None:
    with pytest.raises(DataError, match=r"values are missing \(load 8\).*--data.missing=model"):
        data(GAPS, "error").setup()
    with pytest.raises(ConfigError, match="`missing` must be error, ffill, mask or model; got 'drop'"):
        data(GAPS, "drop")


@pytest.mark.parametrize("seen", [0, 1, 8])
def test_a_window_without_deviation_has_finite_gradients(seen: int) -> None:
    """Explanations differentiate by the past: the root in a deviation of exactly 0 must not be NaN."""
    past = torch.full((1, 8, 1), 2.0, requires_grad=True)
    observed = torch.arange(8).view(1, 8, 1) < seen
    made = read(past, 8, 2, None, 1, 0, "instance", observed)
    (made.patches.nansum() + made.level.sum() + made.scale.sum()).backward()
    assert past.grad.isfinite().all()
