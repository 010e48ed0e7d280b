"""`StreamNetwork`: causal normaliser, recurrent core and linear head, with everything they carry from row to row.

Shapes: N streams, T rows, D input columns, C targets (classes for classification), H rows ahead (1 unless forecasting),
L lanes (C if channels are independent, else 1), F features of a lane, O outputs of a lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.errors import ConfigError
from lightning_modules.base import require
from lightning_modules.cores import CoreName, build_core
from lightning_modules.normalizers import Kind, Normalized, Normalizer, NormalizerState
from lightning_modules.seasonal import SeasonalProfile, SeasonalState

READ_LIMIT, HEAD_LIMIT = 5.0, 30.0  # units beyond which what the core and the head read is cut off
LONGEST = 10_000  # rows that may be kept for the head
Task = Literal["forecasting", "regression", "classification"]


@dataclass(frozen=True)
class Shape:
    """What the data give and ask for.

    Args:
        task: `forecasting`: the next `horizon` rows of the first `targets` input columns; `regression` and
            `classification`: the target of the row that was just read.
        inputs: D, columns that are read.
        targets: C, columns to predict; for classification the number of classes.
        horizon: Rows to forecast; 1 for the other tasks.
        season: Rows in one season.
    """

    task: Task
    inputs: int
    targets: int
    horizon: int = 1
    season: int = 1

    def __post_init__(self) -> None:
        require("task", self.task, self.task in get_args(Task), "forecasting, regression or classification")
        least = 2 if self.task == "classification" else 1
        require("targets", self.targets, self.targets >= least, f"at least {least}")

    @property
    def told(self) -> int:
        """Columns that are read besides the inputs: the last target that is known, where it is not an input itself."""
        return 0 if self.task == "forecasting" else self.targets


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Args:
        normalization: `differences`, `running` or `none`; see `lightning_modules.normalizers.Normalizer`.
        rate: Rate of the running figures of the normaliser.
        channel_independent: Forecasting only: a stream of its own, with its own state, fast weights and head, for each
            target; the core's slow weights are shared. Covariates are shown to every one.
        lags: Rows that the head reads directly, relative to the present level: the last so many, this one included, or a
            list of distances such as [0, 1, 48], 0 for this row.
        means: Lengths of moving averages, this row included, that the head reads relative to the present level.
        profile_rate: Forecasting only: share of a new season in a seasonal profile of the targets (see
            `lightning_modules.seasonal.SeasonalProfile`), of which the head reads what it expects to change; 0 for none.
        output: Whether the head reads the output of the last layer.
        forecast: Whether the head reads the first layer's forecast of its next input.
    """

    normalization: Kind = "running"
    rate: float = 0.01
    channel_independent: bool = False
    lags: int | list[int] = 1
    means: list[int] = field(default_factory=list)
    profile_rate: float = 0.0
    output: bool = True
    forecast: bool = True

    def __post_init__(self) -> None:
        fits = [0 <= lag <= LONGEST for lag in self.distances]
        require("lags", self.lags, all(fits) and self.lags != [], f"a number or a list of whole numbers from 0 to {LONGEST}")
        require("means", self.means, all(1 <= mean <= LONGEST for mean in self.means), f"lengths from 1 to {LONGEST}")

    @property
    def distances(self) -> list[int]:
        """How far back each row that the head reads lies."""
        return list(range(self.lags)) if isinstance(self.lags, int) else list(self.lags)

    @property
    def past(self) -> int:
        """Rows before the present one that must be kept."""
        return max([0, *self.distances, *(mean - 1 for mean in self.means)])


