"""Functions of the compiled kernel that take NumPy arrays: heads that follow a stream, and anomaly scores.

Shapes: T rows, N streams, n features and a 1, o outputs of a head; C columns, K measures.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

_LANES = 8  # float64 numbers in the widest vector, to which the kernel pads a row
_KINDS = {"i": ctypes.c_int64, "d": ctypes.c_double, "p": ctypes.c_void_p}


class ArrayCalls(ABC):
    """Calls of `kernel/head.h` and `kernel/scores.h` in a compiled library."""

    @abstractmethod
    def _function(self, name: str) -> Any:
        """The library's function of this name.

        Raises:
            OSError: it has none.
        """

    def _typed(self, name: str, kinds: str) -> Any:
        """The same with the types of its arguments: i for a whole number, d for another, p for a pointer."""
        function = self._function(name)
        function.argtypes = [_KINDS[kind] for kind in kinds]
        return function

    def _prepare(self) -> None:
        """Look up the functions.

        Raises:
            OSError: the library lacks one.
        """
        self._scale = self._typed("dream_scale_f64", "iii" + "ddd" + "p" * 11)
        self._score = self._typed("dream_score_f64", "iiiiii" + "d" + "p" * 20)
        self._follow = self._typed("dream_follow_f64", "iiiidd" + "p" * 8)
        self._foretell = self._typed("dream_foretell_f64", "iiiiidd" + "p" * 7)
        self._solve = self._typed("dream_solve_f64", "iiipppdpp")
        self._descend = {
            name: self._typed(f"dream_descend_{name}", "ippiiidppppp") for name in ("f32", "f64")
        }

    def scale(
        self,
        values: np.ndarray,
        forecasts: np.ndarray | None,
        learning: np.ndarray,
        carried: Sequence[np.ndarray],
        memory: int,
        limits: tuple[float, float],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows relative to the past of each column, see `lightning_modules.anomaly.scores.RunningScale`.

        Args:
            values: (T, N, C).
            forecasts: (T, N, C); None where nothing was forecast.
            learning: (T, N) bool.
            carried: (N, ...) each, `RunningScale.CARRIED`; contiguous, moved on in place.
            memory: Rows after which the past fades.
            limits: Of levels and of differences.

        Returns:
            Levels, then differences (T, N, 2 C); the same of the forecasts; levels (T, N, C) of the last
            known values.
        """
        values, learning = _plain(values), _plain(learning, bool)
        forecasts = None if forecasts is None else _plain(forecasts)
        rows, streams, columns = values.shape
        found = [np.empty((rows, streams, width)) for width in (2 * columns, 2 * columns, columns)]
        addresses = map(address, (learning, values, forecasts, *carried, *found))
        self._scale(rows, streams, columns, memory, *limits, *addresses)
        return found[0], found[1], found[2]

    def score(
        self,
        x: np.ndarray,
        prediction: np.ndarray,
        gate: np.ndarray,
        learning: np.ndarray,
        carried: Sequence[np.ndarray],
        memory: int,
        measures: np.ndarray,
        constants: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores of rows, see `lightning_modules.anomaly.scores.AnomalyScore`.

        Args:
            x: (T, N, 2 C).
            prediction: (T, N, 2 C).
            gate: (T, N, 2).
            learning: (T, N) bool.
            carried: (N, ...) each; contiguous, and all but the gap moved on in place: burst and drift; the
                six of the tails; int64 rows and gap; what is recent.
            memory: Rows after which the past of the tails fades.
            measures: int64, places of those that count among all.
            constants: float64, as `kernel/scores.h` has them.

        Returns:
            Scores and alarms (T, N), and the measure that each stream's last score came from, (N,).

        Raises:
            MemoryError: there is not enough for one row of measures.
        """
        x, prediction, gate, learning = *map(_plain, (x, prediction, gate)), _plain(learning, bool)
        rows, streams, columns = *x.shape[:2], x.shape[2] // 2
        score, alarm, cause = (
            np.empty((rows, streams)),
            np.empty((rows, streams)),
            np.empty(streams, np.int64),
        )
        sizes = streams, columns, len(measures), carried[2].shape[1], carried[-1].shape[1]
        arrays = constants, measures, learning, x, prediction, gate, *carried, score, alarm, cause
        if self._score(rows, *sizes, memory, *map(address, arrays)):
            raise MemoryError("The CPU kernel found no memory for a row of measures.")
        return score, alarm, cause

    def follow(
        self,
        z: np.ndarray,
        y: np.ndarray,
        grams: Sequence[np.ndarray],
        moments: Sequence[np.ndarray],
        priors: Sequence[np.ndarray],
        discount: float,
        ridge: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Learn a row of each of N streams by least squares.

        The sums become `discount` A + z z^T and `discount` B + z y^T in place, where they lie, and A only
        from its diagonal on. Each head is solved by itself, so that its numbers are the same to the last bit
        whatever lies beside it.

        Args:
            z: (N, L, n) float64.
            y: (N, L, o) float64.
            grams: A of each stream, (L, n, n) float64, contiguous.
            moments: B, (L, n, o), likewise.
            priors: P, likewise.
            discount: Of the rows before.
            ridge: See `solve`.

        Returns:
            The weights that follow, see `solve`, (N, L, n, o); and whether they are finite, (N,): the sums of
            a stream whose weights are not stay as they were.
        """
        z, y = _plain(z), _plain(y)
        streams, lanes, n, o = *z.shape, y.shape[-1]
        work = np.empty((n + 1, n + o + 2 * _LANES))
        x, solved = np.empty((streams, lanes, n, o)), np.empty(streams, bool)
        places = [np.array([address(one) for one in part]) for part in (grams, moments, priors)]
        addresses = [address(part) for part in (z, y, *places, x, solved, work)]
        self._follow(streams, lanes, n, o, discount, ridge, *addresses)
        return x, solved

    def foretell(
        self,
        z: np.ndarray,
        learns: np.ndarray,
        y: np.ndarray,
        gram: np.ndarray,
        moment: np.ndarray,
        prior: np.ndarray,
        lag: int,
        discount: float,
        ridge: float,
    ) -> np.ndarray | None:
        """Predict rows by least squares with the weights of their time, see `kernel/foretell.h`.

        Args:
            z: (L, T + `lag`, n) float64; row t is learnt before row t + `lag` is predicted.
            learns: (L, T) bool, rows that are learnt.
            y: (L, T, o) float64.
            gram: A of the rows before, (L, n, n) float64, contiguous; from its diagonal on moved on in place.
            moment: B, (L, n, o), likewise.
            prior: P, likewise.
            lag: At least 1.
            discount: Of the rows before, for each row.
            ridge: See `solve`.

        Returns:
            (L, T, o); None where there is no finite solution: then the sums mean nothing.

        Raises:
            MemoryError: there is not enough for a block of rows.
        """
        z, y, learns = _plain(z), _plain(y), _plain(learns, bool)
        (lanes, rows, o), n = y.shape, z.shape[-1]
        found = np.empty(y.shape)
        arrays = z, learns, y, gram, moment, prior, found
        failed = self._foretell(lanes, rows, n, o, lag, discount, ridge, *map(address, arrays))
        if failed > 1:
            raise MemoryError("The CPU kernel found no memory for a block of rows.")
        return None if failed else found

    def solve(
        self, gram: np.ndarray, moment: np.ndarray, prior: np.ndarray, ridge: float
    ) -> np.ndarray | None:
        """(A + d I)^-1 (B + d P), d = 1 + `ridge` mean(diag A), of each matrix; None where one has none.

        Each is solved by itself, so that its numbers are the same to the last bit whatever lies beside it.

        Args:
            gram: A, (..., n, n) float64, symmetric; what lies before its diagonal is not read.
            moment: B, (..., n, o) float64.
            prior: P, likewise.
            ridge: Share of the mean of A's diagonal.
        """
        given = [_plain(part) for part in (gram, moment, prior)]
        n, o = moment.shape[-2:]
        found, work = np.empty(moment.shape), np.empty((n + 1, n + o + 2 * _LANES))
        addresses = *map(address, given), ridge, address(work), address(found)
        return None if self._solve(moment.size // (n * o), n, o, *addresses) else found

    def descend(
        self,
        values: np.ndarray,
        classes: np.ndarray,
        windows: np.ndarray,
        steps: int,
        lr: float,
        weight: np.ndarray,
        bias: np.ndarray,
    ) -> None:
        """Move the weights of a softmax regression by gradient steps over windows of rows, one after another.

        Args:
            values: (M, F) features of rows.
            classes: (M,) int64, each from 0 to below O.
            windows: (2, K) int64 first row of each window, and the row after its last.
            steps: Steps of each window, against the gradient of its mean cross-entropy.
            lr: Their size.
            weight: (O, F), changed in place; contiguous, of the dtype of `values`.
            bias: (O,), likewise.
        """
        values, classes, windows = (np.ascontiguousarray(part) for part in (values, classes, windows))
        starts, stops = windows
        room = np.empty((int((stops - starts).max()), len(bias)), values.dtype)
        self._descend[f"f{8 * values.itemsize}"](
            len(starts), address(starts), address(stops), steps, values.shape[1], len(bias), lr,
            *map(address, (values, classes, weight, bias, room)),
        )  # fmt: skip


def _plain(array: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """`array` as the kernel reads it."""
    return np.ascontiguousarray(array, dtype)


def address(array: np.ndarray | None) -> int:
    """Address of an array's numbers, which must lie in order; 0 for None."""
    if array is None:
        return 0
    try:  # takes a quarter of the time of `array.ctypes.data`
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # an array that is not to be written, or an empty one
        if not array.flags.c_contiguous:
            raise
        return array.ctypes.data
