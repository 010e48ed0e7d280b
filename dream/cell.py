"""`DREAMCell`: the parameters of a DREAM layer, how they start, and one step or one sequence of it.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dream import checks, memory
from dream import functional as F
from dream.config import DREAMConfig
from dream.errors import CheckpointError, ConfigError
from dream.numerics import full_precision, logit, orthonormal
from dream.ops import registry
from dream.prior import move_prior
from dream.state import DREAMState, is_count, state_bytes
from dream.types import DREAMParams, DREAMTrace, key_shape, weight_bytes

TONIC = 0.2  # initial share of a unit's plasticity that stays on when nothing surprises


class DREAMCell(nn.Module):
    """The core of a DREAM layer: fast weights U, gated by surprise, beside a liquid recurrent state h.

    The equations are in `dream.functional.advance`. eta, tau and the surprise scale are learned as
    logarithms and the tonic share as a logit, so that they stay in range; keep weight decay off them
    (`dream.parameter_groups`). Parameters that the configuration leaves unused have ``requires_grad=False``.

    Args:
        config: the knobs.
        backend: implementation of the scan: ``"auto"``, or a name in `dream.ops.registry.BACKENDS`.
        check_inputs: refuse NaN, inf and timespans that are not positive; one pass over each call's input.
        missing: NaN in the input was not observed: the step reads what it predicts in its place.

    Attributes:
        C, c, W, B, b, A, G_x, G_h, K, k, D: parameters, as in `dream.DREAMParams`.
        log_eta, logit_tonic, log_tau: (H,) parameters.
        log_surprise_scale: () parameter.
        V_raw: (I, R) parameter where R < I: the sensory filter is ``V = sqrt(R) Q`` with ``V_raw = Q T``, T
            upper triangular with positive diagonal.
        V: (I, R) buffer where R >= I: the sensory filter, random semi-orthogonal.
        error_var_prior: (I,) buffer, error variance that a fresh sample expects; moves with each sequence in
            training mode.
        prior_updates: () buffer, how often it has moved.
        plasticity_enabled: False keeps U as it is: it still predicts and is recalled from, but neither
            learns, decays nor sleeps.

    Raises:
        ConfigError: `config` is not a DREAMConfig, or the backend is unknown.

    Example:
        >>> cell = DREAMCell(DREAMConfig(input_dim=64, hidden_dim=128, rank=8))
        >>> output, state = cell(torch.randn(32, 64), cell.init_state(batch_size=32))
        >>> output.shape
        torch.Size([32, 128])
    """

    V_raw: Tensor
    V: Tensor
    error_var_prior: Tensor
    prior_updates: Tensor

    def __init__(
        self,
        config: DREAMConfig,
        *,
        backend: str = "auto",
        check_inputs: bool = True,
        missing: bool = False,
    ) -> None:
        super().__init__()
        checks.configuration(config)
        self.config = config
        self.backend = registry.check_name(backend)
        self.check_inputs = check_inputs
        self.missing = missing
        self.plasticity_enabled = True
        self._last_V = torch.empty(0), torch.empty(0), 0  # V_raw, the V that it gave, V_raw's version
        with memory.enough(
            lambda: (
                f"`hidden_dim`={config.hidden_dim}, `input_dim`={config.input_dim} and `rank`={config.rank}"
            ),
            "Lower the largest of them.",
            weight_bytes(config.input_dim, config.hidden_dim, config.rank),
            key="hidden_dim",
        ):
            self._make(config)

    def _make(self, config: DREAMConfig) -> None:
        """Make and start parameters and buffers."""
        i, h = config.input_dim, config.hidden_dim

        def parameter(*shape: int, used: bool = True) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape), requires_grad=used)

        plastic, liquid = config.base_plasticity > 0, config.ltc_enabled
        hastens = liquid and config.ltc_surprise_scale > 0
        self.C = parameter(h, i)
        self.c = parameter(i)
        self.W = parameter(i, h)
        self.B = parameter(i, h)
        self.b = parameter(h)
        self.A = parameter(h, h)
        self.G_x = parameter(i, h, used=liquid)
        self.G_h = parameter(h, h, used=liquid)
        self.log_eta = parameter(h, used=plastic)
        self.logit_tonic = parameter(h, used=plastic)
        self.log_tau = parameter(h, used=liquid)
        self.log_surprise_scale = parameter(used=hastens)
        self.K = parameter(*key_shape(h), used=plastic)
        self.k = parameter(h, used=plastic)
        self.D = parameter(config.rank, h, used=plastic)
        if self._filter_learned:
            self.V_raw = parameter(i, config.rank, used=plastic)
        else:
            self.register_buffer("V", torch.empty(i, config.rank))
        self.register_buffer("error_var_prior", torch.empty(i))
        self.register_buffer("prior_updates", torch.zeros((), dtype=torch.long))
        self.reset_parameters()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}C" in state_dict and f"{prefix}K" not in state_dict:
            raise CheckpointError(
                f"`state_dict` must hold a cell of the second edition; {prefix}C is of the first edition of "
                "the cell, which has no keys K. Train again, or stay with the version that wrote it."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start afresh.

        C, W, B Xavier uniform; A orthogonal; V semi-orthogonal; K 1, block by block; gates, biases, k and D
        0; tau log-spaced from ``time_step / 20`` to ``ltc_tau_sys``; the error variance prior 1.
        """
        config = self.config
        for weight in (self.C, self.W, self.B):
            nn.init.xavier_uniform_(weight)
        nn.init.orthogonal_(self.A)
        if self._filter_learned:
            nn.init.orthogonal_(self.V_raw)
        else:
            nn.init.orthogonal_(self.V).mul_(math.sqrt(config.input_dim))
        self.K.copy_(torch.eye(self.K.shape[-1], dtype=self.K.dtype, device=self.K.device))
        for bias in (self.c, self.b, self.G_x, self.G_h, self.k, self.D):
            nn.init.zeros_(bias)
        # An unused logarithm rests at 0: params() gives the effective 0 of a knob that is switched off.
        self.log_eta.fill_(math.log(config.base_plasticity) if config.base_plasticity > 0 else 0.0)
        self.logit_tonic.copy_(logit(torch.full_like(self.logit_tonic, TONIC)))
        slowest, fastest = math.log(config.ltc_tau_sys), math.log(config.time_step / 20)
        self.log_tau.copy_(torch.linspace(fastest, slowest, config.hidden_dim))
        self.log_tau[-1] = slowest
        self.log_surprise_scale.fill_(
            math.log(config.ltc_surprise_scale) if config.ltc_surprise_scale > 0 else 0.0
        )
        self.error_var_prior.fill_(1.0)
        self.prior_updates.zero_()

    def params(self) -> DREAMParams:
        """The effective parameters, differentiable with respect to the learned ones."""
        config = self.config
        make = registry.parameters_of(self.backend, self.log_eta, config)
        if make is None:
            V, eta, scale = self._effective_filter(), self.log_eta.exp(), self.log_surprise_scale.exp()
            eta = eta if config.base_plasticity > 0 else torch.zeros_like(eta)
            tonic, tau = torch.sigmoid(self.logit_tonic), self.log_tau.exp()
            scale = scale if config.ltc_surprise_scale > 0 else torch.zeros_like(scale)
        else:
            raw = self.V_raw if self._filter_learned else None
            learned = (self.log_eta, self.logit_tonic, self.log_tau, self.log_surprise_scale)
            filters, eta, tonic, tau, scale = make(raw, learned, config)
            V = self.V if filters is None else filters
        return DREAMParams(
            *(self.C, self.c, self.W, self.B, self.b, self.A, self.G_x, self.G_h),
            *(V, eta, tonic, tau, scale, self.error_var_prior, self.K, self.k, self.D),
        )

    @property
    def _filter_learned(self) -> bool:
        return self.config.rank < self.config.input_dim

    def _effective_filter(self) -> Tensor:
        """The sensory filter, (I, R): ``V^T V = R`` where it is learned, ``V V^T = I`` where it is fixed."""
        if not self._filter_learned:
            return self.V
        return orthonormal(self.V_raw) * math.sqrt(self.config.rank)

    def _learned(self) -> tuple[Tensor | None, ...]:
        """The parameters as they are learned, in the order of `DREAMParams`."""
        return (
            *(self.C, self.c, self.W, self.B, self.b, self.A, self.G_x, self.G_h, self._known_filter()),
            *(self.log_eta, self.logit_tonic, self.log_tau),
            self.log_surprise_scale if self.config.ltc_surprise_scale > 0 else None,
            self.error_var_prior,
            *(self.K, self.k, self.D),
        )

    def _known_filter(self) -> Tensor:
        """As `_effective_filter`, without gradient; computed again only where V_raw has changed."""
        if not self._filter_learned:
            return self.V
        raw, V, version = self._last_V
        now = 0 if self.V_raw.is_inference() else self.V_raw._version
        if raw.device != self.V_raw.device or raw.dtype != self.V_raw.dtype:
            same = False
        elif self.V_raw.is_cuda:  # the host does not wait for a look at its values
            same = raw.data_ptr() == self.V_raw.data_ptr() and version == now
        else:
            same = raw.equal(self.V_raw)
        if not same:
            raw = self.V_raw.detach() if self.V_raw.is_cuda else self.V_raw.detach().clone()
            V = self._effective_filter().detach()
            self._last_V = raw, V, now
        return V

    def get_config(self) -> DREAMConfig:
        """The configuration that this cell was made from."""
        return self.config

    def init_state(
        self, batch_size: int, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> DREAMState:
        """State of `batch_size` samples that have seen nothing, by default like the parameters.

        Args:
            batch_size: N.
            device: the parameters' if None.
            dtype: the parameters' if None.

        Raises:
            StateError: `batch_size` is not a positive integer.
        """
        prior = self.error_var_prior.to(device=device, dtype=dtype)
        if torch.compiler.is_compiling():
            return DREAMState.fresh(self.config, batch_size, prior)
        with memory.enough(
            lambda: (
                f"`batch_size`={batch_size} states of `hidden_dim`={self.config.hidden_dim} and "
                f"`rank`={self.config.rank}"
            ),
            "Use fewer samples, or lower `hidden_dim` or `rank`.",
            state_bytes(self.config, batch_size) if prior.device.type == "cpu" else 0,
            key="batch_size",
        ):
            return DREAMState.fresh(self.config, batch_size, prior)

    def forward(
        self, x: Tensor, state: DREAMState | None = None, timespans: Tensor | None = None
    ) -> tuple[Tensor, DREAMState]:
        """One step.

        Args:
            x: (N, I), input, in units of the data; (I,) is one sample without a batch, whose state has N = 1.
            state: N samples, not changed; fresh ones if None.
            timespans: (N,), time since the previous step, in steps; 1 if None.

        Returns:
            output: (N, H), in [-1, 1].
            new_state: the state after the step.

        Raises:
            ShapeError, DataError, StateError: an argument that does not fit, or holds NaN or inf.
        """
        x, timespans, alone = checks.step_input(x, timespans, self.C, self.config)
        if self.check_inputs:
            checks.finite_values(x, timespans, None, self.missing)
        state = self.init_state(x.shape[0]) if state is None else state
        checks.state_of(state, self.config, x, alone)
        checks.differentiable(x, state, self.parameters())
        # asked in this order, so that a traced program is not one for N = 1, or for any other, alone
        streams = not torch.compiler.is_compiling() and not torch.is_grad_enabled() and x.shape[0] == 1
        step = registry.choose(self.backend, x, self.config).step if streams else None
        plasticity = self.plasticity_enabled
        if step is not None:
            new = step(x, state, self._learned(), self.config, timespans, plasticity, self.missing, self)
            return new.h[0] if alone else new.h, new
        params = self.params()
        with full_precision(x.device.type):
            seen = F.read_input(x, params, self.config, timespans, self.missing)
            new = F.advance(seen, state, params, self.config, plasticity).state
        return new.h[0] if alone else new.h, new

    def forward_sequence(
        self,
        x_seq: Tensor,
        state: DREAMState | None = None,
        return_all: bool = True,
        timespans: Tensor | None = None,
    ) -> tuple[Tensor, DREAMState]:
        """A whole sequence; the same as a step at a time, and faster.

        Args:
            x_seq: (N, T, I), input, in units of the data; (T, I) is one sample without a batch.
            state: N samples, not changed; fresh ones if None.
            return_all: the outputs of all steps, or the last only, which is the final h.
            timespans: (N, T), time since the previous step, in steps; 1 if None.

        Returns:
            output: (N, T, H), or (N, H) for `return_all=False`.
            final_state: the state after the last step.

        Raises:
            ShapeError, DataError, StateError: an argument that does not fit, or holds NaN or inf.
        """
        output, _, state = self.scan(x_seq, state, timespans)
        return (output if return_all else state.h.reshape(*output.shape[:-2], -1)), state

    def scan(
        self,
        x: Tensor,
        state: DREAMState | None = None,
        timespans: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, DREAMTrace, DREAMState]:
        """Call `dream.scan.dream_scan` with this cell's parameters; in training mode, then move the prior:

        ``var_0 += max(beta, 1 / (k + 1)) (mean of e^2 over all valid steps - var_0)``, with k the number of
        moves so far. It rests within `torch.func` transforms that are not given the buffers.

        Args and Returns: as there; `state` None is fresh samples.
        """
        params = self.params()
        x, timespans, lengths, alone = checks.sequence(x, params, self.config, timespans, lengths)
        if self.check_inputs:
            checks.finite_values(x, timespans, lengths, self.missing)
        backend = registry.choose(self.backend, x, self.config)
        rest = (params, self.config, timespans, lengths, self.plasticity_enabled, self.missing)
        if state is None and backend.fresh_scan is not None:
            checks.differentiable(x, None, params)
            output, trace, final = backend.fresh_scan(x, None, *rest)
        else:
            state = self.init_state(x.shape[0]) if state is None else state
            checks.state_of(state, self.config, x, alone)
            checks.differentiable(x, state, params)
            output, trace, final = backend.scan(x, state, *rest)
        if self.training and not checks.beyond(self.error_var_prior, trace.error):
            observed = ~x.isnan() if self.missing else None
            prior, moves = self.error_var_prior, self.prior_updates
            move_prior(prior, moves, trace.error, observed, lengths, self.config, backend.move_prior)
        return (output[0], trace.alone(), final) if alone else (output, trace, final)

    def predict_next(self, state: DREAMState) -> Tensor:
        """The input expected next, (N, I), in units of the data: ``c + h C + (key(h) U) V^T``.

        Raises:
            StateError: the state does not fit this cell.
        """
        self._check_state(state)
        with full_precision(state.h.device.type):
            return F.predict_next(state, self.params(), self.config)

    def _check_state(self, state: DREAMState) -> None:
        rows = state.batch_size if isinstance(state, DREAMState) else 1
        checks.state_of(state, self.config, self.C.new_empty(rows, 0))

    def consolidate(self, state: DREAMState, steps: int = 1) -> DREAMState:
        """Sleep on demand: line 11 without its threshold, `steps` times, so that U_target moves towards U.

        ``U_target' = U_target + zeta avg_surprise (U - U_target)``

        Raises:
            StateError: the state does not fit this cell.
            ConfigError: `steps` is not a positive integer.
        """
        self._check_state(state)
        if not is_count(steps):
            raise ConfigError(f"`steps` must be a positive integer; got {steps!r}.", key="steps")
        new = state.clone()
        if self.config.base_plasticity == 0:
            return new
        with torch.no_grad():
            kept = (1.0 - self.config.sleep_rate * state.avg_surprise) ** steps
            new.U_target = torch.lerp(state.U, state.U_target, kept[:, None, None])
        return new

    @contextmanager
    def plasticity(self, enabled: bool) -> Iterator[None]:
        """Within ``with cell.plasticity(False):`` the fast weights stay as they are; they still predict."""
        before, self.plasticity_enabled = self.plasticity_enabled, enabled
        try:
            yield
        finally:
            self.plasticity_enabled = before

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        c = self.config
        return f"{c.input_dim}, {c.hidden_dim}, rank={c.rank}"
