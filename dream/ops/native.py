"""The compiled kernel: brought by a wheel, taken from the cache, or built into it at first use; called
through ctypes.

``python -m dream.ops`` prints where it is, or why there is none.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from dream.ops import build

log = logging.getLogger(__name__)

_TYPES = {"int64_t": ctypes.c_int64, "double": ctypes.c_double}  # all others are pointers


_forked = False


def _after_fork() -> None:
    """Use one thread in a forked child: torch's are gone, and its parallel operators would wait for them."""
    global _forked
    _forked = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _schema(library: ctypes.CDLL) -> str:
    """The types and names of the arguments that a compiled library takes; empty if it is not ours."""
    try:
        function = library.dream_schema
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    found: bytes = function()
    return found.decode()


def _structure(schema: str) -> type[ctypes.Structure]:
    """The class of a kernel's arguments, `struct Scan` of kernel/scan.h; it refuses names that it lacks."""
    pairs = (field.rsplit(" ", 1) for field in schema.split(";") if field)
    fields = [(name, _TYPES.get(kind, ctypes.c_void_p)) for kind, name in pairs]
    return type("Arguments", (ctypes.Structure,), {"__slots__": (), "_fields_": fields})


class Kernel:
    """The functions of a compiled library.

    Attributes:
        arguments: class of what `forward` and `backward` take; fields are set by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        schema = _schema(self._library)
        if schema != build.schema():
            raise OSError(f"{path} is of another version")
        self.arguments = _structure(schema)
        self._forward = {
            torch.float32: self._library.dream_forward_f32,
            torch.float64: self._library.dream_forward_f64,
        }
        self._backward = {
            torch.float32: self._library.dream_backward_f32,
            torch.float64: self._library.dream_backward_f64,
        }
        self._apply = {
            torch.float32: self._library.dream_apply_f32,
            torch.float64: self._library.dream_apply_f64,
        }
        # torch's own pool of threads, where it has one by this name: a second pool would wait for the idle
        # threads of the first, which spin.
        try:
            torch_itself = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
            self._team: ctypes.c_void_p | None = ctypes.cast(torch_itself.GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            self._team = None

    def forward(self, scan: ctypes.Structure, dtype: torch.dtype) -> None:
        """Compute all steps, into the arrays that `scan` points to.

        Raises:
            MemoryError: there is not enough for the working copies of state and weights.
        """
        self._run(self._forward[dtype], scan)

    def backward(self, scan: ctypes.Structure, dtype: torch.dtype) -> None:
        """Compute the adjoints of all steps, likewise."""
        self._run(self._backward[dtype], scan)

    def _run(self, function: Callable[..., int], scan: ctypes.Structure) -> None:
        if function(ctypes.byref(scan), None if _forked else self._team):
            raise MemoryError("The CPU kernel found no memory for its working copies. Use smaller batches.")

    def apply(self, function: str, x: torch.Tensor) -> torch.Tensor:
        """``"tanh"``, ``"sigmoid"``, ``"log"`` or ``"exp"`` of `x`, as the kernel computes it."""
        x = x.contiguous()
        y = torch.empty_like(x)
        which = ("tanh", "sigmoid", "log", "exp").index(function)
        pointers = ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr())
        self._apply[x.dtype](which, *pointers, ctypes.c_int64(x.numel()))
        return y


def _folders() -> list[Path]:
    """Folders for a built library: the user's cache, and a temporary one that only this user can write."""
    folders = []
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dream" / "kernel"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            folders.append(cache)
    except (OSError, RuntimeError):
        pass
    shared = Path(tempfile.gettempdir(), f"dream-kernel-{os.getuid()}")
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        found = shared.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            folders.append(shared)
    except OSError:
        pass
    return folders


def _find() -> Kernel:
    """Load the kernel; build it first where no wheel brought it and no cache has it.

    Raises:
        OSError: this machine cannot have it; the message names the reason.
    """
    machine, level = platform.machine().lower(), torch.backends.cpu.get_cpu_capability()
    if machine not in ("x86_64", "amd64") or level not in build.LEVELS:
        raise OSError(
            f"the CPU kernel needs an x86-64 processor with AVX2; this is {machine} with {level.lower()}"
        )
    if os.name != "posix":
        raise OSError("the CPU kernel is for Linux and macOS so far")
    name, folders = build.name(level), _folders()
    for folder in (build.SOURCES, *folders):  # from a wheel, or compiled before
        try:
            return Kernel(folder / name)
        except OSError:  # it is not there, or damaged
            continue
    reasons = []
    for folder in folders or [Path(tempfile.mkdtemp(prefix="dream-kernel-"))]:
        log.warning("compiling the CPU kernel for this machine, once, into %s: some ten seconds", folder)
        try:
            return Kernel(build.build(level, folder))
        except OSError as error:
            reasons.append(str(error))
    raise OSError(f"the CPU kernel is not there: no wheel brought it, and {reasons[0]}")


_found: Kernel | str | None = None  # or why there is none


def kernel() -> Kernel | str:
    """Return the kernel of this machine, or why there is none; it is looked for once."""
    global _found
    if _found is None:
        try:
            _found = _find()
        except OSError as error:
            _found = str(error)
    return _found
