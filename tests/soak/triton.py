"""The Triton backend without a GPU: all of its tests in Triton's interpreter, all sizes by its compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

TESTS = "tests/dream/test_triton.py"
SIZES = [
    ((10, 128, 8), 32),
    ((64, 256, 16), 32),
    ((64, 256, 16), 512),
    ((300, 512, 32), 512),
    ((16, 1024, 64), 32),
]
MOST_SPILLED = 8192  # bytes of a thread; more than a tenth of U and its adjoint would be


def main() -> dict[str, Any]:
    """Run the tests and compile each size for each target, in both precisions; return what kernels need."""
    begin = time.monotonic()
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-n", "auto", TESTS], env=environment, check=True
    )
    figures: dict[str, Any] = {"seconds in the interpreter": round(time.monotonic() - begin)}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        from tests.dream import triton_compiler

        for target, machine in triton_compiler.MACHINES.items():
            for size, samples in SIZES:
                for half in (True, False):
                    launches = triton_compiler.launches(size, samples, target, half)
                    for name, launch in launches.items():
                        needed = triton_compiler.needs(*launch, target)
                        what = f"{target} {size} N={samples} {'half' if half else 'float32'} {name}"
                        assert needed.shared <= machine.shared, (what, needed)
                        assert needed.spilled <= MOST_SPILLED, (what, needed)
                        if name in ("forward", "backward"):
                            print(what, needed, flush=True)  # noqa: T201
                            figures[what] = needed._asdict()
    return figures
