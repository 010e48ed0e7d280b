"""Recordings from WAV, FLAC and OGG files, or members of a zip archive, which is never unpacked to disk."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import soundfile

from dream.errors import DataError, warn
from dream.files import read_bytes
from lightning_modules.data.archive import Archive
from lightning_modules.data.limits import local

ENDINGS = (".wav", ".flac", ".ogg", ".opus")
MOST_BYTES = 1 << 26
"""Size limit of a recording: more than half an hour at 16 kHz."""
MOST_SAMPLES = 1 << 26
"""Number of samples, of all channels together, that a recording may have."""
LOUDEST = 2.0**15  # full scale is 1, but some programs write floats in the range of 16-bit integers
_STREAMED = 0x7FFF0000  # what writes to a pipe enters a size from here on, or 0: it cannot come back
_BLOCK = 1 << 16  # samples of a channel that are read at once


def decode(content: bytes, name: str, sample_rate: int) -> np.ndarray:
    """Samples (S,) of a recording at `sample_rate`, float32 with full scale 1; several channels are averaged.

    Args:
        content: Content of a file: WAV, FLAC or OGG (Vorbis, Opus). The sizes in a WAV header may be those of
            a program that wrote to a pipe.
        name: Name of the file in messages.
        sample_rate: Sample rate in Hz; recordings of another are resampled, by soxr.

    Raises:
        DataError: the file is of another format, damaged, truncated or empty, or has values that are not
            finite; its rate is another, and soxr is not installed.

    Warns:
        DREAMWarning: it is resampled.
    """
    content, kind = _whole(content, name)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, channels = file.samplerate, _read(file, kind, name)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(". ") or "it is damaged or truncated"
        raise DataError(f"{name}: cannot be read as {kind} ({reason}). Convert it again.") from None
    if not len(channels):
        raise DataError(f"{name}: there is no sample in it. Leave it out.")
    samples: np.ndarray = channels.mean(1)
    if not (np.abs(samples) <= LOUDEST).all():  # NaN is not
        place = int((~(np.abs(samples) <= LOUDEST)).argmax())
        raise DataError(
            f"{name}: samples must be finite, with full scale 1; number {place} is {samples[place]:g}. Write "
            "it again, for instance as 16-bit PCM."
        )
    return samples if rate == sample_rate else _resampled(samples, rate, sample_rate, name)


def _whole(content: bytes, name: str) -> tuple[bytes, str]:
    """Content with the sizes that it has, and the name of its format.

    Raises:
        DataError: it is none that is read, or truncated.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        content = _sized(content)
        declared = int.from_bytes(content[4:8], "little") + 8
        if declared > len(content) + 1:  # one byte of padding may be missing
            raise DataError(
                f"{name}: truncated: its header says {declared} bytes; there are {len(content)}. Copy it "
                "again."
            )
        return content, "WAV"
    if content[:4] == b"fLaC":
        return content, "FLAC"
    if content[:4] == b"OggS":
        last = content[content.rfind(b"OggS") :]
        sizes = last[27 : 27 + last[26]] if len(last) > 26 else b""
        if len(last) < 27 or not last[5] & 4 or len(last) < 27 + len(sizes) + sum(sizes):
            raise DataError(f"{name}: truncated: the last page of its stream is missing. Copy it again.")
        return content, "OGG"
    raise DataError(
        f"{name}: must be a WAV file (RIFF, WAVE), FLAC or OGG; it starts with {content[:12]!r}. Convert it "
        "to one of them."
    )


def _sized(content: bytes) -> bytes:
    """A WAV file with the sizes of its bytes, where its writer could not enter them.

    Such a size is 0, or one that no recording has; the samples then go on to the end.
    """

    def size(at: int) -> int:
        return int.from_bytes(content[at : at + 4], "little")

    declared, at = size(4), 12
    streamed = declared == 0 or declared >= _STREAMED
    while at + 8 <= len(content):
        start = at + 8
        if content[at : at + 4] == b"data":
            rest = len(content) - start
            if size(at + 4) >= _STREAMED or (size(at + 4) == 0 and (streamed or declared + 8 <= start)):
                content = content[: at + 4] + rest.to_bytes(4, "little") + content[start:]
                streamed = True
            break
        at = start + size(at + 4) + size(at + 4) % 2
    return content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:] if streamed else content


def _read(file: soundfile.SoundFile, kind: str, name: str) -> np.ndarray:
    """All samples (S, channels) of an open file.

    Raises:
        DataError: there are more than `MOST_SAMPLES`.
        LibsndfileError: it is damaged.
    """
    unknown = file.frames >= 2**62  # of a FLAC file that was written to a pipe
    _require_short(0 if unknown else file.frames * file.channels, name)
    if kind == "WAV":  # whose bytes bound the samples
        return file.read(file.frames, dtype="float32", always_2d=True)
    blocks: list[np.ndarray] = []
    while not blocks or len(blocks[-1]) == _BLOCK:
        _require_short(len(blocks) * _BLOCK * file.channels, name)
        block = np.full((_BLOCK, file.channels), np.nan, np.float32)
        try:
            blocks.append(file.read(out=block))
        except soundfile.LibsndfileError:
            if not unknown:
                raise
            blocks.append(block[~np.isnan(block[:, 0])])  # filled as far as it goes; it sought beyond the end
    return np.concatenate(blocks)


def _require_short(count: int, name: str) -> None:
    if count > MOST_SAMPLES:
        raise DataError(
            f"{name}: a recording must have at most {MOST_SAMPLES} samples; its header says {count}. Cut it."
        )


def _resampled(samples: np.ndarray, rate: int, sample_rate: int, name: str) -> np.ndarray:
    """Samples at `sample_rate` from those at `rate`.

    Raises:
        DataError: soxr is not installed, or they would be more than `MOST_SAMPLES`.
    """
    try:
        import soxr
    except ImportError:
        raise DataError(
            f"{name}: the sample rate must be {sample_rate} Hz; it has {rate}. To resample it, install soxr: "
            "pip install 'dream-memory[sound]'. Or set `data.mfcc.sample_rate` to that of all recordings."
        ) from None
    _require_short(math.ceil(len(samples) * sample_rate / rate), name)
    lost = ", so that nothing above half of that is in them" if rate < sample_rate else ""
    warn(f"recordings of {rate} Hz are resampled to {sample_rate}, `data.mfcc.sample_rate`{lost}.", "dream")
    result: np.ndarray = soxr.resample(samples, rate, sample_rate)
    return result


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
    """Recordings in a zip archive, see `Archive`."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "recording", ENDINGS, MOST_BYTES)

    def read(self, name: str, sample_rate: int) -> np.ndarray:
        """Samples of the member `name`; see `decode`.

        Raises:
            DataError: see `content` and `decode`.
        """
        return decode(self.content(name), f"{self.path}, {name}", sample_rate)
