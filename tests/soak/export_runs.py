"""Exported steps of runs forecast and score as the runs do, over 10,000 rows in which they learn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dream import DREAMConfig, export
from lightning_modules import AnomalyModule, ForecastingModule, OnlineModule
from lightning_modules.anomaly.data import AnomalyBatch, AnomalyShape
from lightning_modules.anomaly.exported import ScoreStep
from lightning_modules.data.place import Place, StreamEnd
from lightning_modules.data.schema import Schema
from lightning_modules.forecasting.exported import WindowStep
from lightning_modules.forecasting.source import ForecastingShape
from lightning_modules.online.data import OnlineShape
from lightning_modules.online.exported import ForecastStep
from lightning_modules.stream import Reading, Updates
from tests.soak.export import CLOSE, SAMPLES, Call, about_onnx, about_torch, start

ROWS = {"onnx": 10_000, "torch": 1_000}
TRAINING = 100  # rows of streams in which anomalies are found
BEFORE = 700  # rows that the streams have read
CONFIG = DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0.2)
COLUMNS = ("a", "b", "c")
SCALES = {"a": (3.0, 2.0), "b": (-40.0, 10.0), "c": (0.0, 1.0)}
MEAN, SCALE = torch.tensor(list(SCALES.values()), dtype=torch.float64).T


class Case(NamedTuple):
    """A step, what it reads, and what its run computes from that."""

    step: export.Step
    x: Tensor
    """(N, T, ...)"""
    expected: dict[str, Tensor]
    """(N, T, ...), by the names of results"""


def series(rows: int, gaps: bool = False) -> Tensor:
    """(7, T, 3), seasons of 24 rows, noise and, if asked for, missing values, in measurement units."""
    generator = torch.Generator().manual_seed(rows)
    places = torch.arange(rows).view(1, -1, 1) + torch.arange(7).view(-1, 1, 1)
    values = torch.sin(2 * torch.pi / 24 * places / torch.tensor([1.0, 2.0, 3.0]))
    values = values.double() + 0.1 * torch.randn(7, rows, 3, generator=generator, dtype=torch.float64)
    if gaps:
        values[torch.rand(7, rows, 3, generator=generator) < 0.05] = torch.nan
    return values * SCALE + MEAN


def online(rows: int, reading: Reading, updates: Updates, gaps: bool = False) -> Case:
    """An online run that goes on from where a stream ended, its head at rest."""
    torch.manual_seed(0)
    shape = OnlineShape("forecasting", 3, 2, horizon=5, season=24)
    module = OnlineModule(CONFIG, shape, reading=reading, updates=updates)
    module.schema = Schema(columns={"targets": ("a", "b"), "covariates": ("c",)}, scales=SCALES)
    x = series(BEFORE + rows, gaps)
    standard = (x - MEAN) / SCALE
    learner = module.make_learner(module.modes[0])
    learner.process(standard[0, :BEFORE])
    assert learner.trust is None or float(learner.trust.factor().max()) > 0
    end = StreamEnd(Place(BEFORE), learner.tensors())
    expected = []
    for stream in standard[:, BEFORE:]:
        learner.load(end.tensors)
        learner.learning = False
        expected.append(learner.process(stream).predictions * SCALE[:2] + MEAN[:2])
    return Case(ForecastStep(module, end), x[:, BEFORE:], {"forecast": torch.stack(expected)})


def anomaly(rows: int, columns: int, lags: int, gaps: bool = False) -> Case:
    """An anomaly run whose streams begin, all measures in use, two layers."""
    torch.manual_seed(0)
    measures = ["error", "burst", "level", "drift", "deviation", "surprise"]
    module = AnomalyModule(
        CONFIG,
        AnomalyShape(columns, lags),
        measures=measures,
        hidden_dims=[8, 6],
        memory=100,
        tail_memory=200,
    ).eval()
    module.schema = Schema(columns={"columns": COLUMNS[:columns]})
    module.core.missing = gaps
    x = series(rows, gaps)[..., :columns]
    x[:, rows // 2] += 5 * SCALE[:columns]
    none, every = torch.zeros(7, dtype=torch.int64), torch.ones(7, rows, dtype=torch.bool)
    batch = AnomalyBatch(x, none + rows, every, none + TRAINING, 0, none, none == 0)
    with torch.no_grad():
        found = torch.from_numpy(module.judge(batch, module.detectors[:1])[0][:, 0])
    score, alarm = found
    module.thresholds, module.training_rows = {"pump": 0.2}, {"pump": TRAINING}
    flag = score > 0.2
    assert float(score.max()) > 0.5
    assert 0 < int((flag & (alarm > 0)).sum()) < int(flag.sum())
    expected = {
        "score": score,
        "threshold": torch.full_like(score, 0.2),
        "flag": flag,
        "alarm": flag & (alarm > 0),
    }
    return Case(ScoreStep(module, None), x, expected)


def windows(rows: int, quantiles: list[float] | None) -> Case:
    """A forecaster of windows of 24 rows."""
    torch.manual_seed(0)
    module = ForecastingModule(
        CONFIG,
        ForecastingShape(2, 1, look_back=24, horizon=6),
        quantiles=quantiles,
        loss="mae" if quantiles else "mse",
        channel_independent=not quantiles,
    ).eval()
    module.schema = Schema(columns={"targets": ("a", "b"), "covariates": ("c",)}, scales=SCALES)
    x = series(23 + min(rows, 100)).unfold(1, 24, 1).mT
    with torch.no_grad():
        found = module(((x - MEAN) / SCALE).float().flatten(0, 1))
    expected = {"forecast": found.future * SCALE[:2] + MEAN[:2]}
    if quantiles:
        expected["quantiles"] = found.quantiles * SCALE[:2, None] + MEAN[:2, None]
    return Case(WindowStep(module), x, {name: e.unflatten(0, x.shape[:2]) for name, e in expected.items()})


RUNS: dict[str, Callable[[int], Case]] = {
    "least squares": lambda rows: online(
        rows, Reading("running", 0.01, lags=8), Updates("least_squares", every=8, forgetting=0.999)
    ),
    "channels, profile, record, gaps": lambda rows: online(
        rows,
        Reading("differences", 0.002, channel_independent=True, lags=[1, 3], means=[24], profile_rate=0.1),
        Updates("least_squares", every=24, forgetting=0.9999, ridge=1e-3, trust=0.9999),
        gaps=True,
    ),
    "anomalies, gaps": lambda rows: anomaly(rows, 3, 1, gaps=True),
    "anomalies, lags": lambda rows: anomaly(rows, 1, 4),
    "windows": lambda rows: windows(rows, None),
    "quantiles": lambda rows: windows(rows, [0.1, 0.5, 0.9]),
}


def differences(case: Case, state: dict[str, Tensor], call: Call, samples: int) -> Tensor:
    """Largest difference (T,) from what the run computes, in units of the columns' deviations."""
    worst = torch.zeros(case.x.shape[1], dtype=torch.float64)
    with torch.no_grad():
        for t in range(case.x.shape[1]):
            results, state = call(case.x[:samples, t].contiguous(), state)
            for name, values in case.expected.items():
                apart = (results[name].double() - values[:samples, t].double()).abs()
                unit = {"forecast": SCALE[:2], "quantiles": SCALE[:2, None]}.get(name, 1.0)
                worst[t] = torch.maximum(worst[t], (apart / unit).max())
    return worst


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Compare both kinds of file of every run with what the run computes, at each number of samples."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, write, open_file in (
            ("onnx", export.to_onnx, about_onnx),
            ("torch", export.to_torch, about_torch),
        ):
            for name, make in RUNS.items():
                case = make(ROWS[kind])
                path = Path(folder, f"step.{kind}")
                write(case.step, path)
                about, call = open_file(path)
                for samples in SAMPLES:
                    apart = differences(case, start(about, samples), call, samples)
                    found = float(apart.max())
                    print(f"{name}, {kind}, {samples} samples: {found}")  # noqa: T201
                    assert found < CLOSE, found
                    figures[f"{name}, {kind}, {samples} samples"] = found
    return figures
