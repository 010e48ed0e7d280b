"""`data.missing: model` for anomalies: what is not observed is read as such, scored 0 and learnt nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig, DREAMStack
from lightning_modules import AnomalyModule
from lightning_modules.anomaly import AnomalyShape, AnomalyTable
from lightning_modules.anomaly.scores import AnomalyScore, RunningScale, TailProbability, WindowedGaussian
from tests.lightning_modules.support import small_trainer

ROWS, TRAINING = 300, 120
GAPS = [0, 30, 31, 32, 90, 200, 201]
ALONE = [50, 250]  # rows without any value


def table(gaps: bool, missing: str = "model", **options: Any) -> AnomalyTable:
    values = np.random.default_rng(0).normal(size=(ROWS, 2)).cumsum(0)
    if gaps:
        values[GAPS, 0] = np.nan
        values[ALONE] = np.nan
    return AnomalyTable.of(values, training=TRAINING, missing=missing, **options)


def module_for(data: AnomalyTable, **options: Any) -> AnomalyModule:
    torch.manual_seed(1)
    config = DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0.2, base_threshold=0.3)
    module = AnomalyModule(config, AnomalyShape(2), **options)
    module.prepare(data)
    return module


@torch.no_grad()
def judged(data: AnomalyTable, module: AnomalyModule) -> np.ndarray:
    """Scores and alarms (2, D, T) of all detectors."""
    judged = [module.eval().judge(batch, module.detectors)[0] for batch in data.test_dataloader()]
    return np.concatenate(judged, -1)[:, :, 0]


@pytest.mark.parametrize("core", ["dream", "lstm"])
@pytest.mark.parametrize("adapt", [True, False])
def test_without_gaps_nothing_changes(core: Any, adapt: bool) -> None:
    results = []
    for missing in ("model", "ffill"):
        data = table(False, missing)
        module = module_for(data, core=core, adapt=adapt)
        losses = [module.losses(batch)["loss"] for batch in data.train_dataloader()]
        sum(losses).backward()
        grads = [p.grad.numpy() for p in module.parameters() if p.grad is not None]
        results.append([torch.stack(losses).detach().numpy(), *grads, judged(data, module)])
    for one, other in zip(*results, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("core", ["dream", "lstm", "linear"])
def test_chunks_give_what_the_whole_gives(core: Any) -> None:
    module = module_for(table(True), core=core).double()
    whole, cut = (judged(table(True, chunk=chunk), module) for chunk in (1024, 17))
    assert np.isfinite(whole).all()
    assert cut == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_a_row_without_any_value_scores_0_and_moves_nothing() -> None:
    data = table(True)
    module = module_for(data)
    scores = judged(data, module)
    assert (scores[0][:, ALONE] == 0).all()
    assert (scores[0, 0, 60:250] > 0).any()
    scale, values = RunningScale(1, 2, 100), data.streams[0].values
    for row in values[:250]:
        scale.step(row[None], np.ones(1, dtype=bool))
    before = {name: value.copy() for name, value in scale.arrays().items() if name != "last"}
    scale.step(values[250:251], np.ones(1, dtype=bool))
    assert all((value == before[name]).all() for name, value in scale.arrays().items() if name != "last")


def test_the_layer_is_free_running_where_nothing_is_observed() -> None:
    data = table(True)
    module = module_for(data, measures=["surprise"])
    (batch,) = data.test_dataloader()
    with torch.no_grad():
        module.judge(batch, module.detectors[:1])
    surprise = module.observed[0].surprise[0]
    assert surprise[ALONE].tolist() == [0, 0]
    assert (surprise.numpy()[[k for k in range(ROWS) if k not in ALONE]] > 0).all()


def test_levels_and_differences_by_hand() -> None:
    values = np.array([1.0, 3.0, np.nan, 2.0, 8.0])
    scale, learning = RunningScale(1, 1, 1000), np.ones(1, dtype=bool)
    z = np.stack([scale.step(value.reshape(1, 1), learning)[0] for value in values])
    assert np.isnan(z).tolist() == [[False] * 2, [False] * 2, [True] * 2, [False, True], [False] * 2]
    known, differences = np.array([1.0, 3.0, 2.0]), np.array([0.0, 2.0])  # before the last row
    assert z[4, 0] == pytest.approx((8 - known.mean()) / known.std())
    assert z[4, 1] == pytest.approx((6 - differences.mean()) / differences.std())
    assert scale.level[0, 0] == z[4, 0]


def test_scores_with_gaps_by_hand() -> None:
    """Two columns, of which one is missing: as the other alone; a lone level: its own error."""
    learning, no_gate = np.ones(1, dtype=bool), np.zeros((1, 2))
    both, alone = (AnomalyScore(1, count, 500, np.ones(1, dtype=int)) for count in (2, 1))
    for x in np.random.default_rng(0).normal(size=(200, 1, 2)):
        pair = np.stack([np.full(2, np.nan), x[0]]).T.reshape(1, 4)  # columns, then level and difference
        first = both.step(pair, np.zeros((1, 4)), no_gate, learning)
        second = alone.step(x, np.zeros((1, 2)), no_gate, learning)
        assert (first[0], first[1]) == (second[0], second[1])
    seen = AnomalyScore(1, 1, 500, np.ones(1, dtype=int))
    seen.step(np.array([[3.0, np.nan]]), np.array([[1.0, 5.0]]), no_gate, learning)
    assert seen.burst[0, 0] == pytest.approx(2 / 12)


def test_a_tail_learns_nothing_from_what_was_not_measured() -> None:
    gappy, whole = TailProbability(1, 2, 300), TailProbability(1, 2, 300)
    learning = np.ones(1, dtype=bool)
    for a in np.random.default_rng(0).exponential(size=(200, 1, 2)):
        expected = whole.step(a, learning)
        assert (gappy.step(np.full((1, 2), np.nan), learning) == 0).all()
        assert (gappy.step(a, learning) == expected).all()


def test_the_rivals_leave_out_what_is_missing() -> None:
    gaussian, values = WindowedGaussian(1, 1), np.random.default_rng(0).normal(size=150)
    values[::3] = np.nan
    scores = [gaussian.step(value.reshape(1, 1))[0][0] for value in values]
    known = values[:100][~np.isnan(values[:100])]
    assert gaussian.mean[0, 0] == pytest.approx(known.mean())
    assert gaussian.scale[0, 0] == pytest.approx(known.std())
    assert scores[102] == scores[105] == 0.5  # a deviation of 0
    data = table(True)
    batch = next(iter(data.test_dataloader()))
    (x, levels, _), _ = module_for(data).relative(batch)
    assert (levels[0, 30:33, 0] == x[0, 29, 0]).all()
    inputs = module_for(data, core="lstm").relative(batch)[0].inputs
    assert np.isfinite(inputs).all()
    assert (inputs[0, 30:33, 0] == inputs[0, 29, 0]).all()
    assert inputs[0, 30:34, 2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("core", ["dream", "lstm"])
def test_a_whole_run(core: Any, tmp_path: Path) -> None:
    data = table(True)
    module = module_for(data, core=core)
    assert not isinstance(module.core, DREAMStack) or module.core.missing
    trainer = small_trainer(tmp_path)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert module.figures()
    scores = module.prediction_table(trainer.predict(module, data))
    assert isinstance(scores, pd.DataFrame)
    assert scores["score"].notna().all()
    assert scores["column_1"].isna().sum() == len(GAPS + ALONE)
