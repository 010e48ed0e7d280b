"""Exactness of the derivatives: numerical gradients where nothing is measured, replayed measurements
elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from dream import DREAM, DREAMCell, DREAMConfig, DREAMParams, DREAMState, DREAMTrace, dream_scan, dream_step
from tests.dream.support import (
    CPU_BACKENDS,
    DIFFERENTIABLE,
    F64,
    MEASURED,
    cell_with,
    leaves,
    measure,
    modules,
    random_params,
    random_state,
    replay,
    small,
)

FROZEN = dict(error_smoothing=0.0, surprise_smoothing=0.0, sleep_rate=0.0)
ALIVE = dict(error_smoothing=0.2, surprise_smoothing=0.3, sleep_rate=0.3, min_surprise_for_sleep=0.05)
SOFT = dict(surprise_temperature=0.5)  # keeps the gate half open
KNOBS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "homeostasis": dict(target_norm=0.3, kappa=0.7),
    "no_liquid_time": dict(ltc_enabled=False),
    "no_plasticity": dict(base_plasticity=0.0),
    "rank_above_input": dict(rank=5),
    "rank_of_input": dict(rank=3),
}
backends = pytest.mark.parametrize("backend", CPU_BACKENDS)


class Problem:
    """A scan as a function of everything that gradients reach: parameters, input, initial h and U."""

    def __init__(
        self,
        config: DREAMConfig,
        padded: bool = True,
        spans: bool = True,
        steps: int = 4,
        missing: bool = False,
        plasticity: bool = True,
    ) -> None:
        self.config, self.rows, self.missing, self.plasticity = config, 3, missing, plasticity
        self.state = replace(
            random_state(config, self.rows), adaptive_tau=torch.tensor([0.8, 1.1, 1.5], dtype=F64)
        )
        self.params = random_params(config)
        self.x = torch.randn(self.rows, steps, config.input_dim, dtype=F64)
        if missing:
            self.x[0, 1, 1:] = self.x[1, 0] = self.x[2, steps - 3, 0] = torch.nan
        self.spans = torch.rand(self.rows, steps, dtype=F64) * 2 + 0.3 if spans else None
        self.lengths = torch.tensor([steps, 1, steps - 2]) if padded else None

    def without_effect_of_surprise(self) -> None:
        ones, none = torch.ones_like(self.params.tonic), torch.zeros((), dtype=F64)
        self.params = self.params._replace(tonic=ones, surprise_scale=none)

    def inputs(self) -> list[Tensor]:
        learned = (getattr(self.params, name) for name in DIFFERENTIABLE)
        return leaves(*learned, self.x, self.state.h, self.state.U)

    def place(self, inputs: Sequence[Tensor]) -> tuple[Tensor, DREAMState, DREAMParams]:
        *learned, x, h, U = inputs
        params = self.params._replace(**dict(zip(DIFFERENTIABLE, learned, strict=True)))
        return x, replace(self.state, h=h, U=U), params

    def scan(self, *inputs: Tensor, backend: str = "auto") -> tuple[Tensor, ...]:
        output, trace, final = dream_scan(
            *(*self.place(inputs), self.config, self.spans, self.lengths, backend),
            plasticity=self.plasticity,
            missing=self.missing,
        )
        return output, trace.prediction, trace.forecast, trace.error, final.h, final.U


CASES = {
    **{name: {} for name in KNOBS},
    "whole": dict(padded=False, spans=False),
    "missing": dict(missing=True),
    "plasticity_off": dict(plasticity=False),
    "missing, plasticity_off": dict(missing=True, plasticity=False),
}


@backends
@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case: str, backend: str) -> None:
    """Parameters, input, initial h and U, through output, prediction, forecast, error and final h and U;
    where surprise has no effect. Every element in some cases of the backend that writes out its derivatives,
    random directions in the others."""
    config = small(**(FROZEN | SOFT | KNOBS.get(case, {}) | {"hidden_dim": 4}))
    problem = Problem(config, **CASES[case])
    problem.without_effect_of_surprise()
    surprise = dream_scan(problem.x.nan_to_num(), problem.state, problem.params, problem.config)[1].surprise
    assert ((surprise > 0.1) & (surprise < 0.9)).sum() >= 3  # the gradients of tonic and s read it
    assert torch.autograd.gradcheck(
        lambda *a: problem.scan(*a, backend=backend),
        problem.inputs(),
        eps=1e-6,
        atol=1e-7,
        fast_mode=backend == "reference" or case not in ("defaults", "missing", "plasticity_off"),
    )


@backends
@pytest.mark.parametrize("hidden", [16, 18])
@pytest.mark.parametrize("missing", [False, True])
def test_gradcheck_of_blocks_of_keys(hidden: int, missing: bool, backend: str) -> None:
    """A whole block, and one with a tail of two units; in random directions."""
    problem = Problem(small(**FROZEN, **SOFT, hidden_dim=hidden), missing=missing)
    problem.without_effect_of_surprise()
    assert torch.autograd.gradcheck(
        lambda *a: problem.scan(*a, backend=backend), problem.inputs(), eps=1e-6, atol=1e-6, fast_mode=True
    )


@backends
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_gradcheck_through_the_module(rank: int, backend: str) -> None:
    """Every parameter as it is learned, V_raw among them; where surprise has no effect."""
    layer = DREAM.from_config(small(**FROZEN, rank=rank, hidden_dim=4), backend=backend).double().eval()
    cell = layer.cell
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        cell.logit_tonic.fill_(40.0)  # 1 to rounding
        cell.log_surprise_scale.fill_(-800.0)  # 0
    x = torch.randn(2, 4, 3, dtype=F64)
    names = [name for name, parameter in cell.named_parameters() if parameter.requires_grad]
    assert ("V_raw" in names) == (rank < 3)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        learned = {f"cell.{name}": value for name, value in zip(names, values, strict=True)}
        output, state = functional_call(layer, learned, x)
        return output, state.U

    assert torch.autograd.gradcheck(run, leaves(*(cell.get_parameter(name) for name in names)), atol=1e-7)


def weighted(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([(part * weight).sum() for part, weight in zip(parts, weights, strict=True)]).sum()


def assert_slopes(function: Callable[[], float], tensors: Mapping[str, Tensor], places: int = 3) -> None:
    """The gradients that `tensors` hold are slopes of `function`, at a few places of each."""
    for name, tensor in tensors.items():
        analytic = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for k in torch.randperm(tensor.numel())[:places].tolist():
            flat, eps, ends = tensor.view(-1), 1e-6, []
            if flat[k].isnan():
                assert analytic.view(-1)[k] == 0, name
                continue
            for sign in (1.0, -1.0):
                flat[k] += sign * eps
                ends.append(function())
                flat[k] -= sign * eps
            slope = (ends[0] - ends[1]) / (2 * eps)
            assert analytic.view(-1)[k].item() == pytest.approx(slope, rel=2e-6, abs=2e-7), name


@backends
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("knobs", KNOBS)
def test_finite_differences_that_replay_the_measurements(knobs: str, missing: bool, backend: str) -> None:
    """With everything alive, the gradient is that of a run whose measurements are held at the recorded
    ones."""
    problem = Problem(small(**(ALIVE | SOFT | KNOBS[knobs])), padded=False, steps=6, missing=missing)
    common = (problem.config, problem.spans, missing)
    recorded = measure(problem.x, problem.state, problem.params, *common)
    if problem.config.base_plasticity:
        assert not torch.equal(recorded[-1].state.U_target, problem.state.U_target)

    def again(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        output, trace, final = replay(recorded, *problem.place(inputs), *common)
        return output, trace.prediction, trace.forecast, trace.error, final.h, final.U

    inputs = problem.inputs()
    parts = problem.scan(*inputs, backend=backend)
    weights = [torch.randn_like(part) for part in parts]
    weighted(parts, weights).backward()
    with torch.no_grad():
        for part, same in zip(parts, again(inputs), strict=True):
            torch.testing.assert_close(part, same, atol=1e-12, rtol=1e-12)
        named = dict(zip((*DIFFERENTIABLE, "x", "h", "U"), inputs, strict=True))
        assert_slopes(lambda: weighted(again(inputs), weights).item(), named)


@backends
@pytest.mark.parametrize(("hidden", "rank"), [(5, 2), (5, 5), (18, 1), (37, 2)])
def test_replayed_differences_through_the_module(hidden: int, rank: int, backend: str) -> None:
    """Every parameter as it is learned, with everything alive."""
    config = small(**ALIVE, **SOFT, hidden_dim=hidden, rank=rank, target_norm=0.4)
    cell = cell_with(config, random_params(config), backend=backend)
    if rank < 3:
        with torch.no_grad():
            cell.V_raw.add_(0.5 * torch.randn_like(cell.V_raw))
    x, state = torch.randn(2, 5, 3, dtype=F64), random_state(config, 2)
    recorded = measure(x, state, cell.params(), config)
    weight = torch.randn(2, 5, hidden, dtype=F64)

    def loss(output: Tensor, trace: DREAMTrace, final: DREAMState) -> Tensor:
        return (output * weight).sum() + trace.forecast.square().sum() + final.U.sum()

    loss(*cell.scan(x, state)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in cell.parameters())
    with torch.no_grad():
        assert_slopes(
            lambda: loss(*replay(recorded, x, state, cell.params(), config)).item(),
            dict(cell.named_parameters()),
        )


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
    for name in MEASURED:
        assert not getattr(final, name).requires_grad, name
    for name in ("surprise", "deviation", "u_norm"):
        assert not getattr(trace, name).requires_grad, name
    (output.sum() + trace.error.square().sum() + final.U.sum()).backward()
    for name in MEASURED:
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


def test_surprise_carries_no_gradient() -> None:
    """Where C and c have no other path to the new h than the error's surprise, theirs is zero."""
    config = small(**SOFT, base_plasticity=0.0)
    params, state = random_params(config), random_state(config, 2)
    c, C = leaves(params.c, params.C)
    params = params._replace(W=torch.zeros_like(params.W), c=c, C=C)
    x = torch.randn(2, 3, dtype=F64)
    state.adaptive_tau = torch.full((2,), 1.2, dtype=F64)
    output, trace, _ = dream_step(x, state, params, config)
    assert ((trace.surprise > 0.1) & (trace.surprise < 0.9)).all()
    other = dream_step(x, state, params._replace(c=c + 0.1), config)[0]
    assert (other - output).abs().max() > 1e-4  # although it acts
    for gradient in torch.autograd.grad(output.sum(), (c, C), allow_unused=True):
        assert gradient is None or (gradient == 0).all()


