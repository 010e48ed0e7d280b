"""The fused scan for tensors on a GPU, by Triton: one launch for all steps, forward, and one backward.

`scan` serves whole sequences, `step` one step of one sample without gradients, `parameters` makes those of
the equations. The equations are in triton_forward.py, their adjoints in triton_backward.py; triton_cut.py
says how work is cut, triton_launch.py calls the kernels, triton_gradients.py computes the parameters'
gradients afterwards, triton_autograd.py is what autograd and torch.compile see, triton_learned.py serves
`parameters`.

Products within the scan have the precision of a recurrent layer's: where `torch.backends.cudnn.allow_tf32`
lets `nn.LSTM` round its operands to 10 bits of mantissa, or under autocast, these are half precision in a
unit of their own (a power of two for each matrix, and for each sample and step), which is tf32's mantissa
at half the bytes; otherwise float32. Sums are float32 in both.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`. Results are time-major, (T, N, ...),
and U is (N, R, H).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dream import checks
from dream.config import DREAMConfig
from dream.numerics import full_precision, norm, orthonormal
from dream.ops import triton_launch as launch
from dream.ops.padding import without_padding
from dream.ops.triton_autograd import STATE, run
from dream.ops.triton_cut import Flags, Knobs, Sizes, device_of, exactness, index_of, machine, power
from dream.ops.triton_learned import LARGEST_FILTER, effective, move_prior
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

__all__ = ["move_prior", "parameters", "refusal", "scan", "step"]

MOST_UNITS, MOST_RANKS = 1024, 64


def interpreted() -> bool:
    """Whether Triton runs kernels in Python, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _found(index: int | None) -> str | None:
    """Why no kernel runs on the GPU of this index, or in the interpreter if None; None if they do."""
    try:
        import triton.language  # noqa: F401
    except Exception as error:  # a Triton that does not fit torch fails in many ways
        return f"Triton cannot be imported ({error}); pip install 'dream-memory[triton]'"
    if index is not None and torch.version.hip is None and torch.cuda.get_device_capability(index) < (8, 0):
        return f"it needs compute capability 8.0; {torch.cuda.get_device_name(index)} has less"
    return None


def _lacking(index: int | None) -> str | None:
    return _found(index)


# for torch.compile a constant, as in `dream.ops.cpu`
_lacking._dynamo_marked_constant = True  # type: ignore[attr-defined]


def refusal(x: Tensor, config: DREAMConfig) -> str | None:
    """Why this backend cannot serve a call, or None."""
    if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreted()):
        return f"it serves tensors on a GPU; these are on {x.device.type}"
    if x.dtype != torch.float32:
        return f"it computes in float32; this is {x.dtype}"
    if not x.numel():
        return "it has nothing to read"
    if config.hidden_dim > MOST_UNITS or config.rank > MOST_RANKS:
        return (
            f"it serves `hidden_dim` up to {MOST_UNITS} and `rank` up to {MOST_RANKS}; these are "
            f"{config.hidden_dim} and {config.rank}"
        )
    if torch.compiler._is_exporting_flag:  # for `is_exporting()` Dynamo puts True up to torch 2.11
        return "an exported program could not run it elsewhere"
    if torch._C._are_functorch_transforms_active():
        return "torch.func cannot see into it"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    return _lacking(index_of(x))


def ten_bits(device: torch.device) -> bool:
    """Whether operands of 10 bits of mantissa are allowed in the products of a scan on a device."""
    if device.type != "cuda":
        return False
    return bool(torch._C._get_cudnn_allow_tf32()) or torch.is_autocast_enabled("cuda")


def _flags(
    config: DREAMConfig, plasticity: bool, missing: bool, keeps: bool, target: bool, half: bool
) -> Flags:
    plastic = config.base_plasticity > 0
    return Flags(plastic, plastic and plasticity, config.ltc_enabled, missing, keeps, target, half)


def _knobs(config: DREAMConfig) -> Knobs:
    return Knobs(*(getattr(config, name) for name in Knobs._fields))


