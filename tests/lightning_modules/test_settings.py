"""Settings and shapes of tasks: refused by name, and nobody else's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dream import DREAMConfig
from dream.errors import ConfigError
from lightning_modules import AnomalyModule, ForecastingModule, OnlineModule
from lightning_modules.anomaly import AnomalyShape
from lightning_modules.forecasting import ForecastingSettings, ForecastingShape
from lightning_modules.online import OnlineSettings, OnlineShape
from lightning_modules.settings import TaskSettings, as_instance

SMALL = DREAMConfig(hidden_dim=8, rank=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lr=None), "`lr` must have a value; got None. Leave it out for its default."),
        (dict(core="transformer"), "`core` must be dream, lstm, gru, rnn or linear; got 'transformer'."),
        (dict(schedule="linear"), "`schedule` must be cosine or constant; got 'linear'."),
        (dict(dropout=1.0), "`dropout` must be a share from 0 to below 1; got 1.0."),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TaskSettings(**settings)
    assert str(refused.value) == message


def test_a_list_of_the_callers_may_change_later() -> None:
    widths = [8, 6]
    module = ForecastingModule(SMALL, hidden_dims=widths)
    widths.append(4)
    assert module.settings.hidden_dims == [8, 6] == module.hparams["hidden_dims"]


def test_every_argument_comes_back_from_plain_values() -> None:
    shape = OnlineShape("regression", 3, 1, label_delay=2)
    module = OnlineModule(SMALL, shape, modes=["head"], updates={"every": 4})
    again = OnlineModule(**module.hparams)
    assert again.config == module.config
    assert (again.shape, again.settings) == (shape, module.settings)
    assert asdict(again.settings) == asdict(OnlineSettings(modes=["head"], updates={"every": 4}))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "stability", 3])
def test_what_is_no_configuration_is_refused(value: object) -> None:
    with pytest.raises(
        ConfigError, match=f"`config` must be a DREAMConfig or a dictionary of its fields; got {value!r}"
    ):
        ForecastingModule(value)  # type: ignore[arg-type]
    assert as_instance(DREAMConfig, asdict(SMALL), "config") == SMALL


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="`input_dim` must be"):
        AnomalyModule(SMALL, AnomalyShape(0))


def test_a_rank_above_the_width_is_lowered() -> None:
    module = AnomalyModule(DREAMConfig(hidden_dim=8, rank=7), AnomalyShape(2))
    assert (module.config.input_dim, module.config.rank) == (4, 4)
    wide = ForecastingModule(DREAMConfig(hidden_dim=8, rank=3), ForecastingShape(channels=2), patch=12)
    assert (wide.config.input_dim, wide.config.rank) == (12, 3)


def test_settings_of_a_derived_task_are_arguments() -> None:
    @dataclass(frozen=True)
    class Wavy(ForecastingSettings):
        waves: int = 3

    with pytest.raises(ConfigError, match=r"`Mine\.settings` must stay .* arguments of its `__init__`"):

        class Mine(ForecastingModule):
            settings: Wavy


def test_a_checkpoint_keeps_what_a_derived_task_adds(tmp_path: Path) -> None:
    class Mine(ForecastingModule):
        def __init__(self, waves: int, heights: Any = (), call: Any = None, **settings: Any) -> None:
            super().__init__(**settings)
            self.waves, self.heights, self.call = waves, heights, call

    module = Mine(5, (0.5, 2.0), abs, config=SMALL, lr=0.1)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint | {"pytorch-lightning_version": "2.5.0"}, tmp_path / "a.ckpt")
    loaded = Mine.load_from_checkpoint(tmp_path / "a.ckpt", call=max)
    assert (loaded.waves, loaded.heights, loaded.call, loaded.settings.lr) == (5, (0.5, 2.0), max, 0.1)
