"""Recordings from WAV files, or from members of a zip archive, which is never unpacked to disk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from dream.errors import DataError
from dream.files import read_bytes
from lightning_modules.data.archive import Archive
from lightning_modules.data.limits import local

MOST_BYTES = 1 << 26
"""Size limit of a recording: more than half an hour at 16 kHz."""
MOST_SAMPLES = 1 << 26
"""Number of samples, of all channels together, that a recording may have."""
LOUDEST = 2.0**15  # full scale is 1, but some programs write floats in the range of 16-bit integers


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


class WavZip(Archive):
    """WAV files in a zip archive, see `Archive`."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "recording", ".wav", MOST_BYTES)

    def read(self, name: str, sample_rate: int) -> np.ndarray:
        """Samples of the member `name`; see `decode`.

        Raises:
            DataError: see `content` and `decode`.
        """
        return decode(self.content(name), f"{self.path}, {name}", sample_rate)
