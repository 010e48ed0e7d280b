"""Generated streams whose rule changes at known rows, to try out online learning without any file."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from dream.errors import ConfigError
from lightning_modules.checks import require_int
from lightning_modules.data.series import Series
from lightning_modules.online.data import OnlineData, OnlineStream, Task

Drift = Literal["abrupt", "gradual", "recurring"]
_NOISE = 0.1  # standard deviation of the noise, in units of the inputs


class DriftingStream(OnlineData):
    """A changing rule from inputs to target, generated; bit for bit the same for the same arguments.

    Inputs x are first-order autoregressive (memory 0.7, variance 1). In concept k, with w_k a random
    direction of length 1, ``u = w_k . x + 0.5 (v_k . x)^2 - 0.5 + e`` with e normal of deviation 0.1, and v_k
    another random direction. Regression predicts u, classification whether u is above 0, and forecasting the
    next rows of x itself, whose j-th column then follows ``x_j' = 0.7 (w_kj . x) + e'`` with w_kj the rows of
    a random rotation.

    Drifts are equally spaced. `abrupt`: a new concept at once; `gradual`: rows follow the new concept with a
    probability that rises from 0 to 1 over half the distance to the next drift; `recurring`: two concepts in
    turn, each at once.

    Args:
        kind: `classification`, `regression` or `forecasting`.
        drift: How the rule changes.
        drifts: Number of changes.
        columns: D, number of inputs.
        length: Number of rows.
        seed: Seed of the generator; nothing else is random.
    """

    def __init__(
        self,
        kind: Literal["classification", "regression", "forecasting"] = "regression",
        drift: Literal["abrupt", "gradual", "recurring"] = "recurring",
        drifts: int = 5,
        columns: int = 6,
        length: int = 6000,
        seed: int = 7,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if kind not in get_args(Task):
            raise ConfigError(f"`kind` must be {', '.join(get_args(Task))}; got {kind!r}.", key="kind")
        if drift not in get_args(Drift):
            raise ConfigError(f"`drift` must be {', '.join(get_args(Drift))}; got {drift!r}.", key="drift")
        self.kind: Task = kind
        self.drift = drift
        self.drifts = require_int("drifts", drifts, least=0)
        self.seed = require_int("seed", seed, least=0)
        self.columns = require_int("columns", columns)
        self.length = require_int("length", length, least=100)

    @cached_property
    def drift_rows(self) -> tuple[int, ...]:
        """The first row of each concept but the first one."""
        return tuple(np.linspace(0, self.length, self.drifts + 2)[1:-1].astype(int).tolist())

    @cached_property
    def concepts(self) -> np.ndarray:
        """Number of each row's concept, (length,)."""
        random = np.random.default_rng([self.seed, 1])
        rows = np.arange(self.length)
        concept = np.searchsorted(self.drift_rows, rows, side="right")
        if self.drift == "recurring":
            return concept % 2
        if self.drift == "gradual":
            since = rows - np.array([0, *self.drift_rows])[concept]
            new = random.random(self.length) < since / (0.5 * self.length / (self.drifts + 1))
            concept = np.where(new | (concept == 0), concept, concept - 1)
        return concept

    def read(self) -> OnlineStream:
        random = np.random.default_rng(self.seed)
        size, rows = self.columns, self.length
        noise = random.standard_normal((rows, size)) * np.sqrt(1 - 0.7**2)
        rotations = np.linalg.qr(random.standard_normal((self.drifts + 1, size, size)))[0]
        values = np.zeros((rows, size))
        for row in range(1, rows):
            turn = rotations[self.concepts[row]] if self.kind == "forecasting" else np.eye(size)
            values[row] = 0.7 * turn @ values[row - 1] + noise[row]
        names = tuple(f"x{number}" for number in range(1, size + 1))
        source = f"drifting stream ({self.kind}, {self.drift}, {self.drifts} drifts, seed {self.seed})"
        series = Series(values, names, None, source)
        if self.kind == "forecasting":
            return OnlineStream(series, "forecasting", names)
        straight, bent = (random.standard_normal((self.drifts + 1, size)) for _ in range(2))
        straight, bent = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (straight, bent))
        along, across = ((part[self.concepts] * values).sum(1) for part in (straight, bent))
        u = along + 0.5 * across**2 - 0.5 + _NOISE * random.standard_normal(rows)
        if self.kind == "regression":
            return OnlineStream(series, "regression", ("u",), u[:, None])
        return OnlineStream(series, "classification", ("below", "above"), (u > 0).astype(np.int64))
