"""Launches of the Triton backend: the kernels of the scan with their arguments, and what they write.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`; U is (N, R, H) here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from dream.ops.triton_call import Call, call
from dream.ops.triton_cut import (
    Flags,
    Knobs,
    Machine,
    Sizes,
    Tiles,
    every,
    exactness,
    index_of,
    machine,
    power,
    tiles,
)
from dream.ops.triton_gradients import products_in
from dream.types import key_shape

Arrays = Mapping[str, Tensor | None]
MATRICES = ("A", "G_h", "C", "W", "B", "G_x")  # in the order in which they are packed
BEFORE = ("h", "U", "U_target", "error_mean", "error_var", "adaptive_tau", "avg_surprise")
WRITTEN = (
    *("y", "expected", "error", "read", "trace", "units", "ranks", "scalars", "U_", "U_target_"),
    *("error_mean_", "error_var_", "adaptive_tau_", "avg_surprise_", "U_kept", "target_kept"),
)


def shapes(sizes: Sizes, flags: Flags, gpu: Machine) -> dict[str, tuple[int, ...]]:
    """Shapes of what the forward pass writes; what is not wanted is empty.

    A tape is `units`, `ranks`, `scalars`, `U_kept` and `target_kept`, see `dream.ops.triton_forward`;
    `read` is what was read where x was not observed. `packed` and `scales` are the weights in half
    precision.
    """
    n, t, i, h, r = sizes
    between = every(sizes, gpu)
    slots = t + 1 if between == 1 else (t + between - 1) // between
    none = (0,)
    kept = flags.keeps and flags.learns
    return {
        "y": (t + 1, n, h),
        "expected": (t + 1, n, i),
        "error": (t, n, i),
        "trace": (3, t, n),
        "U_": (n, r, h) if flags.plastic else none,
        "U_target_": (n, r, h) if flags.learns else none,
        "adaptive_tau_": (n,),
        "error_mean_": (n, i),
        "error_var_": (n, i),
        "avg_surprise_": (n,),
        "units": (4, t, n, h) if flags.keeps else (n, h),
        "ranks": (3, t + 1, n, r),
        "scalars": (5, t, n) if kept else none,
        "U_kept": (slots, n, r, h) if kept else none,
        "target_kept": (slots, n, r, h) if kept and (between > 1 or flags.keeps_target) else none,
        "read": (t, n, i) if flags.missing else none,
        "packed": (2 * h * h + 4 * h * i,) if flags.half else none,
        "scales": (6,) if flags.half else none,
    }


def weights(given: Mapping[str, Any], sizes: Sizes, half: bool) -> dict[str, Tensor]:
    """The matrices as the kernels read them: parts of `packed`, or the parameters themselves."""
    if not half:
        return {name: given[name] for name in MATRICES}
    h, i = sizes.hidden, sizes.inputs
    counts = {name: h * h if name in ("A", "G_h") else h * i for name in MATRICES}
    return dict(zip(MATRICES, given["packed"].split(list(counts.values())), strict=True))


@lru_cache(256)
def _scan_call(
    kernel: Any, shape: tuple[int, ...], cut: Tiles, flags: Flags, products: str, **more: bool
) -> Call:
    """The calls of a kernel of all steps for a layer of this `shape`, (I, H, R)."""
    inputs, hidden, rank = shape
    block = key_shape(hidden)[1]
    # else ptxas takes 64 registers for 512 threads, and spills; the option is NVIDIA's
    limit = {"maxnreg": 128} if cut.warps == 16 and products != "ieee" else {}
    constants = dict(
        I=inputs,
        H=hidden,
        R=rank,
        IB=cut.inputs,
        HP=power(hidden, 16),
        RP=power(rank),
        RB=cut.ranks,
        KB=block,
        KP=power(block),
        BN=cut.samples,
        BK=cut.products,
        STAGES=cut.stages,
        PREC=products,
        PLASTIC=flags.plastic,
        LEARNS=flags.learns,
        LIQUID=flags.liquid,
        MISSING=flags.missing,
        num_warps=cut.warps,
        **limit,
        **more,
    )
    return Call(kernel, constants)


def _sizes(given: Mapping[str, Any]) -> Sizes:
    """Sizes of a call whose x is in the order (T, N, I)."""
    t, n, i = given["x"].shape
    return Sizes(n, t, i, given["A"].shape[0], given["V"].shape[1])


def _strides(U: Tensor | None) -> tuple[int, ...]:
    """The strides of U or U_target (N, H, R); zeros for None."""
    return (0, 0, 0) if U is None else U.stride()


def forward(
    given: Arrays, made: Mapping[str, Tensor], knobs: Knobs, flags: Flags, fused: str | None = None
) -> None:
    """Launch all steps. `given` holds the inputs by name, x in the order (T, N, I), `made` what is written.

    `fused`, the precision of products with weights of float32: everything in one launch. Then eta, tau and
    s are logarithms and tonic is a logit, U comes and goes as (N, H, R).
    """
    from dream.ops import triton_forward, triton_products

    x, spans = given["x"], given["timespans"]
    assert x is not None
    sizes = _sizes(given)
    gpu = machine(index_of(x))
    cut = tiles(sizes, flags.half, gpu)
    if flags.half:
        pack = call(
            triton_products.pack,
            I=sizes.inputs,
            H=sizes.hidden,
            LIQUID=flags.liquid,
            BLOCK=4096,
            num_warps=16,
        )
        pack((6,), (*(given[name] for name in MATRICES), made["packed"], made["scales"]), ())
    drive = gate = None
    if fused is None:
        flat = x.nan_to_num() if flags.missing else x
        with products_in(flags.half, x.device):
            drive = flat @ given["B"]  # type: ignore[operator]
            gate = flat @ given["G_x"] if flags.liquid else None  # type: ignore[operator]
    launch = _scan_call(
        triton_forward.forward,
        sizes[2:],
        cut,
        flags,
        fused or exactness(flags.half, gpu),
        SLEEPS=flags.learns and knobs.sleep_rate > 0,
        PADDED=given["lengths"] is not None,
        SPANNED=spans is not None,
        KEEP=flags.keeps,
        KEEP_TARGET=bool(made["target_kept"].numel()),
        FUSED=fused is not None,
    )
    arrays = (
        *(x, drive, gate, spans, given["lengths"]),
        *(given[name] for name in BEFORE),
        *weights({**given, **made}, sizes, flags.half).values(),
        made["scales"],
        *(given[name] for name in ("V", "D", "K", "k", "c", "b", "eta", "tonic", "tau", "surprise_scale")),
        given["error_var_prior"],
        *(made[name] for name in WRITTEN),
    )
    numbers = (
        *(sizes.steps, sizes.samples, every(sizes, gpu)),
        *((0, 0) if spans is None else spans.stride()),
        *_strides(given["U"]),
        *_strides(given["U_target"]),
        sizes.hidden * sizes.rank,
        *((sizes.rank, 1) if fused else (1, sizes.hidden)),
        math.sqrt(min(sizes.inputs, sizes.rank)),
        math.log(knobs.time_step),
        knobs.forgetting_rate,
        knobs.entropy_influence,
        1.0 / knobs.surprise_temperature,
        knobs.error_smoothing,
        knobs.surprise_smoothing,
        knobs.base_threshold,
        knobs.target_norm,
        knobs.kappa,
        knobs.sleep_rate,
        knobs.min_surprise_for_sleep,
    )
    launch((-(-sizes.samples // cut.samples),), arrays, numbers)


def backward(
    given: Arrays, room: Mapping[str, Tensor], knobs: Knobs, flags: Flags, spans_wanted: bool
) -> None:
    """Launch all steps back. `given` holds what `forward` took and wrote, and the incoming gradients; `room`
    what is written."""
    from dream.ops import triton_backward

    x, spans = given["x"], given["timespans"]
    assert x is not None
    sizes = _sizes(given)
    gpu = machine(index_of(x))
    cut = tiles(sizes, flags.half, gpu, back=True)
    between = every(sizes, gpu)
    replays = flags.learns and between > 1
    before = room["before"] if replays else given["U_kept"] if flags.learns else given["U_"]
    launch = _scan_call(
        triton_backward.backward,
        sizes[2:],
        cut,
        flags,
        exactness(flags.half, gpu),
        PADDED=given["lengths"] is not None,
        SPANNED=spans_wanted,
        REPLAYS=replays,
        PREDICTION=given["d_expected"] is not None,
        WITH_ERROR=given["d_error"] is not None,
    )
    arrays = (
        *(given[name] for name in ("d_y", "d_expected", "d_error", "d_U")),
        *(x, spans, given["lengths"]),
        *weights(given, sizes, flags.half).values(),
        *(given[name] for name in ("scales", "V", "D", "K", "k", "eta", "tonic", "surprise_scale", "y")),
        *(given[name] for name in ("units", "ranks", "scalars", "trace", "U_", "U_kept", "target_kept")),
        before,
        room["target_before"] if replays else given["target_kept"],
        *(room[name] for name in ("adjoints", "d_key", "d_expected", "d_filtered", "d_units", "d_scale")),
        *(room[name] for name in ("d_spans", "d_U", "room")),
    )
    numbers = (
        *(sizes.steps, sizes.samples, between),
        *((0, 0) if spans is None else spans.stride()),
        math.sqrt(min(sizes.inputs, sizes.rank)),
        knobs.forgetting_rate,
        knobs.target_norm,
        knobs.kappa,
    )
    launch((-(-sizes.samples // cut.samples),), arrays, numbers)


def backward_room(sizes: Sizes, flags: Flags, spans_wanted: bool, gpu: Machine) -> dict[str, tuple[int, ...]]:
    """Shapes of what the backward pass writes."""
    n, t, i, h, r = sizes
    none, between = (0,), every(sizes, gpu)
    replays = flags.learns and between > 1
    return {
        "adjoints": (4, t, n, h),
        "d_key": (t + 1, n, h) if flags.plastic else none,
        "d_expected": (t + 1, n, i),
        "d_filtered": (t, n, r) if flags.learns else none,
        "d_units": (3, n, h),
        "d_scale": (n,),
        "d_spans": (t, n) if spans_wanted else none,
        "d_U": (n, r, h) if flags.plastic else none,
        "room": (4, n, r) if flags.plastic else none,
        "before": (between + 1, n, r, h) if replays else none,
        "target_before": (between + 1, n, r, h) if replays and spans_wanted else none,
    }
