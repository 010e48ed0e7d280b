"""Steps of runs as functions of tensors compute what the runs do. Short form of `tests.soak.export_runs`,
which writes their files."""

from __future__ import annotations

import json

import pytest

from dream import ConfigError
from lightning_modules import AnomalyModule, ForecastingModule, OnlineModule
from lightning_modules.anomaly.exported import ScoreStep
from lightning_modules.data.schema import Schema
from lightning_modules.forecasting.exported import WindowStep
from lightning_modules.forecasting.source import ForecastingShape
from lightning_modules.online.data import OnlineShape
from lightning_modules.online.exported import ForecastStep
from tests.soak import export_runs as soak
from tests.soak.export import CLOSE, start


@pytest.mark.parametrize("run", soak.RUNS)
def test_a_step_is_that_of_its_run(run: str) -> None:
    """From the state that a file says of itself, for streams that differ."""
    case = soak.RUNS[run](150)
    about = json.loads(json.dumps(case.step.about(), allow_nan=False))
    state = start(about, 7)
    assert list(about["inputs"]) == ["x", *state]
    assert list(about["outputs"]) == [*case.expected, *(f"next_{name}" for name in state)]
    assert float(soak.differences(case, state, case.step, 7).max()) < CLOSE


def test_what_no_file_could_hold_is_refused() -> None:
    classes = OnlineModule(shape=OnlineShape("classification", 2, 3))
    with pytest.raises(
        ConfigError, match=r"can be exported if it forecasts with DREAM; this is classification"
    ):
        ForecastStep(classes, None)
    with pytest.raises(ConfigError, match="this is LSTM"):
        ForecastStep(OnlineModule(core="lstm"), None)
    trusting = OnlineModule(updates={"rule": "least_squares", "trust": 0.99})
    with pytest.raises(ConfigError, match=r"shrunk by a record.*dream predict --learn"):
        ForecastStep(trusting, None)
    with pytest.raises(ConfigError, match="can be exported if its core is DREAM; this is GRU"):
        ScoreStep(AnomalyModule(core="gru"), None)
    with pytest.raises(ConfigError, match=r"`adapt: false` it learns in its training part only"):
        ScoreStep(AnomalyModule(adapt=False), None)
    with pytest.raises(ConfigError, match="can be exported if its core is DREAM; this is linear"):
        WindowStep(ForecastingModule(core="linear"))
    calendar = ForecastingModule(shape=ForecastingShape(1, known=2, calendar=2))
    calendar.schema = Schema(settings={"timespans": True})
    with pytest.raises(ConfigError, match=r"has `known_covariates`, `calendar` or `static` and `timespans`"):
        WindowStep(calendar)
