"""Arithmetic that stays finite, in value and derivative, where the textbook's forms do not."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def largest(dtype: torch.dtype) -> float:
    """The largest x whose square is finite in `dtype`: 1.8e19 for float32, 1.3e154 for float64."""
    return math.sqrt(torch.finfo(dtype).max)


def full_precision(device: str) -> AbstractContextManager[object]:
    """A context without autocast on a type of device.

    Where it is off already nothing is entered: torch.export has no form for that.
    """
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def root(x: Tensor) -> Tensor:
    """The square root of x >= 0; at 0 every derivative is 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def norm(matrix: Tensor) -> Tensor:
    """The Frobenius norm over the last two axes, finite although squares overflow.

    They are taken in a larger unit, the fourth root of the dtype's range: a power of two, so that nothing is
    rounded. At 0 every derivative is 0.
    """
    unit = 2.0 ** (math.frexp(torch.finfo(matrix.dtype).max)[1] // 4)
    return root((matrix / unit).square().sum((-2, -1))) * unit


def shrinkage(norm: Tensor, target: float, kappa: float) -> Tensor:
    """``1 - kappa max(0, 1 - target / norm)`` for norm >= 0: finite at 0, exactly 1 up to target.

    For kappa = 1 it has no cancellation that would let a huge norm shrink to more than target.
    """
    ratio = target / norm.clamp_min(target)
    return torch.where(ratio < 1.0, (1.0 - kappa) + kappa * ratio, 1.0)


def orthonormal(matrix: Tensor) -> Tensor:
    """Q of ``matrix = Q T`` (I, R), R <= I: Q^T Q = 1, T upper triangular with positive diagonal.

    Half precision, in which nothing is factorised, is computed in float32. Q is contiguous by rows, as a
    kernel reads it; factorisations give it by columns.
    """
    work = torch.promote_types(matrix.dtype, torch.float32)
    Q, T = torch.linalg.qr(matrix.to(work))
    positive: Tensor = Q * torch.where(T.diagonal() < 0, -1.0, 1.0)
    return positive.to(matrix.dtype).contiguous()


def logit(p: Tensor) -> Tensor:
    """ln(p / (1 - p)), the inverse of the sigmoid, for p in (0, 1)."""
    return p.log() - torch.log1p(-p)
