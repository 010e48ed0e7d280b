"""The head's least squares: values and gradients of an explicit solution, and nothing from the future."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dream import DREAMError
from lightning_modules.stream.following import HeadFit, followed
from lightning_modules.stream.network import Head

N, T, L, F, O = 2, 11, 2, 3, 2  # noqa: E741 - as in the page's legend
LAG, EVERY, G, RIDGE = 3, 4, 0.9, 0.05


def drawn() -> tuple[Head, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    head = Head(L, F, O).double()
    for weight in head.parameters():
        weight.data = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    values, wanted = (
        torch.randn(N, T, L, width, dtype=torch.float64, generator=generator) for width in (F, O)
    )
    return head, values.requires_grad_(), wanted


def explicit(head: Head, values: Tensor, wanted: Tensor) -> Tensor:
    """Row by row, each with its own weighted system, whose rows hold the square roots of their weights."""
    outputs = torch.zeros(N, T, L, O, dtype=torch.float64)
    for n in range(N):
        for lane in range(L):
            prior = torch.cat([head.weight[lane], head.bias[lane, :, None]], 1).T
            z = torch.cat([values[n, :, lane], torch.ones(T, 1, dtype=torch.float64)], 1)
            for t in range(T):
                stops = [row - LAG + 1 for row in range(0, t + 1, EVERY) if row - LAG + 1 > 0]
                weights = prior
                if stops:
                    age = torch.zeros(stops[-1], dtype=torch.float64)
                    for earlier in stops[:-1]:
                        following = min(stop for stop in stops if stop > earlier)
                        age[:earlier] += following - earlier
                    root = (G**age).sqrt()[:, None]
                    rows, right = root * z[: stops[-1]], root * wanted[n, : stops[-1], lane]
                    pull = 1 + RIDGE * rows.square().sum() / (F + 1)
                    rows = torch.cat([rows, pull.sqrt() * torch.eye(F + 1, dtype=torch.float64)])
                    weights = torch.linalg.lstsq(rows, torch.cat([right, pull.sqrt() * prior])).solution
                outputs[n, t, lane] = z[t] @ weights
    return outputs


def test_outputs_and_gradients_are_those_of_an_explicit_solution() -> None:
    head, values, wanted = drawn()
    leaves = [values, head.weight, head.bias]
    found, expected = (
        followed(head, values, wanted, LAG, EVERY, G, RIDGE),
        explicit(head, values, wanted),
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [
        torch.autograd.grad((part - wanted).square().sum(), leaves, retain_graph=True)
        for part in (found, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients[0])


def test_a_row_is_not_fitted_before_its_targets_are_known() -> None:
    head, values, wanted = drawn()
    before = followed(head, values, wanted, LAG, EVERY, G, RIDGE)
    for row in range(T):
        other = wanted.clone()
        other[:, row:] += 10.0
        moved = (followed(head, values, other, LAG, EVERY, G, RIDGE) != before).flatten(2).any(2).any(0)
        assert not moved[: min(row + LAG, T)].any()
        first = -(-(row + LAG) // EVERY) * EVERY  # the first update that may know it
        if first + 1 < T:
            assert moved[first:].all()


def test_missing_targets_correct_nothing() -> None:
    head, values, wanted = drawn()
    fit, weights = HeadFit.fresh(head.columns().expand(N, -1, -1, -1)), head.columns().expand(N, -1, -1, -1)
    gone = torch.full_like(wanted, torch.nan)
    assert all(torch.equal(a, b) for a, b in zip(fit.add(values, gone, weights, G), fit, strict=True))
    one = wanted.clone()
    one[..., 0] = torch.nan
    solved = fit.add(values, one, weights, G).solve(weights, RIDGE, "here")
    torch.testing.assert_close(solved[..., 0], weights[..., 0])
    assert not torch.allclose(solved[..., 1], weights[..., 1])


def test_features_that_are_not_finite_are_refused() -> None:
    head, values, wanted = drawn()
    values = values.detach().clone()
    values[0, 0] = torch.nan
    with pytest.raises(DREAMError, match="not finite: the features of a crop"):
        followed(head, values, wanted, LAG, EVERY, G, RIDGE)
