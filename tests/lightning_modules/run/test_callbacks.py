"""Callbacks in small, real runs: monitor, advisor, progress and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest

from dream import ConfigError, DREAMConfig
from dream.tuning import SYMPTOMS
from lightning_modules import waiting
from lightning_modules.run.advisor import LoggedStep, TuningAdvisor, symptoms
from lightning_modules.run.figures import SaveFigures
from lightning_modules.run.monitor import DREAMMonitor
from lightning_modules.run.progress import PlainProgress
from lightning_modules.run.tracking import JSONLLogger
from tests.lightning_modules.support import small_data, small_module, small_trainer

NAMES = {"surprise", "surprised", "u_norm", "threshold", "plasticity", "tonic"}


class Spy(L.Callback):
    """Callback that keeps the observations of the last training batch, before validation replaces them."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self.observed = pl_module.observed


class TestMonitor:
    def test_every_layer_is_logged_with_the_values_of_the_last_batch(self, tmp_path: Path) -> None:
        data = small_data()
        module = small_module(data, hidden_dims=[8, 6])
        logger = JSONLLogger(tmp_path)
        spy = Spy()
        trainer = small_trainer(tmp_path, logger=logger, callbacks=[DREAMMonitor(), spy])
        trainer.fit(module, datamodule=data)
        rows = [json.loads(line) for line in logger.path.read_text().splitlines()]
        last = [row for row in rows if "dream/layer_0/surprise" in row][-1]
        for k in range(2):
            assert {name for name in NAMES if f"dream/layer_{k}/{name}" in last} == NAMES
        seen = spy.observed[0]
        assert last["dream/layer_0/surprise"] == pytest.approx(float(seen.surprise.mean()))
        assert last["dream/layer_0/surprised"] == pytest.approx(float((seen.surprise > 0.5).float().mean()))
        assert last["dream/layer_0/u_norm"] == pytest.approx(float(seen.u_norm[:, -1].mean()))
        assert last["dream/layer_0/threshold"] == pytest.approx(float(seen.threshold.mean()))
        assert last["dream/layer_0/plasticity"] == pytest.approx(0.1, rel=0.2)
        assert "train/loss" in last

    def test_a_layer_without_fast_weights_has_no_plasticity_to_log(self, tmp_path: Path) -> None:
        data = small_data()
        logger = JSONLLogger(tmp_path)
        module = small_module(data, config=DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0))
        trainer = small_trainer(tmp_path, logger=logger, callbacks=[DREAMMonitor()], max_steps=2)
        trainer.fit(module, datamodule=data)
        text = logger.path.read_text()
        assert "dream/layer_0/surprise" in text
        assert "dream/layer_0/plasticity" not in text

    def test_the_progress_bar_shows_loss_surprise_and_norm(self, tmp_path: Path) -> None:
        data = small_data()
        trainer = small_trainer(tmp_path, callbacks=[DREAMMonitor()], max_steps=3)
        trainer.fit(small_module(data), datamodule=data)
        assert {"train/loss", "surprise", "u_norm"} <= trainer.progress_bar_metrics.keys()


def series(
    loss: list[float], surprise: list[float] | float = 0.3, u_norm: list[float] | float = 1.0
) -> list[LoggedStep]:
    surprises = surprise if isinstance(surprise, list) else [surprise] * len(loss)
    norms = u_norm if isinstance(u_norm, list) else [u_norm] * len(loss)
    return [LoggedStep(*values, 2.0) for values in zip(loss, surprises, norms, strict=True)]


FALLING = [math.exp(-k / 10) for k in range(20)]
CASES = {
    "Loss not decreasing": series([1.0 + 0.001 * k for k in range(20)]),
    "Too much oscillation": series([(1.5 if k % 2 else 0.5) * 0.97**k for k in range(20)]),
    "Forgets too quickly": series(FALLING, surprise=0.05, u_norm=[2.0 * 0.9**k for k in range(20)]),
    "Doesn't adapt": series(FALLING, surprise=0.8, u_norm=0.05),
    "Unstable training": series([*FALLING[:-1], 10.0]),
}


