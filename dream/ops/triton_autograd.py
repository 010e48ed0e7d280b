"""The scan of the Triton backend with its backward pass, for autograd and for torch.compile.

Eager calls go through `Scan`; a traced program holds the custom operators `dream::triton_scan` and
`dream::triton_scan_backward`, which compute the same at more cost to the host.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`. Results are time-major, (T, N, ...),
and U is (N, R, H).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dream import functional as F
from dream import memory
from dream.errors import ConfigError
from dream.ops import triton_gradients as products
from dream.ops import triton_launch as launch
from dream.ops.triton_cut import Flags, Knobs, Sizes, device_of, index_of, machine, parts_of_one
from dream.types import DREAMParams

STATE = ("h", "U", "U_target", "adaptive_tau", "error_mean", "error_var", "avg_surprise")
INPUTS = ("x", "timespans", "lengths", *DREAMParams._fields, *STATE)
TAPE = ("units", "ranks", "scalars", "U_kept", "target_kept", "read", "packed", "scales")
RESULTS = (
    *("y", "expected", "error", "trace", "U_", "U_target_"),
    *("adaptive_tau_", "error_mean_", "error_var_", "avg_surprise_"),
)
INCOMING = {"y": "d_y", "expected": "d_expected", "error": "d_error", "U_": "d_U"}
LEARNED = tuple(name for name in DREAMParams._fields if name != "error_var_prior")
SAVED = ("x", "timespans", "lengths", *LEARNED, "y", "error", "trace", "U_", *TAPE)
GRADIENTS = ("x", "timespans", *LEARNED, "h", "U")
OPTIONAL = ("timespans", "lengths", *STATE, *INCOMING.values())  # a state of None is fresh
AS_THEY_ARE = ("x", "U", "U_target", "timespans")  # the kernels take their strides; x is copied by time


def run(inputs: Sequence[Tensor | None], knobs: Knobs, flags: Flags) -> dict[str, Tensor]:
    """The results of a scan of `inputs`, in the order of `INPUTS`, and what else it returns, by name."""
    x = inputs[0]
    assert x is not None
    if type(x) is Tensor and not torch.compiler.is_compiling():
        results = eagerly(*inputs, knobs, flags)
        return dict(zip(RESULTS, results, strict=True))
    return dict(zip((*RESULTS, *TAPE), _forward(*inputs, list(knobs), list(flags)), strict=True))


def _enough_memory(sizes: Sizes) -> memory.enough:
    return memory.enough(
        lambda: (
            f"{sizes.samples} samples of {sizes.steps} steps in a layer of `hidden_dim`={sizes.hidden} and "
            f"`rank`={sizes.rank}"
        ),
        "Lower `batch_size`, the steps of a sequence or `hidden_dim`.",
        key="batch_size",
    )


def _computed(
    inputs: Sequence[Tensor | None], knobs: Knobs, flags: Flags
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Launch the scan; return what the kernel took, x in the order (T, N, I), and what it wrote."""
    given = _without_gaps(dict(zip(INPUTS, inputs, strict=True)))
    sizes, x = Sizes.of(given), given["x"]
    with _enough_memory(sizes), device_of(x):
        given["x"] = x.transpose(0, 1).contiguous()
        shapes = launch.shapes(sizes, flags, machine(index_of(x)))
        made = {name: x.new_empty(shapes[name], dtype=_dtype(name)) for name in (*RESULTS, *TAPE)}
        launch.forward(given, made, knobs, flags)
    return given, made


def _without_gaps(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tensor if tensor is None or name in AS_THEY_ARE else tensor.contiguous()
        for name, tensor in given.items()
    }


def _dtype(name: str) -> torch.dtype:
    return torch.float16 if name == "packed" else torch.float32


