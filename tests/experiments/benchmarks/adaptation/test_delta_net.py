"""The gated DeltaNet: its blocks against its definition, and what a layer of it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from experiments.benchmarks.adaptation.delta_net import HEADS, DeltaNet, blockwise, recurrence


def inputs(steps: int, size: int = 3) -> list[Tensor]:
    """q, k, v, log_alpha and beta of 2 samples and 2 heads, in float64."""
    q, k, v = torch.randn(3, 2, 2, steps, size, dtype=torch.float64)
    forgetting, beta = torch.rand(2, 2, 2, steps, dtype=torch.float64)
    return [part.requires_grad_() for part in (q, normalize(k, dim=-1), v, -3 * forgetting, beta)]


@pytest.mark.parametrize("steps", [1, 8, 63])
def test_blocks_have_the_values_and_gradients_of_the_definition(steps: int) -> None:
    parts = inputs(steps)
    slow, fast = recurrence(*parts), blockwise(*parts, block=8)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(slow)
    expected = torch.autograd.grad(slow, parts, direction)
    for found, wanted in zip(torch.autograd.grad(fast, parts, direction), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_one_step_is_the_equation_of_the_paper() -> None:
    q, k, v, log_alpha, beta = (part.detach() for part in inputs(2))
    k0, k1, v0, v1 = k[0, 0, 0], k[0, 0, 1], v[0, 0, 0], v[0, 0, 1]
    alpha, (b0, b1) = log_alpha[0, 0, 1].exp(), beta[0, 0]
    first = b0 * v0.outer(k0)
    second = alpha * first @ (torch.eye(3, dtype=torch.float64) - b1 * k1.outer(k1)) + b1 * v1.outer(k1)
    found = recurrence(q, k, v, log_alpha, beta)[0, 0]
    torch.testing.assert_close(found, torch.stack([first @ q[0, 0, 0], second @ q[0, 0, 1]]))


def test_long_forgetting_neither_overflows_nor_leaves_gradients_that_are_not_finite() -> None:
    parts = inputs(64)
    parts[3] = (parts[3].detach() * 100).requires_grad_()
    blockwise(*parts).sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in parts)


def test_a_layer_is_causal_and_takes_any_length() -> None:
    layer = DeltaNet(5, 2 * HEADS)
    x = torch.randn(2, 50, 5)
    output, forecast = layer(x)
    assert output.shape == (2, 50, 2 * HEADS)
    assert forecast.shape == x.shape
    shorter, _ = layer(x[:, :37])
    torch.testing.assert_close(output[:, :37], shorter)
