"""Files that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

from dream.errors import CheckpointError

MOST = 64 * 2**20
"""Largest text of ours that is read, in bytes."""
_PIECE = 1 << 20
_NO_LINK, _AT_ONCE = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # Windows has neither


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[BufferedRandom]:
    """Open a file that takes the place of `path` when the block ends, and only if it ends well.

    It is a temporary file in the same folder, of a name that no other call has, for writing and reading,
    flushed to disk and renamed over the old one; then the folder is flushed, so that the new name outlives a
    power failure, too.

    Raises:
        OSError: the file cannot be written, or is a link, a device or a pipe; the old one is untouched, no
            temporary file is left.
    """
    target = Path(path)
    if target.is_symlink():
        raise OSError(errno.ELOOP, f"it is a link, to {target.readlink()}", str(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x+b") as file:  # a link of that name is not followed
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


@contextmanager
def opened(path: str | os.PathLike[str], *, links: bool = False) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Args:
        path: The file.
        links: Whether `path` may be a link, as for a file that the user names. A file of a run is none.

    Raises:
        OSError: it cannot be read, or is a link, a folder, a device or a pipe.
    """
    if not links and Path(path).is_symlink():
        raise OSError(errno.ELOOP, f"it is a link, to {Path(path).readlink()}", str(path))
    # between the two a link may have come; and a pipe without a writer must not block
    flags = _AT_ONCE if links else _AT_ONCE | _NO_LINK
    with open(path, "rb", opener=lambda name, how: os.open(name, how | flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def read_bytes(path: str | os.PathLike[str], most: int = MOST, *, links: bool = False) -> bytes:
    """Read a whole regular file of at most `most` bytes; see `opened`.

    Raises:
        OSError: it cannot be read, is larger, or is a link, a folder, a device or a pipe.
    """
    content = b""
    with opened(path, links=links) as file:
        # a read makes room for all that it may return
        while piece := file.read(min(_PIECE, most + 1 - len(content))):
            content += piece
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def read_json(path: str | os.PathLike[str], most: int = MOST) -> dict[str, Any]:
    """Read a JSON file of ours, which holds a dictionary.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it cannot be read, or is damaged.
    """
    try:
        found = json.loads(read_bytes(path, most))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)} must be a file that dream wrote: {error.strerror}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{os.fspath(path)} is damaged, it is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{os.fspath(path)} is damaged: it holds {type(found).__name__}, not names and values."
        )
    return found


def sha256(file: BufferedReader | BufferedRandom) -> str:
    """The SHA-256 of a whole file, in hexadecimal digits."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
