"""Forecasts of systems that need no training, and what a core reads that corrects them.

Shapes: N sequences of a batch, T steps, A distances that are forecast; I inputs of a step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.forecasting.systems.data import SystemsShape
from lightning_modules.naive import late, recursive_least_squares

FLOOR = 1e-3  # least scale, in deviations of the output
WINDOW = 50  # newest errors of the reference that its scale is taken from
OUTLIER = 10.0  # scales beyond which an error does not count for more


class Reference(NamedTuple):
    """Forecasts that need no training, and their errors so far."""

    future: Tensor
    """(N, T, A)"""
    error: Tensor
    """(N, T, A) newest error that is known, of the forecast of y_t"""
    scale: Tensor
    """(N, T, A) root of the mean square of the newest errors; 1 where none is known"""

    def beside(self, inputs: Tensor) -> Tensor:
        """(N, T, I + 3 A) what a core reads: `inputs`, and these forecasts, scales and errors."""
        facts = [
            self.future - inputs[..., :1],
            (self.error / self.scale).clamp(-OUTLIER, OUTLIER),
            self.scale.log() / 3,
        ]
        return torch.cat([inputs, *facts], -1)


def linear_forecast(inputs: Tensor, shape: SystemsShape, forgetting: float = 1.0) -> Tensor:
    """(N, T, A) forecasts by linear models that learn within each sequence, from `inputs` (N, T, I)."""
    y, found = inputs[..., 0], []
    for distance in shape.ahead:
        later = torch.cat([y[:, distance:], torch.zeros_like(y[:, :distance])], 1)  # no zero is ever learnt
        read = regressors(inputs, shape, distance)
        found.append(recursive_least_squares(read, later, distance, forgetting))
    return torch.stack(found, -1)


def regressors(inputs: Tensor, shape: SystemsShape, ahead: int) -> Tensor:
    """(N, T, .) what linear models of y_(t+ahead) read at step t: 1, the outputs in `inputs` (N, T, I), and
    the inputs up to u_(t+ahead)."""
    planned = inputs[..., shape.lags + shape.known - ahead :]
    return torch.cat([torch.ones_like(inputs[..., :1]), inputs[..., : shape.lags], planned], -1)


def last_forecast(inputs: Tensor, shape: SystemsShape) -> Tensor:
    """(N, T, A) the last output at each distance, from `inputs` (N, T, I)."""
    return inputs[..., :1].expand(-1, -1, len(shape.ahead))


@torch.no_grad()
def reference(inputs: Tensor, future: Tensor, shape: SystemsShape) -> Reference:
    """The reference whose forecasts are `future` (N, T, A), from `inputs` (N, T, I)."""
    y = inputs[..., 0]
    errors, scales = [], []
    step = torch.arange(y.shape[1], device=y.device)
    for place, distance in enumerate(shape.ahead):
        known = step >= distance
        error = torch.where(known, y - late(future[..., place], distance), 0.0)
        total = error.double().square().cumsum(1)
        count = (step - distance + 1).clamp(1, WINDOW)
        scale = ((total - late(total, WINDOW)).clamp_min(0) / count).sqrt().clamp_min(FLOOR)
        errors.append(error)
        scales.append(torch.where(known, scale, 1.0).to(y))
    return Reference(future, torch.stack(errors, -1), torch.stack(scales, -1))
