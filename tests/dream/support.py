"""Shared by the tests of `dream`: small configurations, random parameters and states, loops of steps,
comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from dream import DREAM, DREAMCell, DREAMConfig, DREAMParams, DREAMStack, DREAMState, DREAMTrace, dream_step
from dream import functional as F
from dream.ops.registry import BACKENDS
from dream.types import key_shape

F64 = torch.float64
F32 = torch.float32
MEASURED = ("U_target", "adaptive_tau", "error_mean", "error_var", "avg_surprise")
DIFFERENTIABLE = tuple(name for name in DREAMParams._fields if name != "error_var_prior")
LOGARITHMS = {"eta": "log_eta", "tau": "log_tau", "surprise_scale": "log_surprise_scale"}


def small(**knobs: Any) -> DREAMConfig:
    """A configuration small enough for finite differences."""
    return DREAMConfig(**{"input_dim": 3, "hidden_dim": 5, "rank": 2, **knobs})


CPU_BACKENDS = [
    name
    for name, backend in BACKENDS.items()
    if name in ("cpu", "reference") or backend.refusal(torch.zeros(1, 1, 3, dtype=F64), small()) is None
]
"""Backends that serve float64 on the CPU, in which results are compared; those of other devices refuse it."""


def random_params(config: DREAMConfig, seed: int = 0, dtype: torch.dtype = F64) -> DREAMParams:
    """Effective parameters in which every term of the equations is at work."""
    generator = torch.Generator().manual_seed(seed)
    i, h, r = config.input_dim, config.hidden_dim, config.rank

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=F64)

    q = torch.linalg.qr(normal(max(i, r), min(i, r)))[0]
    params = DREAMParams(
        C=normal(h, i, scale=h**-0.5),
        c=normal(i, scale=0.1),
        W=normal(i, h, scale=i**-0.5),
        B=normal(i, h, scale=i**-0.5),
        b=normal(h, scale=0.1),
        A=normal(h, h, scale=h**-0.5),
        G_x=normal(i, h, scale=0.5 * i**-0.5),
        G_h=normal(h, h, scale=0.5 * h**-0.5),
        V=min(i, r) ** 0.5 * (q if r <= i else q.mT.contiguous()),
        eta=0.3 * normal(h, scale=0.3).exp(),
        tonic=torch.sigmoid(normal(h) - 1.0),
        tau=torch.logspace(math.log10(config.time_step / 20), 1.0, h, dtype=F64),
        surprise_scale=torch.tensor(config.ltc_surprise_scale, dtype=F64),
        error_var_prior=normal(i, scale=0.5).exp(),
        K=torch.eye(key_shape(h)[1], dtype=F64) + normal(*key_shape(h), scale=0.5 * key_shape(h)[1] ** -0.5),
        k=normal(h, scale=0.2),
        D=normal(r, h, scale=0.5 * r**-0.5),
    )
    return DREAMParams(*(tensor.to(dtype) for tensor in params))


def random_state(config: DREAMConfig, rows: int, seed: int = 1, dtype: torch.dtype = F64) -> DREAMState:
    """A state in the middle of a stream: nothing is zero, rows differ."""
    generator = torch.Generator().manual_seed(seed)
    shapes = DREAMState.shapes(config, rows)
    raw = {name: torch.randn(shape, generator=generator, dtype=F64) for name, shape in shapes.items()}
    state = DREAMState(
        h=raw["h"].tanh(),
        U=0.3 * raw["U"],
        U_target=0.2 * raw["U_target"],
        adaptive_tau=config.base_threshold * (1.0 + raw["adaptive_tau"].abs()),
        error_mean=0.2 * raw["error_mean"],
        error_var=(0.5 * raw["error_var"]).exp(),
        avg_surprise=torch.sigmoid(raw["avg_surprise"]),
    )
    return state.to(dtype=dtype)


def cell_with(config: DREAMConfig, params: DREAMParams, **settings: Any) -> DREAMCell:
    """A cell in evaluation mode whose effective parameters are `params`."""
    cell = DREAMCell(config, **settings).to(params.C.dtype).eval()
    load(cell, params)
    return cell


@torch.no_grad()
def load(cell: DREAMCell, params: DREAMParams) -> None:
    """Give `cell` these effective parameters."""
    for name, value in params._asdict().items():
        if name in LOGARITHMS:
            getattr(cell, LOGARITHMS[name]).copy_(value.log())
        elif name == "tonic":
            cell.logit_tonic.copy_(torch.logit(value))
        elif name == "V":
            (cell.V_raw if cell.config.rank < cell.config.input_dim else cell.V).copy_(value)
        else:
            getattr(cell, name).copy_(value)


def loop(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None = None,
    missing: bool = False,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """`dream_step` over (N, T, I), one step at a time."""
    outputs, traces = [], []
    for t in range(x.shape[1]):
        output, trace, state = dream_step(
            x[:, t], state, params, config, None if timespans is None else timespans[:, t], missing=missing
        )
        outputs.append(output)
        traces.append(trace)
    return _stacked(outputs, traces, state)


class Measurements(NamedTuple):
    """All that a step of a run measured, none of which carries a gradient."""

    state: DREAMState  # before the step
    deviation: Tensor  # (N,)
    surprise: Tensor  # (N,)


@torch.no_grad()
def measure(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None = None,
    missing: bool = False,
) -> list[Measurements]:
    """The measurements of each step of a run, for `replay`."""
    recorded = []
    for t in range(x.shape[1]):
        before, span = state, None if timespans is None else timespans[:, t]
        _, trace, state = dream_step(x[:, t], state, params, config, span, missing=missing)
        recorded.append(Measurements(before, trace.deviation, trace.surprise))
    return recorded


def replay(
    recorded: Sequence[Measurements],
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None = None,
    missing: bool = False,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """`loop` with the measurements of another run in place of its own: what gradients are of."""
    outputs, traces = [], []
    for t, (was, r, S) in enumerate(recorded):
        state = replace(state, **{name: getattr(was, name) for name in MEASURED})
        span = None if timespans is None else timespans[:, t]
        with patch.object(F, "gauge", return_value=(r, S)):
            output, trace, state = dream_step(x[:, t], state, params, config, span, missing=missing)
        outputs.append(output)
        traces.append(trace)
    return _stacked(outputs, traces, state)


def _stacked(
    outputs: Sequence[Tensor], traces: Sequence[DREAMTrace], state: DREAMState
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    parts = (torch.stack(steps, 1) for steps in zip(*traces, strict=True))
    return torch.stack(outputs, 1), DREAMTrace(*parts), state


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in outputs, traces, states and lists of them, by path; None where there is none."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, DREAMState):
        return {f"{name}.{field}": tensor for field, tensor in value.items()}
    if isinstance(value, DREAMTrace):
        return {f"{name}.{field}": tensor for field, tensor in value._asdict().items()}
    if isinstance(value, Iterable):
        parts = [tensors(part, f"{name}[{k}]") for k, part in enumerate(value)]
        return {path: tensor for part in parts for path, tensor in part.items()}
    raise TypeError(type(value))


def assert_same(got: Any, expected: Any, *, atol: float = 1e-12, rtol: float = 1e-12) -> None:
    """Every tensor in `got` is that of `expected`, to rounding; dtypes too."""
    got, expected = tensors(got), tensors(expected)
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(
            tensor, expected[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
        )


def rows_of(value: Any, rows: Any) -> list[Tensor]:
    """Some rows of every tensor in `value`, for comparison with another run of these rows alone."""
    return [tensor[rows] for tensor in tensors(value).values()]


def leaves(*values: Tensor) -> list[Tensor]:
    """Fresh leaves with the same values, that want gradients."""
    return [value.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for value in values]


def modules(seed: int = 0, **knobs: Any) -> dict[str, DREAMCell | DREAM | DREAMStack]:
    """One of each module, input 3 wide, in float64 and evaluation mode."""
    torch.manual_seed(seed)
    knobs = {"rank": 2, **knobs}
    made = {
        "cell": DREAMCell(DREAMConfig(input_dim=3, hidden_dim=5, **knobs)),
        "layer": DREAM(3, 5, **knobs),
        "stack": DREAMStack(3, [5, 4], **knobs),
    }
    return {name: module.double().eval() for name, module in made.items()}