class TestAdvisor:
    @pytest.mark.parametrize("symptom", CASES)
    def test_each_symptom_is_recognised_and_no_other(self, symptom: str) -> None:
        expected = [symptom]
        assert symptoms(CASES[symptom], 20, start=1.0) == expected

    def test_the_cases_cover_the_guide(self) -> None:
        assert CASES.keys() == SYMPTOMS.keys()

    def test_a_healthy_run_shows_none(self) -> None:
        assert symptoms(series(FALLING), 20, start=1.0) == []

    def test_a_converged_run_is_not_stalled(self) -> None:
        assert symptoms(CASES["Loss not decreasing"], 20, start=2.0) == []

    def test_the_noise_of_a_loss_near_zero_is_neither_oscillation_nor_instability(self) -> None:
        random = np.random.default_rng(0)
        noise = (0.08 * random.uniform(0.2, 1.0, 2000)).tolist()
        noise[::50] = [0.28] * 40  # a hard batch now and then
        assert not any(symptoms(series(noise[k : k + 50]), 50, start=1.0) for k in range(1950))
        assert symptoms(series([*noise[:49], 0.35]), 50, start=1.0) == ["Unstable training"]

    def test_fast_weights_that_are_off_need_not_adapt(self) -> None:
        off = [sample._replace(u_norm=0.0, target_norm=0.0) for sample in CASES["Doesn't adapt"]]
        assert symptoms(off, 20, start=1.0) == []

    def test_nothing_is_said_before_the_window_is_full(self) -> None:
        assert symptoms(CASES["Loss not decreasing"][:19], 20, start=1.0) == []

    def test_a_loss_that_is_not_finite_is_unstable_at_once(self) -> None:
        assert symptoms(series([math.nan]), 20, start=1.0) == ["Unstable training"]

    def test_a_window_too_short_to_judge_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="`window` must be at least 4 logging steps; got 3"):
            TuningAdvisor(window=3)

    def test_a_run_gets_the_guides_advice_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = small_data()
        advisor = TuningAdvisor(window=4)
        trainer = small_trainer(tmp_path, callbacks=[advisor], max_epochs=3)
        trainer.fit(small_module(data, lr=1e-12), datamodule=data)
        advice = [
            record.getMessage() for record in caplog.records if "Loss not decreasing" in record.getMessage()
        ]
        assert len(advice) == 1
        assert advice[0].endswith("Loss not decreasing. Try: increase `base_plasticity`.")
        step, adjustment = advisor.reported["Loss not decreasing"]
        assert adjustment == "increase `base_plasticity`"
        assert advice[0].startswith(f"step {step}: ")
        written = json.loads((tmp_path / "remarks.json").read_text())
        assert written["window"] == 4
        assert [remark["symptom"] for remark in written["remarks"]] == list(advisor.reported)
        assert {"step": step, "symptom": "Loss not decreasing", "adjustment": adjustment} in written[
            "remarks"
        ]


def test_figures_are_files(tmp_path: Path) -> None:
    data = small_data()
    callback = SaveFigures(dpi=40)
    small_trainer(tmp_path, callbacks=[callback]).test(small_module(data), datamodule=data, verbose=False)
    assert {path.name for path in callback.paths} == {"forecasts.png", "adaptation.png"}
    assert all(
        path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in callback.paths
    )


def test_plain_progress_is_one_line_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_data()
    small_trainer(tmp_path, callbacks=[PlainProgress()], max_epochs=2).fit(
        small_module(data), datamodule=data
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("train/loss" in line and "val/mse" in line for line in lines)
    assert lines[-1].endswith("at most 0 s left")


def test_plain_progress_says_how_far_what_takes_long_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "QUIET", 0.0)
    data, module = small_data(), small_module(small_data())
    trainer = small_trainer(tmp_path, callbacks=[PlainProgress()], max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data)
    lines = capsys.readouterr().err.splitlines()
    loaders = {
        "epoch 1/1": data.train_dataloader(),
        "validation": data.val_dataloader(),
        "test": data.test_dataloader(),
        "prediction": data.predict_dataloader(),
    }
    for stage, loader in loaders.items():
        batches = len(loader)
        said = [
            line.split("  ")[0] for line in lines if line.startswith(f"{stage} ") and "train/loss" not in line
        ]
        assert said == [f"{stage} {k / batches:.0%}" for k in range(1, batches)], stage
    assert sum("train/loss" in line for line in lines) == 1
    assert all(line.endswith("s left") for line in lines)


@pytest.mark.parametrize("options", [{"max_epochs": 0}, {"max_steps": 0}, {"limit_train_batches": 0}])
def test_a_fit_that_trains_nothing_is_an_error(options: dict[str, int], tmp_path: Path) -> None:
    data = small_data()
    with pytest.raises(ConfigError, match="the fit trained no step"):
        small_trainer(tmp_path, **options).fit(small_module(data), datamodule=data)
