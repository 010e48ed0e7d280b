"""Damaged archives of recordings: `python -m tests.soak.archives --trials 20000`.

Sizes, places, methods, flags and sums are overwritten, bytes are cut out and put in. Each recording must come
out as it was or be refused, in bounded memory, whatever an archive says of itself."""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from dream import DataError
from lightning_modules.speech.audio import WavZip

RATE = 8000
MOST = 8 << 20
"""Bytes that reading an archive of some KB may take."""
EXTREMES = [
    b"\xff" * 4,
    bytes(4),
    b"\xff\xff\xff\x7f",
    b"\1\0\0\0",
    b"\xff" * 8,
    bytes(8),
    b"\x08\0",
    b"\x0e\0",
]


def archives() -> tuple[list[bytes], list[np.ndarray]]:
    """Archives of every kind that is read, and the samples of the recordings in each."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 400)).astype(np.float32)
    wavs = []
    for samples in noise:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE, format="WAV", subtype="FLOAT")
        wavs.append(buffer.getvalue())
    made = []
    for method, large in (
        (zipfile.ZIP_STORED, False),
        (zipfile.ZIP_DEFLATED, False),
        (zipfile.ZIP_DEFLATED, True),
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            for number, wav in enumerate(wavs):
                with archive.open(f"{number}.wav", "w", force_zip64=large) as member:
                    member.write(wav)
        made.append(packed.getvalue())
    return made, list(noise)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """An archive with a few changes, most of them where it says something of itself."""
    raw = bytearray(content)
    said = [place for place in range(len(raw)) if raw.startswith(b"PK", place)]
    for _ in range(dice.randint(1, 4)):
        place = dice.choice(said) + dice.randrange(64) if dice.random() < 0.8 else dice.randrange(len(raw))
        new = dice.choice(EXTREMES) if dice.random() < 0.6 else dice.randbytes(dice.choice((1, 2, 4, 8)))
        kind = dice.random()
        raw[place : place + (len(new) if kind < 0.8 else 0 if kind < 0.9 else 40)] = (
            new if kind < 0.9 else b""
        )
    return bytes(raw)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Damage archives and read them; print and return figures.

    Raises:
        AssertionError: a recording came out as another one, or reading took too much memory.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    dice = random.Random(asked.seed)
    whole, truth = archives()
    figures: dict[str, Any] = {"trials": asked.trials, "recordings read": 0, "refused": 0, "most bytes": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.zip")
        tracemalloc.start()
        for _ in range(asked.trials):
            path.write_bytes(damaged(dice.choice(whole), dice))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                archive = WavZip(path)
                for name in archive.names:
                    samples = archive.read(name, RATE)
                    assert any(np.array_equal(samples, right) for right in truth), f"{name} is another one"
                    figures["recordings read"] += 1
            except DataError:
                figures["refused"] += 1
            figures["most bytes"] = max(figures["most bytes"], tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    print(figures)  # noqa: T201
    assert figures["most bytes"] < MOST, "reading took too much memory"
    return figures


if __name__ == "__main__":
    main()
