"""The equations of one step, and nothing above them: no checks, no choice of a backend.

The cell, the reference scan and the tests of faster kernels all call them. All functions are pure: no
argument changes.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dream.config import DREAMConfig
from dream.numerics import largest, norm, root, shrinkage
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


class StepResult(NamedTuple):
    """A step's new state, whose h is the output, and its trace."""

    state: DREAMState
    prediction: Tensor
    surprise: Tensor
    deviation: Tensor
    u_norm: Tensor


def read_input(x: Tensor, params: DREAMParams, config: DREAMConfig, timespans: Tensor | None) -> StepInput:
    """The products with the input, large enough to be worth autocasting: x (..., I), timespans (...)."""
    span = x.new_ones(x.shape[:-1]) if timespans is None else timespans
    drive = (x @ params.B).to(x.dtype) + params.b
    gate = drive  # unused without liquid time
    if config.ltc_enabled:
        log_dt = math.log(config.time_step) + span.log()  # of a product that may underflow
        gate = (x @ params.G_x).to(x.dtype) + (log_dt.unsqueeze(-1) - params.tau.log())
    rate = config.forgetting_rate * span
    prior = prior_entropy(params.error_var_prior)
    return StepInput(x, drive, gate, (rate / (1.0 + rate))[..., None, None], prior.expand(span.shape))


def predict_next(state: DREAMState, params: DREAMParams, config: DREAMConfig) -> Tensor:
    """Line 1 on `state`: the input expected next, (N, I)."""
    prediction = params.c + state.h @ params.C
    if config.base_plasticity == 0:
        return prediction
    return prediction + (state.h.unsqueeze(1) @ state.U).squeeze(1) @ params.V.mT


def prior_entropy(error_var_prior: Tensor) -> Tensor:
    """The prior's part of line 4, (): ``0.5 ln(2 pi e) - mean_i 0.5 ln(var_0_i + EPS)``, from var_0 (I,)."""
    return 0.5 * (math.log(2 * math.pi * math.e) - (error_var_prior.detach() + EPS).log().mean())


def gauge(
    e: Tensor, mean: Tensor, var: Tensor, threshold: Tensor, prior: Tensor, config: DREAMConfig
) -> tuple[Tensor, Tensor]:
    """Lines 3 to 5: deviation and surprise (N,) of an error (N, I), from a sample's statistics and prior."""
    usual_var = var + EPS
    r = root(((e - mean) / usual_var.sqrt()).clamp(-FARTHEST, FARTHEST).square().mean(-1))
    entropy = (prior + 0.5 * usual_var.log().mean(-1)).clamp(0.0, MAX_ENTROPY)
    return r, torch.sigmoid(
        (r - threshold * (1.0 + config.entropy_influence * entropy)) / config.surprise_temperature
    )


