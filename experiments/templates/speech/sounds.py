"""Sounds of one's own to tell apart: anything that Python can read, as samples with a name of what is
heard."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_modules.speech import SpeechData
from lightning_modules.speech.utterances import Part, Recording

SECONDS = 0.4


class MyMachines(SpeechData):
    """Machines that hum, rattle, squeal or start; the last machines are the test part, never heard before.
    Put your own source into `read`.

    Args:
        machines: How many, each with a pitch of its own.
        takes: Recordings of each sound of each machine.
    """

    def __init__(self, machines: int = 10, takes: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.machines = machines
        self.takes = takes

    @property
    def source(self) -> str:
        """Source of the recordings, for messages."""
        return f"{self.machines} machines"

    def read(self) -> list[Recording]:
        """Every recording: its name, its samples between -1 and 1 at `self.mfcc.sample_rate`, what is heard,
        its part (train, val or test; without val a share of train is taken), and who or what it is of."""
        random, found = np.random.default_rng(self.seed), []
        for machine in range(self.machines):
            part: Part = "test" if machine >= self.machines * 3 // 4 else "train"
            pitch = random.uniform(120, 240)
            for take in range(self.takes):
                for kind, samples in self._sounds(pitch * random.uniform(0.95, 1.05), random).items():
                    noisy = samples + 0.1 * random.standard_normal(len(samples))
                    name = f"machine{machine}-{kind}-{take}"
                    found.append(
                        Recording(name, (0.2 * noisy).astype(np.float32), kind, part, f"machine{machine}")
                    )
        return found

    def _sounds(self, pitch: float, random: np.random.Generator) -> dict[str, np.ndarray]:
        time = np.arange(int(SECONDS * self.mfcc.sample_rate)) / self.mfcc.sample_rate
        hum = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(4 * np.pi * pitch * time)
        rattle = hum * (np.sin(2 * np.pi * random.uniform(12, 20) * time) > 0)
        squeal = hum + np.sin(2 * np.pi * random.uniform(2000, 3000) * time)
        start = np.sin(2 * np.pi * pitch * (0.3 * time + 0.7 * time**2 / SECONDS))
        return {"hum": hum, "rattle": rattle, "squeal": squeal, "start": start}
