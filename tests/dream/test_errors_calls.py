"""Bad arguments that are not tensors of a sequence, and the family of errors itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dream
from dream import (
    DREAM,
    CheckpointError,
    ConfigError,
    DataError,
    DREAMCell,
    DREAMError,
    DREAMParams,
    DREAMStack,
    DREAMState,
    ShapeError,
    StateError,
    dream_scan,
    dream_step,
)
from dream.errors import nearest
from tests.dream.support import F64, small


def fresh(**changes: Any) -> DREAMState:
    return DREAMCell(small(**changes)).init_state(4)


@pytest.mark.parametrize("make", [DREAM, DREAMStack])
def test_constructors(make: Any) -> None:
    for values, stated in (
        (dict(input_dim=-1), "`input_dim` must be above 0; got -1"),
        (dict(rank=0), "`rank` must be above 0; got 0"),
        (dict(kappa=2.0), r"`kappa` must be at most 1; got 2\.0"),
        (dict(base_plasticty=0.1), "`base_plasticty`.*`base_plasticity`"),
        (dict(backend="refrence"), r"`backend` must be auto or .*reference.*; got 'refrence'"),
    ):
        with pytest.raises(ConfigError, match=stated):
            make(**values)


@pytest.mark.parametrize("config", [None, {"input_dim": 3}, 3])
def test_config_must_be_a_config(config: Any) -> None:
    for make in (DREAMCell, DREAM.from_config, DREAMStack.from_config):
        with pytest.raises(
            ConfigError, match=r"`config` must be a DREAMConfig; got \w+\. Use DREAMConfig\(\.\.\.\)"
        ):
            make(config)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "1", True, None])
def test_consolidation_steps(steps: Any) -> None:
    with pytest.raises(ConfigError, match="`steps` must be a positive integer; got"):
        DREAMCell(small()).consolidate(fresh(), steps)


def test_forecasts_and_consolidation_refuse_other_states() -> None:
    for module in (DREAMCell(small()), DREAM(3, 5, 2)):
        for call in (module.predict_next, module.consolidate):
            with pytest.raises(StateError, match=r"`state\.h` must be \(4, 5\).*; got \(4, 6\)"):
                call(fresh(hidden_dim=6))
        with pytest.raises(StateError, match="float64"):
            module.predict_next(fresh().to(dtype=F64))


def test_unknown_backends() -> None:
    config = small()
    with pytest.raises(ConfigError, match=r"`backend` must be auto or .*reference.*; got 'cuda'"):
        dream_scan(torch.randn(4, 6, 3), fresh(), DREAMCell(config).params(), config, backend="cuda")


@pytest.mark.parametrize("name", DREAMParams._fields)
def test_parameters_of_another_configuration(name: str) -> None:
    """A compiled kernel would read beyond them."""
    config, x = small(), torch.randn(4, 6, 3)
    params = DREAMCell(config).params()
    for other, kind, stated in (
        (torch.zeros(2, 7), ShapeError, rf"`params\.{name}` must be \(.*\), as `config` says; got \(2, 7\)"),
        (getattr(params, name).double(), DataError, "float64"),
    ):
        with pytest.raises(kind, match=stated):
            dream_scan(x, fresh(), params._replace(**{name: other}), config)
        with pytest.raises(kind, match=stated):
            dream_step(x[:, 0], fresh(), params._replace(**{name: other}), config)


def test_the_family() -> None:
    kinds = (ConfigError, ShapeError, StateError, DataError, CheckpointError)
    for kind in kinds:
        assert issubclass(kind, DREAMError)
        assert not issubclass(kind, ValueError)  # pydantic would swallow it
        assert getattr(dream, kind.__name__) is kind
    assert issubclass(dream.DREAMWarning, UserWarning)
    assert ConfigError("text", key="rank").key == "rank"
    assert ConfigError("text").key is None


def test_the_nearest_name() -> None:
    assert nearest("kapa", ["rank", "kappa"]) == "Did you mean `kappa`?"
    assert nearest("xyz", iter(["rank", "kappa"])) == "Known: rank, kappa."
