"""The fused scan for tensors on the CPU: one compiled call for all steps, forward, and one backward.

`scan` is what the registry calls, `step` what a cell calls for one row and one step without gradients. In between, the
custom operators `dream::scan` and `dream::scan_backward` hold what autograd and torch.compile must know; the equations
are in kernel/forward.h and kernel/backward.h.

Shapes: N rows of the batch, T steps, I `input_dim`, H `hidden_dim`, R `rank`. Results are time-major, (T, N, ...).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dream.config import DREAMConfig
from dream.ops import native
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

SEGMENT = 16  # steps from one kept state of U to the next; the backward pass recomputes those in between
DTYPES = (torch.float32, torch.float64)

FLAGS = ("plastic", "learns", "liquid", "keeps")
KNOBS = native.NUMBERS
INPUTS = ("x", "timespans", "lengths", *DREAMParams._fields, *native.STATE)
TRACE = ("error", "surprise", "deviation", "u_norm", "prediction")
OUTPUTS = ("output", *TRACE, *native.NEW_STATE, "kept")
DIFFERENTIABLE = {"output": "d_output", "prediction": "d_prediction", "error": "d_error", "h_": "d_h", "U_": "d_U"}
SAVED = (
    *("x", "timespans", "lengths", "C", "W", "B", "A", "G_x", "G_h", "V", "eta", "tonic", "tau", "surprise_scale"),
    *("h", "output", "error", "surprise", "kept"),
)
ADJOINTS = ("d_sums", "d_x", "d_filtered", "d_pace", "d_forget", "d_m", "d_h0", "d_U0")
OPTIONAL = ("timespans", "lengths", *DIFFERENTIABLE.values())


def _schema(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    tensors = ", ".join(f"Tensor{'?' if name in OPTIONAL else ''} {name}" for name in inputs)
    return f"({tensors}, float[] knobs, bool[] flags) -> ({', '.join('Tensor' for _ in outputs)})"


class _Sizes:
    """The sizes of a call, and the shapes of the kernel's arrays by name; what it does not want is empty."""

    def __init__(self, given: Mapping[str, Any], flags: Sequence[bool]) -> None:
        n, t, i = self.rows, self.steps, self.inputs = given["x"].shape
        h, r = self.hidden, self.rank = given["h"].shape[1], given["V"].shape[1]
        plastic, learns, liquid, keeps = flags
        wide = self.wide = 2 * h if liquid else h
        self.every = SEGMENT if learns else t
        none, segments = (0,), (t + self.every - 1) // self.every
        self.flags = (plastic, learns, liquid)
        self.kept: dict[str, tuple[int, ...]] = {
            "gates": (t, n, wide),
            "slope": (t, n, i),
            "read": (t + 1, n, r),
            "filtered": (t, n, r),
            "norm": (t, n) if learns else none,
            "asleep": (t, n) if learns else none,
            "U_kept": (segments, n, r, h) if plastic else none,
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
            "d_sums": (t + 1, n, wide + i),
            "d_x": (t, n, i),
            "d_filtered": (t, n, r),
            "d_pace": (t, n),
            "d_forget": (t, n) if learns and given["timespans"] is not None else none,
            "d_m": (2, h),
            "d_h0": (n, h),
            "d_U0": (n, h, r),
        }

    def parts(self, kept: Tensor) -> dict[str, Tensor]:
        """The arrays that lie one after another in `kept`."""
        sizes = [math.prod(shape) for shape in self.kept.values()]
        return {
            name: part.view(shape) for (name, shape), part in zip(self.kept.items(), torch.split(kept, sizes), strict=True)
        }

    def arguments(self, arrays: Mapping[str, Tensor | None], knobs: Sequence[float]) -> native.Scan:
        """The kernel's arguments; `arrays` must outlive the call."""
        x, spans, kept = arrays["x"], arrays["timespans"], arrays["kept"]
        assert x is not None
        strides = (x.stride(0), x.stride(1), *((0, 0) if spans is None else (spans.stride(0), spans.stride(1))))
        sizes = (self.rows, self.steps, self.inputs, self.hidden, self.rank, self.every, torch.get_num_threads())
        scan = native.Scan(*sizes, *self.flags, True, False, *strides, *knobs)
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
    """The tensors by name, as the kernel reads them."""
    arrays = {name: None if tensor is None else tensor.contiguous() for name, tensor in zip(names, tensors, strict=True)}
    x = tensors[0]
    if x is not None and x.stride(2) == 1:
        arrays["x"] = x
    return arrays


