"""What the Triton backend launches: how work is cut for a GPU, the kernels' arguments, the products afterwards.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`; U is (N, R, H) here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dream.types import DREAMParams, key_shape

Arrays = Mapping[str, Tensor | None]
MATRICES = ("A", "G_h", "C", "W", "B", "G_x")  # in the order in which they are packed
SEGMENTS = 8  # all states of U are kept where they take no more than this part of the memory


class Flags(NamedTuple):
    """What a call asks for."""

    plastic: bool
    learns: bool
    liquid: bool
    missing: bool
    keeps: bool  # a tape for the backward pass
    keeps_target: bool  # U_target too, for the gradient of timespans
    half: bool  # operands of 10 bits of mantissa


class Knobs(NamedTuple):
    """The numbers of a configuration that the kernels use, by its names."""

    time_step: float
    forgetting_rate: float
    entropy_influence: float
    surprise_temperature: float
    error_smoothing: float
    surprise_smoothing: float
    base_threshold: float
    target_norm: float
    kappa: float
    sleep_rate: float
    min_surprise_for_sleep: float


class Sizes(NamedTuple):
    """Sizes of a call."""

    samples: int
    steps: int
    inputs: int
    hidden: int
    rank: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Sizes:
        n, t, i = given["x"].shape
        return cls(n, t, i, given["A"].shape[0], given["V"].shape[1])


class Machine(NamedTuple):
    """What of a GPU decides how work is cut."""

    processors: int
    shared: int  # bytes, of a block
    memory: int  # bytes
    products: str  # how Triton's products of float32 keep its mantissa


class Tiles(NamedTuple):
    """How a kernel cuts its work."""

    samples: int  # of a program
    inputs: int  # at a time
    ranks: int  # at a time
    products: int  # units at a time, in a product
    stages: int  # of loading them
    warps: int


@cache
def machine(index: int | None) -> Machine:
    """The GPU of this index; the interpreter, if None."""
    if index is None:
        return Machine(1, 1 << 17, 1 << 33, "ieee")
    found = torch.cuda.get_device_properties(index)
    shared = getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block)
    exact = "tf32x3" if torch.version.hip is None else "ieee"
    return Machine(found.multi_processor_count, shared, found.total_memory, exact)


def index_of(x: Tensor) -> int | None:
    """The index of a tensor's GPU; None for the interpreter."""
    return x.device.index if x.device.type == "cuda" else None


def power(number: int, least: int = 1) -> int:
    """The smallest power of two that is at least `number` and `least`."""
    return max(least, 1 << (number - 1).bit_length())