@pytest.mark.parametrize("far", [0.0, 1.0])
def test_surprise_is_held_in_the_time_constants(far: float) -> None:
    """The gradients are those of a step with 1 + s S as a constant, at r = 0 too, where the root of line 3
    has no slope."""
    config = small(**FROZEN, base_plasticity=0.0, surprise_temperature=1.0)
    params, state = random_params(config), random_state(config, 1)
    state.U.zero_(), state.h.zero_(), state.error_mean.zero_()
    x = params.c.detach().expand(1, 3) + far
    gated, ungated = leaves(x, x)
    output, trace, _ = dream_step(gated, state, params, config)
    assert (trace.deviation == 0).all() == (far == 0)
    assert trace.surprise.item() > 0.1
    output.sum().backward()
    hastened = params.tau / (1 + params.surprise_scale * trace.surprise)
    constant = params._replace(surprise_scale=torch.zeros((), dtype=F64), tau=hastened)
    same, _, _ = dream_step(ungated, state, constant, config)
    same.sum().backward()
    torch.testing.assert_close(output, same, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gated.grad, ungated.grad, atol=1e-12, rtol=1e-12)


@backends
@pytest.mark.parametrize("rank", [2, 3])
def test_what_learns_with_plasticity_switched_off(rank: int, backend: str) -> None:
    """eta and tonic have no gradient; K, k, D and V keep theirs through lines 1 and 8."""
    layer = DREAM(3, 5, rank, backend=backend).double()
    _, state = layer(torch.randn(2, 9, 3, dtype=F64))
    with torch.no_grad():
        layer.cell.D.normal_()
    with layer.plasticity(False):
        layer(torch.randn(2, 9, 3, dtype=F64), state.detach())[0].square().sum().backward()
    still = {
        name
        for name, parameter in layer.cell.named_parameters()
        if parameter.grad is None or (parameter.grad == 0).all()
    }
    assert still == {"log_eta", "logit_tonic"}


def test_what_learns_without_plasticity() -> None:
    """Nothing of the fast weights wants a gradient, and none of it gets one."""
    layer = DREAM(3, 5, 2, base_plasticity=0.0)
    layer(torch.randn(2, 9, 3))[0].square().sum().backward()
    unused = {name for name, parameter in layer.cell.named_parameters() if not parameter.requires_grad}
    assert unused == {"K", "k", "D", "V_raw", "log_eta", "logit_tonic"}
    assert all((p.grad is None) != p.requires_grad for p in layer.parameters())


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
