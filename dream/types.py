"""Parameters and trace of a scan.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DREAMParams(NamedTuple):
    """Effective parameters of a cell: as the equations use them, whatever form they are learned in."""

    C: Tensor  # (H, I) slow prediction of the input from the state
    c: Tensor  # (I,)
    W: Tensor  # (I, H) how a prediction error drives the state
    B: Tensor  # (I, H) how the input drives the state
    b: Tensor  # (H,)
    A: Tensor  # (H, H) recurrence
    G_x: Tensor  # (I, H) the liquid gate: how the input stretches or shrinks each time constant
    G_h: Tensor  # (H, H) and how the state does
    V: Tensor  # (I, R) fixed sensory filter of the fast weights
    eta: Tensor  # (H,) > 0, plasticity of each unit
    tonic: Tensor  # (H,) in (0, 1), share of it that stays on when nothing surprises
    tau: Tensor  # (H,) > 0, time constant of each unit, in model time
    surprise_scale: Tensor  # () >= 0, how far surprise shortens the time constants
    error_var_prior: Tensor  # (I,) > 0, error variance a fresh sample expects, in squared units of the data


class DREAMTrace(NamedTuple):
    """Record of a scan, (N, T, ...), 0 at padded steps; of a single step, without the axis T."""

    prediction: Tensor  # (N, T, I) what was expected of x_t before it was seen
    forecast: Tensor  # (N, T, I) what is expected of x_{t+1} after x_t
    error: Tensor  # (N, T, I) x - prediction
    surprise: Tensor  # (N, T) in (0, 1)
    deviation: Tensor  # (N, T) error in units of what the sample is used to
    u_norm: Tensor  # (N, T) |U| after the step
