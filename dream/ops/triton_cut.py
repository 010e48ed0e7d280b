"""How the Triton backend cuts a call for a GPU.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`; U is (N, R, H) here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

SEGMENTS = 8  # all states of U are kept where they take no more than this part of the memory
HELD = 8192  # numbers of U that a program holds in registers


class Flags(NamedTuple):
    """Wishes of a call."""

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
    """Properties of a GPU that decide how work is cut."""

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


@lru_cache(256)
def tiles(sizes: Sizes, half: bool, gpu: Machine, back: bool = False) -> Tiles:
    """The cut for a call, forward or `back`.

    As many programs as processors, but with no more samples than have U in registers; where even one has
    not, ranks in parts, of which the backward pass takes twice as many. It holds U and its adjoint, and so
    has more warps. Whole matrices at once in products where they are small.
    """
    hidden, rank, item = power(sizes.hidden, 16), power(sizes.rank), 2 if half else 4
    samples = min(8, power(-(-sizes.samples // gpu.processors)))
    fits = hidden * rank <= HELD
    while samples > 1 and samples * hidden * (rank if fits else 1) > (HELD if fits else HELD // 2):
        samples //= 2
    ranks = min(rank, max(1, HELD * (1 if fits or not back else 2) // (samples * hidden)))
    inputs = min(power(sizes.inputs, 16), max(16, 65536 // (hidden * item)), 64)
    products, stages = 16, 1
    if half and hidden <= 128:
        products = hidden
    else:
        for wanted in ((64, 3), (32, 3), (32, 2), (16, 3), (16, 2)):
            if wanted[0] * wanted[1] * (2 * hidden + inputs) * item <= 0.6 * gpu.shared:
                products, stages = wanted
                break
    elements = samples * ranks * hidden
    warps = 16 if elements > HELD else 8 if elements * (2 if back else 1) >= 2048 else 4
    return Tiles(samples, inputs, ranks, min(products, hidden), stages, warps)


def every(sizes: Sizes, gpu: Machine) -> int:
    """Steps from one kept state of U to the next."""
    whole = 4 * (sizes.steps + 1) * sizes.samples * sizes.hidden * sizes.rank
    return 1 if whole <= gpu.memory // SEGMENTS else math.isqrt(sizes.steps - 1) + 1


def exactness(half: bool, gpu: Machine) -> str:
    """The precision of Triton's products of float32."""
    return "tf32" if half and gpu.products != "ieee" else gpu.products  # AMD has it on some alone


@lru_cache(256)
def _layout(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, list[tuple[Any, ...]]]:
    """How many numbers all of these shapes take, and of each (shape, strides, offset)."""
    parts, begin = [], 0
    for shape in shapes:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts.append((shape, strides, begin))
        begin += -(-math.prod(shape) // 64) * 64  # 256 bytes
    return begin, parts


def parts_of_one(x: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Empty tensors of these shapes and the kind of x, in one piece of memory: an allocation costs time."""
    count, parts = _layout(tuple(shapes.values()))
    whole = x.new_empty(count)
    return {name: whole.as_strided(*part) for name, part in zip(shapes, parts, strict=True)}


def device_of(x: Tensor) -> Any:
    """A context in which Triton launches on the device of x: it takes the current one."""
    return torch.cuda.device(x.device if x.device.type == "cuda" else -1)
