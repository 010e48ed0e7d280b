"""The fused scan for tensors on a GPU, by Triton: one launch for all steps, forward, and one backward.

`scan` serves whole sequences, `step` one step of one sample without gradients. In between, the custom operators
`dream::triton_scan` and `dream::triton_scan_backward` hold what autograd and torch.compile must know. The
equations are in triton_forward.py, their adjoints in triton_backward.py; triton_launch.py calls them, and
computes the parameters' gradients as large products afterwards.

Products within the scan have the precision of a recurrent layer's: where `torch.backends.cudnn.allow_tf32` lets
`nn.LSTM` round its operands to 10 bits of mantissa, or under autocast, these are half precision in a unit of
their own (a power of two for each matrix, and for each sample and step), which is tf32's mantissa at half the
bytes; otherwise float32. Sums are float32 in both.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`. Results are time-major, (T, N, ...), and U
is (N, R, H).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dream import checks, memory
from dream import functional as F
from dream.config import DREAMConfig
from dream.errors import ConfigError
from dream.numerics import full_precision, norm
from dream.ops import triton_launch as launch
from dream.ops.padding import without_padding
from dream.ops.triton_launch import Flags, Knobs, Sizes
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

MOST_UNITS, MOST_RANKS = 1024, 64
STATE = ("h", "U", "U_target", "adaptive_tau", "error_mean", "error_var", "avg_surprise")
INPUTS = ("x", "timespans", "lengths", *DREAMParams._fields, *STATE)
TAPE = ("units", "ranks", "scalars", "U_kept", "target_kept", "read", "packed", "scales")
OUTPUTS = (
    *("y", "expected", "error", "trace", "U_", "U_target_"),
    *("adaptive_tau_", "error_mean_", "error_var_", "avg_surprise_"),
    *TAPE,
)
INCOMING = {"y": "d_y", "expected": "d_expected", "error": "d_error", "U_": "d_U"}
LEARNED = tuple(name for name in DREAMParams._fields if name != "error_var_prior")
SAVED = ("x", "timespans", "lengths", *LEARNED, "y", "error", "trace", "U_", *TAPE)
GRADIENTS = ("x", "timespans", *LEARNED, "h", "U")
OPTIONAL = ("timespans", "lengths", *INCOMING.values())


def _schema(inputs: Sequence[str], outputs: Sequence[str], more: str = "") -> str:
    tensors = ", ".join(f"Tensor{'?' if name in OPTIONAL else ''} {name}" for name in inputs)
    return f"({tensors}, float[] knobs, bool[] flags{more}) -> ({', '.join('Tensor' for _ in outputs)})"


def _enough_memory(sizes: Sizes) -> memory.enough:
    return memory.enough(
        lambda: (
            f"{sizes.samples} samples of {sizes.steps} steps in a layer of `hidden_dim`={sizes.hidden} and "
            f"`rank`={sizes.rank}"
        ),
        "Lower `batch_size`, the steps of a sequence or `hidden_dim`.",
        key="batch_size",
    )


def _scan(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags = arguments
    given, asked = dict(zip(INPUTS, tensors, strict=True)), Flags(*flags)
    sizes, x = Sizes.of(given), tensors[0]
    given = {
        name: tensor if tensor is None or name in ("U", "U_target", "timespans") else tensor.contiguous()
        for name, tensor in given.items()
    }
    with _enough_memory(sizes), _device_of(x):
        given["x"] = x.transpose(0, 1).contiguous()
        shapes = launch.shapes(sizes, asked, launch.machine(launch.index_of(x)))
        made = {name: x.new_empty(shapes[name], dtype=_dtype(name)) for name in OUTPUTS}
        launch.forward(given, made, Knobs(*knobs), asked)
        _forecast(given, made, asked)
    return tuple(made.values())


def _dtype(name: str) -> torch.dtype:
    return torch.float16 if name == "packed" else torch.float32


def _device_of(x: Tensor) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device if x.device.type == "cuda" else -1)


def _forecast(given: Mapping[str, Any], made: Mapping[str, Tensor], flags: Flags) -> None:
    """Line 1 after the last step, and q U."""
    h, expected = made["y"][-1], made["expected"][-1]
    torch.addmm(given["c"], h, given["C"], out=expected)
    if flags.plastic:
        read = _recalled(_key(h, given), made["U_"])
        made["ranks"][0, -1] = read
        expected.addmm_(read, given["V"].mT)


def _key(h: Tensor, given: Mapping[str, Any]) -> Tensor:
    return F.key(h, _Keys(given["K"], given["k"]))  # type: ignore[arg-type]


class _Keys:
    """The parameters of a key."""

    def __init__(self, K: Tensor, k: Tensor) -> None:
        self.K, self.k = K, k


def _recalled(key: Tensor, U: Tensor) -> Tensor:
    """What U (N, R, H) holds under a key (N, H): (N, R)."""
    return (U @ key.unsqueeze(-1)).squeeze(-1)


def _scan_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _, flags = arguments
    x = tensors[0]
    sizes = Sizes.of(dict(zip(INPUTS, tensors, strict=True)))
    shapes = launch.shapes(sizes, Flags(*flags), launch.machine(launch.index_of(x)))
    return tuple(x.new_empty(shapes[name], dtype=_dtype(name)) for name in OUTPUTS)


def _gradient_shapes(arrays: Mapping[str, Any], wanted: Sequence[bool]) -> dict[str, tuple[int, ...]]:
    """The shape of each gradient, that of U as the kernels have it; empty where it is not wanted."""
    sizes = Sizes.of(arrays)
    own = {"h": (sizes.samples, sizes.hidden), "U": (sizes.samples, sizes.rank, sizes.hidden)}
    return {
        name: (own[name] if name in own else tuple(arrays[name].shape)) if wants else (0,)
        for name, wants in zip(GRADIENTS, wanted, strict=True)
    }


def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags, wanted = arguments
    asked = Flags(*flags)
    given = {
        name: tensor if tensor is None or name == "timespans" else tensor.contiguous()
        for name, tensor in zip((*SAVED, *INCOMING.values()), tensors, strict=True)
    }
    x = tensors[0]
    sizes, names = Sizes.of(given), {name for name, wants in zip(GRADIENTS, wanted, strict=True) if wants}
    spans = "timespans" in names
    with _enough_memory(sizes), _device_of(x):
        given["x"] = x.transpose(0, 1).contiguous()
        gpu = launch.machine(launch.index_of(x))
        room = {
            name: x.new_empty(shape)
            for name, shape in launch.backward_room(sizes, asked, spans, gpu).items()
        }
        given["d_y"] = x.new_zeros(given["y"].shape) if given["d_y"] is None else given["d_y"]
        if asked.plastic and given["d_U"] is None:
            given["d_U"] = x.new_zeros(given["U_"].shape)
        if given["d_expected"] is not None:
            _after_last(given, room, asked)
        launch.backward(given, room, Knobs(*knobs), asked, spans)
        made = launch.gradients(given, room, sizes, asked, sorted(names))
        made |= {"h": room["d_units"][0] + given["d_y"][0], "U": room["d_U"]}
        if spans:
            made["timespans"] = room["d_spans"].mT
        shapes = _gradient_shapes(given | {"x": x}, wanted)
        return tuple(
            made[name].contiguous() if name in names else x.new_empty(shape)
            for name, shape in shapes.items()
        )


def _after_last(given: dict[str, Any], room: Mapping[str, Tensor], flags: Flags) -> None:
    """The adjoint of the forecast after the last step, which is line 1 on the state: into those of h and U."""
    h, d_expected = given["y"][-1], given["d_expected"][-1]
    room["d_expected"][-1] = d_expected
    d_h = d_expected @ given["C"].mT
    if flags.plastic:
        d_read = d_expected @ given["V"]
        d_key = (d_read.unsqueeze(1) @ given["U_"]).squeeze(1)
        room["d_key"][-1] = d_key
        given["d_U"] = given["d_U"] + d_read.unsqueeze(-1) * _key(h, given).unsqueeze(1)
        K = given["K"]
        padded = torch.nn.functional.pad(d_key, (0, K.shape[0] * K.shape[1] - d_key.shape[1]))
        mixed = torch.einsum("ngj,gij->ngi", padded.unflatten(-1, K.shape[:2]), K)
        d_h = d_h + mixed.flatten(1)[:, : d_key.shape[1]]
    given["d_y"] = torch.cat([given["d_y"][:-1], given["d_y"][-1:] + d_h])


def _scan_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _, _, wanted = arguments
    arrays = dict(zip((*SAVED, *INCOMING.values()), tensors, strict=True))
    return tuple(tensors[0].new_empty(shape) for shape in _gradient_shapes(arrays, wanted).values())


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.knobs, ctx.flags = inputs
    results = dict(zip(OUTPUTS, output, strict=True))
    everything = dict(zip(INPUTS, tensors, strict=True)) | results
    ctx.save_for_backward(*(everything[name] for name in SAVED))
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(result for name, result in results.items() if name not in INCOMING))


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    outer = dict(zip(OUTPUTS, gradients, strict=True))
    needs = dict(zip(INPUTS, ctx.needs_input_grad, strict=False))
    given: dict[str, Tensor | None] = {}
    if any(outer[name] is not None for name in INCOMING):
        flags = Flags(*ctx.flags)
        unused = dict.fromkeys(("U", "V", "K", "k", "D"), not flags.plastic)
        unused |= {"eta": not flags.learns, "tonic": not flags.learns}
        unused |= dict.fromkeys(("G_x", "G_h", "tau", "surprise_scale"), not flags.liquid)
        wanted = [needs[name] and not unused.get(name, False) for name in GRADIENTS]
        parts = (*ctx.saved_tensors, *(outer[name] for name in INCOMING))
        results = _backward(*parts, ctx.knobs, ctx.flags, wanted)
        given = {
            name: result for name, result, wants in zip(GRADIENTS, results, wanted, strict=True) if wants
        }
        if given.get("U") is not None:
            given["U"] = given["U"].mT  # type: ignore[union-attr]
    return *(given.get(name) for name in INPUTS), None, None


def _refuse_second_derivatives(*_: Any) -> None:
    raise ConfigError(
        "`backend`='triton' has no second derivatives. Use backend='reference' for them.", key="backend"
    )


_forward = torch.library.custom_op(
    "dream::triton_scan", _scan, mutates_args=(), schema=_schema(INPUTS, OUTPUTS)
)
_forward.register_fake(_scan_fake)
_forward.register_autograd(_differentiate, setup_context=_save)
_backward = torch.library.custom_op(
    "dream::triton_scan_backward",
    _scan_backward,
    mutates_args=(),
    schema=_schema((*SAVED, *INCOMING.values()), GRADIENTS, ", bool[] wanted"),
)
_backward.register_fake(_scan_backward_fake)
_backward.register_autograd(_refuse_second_derivatives)


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
    if config.hidden_dim > MOST_UNITS or config.rank > MOST_RANKS:
        return (
            f"it serves `hidden_dim` up to {MOST_UNITS} and `rank` up to {MOST_RANKS}; these are "
            f"{config.hidden_dim} and {config.rank}"
        )
    if torch.compiler.is_exporting():
        return "an exported program could not run it elsewhere"
    if torch._C._are_functorch_transforms_active():
        return "torch.func cannot see into it"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    return _lacking(launch.index_of(x))


def ten_bits(device: torch.device) -> bool:
    """Whether operands of 10 bits of mantissa are allowed in the products of a scan on a device."""
    if device.type != "cuda":
        return False
    return bool(torch._C._get_cudnn_allow_tf32()) or torch.is_autocast_enabled("cuda")


def _flags(config: DREAMConfig, plasticity: bool, missing: bool, keeps: bool, target: bool, half: bool) -> Flags:
    plastic = config.base_plasticity > 0
    return Flags(plastic, plastic and plasticity, config.ltc_enabled, missing, keeps, target, half)


def _knobs(config: DREAMConfig) -> Knobs:
    return Knobs(*(getattr(config, name) for name in Knobs._fields))


def scan(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None,
    lengths: Tensor | None,
    plasticity: bool,
    missing: bool,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """See `dream.scan.dream_scan`."""
    x, timespans, valid = without_padding(x, timespans, lengths)
    inputs = (x, timespans, None if lengths is None else lengths.long(), *params, *state)
    grad = torch.is_grad_enabled()
    keeps = grad and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    target = grad and timespans is not None and timespans.requires_grad
    flags = _flags(config, plasticity, missing, keeps, target, ten_bits(x.device))
    with full_precision(x.device.type):
        results = dict(zip(OUTPUTS, _forward(*inputs, list(_knobs(config)), list(flags)), strict=True))
    y, expected = results["y"], results["expected"].transpose(0, 1)
    prediction, forecast = expected[:, :-1], expected[:, 1:].clone()  # so that a caller may change either alone
    output = y[1:].transpose(0, 1)
    if valid is not None:  # where a sample has ended it stands still
        at = valid.unsqueeze(-1)
        prediction, forecast, output = (torch.where(at, part, 0.0) for part in (prediction, forecast, output))
    surprise, deviation, u_norm = results["trace"].mT
    if not flags.plastic:
        u_norm = norm(state.U.detach()).unsqueeze(1).expand_as(u_norm)
        u_norm = u_norm if valid is None else torch.where(valid, u_norm, 0.0)
    trace = DREAMTrace(prediction, forecast, results["error"].transpose(0, 1), surprise, deviation, u_norm)
    new = {name: results.get(f"{name}_", y[-1]) for name in STATE}
    new["U"] = results["U_"].mT if flags.plastic else state.U
    new["U_target"] = results["U_target_"].mT if flags.learns else state.U_target.detach()
    return output, trace, DREAMState(**new)


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
    gpu = launch.machine(launch.index_of(x))
    given: dict[str, Tensor | None] = {
        "x": x.unsqueeze(0),
        "timespans": None if timespans is None else timespans.unsqueeze(1),
        "lengths": None,
        **{name: weight.contiguous() for name, weight in weights.items() if weight is not None},
        **{name: part if name in ("U", "U_target") else part.contiguous() for name, part in state.items()},
    }
    with _device_of(x):
        made = {name: x.new_empty(shape) for name, shape in launch.shapes(sizes, flags, gpu).items()}
        launch.forward(given, made, _knobs(config), flags, "tf32" if ten_bits(x.device) else gpu.products)
    new = {name: made.get(f"{name}_", made["y"][-1]) for name in STATE}
    new["U"] = made["U_"].view(state.U.shape) if flags.plastic else state.U
    new["U_target"] = made["U_target_"].view(state.U.shape) if flags.learns else state.U_target
    return DREAMState(**new)
