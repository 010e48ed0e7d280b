"""`AnomalyModule`: causal, chunked as whole, streams apart, labels unseen; and a whole fit, test and
prediction."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from dream import DREAMConfig
from dream.errors import ConfigError
from lightning_modules import AnomalyModule
from lightning_modules.anomaly import AnomalyData, AnomalyShape, AnomalyStream, PlantedAnomalies
from tests.lightning_modules.support import small_data, small_trainer

CONFIG = DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0.2, base_threshold=0.3)


class Streams(AnomalyData):
    """Two streams of two columns, 240 and 300 rows, or those that are given."""

    def __init__(self, streams: list[AnomalyStream] | None = None, **options: Any) -> None:
        super().__init__(**options)
        random = np.random.default_rng(0)
        self.given = streams or [
            AnomalyStream(
                f"of {rows}",
                random.normal(size=(rows, 2)).cumsum(0),
                ("a", "b"),
                120,
                np.arange(rows) % 90 == 50,
            )
            for rows in (240, 300)
        ]

    def read(self) -> list[AnomalyStream]:
        return self.given


def module(**options: Any) -> AnomalyModule:
    torch.manual_seed(1)
    return AnomalyModule(CONFIG, AnomalyShape(2), **options)


@torch.no_grad()
def judged(data: AnomalyData, model: AnomalyModule) -> np.ndarray:
    """Scores and alarms (2, D, N, T) of all detectors; 0 after the end of a stream."""
    batches = [
        (model.eval().judge(batch, model.detectors)[0], batch.counted) for batch in data.test_dataloader()
    ]
    return np.concatenate([scores * counted.numpy() for scores, counted in batches], -1)


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("core", ["dream", "gru", "linear"])
def test_the_future_changes_nothing(core: Any, adapt: bool) -> None:
    whole = Streams().streams
    changed = [replace(stream, values=stream.values.copy()) for stream in whole]
    for stream in changed:
        stream.values[201:] = np.random.default_rng(9).normal(size=stream.values[201:].shape) * 50
    model = module(core=core, adapt=adapt)
    before, after = judged(Streams(whole), model), judged(Streams(changed), model)
    assert (before[..., :201] == after[..., :201]).all()
    assert (before[0, :, :, 201:] != after[0, :, :, 201:]).mean() > 0.4


@pytest.mark.parametrize(("chunk", "adapt"), [(1, True), (37, False), (120, True)])
def test_chunks_and_single_rows_give_what_the_whole_gives(chunk: int, adapt: bool) -> None:
    model = module(adapt=adapt).double()
    assert judged(Streams(chunk=chunk), model) == pytest.approx(judged(Streams(), model), rel=1e-9, abs=1e-9)


def test_streams_do_not_see_each_other() -> None:
    model, both = module().double(), Streams().streams
    together, alone = judged(Streams(both), model), judged(Streams(both[:1]), model)
    assert together[:, :, 0, :240] == pytest.approx(alone[:, :, 0], rel=1e-9, abs=1e-9)


def test_the_unit_of_the_data_does_not_matter() -> None:
    model, streams = module().double(), Streams().streams
    other = [replace(stream, values=stream.values * [1e3, 1e-3] + 5) for stream in streams]
    assert judged(Streams(other), model) == pytest.approx(judged(Streams(streams), model), rel=1e-5, abs=1e-5)


def test_plasticity_off_is_the_layer_without_it() -> None:
    model = module()
    on, off, last = judged(Streams(), model)[0]
    with model.core.plasticity(False):
        assert (judged(Streams(), model)[0, 0] == off).all()
    assert (on != off).any()
    assert (last != off).any()
    assert model.detectors == ["DREAM", "DREAM, plasticity off", "repeat-last"]
    assert module(core="lstm").detectors == ["LSTM", "repeat-last"]


def test_what_lasts_becomes_usual_only_where_it_adapts() -> None:
    values = np.random.default_rng(2).normal(size=(1500, 2))
    values[600:] += 4
    data = Streams([AnomalyStream("shifted", values, ("a", "b"), 500)])
    adapted, held = (
        judged(data, module(adapt=adapt, memory=200, tail_memory=400))[0, 0, 0] for adapt in (True, False)
    )
    assert min(adapted[600:620].max(), held[600:620].max()) > 0.3
    assert held[1300:].mean() > 2 * adapted[1300:].mean()


def test_labels_are_never_seen(tmp_path: Path) -> None:
    streams = Streams().streams
    swapped = [replace(stream, label=~stream.label) for stream in streams]  # type: ignore[operator]
    trained = []
    for given in (streams, swapped):
        model, data = module(), Streams(given)
        small_trainer(tmp_path).fit(model, datamodule=data)
        trained.append(judged(data, model))
    assert (trained[0] == trained[1]).all()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnomalyModule, PlantedAnomalies, Path]:
    """A short fit on a small plant, tested."""
    folder = tmp_path_factory.mktemp("anomaly")
    data = PlantedAnomalies(sensors=2, rows=1500, anomalies=5, training=500)
    model = module(gap=0.05)
    trainer = small_trainer(folder, max_epochs=3)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    return model, data, folder


def test_training_lowers_the_loss_of_prediction(fitted: tuple[AnomalyModule, PlantedAnomalies, Path]) -> None:
    model, data, _ = fitted
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        assert model.eval().losses(batch)["loss"] < module().eval().losses(batch)["loss"]


def test_the_table(fitted: tuple[AnomalyModule, PlantedAnomalies, Path]) -> None:
    model = fitted[0]
    assert list(model.results) == ["DREAM", "DREAM, plasticity off", "repeat-last", "windowed Gaussian"]
    names = ["roc_auc", "ap", "f1", "far", "mar", "vus_pr", "event_precision", "event_recall", "event_f1"]
    assert all(list(row) == names for row in model.results.values())
    assert model.results["DREAM"]["roc_auc"] > 0.6
    assert model.higher_is_better >= set(names) - {"far", "mar"}


def test_flags_and_alarms_follow_the_threshold_of_the_training_part(
    fitted: tuple[AnomalyModule, PlantedAnomalies, Path],
) -> None:
    (verdict,) = fitted[0].verdicts["DREAM"]
    assert not verdict.flag[:500].any()
    assert (verdict.flag[500:] == (verdict.score[500:] > verdict.threshold)).all()
    assert (verdict.raised == (verdict.flag & (verdict.alarm > 0))).all()
    assert np.mean(verdict.score[50:500] > verdict.threshold) < 0.01
    assert 0 <= verdict.score.min() <= verdict.score.max() <= 1


def test_the_figure_shows_data_score_surprise_and_norm(
    fitted: tuple[AnomalyModule, PlantedAnomalies, Path],
) -> None:
    (figure,) = fitted[0].figures().values()
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["sensor_1", "sensor_2", "score", "surprise", "|U|"]
    assert module().figures() == {}


def test_predictions_are_a_row_for_each_row(fitted: tuple[AnomalyModule, PlantedAnomalies, Path]) -> None:
    model, data, folder = fitted
    predictions = small_trainer(folder).predict(model, datamodule=data)
    (path,) = model.write_predictions(predictions, folder)  # type: ignore[arg-type]
    table = pd.read_csv(path)
    columns = ["stream", "time", "sensor_1", "sensor_2", "score", "threshold", "flag", "alarm"]
    assert (path.name, list(table), len(table)) == ("scores.csv", columns, 1500)
    (verdict,) = model.verdicts["DREAM"]
    assert table["score"].to_numpy() == pytest.approx(verdict.score)
    assert (table["alarm"] == verdict.raised).all()


def test_streams_without_labels_get_the_share_flagged(tmp_path: Path) -> None:
    data = Streams([replace(stream, label=None) for stream in Streams().streams])
    model = module(threshold="quantile", risk=0.05)
    small_trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert {tuple(row) for row in model.results.values()} == {("flagged",)}
    for stream, verdict in zip(data.streams, model.verdicts["DREAM"], strict=True):
        assert np.mean(verdict.score[50 : stream.training] > verdict.threshold) == pytest.approx(
            0.05, abs=0.02
        )


def test_labels_of_one_kind_are_no_reason_to_lose_a_run(tmp_path: Path) -> None:
    data = Streams(
        [replace(stream, label=np.arange(len(stream.values)) == 5) for stream in Streams().streams]
    )
    model = module()
    small_trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert {tuple(row) for row in model.results.values()} == {tuple(model.unranked)} == {("flagged",)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 10}, "`memory` must be at least 50 rows; got 10"),
        ({"tail_memory": 10}, "`tail_memory` must be at least 50 rows"),
        ({"gap": -1}, "`gap` must be a share of the training part"),
        ({"measures": ["error", "speed"]}, "`measures` must be one or more of error, burst, level, drift"),
        ({"measures": []}, "`measures` must be"),
        ({"threshold": "best"}, "`threshold` must be tail or quantile; got 'best'"),
        ({"risk": 0}, "`risk` must be a share"),
        ({"buffer": -1}, "`buffer` must be at least 0 rows"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnomalyModule(CONFIG, **options)


def test_other_data_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`data` must be an AnomalyData; got DriftingLoad\. Try AnomalyTable"
    ):
        module().prepare(small_data())


def test_half_a_test_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, limit_test_batches=1)
    with pytest.raises(
        ConfigError, match=r"`trainer.limit_test_batches` must be 1.0, or 0 for none.*got 1\."
    ):
        trainer.fit(module(), datamodule=Streams())
    assert trainer.global_step == 0


def test_training_goes_on_in_the_middle_of_the_streams() -> None:
    batches = list(Streams(train_chunk=40).train_dataloader())
    first = module().train()
    for batch in batches[:2]:
        first.losses(batch)
    checkpoint = {"state_dict": copy.deepcopy(first.state_dict())}
    first.on_save_checkpoint(checkpoint)
    second = module().train()
    second.load_state_dict(checkpoint["state_dict"])
    second._trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))  # type: ignore[assignment]
    second.on_load_checkpoint(checkpoint)
    assert second.losses(batches[2])["loss"] == first.losses(batches[2])["loss"]


@pytest.mark.parametrize("rule", ["tail", "quantile"])
def test_a_checkpoint_has_the_thresholds_of_the_test(rule: Any, tmp_path: Path) -> None:
    data, model = Streams(chunk=50), module(threshold=rule)
    trainer = small_trainer(tmp_path)
    trainer.fit(model, data)
    found = dict(model.thresholds)
    trainer.test(model, data, verbose=False)
    verdicts = zip(data.streams, model.verdicts["DREAM"], strict=True)
    assert found == {stream.name: verdict.threshold for stream, verdict in verdicts}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert AnomalyModule.load_from_checkpoint(tmp_path / "a.ckpt").thresholds == found


def test_a_validation_of_some_rows_leaves_the_thresholds_alone(tmp_path: Path) -> None:
    model = module()
    model.thresholds = {"of 240": 0.5}
    small_trainer(tmp_path, limit_val_batches=1).fit(model, Streams(chunk=50))
    assert model.thresholds == {"of 240": 0.5}
