"""Words made of tones, spoken by generated voices, to try out speech without any file."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_modules.checks import require, require_int
from lightning_modules.speech.data import SpeechData
from lightning_modules.speech.utterances import Part, Recording

NAMES = (
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliett",
    "kilo",
    "lima",
)
NOTES = tuple(180.0 * 1.3**k for k in range(6))  # Hz, of a middle voice
SUNG = ((0, 2, 4, 1), (5, 1, 3, 0), (2, 0, 5, 3), (4, 1, 0, 5), (1, 3, 5, 2), (3, 4, 2, 0))
OVERTONES = 5
NOTE, EDGE = 0.08, 0.01  # seconds of a note at a middle tempo, and of its rise, fall and glide to the next


class ToneWords(SpeechData):
    """Words of four notes, generated; bit for bit the same for the same arguments.

    Words 7 to 12 are words 1 to 6 with their middle notes swapped, so that only the order of the notes tells
    them apart. A voice has its own pitch (from 15 % below the middle to 18 % above it, more than half of the
    way to the next note), tempo and timbre (the strengths of five overtones). Every take has its own
    detuning, lengths of notes, loudness, silence around it, and white noise 10 to 25 dB below it. The last
    quarter of the voices is the test part: they are new at test time.

    Args:
        words: Number of words, up to 12.
        voices: Number of voices.
        takes: How often each voice says each word.
    """

    def __init__(self, words: int = 12, voices: int = 20, takes: int = 5, **options: Any) -> None:
        super().__init__(**options)
        require("words", words, 2 <= words <= len(NAMES), f"from 2 to {len(NAMES)}")
        self.words = require_int("words", words)
        self.voices = require_int("voices", voices, least=2)
        self.takes = require_int("takes", takes, least=2)

    @property
    def source(self) -> str:
        return f"tone words (words {self.words}, voices {self.voices}, takes {self.takes}, seed {self.seed})"

    def read(self) -> list[Recording]:
        random = np.random.default_rng([self.seed, 2])
        sung = [*SUNG, *((a, c, b, d) for a, b, c, d in SUNG)]
        tested = max(self.voices // 4, 1)
        found = []
        for voice in range(self.voices):
            pitch, tempo = random.uniform(0.85, 1.18), random.uniform(0.8, 1.25)
            timbre = random.uniform(0.2, 1, OVERTONES) / np.arange(1, OVERTONES + 1) ** random.uniform(0, 1)
            for word, notes in zip(NAMES[: self.words], sung, strict=False):
                for take in range(self.takes):
                    samples = self._spoken([NOTES[note] * pitch for note in notes], tempo, timbre, random)
                    part: Part = "test" if voice >= self.voices - tested else "train"
                    name = f"{word}-voice{voice}-{take}"
                    found.append(Recording(name, samples, word, part, f"voice{voice}"))
        return found

    def _spoken(
        self, notes: list[float], tempo: float, timbre: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        rate, edge = self.mfcc.sample_rate, round(EDGE * self.mfcc.sample_rate)
        lengths = [round(NOTE * rate / tempo * random.uniform(0.6, 1.6)) for _ in notes]
        detuned = [note * random.uniform(0.97, 1.03) for note in notes]
        smooth = np.hanning(edge + 2)[1:-1] / np.hanning(edge + 2).sum()
        contour = np.repeat(detuned, lengths)
        pitch = np.convolve(np.pad(contour, edge, mode="edge"), smooth, mode="same")[edge:-edge]
        loud = np.concatenate([np.pad(np.ones(length - 2 * edge), edge) for length in lengths])
        loud = np.convolve(np.pad(loud, edge), smooth, mode="same")[edge:-edge]
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        tone = sum(strength * np.sin(k * phase) for k, strength in enumerate(timbre, 1)) * loud
        before, after = random.uniform(0.02, 0.08, 2) * rate
        clean = np.pad(tone / np.sqrt(np.mean(tone**2)), (round(before), round(after)))
        noise = 10 ** (-random.uniform(10, 25) / 20) * random.standard_normal(len(clean))
        volume = 0.1 * random.uniform(0.3, 1)
        return (volume * (clean + noise)).astype(np.float32)
