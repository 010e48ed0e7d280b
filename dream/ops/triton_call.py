"""Calls of Triton's kernels that leave out its front end once it has compiled for such arguments.

The front end looks at each argument of each call for what it compiles in: whether a pointer or an integer is
a multiple of 16, an integer 1, a tensor None. That takes the host longer than a small kernel takes the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

FRONT_ENDS = ("3.6.", "3.7.")  # Triton's versions whose compiled kernels take arguments as here
LIMIT = 1 << 31  # of integers of 32 bits


@lru_cache(4096, typed=True)  # 1 and 1.0 are equal
def _kinds(*numbers: float) -> tuple[Any, ...]:
    """The kinds of numbers: Triton compiles in 1, that one is a multiple of 16, and its size."""
    return tuple(
        float if isinstance(number, float) else (number == 1, number % 16 == 0, -LIMIT <= number < LIMIT)
        for number in numbers
    )


class Call:
    """Calls of a kernel with the same `constants`: what is compiled in, and options of the compiler.

    The kernel's parameters are arrays, then numbers, then constants.
    """

    def __init__(self, kernel: Any, constants: dict[str, Any]) -> None:
        import triton
        from triton.runtime.jit import JITFunction

        self.kernel, self.constants = kernel, constants
        self.direct = isinstance(kernel, JITFunction) and triton.__version__.startswith(FRONT_ENDS)
        self.within = (
            [constants[name] for name in kernel.arg_names if name in constants] if self.direct else []
        )
        self.compiled: dict[Any, Any] = {}

    def __call__(
        self, grid: tuple[int, ...], arrays: Sequence[Tensor | None], numbers: Sequence[float]
    ) -> None:
        """Launch so many programs on the current device."""
        if not self.direct:
            self.kernel[grid](*arrays, *numbers, **self.constants)
            return
        pointers = [None if array is None else array.data_ptr() for array in arrays]
        key = (
            torch.cuda.current_device(),
            tuple([None if array is None else array.dtype for array in arrays]),
            tuple([None if pointer is None else pointer % 16 == 0 for pointer in pointers]),
            _kinds(*numbers),
        )
        compiled = self.compiled.get(key)
        if compiled is None:
            self.compiled[key] = self.kernel[grid](*arrays, *numbers, **self.constants)
        else:
            compiled[*grid, 1, 1](*pointers, *numbers, *self.within)


@lru_cache(256)
def call(kernel: Any, **constants: Any) -> Call:
    """The calls of a kernel with these constants, the same object each time."""
    return Call(kernel, constants)
