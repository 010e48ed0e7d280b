"""Recordings from WAV files, or from members of a zip archive, which is never unpacked to disk."""

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

import numpy as np
import soundfile

from dream.errors import DataError
from dream.files import read_bytes
from lightning_modules.data.limits import local, require_unpacked

MOST_BYTES = 1 << 26
"""Size limit of a recording: more than half an hour at 16 kHz."""
MOST_SAMPLES = 1 << 26
"""Number of samples, of all channels together, that a recording may have."""
_PIECE = 1 << 16  # bytes that are unpacked at once
_LONGEST_LIST = 1 << 25  # bytes of the list of an archive's members: some 300,000
_HEADER = 30  # bytes before a member, at least
LOUDEST = 2.0**15  # full scale is 1, but some programs write floats in the range of 16-bit integers

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, OSError, EOFError, ValueError, OverflowError),
)
"""Errors that reading a damaged or encrypted archive raises."""


def decode(content: bytes, name: str, sample_rate: int) -> np.ndarray:
    """Samples (S,) of a WAV file, float32 with full scale 1; several channels are averaged.

    Args:
        content: Content of the file.
        name: Name of the file in messages.
        sample_rate: Required sample rate in Hz; nothing is resampled.

    Raises:
        DataError: the file is not WAV, damaged, truncated, empty, of another sample rate, or has values that
            are not finite.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise DataError(
            f"{name}: must be a WAV file (RIFF, WAVE); it starts with {content[:12]!r}. Convert it to WAV."
        )
    declared = int.from_bytes(content[4:8], "little") + 8
    if declared > len(content) + 1:  # one byte of padding may be missing
        raise DataError(
            f"{name}: truncated: its header says {declared} bytes; there are {len(content)}. Copy it again."
        )
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if (count := file.frames * file.channels) > MOST_SAMPLES:
                raise DataError(
                    f"{name}: a recording must have at most {MOST_SAMPLES} samples; its header says {count}. "
                    "Cut it."
                )
            rate, channels = file.samplerate, file.read(file.frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{name}: cannot be read as WAV ({error.error_string.rstrip('. ')}). Convert it again."
        ) from None
    if rate != sample_rate:
        raise DataError(
            f"{name}: the sample rate must be {sample_rate} Hz; it has {rate}. Resample it, or set "
            "`data.mfcc.sample_rate` to that of all recordings."
        )
    if not len(channels):
        raise DataError(f"{name}: there is no sample in it. Leave it out.")
    samples: np.ndarray = channels.mean(1)
    if not (np.abs(samples) <= LOUDEST).all():  # NaN is not
        place = int((~(np.abs(samples) <= LOUDEST)).argmax())
        raise DataError(
            f"{name}: samples must be finite, with full scale 1; number {place} is {samples[place]:g}. Write "
            "it again, for instance as 16-bit PCM."
        )
    return samples


def read_wav(path: str | Path, sample_rate: int) -> np.ndarray:
    """Samples of a file; see `decode`.

    Raises:
        DataError: the file does not exist, is larger than `MOST_BYTES`, or see `decode`.
    """
    file = local(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file. Correct the path or leave the line out.")
    if file.stat().st_size > MOST_BYTES:
        raise DataError(
            f"{path}: a recording must have at most {MOST_BYTES} bytes; it has {file.stat().st_size}. Cut it."
        )
    return decode(read_bytes(file, MOST_BYTES, links=True), str(path), sample_rate)


class _Archive(io.BufferedReader):
    """File of an archive, of which nothing of absurd size is read at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LONGEST_LIST:
            raise zipfile.BadZipFile(f"the list of its members has {size} bytes")
        return super().read(size)


class WavZip:
    """WAV files in a zip archive, each read into memory on demand; nothing is unpacked to disk.

    Raises:
        DataError: the file is no zip archive, or damaged; the name of a member leaves the archive (absolute,
            or with `..`), so that unpacking it would overwrite other files, or there are two of a name;
            members share bytes; one unpacks to more than `MOST_BYTES`, or all of them to far more than the
            archive has.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        if not Path(path).is_file():
            raise DataError(
                f"{path}: cannot be read as a zip archive (there is no such file). Check the path."
            )
        try:
            file = _Archive(io.FileIO(path))
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
            if member.file_size > MOST_BYTES:
                raise DataError(
                    f"{path}: a recording must have at most {MOST_BYTES} bytes; {member.filename!r} unpacks "
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
        """Names of the members that end in .wav."""
        return [name for name in self.archive.namelist() if name.lower().endswith(".wav")]

    def read(self, name: str, sample_rate: int) -> np.ndarray:
        """Samples of the member `name`; see `decode`.

        Raises:
            DataError: there is no such member, it is damaged, encrypted, packed by another method than
                deflate, or of another size than the archive says, or see `decode`.
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
        return decode(bytes(content), f"{self.path}, {name}", sample_rate)
