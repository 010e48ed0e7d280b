"""Parameters and trace of a scan.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`, R `rank`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

KEY_BLOCK = 16  # units whose keys are mixed among themselves


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
    V: Tensor  # (I, R) sensory filter of the fast weights, columns of length sqrt(min(R, I))
    eta: Tensor  # (H,) > 0, plasticity of each unit
    tonic: Tensor  # (H,) in (0, 1), share of it that stays on when nothing surprises
    tau: Tensor  # (H,) > 0, time constant of each unit, in model time
    surprise_scale: Tensor  # () >= 0, how far surprise shortens the time constants
    error_var_prior: Tensor  # (I,) > 0, error variance a fresh sample expects, in squared units of the data
    K: Tensor  # (G, m, m) the keys of the fast weights: h K + k in G blocks of m = min(KEY_BLOCK, H) units
    k: Tensor  # (H,)
    D: Tensor  # (R, H) how what is recalled drives the state


def key_shape(hidden_dim: int) -> tuple[int, int, int]:
    """The shape (G, m, m) of K."""
    size = min(KEY_BLOCK, hidden_dim)
    return -(-hidden_dim // size), size, size


def weight_bytes(i: int, h: int, rank: int) -> int:
    """Bytes of the parameters and buffers of a cell, in torch's default dtype; 0 off the CPU."""
    if torch.get_default_device().type != "cpu":
        return 0
    numbers = 2 * h * h + 4 * h * i + 5 * h + 2 * i + (i + h) * rank + math.prod(key_shape(h))
    return numbers * torch.get_default_dtype().itemsize


class DREAMTrace(NamedTuple):
    """Record of a scan, (N, T, ...), 0 at padded steps; of a single step, without the axis T."""

    prediction: Tensor  # (N, T, I) what was expected of x_t before it was seen
    forecast: Tensor  # (N, T, I) what is expected of x_{t+1} after x_t
    error: Tensor  # (N, T, I) x - prediction; 0 where x was not observed
    surprise: Tensor  # (N, T) in (0, 1)
    deviation: Tensor  # (N, T) error in units of what the sample is used to
    u_norm: Tensor  # (N, T) |U| after the step

    def alone(self) -> DREAMTrace:
        """The first sample's, without the axis N."""
        return DREAMTrace(*(part[0] for part in self))
