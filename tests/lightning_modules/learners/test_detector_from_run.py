"""A detector that goes on with a run: scores of `dream predict --learn`, and all that row objects do."""

from __future__ import annotations

import json
import pickle
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from dream.errors import CheckpointError, ConfigError, DREAMError, DREAMWarning
from dream.sealed import read_sealed, write_sealed
from experiments.cli import main
from experiments.serve.service import Service
from lightning_modules import AnomalyModule
from lightning_modules.anomaly import AnomalyData, AnomalyStream, AnomalyTable
from lightning_modules.anomaly.watcher import Watcher
from lightning_modules.learners import DREAMAnomalyDetector, Streams
from lightning_modules.learners.detector import Judgement
from lightning_modules.learners.outcome import learn, predict
from tests.lightning_modules.support import small_trainer

SMALL = DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0.2, base_threshold=0.3)
ROWS, NEW, TRAINING = 330, 60, 120
VALUES = np.random.default_rng(5).normal(size=(ROWS, 2)).cumsum(0)
VALUES[300] += 30
TABLE = pd.DataFrame(VALUES, columns=["a", "b"]).assign(
    time=pd.date_range("2024-01-01", periods=ROWS, freq="h")
)
TOMORROW = TABLE.tail(NEW).drop(columns="time").to_dict("records")
"""The rows after those of the runs."""
QUICK = [
    *("--model.config.hidden_dim=8", "--model.config.rank=2", "--trainer.max_epochs=1"),
    *("--trainer.accelerator=cpu", "--run.wandb=disabled", "--data.path=table.csv"),
    *(f"--data.training={TRAINING}", "--trainer.log_every_n_steps=1"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run on all rows but the last."""
    home = tmp_path_factory.mktemp("detector")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("sys.argv", ["dream"])
        TABLE.head(ROWS - NEW).to_csv("table.csv", index=False)
        assert main(["fit", "-c", "anomaly_csv", *QUICK, "--run.name=pumps"]) == 0
    return home / "runs" / "pumps"


def scored(model: DREAMAnomalyDetector, rows: list[dict[str, Any]] = TOMORROW) -> list[Judgement]:
    """Judgements of rows, each of which is learnt."""
    found = []
    for row in rows:
        found.append(model.judge_one(row))
        model.learn_one(row)
    return found


def test_a_run_is_served_by_its_folder_or_as_the_newest(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(run.parent.parent)
    Path("rows.jsonl").write_text("".join(json.dumps({"key": 1, "x": row}) + "\n" for row in TOMORROW))
    for flags in ([str(run), "--state=end"], ["latest", "--state=end", "--states=others"]):
        with Path("rows.jsonl").open() as rows:
            monkeypatch.setattr("sys.stdin", rows)
            assert main(["serve", *flags]) == 0
        answers = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
        wanted = scored(DREAMAnomalyDetector.from_run(run))
        assert [(one["score"], one["flag"], one["alarm"]) for one in answers] == [
            (one.score, one.flag, one.raised) for one in wanted
        ]
        assert answers[-1]["seq"] == NEW


def trained(data: AnomalyData, folder: Path, **settings: Any) -> AnomalyModule:
    torch.manual_seed(0)
    module = AnomalyModule.for_data(data, config=SMALL, **settings)
    trainer = small_trainer(folder)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    return module


def test_tomorrows_rows_get_the_scores_of_predict_and_learn_and_the_newest_state_wins(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "pumps")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    TABLE.head(ROWS - 20).to_csv("longer.csv", index=False)
    command = ["predict", "--ckpt_path=latest", "--data.path=longer.csv", "--learn", "--output=new.csv"]
    model = DREAMAnomalyDetector.from_run("latest")
    assert main(command) == 0
    first = pd.read_csv("new.csv")
    later = DREAMAnomalyDetector.from_run("latest"), DREAMAnomalyDetector.from_run("runs/pumps")
    TABLE.to_csv("longer.csv", index=False)
    assert main(command) == 0
    second = pd.read_csv("new.csv")
    wanted = pd.concat([first, second], ignore_index=True)
    for other in later:
        assert [one.score for one in scored(other, TOMORROW[-20:])] == pytest.approx(
            second["score"].tolist(), rel=1e-4
        )
    found = scored(model)
    assert [one.score for one in found] == pytest.approx(wanted["score"].tolist(), rel=1e-4)
    assert [one.flag for one in found] == wanted["flag"].astype(bool).tolist()
    assert [one.raised for one in found] == wanted["alarm"].astype(bool).tolist()
    assert model.threshold == pytest.approx(wanted["threshold"][0])
    assert found[30].raised  # row 300
    assert sum(one.flag for one in found) < NEW / 2
    assert model.columns == ["a", "b"]
    assert Service(Streams(model), None, 100).threshold == model.threshold


def test_a_new_stream_gets_the_scores_of_predict(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    monkeypatch.setattr("sys.argv", ["dream"])
    assert main(["predict", f"--ckpt_path={run}", "--data.path=table.csv", "--output=plain.csv"]) == 0
    wanted = pd.read_csv("plain.csv")
    model = DREAMAnomalyDetector.from_run(run, state="fresh")
    found = scored(model, TABLE.head(ROWS - NEW).drop(columns="time").to_dict("records"))
    assert [one.score for one in found] == pytest.approx(wanted["score"].tolist(), rel=1e-3, abs=1e-4)
    assert model.threshold == pytest.approx(wanted["threshold"][0], rel=1e-3)


@pytest.mark.parametrize("settings", [{}, {"adapt": False}, {"lags": 3, "hidden_dims": [6, 5]}], ids=str)
def test_rows_and_tables_give_what_the_module_gives(settings: dict[str, Any], tmp_path: Path) -> None:
    """In float64, so that what differs is more than rounding; a row and more are missing."""
    values = VALUES[:, :1].copy()
    values[[7, 90, 91, 280]] = np.nan
    lags = settings.get("lags", 1)
    settings = {name: value for name, value in settings.items() if name != "lags"}
    parts = [
        AnomalyTable.of(values[:count], training=TRAINING, missing="model", lags=lags)
        for count in (ROWS - NEW, ROWS)
    ]
    module = trained(parts[0], tmp_path, **settings).double().eval()
    with torch.no_grad():
        for batch in parts[0].test_dataloader():
            module.judge(batch, module.detectors)
    module.ends = module._ended(module.verdicts[module.title])
    rows, table, fresh = (DREAMAnomalyDetector.from_run(module, s) for s in ("end", "end", "fresh"))
    with torch.no_grad():
        (wanted,) = [
            module.judge(batch, module.detectors[:1])[0][0, 0, 0] for batch in parts[1].test_dataloader()
        ]
    given = [{rows.columns[0]: value} for value in values[ROWS - NEW :, 0]]
    assert [one.score for one in scored(rows, given)] == pytest.approx(wanted[ROWS - NEW :], abs=1e-8)
    table.learn_many(given[:40])
    assert [one.score for one in scored(table, given[40:])] == pytest.approx(wanted[-20:], abs=1e-8)
    fresh.learn_many([{rows.columns[0]: value} for value in values[:200, 0]])
    given = [{rows.columns[0]: value} for value in values[200:, 0]]
    assert [one.score for one in scored(fresh, given)] == pytest.approx(wanted[200:], abs=1e-8)


def test_what_is_missing_is_filled_as_the_data_of_the_run_were(tmp_path: Path) -> None:
    data = AnomalyTable.of(VALUES[: ROWS - NEW], training=TRAINING, missing="ffill")
    module = trained(data, tmp_path)
    one, other, table = (DREAMAnomalyDetector.from_run(module) for _ in range(3))
    first, second = one.columns
    gappy = [{first: row["a"] if k % 5 else None, second: row["b"]} for k, row in enumerate(TOMORROW)]
    filled, last = [], VALUES[ROWS - NEW - 1, 0]
    for row in gappy:
        last = last if row[first] is None else row[first]
        filled.append({first: last, second: row[second]})
    wanted = scored(other, filled)
    assert scored(one, gappy) == wanted
    table.learn_many(gappy[:-1])
    assert table.judge_one(gappy[-1]).score == pytest.approx(wanted[-1].score, abs=1e-5)


def test_a_copy_a_pickle_and_a_file_go_on_exactly(run: Path, tmp_path: Path) -> None:
    model = DREAMAnomalyDetector.from_run(run)
    scored(model, TOMORROW[:20])
    model.save(tmp_path / "pump.dream")
    others = (
        deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        DREAMAnomalyDetector.load(tmp_path / "pump.dream"),
    )
    wanted = scored(model, TOMORROW[20:])
    for other in others:
        assert scored(other, TOMORROW[20:]) == wanted
        assert other.threshold == model.threshold


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tail.mean", torch.full((1, 9), -1.0, dtype=torch.float64)),
        ("score.gap", torch.tensor([3])),
        ("place", torch.tensor(-1)),
        ("core.0.h", torch.full((1, 8), torch.nan)),
        ("state.recent", None),
        ("network.layers.0.cell.C", None),
    ],
)
def test_a_damaged_file_is_refused(name: str, value: torch.Tensor | None, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "pump.dream"
    DREAMAnomalyDetector.from_run(run).save(path)
    header, tensors = read_sealed(path, "", {})
    assert name in tensors
    changed = {key: part for key, part in tensors.items() if key != name}
    write_sealed(path, header, changed if value is None else changed | {name: value})
    with pytest.raises(CheckpointError, match="is inconsistent"):
        DREAMAnomalyDetector.load(path)


def test_every_stream_of_a_run_learns_as_a_detector_of_its_own(run: Path, tmp_path: Path) -> None:
    model = DREAMAnomalyDetector.from_run(run, state="fresh")
    own = {key: deepcopy(model) for key in "abc"}
    with Streams(model, tmp_path / "streams", most=2) as streams:
        for k, row in enumerate(TOMORROW):
            key = "abc"[k % 3]
            assert streams.predict_streams({key: row})[key][:2] == predict(own[key], row)[:2]
            assert streams.learn_streams({key: row})[key][:2] == learn(own[key], row, None)[:2]
        surprise, u_norm = own["a"]._signals()
        assert surprise > 0
        assert u_norm > 0
    with Streams(model, tmp_path / "streams") as streams:
        for key, row in zip("abc", TOMORROW, strict=False):
            assert streams.learn_streams({key: row})[key][:2] == learn(own[key], row, None)[:2]


def test_rows_of_many_streams_are_rows_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DREAMAnomalyDetector.from_run(run)
    own, streams = {key: deepcopy(model) for key in "abcd"}, Streams(model)
    together, seen = Watcher.together.__func__, []
    monkeypatch.setattr(Watcher, "together", lambda *a: seen.append(together(Watcher, *a)) or seen[-1])
    for k in range(0, NEW - 4, 2):
        given = dict(zip("abcd"[: 4 - k % 3], TOMORROW[k : k + 4], strict=False))
        if k == 20:
            given["a"] = {"a": "no number", "b": 1.0}
        if k == 24:
            given["a"] = 5.0  # type: ignore[assignment]
        if k == 30:
            given["b"] = {"a": None, "b": 1.0}
        found = streams.learn_streams(given)
        for key, row in given.items():
            if key == "a" and k in (20, 24):
                assert isinstance(found[key], DREAMError)
            else:
                assert found[key][:2] == learn(own[key], row, None)[:2]
    assert all(seen)
    for key, detector in own.items():
        assert all(
            torch.equal(one.nan_to_num(), other.nan_to_num())
            for one, other in zip(
                detector._held().values(), streams.stream(key).model._held().values(), strict=True
            )
        )


def test_a_call_that_fails_changes_nothing(run: Path) -> None:
    model = DREAMAnomalyDetector.from_run(run)
    wanted = scored(deepcopy(model), TOMORROW[:3])
    for wrong in ({"a": "x"}, {"a": 1e300, "b": 1.0}):
        with pytest.raises(DREAMError):
            model.learn_one(wrong)
    with pytest.raises(DREAMError):
        model.learn_many([TOMORROW[0], {"a": "x"}])
    with pytest.warns(DREAMWarning, match="a value is missing, which the run's data refused"):
        assert model.judge_one({"a": 5.0, "b": None}) != wanted[0]
    with pytest.warns(DREAMWarning, match="`c` is left out: the run did not read it"):
        model.judge_one({**TOMORROW[0], "c": 1.0})
    assert scored(model, TOMORROW[:3]) == wanted


class Two(AnomalyData):
    """Two streams of one column, 240 and 300 rows."""

    def read(self) -> list[AnomalyStream]:
        return [
            AnomalyStream(f"pump {k}", VALUES[:rows, [k]], ("a",), training, None)
            for k, (rows, training) in enumerate([(240, 110), (300, 150)])
        ]


def test_of_several_streams_one_is_named(tmp_path: Path) -> None:
    module = trained(Two(), tmp_path)
    with pytest.raises(ConfigError, match="one of the run's, pump 0, pump 1; none is named"):
        DREAMAnomalyDetector.from_run(module, "fresh")
    with pytest.raises(ConfigError, match=r"got 'pump'\..*Did you mean"):
        DREAMAnomalyDetector.from_run(module, "fresh", stream="pump")
    with pytest.raises(ConfigError, match="one of the run's, pump 0, pump 1; none is named"):
        DREAMAnomalyDetector.from_run(module)
    model = DREAMAnomalyDetector.from_run(module, "fresh", stream="pump 1")
    assert model.threshold == module.thresholds["pump 1"] != module.thresholds["pump 0"]
    assert model.watch is not None
    assert model.watch.training == 150
    module.thresholds = {}
    with pytest.raises(CheckpointError, match="holds no threshold"):
        DREAMAnomalyDetector.from_run(module, "fresh")


def test_an_untrained_detector_flags_nothing() -> None:
    model = DREAMAnomalyDetector()
    assert model.threshold is None
    assert not any(one.flag or one.raised for one in scored(model))
