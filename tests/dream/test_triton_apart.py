"""The Triton backend without a GPU: Triton's interpreter runs some of its tests, its compiler builds it.

All of both is ``python -m tests.soak triton``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

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