def habituate(
    e: Tensor,
    r: Tensor,
    S: Tensor,
    mean: Tensor,
    var: Tensor,
    threshold: Tensor,
    avg_surprise: Tensor,
    config: DREAMConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Line 10: the new error mean and variance, threshold and average surprise."""
    beta, beta_s, tau_0 = config.error_smoothing, config.surprise_smoothing, config.base_threshold
    # keeps var finite, whatever comes
    limit = (OUTLIER * (var + EPS).sqrt()).clamp_max(largest(var.dtype) / 2)
    d = torch.clamp(e - mean, -limit, limit)
    habituated = threshold + beta_s * ((1.0 + tau_0) * r.clamp_max(2.0) - threshold)
    return (
        mean + beta * d,
        (1.0 - beta) * (var + beta * d.square()),
        habituated.clamp_min(tau_0),
        avg_surprise + beta_s * (S - avg_surprise),
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

        1  prediction  x_hat = c + h C + (h U) V^T
        2  error       e     = x - x_hat
        3  deviation   r     = sqrt(mean_i (e_i - error_mean_i)^2 / (error_var_i + EPS))
        4  entropy     E     = clip(mean_i 0.5 ln(2 pi exp(1) (error_var_i + EPS) / (var_0_i + EPS)), 0, 2)
        5  surprise    S     = sigmoid((r - adaptive_tau (1 + alpha E)) / gamma)
        6  plasticity  m_j   = tonic_j + (1 - tonic_j) S;  p_j = m_j eta_j / (m_j eta_j + HALF_PLASTICITY)
                       f     = lambda span / (1 + lambda span)
                       U"    = U - f (U - U_target) + (p * h) (e V)^T / (1 + |h|^2)
        7  homeostasis U'    = U" (1 - kappa max(0, 1 - target / |U"|_F))
        8  drive       u     = x B + b + h A + e W
        9  liquid time a_j   = sigmoid(ln(dt (1 + s S) / tau_j) + (x G_x + h G_h)_j),  dt = time_step span
                       h'_j  = h_j + a_j (tanh(u_j) - h_j)          (ltc_enabled = False:  h' = tanh(u))
        10 statistics  d_i   = e_i - error_mean_i, clipped to +- OUTLIER sqrt(error_var_i + EPS)
                       error_mean' = error_mean + beta d;  error_var' = (1 - beta)(error_var + beta d^2)
                       avg_surprise' = avg_surprise + beta_s (S - avg_surprise)
                       adaptive_tau' = max(tau_0, adaptive_tau
                                           + beta_s ((1 + tau_0) min(r, 2) - adaptive_tau))
        11 sleep       where avg_surprise' > S_min:  U_target' = U_target + zeta avg_surprise' (U' - U_target)

    So that inputs whose squares are finite give finite results, no term of line 3 counts for more than
    FARTHEST^2, and no d of line 10 for more than half of the largest number whose square is finite.

    With ``base_plasticity = 0`` line 1 leaves U out and lines 6, 7 and 11 are skipped. Lines 4, 10 and 11,
    the state that they keep and the trace but for prediction, forecast and error carry no gradient.

    Args:
        seen: the input, by `read_input`.
        state: N samples; not changed.
        params: effective parameters.
        config: knobs.
        plasticity: False keeps U as it is: it still predicts, but neither learns, decays nor sleeps.
    """
    x, h, U = seen.x, state.h, state.U
    U_target, mean, var = state.U_target.detach(), state.error_mean.detach(), state.error_var.detach()
    threshold, avg_surprise = state.adaptive_tau.detach(), state.avg_surprise.detach()

    prediction = predict_next(state, params, config)  # 1
    e = x - prediction  # 2
    r, S = gauge(e, mean, var, threshold, seen.entropy, config)  # 3, 4, 5

    learns = plasticity and config.base_plasticity > 0
    if learns:
        m = (params.tonic + (1.0 - params.tonic) * S.unsqueeze(-1)) * params.eta  # 6
        p = m / (m + HALF_PLASTICITY)
        key = p * h / (1.0 + h.square().sum(-1, keepdim=True))
        U = U - seen.forget * (U - U_target) + key.unsqueeze(-1) * (e @ params.V).unsqueeze(1)
        grown = norm(U)
        shrink = shrinkage(grown, config.target_norm, config.kappa)  # 7
        U, u_norm = U * shrink[:, None, None], (grown * shrink).detach()
    else:
        u_norm = norm(U.detach())

    u = torch.tanh(seen.drive + h @ params.A + e @ params.W)  # 8
    if config.ltc_enabled:  # 9
        pace = seen.gate + torch.log1p(params.surprise_scale * S).unsqueeze(-1) + h @ params.G_h
        h = torch.lerp(h, u, torch.sigmoid(pace))
    else:
        h = u

    with torch.no_grad():  # 10: measurements, which carry no gradient
        mean, var, threshold, avg_surprise = habituate(e, r, S, mean, var, threshold, avg_surprise, config)
        if learns and config.sleep_rate > 0:  # 11
            asleep = avg_surprise * (avg_surprise > config.min_surprise_for_sleep)
            U_target = U_target + config.sleep_rate * asleep[:, None, None] * (U - U_target)

    new = DREAMState(h, U, U_target, threshold, mean, var, avg_surprise)
    return StepResult(new, prediction, S.detach(), r.detach(), u_norm)
