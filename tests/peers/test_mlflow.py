"""A run tracked by MLflow in its own environment, ``make peers-mlflow``."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest

from lightning_modules import ForecastingModule
from lightning_modules.forecasting import DriftingLoad

pytest.importorskip("mlflow", reason="mlflow is not installed; `make peers-mlflow` runs this")


def test_a_plain_trainer_logs_what_it_measures(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import MLFlowLogger

    data = DriftingLoad(feeders=2, rows=300, look_back=24, horizon=4, season=24)
    module = ForecastingModule.for_data(data)
    logger = MLFlowLogger("dream", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    trainer = L.Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_train_batches=2,
        logger=logger,
        log_every_n_steps=1,
        max_epochs=1,
    )
    trainer.fit(module, datamodule=data)
    run = logger.experiment.get_run(logger.run_id)
    assert "val/mase" in run.data.metrics
    for name, value in trainer.callback_metrics.items():
        assert run.data.metrics[name] == pytest.approx(float(value)), name
