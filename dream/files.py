"""Files that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedReader
from pathlib import Path


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[BufferedRandom]:
    """Open a file that takes the place of `path` when the block ends, and only if it ends well.

    It is a temporary file in the same folder, for writing and reading, flushed to disk and renamed over the
    old one; then the folder is flushed, so that the new name outlives a power failure, too. A link stays one:
    the file that it points to is replaced.

    Raises:
        OSError: the file cannot be written, or is a device or a pipe; the old one is untouched, no temporary
            file is left.
    """
    target = Path(path)
    target = target.resolve() if target.is_symlink() else target
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write `content` to `path`, whole or not at all; see `atomic`.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    with atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def sha256(file: BufferedReader | BufferedRandom) -> str:
    """The SHA-256 of a whole file, in hexadecimal digits."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
