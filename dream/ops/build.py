"""Compilation of the kernel: by the wheel's build for machines of its kind, or at first use for this one.

No import of `dream` or torch here: the build of a wheel runs this file on its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).with_name("kernel")
LEVELS = {  # what torch calls the instructions that a processor has: what the compiler is told
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "AVX2": ("-march=x86-64-v3",),
}
FLAGS = (
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-shared", "-fPIC", "-pthread", "-static-libstdc++", "-static-libgcc"),
)
SECONDS = 120  # a compiler that takes longer hangs: some six are usual


def name(level: str) -> str:
    """The library's file name for one of `LEVELS`, with a hash of sources and flags."""
    content = hashlib.sha256(repr((FLAGS, LEVELS[level])).encode())
    for source in sorted(SOURCES.glob("*.[hc]*")):
        content.update(source.read_bytes())
    return f"dream-{level.lower()}-{content.hexdigest()[:16]}.so"


def schema() -> str:
    """The types and names of the kernel's arguments, in order, as `kernel/fields.h` has them."""
    text = (SOURCES / "fields.h").read_text(encoding="utf-8")
    fields = re.findall(r"^FIELD\(([^,]+), (\w+)\)", text, re.MULTILINE)
    return "".join(f"{kind} {name};" for kind, name in fields)


def compiler() -> list[str] | None:
    """The command of the C++ compiler, CXX or the first of c++, g++ and clang++ on the path; None without."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        return named if shutil.which(named[0]) else None
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return [found] if found else None


def build(level: str, folder: Path) -> Path:
    """Compile for one of `LEVELS` into `folder`, which must exist.

    An unfinished file never has the library's name.

    Raises:
        OSError: there is no compiler, the folder cannot be written, or compilation failed.
    """
    found = compiler()
    if found is None:
        raise OSError(
            f"there is no C++ compiler ({os.environ.get('CXX', 'c++, g++ or clang++')}) to build it with"
        )
    path = folder / name(level)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unfinished = Path(scratch, path.name)
        command = [*found, *FLAGS, *LEVELS[level], str(SOURCES / "kernel.cpp"), "-o", str(unfinished)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise OSError(f"{found[0]} did not finish within {SECONDS} s") from None
        except subprocess.CalledProcessError as error:
            lines = [
                line for line in error.stderr.splitlines() if "error" in line
            ] or error.stderr.splitlines()
            raise OSError(
                f"{found[0]} failed: {lines[0].strip() if lines else f'exit code {error.returncode}'}"
            ) from None
        unfinished.replace(path)
    return path
