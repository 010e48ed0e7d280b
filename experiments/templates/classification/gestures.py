"""Classes of one's own to learn within a sequence: anything that Python can read, as examples of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_modules.classification import EpisodeData
from lightning_modules.classification.data import Part

SENSORS = 8
EXAMPLES = 16


class MyGestures(EpisodeData):
    """Gestures by eight muscle sensors around an arm, worn by everybody at an angle of their own; the last
    people are the test part. Put your own source into `read`.

    Args:
        people: How many, each with four gestures.
    """

    def __init__(self, people: int = 120, **options: Any) -> None:
        super().__init__(**options)
        self.people = people

    @property
    def source(self) -> str:
        """Source of the examples, for messages."""
        return f"gestures of {self.people} people"

    def read(self) -> Mapping[Part, list[np.ndarray]]:
        """Classes of each part, each its examples (examples, features) as float32: here, of each person each
        gesture is a class. Those of the parts should be of different people."""
        random, angle = np.random.default_rng(self.seed), np.arange(SENSORS) * 2 * np.pi / SENSORS
        classes: list[np.ndarray] = []
        for _ in range(self.people):
            turned = random.uniform(0, 2 * np.pi)
            for muscle in range(4):
                place = turned + muscle * np.pi / 2 + 0.2 * random.standard_normal()
                strength = np.exp(1.5 * np.cos(angle - place) - 1.5)
                noise = 0.1 * random.standard_normal((EXAMPLES, SENSORS))
                classes.append(
                    (strength * random.uniform(0.5, 1.5, (EXAMPLES, 1)) + noise).astype(np.float32)
                )
        tested, held = len(classes) // 4, len(classes) // 8
        return {
            "train": classes[tested + held :],
            "val": classes[tested : tested + held],
            "test": classes[:tested],
        }
