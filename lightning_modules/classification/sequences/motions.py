"""Motions of a hand that are generated, to try out classification of sequences without any file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightning_modules.checks import require, require_int
from lightning_modules.classification.sequences.data import Part, SequenceData, WholeSequence

MOTIONS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, ...]]] = {
    "circle": lambda angle: (np.cos(angle), np.sin(angle), 0 * angle),
    "circle_back": lambda angle: (np.cos(angle), -np.sin(angle), 0 * angle),
    "small_circle": lambda angle: (0.5 * np.cos(angle), 0.5 * np.sin(angle), 0 * angle),
    "raised_circle": lambda angle: (np.cos(angle), np.sin(angle), 0 * angle + 1),
    "eight": lambda angle: (np.cos(angle), np.sin(2 * angle), 0 * angle),
    "wave": lambda angle: (np.cos(angle), 0 * angle, np.sin(angle)),
}
"""Place of the hand at an angle, before it is turned, stretched and lifted."""
TURNS = 2
"""Times that a motion is repeated in a sequence."""


class Motions(SequenceData):
    """Three coordinates of a moving hand, generated; bit for bit the same for the same arguments.

    Six motions, of which some differ in direction, size or height alone. A person has a size (0.85 to 1.18),
    a tempo (24 to 60 steps for a motion) and a turn about the vertical (up to 0.6 radians). Each take begins
    at an angle of its own, drifts by a slow sine, and has noise. The last quarter of the people are the test
    part: they are new at test time.

    Args:
        people: Number of people.
        takes: How often each makes each motion.
        noise: Deviation of the noise, where a circle has the radius 1.
    """

    def __init__(self, people: int = 24, takes: int = 4, noise: float = 0.3, **options: Any) -> None:
        super().__init__(**options)
        self.people = require_int("people", people, least=4)
        self.takes = require_int("takes", takes)
        require("noise", noise, 0 <= noise <= 100, "from 0 to 100")
        self.noise = noise

    @property
    def source(self) -> str:
        return f"motions (people {self.people}, takes {self.takes}, noise {self.noise:g}, seed {self.seed})"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("x", "y", "z")

    def read(self) -> Sequence[WholeSequence]:
        random = np.random.default_rng([self.seed, 5])
        found = []
        for person in range(self.people):
            size, steps = random.uniform(0.85, 1.18), int(random.integers(24, 61))
            turn = random.uniform(-0.6, 0.6)
            turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
            part: Part = "train" if person < self.people - self.people // 4 else "test"
            for motion, place in MOTIONS.items():
                for take in range(self.takes):
                    time = np.arange(steps) / steps
                    start, drift = random.uniform(0, 2 * np.pi, 2)
                    path = np.stack(place(start + 2 * np.pi * TURNS * time), axis=1)
                    path = size * path @ turned.T + 0.3 * np.sin(drift + np.pi * time)[:, None]
                    values = path + self.noise * random.standard_normal(path.shape)
                    name = f"{motion}-person{person}-{take}"
                    found.append(WholeSequence(name, values, motion, part, f"person{person}"))
        return found