def _gradients(
    given: dict[str, Any], knobs: Knobs, flags: Flags, wanted: Sequence[bool]
) -> dict[str, Tensor]:
    """The gradients that are wanted, by name, that of U as (N, R, H), from tensors without gaps."""
    sizes, x = Sizes.of(given), given["x"]
    names = {name for name, wants in zip(GRADIENTS, wanted, strict=True) if wants}
    spans = "timespans" in names
    with _enough_memory(sizes), device_of(x):
        given["x"] = x.transpose(0, 1).contiguous()
        gpu = machine(index_of(x))
        shapes = launch.backward_room(sizes, flags, spans, gpu)
        own = {name: x.new_empty(shapes.pop(name)) for name in ("d_spans", "d_U")}  # they are returned
        room = parts_of_one(x, shapes) | own
        if given["d_y"] is None:
            given["d_y"] = x.new_zeros(given["y"].shape)
        if given["d_expected"] is not None:
            _after_last(given, room, flags)
        launch.backward(given, room, knobs, flags, spans)
        found = products.of_parameters(given, room, sizes, flags) if names & set(LEARNED) else {}
        if "x" in names:
            found["x"] = products.of_inputs(given, room, sizes, flags)
        if "h" in names:
            found["h"] = room["d_units"][0] + given["d_y"][0]
        if "U" in names:
            found["U"] = room["d_U"]
        if spans:
            found["timespans"] = room["d_spans"].mT
    return {name: found[name] for name in GRADIENTS if name in names}


def _after_last(given: dict[str, Any], room: Mapping[str, Tensor], flags: Flags) -> None:
    """The adjoint of the forecast after the last step, line 1 on the state: into those of h and U."""
    h, d_expected = given["y"][-1], given["d_expected"][-1]
    room["d_expected"][-1] = d_expected
    d_h = d_expected @ given["C"].mT
    if flags.plastic:
        K = given["K"]
        d_read = d_expected @ given["V"]
        d_key = (d_read.unsqueeze(1) @ given["U_"]).squeeze(1)
        room["d_key"][-1] = d_key
        d_U = d_read.unsqueeze(-1) * F.key(h, _Keys(K, given["k"])).unsqueeze(1)  # type: ignore[arg-type]
        given["d_U"] = d_U if given["d_U"] is None else given["d_U"] + d_U
        padded = torch.nn.functional.pad(d_key, (0, K.shape[0] * K.shape[1] - d_key.shape[1]))
        mixed = torch.einsum("ngj,gij->ngi", torch.unflatten(padded, -1, K.shape[:2]), K)
        d_h = d_h + mixed.flatten(1)[:, : d_key.shape[1]]
    given["d_y"] = torch.cat([given["d_y"][:-1], given["d_y"][-1:] + d_h])


class _Keys:
    """The parameters of a key."""

    def __init__(self, K: Tensor, k: Tensor) -> None:
        self.K, self.k = K, k


def _differentiate(
    ctx: Any, outer: Mapping[str, Tensor | None], backward: Callable[..., dict[str, Tensor]]
) -> tuple[Tensor | None, ...]:
    """The gradients of `INPUTS`, None where there is none, and of knobs and flags."""
    found: dict[str, Tensor] = {}
    if any(outer[name] is not None for name in INCOMING):
        flags = ctx.flags
        unused = dict.fromkeys(("U", "V", "K", "k", "D"), not flags.plastic)
        unused |= dict.fromkeys(("eta", "tonic"), not flags.learns)
        unused |= dict.fromkeys(("G_x", "G_h", "tau", "surprise_scale"), not flags.liquid)
        needs = dict(zip(INPUTS, ctx.needs_input_grad, strict=False))
        wanted = [needs[name] and not unused.get(name, False) for name in GRADIENTS]
        given = dict(zip(SAVED, ctx.saved_tensors, strict=True))
        given |= _without_gaps({name: outer[source] for source, name in INCOMING.items()})
        found = backward(given, ctx.knobs, flags, wanted)
        if "U" in found:
            found["U"] = found["U"].mT
    return *(found.get(name) for name in INPUTS), None, None


