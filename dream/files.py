"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

from dream.errors import CheckpointError, shown

MOST = 64 * 2**20
"""Largest text or picture of ours that is read whole, in bytes."""
LINE = 2**20
"""Longest line of a file that is read by lines, in bytes."""
LONGEST_NAME = 200
"""Longest name of a file, in bytes: file systems allow 255, and a temporary name is longer."""
_PIECE = 1 << 20
# also as paths make it, s3:/..., and chained, zip::s3://...
_ADDRESS = re.compile(r"://|^\s*[a-z][a-z0-9+.-]+:[/:]", re.IGNORECASE)  # one letter is a drive
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
    refuse_link(target)
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
    if not links:
        refuse_link(path)
    with open(path, "rb", opener=_opener(links)) as file:
        yield file


@contextmanager
def extended(path: str | os.PathLike[str]) -> Iterator[BufferedRandom]:
    """Open a regular file to append to it, cut it off or flush it; an empty one where there is none.

    Raises:
        OSError: it cannot be written, or is a link, a folder, a device or a pipe.
    """
    refuse_link(path)
    with open(path, "a+b", opener=_opener(links=False)) as file:
        yield file


def refuse_link(path: str | os.PathLike[str]) -> None:
    """Refuse a link, to anything or nothing.

    Raises:
        OSError: `path` is one.
    """
    if Path(path).is_symlink():
        raise OSError(errno.ELOOP, f"it is a link, to {Path(path).readlink()}", str(path))


def _opener(links: bool) -> Callable[[str, int], int]:
    # since it was looked at a link may have come; and a pipe without a writer must not block
    flags = _AT_ONCE if links else _AT_ONCE | _NO_LINK

    def open_regular(name: str, how: int) -> int:
        number = os.open(name, how | flags, 0o666)
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is refused by `open`
            os.close(number)
            raise OSError(errno.EINVAL, "it is no regular file", str(name))
        return number

    return open_regular


def read_bytes(path: str | os.PathLike[str], most: int = MOST, *, links: bool = False) -> bytes:
    """Read a whole regular file of at most `most` bytes; see `opened`.

    Raises:
        OSError: it cannot be read, is larger, or is a link, a folder, a device or a pipe.
    """
    content = bytearray()
    with opened(path, links=links) as file:
        # a read makes room for all that it may return, and a file may grow meanwhile
        small = os.fstat(file.fileno()).st_size <= most
        while small and (piece := file.read(min(_PIECE, most + 1 - len(content)))):
            content += piece
    if not small or len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return bytes(content)


def json_text(content: Any, indent: int | None = None) -> str:
    """`content` as JSON; numbers that JSON does not have are the words "nan", "inf" and "-inf"."""
    return json.dumps(_with_words(content), indent=indent, allow_nan=False)


def _with_words(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(float(value))
    if isinstance(value, dict):
        return {name: _with_words(part) for name, part in value.items()}
    return [_with_words(part) for part in value] if isinstance(value, (list, tuple)) else value


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


def lines(file: BufferedReader) -> Iterator[bytes]:
    """Lines of a file, in bounded memory.

    Raises:
        OSError: a line has more than `LINE` bytes.
    """
    while line := file.readline(LINE + 1):
        if len(line) > LINE:
            raise OSError(errno.EFBIG, f"a line has more than {LINE:,} bytes", file.name)
        yield line


def is_address(text: str) -> bool:
    """Whether `text`, where a path belongs, is the address of something on another machine.

    >>> [is_address(text) for text in ("https://host/x", "s3:/x", "zip::x", "C:/x", "runs/a:b")]
    [True, True, True, False, False]
    """
    return _ADDRESS.search(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a file, which then lies in the folder that it is meant for."""
    parts = (os.sep, os.altsep, "/", "\\", "\0")
    whole = text not in ("", ".", "..") and not any(part in text for part in parts if part)
    return whole and len(text.encode(errors="surrogatepass")) <= LONGEST_NAME


def inside(folder: str | os.PathLike[str], *names: str) -> Path:
    """Path of a file or folder of ours in `folder`, which may be a link; nothing below it is one.

    Raises:
        OSError: one of `names`, folders in each other, is a link, or no name at all.
    """
    path = Path(folder)
    for name in names:
        if not is_name(name):
            raise OSError(errno.EINVAL, f"{shown(name)} is not the name of a file", str(folder))
        path = path / name
        refuse_link(path)
    return path
