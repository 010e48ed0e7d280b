"""`dream export`: a file that goes on where the run is, with the numbers of the run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dream import export, sums
from experiments import export as command
from experiments.cli import main
from lightning_modules import AnomalyModule, DREAMAnomalyDetector
from tests.experiments import test_tomorrow as tomorrow
from tests.experiments.test_other_files import ROWS, WHOLE
from tests.soak.export import CLOSE

NEW = 3  # rows, before the head of the online run is updated again
TODAY, ALL = WHOLE.head(ROWS - tomorrow.NEW), WHOLE.head(ROWS - tomorrow.NEW + NEW)
WINDOWS = ["-c", "forecasting_csv", "--data.look_back=24", "--data.horizon=4", "--data.units={a: MW}"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.argv", ["dream"])


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: the step that the command writes to the folder of a run. Tracing it would take seconds."""
    found: list[tuple[export.Step, Path]] = []
    name = command.FORMATS["onnx"][0]
    monkeypatch.setitem(command.FORMATS, "onnx", (name, lambda *given: found.append(given)))

    def call(run: str) -> export.Step:
        assert main(["export", f"runs/{run}", "--format=onnx"]) == 0
        step, path = found.pop()
        assert path == Path("runs", run, name).resolve()
        return step

    return call


def read(step: export.Step, rows: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Results after each of the rows, from the state that the step starts from."""
    state, results = step.init_state(1), []
    with torch.no_grad():
        for row in torch.tensor(rows[step.facts["columns"]].to_numpy()):
            result, state = step(row[None], state)
            results.append(result)
    return {name: torch.cat([one[name] for one in results]) for name in results[0]}


def test_an_online_run_goes_on_in_the_file(exported: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tomorrow.trained("forecasts")
    step = exported("forecasts")  # from where its test ended
    said = " ".join(capsys.readouterr().err.split())
    assert "ended, 2024-01-12 11:00:00; fast weights and statistics go on learning; head and slow" in said
    assert step.facts["after"] == "2024-01-12T11:00:00"
    forecast = read(step, ALL.tail(NEW))["forecast"][-1]
    wanted = tomorrow.predicted("forecasts", ALL, "--learn")[step.facts["targets"]].to_numpy()
    assert step.facts["frequency"] == 3600
    later = read(exported("forecasts"), ALL.tail(1))["forecast"]  # from where the prediction ended
    assert not torch.allclose(later, forecast)
    assert sums.differing("runs/forecasts") == []
    torch.testing.assert_close(forecast, torch.tensor(wanted), rtol=CLOSE, atol=CLOSE)


def test_an_anomaly_run_goes_on_in_the_file(exported: Any) -> None:
    tomorrow.trained("scores")
    tomorrow.predicted("scores", TODAY, "--learn")
    step = exported("scores")
    rows = WHOLE.copy()
    rows.loc[ROWS - 9, "a"] += 20
    found = read(step, rows.tail(tomorrow.NEW))
    wanted = tomorrow.predicted("scores", rows, "--learn")
    torch.testing.assert_close(found["score"], torch.tensor(wanted["score"]), rtol=0.0, atol=CLOSE)
    torch.testing.assert_close(found["threshold"], torch.tensor(wanted["threshold"]))
    for verdict in ("flag", "alarm"):
        assert found[verdict].tolist() == wanted[verdict].astype(bool).tolist()
        assert found[verdict].any()
    assert step.facts["gaps"] == {"table.csv": 12}
    module = AnomalyModule.load_from_checkpoint("runs/scores/checkpoints/best.ckpt")
    module.save_pretrained("shared")
    flagged = json.loads(Path("runs/scores/results.json").read_text())["results"][module.title]["flagged"]
    assert f"| {module.title} | {flagged:.4g} |" in Path("shared/README.md").read_text()
    again = AnomalyModule.from_pretrained("shared")
    assert DREAMAnomalyDetector.from_run(again, "fresh").threshold == module.thresholds["table.csv"]


def test_a_forecaster_of_windows_is_exported(
    exported: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    TODAY.to_csv("table.csv", index=False)
    assert main(["fit", *tomorrow.QUICK, *WINDOWS, "--run.name=windows"]) == 0
    step = exported("windows")
    assert step.facts["units"] == {"a": "MW"}
    window = torch.tensor(ALL[step.facts["columns"]].to_numpy()[-24:])
    forecast = step(window[None], {})[0]["forecast"][0]
    wanted = tomorrow.predicted("windows", ALL)[step.facts["targets"]].to_numpy()
    torch.testing.assert_close(forecast, torch.tensor(wanted), rtol=CLOSE, atol=CLOSE)
    words = ["export", "runs/windows", "--format=torch"]
    assert "`--output` must be a file in a folder" in tomorrow.refusal(capsys, *words, "--output=no/x")
    shutil.copy("runs/windows/checkpoints/best.ckpt", "alone.ckpt")
    assert "`RUN` must be a run's folder" in tomorrow.refusal(capsys, "export", "alone.ckpt", *words[2:])
    monkeypatch.setitem(command.FORMATS, "onnx", ("model.onnx", export.to_onnx))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = tomorrow.refusal(capsys, *words[:2], "--format=onnx")
    assert "pip install 'dream-memory[export]'" in said
    assert not Path("runs/windows/model.onnx").exists()
    monkeypatch.delitem(command.STEPS, "lightning_modules.ForecastingModule")
    assert "is of lightning_modules.ForecastingModule, which has no step" in tomorrow.refusal(capsys, *words)
