"""`RowReader`: one row of one stream, read in NumPy as `StreamNetwork.features` reads many in torch.

A row is some hundred small operations, each of which costs torch several times what it costs NumPy.

Shapes: D input columns, E feedback columns, C targets (classes for classification), L lanes, R past rows and
M moving averages that the head reads, K steps ahead of the seasonal profile, F features of a lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dream import DREAMStack, DREAMTrace, checks
from dream.ops.stepping import Stepper
from lightning_modules.stream.network import HEAD_LIMIT, READ_LIMIT, StreamNetwork
from lightning_modules.stream.normalizers import FLOOR, NormalizerState
from lightning_modules.stream.seasonal import SeasonalState
from lightning_modules.stream.state import Features, StreamState


class Read(NamedTuple):
    """`Features` of T rows of one stream, in NumPy."""

    values: np.ndarray
    """(T, L, F), in the dtype of the core."""
    level: np.ndarray
    """(T, C)."""
    scale: np.ndarray
    """(T, C)."""
    traces: Callable[[], list[DREAMTrace]]
    """Makes the traces of the layers, (L, T, ...)."""

    @staticmethod
    def of(features: Features) -> Read:
        """Features of one stream that the network read."""
        values, level, scale = (as_array(part[0]) for part in features[:3])
        return Read(values, level, scale, lambda: features.traces)

    def rows(self, start: int, stop: int) -> Read:
        """Some of the rows, with all traces."""
        return Read(self.values[start:stop], self.level[start:stop], self.scale[start:stop], self.traces)


class ManyRead(NamedTuple):
    """Features of one row of each of N streams."""

    values: np.ndarray
    """(N, 1, L, F)."""
    level: np.ndarray
    """(N, 1, C)."""
    scale: np.ndarray
    """(N, 1, C)."""


class RowState(NamedTuple):
    """`StreamState` of one stream; no array is changed in place."""

    columns: np.ndarray
    """(5, D), for a regression (5, D + E): the fields of `NormalizerState`."""
    seasonal: tuple[np.ndarray, ...]
    """The fields of `SeasonalState`."""
    core: list[np.ndarray]
    """The array of a `dream.ops.stepping.Stepper` for each layer."""
    window: np.ndarray
    """(past, D + E)."""
    recent: np.ndarray
    """(lags - 1,)."""
    whole: StreamState
    """State that this one began as, for what no row changes."""


class RowReader:
    """Reads one row after another of one stream; the weights of the core do not change meanwhile.

    Where values of a lane come from, such as a target and all covariates, is an index that the network's own
    functions make, of numbers in the place of values.

    Args:
        network: A network whose core is DREAM, on a CPU.
        steppers: A stepper for each layer.
        plasticity: Whether the fast weights learn.
    """

    def __init__(self, network: StreamNetwork, steppers: list[Stepper], plasticity: bool) -> None:
        shape, reading, seasonal = network.shape, network.reading, network.seasonal
        self.network = network
        self.steppers = steppers
        self.plasticity = plasticity
        self.places = [steppers[0].place(name) for name in ("avg_surprise", "u_norm")]
        self._many: list[Stepper] | None = None
        """Steppers for rows of several streams at once."""
        self.inputs = shape.inputs
        self.normalized = shape.inputs + (shape.feedback if shape.task == "regression" else 0)
        self.distances = np.array(reading.distances, int)
        self.means = list(reading.means)
        self.units = network._mean_units(torch.zeros(0, dtype=torch.float64)).numpy()[:, None]
        self.ahead = np.array(seasonal.steps, int)
        self.target = slice(0, shape.targets) if shape.task == "forecasting" else slice(shape.inputs, None)
        columns, outlook = shape.inputs + shape.feedback, len(seasonal.outlook)
        parts = columns, len(self.means) * columns, shape.targets * outlook, shape.lags - 1
        read, means, changes, recent = torch.arange(sum(parts)).split(parts)
        seen = [
            network._to_lanes(read.view(1, 1, -1)),
            network._rows_to_lanes(means.view(1, 1, -1, columns)),
            network._changes_to_lanes(changes.view(1, 1, shape.targets, outlook)),
            recent.view(1, 1, 1, -1).expand(-1, -1, network.lanes, -1),
        ]
        self.seen = torch.cat(seen, -1)[0, 0].numpy()
        turns = 4 * min(len(self.ahead), 1)
        rows = len(self.distances) + len(self.means)
        sizes = rows * columns, shape.targets * len(self.ahead), turns
        past, changes, phase = torch.arange(sum(sizes)).split(sizes)
        shown = [
            network._rows_to_lanes(past.view(1, 1, -1, columns)),
            network._changes_to_lanes(changes.view(1, 1, shape.targets, -1)),
            phase.view(1, 1, 1, -1).expand(-1, -1, network.lanes, -1),
        ]
        self.shown = torch.cat(shown, -1)[0, 0].numpy()

    @staticmethod
    def of(network: StreamNetwork, plasticity: bool) -> RowReader | None:
        """A reader of the network as it is now; None where its core has no faster way for one row."""
        core = network.core
        if not isinstance(core, DREAMStack) or core.training:
            return None
        steppers = _steppers(network, network.lanes, plasticity)
        return None if steppers is None else RowReader(network, steppers, plasticity)

    def serves(self, plasticity: bool) -> bool:
        """Whether the weights are still those that this reader was made for."""
        return plasticity == self.plasticity and not any(stepper.stale for stepper in self.steppers)

    def start(self, state: StreamState) -> RowState:
        """The same state in NumPy, in memory of its own: views of views would never be freed."""
        parts = [[value[0].numpy() for _, value in state.normalizer.items()]]
        if self.normalized > self.inputs:
            parts.append([value[0].numpy() for _, value in state.feedback.items()])
        core = [stepper.start(part) for stepper, part in zip(self.steppers, state.core, strict=True)]
        seasonal = tuple(value[0].numpy().copy() for _, value in state.seasonal.items())
        columns = np.concatenate([np.stack(part) for part in parts], 1)
        window, recent = state.window[0].numpy().copy(), state.recent[0, :, 0].numpy().copy()
        return RowState(columns, seasonal, core, window, recent, state)

    def end(self, state: RowState) -> StreamState:
        """The same state in torch; it shares memory with `state`."""
        columns = torch.from_numpy(state.columns).unsqueeze(1)  # (5, 1, D)
        feedback = state.whole.feedback
        if self.normalized > self.inputs:
            feedback = NormalizerState(*columns[..., self.inputs :])
        return StreamState(
            NormalizerState(*columns[..., : self.inputs]),
            feedback,
            SeasonalState(*(torch.from_numpy(part).unsqueeze(0) for part in state.seasonal)),
            [stepper.state(part) for stepper, part in zip(self.steppers, state.core, strict=True)],
            torch.from_numpy(state.window).unsqueeze(0),
            torch.from_numpy(state.recent).view(1, -1, 1),
        )

    def signals(self, state: RowState) -> tuple[float, float]:
        """Running surprise and norm of the fast weights of the first layer after a row, means over lanes."""
        core, (surprise, u_norm) = state.core[0], self.places
        if len(core) == 1:
            return core.item(0, surprise), core.item(0, u_norm)
        return float(core[:, surprise].mean()), float(core[:, u_norm].mean())

    def read(self, row: np.ndarray, feedback: np.ndarray, state: RowState) -> tuple[Read, RowState]:
        """Read the next row.

        Args:
            row: (D,) float64, NaN where a value is missing.
            feedback: (E,) as `StreamNetwork.features` takes it.
            state: The state after the rows before.

        Raises:
            DataError: a state that is not finite made a known value so.
        """
        with np.errstate(all="ignore"):  # as torch: what is not finite is looked for where it matters
            seen, shown, level, scale, new = self._relate(row, feedback, state)
        values, core = self._step(self.steppers, seen, shown, state.core)
        after = new._replace(core=core)
        level, scale = level[None, self.target], scale[None, self.target]
        return Read(values[None], level, scale, partial(self.traces, after)), after

    @property
    def reads_many(self) -> bool:
        """Whether `read_many` may be called; with a profile each stream is elsewhere in the season."""
        return not len(self.ahead)

    def read_many(
        self, rows: np.ndarray, feedback: np.ndarray, states: Sequence[RowState]
    ) -> tuple[ManyRead, list[RowState]]:
        """Read the next row of each of N streams: the numbers that `read` computes of each, to the bit.

        Args:
            rows: (N, D).
            feedback: (N, E).
            states: The state of each stream.

        Raises:
            DataError: a state that is not finite made a known value so; no stream was read.
        """
        lanes, streams = self.network.lanes, len(states)
        both = RowState(
            np.stack([state.columns for state in states], 1),
            (),
            [np.concatenate([state.core[k] for state in states]) for k in range(len(self.steppers))],
            np.stack([state.window for state in states]),
            np.stack([state.recent for state in states]),
            states[0].whole,
        )
        with np.errstate(all="ignore"):
            seen, shown, level, scale, new = self._relate(rows, feedback, both)
        if self._many is None or self._many[0].samples < streams * lanes:
            self._many = _steppers(self.network, streams * lanes, self.plasticity)
            assert self._many is not None
        seen, shown = (part.reshape(streams * lanes, -1) for part in (seen, shown))
        values, core = self._step(self._many, seen, shown, both.core)
        after = []
        # copies, so that a stream that rests does not hold the memory of all that were read with it
        for k, state in enumerate(states):
            own = [part[k * lanes : (k + 1) * lanes].copy() for part in core]
            columns, window, recent = new.columns[:, k].copy(), new.window[k].copy(), new.recent[k].copy()
            after.append(RowState(columns, state.seasonal, own, window, recent, state.whole))
        level, scale = level[:, None, self.target], scale[:, None, self.target]
        return ManyRead(values.reshape(streams, 1, lanes, -1), level, scale), after

    def traces(self, state: RowState) -> list[DREAMTrace]:
        """Traces of the layers in the row that led to a state, (L, 1, ...)."""
        return [stepper.trace(after) for stepper, after in zip(self.steppers, state.core, strict=True)]

    def _step(
        self, steppers: list[Stepper], seen: np.ndarray, shown: np.ndarray, state: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Features (N, F) of samples from the input of the core and what else the head reads; new state."""
        core, output = [], seen
        for stepper, before in zip(steppers, state, strict=True):
            stepper.x[: len(before)] = output
            after = stepper(before)
            core.append(after)
            output = stepper.output(after)
        reading = self.network.reading
        parts = [output] if reading.output else []
        parts += [steppers[0].forecast(core[0])] if reading.forecast else []
        return np.concatenate([*parts, shown], 1, dtype=steppers[0].dtype, casting="same_kind"), core

    def _relate(
        self, row: np.ndarray, feedback: np.ndarray, state: RowState
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, RowState]:
        """See `StreamNetwork.relate`: input of the core (L, width), what else the head reads, level, scale,
        and the state but for its core.
        """
        shape = self.network.shape
        raw = np.concatenate([row, feedback], -1) if feedback.shape[-1] else row
        unknown = np.isnan(raw)
        gaps = bool(unknown.any())
        read, level, scale, columns = self._normalize(
            raw[..., : self.normalized], unknown, gaps, state.columns
        )
        if self.normalized < raw.shape[-1]:  # classes: 1 for the newest known one, 0 elsewhere
            raw = np.concatenate([row, np.where(unknown[..., self.inputs :], 0.0, feedback)], -1)
            read = np.concatenate([read, raw[..., self.inputs :]], -1)
            level = np.concatenate([level, np.zeros(feedback.shape)], -1)
            scale = np.concatenate([scale, np.ones(feedback.shape)], -1)
        window = np.concatenate([state.window, raw[..., None, :]], -2)
        past = self._past(window, level, scale)
        shown = _flat(past)
        seen, seasonal, recent = read, state.seasonal, state.recent
        outlook = changes = None
        if len(self.ahead):
            first = slice(0, shape.targets)
            changes, seasonal = self._season(raw[first], ~unknown[first], state.seasonal)
            units = scale[first, None]
            changes = np.where(np.isnan(units), 0.0, changes / units)  # (C, K)
            changes = np.minimum(np.maximum(changes, -HEAD_LIMIT), HEAD_LIMIT)
            outlook = changes[:, : len(self.network.seasonal.outlook)]
            shown = np.concatenate([shown, changes.ravel(), self._phase(state.seasonal)])
        broken = np.isnan(read)
        if gaps:
            broken &= ~unknown
            read = np.where(unknown, np.nan, read)
            seen = read
        if self.means or outlook is not None or recent.shape[-1]:
            parts = [read]
            if self.means:
                means = past[..., len(self.distances) :, :] / self.units
                parts.append(_flat(np.where(unknown[..., None, :], np.nan, means) if gaps else means))
            if outlook is not None:
                parts.append(np.where(unknown[: shape.targets, None], np.nan, outlook).ravel())
            parts.append(recent[..., ::-1])
            seen = np.concatenate(parts, -1)
            if recent.shape[-1]:
                recent = np.concatenate([recent[..., 1:], read[..., :1]], -1)
        seen = np.minimum(np.maximum(seen, -READ_LIMIT), READ_LIMIT)[..., self.seen]
        if broken.any():  # NaN that known values led to was not missing, and must not pass for it
            checks.finite_values(torch.full((1, 1), torch.inf), None, None, missing=True)
        new = RowState(columns, seasonal, [], window[..., 1:, :], recent, state.whole)
        return seen, shown[..., self.shown], level, scale, new

    def _normalize(
        self, x: np.ndarray, unknown: np.ndarray, gaps: bool, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Relative values, level, scale, and the state after the row: see `Normalizer`."""
        kind, rate = self.network.normalizer.kind, self.network.normalizer.rate
        count, last, mean, var, usual = state
        new = np.empty_like(state)
        if gaps:
            seen = ~unknown[..., : self.normalized]
            x = np.where(seen, x, last)
        new[1] = x
        if kind == "none":
            new[0], new[2:] = count, state[2:]
            return x, np.zeros_like(x), np.ones_like(x), new
        new[0] = count + seen if gaps else count + 1
        first = int(kind == "differences")  # the first value has no difference
        number = np.maximum(new[0] - first, 1)
        share = np.maximum(1 / number, rate)
        if gaps:
            share = np.where(seen, share, 0.0)
        if kind == "differences":
            step = np.where(new[0] > first, x - last, 0.0)
            squares, level = step * step, x
            new[2] = mean
        else:
            apart = x - mean
            level = new[2] = mean + share * apart
            step = x - level
            squares = (1 - share) * apart * apart
        new[3] = var + share * (squares - var)
        so_far = np.maximum(count - first, 0) * usual
        new[4] = (so_far + (np.where(seen, squares, 0.0) if gaps else squares)) / number
        scale = new[3] + FLOOR * new[4]
        still = scale <= 0
        scale = np.sqrt(np.where(still, np.nan, scale))
        return np.where(still, 0.0, step / scale), level, scale, new

    def _past(self, window: np.ndarray, level: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Past rows and moving averages relative to the present level, (..., R + M, D + E)."""
        past = window[..., window.shape[-2] - 1 - self.distances, :]
        if self.means:
            known = ~np.isnan(window)
            filled = np.where(known, window, 0.0)
            means = [filled[..., -mean:, :].sum(-2) / known[..., -mean:, :].sum(-2) for mean in self.means]
            past = np.concatenate([past, np.stack(means, -2)], -2)
        past = (past - level[..., None, :]) / scale[..., None, :]
        past = np.minimum(np.maximum(past, -HEAD_LIMIT), HEAD_LIMIT)
        return np.where(np.isnan(past), 0.0, past)

    def _season(
        self, x: np.ndarray, seen: np.ndarray, state: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Expected changes (C, K) after the row, and the state after it: see `SeasonalProfile`."""
        row, level, profile, rows, visits = state
        season, rate = self.network.seasonal.season, self.network.seasonal.rate
        slot = int(row[0]) % season
        x, rows = np.where(seen, x, 0.0), rows + seen
        weight = np.maximum(1 / np.maximum(rows, 1), rate / season)
        level = level + np.where(seen, weight, 0.0) * (x - level)
        profile, visits = profile.copy(), visits.copy()
        visits[slot] += seen
        weight = np.maximum(1 / np.maximum(visits[slot], 1), rate)
        profile[slot] += np.where(seen, weight, 0.0) * (x - level - profile[slot])
        changes = profile[(slot + self.ahead) % season] - profile[slot]
        return changes.T, (row + 1, level, profile, rows, visits)

    def _phase(self, state: tuple[np.ndarray, ...]) -> np.ndarray:
        """Sine and cosine of one and two turns a season, (4,)."""
        angle = 2 * math.pi / self.network.seasonal.season * float(state[0][0])
        return np.array([math.sin(angle), math.sin(2 * angle), math.cos(angle), math.cos(2 * angle)])


def _steppers(network: StreamNetwork, samples: int, plasticity: bool) -> list[Stepper] | None:
    """A stepper for each layer of the core; None if one has none."""
    assert isinstance(network.core, DREAMStack)
    with network.core.plasticity(plasticity):
        steppers = [layer.stepper(samples) for layer in network.core._layers()]
    fast = [stepper for stepper in steppers if stepper is not None]
    return fast if len(fast) == len(steppers) else None


def _flat(rows: np.ndarray) -> np.ndarray:
    """(..., R, D) to (..., R D)."""
    return rows.reshape(*rows.shape[:-2], -1)


def as_array(tensor: Tensor) -> np.ndarray:
    """`tensor` in NumPy, which shares its memory on a CPU; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def as_tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """`array` on the device of `like`."""
    return torch.from_numpy(array).to(like.device)
