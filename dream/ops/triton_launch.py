"""Launches of the Triton backend: the kernels of the scan with their arguments, and what they write.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`; U is (N, R, H) here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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


def _constants(sizes: Sizes, cut: Tiles, flags: Flags, products: str) -> dict[str, Any]:
    """The arguments of both kernels that are compiled in."""
    block = key_shape(sizes.hidden)[1]
    # else ptxas takes 64 registers for 512 threads, and spills; the option is NVIDIA's
    limit = {"maxnreg": 128} if cut.warps == 16 and products != "ieee" else {}
    return dict(
        I=sizes.inputs,
        H=sizes.hidden,
        R=sizes.rank,
        IB=cut.inputs,
        HP=power(sizes.hidden, 16),
        RP=power(sizes.rank),
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
    )


def _sizes(given: Mapping[str, Any]) -> Sizes:
    """Sizes of a call whose x is in the order (T, N, I)."""
    t, n, i = given["x"].shape
    return Sizes(n, t, i, given["A"].shape[0], given["V"].shape[1])


def _strides(name: str, U: Tensor | None) -> dict[str, int]:
    """The strides of U or U_target (N, H, R), as the kernel calls them."""
    sample, unit, rank = (0, 0, 0) if U is None else U.stride()
    return {f"{name}_sample": sample, f"{name}_unit": unit, f"{name}_rank": rank}


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
        triton_products.pack[(6,)](
            *(given[name] for name in MATRICES),
            made["packed"],
            made["scales"],
            sizes.inputs,
            sizes.hidden,
            flags.liquid,
            BLOCK=4096,
            num_warps=16,
        )
    drive = gate = None
    if fused is None:
        flat = x.nan_to_num() if flags.missing else x
        with products_in(flags.half, x.device):
            drive = flat @ given["B"]  # type: ignore[operator]
            gate = flat @ given["G_x"] if flags.liquid else None  # type: ignore[operator]
    triton_forward.forward[(-(-sizes.samples // cut.samples),)](
        X=x,
        DRIVE=drive,
        GATE=gate,
        SPANS=spans,
        LENGTHS=given["lengths"],
        H0=given["h"],
        U0=given["U"],
        TARGET0=given["U_target"],
        MEAN0=given["error_mean"],
        VAR0=given["error_var"],
        THRESHOLD0=given["adaptive_tau"],
        AVG0=given["avg_surprise"],
        **weights({**given, **made}, sizes, flags.half),
        SCALES=made["scales"],
        **{
            name: given[name]
            for name in ("V", "D", "K", "k", "c", "b", "eta", "tonic", "tau", "surprise_scale")
        },
        prior=given["error_var_prior"],
        Y=made["y"],
        EXPECTED=made["expected"],
        ERROR=made["error"],
        READ=made["read"],
        TRACE=made["trace"],
        UNITS=made["units"],
        RANKS=made["ranks"],
        SCALARS=made["scalars"],
        U=made["U_"],
        TARGET=made["U_target_"],
        MEAN=made["error_mean_"],
        VAR=made["error_var_"],
        THRESHOLD=made["adaptive_tau_"],
        AVG=made["avg_surprise_"],
        U_KEPT=made["U_kept"],
        TARGET_KEPT=made["target_kept"],
        T=sizes.steps,
        N=sizes.samples,
        every=every(sizes, gpu),
        span_sample=spans.stride(0) if spans is not None else 0,
        span_step=spans.stride(1) if spans is not None else 0,
        **_strides("u", given["U"]),
        **_strides("t", given["U_target"]),
        out_sample=sizes.hidden * sizes.rank,
        out_unit=sizes.rank if fused else 1,
        out_rank=1 if fused else sizes.hidden,
        root_rho=math.sqrt(min(sizes.inputs, sizes.rank)),
        log_step=math.log(knobs.time_step),
        forgetting=knobs.forgetting_rate,
        alpha=knobs.entropy_influence,
        warmth=1.0 / knobs.surprise_temperature,
        beta=knobs.error_smoothing,
        beta_s=knobs.surprise_smoothing,
        tau_0=knobs.base_threshold,
        norm_allowed=knobs.target_norm,
        kappa=knobs.kappa,
        zeta=knobs.sleep_rate,
        least=knobs.min_surprise_for_sleep,
        **_constants(sizes, cut, flags, fused or exactness(flags.half, gpu)),
        SLEEPS=flags.learns and knobs.sleep_rate > 0,
        PADDED=given["lengths"] is not None,
        SPANNED=spans is not None,
        KEEP=flags.keeps,
        KEEP_TARGET=bool(made["target_kept"].numel()),
        FUSED=fused is not None,
    )


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
    triton_backward.backward[(-(-sizes.samples // cut.samples),)](
        D_Y=given["d_y"],
        D_PREDICTION=given["d_expected"],
        D_ERROR=given["d_error"],
        D_FINAL=given["d_U"],
        X=x,
        SPANS=spans,
        LENGTHS=given["lengths"],
        **weights(given, sizes, flags.half),
        SCALES=given["scales"],
        **{name: given[name] for name in ("V", "D", "K", "k", "eta", "tonic", "surprise_scale")},
        Y=given["y"],
        UNITS=given["units"],
        RANKS=given["ranks"],
        SCALARS=given["scalars"],
        SURPRISE=given["trace"],
        U=given["U_"],
        U_KEPT=given["U_kept"],
        TARGET_KEPT=given["target_kept"],
        BEFORE=before,
        TARGET_BEFORE=room["target_before"] if replays else given["target_kept"],
        ADJOINTS=room["adjoints"],
        D_KEY=room["d_key"],
        D_EXPECTED=room["d_expected"],
        D_FILTERED=room["d_filtered"],
        D_UNITS=room["d_units"],
        D_SCALE=room["d_scale"],
        D_SPANS=room["d_spans"],
        D_U=room["d_U"],
        ROOM=room["room"],
        T=sizes.steps,
        N=sizes.samples,
        every=between,
        span_sample=spans.stride(0) if spans is not None else 0,
        span_step=spans.stride(1) if spans is not None else 0,
        root_rho=math.sqrt(min(sizes.inputs, sizes.rank)),
        forgetting=knobs.forgetting_rate,
        norm_allowed=knobs.target_norm,
        kappa=knobs.kappa,
        **_constants(sizes, cut, flags, exactness(flags.half, gpu)),
        PADDED=given["lengths"] is not None,
        SPANNED=spans_wanted,
        REPLAYS=replays,
        PREDICTION=given["d_expected"] is not None,
        WITH_ERROR=given["d_error"] is not None,
    )


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