@dataclass(eq=False)
class StreamState:
    """All that N streams carry from row to row."""

    normalizer: NormalizerState
    told: NormalizerState
    """The normaliser of the known targets of a regression."""
    seasonal: SeasonalState
    core: list[DREAMState]
    """A row for each lane of each stream."""
    window: Tensor
    """(N, past, D + told) rows before the present one; NaN before the first."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own."""
        named = {f"normalizer.{name}": value for name, value in self.normalizer.items()}
        named |= {f"told.{name}": value for name, value in self.told.items()}
        named |= {f"seasonal.{name}": value for name, value in self.seasonal.items()}
        named |= {f"core.{k}.{name}": value for k, state in enumerate(self.core) for name, value in state.items()}
        return named | {"window": self.window}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> StreamState:
        """A state of the same build from what `tensors` gave."""

        def normalizer(prefix: str) -> NormalizerState:
            return NormalizerState(**{name: tensors[f"{prefix}.{name}"] for name, _ in self.normalizer.items()})

        core = [
            DREAMState(**{name: tensors[f"core.{k}.{name}"] for name, _ in state.items()})
            for k, state in enumerate(self.core)
        ]
        seasonal = SeasonalState(**{name: tensors[f"seasonal.{name}"] for name, _ in self.seasonal.items()})
        return StreamState(normalizer("normalizer"), normalizer("told"), seasonal, core, tensors["window"])

    @staticmethod
    def cat(states: Sequence[StreamState]) -> StreamState:
        """The streams of several states, one after another."""
        named = [state.tensors() for state in states]
        return states[0].with_tensors({name: torch.cat([one[name] for one in named]) for name in named[0]})


class Relative(NamedTuple):
    """Rows made relative, before the core reads them."""

    seen: Tensor
    """(N, T, L, width) what the core reads"""
    shown: Tensor
    """(N, T, L, ...) what the head reads besides the core's"""
    level: Tensor
    """(N, T, C)"""
    scale: Tensor
    """(N, T, C)"""


class Features(NamedTuple):
    """What the head reads for each row, and what its outputs are relative to."""

    values: Tensor
    """(N, T, L, F), in the dtype of the core."""
    level: Tensor
    """(N, T, C) in the data's unit, float64; zeros for classification."""
    scale: Tensor
    """(N, T, C) the data's units in one unit of the head; ones for classification."""
    traces: list[DREAMTrace]
    """(N L, T, ...) what each layer of the core saw."""

    def rows(self, rows: slice) -> Features:
        """Some of the rows, without the traces."""
        return Features(self.values[:, rows], self.level[:, rows], self.scale[:, rows], [])


class Head(nn.Module):
    """A linear map of its own for each lane: ``outputs_l = weight_l features_l + bias_l``; zero at first.

    A forecast of zero is the present level, so an untrained head repeats it.
    """

    def __init__(self, lanes: int, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(lanes, outputs, features))
        self.bias = nn.Parameter(torch.zeros(lanes, outputs))

    def forward(self, values: Tensor) -> Tensor:
        """(..., L, F) to (..., L, O)."""
        return torch.einsum("...lf,lof->...lo", values, self.weight) + self.bias


