"""The equations of one step, and nothing above them: no checks, no choice of a backend.

The cell, the reference scan and the tests of faster kernels all call them. All functions are pure: no
argument changes.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dream.config import DREAMConfig
from dream.numerics import largest, norm, shrinkage
from dream.state import DREAMState
from dream.types import DREAMParams

EPS = 1e-6
HALF_PLASTICITY = 0.1  # the plasticity at which one step corrects half of a fully surprising error
OUTLIER = 5.0  # usual deviations beyond which an error counts as this much
MAX_ENTROPY = 2.0  # nats
FARTHEST = 1e15  # usual deviations beyond which line 3 doesn't look, so that their squares stay finite


class StepInput(NamedTuple):
    """The part of a step that depends on the input alone, for (N, ...) or (T, N, ...) at once."""

    x: Tensor  # (..., I)
    drive: Tensor  # (..., H) x B + b
    gate: Tensor  # (..., H) ln(dt / tau) + x G_x
    forget: Tensor  # (..., 1, 1) f of line 6
    entropy: Tensor  # (...) the prior's part of line 4: 0.5 ln(2 pi e) - mean_i 0.5 ln(var_0_i + EPS)
    observed: Tensor | None = None  # (..., I) what was observed of x; None: all of it

    def unbind(self) -> Iterator[StepInput]:
        """Each step, of (T, N, ...)."""
        parts = [[None] * len(self.x) if part is None else part.unbind() for part in self]
        return (StepInput(*step) for step in zip(*parts, strict=True))


class StepResult(NamedTuple):
    """A step's new state, whose h is the output, and its trace."""

    state: DREAMState
    prediction: Tensor
    error: Tensor
    surprise: Tensor
    deviation: Tensor
    u_norm: Tensor


def key(h: Tensor, params: DREAMParams) -> Tensor:
    """``h K + k``, the key of a vector of units (..., H): the units of each block mixed among themselves."""
    blocks, size, _ = params.K.shape
    units = h.shape[-1]
    padded = h if blocks * size == units else pad(h, (0, blocks * size - units))
    mixed = torch.einsum("...gi,gij->...gj", padded.reshape(*h.shape[:-1], blocks, size), params.K)
    return mixed.flatten(-2)[..., :units] + params.k


def read_input(
    x: Tensor, params: DREAMParams, config: DREAMConfig, timespans: Tensor | None, missing: bool = False
) -> StepInput:
    """The products with the input, large enough to be worth autocasting: x (..., I), timespans (...).

    `missing`: NaN in x was not observed, and is 0 in what is returned.
    """
    observed = None
    if missing:
        observed = ~x.isnan()
        x = torch.where(observed, x, 0.0)
    span = x.new_ones(x.shape[:-1]) if timespans is None else timespans
    drive = (x @ params.B).to(x.dtype) + params.b
    gate = drive  # unused without liquid time
    if config.ltc_enabled:
        log_dt = math.log(config.time_step) + span.log()  # of a product that may underflow
        gate = (x @ params.G_x).to(x.dtype) + (log_dt.unsqueeze(-1) - params.tau.log())
    rate = config.forgetting_rate * span
    prior = prior_entropy(params.error_var_prior)
    forget = (rate / (1.0 + rate))[..., None, None]
    return StepInput(x, drive, gate, forget, prior.expand(span.shape), observed)


def predict_next(state: DREAMState, params: DREAMParams, config: DREAMConfig) -> Tensor:
    """Line 1 on `state`: the input expected next, (N, I)."""
    return _expect(state.h, key(state.h, params) if config.base_plasticity > 0 else None, state.U, params)


def _expect(h: Tensor, q: Tensor | None, U: Tensor, params: DREAMParams) -> Tensor:
    """Line 1 with the key q of h, None where there are no fast weights."""
    slow = params.c + h @ params.C
    return slow if q is None else slow + _recall(q, U) @ params.V.mT


def _recall(key: Tensor, U: Tensor) -> Tensor:
    """Values that fast weights (N, H, R) hold under a key (N, H): (N, R)."""
    return (key.unsqueeze(1) @ U).squeeze(1)


def prior_entropy(error_var_prior: Tensor) -> Tensor:
    """The prior's part of line 4, (): ``0.5 ln(2 pi e) - mean_i 0.5 ln(var_0_i + EPS)``, from var_0 (I,)."""
    return 0.5 * (math.log(2 * math.pi * math.e) - (error_var_prior.detach() + EPS).log().mean())


