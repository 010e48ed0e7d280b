"""The compiled kernel: brought by a wheel, taken from the cache, or built into it at first use; called
through ctypes.

``python -m dream.ops`` prints where it is, or why there is none.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dream import files
from dream.ops import build
from dream.ops.arrays import ArrayCalls

log = logging.getLogger(__name__)

_DTYPES = {torch.float32: "f32", torch.float64: "f64"}
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


class Kernel(ArrayCalls):
    """The functions of a compiled library.

    Attributes:
        path: its file.
        arguments: class of what `forward` and `backward` take; fields are set by name.

    Args:
        path: Its file.
        content: The content of that file, if it was read before.

    Raises:
        OSError: it cannot be loaded, takes other arguments or lacks a function.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self.path = path
        self._library = _loaded(path.read_bytes() if content is None else content)
        schema = _schema(self._library)
        if schema != build.schema():
            raise OSError(f"{path} is of another version")
        self.arguments = _structure(schema)
        self._forward, self._backward, self._apply = (
            {dtype: self._function(f"dream_{name}_{short}") for dtype, short in _DTYPES.items()}
            for name in ("forward", "backward", "apply")
        )
        self._prepare()
        # torch's own pool of threads, where it has one by this name: a second pool would wait for the idle
        # threads of the first, which spin.
        try:
            torch_itself = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
            self._team: ctypes.c_void_p | None = ctypes.cast(torch_itself.GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            self._team = None

    def _function(self, name: str) -> Any:
        try:
            function: Any = getattr(self._library, name)
        except AttributeError:
            raise OSError(f"{self.path} lacks the function {name}") from None
        return function

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


def _loaded(content: bytes) -> ctypes.CDLL:
    """Load a library from memory: what was checked is what is loaded, whatever becomes of its file.

    A mapped file that is cut short later would end this process with SIGBUS.
    """
    try:
        held = os.memfd_create("dream-kernel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux
        return _loaded_copy(content)
    import fcntl  # Windows has none

    try:
        with open(held, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(held, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        # it stays open: the loader takes the next library under this number for the same one
        return ctypes.CDLL(f"/proc/self/fd/{held}")
    except OSError:  # no /proc, or a system that runs nothing from memory
        os.close(held)
        return _loaded_copy(content)


def _loaded_copy(content: bytes) -> ctypes.CDLL:
    """Load a library from a file that only this process knows."""
    with tempfile.TemporaryDirectory(prefix="dream-kernel-") as private:
        copy = Path(private, "library.so")
        copy.write_bytes(content)
        return ctypes.CDLL(str(copy))


def _verified(path: Path, *, cached: bool) -> bytes:
    """The content of a library's file, as it was built.

    Raises:
        OSError: it is not there, was altered or cut short, or, in a cache, is a link or another user's.
    """
    with files.opened(path, links=not cached) as file:
        if cached:
            _require_own(os.fstat(file.fileno()), path)
        content = file.read(files.MOST)
    if not build.sealed(path.name, content):
        raise OSError(errno.EBADMSG, "it is damaged", str(path))
    return content


def _require_own(found: os.stat_result, path: Path) -> None:
    """Refuse what another user owns or may write.

    Raises:
        OSError: naming the reason.
    """
    if found.st_uid != os.getuid():
        raise OSError(errno.EPERM, "it belongs to another user", str(path))
    if found.st_mode & 0o022:
        raise OSError(errno.EPERM, "other users can write it; chmod go-w makes it yours", str(path))


def _folders() -> list[Path]:
    """Folders for a built library, which only this user can write: the user's cache, and a temporary one."""
    folders = []
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders.append(Path(home, "dream", "kernel"))
    except RuntimeError:  # there is no home
        pass
    folders.append(Path(tempfile.gettempdir(), f"dream-kernel-{os.getuid()}"))
    return list(filter(_is_own, folders))


def _is_own(folder: Path) -> bool:
    """Make `folder` if it is not there; return whether it is a folder that this user alone can write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ENOTDIR, "it is a link", str(folder))
        _require_own(found, folder)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTDIR) and folder.is_dir():
            log.warning("%s is no place for the CPU kernel: %s", folder, error.strerror)
        return False
    return os.access(folder, os.W_OK)


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
        path = folder / name
        try:
            return Kernel(path, _verified(path, cached=folder is not build.SOURCES))
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("the CPU kernel %s is not used: %s", path, error.strerror or error)
    reasons = []
    for folder in folders or [Path(tempfile.mkdtemp(prefix="dream-kernel-"))]:
        log.warning("compiling the CPU kernel for this machine, once, into %s: some ten seconds", folder)
        try:
            path = build.build(level, folder)
            return Kernel(path, _verified(path, cached=True))
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
