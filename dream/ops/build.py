"""Compilation of the kernel: by the wheel's build for machines of its kind, or at first use for this one.

No import of `dream` or torch here: the build of a wheel runs this file on its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
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
SEAL = hashlib.sha256().digest_size
SECONDS = 600  # a compiler that takes longer hangs: some six are usual, 200 among ten busy processes


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


def seal(name: str, content: bytes) -> bytes:
    """The SHA-256 that ends a library's file, of its name and of all that comes before."""
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def sealed(name: str, content: bytes) -> bool:
    """Whether the content of a library's file is all that `build` wrote under this name."""
    return seal(name, content[:-SEAL]) == content[-SEAL:]


def compiler() -> list[str] | None:
    """The command of the C++ compiler, CXX or the first of c++, g++ and clang++ on the path; None without."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        return named if shutil.which(named[0]) else None
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return [found] if found else None


def build(level: str, folder: Path) -> Path:
    """Compile for one of `LEVELS` into `folder`, which must exist; return the library's path.

    The file ends with its `seal`, which a loader of libraries does not read. It is flushed before it gets its
    name, so that no unfinished file ever has that name, and takes the place of a link rather than follow it.

    Raises:
        OSError: there is no compiler, the folder cannot be written, or compilation failed.
    """
    path = folder / name(level)
    content = _compiled(level)
    unfinished = folder / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with unfinished.open("xb") as file:
            unfinished.chmod(0o644)  # whatever the umask: nobody else may write it
            file.write(content + seal(path.name, content))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":
        listing = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(listing)
        finally:
            os.close(listing)
    return path


def _compiled(level: str) -> bytes:
    """The library, compiled in a folder that only this user can write."""
    found = compiler()
    if found is None:
        raise OSError(
            f"there is no C++ compiler ({os.environ.get('CXX', 'c++, g++ or clang++')}) to build it with"
        )
    with tempfile.TemporaryDirectory(prefix="dream-kernel-") as scratch:
        library = Path(scratch, "library.so")
        command = [*found, *FLAGS, *LEVELS[level], str(SOURCES / "kernel.cpp"), "-o", str(library)]
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
        return library.read_bytes()
