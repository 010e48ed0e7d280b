"""Exactness of the derivatives: numerical gradients where nothing is measured, replayed measurements
elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dream import DREAM, DREAMCell, DREAMConfig, DREAMParams, DREAMState, dream_scan, dream_step
from tests.dream.support import (
    CPU_BACKENDS,
    DIFFERENTIABLE,
    F64,
    STATISTICS,
    leaves,
    modules,
    random_params,
    random_state,
    small,
)

FROZEN = dict(error_smoothing=0.0, surprise_smoothing=0.0, sleep_rate=0.0)
SOFT = dict(surprise_temperature=0.5)  # keeps the gate half open
KNOBS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "homeostasis": dict(target_norm=0.3, kappa=0.7),
    "no_liquid_time": dict(ltc_enabled=False),
    "no_plasticity": dict(base_plasticity=0.0),
    "rank_above_input": dict(rank=5),
}
LEARNED = (*DIFFERENTIABLE, "V")


class Problem:
    """A scan as a function of everything that gradients reach: parameters, input, initial h and U."""

    def __init__(self, config: DREAMConfig, padded: bool = True, steps: int = 4) -> None:
        self.config, self.rows = config, 3
        self.state = replace(
            random_state(config, self.rows), adaptive_tau=torch.tensor([0.8, 1.1, 1.5], dtype=F64)
        )
        self.params = random_params(config)
        self.x = torch.randn(self.rows, steps, config.input_dim, dtype=F64)
        self.spans = torch.rand(self.rows, steps, dtype=F64) * 2 + 0.3 if padded else None
        self.lengths = torch.tensor([steps, 1, steps - 2]) if padded else None

    def inputs(self) -> list[Tensor]:
        return leaves(*(getattr(self.params, name) for name in LEARNED), self.x, self.state.h, self.state.U)

    def place(self, inputs: Sequence[Tensor]) -> tuple[Tensor, DREAMState, DREAMParams]:
        *learned, x, h, U = inputs
        params = self.params._replace(**dict(zip(LEARNED, learned, strict=True)))
        return x, replace(self.state, h=h, U=U), params

    def scan(self, *inputs: Tensor, backend: str = "auto") -> tuple[Tensor, ...]:
        x, state, params = self.place(inputs)
        output, trace, final = dream_scan(
            x, state, params, self.config, self.spans, self.lengths, backend=backend
        )
        return output, trace.prediction, trace.forecast, trace.error, final.h, final.U


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("knobs", "padded"), [*((name, True) for name in KNOBS), ("defaults", False)])
def test_gradcheck(knobs: str, padded: bool, backend: str) -> None:
    """Parameters, input, initial h and U, through output, prediction, forecast, error and final h and U."""
    problem = Problem(small(**(FROZEN | SOFT | KNOBS[knobs] | {"hidden_dim": 4})), padded)
    surprise = dream_scan(problem.x, problem.state, problem.params, problem.config)[1].surprise
    assert ((surprise > 0.1) & (surprise < 0.9)).sum() >= 3  # the gate is at work
    assert torch.autograd.gradcheck(
        lambda *a: problem.scan(*a, backend=backend), problem.inputs(), eps=1e-6, atol=1e-7
    )


def weighted(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([(part * weight).sum() for part, weight in zip(parts, weights, strict=True)]).sum()


@pytest.mark.parametrize("knobs", KNOBS)
def test_finite_differences_that_replay_the_measurements(knobs: str) -> None:
    """With everything alive, the gradient is that of a run whose measurements are held at the recorded
    ones."""
    alive = dict(error_smoothing=0.2, surprise_smoothing=0.3, sleep_rate=0.3, min_surprise_for_sleep=0.05)
    problem = Problem(small(**(alive | SOFT | KNOBS[knobs])), padded=False, steps=6)
    config, steps = problem.config, problem.x.shape[1]

    recorded, state = [], problem.state
    for t in range(steps):
        recorded.append(state)
        state = dream_step(problem.x[:, t], state, problem.params, config)[2]
    if config.base_plasticity:
        assert not torch.equal(recorded[-1].U_target, problem.state.U_target)
    measured = (*STATISTICS, "U_target")

    def replay(inputs: Sequence[Tensor]) -> list[Tensor]:
        x, state, params = problem.place(inputs)
        steps_of: list[list[Tensor]] = [[], [], [], []]
        for t, was in enumerate(recorded):
            state = replace(state, **{name: getattr(was, name) for name in measured})
            output, trace, state = dream_step(x[:, t], state, params, config)
            for series, part in zip(
                steps_of, (output, trace.prediction, trace.forecast, trace.error), strict=True
            ):
                series.append(part)
        return [*(torch.stack(series, 1) for series in steps_of), state.h, state.U]

    inputs = problem.inputs()
    parts = problem.scan(*inputs)
    weights = [torch.randn_like(part) for part in parts]
    weighted(parts, weights).backward()
    with torch.no_grad():
        for part, again in zip(parts, replay(inputs), strict=True):
            torch.testing.assert_close(part, again, atol=1e-12, rtol=1e-12)
        for name, tensor in zip((*LEARNED, "x", "h", "U"), inputs, strict=True):
            analytic = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for k in torch.randperm(tensor.numel())[:4].tolist():
                flat, eps = tensor.view(-1), 1e-6
                ends = []
                for sign in (1.0, -1.0):
                    flat[k] += sign * eps
                    ends.append(weighted(replay(inputs), weights).item())
                    flat[k] -= sign * eps
                assert analytic.view(-1)[k].item() == pytest.approx(
                    (ends[0] - ends[1]) / (2 * eps), rel=2e-6, abs=2e-7
                ), name


def test_the_consolidation_target_is_a_measurement() -> None:
    """U decays towards U_target, but no gradient passes through it, nor through the statistics given or
    kept."""
    config = small(
        forgetting_rate=0.5,
        sleep_rate=0.5,
        min_surprise_for_sleep=0.0,
        surprise_smoothing=0.5,
        error_smoothing=0.5,
    )
    state = random_state(config, 2)
    for name in DREAMState.__dataclass_fields__:
        getattr(state, name).requires_grad_()
    prior = random_params(config)._asdict()["error_var_prior"].requires_grad_()
    params = random_params(config)._replace(error_var_prior=prior)
    output, trace, final = dream_scan(
        torch.randn(2, 6, 3, dtype=F64, requires_grad=True), state, params, config
    )
    for name in (*STATISTICS, "U_target"):
        assert not getattr(final, name).requires_grad, name
    for name in ("surprise", "deviation", "u_norm"):
        assert not getattr(trace, name).requires_grad, name
    (output.sum() + trace.error.square().sum() + final.U.sum()).backward()
    for name in (*STATISTICS, "U_target"):
        assert getattr(state, name).grad is None, name
    assert prior.grad is None
    assert state.h.grad.abs().min() > 0
    assert state.U.grad.abs().min() > 0


def test_the_step_trace_and_state_carry_gradients_likewise() -> None:
    config = small()
    params = random_params(config)
    _, trace, new = dream_step(
        torch.randn(2, 3, dtype=F64, requires_grad=True), random_state(config, 2), params, config
    )
    carried = {name for name, part in trace._asdict().items() if part.requires_grad}
    assert carried == {"error", "forecast"}  # the prediction came before x
    assert {name for name, part in new.items() if part.requires_grad} == {"h", "U"}


def test_the_surprise_gate_is_differentiated_through_the_error() -> None:
    """With C the only path from parameters to r, a gradient of the new h with respect to c is the gate's
    alone."""
    config = small(**FROZEN, base_plasticity=0.0)
    params, state = random_params(config), random_state(config, 2)
    params = params._replace(W=torch.zeros_like(params.W), c=params.c.clone().requires_grad_())
    x = torch.randn(2, 3, dtype=F64)
    state.adaptive_tau = torch.full((2,), 1.2, dtype=F64)
    dream_step(x, state, params, config)[0].sum().backward()
    assert params.c.grad.abs().min() > 1e-6


def test_the_derivative_of_the_deviation_is_zero_at_zero() -> None:
    """An error that is exactly the usual one: r = 0, S at its lowest, and gradients finite and those of the
    other lines."""
    config = small(**FROZEN, base_plasticity=0.0, surprise_temperature=1.0)
    params, state = random_params(config), random_state(config, 1)
    state.U.zero_(), state.h.zero_(), state.error_mean.zero_()
    x = params.c.detach().expand(1, 3)
    gated, ungated = leaves(x, x)
    output, trace, _ = dream_step(gated, state, params, config)
    assert trace.deviation.item() == 0
    assert trace.surprise.item() > 0.1
    output.sum().backward()
    # the same step with 1 + s S as a constant: line 5 adds nothing to the gradient
    hastened = params.tau / (1 + params.surprise_scale * trace.surprise)
    constant = params._replace(surprise_scale=torch.zeros((), dtype=F64), tau=hastened)
    same, _, _ = dream_step(ungated, state, constant, config)
    same.sum().backward()
    torch.testing.assert_close(output, same, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gated.grad, ungated.grad, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("knobs", KNOBS)
def test_no_gradient_is_nan_where_everything_is_zero(knobs: str, dtype: torch.dtype) -> None:
    """Zero input, zero state, zero bias: r, |U|, |h| are 0 all the way."""
    layer = DREAM.from_config(small(**KNOBS[knobs])).to(dtype)
    x = torch.zeros(2, 6, 3, dtype=dtype, requires_grad=True)
    output, trace, state = layer.trace(x)
    loss = (
        output.sum() + trace.error.sum() + trace.forecast.sum() + state.U.sum() + trace.error.square().sum()
    )
    loss.backward()
    assert (trace.deviation == 0).all()
    assert x.grad.isfinite().all()
    for name, parameter in layer.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name


def test_gradients_of_huge_and_tiny_inputs_are_finite() -> None:
    for scale in (1e-20, 1e6):
        layer = DREAM(3, 5, 2)
        x = (scale * torch.randn(2, 8, 3)).requires_grad_()
        output, trace, _ = layer.trace(x)
        (output.sum() + trace.error.sum()).backward()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)


def test_single_steps_give_the_gradients_of_the_sequence() -> None:
    cell = modules()["cell"]
    assert isinstance(cell, DREAMCell)
    x = torch.randn(2, 7, 3, dtype=F64)
    whole, pieces = leaves(x, x)
    cell.forward_sequence(whole)[0].square().sum().backward()
    expected = {name: parameter.grad for name, parameter in cell.named_parameters()}
    cell.zero_grad()
    state, outputs = cell.init_state(2), []
    for t in range(7):
        output, state = cell(pieces[:, t], state)
        outputs.append(output)
    torch.stack(outputs).square().sum().backward()
    torch.testing.assert_close(pieces.grad, whole.grad, atol=1e-12, rtol=1e-12)
    for name, parameter in cell.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-12, rtol=1e-12, msg=name)


def test_truncated_back_propagation_stops_at_detach() -> None:
    layer = modules()["layer"]
    x = torch.randn(2, 4, 3, dtype=F64, requires_grad=True)
    _, state = layer(x)
    layer(torch.randn(2, 4, 3, dtype=F64), state.detach())[0].sum().backward()
    assert x.grad is None
    layer(torch.randn(2, 4, 3, dtype=F64), layer(x)[1])[0].sum().backward()
    assert x.grad.abs().min() > 0