class Scan(torch.autograd.Function):
    """`RESULTS` from `INPUTS`, `Knobs` and `Flags`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *inputs, ctx.knobs, ctx.flags = arguments
        given, made = _computed(inputs, ctx.knobs, ctx.flags)
        if ctx.flags.keeps:
            everything = given | made | {"x": given["x"].transpose(0, 1)}
            ctx.save_for_backward(*(everything[name] for name in SAVED))
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(made[name] for name in RESULTS if name not in INCOMING))
        return tuple(made[name] for name in RESULTS)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # with create_graph through the operator, which refuses to be differentiated again
        backward = _by_operator if torch.is_grad_enabled() else _gradients
        return _differentiate(ctx, dict(zip(RESULTS, gradients, strict=True)), backward)


eagerly: Callable[..., tuple[Tensor, ...]] = Scan.apply


def _by_operator(
    given: dict[str, Any], knobs: Knobs, flags: Flags, wanted: Sequence[bool]
) -> dict[str, Tensor]:
    """As `_gradients`, by the custom operator."""
    parts = (given[name] for name in (*SAVED, *INCOMING.values()))
    results = _backward(*parts, list(knobs), list(flags), wanted)
    return {name: result for name, result, wants in zip(GRADIENTS, results, wanted, strict=True) if wants}


def _scan(*arguments: Any) -> tuple[Tensor, ...]:
    *inputs, knobs, flags = arguments
    return tuple(_computed(inputs, Knobs(*knobs), Flags(*flags))[1].values())


def _scan_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *inputs, _, flags = arguments
    x = inputs[0]
    sizes = Sizes.of(dict(zip(INPUTS, inputs, strict=True)))
    shapes = launch.shapes(sizes, Flags(*flags), machine(index_of(x)))
    return tuple(x.new_empty(shapes[name], dtype=_dtype(name)) for name in (*RESULTS, *TAPE))


def _scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, knobs, flags, wanted = arguments
    given = _without_gaps(dict(zip((*SAVED, *INCOMING.values()), tensors, strict=True)))
    found = _gradients(given, Knobs(*knobs), Flags(*flags), wanted)
    shapes = _gradient_shapes(given, wanted)
    return tuple(  # an operator's results may not share memory, and have no gaps
        found[name].clone(memory_format=torch.contiguous_format) if name in found else tensors[0].new_empty(0)
        for name in shapes
    )


def _scan_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, _, _, wanted = arguments
    arrays = dict(zip((*SAVED, *INCOMING.values()), tensors, strict=True))
    return tuple(tensors[0].new_empty(shape) for shape in _gradient_shapes(arrays, wanted).values())


def _gradient_shapes(arrays: Mapping[str, Any], wanted: Sequence[bool]) -> dict[str, tuple[int, ...]]:
    """The shape of each gradient, that of U as the kernels have it; empty where it is not wanted."""
    sizes = Sizes.of(arrays)
    own = {"h": (sizes.samples, sizes.hidden), "U": (sizes.samples, sizes.rank, sizes.hidden)}
    return {
        name: (own[name] if name in own else tuple(arrays[name].shape)) if wants else (0,)
        for name, wants in zip(GRADIENTS, wanted, strict=True)
    }


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, knobs, flags = inputs
    ctx.knobs, ctx.flags = Knobs(*knobs), Flags(*flags)
    results = dict(zip((*RESULTS, *TAPE), output, strict=True))
    everything = dict(zip(INPUTS, tensors, strict=True)) | results
    ctx.save_for_backward(*(everything[name] for name in SAVED))
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(result for name, result in results.items() if name not in INCOMING))


def _differentiate_traced(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    return _differentiate(ctx, dict(zip((*RESULTS, *TAPE), gradients, strict=True)), _by_operator)


def _refuse_second_derivatives(*_: Any) -> None:
    raise ConfigError(
        "`backend`='triton' has no second derivatives. Use backend='reference' for them.", key="backend"
    )


def _schema(inputs: Sequence[str], outputs: Sequence[str], more: str = "") -> str:
    tensors = ", ".join(f"Tensor{'?' if name in OPTIONAL else ''} {name}" for name in inputs)
    return f"({tensors}, float[] knobs, bool[] flags{more}) -> ({', '.join('Tensor' for _ in outputs)})"


_forward = torch.library.custom_op(
    "dream::triton_scan", _scan, mutates_args=(), schema=_schema(INPUTS, (*RESULTS, *TAPE))
)
_forward.register_fake(_scan_fake)
_forward.register_autograd(_differentiate_traced, setup_context=_save)
_backward = torch.library.custom_op(
    "dream::triton_scan_backward",
    _scan_backward,
    mutates_args=(),
    schema=_schema((*SAVED, *INCOMING.values()), GRADIENTS, ", bool[] wanted"),
)
_backward.register_fake(_scan_backward_fake)
_backward.register_autograd(_refuse_second_derivatives)
