"""Scores in [0, 1] from values and prediction errors: causal, one row in, one score out.

Shapes: N streams, C columns, K measures. Everything is NumPy in float64, one row of every stream at a time;
streams never mix. The attributes of an object are all that it knows of the past."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from dream.errors import CheckpointError
from dream.ops import native
from lightning_modules.stream.checks import require_like

Owner = TypeVar("Owner")
DECADES = 10.0  # a score of 1 means a tail probability of 1e-10 or less
LEVEL_LIMIT, DIFFERENCE_LIMIT = 8.0, 50.0  # in running deviations; larger values are clipped
DRIFT_ROWS, BURST_ROWS = 24, 12  # rows over which a level, and an error, are averaged
AVERAGED = np.array([BURST_ROWS, DRIFT_ROWS], np.float64)[:, None, None]
TAIL_SHARE, TAIL_PRIOR, TAIL_CLIP = 0.05, 20.0, 20.0
STRAIGHT = 1e-9  # a tail of a smaller shape is exponential to rounding
SHARE_DECADES, NEPERS = -math.log10(TAIL_SHARE), math.log(10)
WARM_UP = 50  # rows before a tail returns anything but 0
MEASURES = ("error", "burst", "level", "drift")  # one for each column
GATE_MEASURES = ("deviation", "surprise")  # of the layer: one for all columns
CONSTANTS = np.array(
    [DECADES, BURST_ROWS, DRIFT_ROWS, TAIL_SHARE, TAIL_PRIOR, TAIL_CLIP, WARM_UP], np.float64
)
"""As the compiled kernel takes them."""
AT_ONCE = 1 << 15  # numbers of one kind that are computed together, as the cache holds them
GAUSSIAN_ROWS, GAUSSIAN_REFRESH = 6400, 100  # the benchmark's own constants


def duplicate(owner: Owner) -> Owner:
    """Another object with the same attributes; `copy.copy` is slow for what happens at every row."""
    new = object.__new__(type(owner))
    vars(new).update(vars(owner))
    return new


def _pieces(size: int, *arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The T rows of `arrays` (N, T, ...), so many at a time."""
    for start in range(0, arrays[0].shape[1], size):
        yield [array[:, start : start + size] for array in arrays]


def _both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two arrays (T, ...) as (T, 2, ...); `np.stack` takes thrice the time for a single row."""
    both = np.empty((len(first), 2, *first.shape[1:]))
    both[:, 0], both[:, 1] = first, second
    return both


def _before(flags: np.ndarray) -> np.ndarray | int:
    """Number of True values before each row of `flags` (T, ...)."""
    return 0 if len(flags) == 1 else flags.cumsum(0) - flags


def _line(start: np.ndarray, values: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """`start`, then `values` (T, ...), with the last known one where one is not: (T + 1, ...)."""
    line = np.concatenate([start[None], values])
    if known is not None:
        places = np.arange(1, len(line)).reshape(-1, *[1] * start.ndim)
        newest = np.maximum.accumulate(np.where(known, places, 0))
        line[1:] = np.take_along_axis(line, newest, 0)
    return line


@cache
def _places(measures: tuple[str, ...]) -> np.ndarray:
    """Places of these measures among all, as the compiled kernel counts them."""
    return np.array([(*MEASURES, *GATE_MEASURES).index(name) for name in measures])


class Scaled(NamedTuple):
    """Rows of N streams, relative to the past of each column."""

    x: np.ndarray
    """(N, T, 2 C) levels, then differences; NaN where one is missing."""
    levels: np.ndarray
    """(N, T, C) levels of the last known values."""
    expected: np.ndarray | None
    """(N, T, 2 C) the forecasts that were given, if any."""


class Sides:
    """Base of what carries numbers of streams that lie side by side."""

    CARRIED: ClassVar[tuple[str, ...]]
    """Attributes (N, ...) that are a stream's own; the others are settings."""

    @classmethod
    def beside(cls, owners: Sequence[Self]) -> Self:
        """The streams of several objects with the same settings in one."""
        new = duplicate(owners[0])
        for name in cls.CARRIED:
            setattr(new, name, np.concatenate([getattr(owner, name) for owner in owners]))
        return new

    def stream(self, number: int) -> Self:
        """One of the streams in an object of its own."""
        own = duplicate(self)
        for name in self.CARRIED:
            setattr(own, name, getattr(self, name)[number : number + 1].copy())
        return own

    def apart(self) -> list[Self]:
        """Each stream in an object of its own."""
        return [self.stream(number) for number in range(len(getattr(self, self.CARRIED[0])))]