class StreamNetwork(nn.Module):
    """Reads rows, carries its state, and gives features, of which a linear head makes predictions.

    A row x_t is normalised causally; the core reads it, beside the last known target where the targets are not among the
    inputs, the moving averages, and what a seasonal profile expects of the next row and a quarter of a season on. The
    features of a lane are the core's output, its forecast of its next input, rows of the past and moving averages relative
    to the present: ``(x_(t-l) - level_t) / scale_t``, 0 where there is none yet, what the profile expects to change, in
    units of ``scale_t``, and where in the season the row is. What the core reads is cut off at 5 units, what the head reads
    at 30.

    Predictions: forecasting and regression ``level_t + scale_t * head``; classification: the head itself, one figure
    (logit, or share) for each class.

    Args:
        shape: What the data give and ask for.
        reading: How rows are read.
        config: The DREAM layer; its `input_dim` is set to what a lane reads.
        core: The recurrent core: DREAM or a baseline of as many parameters.
        hidden_dims: Width of each layer; one of `config.hidden_dim` if None.
        dropout: Share dropped between layers, in training.
        backend: Implementation of the scan, see `dream.ops.registry`.

    Raises:
        ConfigError: settings that do not fit together.
    """

    def __init__(
        self,
        shape: Shape,
        reading: Reading,
        config: DREAMConfig,
        core: CoreName = "dream",
        hidden_dims: list[int] | None = None,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if reading.channel_independent and shape.task != "forecasting":
            raise ConfigError(
                f"`channel_independent` must be false for {shape.task}; got true: only forecasting has a channel for each "
                "target.",
                key="channel_independent",
            )
        self.shape, self.reading = shape, reading
        self.lanes = shape.targets if reading.channel_independent else 1
        covariates = shape.inputs - shape.targets
        columns = 1 + covariates if reading.channel_independent else shape.inputs + shape.told
        own = 1 if reading.channel_independent else shape.targets
        self.normalizer = Normalizer(reading.normalization, reading.rate)
        seasonal_rate = reading.profile_rate if shape.task == "forecasting" else 0.0
        self.seasonal = SeasonalProfile(shape.season, seasonal_rate, shape.horizon)
        ahead = len(self.seasonal.steps)
        width = columns * (1 + len(reading.means)) + own * len(self.seasonal.outlook)
        self.config = replace(config, input_dim=width)
        self.stack = build_core(core, self.config, hidden_dims or [config.hidden_dim], dropout, backend)
        shown = (len(reading.distances) + len(reading.means)) * columns + own * ahead + 4 * min(ahead, 1)
        features = shown + reading.output * self.stack.output_dim + reading.forecast * width
        require("lags", reading.lags, features > 0, "above 0 where the head reads nothing else")
        outputs = shape.horizon * (1 if reading.channel_independent else shape.targets)
        self.head = Head(self.lanes, features, outputs)

    def init_state(self, streams: int = 1) -> StreamState:
        """The state of streams that have not begun."""
        shape, device = self.shape, self.head.weight.device
        columns = shape.inputs + shape.told
        return StreamState(
            self.normalizer.init_state(streams, shape.inputs, device),
            self.normalizer.init_state(streams, shape.told, device),
            self.seasonal.init_state(streams, shape.targets, device),
            self.stack.init_state(streams * self.lanes),
            torch.full((streams, self.reading.past, columns), torch.nan, dtype=torch.float64, device=device),
        )

    def features(self, rows: Tensor, state: StreamState, told: Tensor | None = None) -> tuple[Features, StreamState]:
        """Read `rows` (N, T, D), float64, going on from `state`, which is not changed.

        Args:
            rows: In the data's unit, standardised or not; NaN where a value is missing.
            state: What the rows before left.
            told: (N, T, C) the newest target that is known when each row is read, NaN where there is none yet: its value
                for regression, 1 for its class and 0 elsewhere for classification; None for forecasting.
        """
        relative, new = self.relate(rows, state, told)
        seen, reading = relative.seen.to(self.head.weight.dtype), self.reading
        output, traces, core = self.stack.trace(seen.transpose(1, 2).flatten(0, 1), state=state.core)
        parts = [output] if reading.output else []
        parts += [traces[0].forecast] if reading.forecast else []
        lanes = [part.unflatten(0, (len(rows), self.lanes)).transpose(1, 2) for part in parts]  # (N, T, L, ...)
        values = torch.cat([*lanes, relative.shown.to(seen)], -1)
        return Features(values, relative.level, relative.scale, traces), replace(new, core=core)

    def relate(self, rows: Tensor, state: StreamState, told: Tensor | None = None) -> tuple[Relative, StreamState]:
        """Make `rows` relative to what came before, as `features` does; the state goes on but for the core's."""
        shape, reading = self.shape, self.reading
        (read, level, scale), normalizer = self.normalizer(rows, state.normalizer)
        told_state = state.told
        if shape.told:
            assert told is not None
            if shape.task == "regression":
                known, told_state = self.normalizer(told, state.told)
            else:
                known, told = Normalized(told.nan_to_num(), torch.zeros_like(told), torch.ones_like(told)), told.nan_to_num()
            rows = torch.cat([rows, told], -1)
            read, level, scale = (torch.cat(pair, -1) for pair in zip((read, level, scale), known, strict=True))
        window = torch.cat([state.window, rows], 1)
        past = ((self._past(window, rows.shape[1]) - level.unsqueeze(2)) / scale.unsqueeze(2)).nan_to_num()
        past = past.clamp(-HEAD_LIMIT, HEAD_LIMIT)  # (N, T, lags + means, columns)
        changes, seasonal = self.seasonal(rows[..., : shape.targets], state.seasonal)
        changes = (changes / scale[..., : shape.targets].unsqueeze(-1)).clamp(-HEAD_LIMIT, HEAD_LIMIT)  # (N, T, C, K)
        means = past[:, :, len(reading.distances) :] / self._mean_units(rows).view(-1, 1)
        seen = [
            self._to_lanes(read),
            self._rows_to_lanes(means),
            self._changes_to_lanes(changes[..., : len(self.seasonal.outlook)]),
        ]
        shown = [self._rows_to_lanes(past), self._changes_to_lanes(changes)]
        if self.seasonal.steps:
            phase = self.seasonal.phase(rows.shape[1], state.seasonal)
            shown.append(phase.unsqueeze(2).expand(-1, -1, self.lanes, -1))
        target = slice(0, shape.targets) if shape.task == "forecasting" else slice(shape.inputs, None)
        keep = window[:, window.shape[1] - state.window.shape[1] :].clone()
        limited = torch.cat(seen, -1).clamp(-READ_LIMIT, READ_LIMIT)
        related = Relative(limited, torch.cat(shown, -1), level[..., target], scale[..., target])
        return related, StreamState(normalizer, told_state, seasonal, state.core, keep)

    def _mean_units(self, like: Tensor) -> Tensor:
        """How far a random walk is from its mean over each window, in units of its steps; 1 where levels are read."""
        lengths = like.new_tensor(self.reading.means)
        return (lengths / 3).sqrt().clamp_min(1) if self.reading.normalization == "differences" else torch.ones_like(lengths)

    def _rows_to_lanes(self, past: Tensor) -> Tensor:
        """(N, T, rows, columns) to (N, T, L, ...)."""
        lanes = self._to_lanes(past.flatten(0, 1)).unflatten(0, past.shape[:2])  # (N, T, rows, L, ...)
        return lanes.transpose(2, 3).flatten(3)

    def _changes_to_lanes(self, changes: Tensor) -> Tensor:
        """(N, T, C, K) to (N, T, L, ...)."""
        return changes if self.reading.channel_independent else changes.flatten(2).unsqueeze(2)

    def _past(self, window: Tensor, steps: int) -> Tensor:
        """Rows and moving averages that the head reads, (N, steps, lags + means, columns), for the last rows of `window`."""
        first = window.shape[1] - steps
        parts = [window[:, first - lag : window.shape[1] - lag] for lag in self.reading.distances]
        if self.reading.means:
            there = ~window.isnan()
            sums, counts = (
                nn.functional.pad(part.cumsum(1), (0, 0, 1, 0)) for part in (window.nan_to_num(), there.double())
            )
            for mean in self.reading.means:
                now, then = slice(first + 1, None), slice(first + 1 - mean, window.shape[1] + 1 - mean)
                parts.append((sums[:, now] - sums[:, then]) / (counts[:, now] - counts[:, then]))
        return torch.stack(parts, 2) if parts else window.new_zeros(len(window), steps, 0, window.shape[2])

    def _to_lanes(self, columns: Tensor) -> Tensor:
        """(N, T, columns) to (N, T, L, width): every target beside all covariates, or all columns together."""
        if not self.reading.channel_independent:
            return columns.unsqueeze(2)
        own, shared = columns[..., : self.shape.targets], columns[..., self.shape.targets :]
        return torch.cat([own.unsqueeze(-1), shared.unsqueeze(2).expand(-1, -1, self.lanes, -1)], -1)

    def outputs(self, features: Features) -> Tensor:
        """What the head makes of each row, in its own units: (N, T, H, C)."""
        return self.to_targets(self.head(features.values))

    def to_targets(self, lanes: Tensor) -> Tensor:
        """The head's outputs (..., L, O) as (..., H, C)."""
        if self.reading.channel_independent:
            return lanes.transpose(-1, -2)
        return lanes.squeeze(-2).unflatten(-1, (self.shape.horizon, self.shape.targets))

    def to_lanes(self, targets: Tensor) -> Tensor:
        """Targets (..., H, C) as the head's outputs (..., L, O)."""
        return targets.transpose(-1, -2) if self.reading.channel_independent else targets.flatten(-2).unsqueeze(-2)

    def to_data(self, outputs: Tensor, features: Features) -> Tensor:
        """The head's figures (N, T, H, C) in the data's unit, float64; for classification as they are."""
        return features.level.unsqueeze(2) + features.scale.unsqueeze(2) * outputs


def class_shares(said: Tensor, estimates: bool) -> Tensor:
    """The head's figures for each class (..., C) as shares that sum to 1.

    Args:
        said: Logits, or where `estimates` the shares themselves as least squares estimates them, which may lie outside 0 to
            1 and are clipped.
        estimates: Which of the two.
    """
    if not estimates:
        return said.softmax(-1)
    kept = said.clamp(0, 1)
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total, 1 / said.shape[-1])
