"""Zip archives, whose members are read into memory on demand; nothing is unpacked to disk."""

from __future__ import annotations

import io
import struct
import weakref
import zipfile
import zlib
from collections import Counter
from copy import copy
from itertools import pairwise
from pathlib import Path, PurePosixPath

from dream.errors import DataError
from lightning_modules.data.limits import require_unpacked

_PIECE = 1 << 16  # bytes that are unpacked at once
_LONGEST_LIST = 1 << 25  # bytes of the list of an archive's members: some 300,000
_HEADER = 30  # bytes before a member, at least

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, OSError, EOFError, ValueError, OverflowError),
)
"""Errors that reading a damaged or encrypted archive raises."""


class _File(io.BufferedReader):
    """File of an archive, of which nothing of absurd size is read at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LONGEST_LIST:
            raise zipfile.BadZipFile(f"the list of its members has {size} bytes")
        return super().read(size)


class Archive:
    """Files in a zip archive, each read into memory on demand.

    Args:
        path: The archive.
        kind: Name of such a file, for messages.
        ending: End of the names of such files, in small letters, or several.
        most_bytes: Size limit of a file.

    Raises:
        DataError: the file is no zip archive, or damaged; the name of a member leaves the archive (absolute,
            or with `..`), so that unpacking it would overwrite other files, or there are two of a name;
            members share bytes; one unpacks to more than `most_bytes`, or all of them to far more than the
            archive has.
    """

    def __init__(self, path: str | Path, kind: str, ending: str | tuple[str, ...], most_bytes: int) -> None:
        self.path = path
        self.ending = ending
        if not Path(path).is_file():
            raise DataError(
                f"{path}: cannot be read as a zip archive (there is no such file). Check the path."
            )
        try:
            file = _File(io.FileIO(path))
            weakref.finalize(self, file.close)
            self.archive = zipfile.ZipFile(file)
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be read as a zip archive ({error}). Copy it again.") from None
        self._require_apart()
        for member in self.archive.infolist():
            place = PurePosixPath(member.filename.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or ":" in "".join(place.parts[:1]):
                raise DataError(
                    f"{path}: members must lie within the archive; got {member.filename!r}. Do not unpack it."
                )
            if member.file_size > most_bytes:
                raise DataError(
                    f"{path}: a {kind} must have at most {most_bytes} bytes; {member.filename!r} unpacks "
                    f"to {member.file_size}. Do not unpack it."
                )
        require_unpacked(sum(member.file_size for member in self.archive.infolist()), path)

    def _require_apart(self) -> None:
        """Refuse members of one name, and such that share bytes, by which a small archive becomes large."""
        members = sorted(self.archive.infolist(), key=lambda member: member.header_offset)
        for name, times in Counter(member.filename for member in members).items():
            if times > 1:
                raise DataError(
                    f"{self.path}: members must have names of their own; {name!r} is there {times} times."
                )
        ends = [*(member.header_offset for member in members), self.archive.start_dir]
        for member, (start, end) in zip(members, pairwise(ends), strict=True):
            if start < 0 or start + _HEADER + member.compress_size > end:
                raise DataError(
                    f"{self.path}: members must lie one after the other; {member.filename!r} reaches into "
                    "the next. Do not unpack it."
                )

    @property
    def names(self) -> list[str]:
        """Names of the members that end in `ending`, in any case."""
        return [name for name in self.archive.namelist() if name.lower().endswith(self.ending)]

    def content(self, name: str) -> bytes:
        """Content of the member `name`.

        Raises:
            DataError: there is no such member, it is damaged, encrypted, packed by another method than
                deflate, or of another size than the archive says.
        """
        try:
            member = self.archive.getinfo(name)
        except KeyError:
            raise DataError(f"{self.path}: there is no member {name!r}. Copy the archive again.") from None
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{self.path}: members must be stored or packed by deflate; {name!r} is packed by method "
                f"{member.compress_type}. Pack it again."
            )
        content = bytearray()
        longer = copy(member)
        longer.file_size += 1  # so that what goes on beyond it is seen
        try:
            with self.archive.open(longer) as file:
                while piece := file.read(_PIECE):
                    content += piece
        except UNREADABLE as error:
            raise DataError(
                f"{self.path}: {name!r} cannot be read ({error}). Copy the archive again."
            ) from None
        if len(content) != member.file_size:
            raise DataError(
                f"{self.path}: {name!r} must unpack to {member.file_size} bytes, as the archive says; it "
                "does not. Copy the archive again."
            )
        return bytes(content)
