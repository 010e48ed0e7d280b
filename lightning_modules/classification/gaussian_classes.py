"""Few-shot classes that are generated, to try out learning within a sequence without any file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_modules.checks import require, require_int
from lightning_modules.classification.data import EpisodeData, Part

EXAMPLES = 20
"""Examples of a class."""
SHARES: Mapping[Part, float] = {"train": 0.6, "val": 0.15, "test": 0.25}


class GaussianClasses(EpisodeData):
    """Normally distributed classes, generated; bit for bit the same for the same arguments.

    Example k of class c, with an orthonormal mixing (P, Q) that all classes share:

        x_ck = P (m_c + noise e_ck) + Q n_ck,    m_c, e_ck and n_ck normal with variance 1

    P has `traits` columns and Q the rest of `width`: only a few directions tell classes apart, and all
    others vary as much. Which directions count is to be learnt in training, which class is which within a
    sequence. Classes of validation and test are never trained on.

    Args:
        width: Features of an example.
        traits: Directions that tell classes apart.
        noise: Deviation of the examples of a class in those directions.
        pool: Number of classes, 60 % of them to train on, 15 % for validation, 25 % for the test.
    """

    def __init__(
        self, width: int = 16, traits: int = 4, noise: float = 0.3, pool: int = 400, **options: Any
    ) -> None:
        super().__init__(**options)
        self.width = require_int("width", width)
        self.traits = require_int("traits", traits)
        require("traits", traits, traits <= width, f"at most `width`, {width}")
        require("noise", noise, 0 <= noise <= 100, "from 0 to 100")
        self.noise = noise
        self.classes = require_int("pool", pool, least=20)

    @property
    def source(self) -> str:
        return (
            f"Gaussian classes (width {self.width}, traits {self.traits}, noise {self.noise:g}, pool "
            f"{self.classes}, seed {self.seed})"
        )

    def read(self) -> Mapping[Part, list[np.ndarray]]:
        random = np.random.default_rng([self.seed, 3])
        mixing = np.linalg.qr(random.standard_normal((self.width, self.width)))[0]
        means = random.standard_normal((self.classes, 1, self.traits))
        spread = random.standard_normal((self.classes, EXAMPLES, self.width))
        spread[..., : self.traits] = means + self.noise * spread[..., : self.traits]
        examples = list((spread @ mixing.T).astype(np.float32))
        ends = np.cumsum([round(share * self.classes) for share in SHARES.values()])
        parts = np.split(np.arange(self.classes), ends[:-1])
        return {part: [examples[k] for k in own] for part, own in zip(SHARES, parts, strict=True)}
