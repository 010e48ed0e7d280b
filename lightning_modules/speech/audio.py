"""Recordings from WAV files, or from the members of a zip archive, which is never unpacked."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile

from dream.errors import DataError
from lightning_modules.data.limits import local

MOST_BYTES = 1 << 26
"""Of one recording: more than half an hour at 16 kHz."""
LOUDEST = 2.0**15  # full scale is 1; some programs write that of 16 bits


def decode(content: bytes, name: str, sample_rate: int) -> np.ndarray:
    """The samples (S,) of a WAV file, float32 with full scale 1; several channels are averaged.

    Args:
        content: The file.
        name: What messages call it.
        sample_rate: Hz that it must have: nothing is resampled.

    Raises:
        DataError: not a WAV file, damaged, truncated, empty, of another sample rate, or with values that are
            not finite.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise DataError(
            f"{name}: must be a WAV file (RIFF, WAVE); it starts with {content[:12]!r}. Convert it to WAV."
        )
    declared = int.from_bytes(content[4:8], "little") + 8
    if declared > len(content) + 1:  # one byte of padding may be missing
        raise DataError(
            f"{name}: truncated: its header says {declared} bytes; there are {len(content)}. Bring it again."
        )
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, channels = file.samplerate, file.read(file.frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{name}: cannot be read as WAV ({error.error_string.rstrip('. ')}). Convert it again."
        ) from None
    if rate != sample_rate:
        raise DataError(
            f"{name}: the sample rate must be {sample_rate} Hz; it has {rate}. Resample it, or set "
            "`data.mfcc.sample_rate` "
            "to that of all recordings."
        )
    if not len(channels):
        raise DataError(f"{name}: there is no sample in it. Leave it out.")
    samples: np.ndarray = channels.mean(1)
    if not (np.abs(samples) <= LOUDEST).all():  # NaN is not
        place = int((~(np.abs(samples) <= LOUDEST)).argmax())
        raise DataError(
            f"{name}: samples must be finite, with full scale 1; number {place} is {samples[place]:g}. Write "
            "it again, for "
            "instance as 16-bit PCM."
        )
    return samples


def read_wav(path: str | Path, sample_rate: int) -> np.ndarray:
    """The samples of a file; see `decode`.

    Raises:
        DataError: there is no such file, or it is larger than `MOST_BYTES`; see `decode`.
    """
    file = local(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file. Correct the path or leave the line out.")
    if file.stat().st_size > MOST_BYTES:
        raise DataError(
            f"{path}: a recording must have at most {MOST_BYTES} bytes; it has {file.stat().st_size}. Cut it."
        )
    return decode(file.read_bytes(), str(path), sample_rate)


class WavZip:
    """The WAV files in a zip archive, each read into memory when it is asked for by its name; nothing is ever
    unpacked.

    Raises:
        DataError: not a zip archive, or a damaged one; a member whose name leaves the archive (absolute, or
            with `..`), so that it would overwrite files where somebody unpacked it; one that unpacks to more
            than `MOST_BYTES`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{path}: cannot be read as a zip archive ({error}). Bring it again.") from None
        for member in self.archive.infolist():
            place = PurePosixPath(member.filename.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or ":" in "".join(place.parts[:1]):
                raise DataError(
                    f"{path}: members must lie within the archive; got {member.filename!r}. Do not unpack it."
                )
            if member.file_size > MOST_BYTES:
                raise DataError(
                    f"{path}: a recording must have at most {MOST_BYTES} bytes; {member.filename!r} unpacks "
                    "to "
                    f"{member.file_size}. Do not unpack it."
                )

    @property
    def names(self) -> list[str]:
        """The members whose names end in .wav."""
        return [name for name in self.archive.namelist() if name.lower().endswith(".wav")]

    def read(self, name: str, sample_rate: int) -> np.ndarray:
        """The samples of the member called `name`; see `decode`.

        Raises:
            DataError: there is no such member, or it is damaged or encrypted; see `decode`.
        """
        try:
            content = self.archive.read(name)
        except KeyError:
            raise DataError(f"{self.path}: there is no member {name!r}. Bring the archive again.") from None
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            RuntimeError,
            OSError,
            EOFError,
            ValueError,
        ) as error:
            raise DataError(
                f"{self.path}: {name!r} cannot be read ({error}). Bring the archive again."
            ) from None
        return decode(content, f"{self.path}, {name}", sample_rate)
