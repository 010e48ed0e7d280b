"""Checks of arguments: shapes, dtypes, devices, lengths. A refusal names argument, expected, got and remedy.

Shapes: N samples, T steps, I `input_dim`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.masked import MaskedTensor

from dream.config import DREAMConfig
from dream.errors import ConfigError, DataError, ShapeError, StateError
from dream.numerics import largest
from dream.state import DREAMState
from dream.types import DREAMParams, key_shape


def tensor(name: str, value: object) -> None:
    """Refuse what is not a tensor of numbers that lie one after another, each of them known.

    Raises:
        DataError: it is no tensor, or a nested, sparse, quantized or masked one.
    """
    if not isinstance(value, Tensor):
        raise DataError(
            f"`{name}` must be a tensor; got {type(value).__name__}. Use torch.as_tensor; forward takes a "
            "PackedSequence."
        )
    if (kind := odd_kind(value)) is not None:
        raise DataError(f"`{name}` must be a dense tensor; got a {kind} one. {_DENSE[kind]}")


_DENSE = {
    "nested": "Pad it, with `lengths` for the valid steps.",
    "sparse": "Use .to_dense().",
    "MKL-DNN": "Use .to_dense().",
    "quantized": "Use .dequantize().",
    "masked": "Fill what is masked, or give the valid steps as `lengths`.",
}


def odd_kind(value: Tensor) -> str | None:
    """The kind of a tensor whose numbers cannot be read as those of a dense one; None if they can."""
    if value.is_nested:
        return "nested"
    if isinstance(value, MaskedTensor):
        return "masked"
    if value.is_quantized:
        return "quantized"
    if value.layout != torch.strided:
        return "MKL-DNN" if value.is_mkldnn else "sparse"
    return None


def configuration(value: object) -> None:
    """Refuse what is not a DREAMConfig.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, DREAMConfig):
        raise ConfigError(
            f"`config` must be a DREAMConfig; got {type(value).__name__}. Use DREAMConfig(...)."
        )


def state_of(value: DREAMState, config: DREAMConfig, like: Tensor, alone: bool = False) -> None:
    """Refuse what is not a state for `config` and the N, dtype and device of `like` (N, ...).

    `alone`: `like` came without a batch.

    Raises:
        StateError: it is not.
    """
    if not isinstance(value, DREAMState):
        kind = type(value).__name__
        raise StateError(
            f"`state` must be a DREAMState; got {kind}. Make a fresh one with init_state({like.shape[0]})."
        )
    if alone and value.batch_size != 1:
        given = tuple(like.shape[1:])
        raise StateError(
            f"`state` must be of 1 sample where `x` has no batch axis; got {value.batch_size}, and `x` "
            f"{given}. One step of each sample is x.unsqueeze(1)."
        )
    value.check(config, like)


