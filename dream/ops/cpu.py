"""The fused scan for tensors on the CPU: one compiled call for all steps, forward, and one backward.

`scan` serves whole sequences, `step` one step of one sample without gradients. In between, the custom
operators `dream::scan` and `dream::scan_backward` hold what autograd and torch.compile must know; the
equations are in kernel/forward.h, their adjoints in kernel/backward.h, what both do to U in
kernel/fast_weights.h.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`. Results are time-major, (T, N,
...)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dream import checks, memory
from dream.config import DREAMConfig
from dream.errors import ConfigError
from dream.numerics import full_precision
from dream.ops import native
from dream.ops.padding import without_padding
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

SEGMENT = 128  # steps of one sample, or of up to 8 samples together, from one kept state of U to the next
DTYPES = (torch.float32, torch.float64)

# Names of the kernel's arguments, see kernel/fields.h.
STATE = tuple(field.name for field in fields(DREAMState))
KNOBS = (
    "entropy_influence",
    "surprise_temperature",
    "error_smoothing",
    "surprise_smoothing",
    "base_threshold",
    "kappa",
    "target_norm",
    "sleep_rate",
    "min_surprise_for_sleep",
    "forgetting_rate",
    "time_step",
)
INPUTS = ("x", "timespans", "lengths", *DREAMParams._fields, *STATE)
TRACE = ("error", "surprise", "deviation", "u_norm", "prediction")
OUTPUTS = ("output", *TRACE, *(f"{name}_" for name in STATE), "kept")
DIFFERENTIABLE = {
    "output": "d_output",
    "prediction": "d_prediction",
    "error": "d_error",
    "h_": "d_h",
    "U_": "d_U",
}
LEARNED = tuple(name for name in DREAMParams._fields if name != "error_var_prior")
SAVED = ("x", "timespans", "lengths", *LEARNED, "h", "output", "error", "surprise", "U_", "U_target_", "kept")
GRADIENTS = ("x", "timespans", *LEARNED, "h", "U")  # of these
OPTIONAL = ("timespans", "lengths", *DIFFERENTIABLE.values())


def _schema(inputs: Sequence[str], outputs: Sequence[str], more: str = "") -> str:
    tensors = ", ".join(f"Tensor{'?' if name in OPTIONAL else ''} {name}" for name in inputs)
    return f"({tensors}, float[] knobs, bool[] flags{more}) -> ({', '.join('Tensor' for _ in outputs)})"


class _Sizes:
    """Sizes of a call, and shapes of the kernel's arrays by name; an array that is not wanted is empty."""

    def __init__(self, given: Mapping[str, Any], flags: Sequence[bool]) -> None:
        n, t, i = given["x"].shape
        h, r = given["h"].shape[1], given["V"].shape[1]
        plastic, learns, liquid, missing, keeps = flags
        wide = 2 * h if liquid else h
        every = max(1, SEGMENT // max(1, min(n, 8)))
        none, segments = (0,), (t + every - 1) // every
        self.fixed = dict(samples=n, steps=t, inputs=i, hidden=h, rank=r, every=every)
        self.fixed |= dict(plastic=plastic, learns=learns, liquid=liquid, missing=missing)
        self.kept: dict[str, tuple[int, ...]] = {
            "gates": (t, n, wide),
            "cue": (t, n, h) if plastic else none,
            "read": (t + 1, n, r),
            "recalled": (t, n, r) if plastic else none,
            "filtered": (t, n, r) if learns else none,
            "x_read": (t, n, i) if missing else none,
            "norm": (t, n) if learns else none,
            "asleep": (t, n) if learns else none,
            "U_kept": (segments if learns else 1, n, r, h) if plastic else none,
            "U_target_kept": (segments, n, r, h) if learns else none,
        }
        self.shapes: dict[str, tuple[int, ...]] = {
            "output": (t, n, h),
            "error": (t, n, i),
            "prediction": (t + 1, n, i),
            **dict.fromkeys(("surprise", "deviation", "u_norm"), (t, n)),
            "h_": (n, h),
            **dict.fromkeys(("U_", "U_target_"), (n, h, r)),
            **dict.fromkeys(("adaptive_tau_", "avg_surprise_"), (n,)),
            **dict.fromkeys(("error_mean_", "error_var_"), (n, i)),
            "kept": (sum(map(math.prod, self.kept.values())),) if keeps else none,
        }

    def arguments(self, arrays: Mapping[str, Tensor | None], knobs: Sequence[float]) -> ctypes.Structure:
        """The kernel's arguments; `arrays` must outlive the call."""
        x, spans, kept = arrays["x"], arrays["timespans"], arrays["kept"]
        assert x is not None
        scan = _kernel().arguments(**self.fixed, **dict(zip(KNOBS, knobs, strict=True)))
        scan.threads = torch.get_num_threads()
        scan.forecasts = True
        scan.x_sample, scan.x_step = x.stride()[:2]
        if spans is not None:
            scan.span_sample, scan.span_step = spans.stride()
        for name, array in arrays.items():
            if array is not None and array.numel() and name != "kept":
                setattr(scan, name, array.data_ptr())
        if kept is not None and kept.numel():
            at = kept.data_ptr()
            for name, shape in self.kept.items():
                setattr(scan, name, at if math.prod(shape) else None)
                at += math.prod(shape) * kept.element_size()
        return scan


def _kernel() -> native.Kernel:
    kernel = native.kernel()
    assert isinstance(kernel, native.Kernel), kernel  # `refusal` comes first
    return kernel


def _arrays(names: Sequence[str], tensors: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
    """Tensors by name, laid out as the kernel reads them."""
    arrays = {
        name: None if tensor is None else tensor.contiguous()
        for name, tensor in zip(names, tensors, strict=True)
    }
    x = tensors[0]
    if x is not None and x.stride(2) == 1:
        arrays["x"] = x
    return arrays


def _scan(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags = arguments
    arrays = _arrays(INPUTS, tensors)
    sizes = _Sizes(arrays, flags)
    x = tensors[0]
    with _enough_memory(sizes, sum(map(math.prod, sizes.shapes.values())) * x.element_size()):
        made = {name: x.new_empty(sizes.shapes[name]) for name in OUTPUTS}
        _kernel().forward(sizes.arguments(arrays | made, knobs), x.dtype)
    return tuple(made.values())


def _enough_memory(sizes: _Sizes, needed: int = 0) -> memory.enough:
    fixed = sizes.fixed
    return memory.enough(
        lambda: (
            f"{fixed['samples']} samples of {fixed['steps']} steps in a layer of "
            f"`hidden_dim`={fixed['hidden']} and `rank`={fixed['rank']}"
        ),
        "Lower `batch_size`, the steps of a sequence or `hidden_dim`.",
        needed,
        key="batch_size",
    )


def _scan_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _, flags = arguments
    sizes = _Sizes(dict(zip(INPUTS, tensors, strict=True)), flags)
    return tuple(tensors[0].new_empty(sizes.shapes[name]) for name in OUTPUTS)


def _gradient_shapes(arrays: Mapping[str, Any], wanted: Sequence[bool]) -> dict[str, tuple[int, ...]]:
    """The shape of each gradient; empty where it is not wanted."""
    shapes = {
        name: tuple(arrays[name].shape)
        for name, wants in zip(GRADIENTS, wanted, strict=True)
        if wants and name != "U"
    }
    U = (*arrays["h"].shape, arrays["V"].shape[1])
    return dict.fromkeys(GRADIENTS, (0,)) | shapes | ({"U": U} if wanted[-1] else {})


def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags, wanted = arguments
    arrays = _arrays((*SAVED, *DIFFERENTIABLE.values()), tensors)
    x = tensors[0]
    sizes = _Sizes(arrays, flags)
    start = {"h": "d_h0", "U": "d_U0"}
    with _enough_memory(sizes):
        made = {name: x.new_empty(shape) for name, shape in _gradient_shapes(arrays, wanted).items()}
        into = {start.get(name, f"d_{name}"): gradient for name, gradient in made.items()}
        _kernel().backward(sizes.arguments(arrays | into, knobs), x.dtype)
    return tuple(made.values())


def _scan_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _, _, wanted = arguments
    arrays = dict(zip((*SAVED, *DIFFERENTIABLE.values()), tensors, strict=True))
    return tuple(tensors[0].new_empty(shape) for shape in _gradient_shapes(arrays, wanted).values())


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.knobs, ctx.flags = inputs
    results = dict(zip(OUTPUTS, output, strict=True))
    everything = dict(zip(INPUTS, tensors, strict=True)) | results
    ctx.save_for_backward(*(everything[name] for name in SAVED))
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(result for name, result in results.items() if name not in DIFFERENTIABLE))


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    outer = dict(zip(OUTPUTS, gradients, strict=True))
    needs = dict(zip(INPUTS, ctx.needs_input_grad, strict=False))
    given: dict[str, Tensor | None] = {}
    if any(outer[name] is not None for name in DIFFERENTIABLE):
        plastic, learns, liquid, *_ = ctx.flags
        unused = dict.fromkeys(("U", "V", "K", "k", "D"), not plastic)
        unused |= {"eta": not learns, "tonic": not learns}
        unused |= dict.fromkeys(("G_x", "G_h", "tau", "surprise_scale"), not liquid)
        wanted = [needs[name] and not unused.get(name, False) for name in GRADIENTS]
        parts = (*ctx.saved_tensors, *(outer[name] for name in DIFFERENTIABLE))
        results = _backward(*parts, ctx.knobs, ctx.flags, wanted)
        given = {
            name: result for name, result, wants in zip(GRADIENTS, results, wanted, strict=True) if wants
        }
        if needs["U"] and not plastic:
            given["U"] = outer["U_"]  # carried as it is
    return *(given.get(name) for name in INPUTS), None, None


def _refuse_second_derivatives(*_: Any) -> None:
    raise ConfigError(
        "`backend`='cpu' has no second derivatives. Use backend='reference' for them.", key="backend"
    )


_forward = torch.library.custom_op("dream::scan", _scan, mutates_args=(), schema=_schema(INPUTS, OUTPUTS))
_forward.register_fake(_scan_fake)
_forward.register_autograd(_differentiate, setup_context=_save)
_backward = torch.library.custom_op(
    "dream::scan_backward",
    _scan_backward,
    mutates_args=(),
    schema=_schema((*SAVED, *DIFFERENTIABLE.values()), GRADIENTS, ", bool[] wanted"),
)
_backward.register_fake(_scan_backward_fake)
_backward.register_autograd(_refuse_second_derivatives)


def _knobs(config: DREAMConfig) -> list[float]:
    """The values of `KNOBS`."""
    return [getattr(config, name) for name in KNOBS]


def refusal(x: Tensor, config: DREAMConfig) -> str | None:
    """Why this backend cannot serve a call, or None."""
    if x.device.type != "cpu":
        return f"it serves tensors on the CPU; these are on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"it computes in float32 and float64; this is {x.dtype}"
    if torch.compiler._is_exporting_flag:  # for `is_exporting()` Dynamo puts True up to torch 2.11
        return "an exported program could not run it elsewhere"
    if torch._C._are_functorch_transforms_active():
        return "torch.func cannot see into it"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    return _lacking()


def _lacking() -> str | None:
    """Why there is no kernel, or None."""
    kernel = native.kernel()
    return kernel if isinstance(kernel, str) else None


# For torch.compile a constant, not code to trace. `torch.compiler.assume_constant_result` sets just this, but
# imports the whole compiler, which takes longer than torch itself.
_lacking._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
    keeps = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    plastic = config.base_plasticity > 0
    with full_precision("cpu"):
        results = _forward(
            *inputs, _knobs(config), [plastic, plastic and plasticity, config.ltc_enabled, missing, keeps]
        )
        output, error, surprise, deviation, u_norm, expected, *new, _ = results
    expected = expected.transpose(0, 1)
    prediction = expected[:, :-1]
    forecast = expected[:, 1:].clone()  # so that a caller may change either alone
    if valid is not None:  # where a sample has ended stands its forecast
        prediction = torch.where(valid.unsqueeze(-1), prediction, 0.0)
    trace = DREAMTrace(prediction, forecast, error.transpose(0, 1), surprise.mT, deviation.mT, u_norm.mT)
    return output.transpose(0, 1), trace, DREAMState(*new)


class _Prepared(NamedTuple):
    """The arguments that stay the same from one step to the next, and the settings they hold for."""

    pointers: list[int | None]
    settings: tuple[DREAMConfig, bool, bool, torch.dtype]
    scan: ctypes.Structure
    learned: list[Tensor | None]  # parameters, which may change in place; copies where not contiguous


_prepared: WeakKeyDictionary[Any, _Prepared] = WeakKeyDictionary()


def single_steps(
    kernel: native.Kernel,
    learned: Sequence[Tensor | None],
    config: DREAMConfig,
    plasticity: bool,
    missing: bool,
    forecasts: bool = False,
) -> tuple[ctypes.Structure, list[Tensor | None]]:
    """The arguments that single steps of one sample have in common, and the parameters that they point to."""
    plastic = config.base_plasticity > 0
    held = [None if weight is None else weight.contiguous() for weight in learned]
    scan = kernel.arguments(
        samples=1,
        steps=1,
        inputs=config.input_dim,
        hidden=config.hidden_dim,
        rank=config.rank,
        every=1,
        threads=1,
        plastic=plastic,
        learns=plastic and plasticity,
        liquid=config.ltc_enabled,
        forecasts=forecasts,
        missing=missing,
        raw=True,
        **dict(zip(KNOBS, _knobs(config), strict=True)),
    )
    for name, weight in zip(DREAMParams._fields, held, strict=True):
        if weight is not None:
            setattr(scan, name, weight.data_ptr())
    return scan, held


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
    """See `dream.ops.registry.StepFunction`: the kernel alone, with nothing of autograd around it."""
    pointers = [
        weight.data_ptr() if weight is not None and weight.is_contiguous() else None for weight in learned
    ]
    prepared = _prepared.get(owner)
    settings = (config, plasticity, missing, x.dtype)
    if prepared is None or prepared.pointers != pointers or prepared.settings != settings:
        checks.parameters(learned, config, x)
        prepared = _Prepared(pointers, settings, *single_steps(_kernel(), learned, *settings[:3]))
        if all(mine is theirs for mine, theirs in zip(prepared.learned, learned, strict=True)):
            _prepared[owner] = prepared
    scan = type(prepared.scan).from_buffer_copy(prepared.scan)  # another thread may step with the same owner
    x = x.contiguous()
    old = [part.contiguous() for part in state]
    new = [torch.empty_like(part) for part in old]
    inputs, hidden, item = config.input_dim, config.hidden_dim, x.element_size()
    unread = torch.empty(hidden + 2 * inputs + 3, dtype=x.dtype)  # the output, which is h, and a trace
    scan.output = at = unread.data_ptr()
    scan.error = at = at + hidden * item
    scan.surprise = at = at + inputs * item
    scan.deviation = at = at + item
    scan.u_norm = at = at + item
    scan.prediction = at + item
    scan.x = x.data_ptr()
    if timespans is not None:
        scan.timespans = timespans.data_ptr()
    for name, before, after in zip(STATE, old, new, strict=True):
        setattr(scan, name, before.data_ptr())
        setattr(scan, f"{name}_", after.data_ptr())
    _kernel().forward(scan, x.dtype)
    return DREAMState(*new)
