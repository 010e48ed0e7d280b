"""Steps by the kernel alone have the numbers of the scan; see `tests.dream.contract` for their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dream import DREAM, DREAMConfig
from dream.ops.stepping import Stepper
from tests.dream.contract import stepped
from tests.dream.support import CPU_BACKENDS, F64, assert_same

pytestmark = pytest.mark.skipif("cpu" not in CPU_BACKENDS, reason="there is no kernel on this machine")
SIZES = pytest.mark.parametrize("hidden_dim", [7, 16, 37])
KNOBS = [{}, dict(base_plasticity=0.0), dict(ltc_enabled=False), dict(ltc_surprise_scale=0.0)]
STEPS = 30


def layer(hidden_dim: int = 7, **knobs: Any) -> DREAM:
    torch.manual_seed(2)
    config = DREAMConfig(input_dim=3, hidden_dim=hidden_dim, rank=2, sleep_rate=0.05, **knobs)
    made = DREAM.from_config(config, missing=True).to(F64).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def inputs(samples: int) -> torch.Tensor:
    """(N, T, 3) with gaps."""
    x = torch.randn(samples, STEPS, 3, dtype=F64)
    x[torch.rand_like(x) < 0.2] = torch.nan
    x[0, 5] = torch.nan
    return x


def stepper(of: DREAM, samples: int) -> Stepper:
    made = of.stepper(samples)
    assert made is not None
    return made


@SIZES
@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("plasticity", [True, False])
def test_steps_are_the_scan(hidden_dim: int, knobs: dict[str, Any], plasticity: bool) -> None:
    of = layer(hidden_dim, **knobs)
    x = inputs(3)
    with torch.no_grad(), of.plasticity(plasticity):
        output, trace, final = of.trace(x)
        arrays, steps = stepped(of, x), stepper(of, 3)
    for k, array in enumerate(arrays):
        assert_same(torch.from_numpy(steps.output(array)), output[:, k])
        assert_same(torch.from_numpy(steps.forecast(array)), trace.forecast[:, k])
        for name, value in steps.trace(array)._asdict().items():
            assert_same(value[:, 0], getattr(trace, name)[:, k])
    assert_same(steps.state(arrays[-1]), final)


def test_changed_weights_are_noticed() -> None:
    of = layer()
    steps = stepper(of, 1)
    assert not steps.stale
    with torch.no_grad():
        of.cell.V_raw.mul_(2.0)
    assert steps.stale
    steps = stepper(of, 1)
    of.load_state_dict(of.state_dict())
    assert steps.stale
    assert stepper(of.float(), 1).dtype == np.float32


def test_where_there_is_no_faster_way_there_is_no_stepper() -> None:
    of = layer()
    of.cell.backend = "reference"
    assert of.stepper(1) is None
