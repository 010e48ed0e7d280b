"""Triton's compiler without a GPU: the arguments of the backend's launches, and what their kernels need."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as nvidia
from triton.compiler import ASTSource

from dream import DREAM
from dream.ops import triton as backend
from dream.ops import (
    triton_autograd,
    triton_backward,
    triton_forward,
    triton_gradients,
    triton_launch,
    triton_parameters,
    triton_products,
)
from dream.ops.triton_cut import Machine

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
}
MACHINES = {  # processors, shared memory of a block, memory
    "cuda:80": Machine(108, 166912, 40 << 30, "tf32x3"),
    "cuda:90": Machine(132, 232448, 80 << 30, "tf32x3"),
    "hip:gfx942": Machine(304, 65536, 192 << 30, "ieee"),
}
KERNELS = {
    triton_forward: ("forward",),
    triton_backward: ("backward",),
    triton_products: ("pack", "gradients", "totals"),
    triton_parameters: ("effective", "effective_back", "move_prior"),
}
OPTIONS = ("num_warps", "num_stages", "maxnreg")
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.int64: "*i64"}


class Needs(NamedTuple):
    """What a kernel needs of a processor; None where the compiler does not say."""

    shared: int  # bytes, of a block
    registers: int
    spilled: int  # bytes of a thread for NVIDIA, registers for AMD


class Recorder:
    """A kernel that is launched without being run."""

    def __init__(self, kernel: Any, seen: dict[str, tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*values: Any, **named: Any) -> None:
            arguments = dict(zip(self.kernel.arg_names, values, strict=False)) | named
            self.seen[self.kernel.__name__] = self.kernel, arguments

        return launch


@contextmanager
def _recorded(machine: Machine, half: bool) -> Iterator[dict[str, tuple[Any, dict[str, Any]]]]:
    seen: dict[str, tuple[Any, dict[str, Any]]] = {}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(backend, "interpreted", return_value=True))
        stack.enter_context(mock.patch.object(backend, "ten_bits", return_value=half))
        for module in (triton_autograd, triton_gradients, triton_launch):
            stack.enter_context(mock.patch.object(module, "machine", return_value=machine))
        for module, names in KERNELS.items():
            for name in names:
                stack.enter_context(mock.patch.object(module, name, Recorder(getattr(module, name), seen)))
        yield seen


def launches(size: tuple[int, int, int], samples: int, target: str, half: bool) -> dict[str, Any]:
    """Kernels of a training step by name, each with its arguments."""
    i, h, r = size
    with _recorded(MACHINES[target], half) as seen:
        layer = DREAM(i, h, r, backend="triton", check_inputs=False).train()
        layer(torch.zeros(samples, 2, i))[0].sum().backward()
    return seen


def needs(kernel: Any, arguments: dict[str, Any], target: str) -> Needs:
    """Compile a kernel as it would be for these arguments."""
    signature, constants, attributes = {}, {}, {}
    fixed = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    constexprs = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    for place, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if name in constexprs or value is None or isinstance(value, bool):
            signature[name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], aligned = TYPES[value.dtype], value.data_ptr() % 16 == 0
            if aligned:
                attributes[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int) and value == 1 and name not in fixed:
            signature[name], constants[(place,)] = "constexpr", 1
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0 and name not in fixed:
                attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    options = {name: value for name, value in arguments.items() if name in OPTIONS}
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=TARGETS[target], options=options)
    if target.startswith("hip"):
        text = built.asm["amdgcn"]
        registers, spilled = (
            int(re.findall(rf"\.{word}:\s*(\d+)", text)[0]) for word in ("vgpr_count", "vgpr_spill_count")
        )
    else:
        registers, spilled = _assembled(built.asm["ptx"], target)
    return Needs(built.metadata.shared, registers, spilled)


def _assembled(ptx: str, target: str) -> tuple[int, int]:
    """Registers, and bytes that a thread stores because they do not suffice."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        architecture = "sm_90a" if target == "cuda:90" else f"sm_{target[5:]}"
        words = [
            Path(nvidia).with_name("bin") / "ptxas",
            "-v",
            f"-arch={architecture}",
            source,
            "-o",
            "/dev/null",
        ]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    registers, spilled = (
        int(re.findall(pattern, said)[0])
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    return registers, spilled