@torch.no_grad()
def gauge(
    e: Tensor,
    mean: Tensor,
    var: Tensor,
    threshold: Tensor,
    prior: Tensor,
    config: DREAMConfig,
    observed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lines 3 to 5: deviation and surprise (N,) of an error (N, I), from a sample's statistics and prior.

    Line 3 is the mean over what was observed, `observed` (N, I); where nothing was, both are 0.
    """
    usual_var = var + EPS
    squares = ((e - mean) / usual_var.sqrt()).clamp(-FARTHEST, FARTHEST).square()
    if observed is None:
        r = squares.mean(-1).sqrt()
    else:
        r = ((squares * observed).sum(-1) / observed.sum(-1).clamp_min(1)).sqrt()
    entropy = (prior + 0.5 * usual_var.log().mean(-1)).clamp(0.0, MAX_ENTROPY)
    over = r - threshold * (1.0 + config.entropy_influence * entropy)
    S = torch.sigmoid(over / config.surprise_temperature)
    return r, S if observed is None else torch.where(observed.any(-1), S, 0.0)


@torch.no_grad()
def habituate(
    e: Tensor,
    r: Tensor,
    S: Tensor,
    mean: Tensor,
    var: Tensor,
    threshold: Tensor,
    avg_surprise: Tensor,
    config: DREAMConfig,
    observed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Line 10: the new error mean and variance, threshold and average surprise; only of what was observed."""
    beta, beta_s, tau_0 = config.error_smoothing, config.surprise_smoothing, config.base_threshold
    # keeps var finite, whatever comes
    limit = (OUTLIER * (var + EPS).sqrt()).clamp_max(largest(var.dtype) / 2)
    d = torch.clamp(e - mean, -limit, limit)
    habituated = (threshold + beta_s * ((1.0 + tau_0) * r.clamp_max(2.0) - threshold)).clamp_min(tau_0)
    new = (
        mean + beta * d,
        (1.0 - beta) * (var + beta * d.square()),
        habituated,
        avg_surprise + beta_s * (S - avg_surprise),
    )
    if observed is None:
        return new
    anything = observed.any(-1)
    return (
        torch.where(observed, new[0], mean),
        torch.where(observed, new[1], var),
        torch.where(anything, new[2], threshold),
        torch.where(anything, new[3], avg_surprise),
    )


def moved_prior(prior: Tensor, moves: Tensor, mean_square: Tensor, config: DREAMConfig) -> Tensor:
    """var_0 (I,) after a batch in training, the k-th: ``var_0 + max(beta, 1 / k) (mean of e^2 - var_0)``."""
    weight = (moves + 1).to(mean_square.dtype).reciprocal().clamp_min(config.error_smoothing)
    # an error whose square overflows must not stay for ever; nor one that leaves `habituate` no room
    return torch.where(
        mean_square <= (largest(prior.dtype) / 2) ** 2, torch.lerp(prior, mean_square, weight), prior
    )


def advance(
    seen: StepInput, state: DREAMState, params: DREAMParams, config: DREAMConfig, plasticity: bool = True
) -> StepResult:
    r"""One step of N samples.

    .. code-block:: text

        key(h) = h K + k, block by block;  rho = min(R, I)

        1  prediction  x_hat = c + h C + (key(h) U) V^T
        2  error       e     = x - x_hat                                     (0 where x was not observed)
        3  deviation   r     = sqrt(mean_i (e_i - error_mean_i)^2 / (error_var_i + EPS))
        4  entropy     E     = clip(mean_i 0.5 ln(2 pi exp(1) (error_var_i + EPS) / (var_0_i + EPS)), 0, 2)
        5  surprise    S     = sigmoid((r - adaptive_tau (1 + alpha E)) / gamma)
        6  plasticity  m_j   = tonic_j + (1 - tonic_j) S;  p_j = m_j eta_j / (m_j eta_j + HALF_PLASTICITY)
                       f     = lambda span / (1 + lambda span);  q = key(h)
                       U"    = U - f (U - U_target) + (p * q) (e V)^T / (rho (1 + |q|^2))
        7  homeostasis U'    = U" (1 - kappa max(0, 1 - target / |U"|_F))
        8  recall      v     = x B + b + h A;  o = sqrt(rho) key(tanh(v)) U'
           drive       u     = v + e W + o D
        9  liquid time a_j   = sigmoid(ln(dt (1 + s S) / tau_j) + (x G_x + h G_h)_j),  dt = time_step span
                       h'_j  = h_j + a_j (tanh(u_j) - h_j)          (ltc_enabled = False:  h' = tanh(u))
        10 statistics  d_i   = e_i - error_mean_i, clipped to +- OUTLIER sqrt(error_var_i + EPS)
                       error_mean' = error_mean + beta d;  error_var' = (1 - beta)(error_var + beta d^2)
                       avg_surprise' = avg_surprise + beta_s (S - avg_surprise)
                       adaptive_tau' = max(tau_0, adaptive_tau
                                           + beta_s ((1 + tau_0) min(r, 2) - adaptive_tau))
        11 sleep       where avg_surprise' > S_min:  U_target' = U_target + zeta avg_surprise' (U' - U_target)

    Where x_i was not observed the step reads x_hat_i in its place, and lines 3 and 10 leave i out; where
    nothing was observed r = S = 0, and threshold and avg_surprise stay.

    So that inputs whose squares are finite give finite results, no term of line 3 counts for more than
    FARTHEST^2, and no d of line 10 for more than half of the largest number whose square is finite.

    With ``base_plasticity = 0`` lines 1 and 8 leave U out and lines 6, 7 and 11 are skipped. Gradients flow
    through lines 1, 2, 6, 7, 8 and 9; surprise, the statistics and the consolidation target are measurements
    and carry none.

    Args:
        seen: the input, by `read_input`.
        state: N samples; not changed.
        params: effective parameters.
        config: knobs.
        plasticity: False keeps U as it is: it still predicts and is recalled from, but neither learns, decays
            nor sleeps.
    """
    x, h, U = seen.x, state.h, state.U
    U_target, mean, var = state.U_target.detach(), state.error_mean.detach(), state.error_var.detach()
    threshold, avg_surprise = state.adaptive_tau.detach(), state.avg_surprise.detach()
    plastic, rho = config.base_plasticity > 0, min(params.V.shape)

    q = key(h, params) if plastic else None
    prediction = _expect(h, q, U, params)  # 1
    e, drive, gate = x - prediction, seen.drive, seen.gate  # 2
    if seen.observed is not None:
        e = torch.where(seen.observed, e, 0.0)
        filled = torch.where(seen.observed, 0.0, prediction)
        drive = drive + filled @ params.B
        gate = gate + filled @ params.G_x if config.ltc_enabled else gate
    measured = e.detach()  # without tangents of forward mode, which `no_grad` would let pass
    r, S = gauge(measured, mean, var, threshold, seen.entropy, config, seen.observed)  # 3, 4, 5

    learns = plasticity and plastic
    if learns:
        assert q is not None
        m = (params.tonic + (1.0 - params.tonic) * S.unsqueeze(-1)) * params.eta  # 6
        stored = m / (m + HALF_PLASTICITY) * q / (rho * (1.0 + q.square().sum(-1, keepdim=True)))
        U = U - seen.forget * (U - U_target) + stored.unsqueeze(-1) * (e @ params.V).unsqueeze(1)
        grown = norm(U)
        shrink = shrinkage(grown, config.target_norm, config.kappa)  # 7
        U, u_norm = U * shrink[:, None, None], (grown * shrink).detach()
    else:
        u_norm = norm(U.detach())

    v = drive + h @ params.A  # 8
    u = v + e @ params.W
    if plastic:
        u = u + math.sqrt(rho) * _recall(key(torch.tanh(v), params), U) @ params.D
    u = torch.tanh(u)
    if config.ltc_enabled:  # 9
        pace = gate + torch.log1p(params.surprise_scale * S.unsqueeze(-1)) + h @ params.G_h
        h = torch.lerp(h, u, torch.sigmoid(pace))
    else:
        h = u

    with torch.no_grad():  # 10
        statistics = habituate(measured, r, S, mean, var, threshold, avg_surprise, config, seen.observed)
        mean, var, threshold, avg_surprise = statistics
        if learns and config.sleep_rate > 0:  # 11
            asleep = avg_surprise * (avg_surprise > config.min_surprise_for_sleep)
            U_target = U_target + config.sleep_rate * asleep[:, None, None] * (U.detach() - U_target)

    new = DREAMState(h, U, U_target, threshold, mean, var, avg_surprise)
    return StepResult(new, prediction, e, S, r, u_norm)