def tiles(sizes: Sizes, half: bool, gpu: Machine) -> Tiles:
    """The cut for a call: as many programs as processors, and U in registers where it fits."""
    hidden, item = power(sizes.hidden, 16), 2 if half else 4
    samples = min(8, power(-(-sizes.samples // gpu.processors)))
    while samples > 1 and samples * hidden > 4096:
        samples //= 2
    ranks = min(power(sizes.rank), max(1, 16384 // (samples * hidden)))
    inputs = min(power(sizes.inputs, 16), max(16, 65536 // (hidden * item)), 64)
    products, stages = 16, 1
    for wanted in ((64, 3), (32, 3), (32, 2), (16, 3), (16, 2)):
        if wanted[0] * wanted[1] * (2 * hidden + inputs) * item <= 0.6 * gpu.shared:
            products, stages = wanted
            break
    elements = samples * ranks * hidden
    warps = 4 if elements <= 2048 else 8 if elements <= 8192 else 16
    return Tiles(samples, inputs, ranks, min(products, hidden), stages, warps)


def every(sizes: Sizes, gpu: Machine) -> int:
    """Steps from one kept state of U to the next."""
    whole = 4 * (sizes.steps + 1) * sizes.samples * sizes.hidden * sizes.rank
    return 1 if whole <= gpu.memory // SEGMENTS else math.isqrt(sizes.steps - 1) + 1


def shapes(sizes: Sizes, flags: Flags, gpu: Machine) -> dict[str, tuple[int, ...]]:
    """Shapes of what the forward pass writes; what is not wanted is empty.

    A tape is `units`, `ranks`, `scalars`, `U_kept` and `target_kept`, see `dream.ops.triton_forward`; `read` is
    what was read where x was not observed. `packed` and `scales` are the weights in half precision.
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


def _precision(half: bool, gpu: Machine) -> str:
    """The precision of Triton's products of float32."""
    return "tf32" if half else gpu.products


def _constants(sizes: Sizes, cut: Tiles, flags: Flags, products: str) -> dict[str, Any]:
    """The arguments of both kernels that are compiled in."""
    block = key_shape(sizes.hidden)[1]
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
    )


def forward(
    given: Arrays, made: Mapping[str, Tensor], knobs: Knobs, flags: Flags, fused: str | None = None
) -> None:
    """Launch all steps. `given` holds the inputs by name, x in the order (T, N, I), `made` what is written.

    `fused`, the precision of products with weights of float32: everything in one launch. Then eta, tau and s are
    logarithms and tonic is a logit, U comes and goes as (N, H, R).
    """
    from dream.ops import triton_forward, triton_products

    x, spans, U, target = given["x"], given["timespans"], given["U"], given["U_target"]
    assert x is not None and U is not None and target is not None
    sizes = Sizes(x.shape[1], x.shape[0], x.shape[2], given["A"].shape[0], given["V"].shape[1])  # type: ignore[union-attr]
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
        U0=U,
        TARGET0=target,
        MEAN0=given["error_mean"],
        VAR0=given["error_var"],
        THRESHOLD0=given["adaptive_tau"],
        AVG0=given["avg_surprise"],
        **weights({**given, **made}, sizes, flags.half),
        SCALES=made["scales"],
        **{name: given[name] for name in ("V", "D", "K", "k", "c", "b", "eta", "tonic", "tau", "surprise_scale")},
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
        u_sample=U.stride(0),
        u_unit=U.stride(1),
        u_rank=U.stride(2),
        t_sample=target.stride(0),
        t_unit=target.stride(1),
        t_rank=target.stride(2),
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
        **_constants(sizes, cut, flags, fused or _precision(flags.half, gpu)),
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
    sizes = Sizes(x.shape[1], x.shape[0], x.shape[2], given["A"].shape[0], given["V"].shape[1])  # type: ignore[union-attr]
    gpu = machine(index_of(x))
    cut = tiles(sizes, flags.half, gpu)
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
        **_constants(sizes, cut, flags, _precision(flags.half, gpu)),
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


def key_gradient(given: Arrays, room: Mapping[str, Tensor], sizes: Sizes, rows: int, half: bool) -> Tensor:
    """The gradient of K, (G, m, m), from what the backward pass wrote; `rows` of the key's adjoints."""
    from dream.ops import triton_products

    groups, block, _ = key_shape(sizes.hidden)
    cue_rows = sizes.steps * sizes.samples
    shares = max(1, min(64, rows // 256))
    share = -(-rows // shares)
    parts = room["d_key"].new_empty(shares, groups, block, block)
    triton_products.key_gradient[(groups, shares)](
        given["y"],
        room["d_key"],
        given["units"],
        room["adjoints"][3],
        parts,
        rows,
        cue_rows,
        share,
        H=sizes.hidden,
        KB=block,
        KP=power(block, 16),
        BLOCK=64,
        PREC=_precision(half, machine(index_of(parts))),
        num_warps=4,
    )
    return parts.sum(0)


@contextmanager
def products_in(half: bool, device: torch.device) -> Iterator[None]:
    """Products of torch in tf32, where those of the scan have no more bits than that."""
    change = device.type == "cuda" and half and not torch._C._get_cublas_allow_tf32()
    if change:
        torch._C._set_cublas_allow_tf32(True)
    try:
        yield
    finally:
        if change:
            torch._C._set_cublas_allow_tf32(False)


def gradients(given: Arrays, room: Mapping[str, Tensor], sizes: Sizes, flags: Flags, wanted: Sequence[str]) -> dict[str, Tensor]:
    """The gradients of x and of the parameters, as products of the tape with what the backward pass wrote."""
    n, t, _, h, _ = sizes
    last = t + 1 if given["d_expected"] is not None else t

    def rows(part: Tensor | None, steps: int = t) -> Tensor:
        assert part is not None
        return part[:steps].reshape(steps * n, -1)

    du, dv, dg, d_cue_key = (rows(part) for part in room["adjoints"])
    d_expected = rows(room["d_expected"], last)
    y, x = given["y"], given["read"] if flags.missing else given["x"]
    ranks, scalars = given["ranks"], given["scalars"]
    assert y is not None and ranks is not None
    found: dict[str, Any] = {
        "A": lambda: rows(y).mT @ dv,
        "C": lambda: rows(y, last).mT @ d_expected,
        "c": lambda: d_expected.sum(0),
        "W": lambda: rows(given["error"]).mT @ du,
        "B": lambda: rows(x).mT @ dv,
        "b": lambda: dv.sum(0),
    }
    if flags.liquid:
        tau, scale = given["tau"], room["d_scale"]
        assert tau is not None
        found |= {
            "G_x": lambda: rows(x).mT @ dg,
            "G_h": lambda: rows(y).mT @ dg,
            "tau": lambda: dg.sum(0) / -tau,
            "surprise_scale": lambda: scale.sum(),
        }
    if flags.plastic:

        def recalled() -> Tensor:
            o = ranks[2, :t]
            return rows(o * scalars[0].unsqueeze(-1) if scalars is not None and flags.learns else o).mT @ du

        def filters() -> Tensor:
            d_V = d_expected.mT @ rows(ranks[0], last)
            return d_V + rows(given["error"]).mT @ rows(room["d_filtered"]) if flags.learns else d_V

        found |= {
            "D": recalled,
            "V": filters,
            "K": lambda: key_gradient(given, room, sizes, last * n, flags.half),
            "k": lambda: rows(room["d_key"], last).sum(0) + d_cue_key.sum(0),
        }
    if flags.learns:
        found |= {"eta": lambda: room["d_units"][1].sum(0), "tonic": lambda: room["d_units"][2].sum(0)}

    def inputs() -> Tensor:
        d_error = -room["d_expected"][:t]
        if given["d_expected"] is not None:
            d_error = d_error + given["d_expected"][:t]
        d_x = d_error + (dv @ given["B"].mT).view_as(d_error)  # type: ignore[union-attr]
        if flags.liquid:
            d_x += (dg @ given["G_x"].mT).view_as(d_error)  # type: ignore[union-attr]
        if flags.missing:
            d_x = torch.where(given["x"].isnan(), 0.0, d_x)  # type: ignore[union-attr]
        return d_x.transpose(0, 1)

    found["x"] = inputs
    with products_in(flags.half, du.device):
        return {name: found[name]() for name in wanted if name in found}