class RunningScale(Sides):
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
        """`read` of a single row: levels, then differences (N, 2 C) of `values` (N, C)."""
        return self.read(values[:, None], learning[:, None]).x[:, 0]

    def read(self, values: np.ndarray, learning: np.ndarray, expected: np.ndarray | None = None) -> Scaled:
        """Read the next rows, and learn from them.

        Args:
            values: (N, T, C), NaN where one is missing.
            learning: (N, T) where the scales learn.
            expected: (N, T, C) a forecast of each row, in the data's unit; nothing is learnt from it.
        """
        if isinstance(kernel := native.kernel(), native.Kernel):
            return self._compiled(kernel, values, learning, expected)
        size = max(1, AT_ONCE // self.rows.size)
        if values.shape[1] <= size:
            return self._read(values, learning, expected)
        given = [values, learning] if expected is None else [values, learning, expected]
        pieces = [self._read(*piece) for piece in _pieces(size, *given)]
        x, levels = (np.concatenate(part, 1) for part in zip(*(piece[:2] for piece in pieces), strict=True))
        forecasts = [piece.expected for piece in pieces if piece.expected is not None]
        return Scaled(x, levels, np.concatenate(forecasts, 1) if forecasts else None)

    def _compiled(
        self, kernel: native.Kernel, values: np.ndarray, learning: np.ndarray, expected: np.ndarray | None
    ) -> Scaled:
        moved = {name: getattr(self, name).copy() for name in self.CARRIED}
        x, forecast, levels = kernel.scale(
            values.swapaxes(0, 1),
            None if expected is None else expected.swapaxes(0, 1),
            learning.T,
            list(moved.values()),
            self.memory,
            (LEVEL_LIMIT, DIFFERENCE_LIMIT),
        )
        vars(self).update(moved)
        x, forecast, levels = (part.swapaxes(0, 1) for part in (x, forecast, levels))
        return Scaled(x, levels, None if expected is None else forecast)

    def _read(self, values: np.ndarray, learning: np.ndarray, expected: np.ndarray | None = None) -> Scaled:
        values, columns = values.swapaxes(0, 1), values.shape[2]  # (T, N, C): a row is in one piece
        given = values[:, None] if expected is None else _both(values, expected.swapaxes(0, 1))
        finite = np.isfinite(values)
        gaps = not finite.all()
        before = _line(self.last, values, ~np.isinf(values) if gaps else None)
        begun = (self.rows[None, :, :columns] + _before(finite))[:, None] > 0
        x = np.concatenate([given, given - np.where(begun, before[:-1, None], given)], 3)  # (T, ., N, 2 C)
        seen = np.isfinite(x[:, 0])  # what is infinite is not learned either
        rows = self.rows[None] + _before(seen)
        rate = np.maximum(1 / self.memory, 1 / (rows + 1))  # (T, N, 2 C)
        rate *= learning.T[..., None]
        whole = seen.all()  # the difference from what was missing is missing, too
        if not whole:
            rate *= seen
        mean, var = self._follow(x[:, 0], None if whole else seen, rate)
        unit = np.sqrt(var)
        unit[unit == 0] = np.inf
        z = (x - mean[:, None]) / unit[:, None]
        np.maximum(z, -self.limit, out=z)
        np.minimum(z, self.limit, out=z)
        levels = _line(self.level, z[:, 0, :, :columns], ~np.isnan(values) if gaps else None)[1:]
        self.rows = rows[-1] + seen[-1]
        self.last, self.level = before[-1].copy(), levels[-1].copy()
        x, forecast = (z[:, place].swapaxes(0, 1) for place in (0, -1))
        return Scaled(x, levels.swapaxes(0, 1), None if expected is None else forecast)

    def _follow(
        self, x: np.ndarray, seen: np.ndarray | None, rate: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance before each row, (T, N, 2 C); None in the place of `seen` where all is."""
        mean, var, kept = np.empty(x.shape), np.empty(x.shape), 1 - rate
        for row, here in enumerate(x):
            mean[row], var[row] = self.mean, self.var
            away = here - self.mean
            if seen is not None:
                away = np.where(seen[row], away, 0.0)
            moved = rate[row] * away
            self.mean = self.mean + moved
            moved *= away
            moved += self.var
            self.var = kept[row] * moved
        return mean, var

    def copy(self) -> RunningScale:
        """Another object with the same past."""
        return duplicate(self)


class TailProbability(Sides):
    """Improbability ``-log10 P(A >= a)`` of a measure given its own past, for K measures of each stream.

    Above u, the running 95 % quantile, the tail is a generalised Pareto distribution (peaks over threshold):

        P(A >= a) = 0.05 (1 + xi (a - u) / sigma)^(-1 / xi)
        xi = max(0, (1 - M^2 / V) / 2),   sigma = M (1 - xi)

    M and V are mean and variance of the excesses over u so far, starting from 20 imagined exponential
    excesses as large as the mean of all a; one excess is clipped to 20 times the usual one. Below u the value
    rises linearly from 0 to that at u. u is tracked by stochastic approximation. All statistics fade after
    `memory` rows. The value is 0 for the first 50 rows. A measure that lies within half a step of u counts in
    part as above it, so that rounding never decides: streams that differ by rounding stay together.

    Source: Pickands, Statistical inference using extreme order statistics, 1975, by the method of moments.

    Args:
        streams: N.
        measures: K.
        memory: Rows after which the past fades.
    """

    CARRIED = ("rows", "mean", "quantile", "count", "sum", "squares")

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
        """`read` of a single row: improbabilities (N, K) of the measures `a` (N, K)."""
        return self.read(a[None], learning[None])[0]

    def read(self, a: np.ndarray, learning: np.ndarray) -> np.ndarray:
        """Improbabilities (T, N, K) of the measures of the next rows, and learn from them.

        One that was not measured is NaN: its improbability is 0, and nothing is learnt from it.

        Args:
            a: (T, N, K) >= 0.
            learning: (T, N) where the tails learn.
        """
        measured = ~np.isnan(a)
        gaps = not measured.all()
        if gaps:
            a = np.where(measured, a, 0.0)
        learns = learning[..., None] & measured
        rows = self.rows[None] + _before(learns)
        mean, quantile, step = self._follow(a, rows, learns)
        excess = a - quantile[:-1]
        counts = (learns & (rows >= WARM_UP // 2)) * self._part(excess, step)
        sums = self._excesses(excess, counts, mean[1:])
        surprising = self._log_tail(a, excess, rows, mean[:-1], quantile[:-1], *sums)
        self.rows = rows[-1] + learns[-1]
        self.mean, self.quantile = mean[-1].copy(), quantile[-1].copy()
        return np.where(measured, surprising, 0.0) if gaps else surprising

    @staticmethod
    def _part(excess: np.ndarray, step: np.ndarray) -> np.ndarray:
        """How far measures with these excesses count as above the quantile, from 0 to 1."""
        return np.minimum(np.maximum((excess + 0.5 * step) / np.maximum(step, 1e-30), 0.0), 1.0)

    def _follow(
        self, a: np.ndarray, rows: np.ndarray, learns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and quantile before each row and after the last, (T + 1, N, K), and the longest step of the
        quantile, (T, N, K)."""
        rate = np.maximum(1 / self.memory, 1 / (rows + 1))
        rate *= learns
        mean, quantile = (np.empty((len(a) + 1, *a.shape[1:])) for _ in range(2))
        mean[0], quantile[0] = self.mean, self.quantile
        for row, here in enumerate(a):
            moved = here - mean[row]
            moved *= rate[row]
            np.add(mean[row], moved, out=mean[row + 1])
        size = rate * mean[1:]
        size /= TAIL_SHARE
        reached, down = a + 0.5 * size, TAIL_SHARE * size
        begins = rows[0].min() < 10
        for row, here in enumerate(a):
            before = quantile[row]
            after = np.subtract(reached[row], before, out=quantile[row + 1])
            np.maximum(after, 0.0, out=after)
            np.minimum(after, size[row], out=after)  # the part of `_part`, times the step
            after += before
            after -= down[row]
            np.maximum(after, 0.0, out=after)
            if begins:
                np.copyto(after, np.maximum(before, here), where=(rows[row] < 10) & learns[row])
        return mean, quantile, size

    def _excesses(
        self, excess: np.ndarray, counts: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number, sum and sum of squares of the excesses before each row, (T, N, K).

        They change where `counts`, how far each excess counts, is above 0, a twentieth of the time.
        """
        most = TAIL_SHARE * self.memory
        now, found = np.stack([self.count, self.sum, self.squares]), np.empty((3, *excess.shape))
        begin = 0
        for row in np.nonzero(counts.any(axis=(1, 2)))[0].tolist():
            found[:, begin : row + 1] = now[:, None]
            begin = row + 1
            part, (count, total, squares) = counts[row], now  # the last three are views
            usual = np.maximum(total / np.maximum(count, 1.0), mean[row])
            new = np.minimum(np.maximum(excess[row], 0.0), TAIL_CLIP * usual)
            now *= 1 - part * np.minimum(np.maximum(count - (most - 1), 0.0), 1.0) / most
            count += part
            total += part * new
            squares += part * new * new
        found[:, begin:] = now[:, None]
        self.count, self.sum, self.squares = (part.copy() for part in now)
        return found[0], found[1], found[2]

    @staticmethod
    def _log_tail(
        a: np.ndarray,
        excess: np.ndarray,
        rows: np.ndarray,
        mean: np.ndarray,
        quantile: np.ndarray,
        count: np.ndarray,
        total: np.ndarray,
        squares: np.ndarray,
    ) -> np.ndarray:
        weight = count + TAIL_PRIOR
        usual = (total + TAIL_PRIOR * mean) / weight
        var = np.maximum((squares + 2 * TAIL_PRIOR * mean**2) / weight - usual**2, 1e-12)
        shape = np.maximum(0.5 * (1 - usual**2 / var), 0.0)
        beyond = np.maximum(excess, 0.0) / np.maximum(usual * (1 - shape), 1e-9)
        heavy = shape > STRAIGHT
        nepers = np.where(heavy, np.log1p(shape * beyond) / np.where(heavy, shape, 1.0), beyond)
        below = SHARE_DECADES * np.minimum(a / np.maximum(quantile, 1e-9), 1.0)
        tail = np.where(excess > 0, nepers / NEPERS + SHARE_DECADES, below)
        return np.where(rows >= WARM_UP, tail, 0.0)


class AnomalyScore(Sides):
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

    CARRIED = ("burst", "drift", "rows", "gap", "recent")

    def __init__(
        self, streams: int, columns: int, memory: int, gap: np.ndarray, measures: Sequence[str] = MEASURES
    ) -> None:
        self.columns = columns
        self.measures = tuple(measures)
        width = sum(1 if name in GATE_MEASURES else columns for name in measures)
        self.tail = TailProbability(streams, width, memory)
        self.burst = np.zeros((streams, columns))
        self.drift = np.zeros((streams, columns))
        self.rows = np.zeros(streams, int)
        self.gap = np.maximum(gap, 1)
        self.recent = np.full((streams, int(self.gap.max())), -1.0)
        self.cause = (0,) * streams
        """Number of the measure that each stream's last score came from; of no later score."""

    def step(
        self, x: np.ndarray, prediction: np.ndarray, gate: np.ndarray, learning: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`read` of a single row: score and alarm (N,), of arguments (N, ...)."""
        score, alarm = self.read(*(part[:, None] for part in (x, prediction, gate, learning)))
        return score[:, 0], alarm[:, 0]

    def read(
        self, x: np.ndarray, prediction: np.ndarray, gate: np.ndarray, learning: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and alarms (N, T) of the next rows.

        Args:
            x: (N, T, 2 C) levels and differences; NaN where one is missing.
            prediction: (N, T, 2 C) prediction of `x`.
            gate: (N, T, 2) deviation and surprise.
            learning: (N, T) where the tails learn.
        """
        if isinstance(kernel := native.kernel(), native.Kernel):
            return self._compiled(kernel, x, prediction, gate, learning)
        size = max(1, AT_ONCE // self.tail.rows.size)
        if x.shape[1] <= size:
            return self._read(x, prediction, gate, learning)
        pieces = [self._read(*piece) for piece in _pieces(size, x, prediction, gate, learning)]
        scores, alarms = (np.concatenate(part, 1) for part in zip(*pieces, strict=True))
        return scores, alarms

    def _compiled(
        self,
        kernel: native.Kernel,
        x: np.ndarray,
        prediction: np.ndarray,
        gate: np.ndarray,
        learning: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        own = {name: getattr(self, name).copy() for name in ("burst", "drift", "rows", "recent")}
        tail = {name: getattr(self.tail, name).copy() for name in TailProbability.CARRIED}
        scores, alarms, cause = kernel.score(
            x.swapaxes(0, 1),
            prediction.swapaxes(0, 1),
            gate.swapaxes(0, 1),
            learning.T,
            [own["burst"], own["drift"], *tail.values(), own["rows"], self.gap, own["recent"]],
            self.tail.memory,
            _places(self.measures),
            CONSTANTS,
        )
        vars(self).update(own)
        vars(self.tail).update(tail)
        self.cause = tuple(cause.tolist())
        return scores.T, alarms.T

    def _read(
        self, x: np.ndarray, prediction: np.ndarray, gate: np.ndarray, learning: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        x, prediction, gate = (part.swapaxes(0, 1) for part in (x, prediction, gate))
        levels, observed = x[..., : self.columns], ~np.isnan(x)
        gaps = not observed.all()
        apart = x - prediction
        if gaps:
            apart = np.where(observed, apart, 0.0)
        squares = apart * apart
        squares = squares[..., : self.columns] + squares[..., self.columns :]
        known, both = observed[..., : self.columns], observed[..., self.columns :]
        error = np.sqrt(squares / (np.maximum(known.astype(np.float64) + both, 1) if gaps else 2))
        burst, drift = self._average(error, levels, known if gaps else None)
        seen = {"error": error, "burst": burst, "level": np.abs(levels), "drift": np.abs(drift)}
        if gaps:
            seen = {name: np.where(known, values, np.nan) for name, values in seen.items()}
            gate = np.where(known.any(2, keepdims=True), gate, np.nan)
        seen |= {name: gate[..., place : place + 1] for place, name in enumerate(GATE_MEASURES)}
        improbable = self.tail.read(np.concatenate([seen[name] for name in self.measures], 2), learning.T)
        self.cause = tuple(improbable[-1].argmax(1).tolist())
        decades = improbable.max(2)
        return np.minimum(decades / DECADES, 1.0).T, self._alarm(decades).T

    def _average(
        self, error: np.ndarray, levels: np.ndarray, known: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Burst and drift after each row, (T, N, C); None in the place of `known` where all is."""
        both, means = _both(error, levels), np.empty((len(error) + 1, 2, *error.shape[1:]))
        means[0, 0], means[0, 1] = self.burst, self.drift
        for row in range(len(error)):
            away = both[row] - means[row]
            away /= AVERAGED
            np.add(means[row], away, out=means[row + 1])
            if known is not None:
                np.copyto(means[row + 1], means[row], where=~known[row])
        self.burst, self.drift = means[-1].copy()
        return means[1:, 0], means[1:, 1]

    def cause_of(self, stream: int) -> tuple[str, int | None]:
        """The measure that the score of a stream's last row came from, and its column unless it has none."""
        place = self.cause[stream]
        for name in self.measures:
            width = 1 if name in GATE_MEASURES else self.columns
            if place < width:
                return name, None if name in GATE_MEASURES else place
            place -= width
        raise AssertionError(place)

    @classmethod
    def beside(cls, owners: Sequence[Self]) -> Self:
        width = max(owner.recent.shape[1] for owner in owners)
        new = super().beside([owner._widened(width) for owner in owners])
        new.tail = TailProbability.beside([owner.tail for owner in owners])
        new.cause = tuple(cause for owner in owners for cause in owner.cause)
        return new

    def _widened(self, width: int) -> Self:
        """The same with room for so many recent rows, beside streams of a longer gap."""
        lacking = width - self.recent.shape[1]
        if not lacking:
            return self
        new = duplicate(self)
        new.recent = np.pad(self.recent, ((0, 0), (0, lacking)), constant_values=-1.0)
        return new

    def stream(self, number: int) -> Self:
        own = super().stream(number)
        own.recent = own.recent[:, : int(own.gap[0])]
        own.tail, own.cause = self.tail.stream(number), self.cause[number : number + 1]
        return own

    def copy(self) -> AnomalyScore:
        """Another object with the same past."""
        new = duplicate(self)
        new.tail = duplicate(self.tail)
        return new

    def _alarm(self, decades: np.ndarray) -> np.ndarray:
        """Alarms (T, N) of rows with so many decades."""
        places, climax = np.arange(decades.shape[1]), np.empty(decades.shape, bool)
        rows = self.rows + np.arange(1, len(decades) + 1)[:, None]  # (T, N)
        self.rows, self.recent = rows[-1], self.recent.copy()
        for row, here in enumerate(decades):
            np.greater(here, self.recent.max(1), out=climax[row])
            self.recent[places, rows[row] % self.gap] = here
        rarity = decades - 0.5 * np.log10(np.maximum(rows, WARM_UP))
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
