"""`data.missing: model` in the online task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from dream.errors import DataError
from lightning_modules import OnlineModule
from lightning_modules.online import TableStream
from lightning_modules.online.record import StreamRecord
from lightning_modules.stream import Steps
from tests.lightning_modules.support import small_trainer

GAPS = [0, 30, 31, 100, 260, 300, 301, 302]
ALONE = [50, 310]


def table(gaps: bool, missing: str = "model", **options: Any) -> TableStream:
    values = np.random.default_rng(0).normal(size=(400, 2)).cumsum(0)
    if gaps:
        values[GAPS, 0] = np.nan
        values[ALONE] = np.nan
    frame = pd.DataFrame({"a": values[:, 0], "b": values[:, 1]})
    small = dict(warm_up=200, validation=60, crop=48, context=8, batch_size=8, crops=16, horizon=2, season=4)
    return TableStream.of(frame, missing=missing, **small | options)


def module_for(data: TableStream, **options: Any) -> OnlineModule:
    torch.manual_seed(1)
    module = OnlineModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2), **options)
    module.prepare(data)
    return module


@pytest.mark.parametrize("core", ["dream", "lstm"])
def test_without_gaps_nothing_changes(core: Any) -> None:
    results = []
    for missing in ("model", "ffill"):
        data = table(False, missing)
        module = module_for(data, core=core)
        terms = module.losses(data.piece(8, 48))
        terms["loss"].backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        steps = module.make_learner(module.modes[0]).process(data.values[0])
        results.append([*terms.values(), *grads, steps.predictions])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_the_data_keep_the_gaps() -> None:
    data = table(True)
    inputs, targets = data.values
    assert inputs[:, 0].isnan().nonzero().flatten().tolist() == sorted(GAPS + ALONE)
    assert torch.equal(inputs.isnan(), targets.isnan())
    known = data.stream.series.values[:200]
    assert data.scaler.mean == pytest.approx(np.nanmean(known, 0))


def test_the_loss_counts_what_was_observed() -> None:
    data = table(True)
    module = module_for(data).eval()
    batch = data.piece(16, 48)
    terms = module.losses(batch)
    features, _ = module._read(batch)
    outputs = module.network.outputs(features)
    future = batch.targets[:, 1:].unfold(1, 2, 1).transpose(2, 3)
    wanted = ((future - features.level.unsqueeze(2)) / features.scale.unsqueeze(2))[:, 8:].float()
    known = ~wanted.isnan()
    assert 0 < int((~known).sum()) < known.numel()
    rms = torch.stack([wanted[:, :, h][known[:, :, h]].square().mean().sqrt() for h in (0, 1)]).view(2, 1)
    errors = torch.nn.functional.huber_loss(
        outputs[:, 8:] / rms, wanted.nan_to_num() / rms, delta=3.0, reduction="none"
    )
    torch.testing.assert_close(terms["fit"], errors[known].mean())
    squares = features.traces[0].error.square()
    assert int(features.observed) == squares.numel() - int(batch.rows.isnan().sum())
    torch.testing.assert_close(terms["prediction_loss"], squares.sum() / features.observed)


def test_what_is_missing_is_not_scored() -> None:
    data = table(True)
    record = StreamRecord(data, "DREAM", ["head"])
    truth = data.values[1]
    rows = len(truth)
    after = torch.cat([truth, torch.full((2, 2), torch.nan, dtype=torch.float64)])
    ahead = torch.stack([after[1 : rows + 1], after[2 : rows + 2]], 1)
    steps = Steps(ahead.nan_to_num(7.0) + 1.0, torch.zeros(rows), torch.zeros(rows), [])
    record.add("head", 0, steps)
    results = record.results()
    assert results["DREAM, head"] == {"mse": 1.0, "mae": 1.0}  # 8 where there is no truth
    filled = pd.DataFrame(truth.numpy()).ffill().to_numpy()
    first, stop = data.scored.start, data.scored.stop
    wrong = ahead[first:stop].numpy() - filled[first:stop, None]
    assert results["repeat-last"]["mae"] == pytest.approx(np.nanmean(np.abs(wrong)))
    assert record.figure()


@pytest.mark.parametrize("core", ["dream", "lstm"])
@pytest.mark.parametrize("task", ["forecasting", "regression"])
def test_a_whole_run(core: Any, task: Any, tmp_path: Path) -> None:
    supervised = dict(targets=["a"], task="regression", horizon=1) if task == "regression" else {}
    data = table(True, **supervised)
    module = module_for(data, core=core)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert all(np.isfinite(value) for row in module.results.values() for value in row.values())
    assert module.figures()
    assert module.prediction_table(trainer.predict(module, data)).notna().all(axis=None)


def test_numbers_to_predict_may_be_missing_only_then() -> None:
    with pytest.raises(DataError, match="column `a` must hold a value in every row"):
        table(True, "ffill", targets=["a"], task="regression", horizon=1).setup()