def _scan(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags = arguments
    arrays = _arrays(INPUTS, tensors)
    sizes = _Sizes(arrays, flags)
    x = tensors[0]
    made = {name: x.new_empty(sizes.shapes[name]) for name in OUTPUTS}
    _kernel().forward(sizes.arguments(arrays | made, knobs), x.dtype)
    return tuple(made.values())


def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags = arguments
    arrays = _arrays((*SAVED, *DIFFERENTIABLE.values()), tensors)
    sizes = _Sizes(arrays, flags)
    x, kernel = tensors[0], _kernel()
    made = {name: x.new_empty(sizes.shapes[name]) for name in ADJOINTS}
    by_block = x.new_empty(kernel.blocks(sizes.rows, torch.get_num_threads()), *sizes.shapes["d_m"])
    kernel.backward(sizes.arguments(arrays | made | {"d_m": by_block}, knobs), x.dtype)
    made["d_m"] = by_block.sum(0)
    return tuple(made.values())


def _fake(names: Sequence[str], outputs: Sequence[str]) -> Any:
    def shapes(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, _, flags = arguments
        sizes = _Sizes(dict(zip(names, tensors, strict=True)), flags)
        return tuple(tensors[0].new_empty(sizes.shapes[name]) for name in outputs)

    return shapes


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.knobs, ctx.flags = inputs
    results = dict(zip(OUTPUTS, output, strict=True))
    everything = dict(zip(INPUTS, tensors, strict=True)) | results
    ctx.save_for_backward(*(everything[name] for name in SAVED))
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(result for name, result in results.items() if name not in DIFFERENTIABLE))


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The adjoints of all steps, by the kernel; from them the parameters' gradients, each one product over all steps."""
    saved = dict(zip(SAVED, ctx.saved_tensors, strict=True))
    outer = dict(zip(OUTPUTS, gradients, strict=True))
    if not any(outer[name] is not None for name in DIFFERENTIABLE):
        return (None,) * (len(INPUTS) + 2)
    with torch.autocast("cpu", enabled=False):
        adjoints = _backward(*saved.values(), *(outer[name] for name in DIFFERENTIABLE), ctx.knobs, ctx.flags)
        given = _gradients(saved, dict(zip(ADJOINTS, adjoints, strict=True)), outer, ctx)
    return (
        *(given.get(name) if wanted else None for name, wanted in zip(INPUTS, ctx.needs_input_grad, strict=False)),
        None,
        None,
    )


def _gradients(
    saved: Mapping[str, Any], d: Mapping[str, Tensor], outer: Mapping[str, Tensor | None], ctx: Any
) -> dict[str, Tensor | None]:
    needs = {name for name, wanted in zip(INPUTS, ctx.needs_input_grad, strict=False) if wanted}
    plastic, learns, liquid, _ = ctx.flags
    rows, hidden = saved["h"].shape
    wide = 2 * hidden if liquid else hidden
    sums = d["d_sums"].flatten(0, 1)
    steps = sums[:-rows]  # without the forecast
    of_input, of_u, of_prediction = steps[:, :wide], steps[:, :hidden], sums[:, wide:]  # [u | pace], u, x_hat
    given: dict[str, Tensor | None] = {"h": d["d_h0"], "U": d["d_U0"] if plastic else outer["U_"]}
    if "x" in needs:
        inflow = torch.cat([saved["B"], saved["G_x"]], 1) if liquid else saved["B"]
        d_x = torch.addmm(d["d_x"].flatten(0, 1), of_input, inflow.mT)
        given["x"] = d_x.view_as(d["d_x"]).transpose(0, 1)
    if needs & {"B", "G_x"}:
        x = saved["x"].transpose(0, 1).reshape(-1, saved["x"].shape[-1])
        by_input = x.mT @ of_input
        given["B"], given["G_x"] = by_input[:, :hidden], by_input[:, hidden:] if liquid else None
    if needs & {"A", "G_h", "C"}:
        by_state = saved["h"].mT @ sums[:rows]
        by_state = torch.addmm(by_state, saved["output"].flatten(0, 1).mT, sums[rows:])
        given["A"], given["C"] = by_state[:, :hidden], by_state[:, wide:]
        given["G_h"] = by_state[:, hidden:wide] if liquid else None
    if needs & {"b", "tau", "c"}:
        total = sums.sum(0)
        given["b"], given["c"] = total[:hidden], total[wide:]
        given["tau"] = -total[hidden:wide] / saved["tau"] if liquid else None
    if "W" in needs:
        given["W"] = saved["error"].flatten(0, 1).mT @ of_u
    if "surprise_scale" in needs:
        S = saved["surprise"]
        given["surprise_scale"] = (d["d_pace"] * S / (1.0 + saved["surprise_scale"] * S)).sum()
    if needs & {"eta", "tonic"} and learns:
        m, m_S = d["d_m"]
        eta, tonic = saved["eta"], saved["tonic"]
        given["eta"], given["tonic"] = tonic * m + (1.0 - tonic) * m_S, eta * (m - m_S)
    if "V" in needs and plastic:
        read = _Sizes(saved, ctx.flags).parts(saved["kept"])["read"].flatten(0, 1)
        given["V"] = saved["error"].flatten(0, 1).mT @ d["d_filtered"].flatten(0, 1) + of_prediction.mT @ read
    if "timespans" in needs:
        spans, rate = saved["timespans"], ctx.knobs[KNOBS.index("rate")]
        given["timespans"] = d["d_pace"].mT / spans if liquid else torch.zeros_like(spans)
        if learns:
            given["timespans"] = given["timespans"] + d["d_forget"].mT * rate / (1.0 + rate * spans).square()
    return given


_forward = torch.library.custom_op("dream::scan", _scan, mutates_args=(), schema=_schema(INPUTS, OUTPUTS))
_forward.register_fake(_fake(INPUTS, OUTPUTS))
_forward.register_autograd(_differentiate, setup_context=_save)
_ADJOINT_INPUTS = (*SAVED, *DIFFERENTIABLE.values())
_backward = torch.library.custom_op(
    "dream::scan_backward", _scan_backward, mutates_args=(), schema=_schema(_ADJOINT_INPUTS, ADJOINTS)
)
_backward.register_fake(_fake(_ADJOINT_INPUTS, ADJOINTS))


def _knobs(config: DREAMConfig) -> list[float]:
    """In the order of `KNOBS`."""
    c = config
    return [
        *(c.entropy_influence, c.surprise_temperature, c.error_smoothing, c.surprise_smoothing, c.base_threshold),
        *(c.kappa, c.target_norm, c.sleep_rate, c.min_surprise_for_sleep, c.forgetting_rate, c.time_step),
    ]


def refusal(x: Tensor, config: DREAMConfig) -> str | None:
    """Why this backend cannot serve a call, or None."""
    if x.device.type != "cpu":
        return f"it serves tensors on the CPU; these are on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"it computes in float32 and float64; this is {x.dtype}"
    if torch._C._are_functorch_transforms_active():
        return "torch.func cannot see into it"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    kernel = native.kernel()
    return kernel if isinstance(kernel, str) else None


def scan(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None,
    lengths: Tensor | None,
    plasticity: bool,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """See `dream.scan.dream_scan`."""
    steps = x.shape[1]
    valid = None
    if lengths is not None:
        valid = torch.arange(steps, device=x.device) < lengths.unsqueeze(1)
        x = torch.where(valid.unsqueeze(-1), x, 0.0)
        timespans = None if timespans is None else torch.where(valid, timespans, 1.0)
    inputs = (x, timespans, None if lengths is None else lengths.long(), *params, *state)
    keeps = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    plastic = config.base_plasticity > 0
    with torch.autocast("cpu", enabled=False):
        results = _forward(*inputs, _knobs(config), [plastic, plastic and plasticity, config.ltc_enabled, keeps])
        output, error, surprise, deviation, u_norm, expected, *new, _ = results
    expected = expected.transpose(0, 1)
    prediction, forecast = expected[:, :-1], expected[:, 1:]
    if valid is not None:  # where a row has ended stands its forecast
        prediction = torch.where(valid.unsqueeze(-1), prediction, 0.0)
    trace = DREAMTrace(prediction, forecast, error.transpose(0, 1), surprise.mT, deviation.mT, u_norm.mT)
    return output.transpose(0, 1), trace, DREAMState(*new)


def step(
    x: Tensor,
    state: DREAMState,
    learned: Sequence[Tensor | None],
    config: DREAMConfig,
    timespans: Tensor | None,
    plasticity: bool,
) -> DREAMState:
    """One step of one row without gradients: the kernel alone, with nothing of autograd or its dispatch around it.

    Args:
        x: (1, I).
        state: one row.
        learned: the parameters in the order of `DREAMParams`, but eta, tau and surprise scale as logarithms and tonic as a
            logit, contiguous; None for a surprise scale of 0.
        config, timespans, plasticity: see `scan`.

    Returns:
        The state after the step.
    """
    inputs, hidden, plastic = config.input_dim, config.hidden_dim, config.base_plasticity > 0
    sizes = (1, 1, inputs, hidden, config.rank, 1, 1)
    flags = (plastic, plastic and plasticity, config.ltc_enabled, False, True)
    old = [part.contiguous() for part in state]
    new = [torch.empty_like(part) for part in old]
    given = [x.contiguous(), timespans, None, *old]
    unread = torch.empty(hidden + 2 * inputs + 3, dtype=x.dtype)  # output, which is h, and what a trace would hold
    at, item = unread.data_ptr(), x.element_size()
    ends = itertools.accumulate((0, hidden, inputs, 1, 1, 1))
    weights = [None if weight is None else weight.contiguous() for weight in learned]
    pointers = [None if array is None else array.data_ptr() for array in (*weights, *given)]
    pointers += [at + end * item for end in ends]
    pointers += [part.data_ptr() for part in new]
    _kernel().forward(native.Scan(*sizes, *flags, 0, 0, 0, 0, *_knobs(config), *pointers), x.dtype)
    return DREAMState(*new)
