"""Recurrent cores that read a sequence inside a task: DREAM, or one of its rivals behind the same call.

Shapes: N samples of the batch, T steps, I inputs, W width of the output, M values of the memory, K steps that
the linear core holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dream import DREAMConfig, DREAMStack, DREAMState, DREAMTrace, checks, functional
from dream.config import changed
from dream.errors import ConfigError, StateError, nearest

CoreName = Literal["dream", "lstm", "gru", "rnn", "linear"]
TITLES = {"dream": "DREAM", "lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "linear": "linear"}


class BaselineCore(nn.Module, ABC):
    """A rival with DREAM's interface: predicts its next input by a linear map and measures its own error.

        forecast_t   = output_t R + r
        prediction_t = forecast_(t-1)

    Deviation and surprise are lines 3 to 5 and 10 of `dream.functional.advance` on that error, with the knobs
    of `config`, so that they mean the same as DREAM's. There are no fast weights: ``u_norm`` is 0 and
    plasticity changes nothing.

    The state is a `DREAMState` whose `h` (N, M) holds the memory and whose U has rank 0, so that code that
    carries, resets, saves and selects samples of DREAM's states works here as well. Time between steps, where
    given, is one more input: its logarithm.

    Args:
        config: I (`input_dim`) and the knobs of the gate.
        width: W, width of the output.
        memory: M, values that a sample remembers.
    """

    error_var_prior: Tensor
    prior_updates: Tensor

    def __init__(self, config: DREAMConfig, width: int, memory: int) -> None:
        super().__init__()
        self.config = replace(config, base_plasticity=0.0)
        self.output_dim = width
        self.memory = memory
        self.readout = nn.Linear(width, config.input_dim)
        self.plasticity_enabled = False
        self.check_inputs = True
        self.register_buffer("error_var_prior", torch.ones(config.input_dim))
        self.register_buffer("prior_updates", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def remember(self, x: Tensor, memory: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output (N, T, W), and the memory (N, M) after the last valid step.

        Args:
            x: (N, T, I + 1) inputs, the last of which is the logarithm of the time between steps.
            memory: (N, M) memory before the first step.
            lengths: (N,) valid steps of each sample; None if all are valid.
        """

    @abstractmethod
    def recall(self, memory: Tensor) -> Tensor:
        """Return the output (N, W) of the step that left `memory` (N, M)."""

    def trace(
        self,
        x: Tensor,
        state: Sequence[DREAMState] | None = None,
        lengths: Tensor | None = None,
        *,
        timespans: Tensor | None = None,
    ) -> tuple[Tensor, list[DREAMTrace], list[DREAMState]]:
        """Same as `dream.DREAMStack.trace`, with one trace and state however many layers the memory has."""
        samples, steps, _ = x.shape
        if steps == 0:  # as of a step that is padding
            spans = None if timespans is None else timespans.new_ones(samples, 1)
            valid = torch.zeros(samples, dtype=torch.long)
            output, traces, states = self.trace(
                x.new_zeros(samples, 1, x.shape[2]), state, valid, timespans=spans
            )
            return output[:, :0], [DREAMTrace(*(part[:, :0] for part in traces[0]))], states
        if self.check_inputs:
            checks.finite_values(x, timespans, lengths)
        before = self.init_state(samples)[0] if state is None else state[0]
        if before.h.shape != (samples, self.memory):
            raise StateError(
                f"`state.h` must be {(samples, self.memory)}, the memory of this core; got "
                f"{tuple(before.h.shape)}. Make a fresh one with init_state({samples})."
            )
        valid = x.new_ones((samples, steps), dtype=torch.bool)
        if lengths is not None:
            valid = torch.arange(steps, device=x.device) < lengths.to(x.device).unsqueeze(1)
            x = torch.where(valid.unsqueeze(-1), x, 0.0)
        span = (
            x.new_zeros((samples, steps)) if timespans is None else torch.where(valid, timespans, 1.0).log()
        )
        output, memory = self.remember(torch.cat([x, span.unsqueeze(-1)], -1), before.h, lengths)
        memory = torch.where(valid.any(1, keepdim=True), memory, before.h)
        mask = valid.unsqueeze(-1)
        output = output * mask
        forecast = self.readout(output) * mask
        first = self.readout(self.recall(before.h)).unsqueeze(1)
        prediction = torch.cat([first, forecast[:, :-1]], 1) * mask
        error = x - prediction
        deviation, surprise, after = self._measure(error.detach(), valid, before)
        if self.training:
            self._move_prior(error.detach(), valid)
        trace = DREAMTrace(prediction, forecast, error, surprise, deviation, torch.zeros_like(surprise))
        return output, [trace], [replace(after, h=memory)]

    @torch.no_grad()
    def _measure(self, error: Tensor, valid: Tensor, state: DREAMState) -> tuple[Tensor, Tensor, DREAMState]:
        """Return deviation and surprise (N, T), and the state with the statistics of the last valid step."""
        prior = functional.prior_entropy(self.error_var_prior)
        statistics = (state.error_mean, state.error_var, state.adaptive_tau, state.avg_surprise)
        deviations, surprises = [], []
        for step in range(error.shape[1]):
            e, mask = error[:, step], valid[:, step]
            mean, var, threshold, avg_surprise = statistics
            r, S = functional.gauge(e, mean, var, threshold, prior, self.config)
            new = functional.habituate(e, r, S, mean, var, threshold, avg_surprise, self.config)
            statistics = tuple(  # type: ignore[assignment] # as many as before
                torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
                for a, b in zip(new, statistics, strict=True)
            )
            deviations.append(r * mask)
            surprises.append(S * mask)
        mean, var, threshold, avg_surprise = statistics
        after = replace(
            state, error_mean=mean, error_var=var, adaptive_tau=threshold, avg_surprise=avg_surprise
        )
        return torch.stack(deviations, 1), torch.stack(surprises, 1), after

    @torch.no_grad()
    def _move_prior(self, error: Tensor, valid: Tensor) -> None:
        """Move the error variance of fresh states towards that of the batch, as DREAM does."""
        steps = valid.sum()
        mean_square = error.square().sum((0, 1)) / steps
        moved = functional.moved_prior(self.error_var_prior, self.prior_updates, mean_square, self.config)
        self.error_var_prior.copy_(torch.where(steps > 0, moved, self.error_var_prior))
        self.prior_updates.add_(steps > 0)

    def init_state(
        self, batch_size: int, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> list[DREAMState]:
        """Fresh states, whose memory is 0."""
        prior = self.error_var_prior.to(device=device, dtype=dtype)
        fresh = DREAMState.fresh(self.config, batch_size, prior)
        nothing = prior.new_zeros((batch_size, self.memory))
        return [
            replace(fresh, h=nothing, U=nothing[..., None][..., :0], U_target=nothing[..., None][..., :0])
        ]

    def predict_next(self, state: Sequence[DREAMState]) -> Tensor:
        """Prediction of the next input, (N, I)."""
        expected: Tensor = self.readout(self.recall(state[0].h))
        return expected

    @contextmanager
    def plasticity(self, enabled: bool) -> Iterator[None]:
        """Context that changes nothing: there are no fast weights to hold."""
        yield

    def get_config(self) -> list[DREAMConfig]:
        """Configuration whose gate measures the surprise of this core, as a list of one."""
        return [self.config]


class RecurrentCore(BaselineCore):
    """`nn.LSTM`, `nn.GRU` or `nn.RNN`, with any number of layers of one width."""

    def __init__(
        self,
        kind: Literal["lstm", "gru", "rnn"],
        config: DREAMConfig,
        width: int,
        layers: int,
        dropout: float,
    ):
        self.parts = 2 if kind == "lstm" else 1  # of the memory: h, and the LSTM's c
        super().__init__(config, width, self.parts * layers * width)
        cell = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
        between = dropout if layers > 1 else 0.0
        self.cells = cell(config.input_dim + 1, width, layers, batch_first=True, dropout=between)

    def remember(self, x: Tensor, memory: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        samples, layers, width = len(x), self.cells.num_layers, self.cells.hidden_size
        parts = memory.view(samples, self.parts, layers, width).permute(1, 2, 0, 3).contiguous()
        start = (parts[0], parts[1]) if self.parts == 2 else parts[0]
        if lengths is None:
            output, end = self.cells(x, start)
        else:
            some = lengths.cpu().clamp_min(1)  # what is not read is left out by the caller
            packed = pack_padded_sequence(x, some, batch_first=True, enforce_sorted=False)
            output, end = self.cells(packed, start)
            output, _ = pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
        ended = torch.stack(end) if self.parts == 2 else end.unsqueeze(0)
        return output, ended.permute(2, 0, 1, 3).reshape(samples, self.memory)

    def recall(self, memory: Tensor) -> Tensor:
        shape = (len(memory), self.parts, self.cells.num_layers, self.cells.hidden_size)
        return memory.view(shape)[:, 0, -1]


class LinearCore(BaselineCore):
    """Memory of the last K inputs as they are: with a linear head a linear (vector) autoregression.

    K is chosen so that they are about as many values as DREAM has units, ``max(1, round(units / I))``. Its
    readout has its only weights. It belongs to the DLinear family. Source: Zeng et al., Are transformers
    effective for time series forecasting?, 2023.
    """

    def __init__(self, config: DREAMConfig, width: int) -> None:
        self.steps = max(1, round(width / config.input_dim))
        super().__init__(config, self.steps * config.input_dim, self.steps * config.input_dim)

    def remember(self, x: Tensor, memory: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        samples, steps, inputs = len(x), x.shape[1], self.config.input_dim
        seen = torch.cat([memory.view(samples, self.steps, inputs), x[..., :inputs]], 1)
        output = seen.unfold(1, self.steps, 1)[:, 1:].transpose(2, 3).reshape(samples, steps, self.memory)
        last = torch.full((samples,), steps, device=x.device) if lengths is None else lengths.to(x.device)
        return output, output[torch.arange(samples, device=x.device), last - 1]

    def recall(self, memory: Tensor) -> Tensor:
        return memory


def trainable(module: nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def upper_errors(traces: Sequence[DREAMTrace]) -> Tensor:
    """(N, T) mean squared error of each upper layer's prediction of what it reads, summed over these layers.

    What a layer reads is detached: it would become what is easily predicted. A layer whose predictions are
    not trained has errors without a bound, which saturate its units and lock them, and no fresh state comes
    to where training had carried it.
    """
    errors = [(upper.prediction - (upper.prediction + upper.error).detach()) for upper in traces[1:]]
    none = torch.zeros_like(traces[0].surprise)
    return sum((error.square().mean(-1) for error in errors), none)


def full(values: Tensor) -> Tensor:
    """`values` in float32 at least, where autocast made them half: for logarithms, metrics and NumPy."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def title(core: CoreName, config: DREAMConfig) -> str:
    """Name of a core in tables."""
    plastic = core != "dream" or config.base_plasticity > 0
    return TITLES[core] if plastic else f"{TITLES[core]} without plasticity"


def fit_to_width(config: DREAMConfig, input_dim: int) -> DREAMConfig:
    """`config` for inputs of that width. A `rank` above it is lowered to it: more adds nothing."""
    return changed(config, input_dim=input_dim, rank=min(config.rank, input_dim))


def build_core(
    core: CoreName,
    config: DREAMConfig,
    hidden_dims: Sequence[int] | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> DREAMStack | BaselineCore:
    """Build a core by name; a recurrent rival gets the largest width with no more parameters than DREAM.

    Args:
        core: `dream`, `lstm`, `gru`, `rnn`, or `linear`, which holds the last inputs as they are.
        config: The DREAM layer, or the one to match.
        hidden_dims: Width of each layer; one of `config.hidden_dim` if None.
        dropout: Share of values dropped between layers in training.
        backend: Implementation of DREAM's scan, see `dream.ops.registry`.

    Raises:
        ConfigError: there is no such core.
    """
    names = get_args(CoreName)
    if core not in names:
        raise ConfigError(
            f"`core` must be {', '.join(names[:-1])} or {names[-1]}; got {core!r}. {nearest(core, names)}",
            key="core",
        )
    widths = [config.hidden_dim] if hidden_dims is None else list(hidden_dims)
    if core == "dream":
        return DREAMStack.from_config(config, widths, dropout, backend=backend)
    if core == "linear":
        return LinearCore(config, widths[-1])
    budget = trainable(DREAMStack.from_config(config, widths, dropout))
    low, high = 1, 4 * max(widths) + 4
    with torch.device("meta"):
        while high - low > 1:
            middle = (low + high) // 2
            size = trainable(RecurrentCore(core, config, middle, len(widths), dropout))
            low, high = (middle, high) if size <= budget else (low, middle)
    return RecurrentCore(core, config, low, len(widths), dropout)