def parameters(
    V_raw: Tensor | None, learned: Sequence[Tensor], config: DREAMConfig
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """See `dream.ops.registry.ParametersFunction`: one launch each way, where V fits into one program."""
    raw, V = V_raw, None
    if V_raw is not None and power(V_raw.shape[0]) * power(V_raw.shape[1]) > LARGEST_FILTER:
        raw, V = None, orthonormal(V_raw) * math.sqrt(config.rank)
    plastic, hastens = config.base_plasticity > 0, config.ltc_surprise_scale > 0
    filters, *others = effective(raw, *learned, plastic, hastens)
    return V if raw is None else filters, *others


def scan(
    x: Tensor,
    state: DREAMState | None,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None,
    lengths: Tensor | None,
    plasticity: bool,
    missing: bool,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """See `dream.scan.dream_scan`."""
    x, timespans, valid = without_padding(x, timespans, lengths)
    if state is None and not (config.base_plasticity > 0 and plasticity):  # it is part of what is returned
        state = DREAMState.fresh(config, x.shape[0], params.error_var_prior)
    before: dict[str, Any] = dict.fromkeys(STATE) if state is None else dict(state.items())
    inputs = (x, timespans, None if lengths is None else lengths.long(), *params, *before.values())
    grad = torch.is_grad_enabled()
    keeps = grad and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    target = grad and timespans is not None and timespans.requires_grad
    flags = _flags(config, plasticity, missing, keeps, target, ten_bits(x.device))
    with full_precision(x.device.type):
        results = run(inputs, _knobs(config), flags)
    y, expected = results["y"], results["expected"].transpose(0, 1)
    prediction = expected[:, :-1]
    forecast = expected[:, 1:].clone()  # so that a caller may change either alone
    output = y[1:].transpose(0, 1)
    if valid is not None:  # where a sample has ended it stands still
        at = valid.unsqueeze(-1)
        prediction, forecast, output = (torch.where(at, part, 0.0) for part in (prediction, forecast, output))
    surprise, deviation, u_norm = results["trace"].mT
    if not flags.plastic:
        u_norm = norm(before["U"].detach()).unsqueeze(1).expand_as(u_norm)
        u_norm = u_norm if valid is None else torch.where(valid, u_norm, 0.0)
    trace = DREAMTrace(prediction, forecast, results["error"].transpose(0, 1), surprise, deviation, u_norm)
    new = {name: results[f"{name}_"] for name in STATE if name != "h"}
    new["U"] = new["U"].mT if flags.plastic else before["U"]
    new["U_target"] = new["U_target"].mT if flags.learns else before["U_target"].detach()
    return output, trace, DREAMState(h=y[-1], **new)


def step(
    x: Tensor,
    state: DREAMState,
    learned: Sequence[Tensor | None],
    config: DREAMConfig,
    timespans: Tensor | None,
    plasticity: bool,
    missing: bool,
    owner: object,
) -> DREAMState:
    """See `dream.ops.registry.StepFunction`: one launch, with nothing of autograd around it."""
    checks.parameters(learned, config, x)
    weights = dict(zip(DREAMParams._fields, learned, strict=True))
    if weights["surprise_scale"] is None:
        weights["surprise_scale"] = x.new_full((), -torch.inf)
    flags = _flags(config, plasticity, missing, False, False, False)
    sizes = Sizes(1, 1, config.input_dim, config.hidden_dim, config.rank)
    gpu = machine(index_of(x))
    given: dict[str, Tensor | None] = {
        "x": x.unsqueeze(0),
        "timespans": None if timespans is None else timespans.unsqueeze(1),
        "lengths": None,
        **{name: weight.contiguous() for name, weight in weights.items() if weight is not None},
        **{name: part if name in ("U", "U_target") else part.contiguous() for name, part in state.items()},
    }
    with device_of(x):
        made = {name: x.new_empty(shape) for name, shape in launch.shapes(sizes, flags, gpu).items()}
        launch.forward(given, made, _knobs(config), flags, exactness(ten_bits(x.device), gpu))
    new = {name: made[f"{name}_"] for name in STATE if name != "h"}
    new["U"] = made["U_"].view(state.U.shape) if flags.plastic else state.U
    new["U_target"] = made["U_target_"].view(state.U.shape) if flags.learns else state.U_target
    return DREAMState(h=made["y"][-1], **new)
