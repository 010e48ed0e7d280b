"""The Triton backend without a GPU: Triton's interpreter runs some of its tests, its compiler builds it.

All of both is ``python -m tests.soak triton``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton.backends.compiler import BaseBackend
from triton.runtime.jit import JITFunction

from dream.ops.triton_call import FRONT_ENDS, Call, _kinds
from tests.dream import triton_compiler

TESTS = Path(__file__).with_name("test_triton.py")
SHORT = [
    "test_it_computes_what_the_reference_does[whole-False-18]",
    "test_it_computes_what_the_reference_does[in parts-True-7]",
    "test_ten_bits[whole-1.0]",
    "test_chunks_and_single_steps_are_the_whole[False]",
    "test_a_layer_trains_as_the_reference_does[{}]",
    "test_what_it_refuses",
]
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted in this process already"
)


def test_short_form_in_the_interpreter() -> None:
    words = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    names = [f"{TESTS}::{name}" for name in SHORT]
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # looked at when Triton is imported
    done = subprocess.run(
        [*words, *names], env=environment, cwd=TESTS.parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SHORT)} passed" in done.stdout


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_kernels_compile(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a target without its GPU: nothing spilled around the scan, and a bound within it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    most = triton_compiler.MACHINES[target].shared
    for name, launch in triton_compiler.launches((10, 128, 8), 32, target, half=True).items():
        needed = triton_compiler.needs(*launch, target)
        assert needed.shared <= most
        assert needed.spilled <= (512 if name in ("forward", "backward") else 0), name


class Front(JITFunction):  # type: ignore[type-arg]
    """Triton's front end, which only counts what it compiles."""

    arg_names = ("array", "other", "number", "H", "BLOCK")

    def __init__(self) -> None:
        self.compiled: list[tuple[Any, ...]] = []
        self.launched: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*values: Any, **constants: Any) -> Any:
            self.compiled.append(values)
            return Compiled(self)

        return launch


class Compiled:
    """A kernel that keeps what it is launched with."""

    def __init__(self, front: Front) -> None:
        self.front = front

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *values: self.front.launched.append((*grid[:3], *values))


@pytest.mark.skipif(not triton.__version__.startswith(FRONT_ENDS), reason="not a version called directly")
def test_calls_without_the_front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    front, whole = Front(), torch.empty(64)
    launch = Call(front, dict(BLOCK=32, num_warps=4, H=3))
    launch((5,), (whole, None), (16,))
    assert len(front.compiled) == 1
    launch((6, 2), (whole[4:], None), (32,))
    assert front.launched == [(6, 2, 1, whole[4:].data_ptr(), None, 32, 3, 32)]
    different = [
        ((whole[1:], None), (16,)),
        ((whole, whole), (16,)),
        ((whole.double(), None), (16,)),
        ((whole, None), (1,)),
        ((whole, None), (1.0,)),
        ((whole, None), (2,)),
        ((whole, None), (1 << 32,)),
    ]
    for count, (arrays, numbers) in enumerate(different, start=2):
        launch((5,), arrays, numbers)
        assert len(front.compiled) == count
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    launch((5,), (whole, None), (16,))
    assert len(front.compiled) == len(different) + 2
    assert len(front.launched) == 1


def test_what_is_compiled_in_of_numbers() -> None:
    """Numbers that a call takes as alike are alike to Triton."""
    specialize = pytest.importorskip("triton._C.libtriton").native_specialize_impl
    kinds: dict[Any, set[Any]] = {}
    for middle in (0, 1, 16, 1 << 31, -(1 << 31), 1 << 40):
        for number in (*range(middle - 33, middle + 34), float(middle)):
            for wants in (True, False):
                found = specialize(BaseBackend, number, False, wants, True)
                kinds.setdefault((wants, _kinds(number)), set()).add(str(found))
    assert all(len(found) == 1 for found in kinds.values())
