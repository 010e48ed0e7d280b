"""Bytes of files of text: unpacked, within a bound, and in UTF-8 whatever their encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow

from dream.errors import DataError
from lightning_modules.data.limits import most_unpacked, require_unpacked

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of names of packed files."""
DAMAGED = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)
"""Errors of reading packed files besides those of reading files."""
_BYTES = 1 << 16  # that are transcoded at once


class Restarted(io.RawIOBase):
    """Bytes that are read forwards only; a step back begins again.

    Args:
        begin: Returns what is read, from its start.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        super().__init__()
        self.begin = begin
        self.file = begin()
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("packed files are counted from their start")
        if place < self.place:
            self.file, self.place = self.begin(), 0
        while self.place < place and self.read(min(place - self.place, _BYTES)):
            pass
        return self.place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # of the base, any buffer
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)

    def _next(self, most: int) -> bytes:
        """At most `most` of the next bytes; none at the end."""
        content: bytes = self.file.read(most)
        return content


class Unpacked(Restarted):
    """Content of a packed file, up to the bound of `require_unpacked`; of an archive, its only file.

    Args:
        path: The file, with one of the endings `PACKED`.
        raw: The same, opened.

    Raises:
        DataError: an archive holds no file or several, or is encrypted.
    """

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path = path
        self.most = most_unpacked(path.stat().st_size)

        def begin() -> Any:
            raw.seek(0)
            return _unpacking(path, raw)

        super().__init__(begin)

    def _next(self, most: int) -> bytes:
        content = super()._next(most)
        if (place := self.place + len(content)) > self.most:
            require_unpacked(place, self.path)
        return content


def _unpacking(path: Path, raw: BinaryIO) -> Any:
    kind = path.suffix.lower()
    if kind == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if kind == ".bz2":
        return bz2.BZ2File(raw)
    if kind == ".xz":
        return lzma.LZMAFile(raw)
    if kind == ".zst":
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
    archive = zipfile.ZipFile(raw)
    inside = [entry for entry in archive.infolist() if not entry.is_dir() and _is_own(entry.filename)]
    if len(inside) != 1:
        names = ", ".join(entry.filename[:80] for entry in inside[:4]) or "none"
        raise DataError(f"{path}: an archive must hold one table; it holds {names}. Unpack it and name one.")
    if inside[0].flag_bits & 1:
        raise DataError(f"{path}: the archive is encrypted. Unpack it.")
    return archive.open(inside[0])


def _is_own(name: str) -> bool:
    """Whether a file of an archive was packed by a person, not added by a program."""
    return not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith(".")


class Transcoded(Restarted):
    """Text in another encoding, as UTF-8.

    Args:
        source: Returns the bytes of the text, from their start.
        encoding: Their encoding.
    """

    def __init__(self, source: Callable[[], BinaryIO], encoding: str) -> None:
        def begin() -> BinaryIO:
            self.decoder = codecs.getincrementaldecoder(encoding)()
            self.rest: bytes | None = b""
            return source()

        super().__init__(begin)

    def _next(self, most: int) -> bytes:
        while self.rest == b"":
            content = self.file.read(_BYTES)
            text = self.decoder.decode(content, final=not content)
            self.rest = text.encode() if text or content else None
        if self.rest is None:
            return b""
        content, self.rest = self.rest[:most], self.rest[most:]
        if not self.rest:
            self.rest = b""
        return content
