"""Scores in [0, 1] from values and prediction errors: causal, one row in, one score out.

Shapes: N streams, C columns, K measures. Everything is NumPy in float64, one row of every stream at a time;
streams never mix. The attributes of an object are all that it knows of the past."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dream.errors import CheckpointError
from lightning_modules.stream.checks import require_like

Owner = TypeVar("Owner")
DECADES = 10.0  # a score of 1 means a tail probability of 1e-10 or less
LEVEL_LIMIT, DIFFERENCE_LIMIT = 8.0, 50.0  # in running deviations; larger values are clipped
DRIFT_ROWS, BURST_ROWS = 24, 12  # rows over which a level, and an error, are averaged
TAIL_SHARE, TAIL_PRIOR, TAIL_CLIP = 0.05, 20.0, 20.0
SHARE_DECADES, NEPERS = -math.log10(TAIL_SHARE), math.log(10)
WARM_UP = 50  # rows before a tail returns anything but 0
MEASURES = ("error", "burst", "level", "drift")  # one for each column
GATE_MEASURES = ("deviation", "surprise")  # of the layer: one for all columns
GAUSSIAN_ROWS, GAUSSIAN_REFRESH = 6400, 100  # the benchmark's own constants


def duplicate(owner: Owner) -> Owner:
    """Another object with the same attributes; `copy.copy` is slow for what happens at every row."""
    new = object.__new__(type(owner))
    vars(new).update(vars(owner))
    return new


class RunningScale:
    """Level and first difference of each column, relative to their own past.

    ``level_t = (y_t - m) / s`` and ``difference_t = (y_t - y_(t-1) - m') / s'``, with running means and
    deviations over the rows before t, of rate ``max(1 / memory, 1 / values so far)``; clipped to +-8 and
    +-50. 0 while nothing is known.

    A missing value is NaN in both, as is a difference from one, and moves nothing.

    Args:
        streams: N.
        columns: C.
        memory: Rows after which the past fades.
    """

    CARRIED = ("rows", "last", "level", "mean", "var")

    def __init__(self, streams: int, columns: int, memory: int) -> None:
        self.memory = memory
        self.rows = np.zeros((streams, 2 * columns))
        """Levels and differences that were known so far."""
        self.last = np.zeros((streams, columns))
        """The row before; what is infinite in it is the last value that was not."""
        self.level = np.zeros((streams, columns))
        """Level of the last known value of each column."""
        self.mean = np.zeros((streams, 2 * columns))
        self.var = np.zeros((streams, 2 * columns))
        self.limit = np.repeat([LEVEL_LIMIT, DIFFERENCE_LIMIT], columns)

    def arrays(self) -> dict[str, np.ndarray]:
        """State of each stream, (N, ...) by name, for `load`."""
        return {name: getattr(self, name) for name in self.CARRIED}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Resume from the state that `arrays` returned."""
        for name in self.CARRIED:
            setattr(self, name, arrays[name])

    def step(self, values: np.ndarray, learning: np.ndarray) -> np.ndarray:
        """Levels, then differences (N, 2 C) of `values` (N, C); only streams in `learning` (N,) learn."""
        columns = values.shape[1]
        x, z = self._relative(values)
        seen = np.isfinite(x)  # what is infinite is not learned either
        rate = learning[:, None] * seen * np.maximum(1 / self.memory, 1 / (self.rows + 1))
        away = np.where(seen, x - self.mean, 0.0)
        self.mean = self.mean + rate * away
        self.var = (1 - rate) * (self.var + rate * away * away)
        self.rows = self.rows + seen  # a copy of this object may share the array
        self.last = np.where(np.isinf(values), self.last, values)
        self.level = np.where(np.isnan(values), self.level, z[:, :columns])
        return z

    def relative(self, values: np.ndarray) -> np.ndarray:
        """Levels, then differences (N, 2 C) of `values` (N, C) if they came next; nothing is learned."""
        return self._relative(values)[1]

    def _relative(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Levels, then differences (N, 2 C), in the data's unit and in deviations."""
        columns = values.shape[1]
        differences = values - np.where(self.rows[:, :columns] > 0, self.last, values)
        x = np.concatenate([values, differences], 1)
        known = self.var > 0
        z = np.where(known, (x - self.mean) / np.sqrt(np.where(known, self.var, 1.0)), 0.0)
        z = np.minimum(np.maximum(z, -self.limit), self.limit)
        return x, np.where(np.isnan(x), np.nan, z)

    def copy(self) -> RunningScale:
        """Another object with the same past."""
        return duplicate(self)


class TailProbability:
    """Improbability ``-log10 P(A >= a)`` of a measure given its own past, for K measures of each stream.

    Above u, the running 95 % quantile, the tail is a generalised Pareto distribution (peaks over threshold):

        P(A >= a) = 0.05 (1 + xi (a - u) / sigma)^(-1 / xi)
        xi = max(0, (1 - M^2 / V) / 2),   sigma = M (1 - xi)

    M and V are mean and variance of the excesses over u so far, starting from 20 imagined exponential
    excesses as large as the mean of all a; one excess is clipped to 20 times the usual one. Below u the value
    rises linearly from 0 to that at u. u is tracked by stochastic approximation. All statistics fade after
    `memory` rows. The value is 0 for the first 50 rows.

    Source: Pickands, Statistical inference using extreme order statistics, 1975, by the method of moments.

    Args:
        streams: N.
        measures: K.
        memory: Rows after which the past fades.
    """

    def __init__(self, streams: int, measures: int, memory: int) -> None:
        shape = (streams, measures)
        self.memory = memory
        self.rows = np.zeros(shape)
        self.mean = np.zeros(shape)
        self.quantile = np.zeros(shape)
        self.count = np.zeros(shape)
        self.sum = np.zeros(shape)
        self.squares = np.zeros(shape)

    def step(self, a: np.ndarray, learning: np.ndarray) -> np.ndarray:
        """Improbabilities (N, K) of the measures `a` (N, K) >= 0; only streams in `learning` (N,) learn.

        One that was not measured is NaN: its improbability is 0, and nothing is learnt from it.
        """
        measured = ~np.isnan(a)
        a = np.where(measured, a, 0.0)
        excess = a - self.quantile
        surprising = self._log_tail(a, excess)
        self._learn(a, excess, (learning[:, None] & measured).astype(np.float64))
        return np.where(measured, surprising, 0.0)

    def _log_tail(self, a: np.ndarray, excess: np.ndarray) -> np.ndarray:
        weight = self.count + TAIL_PRIOR
        mean = (self.sum + TAIL_PRIOR * self.mean) / weight
        var = np.maximum((self.squares + 2 * TAIL_PRIOR * self.mean**2) / weight - mean**2, 1e-12)
        shape = np.maximum(0.5 * (1 - mean**2 / var), 0.0)
        beyond = np.maximum(excess, 0.0) / np.maximum(mean * (1 - shape), 1e-9)
        heavy = shape > 1e-3
        nepers = np.where(heavy, np.log1p(shape * beyond) / np.where(heavy, shape, 1.0), beyond)
        below = SHARE_DECADES * np.minimum(a / np.maximum(self.quantile, 1e-9), 1.0)
        tail = np.where(excess > 0, nepers / NEPERS + SHARE_DECADES, below)
        return np.where(self.rows >= WARM_UP, tail, 0.0)

    def _learn(self, a: np.ndarray, excess: np.ndarray, learning: np.ndarray) -> None:
        rate = learning * np.maximum(1 / self.memory, 1 / (self.rows + 1))
        self.mean = self.mean + rate * (a - self.mean)
        over = a > self.quantile
        moved = self.quantile + rate * self.mean / TAIL_SHARE * (over - TAIL_SHARE)
        moved = np.where(self.rows < 10, np.maximum(self.quantile, a), np.maximum(moved, 0.0))
        self.quantile = np.where(learning > 0, moved, self.quantile)
        seen = learning * (excess > 0) * (self.rows >= WARM_UP // 2)
        usual = np.maximum(self.sum / np.maximum(self.count, 1.0), self.mean)
        excess = seen * np.minimum(excess, TAIL_CLIP * usual)
        most = TAIL_SHARE * self.memory
        kept = 1 - seen * (self.count >= most) / most
        self.count = kept * self.count + seen
        self.sum = kept * self.sum + excess
        self.squares = kept * self.squares + excess**2
        self.rows = self.rows + learning


class AnomalyScore:
    """Score and alarm of each row, from the layer's input and its prediction of it.

    With level and difference of column c from `RunningScale`, and the errors e of their predictions, the
    measures are

        error_c   = sqrt((e_level,c^2 + e_difference,c^2) / 2)
        burst_c   = running mean of error_c over 12 rows
        level_c   = |level of column c|
        drift_c   = |running mean of the level of column c over 24 rows|
        deviation = r of the layer, line 3 of `dream.functional.advance`
        surprise  = S of the layer, line 5

    and with P from a `TailProbability` of each

        score = min(1, max over measures and columns of -log10 P / 10)
        alarm = min(1, max(0, score - log10(rows so far) / 20))   if score is the highest of `gap` rows
                0                                                 otherwise

    A long stream has more rare rows than a short one: the second term demands half a decade more for each
    decade of rows. A score that follows a higher one within `gap` rows is no new alarm.

    A missing value, whose level is NaN, has no measures, and neither has the layer in a row without any
    value, whose score is 0. Where only a difference is missing, the error is that of the level.

    Args:
        streams: N.
        columns: C.
        memory: Rows after which the past of the tails fades.
        gap: (N,) rows within which a lower score is no new alarm.
        measures: Measures that count, of `MEASURES` and `GATE_MEASURES`.
    """

    def __init__(
        self, streams: int, columns: int, memory: int, gap: np.ndarray, measures: Sequence[str] = MEASURES
    ) -> None:
        self.columns = columns
        self.measures = tuple(measures)
        width = sum(1 if name in GATE_MEASURES else columns for name in measures)
        self.tail = TailProbability(streams, width, memory)
        self.burst = np.zeros((streams, columns))
        self.drift = np.zeros((streams, columns))
        self.rows = 0
        self.gap = np.maximum(gap, 1)
        self.recent = np.full((streams, int(self.gap.max())), -1.0)
        self.cause = (0,) * streams
        """Number of the measure that each stream's last score came from; of no later score."""

    def step(
        self, x: np.ndarray, prediction: np.ndarray, gate: np.ndarray, learning: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score and alarm (N,) of one row of each stream.

        Args:
            x: (N, 2 C) levels and differences; NaN where one is missing.
            prediction: (N, 2 C) prediction of `x`.
            gate: (N, 2) deviation and surprise.
            learning: (N,) streams whose tails learn from the row.
        """
        levels, observed = x[:, : self.columns], ~np.isnan(x)
        apart = np.where(observed, x - prediction, 0.0)
        squares = apart * apart
        count = observed[:, : self.columns].astype(np.float64) + observed[:, self.columns :]
        error = np.sqrt((squares[:, : self.columns] + squares[:, self.columns :]) / np.maximum(count, 1))
        known = observed[:, : self.columns]
        self.burst = np.where(known, self.burst + (error - self.burst) / BURST_ROWS, self.burst)
        self.drift = np.where(known, self.drift + (levels - self.drift) / DRIFT_ROWS, self.drift)
        seen = {"error": error, "burst": self.burst, "level": np.abs(levels), "drift": np.abs(self.drift)}
        seen = {name: np.where(known, values, np.nan) for name, values in seen.items()}
        gate = np.where(known.any(1, keepdims=True), gate, np.nan)
        seen |= {name: gate[:, [place]] for place, name in enumerate(GATE_MEASURES)}
        improbable = self.tail.step(np.concatenate([seen[name] for name in self.measures], 1), learning)
        self.cause = tuple(improbable.argmax(1).tolist())
        decades = improbable.max(1)
        return np.minimum(decades / DECADES, 1.0), self._alarm(decades)

    def cause_of(self, stream: int) -> tuple[str, int | None]:
        """The measure that the score of a stream's last row came from, and its column unless it has none."""
        place = self.cause[stream]
        for name in self.measures:
            width = 1 if name in GATE_MEASURES else self.columns
            if place < width:
                return name, None if name in GATE_MEASURES else place
            place -= width
        raise AssertionError(place)

    def copy(self) -> AnomalyScore:
        """Another object with the same past."""
        new = duplicate(self)
        new.tail, new.recent = duplicate(self.tail), self.recent.copy()
        return new

    def _alarm(self, decades: np.ndarray) -> np.ndarray:
        self.rows += 1
        climax = decades > self.recent.max(1)
        rarity = decades - 0.5 * math.log10(max(self.rows, WARM_UP))
        self.recent[np.arange(len(decades)), self.rows % self.gap] = decades
        return np.where(climax, np.minimum(np.maximum(rarity / DECADES, 0.0), 1.0), 0.0)


def carried(scale: RunningScale, score: AnomalyScore) -> Iterator[tuple[str, object, str]]:
    """All that scale and score carry: a name for each value, its owner, and its attribute there."""
    for part, owner in (("scale", scale), ("score", score), ("tail", score.tail)):
        for name, value in vars(owner).items():
            if isinstance(value, (int, np.ndarray)):
                yield f"{part}.{name}", owner, name


def carried_tensors(scale: RunningScale, score: AnomalyScore) -> dict[str, Tensor]:
    """The values of `carried` as tensors, for `load_carried`."""
    return {key: torch.as_tensor(getattr(owner, name)) for key, owner, name in carried(scale, score)}


def load_carried(scale: RunningScale, score: AnomalyScore, tensors: Mapping[str, Tensor]) -> None:
    """Let fresh objects go on from the values that `carried_tensors` returned for others of their settings.

    Raises:
        CheckpointError: the values are of other settings, or none that such objects hold.
    """
    fresh = carried_tensors(scale, score)
    require_like(tensors, fresh)
    for name in ("scale.memory", "scale.limit", "score.columns", "score.gap", "tail.memory"):
        if not torch.equal(tensors[name], fresh[name]):
            raise CheckpointError(
                f"`{name}` must be {fresh[name].tolist()}; got {tensors[name].tolist()}. Give the settings "
                "that it was saved with."
            )
    for key, owner, name in carried(scale, score):
        value = tensors[key]
        setattr(owner, name, value.numpy().copy() if value.dim() else int(value))


class WindowedGaussian:
    """The classic rival: ``score = Phi(|y - m| / s)``, with m and s of up to 6400 past rows.

    m and s are updated every 100 rows. Of several columns the one that deviates most counts. The alarm is the
    score itself. A missing value counts in nothing. Source: the detector of that name in the benchmark NAB,
    with its two constants.

    Args:
        streams: N.
        columns: C.
    """

    def __init__(self, streams: int, columns: int) -> None:
        self.past = np.zeros((streams, GAUSSIAN_ROWS, columns))
        self.rows = 0
        self.mean = np.zeros((streams, columns))
        self.scale = np.ones((streams, columns))

    def step(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and alarm (N,) of `values` (N, C)."""
        if self.rows % GAUSSIAN_REFRESH == 0 and self.rows:
            known = self.past[:, : min(self.rows, GAUSSIAN_ROWS)]
            seen = ~np.isnan(known)
            count = np.maximum(seen.sum(1), 1)
            self.mean = np.where(seen, known, 0.0).sum(1) / count
            spread = np.where(seen, known - self.mean[:, None], 0.0)
            self.scale = np.maximum(np.sqrt((spread * spread).sum(1) / count), 1e-9)
        away = np.zeros_like(values)
        if self.rows >= GAUSSIAN_REFRESH:
            away = np.where(np.isnan(values), 0.0, np.abs(values - self.mean) / self.scale)
        self.past[:, self.rows % GAUSSIAN_ROWS] = values
        self.rows += 1
        score = torch.special.ndtr(torch.from_numpy(away.max(1))).numpy()
        return score, score


def tail_threshold(scores: np.ndarray, risk: float) -> float:
    """Score that a share `risk` of rows like those in `scores` (T,) is expected to exceed; needs no labels.

    Peaks over threshold: with u the 90 % quantile and M, V mean and variance of the excesses over it,
    ``u + sigma ((0.1 / risk)^xi - 1) / xi``, ``xi = max(0, (1 - M^2 / V) / 2)``, ``sigma = M (1 - xi)``. For
    a `risk` of 10 % or more it is the plain quantile."""
    if risk >= 0.1:
        return float(np.quantile(scores, 1 - risk))
    start = float(np.quantile(scores, 0.9))
    excess = scores[scores > start] - start
    if len(excess) == 0:
        return start
    mean, var = float(excess.mean()), max(float(excess.var()), 1e-12)
    shape = max(0.5 * (1 - mean**2 / var), 0.0)
    ratio = np.log(0.1 / risk)
    reach = np.expm1(shape * ratio) / shape if shape > 1e-3 else ratio
    return float(start + mean * (1 - shape) * reach)
