"""`StreamNetwork`: causal normaliser, recurrent core and linear head, and the state that they carry.

Shapes: N streams, T rows, D input columns, C targets (classes for classification), H rows ahead (1 unless
forecasting), L lanes (C if channels are independent, else 1), F features of a lane, O outputs of a lane.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dream import DREAM, DREAMConfig, DREAMStack
from dream.errors import ConfigError
from dream.numerics import orthonormal
from lightning_modules.checks import require
from lightning_modules.cores import CoreName, build_core, fit_to_width
from lightning_modules.data.columns import lagged
from lightning_modules.stream.normalizers import Normalized, Normalizer
from lightning_modules.stream.seasonal import SeasonalProfile
from lightning_modules.stream.settings import Reading, Shape
from lightning_modules.stream.state import Features, Relative, StreamState

READ_LIMIT = 5.0  # inputs of the core are clipped to this many units
HEAD_LIMIT = 30.0  # inputs of the head are
CHANGE_LIMIT = 1e6  # and changes that the head learns
Values = TypeVar("Values", Tensor, np.ndarray)


class Head(nn.Module):
    """One linear map for each lane: ``outputs_l = weight_l features_l + bias_l``; zero at first.

    A forecast of zero is the present level, so an untrained head repeats it.
    """

    def __init__(self, lanes: int, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(lanes, outputs, features))
        self.bias = nn.Parameter(torch.zeros(lanes, outputs))

    def forward(self, values: Tensor) -> Tensor:
        """(..., L, F) to (..., L, O)."""
        return torch.einsum("...lf,lof->...lo", values, self.weight) + self.bias

    def columns(self) -> Tensor:
        """Weights with the bias as their last row, (L, F + 1, O)."""
        return torch.cat([self.weight, self.bias.unsqueeze(-1)], -1).transpose(1, 2)


class StreamNetwork(nn.Module):
    """Reads rows, carries its state, and computes features, from which a linear head predicts.

    A row x_t is normalised causally. The core reads it, together with what it read of a single column in the
    `shape.lags` - 1 rows before, the feedback, the moving averages, and the changes that a seasonal profile
    expects at the next row and a quarter of a season ahead. The features of a lane are the core's output, its
    forecast of its next input, past rows and moving averages relative to the present,
    ``(x_(t-l) - level_t) / scale_t``, 0 where there is none yet, the changes that the profile expects, in
    units of ``scale_t``, and the row's phase in the season. Inputs of the core are clipped to 5 units, those
    of the head to 30.

    DREAM reads a missing value, with its averages and expected changes, as not observed; a rival core reads
    the last known value. The normaliser and the profile do not move.

    Predictions: ``level_t + scale_t * outputs`` for forecasting and regression; for classification the
    outputs themselves, a logit (or, by least squares, a probability) for each class.

    An untrained core cannot know which part of an error is worth learning fast. So where it reads the newest
    known target, the first columns of its sensory filter start as unit vectors on those inputs, as many as
    its rank allows; the others are random.

    Args:
        shape: Task and sizes of the data.
        reading: How rows are normalised, and which values the head receives.
        config: The DREAM layer; its `input_dim` is set to the width of a lane's input.
        core: The recurrent core: DREAM or a baseline of as many parameters.
        hidden_dims: Width of each layer; one of `config.hidden_dim` if None.
        dropout: Share of values dropped between layers, in training.
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
                f"`channel_independent` must be false for {shape.task}; got true: only forecasting has a "
                "channel for each target.",
                key="channel_independent",
            )
        self.shape = shape
        self.reading = reading
        self.lanes = shape.targets if reading.channel_independent else 1
        covariates = shape.inputs - shape.targets
        columns = 1 + covariates if reading.channel_independent else shape.inputs + shape.feedback
        own = 1 if reading.channel_independent else shape.targets
        self.normalizer = Normalizer(reading.normalization, reading.rate)
        seasonal_rate = reading.profile_rate if shape.task == "forecasting" else 0.0
        self.seasonal = SeasonalProfile(shape.season, seasonal_rate, shape.horizon)
        ahead = len(self.seasonal.steps)
        width = columns * (1 + len(reading.means)) + own * len(self.seasonal.outlook) + shape.lags - 1
        self.config = fit_to_width(config, width)
        self.core = build_core(core, self.config, hidden_dims, dropout, backend)
        if isinstance(self.core, DREAMStack):
            self.core.missing = True  # a rival reads the last known value
        if shape.feedback and isinstance(self.core, DREAMStack) and self.config.rank < width:
            first = self.core.layers[0]
            assert isinstance(first, DREAM)
            _watch(first.cell.V_raw, range(shape.inputs, columns))
        shown = (len(reading.distances) + len(reading.means)) * columns + own * ahead + 4 * min(ahead, 1)
        features = shown + reading.output * self.core.output_dim + reading.forecast * width
        require("lags", reading.lags, features > 0, "above 0 where the head reads nothing else")
        outputs = shape.horizon * (1 if reading.channel_independent else shape.targets)
        self.head = Head(self.lanes, features, outputs)

    def init_state(self, streams: int = 1) -> StreamState:
        """State of streams that have not begun."""
        shape, device = self.shape, self.head.weight.device
        columns, unread = shape.inputs + shape.feedback, torch.nan if self.reads_gaps else 0.0

        def filled(rows: int, width: int, value: float) -> Tensor:
            return torch.full((streams, rows, width), value, dtype=torch.float64, device=device)

        return StreamState(
            self.normalizer.init_state(streams, shape.inputs, device),
            self.normalizer.init_state(streams, shape.feedback, device),
            self.seasonal.init_state(streams, shape.targets, device),
            self.core.init_state(streams * self.lanes),
            filled(self.reading.past, columns, torch.nan),
            filled(shape.lags - 1, 1, unread),
        )

    @property
    def reads_gaps(self) -> bool:
        """Whether the core reads NaN, as not observed; a rival of DREAM reads the last known value."""
        return isinstance(self.core, DREAMStack)

    def features(
        self, rows: Tensor, state: StreamState, feedback: Tensor | None = None
    ) -> tuple[Features, StreamState]:
        """Read rows; returns their features and the state after them.

        Args:
            rows: (N, T, D), float64, in the data's unit, standardised or not; NaN where a value is missing.
            state: The state after the rows before; not changed.
            feedback: (N, T, C) the newest target that is known when each row is read, NaN where there is none
                yet: its value for regression, 1 for its class and 0 elsewhere for classification; None for
                forecasting.
        """
        relative, new = self.relate(rows, state, feedback)
        seen, reading = relative.seen.to(self.head.weight.dtype), self.reading
        output, traces, core = self.core.trace(seen.transpose(1, 2).flatten(0, 1), state=state.core)
        parts = [output] if reading.output else []
        parts += [traces[0].forecast] if reading.forecast else []
        # each (N, T, L, ...)
        lanes = [part.unflatten(0, (-1, self.lanes)).transpose(1, 2) for part in parts]
        values = torch.cat([*lanes, relative.shown.to(seen)], -1)
        observed = (~seen.isnan()).sum()
        return Features(values, relative.level, relative.scale, traces, observed), replace(new, core=core)

    def relate(
        self, rows: Tensor, state: StreamState, feedback: Tensor | None = None
    ) -> tuple[Relative, StreamState]:
        """The part of `features` before the core; the core's state is returned as it was."""
        shape, reading = self.shape, self.reading
        (read, level, scale), normalizer = self.normalizer(rows, state.normalizer)
        feedback_state, unknown = state.feedback, rows.isnan()
        if shape.feedback:
            assert feedback is not None
            unknown = torch.cat([unknown, feedback.isnan()], -1)
            if shape.task == "regression":
                known, feedback_state = self.normalizer(feedback, state.feedback)
            else:
                feedback = feedback.nan_to_num()
                known = Normalized(feedback, torch.zeros_like(feedback), torch.ones_like(feedback))
            rows = torch.cat([rows, feedback], -1)
            both = zip((read, level, scale), known, strict=True)
            read, level, scale = (torch.cat(pair, -1) for pair in both)
        window = torch.cat([state.window, rows], 1)
        past = ((self._past(window, rows.shape[1]) - level.unsqueeze(2)) / scale.unsqueeze(2)).nan_to_num()
        past = past.clamp(-HEAD_LIMIT, HEAD_LIMIT)  # (N, T, lags + means, columns)
        changes, seasonal = self.seasonal(rows[..., : shape.targets], state.seasonal)
        units = scale[..., : shape.targets].unsqueeze(-1)
        changes = torch.where(units.isnan(), 0.0, changes / units)
        changes = changes.clamp(-HEAD_LIMIT, HEAD_LIMIT)  # (N, T, C, K)
        means = past[:, :, len(reading.distances) :] / self._mean_units(rows).view(-1, 1)
        outlook = changes[..., : len(self.seasonal.outlook)]
        if self.reads_gaps:
            broken = (read.isnan() & ~unknown).any(-1)
            read = read.masked_fill(unknown, torch.nan)
            means = means.masked_fill(unknown.unsqueeze(2), torch.nan)
            outlook = outlook.masked_fill(unknown[..., : shape.targets, None], torch.nan)
        seen = [self._to_lanes(read), self._rows_to_lanes(means), self._changes_to_lanes(outlook)]
        recent = state.recent
        if shape.lags > 1:  # of a single column, so there is one lane
            past_reads, recent = lagged(read[..., :1], recent)
            seen.append(past_reads.unsqueeze(2))
        shown = [self._rows_to_lanes(past), self._changes_to_lanes(changes)]
        if self.seasonal.steps:
            phase = self.seasonal.phase(rows.shape[1], state.seasonal)
            shown.append(phase.unsqueeze(2).expand(-1, -1, self.lanes, -1))
        target = slice(0, shape.targets) if shape.task == "forecasting" else slice(shape.inputs, None)
        keep = window[:, window.shape[1] - state.window.shape[1] :].clone()
        limited = torch.cat(seen, -1).clamp(-READ_LIMIT, READ_LIMIT)
        if self.reads_gaps:  # NaN that known values led to was not missing, and must not pass for it
            limited = limited.masked_fill(broken[..., None, None], torch.inf)
        related = Relative(limited, torch.cat(shown, -1), level[..., target], scale[..., target])
        return related, StreamState(normalizer, feedback_state, seasonal, state.core, keep, recent)

    def _mean_units(self, like: Tensor) -> Tensor:
        """Distance of a random walk from its mean over each window, in units of its steps; 1 for levels."""
        lengths = like.new_tensor(self.reading.means)
        if self.reading.normalization != "differences":
            return torch.ones_like(lengths)
        return (lengths / 3).sqrt().clamp_min(1)

    def _rows_to_lanes(self, past: Tensor) -> Tensor:
        """(N, T, rows, columns) to (N, T, L, ...)."""
        lanes = self._to_lanes(past.flatten(0, 1)).unflatten(0, past.shape[:2])  # (N, T, rows, L, ...)
        return lanes.transpose(2, 3).flatten(3)

    def _changes_to_lanes(self, changes: Tensor) -> Tensor:
        """(N, T, C, K) to (N, T, L, ...)."""
        return changes if self.reading.channel_independent else changes.flatten(2).unsqueeze(2)

    def _past(self, window: Tensor, steps: int) -> Tensor:
        """Past rows and moving averages at the last rows of `window`, (N, steps, lags + means, columns)."""
        first = window.shape[1] - steps
        parts = [window[:, first - lag : window.shape[1] - lag] for lag in self.reading.distances]
        if self.reading.means:
            both = window.nan_to_num(), (~window.isnan()).double()
            sums, counts = (nn.functional.pad(part.cumsum(1), (0, 0, 1, 0)) for part in both)
            for mean in self.reading.means:
                now, then = slice(first + 1, None), slice(first + 1 - mean, window.shape[1] + 1 - mean)
                parts.append((sums[:, now] - sums[:, then]) / (counts[:, now] - counts[:, then]))
        return (
            torch.stack(parts, 2) if parts else window.new_zeros(window.shape[0], steps, 0, window.shape[2])
        )

    def _to_lanes(self, columns: Tensor) -> Tensor:
        """(N, T, columns) to (N, T, L, width): each target with all covariates, or all columns together."""
        if not self.reading.channel_independent:
            return columns.unsqueeze(2)
        own, shared = columns[..., : self.shape.targets], columns[..., self.shape.targets :]
        return torch.cat([own.unsqueeze(-1), shared.unsqueeze(2).expand(-1, -1, self.lanes, -1)], -1)

    def outputs(self, features: Features) -> Tensor:
        """The head's outputs for each row, in its own units, (N, T, H, C)."""
        return self.to_targets(self.head(features.values))

    def to_targets(self, lanes: Values) -> Values:
        """The head's outputs (..., L, O) as (..., H, C)."""
        if self.reading.channel_independent:
            return lanes.swapaxes(-1, -2)
        return lanes.reshape(*lanes.shape[:-2], self.shape.horizon, self.shape.targets)

    def to_lanes(self, targets: Values) -> Values:
        """Targets (..., H, C) as the head's outputs (..., L, O)."""
        if self.reading.channel_independent:
            return targets.swapaxes(-1, -2)
        return targets.reshape(*targets.shape[:-2], 1, -1)

    def to_data(self, outputs: Tensor, features: Features) -> Tensor:
        """The head's outputs (N, T, H, C) in the data's unit, float64; for classification unchanged.

        The level itself where there is no scale yet."""
        return features.level.unsqueeze(2) + features.scale.nan_to_num().unsqueeze(2) * outputs


@torch.no_grad()
def _watch(V_raw: Tensor, inputs: range) -> None:
    """Start a sensory filter (I, R) with unit vectors on `inputs`, and what was random of it beside them."""
    units = torch.eye(len(V_raw)).to(V_raw)[:, inputs.start : inputs.stop]
    V_raw.copy_(orthonormal(torch.cat([units, V_raw], 1)[:, : V_raw.shape[1]]))


def class_shares(outputs: Tensor, estimates: bool) -> Tensor:
    """Probabilities of the classes, which sum to 1.

    Args:
        outputs: (..., C) the head's output for each class.
        estimates: Whether they are least-squares estimates of the probabilities, which may lie outside 0 to 1
            and are clipped; otherwise they are logits.
    """
    if not estimates:
        return outputs.softmax(-1)
    kept = outputs.clamp(0, 1)
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total, 1 / outputs.shape[-1])
