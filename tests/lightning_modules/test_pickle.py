"""Fitted modules, their data and row objects can be pickled and copied, and go on as they are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_modules as tasks
from dream import DREAMConfig
from lightning_modules.anomaly import PlantedAnomalies
from lightning_modules.base import TaskModule
from lightning_modules.classification import GaussianClasses
from lightning_modules.data import TaskData
from lightning_modules.forecasting import DriftingLoad
from lightning_modules.forecasting.systems import SystemsData, SystemsModule
from lightning_modules.language import PythonDocs
from lightning_modules.learners import Streams
from lightning_modules.online import DriftingStream
from lightning_modules.speech import ToneWords
from tests.lightning_modules.support import small_trainer

LAYER = DREAMConfig(hidden_dim=8, rank=2)
COPIERS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
TASKS: dict[str, Callable[[], tuple[type[TaskModule], TaskData]]] = {
    "forecasting": lambda: (
        tasks.ForecastingModule,
        DriftingLoad(rows=400, feeders=2, look_back=24, horizon=8, batch_size=16),
    ),
    "anomaly": lambda: (tasks.AnomalyModule, PlantedAnomalies(rows=1400, training=600, anomalies=4)),
    "online": lambda: (tasks.OnlineModule, DriftingStream(length=1200, drifts=2, crops=16)),
    "language": lambda: (tasks.LanguageModule, PythonDocs()),
    "speech": lambda: (tasks.SpeechModule, ToneWords(words=3, voices=4, takes=4)),
    "classification": lambda: (tasks.ClassificationModule, GaussianClasses(episodes=32, test_episodes=16)),
    "systems": lambda: (
        SystemsModule,
        SystemsData(systems=32, validation_systems=8, test_systems=16, steps=40, skip=4),
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_fitted_module(task: str, tmp_path: Path) -> None:
    """Its Trainer stays behind, as with any module of Lightning's; its data come along."""
    kind, data = TASKS[task]()
    module = kind.for_data(data, config=LAYER)
    brief = dict(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer = small_trainer(tmp_path, **brief)
    trainer.fit(module, datamodule=data)
    for copier in COPIERS.values():
        twin = copier(module)
        assert twin._trainer is None
        assert twin.data.trainer is None
        assert data.trainer is trainer
        for name, value in module.state_dict().items():
            assert torch.equal(twin.state_dict()[name], value), name
        small_trainer(tmp_path, **brief).fit(twin, datamodule=twin.data)
        assert any(
            not torch.equal(value, module.state_dict()[name]) for name, value in twin.state_dict().items()
        )


def row_objects() -> dict[str, tuple[Any, Callable[[Any, int], Any]]]:
    """Each with what it does with row k, and returns."""
    forecaster = tasks.DREAMForecaster(LAYER)
    streamed = tasks.DREAMForecaster(LAYER).learn_one(0.0)
    return {
        "forecaster": (forecaster, lambda one, k: one.learn_one(float(k % 7), {"a": k % 3}).forecast()),
        "classifier": (
            tasks.DREAMClassifier(LAYER),
            lambda one, k: one.learn_one({"a": k % 3}, "pq"[k % 2]).predict_proba_one({"a": 1.0}),
        ),
        "regressor": (
            tasks.DREAMRegressor(LAYER),
            lambda one, k: one.learn_one({"a": k % 3}, 0.5 * k).predict_one({"a": 1.0}),
        ),
        "detector": (
            tasks.DREAMAnomalyDetector(LAYER),
            lambda one, k: one.learn_one({"a": k % 3}).score_one({"a": 9.0}),
        ),
        "streams": (Streams(streamed), lambda one, k: one.learn_streams({"s": float(k % 7), "t": 1.0})),
    }


@pytest.mark.parametrize("name", ["forecaster", "classifier", "regressor", "detector", "streams"])
@pytest.mark.parametrize("copier", COPIERS)
def test_a_row_object(name: str, copier: str) -> None:
    one, step = row_objects()[name]
    for k in range(40):
        step(one, k)
    twin = COPIERS[copier](one)
    for k in range(40, 50):
        assert repr(step(twin, k)) == repr(step(one, k))