def differentiable(x: Tensor, state: DREAMState | None, learned: Iterable[Tensor]) -> None:
    """Refuse what no gradient flows through: values of inference mode, and a state of a graph that is gone.

    Args:
        x: input.
        state: state before it; None for fresh samples.
        learned: parameters; where none asks a gradient, values of inference mode are fine.

    Raises:
        DataError, StateError: naming which.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    for part in () if state is None else (state.h, state.U):
        if (node := part.grad_fn) is not None and _freed(node):
            raise StateError(
                "`state` must not carry the history of a graph that a backward has freed. Use state.detach() "
                "for truncated back-propagation, or backward(retain_graph=True) before."
            )
    of_inference = [part.is_inference() for part in state or ()]
    if (x.is_inference() or any(of_inference)) and any(weight.requires_grad for weight in learned):
        kind, name = (StateError, "state") if any(of_inference) else (DataError, "x")
        raise kind(
            f"`{name}` must not come from torch.inference_mode where gradients are computed. Use "
            f"{name}.clone() outside of it, or torch.no_grad in its place."
        )


def _freed(node: Any) -> bool:
    """Whether a backward has freed what an operation saved."""
    kind: Any = type(node)
    name = _saved_name(kind)
    try:
        getattr(node, name, None)
    except RuntimeError as error:
        return "second time" in str(error)
    return False


@cache
def _saved_name(kind: Hashable) -> str:
    """An attribute of nodes of the graph that cannot be read once it is freed."""
    names = [name for name in dir(kind) if name.startswith("_saved_")]
    return names[0] if names else "_raw_saved_tensors"


def parameters(values: Sequence[Tensor | None], config: DREAMConfig, x: Tensor) -> None:
    """Refuse parameters, in the order of `DREAMParams`, that do not fit `config` and `x`.

    Raises:
        ShapeError, DataError: naming the first.
    """
    i, h = config.input_dim, config.hidden_dim
    shapes = {
        "C": (h, i),
        "c": (i,),
        "W": (i, h),
        "B": (i, h),
        "b": (h,),
        "A": (h, h),
        "G_x": (i, h),
        "G_h": (h, h),
        "V": (i, config.rank),
        "eta": (h,),
        "tonic": (h,),
        "tau": (h,),
        "surprise_scale": (),
        "error_var_prior": (i,),
        "K": key_shape(h),
        "k": (h,),
        "D": (config.rank, h),
    }
    dtype, device, dense = x.dtype, x.device, torch.strided
    for (name, shape), value in zip(shapes.items(), values, strict=True):
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.layout != dense:
            tensor(f"params.{name}", value)
        if value.shape != shape:
            got = tuple(value.shape)
            raise ShapeError(
                f"`params.{name}` must be {shape}, as `config` says; got {got}. Use the cell's own config."
            )
        if value.dtype != dtype or value.device != device:
            kind = f"{value.dtype} on {value.device}"
            raise DataError(
                f"`params.{name}` must be {dtype} on {device} like `x`; got {kind}. Move all parameters "
                "alike."
            )


def step_input(
    x: Tensor, timespans: Tensor | None, like: Tensor, config: DREAMConfig
) -> tuple[Tensor, Tensor | None, bool]:
    """Return x (N, I) and timespans (N,), and whether they came without a batch: (I,) and ().

    x is in the dtype that the layer computes in: that of `like`, its parameter C.

    Raises:
        ShapeError, DataError: see `_input`.
    """
    x = _input(x, timespans, like, config, ("batch",), "Remove the time axis or use a scan.")
    if x.dim() == 2:
        return x, timespans, False
    return x.unsqueeze(0), None if timespans is None else timespans.unsqueeze(0), True


def sequence(
    x: Tensor,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, bool]:
    """Return x (N, T, I), timespans (N, T), lengths (N,), and whether they came without a batch.

    Without one they are (T, I), (T,) and (). x is in the dtype that the layer computes in; lengths are None
    where all are T.

    Raises:
        ShapeError, DataError: see `_input`, `_lengths`.
    """
    hint = "Add a time axis with x.unsqueeze(-2); batch comes first."
    x = _input(x, timespans, params.C, config, ("batch", "time"), hint)
    parameters(params, config, x)
    lengths = _lengths(lengths, x)
    if x.dim() == 3:
        return x, timespans, lengths, False
    spans = None if timespans is None else timespans.unsqueeze(0)
    return x.unsqueeze(0), spans, None if lengths is None else lengths.unsqueeze(0), True


def _input(
    x: Tensor, timespans: Tensor | None, like: Tensor, config: DREAMConfig, axes: tuple[str, ...], hint: str
) -> Tensor:
    """Return `x` if it fits: number of dimensions, features, the parameters' dtype and device.

    `axes` are those before the features; the first, that of the batch, may be left out. Under autocast the
    layer before returns half precision, which is cast up. Half-precision parameters are refused: the
    statistics need float32."""
    expected = f"({', '.join((*axes, str(config.input_dim)))})"
    tensor("x", x)
    got = tuple(x.shape)
    if x.dim() not in (len(axes), len(axes) + 1):
        raise ShapeError(f"`x` must be {expected}; got {got}. {hint}")
    if x.shape[-1] != config.input_dim:
        raise ShapeError(
            f"`x` must be {expected}; got {got}: {x.shape[-1]} features. Set input_dim={x.shape[-1]}."
        )
    if like.dtype in (torch.float16, torch.bfloat16):
        raise DataError(
            f"the parameters must be float32 or float64; got {like.dtype}. Use .float() and torch.autocast."
        )
    if not x.is_floating_point():
        part = ", which keeps the real part alone" if x.is_complex() else ""
        raise DataError(f"`x` must be floating; got {x.dtype}. Use x.to({like.dtype}){part}.")
    if x.device != like.device:
        raise DataError(
            f"`x` must be on the parameters' device {like.device}; got {x.device}. Use x.to('{like.device}')."
        )
    _with_values("x", x)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(like.dtype)
    if x.dtype != like.dtype:
        raise DataError(
            f"`x` must have the parameters' dtype {like.dtype}; got {x.dtype}. Use x.to({like.dtype})."
        )
    if timespans is not None:
        tensor("timespans", timespans)
        if timespans.shape != x.shape[:-1]:
            got = tuple(timespans.shape)
            raise ShapeError(
                f"`timespans` must be {tuple(x.shape[:-1])} like `x`; got {got}. Give one for each step."
            )
        if timespans.dtype != x.dtype or timespans.device != x.device:
            raise DataError(
                f"`timespans` must be {x.dtype} on {x.device} like `x`; got {timespans.dtype} on "
                f"{timespans.device}. Use timespans.to(x)."
            )
    return x


def _with_values(name: str, value: Tensor) -> None:
    if value.device.type == "meta":
        raise DataError(f"`{name}` must hold values; it is on meta, which has none. Use a real device.")


def _lengths(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    """Return `lengths` (N,) on the device of `x` (N, T, I), or () of (T, I); None where all are T.

    Raises:
        ShapeError, DataError: not integers of that shape, or not all from 0 to T; where a program is traced,
            their values are not looked at.
    """
    if lengths is None:
        return None
    tensor("lengths", lengths)
    _with_values("lengths", lengths)
    *samples, steps, _ = x.shape
    if lengths.shape != (*samples,):
        got = tuple(lengths.shape)
        raise ShapeError(
            f"`lengths` must be {(*samples,)}; got {got}. Give each row its number of valid steps."
        )
    if lengths.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise DataError(f"`lengths` must be integers; got {lengths.dtype}. Use lengths.long().")
    if torch.compiler.is_compiling():  # there are no values yet
        return lengths.to(x.device)
    if not lengths.numel():
        return None
    low, high = (int(bound) for bound in torch.aminmax(lengths))
    if low < 0 or high > steps:
        raise DataError(
            f"`lengths` must lie between 0 and {steps}, the steps of `x`; got {low if low < 0 else high}. "
            "Count the valid steps from the start, or pad `x` further."
        )
    return None if low == steps else lengths.to(x.device)


def finite_values(x: Tensor, timespans: Tensor | None, lengths: Tensor | None, missing: bool = False) -> None:
    """Refuse NaN, numbers whose square is not finite, and timespans that are not positive.

    Padding of `x`, (N, T, I) or (N, I), may hold anything. One pass where all is well; `missing` lets NaN in
    `x` pass, as not observed. What torch.vmap maps over, or a program is traced with, has no values to look
    at, and passes.

    Raises:
        DataError: naming the first bad place.
    """
    if torch.compiler.is_compiling() or _mapped(x) or _mapped(timespans) or not x.numel():
        return
    most = largest(x.dtype)
    low, high = (bound.item() for bound in torch.aminmax(x.detach()))
    if -most <= low and high <= most:  # neither holds for NaN
        if timespans is None:
            return
        low, high = (bound.item() for bound in torch.aminmax(timespans.detach()))
        if low > 0 and high <= most:
            return
    bad = ((x.abs() > most) if missing else ~(x.abs() <= most)).any(-1)
    bad_span = torch.zeros_like(bad) if timespans is None else ~((timespans > 0) & (timespans <= most))
    if lengths is not None:
        valid = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device).unsqueeze(1)
        bad, bad_span = bad & valid, bad_span & valid
    if not bool((bad | bad_span).any()):
        return
    name, value, where = ("x", x, bad) if bool(bad.any()) else ("timespans", timespans, bad_span)
    assert value is not None
    place = where.nonzero()[0].tolist()
    at = f"row {place[0]}" + (f", step {place[1]}" if len(place) > 1 else "")
    numbers = value[tuple(place)]
    if missing:
        numbers = torch.where(numbers.isnan(), 0.0, numbers)
    if bool((numbers.abs() > most).any()) and bool(numbers.isfinite().all()):
        rule, remedy = (
            f"at most {most:.1e} in size, so that its square is finite in {x.dtype}",
            "Scale them first.",
        )
    else:
        rule, remedy = "finite" if name == "x" else "finite and positive", "Fill or drop them first."
    raise DataError(
        f"`{name}` must be {rule}; {int(where.sum())} of {where.numel()} steps are not, the first at {at}. "
        f"{remedy}"
    )


def _mapped(value: Tensor | None) -> bool:
    """Whether `value` is one of those that torch.vmap maps over, at any level of `torch.func` transforms."""
    if value is None or not torch._C._are_functorch_transforms_active():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        if torch._C._functorch.is_batchedtensor(value):
            return True
        value = torch._C._functorch.get_unwrapped(value)
    return False


def beyond(buffer: Tensor, value: Tensor) -> bool:
    """Whether `value` belongs to a transform of `torch.func` that was not given `buffer`, and so cannot enter
    it."""
    if not torch._C._are_functorch_transforms_active():
        return False
    level = torch._C._functorch.maybe_get_level
    return int(level(value)) > int(level(buffer))
