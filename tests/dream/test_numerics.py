"""The delicate arithmetic: finite values and derivatives where the textbook forms have none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dream import DREAM
from dream.numerics import logit, norm, orthonormal, root, shrinkage
from tests.dream.support import F32, F64, leaves

DTYPES = pytest.mark.parametrize("dtype", [F32, F64])


@DTYPES
def test_shrinkage(dtype: torch.dtype) -> None:
    norm = torch.tensor([0.0, 1e-30, 1.9, 2.0, 4.0, 1e6], dtype=dtype, requires_grad=True)
    value = shrinkage(norm, 2.0, 0.3)
    torch.testing.assert_close(value, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.85, 0.7 + 0.3 * 2e-6], dtype=dtype))
    assert (value[:4] == 1).all()  # the identity up to the target, exactly
    huge = torch.tensor([1e9], dtype=dtype)
    torch.testing.assert_close(huge * shrinkage(huge, 2.0, 1.0), torch.tensor([2.0], dtype=dtype))
    value[:3].sum().backward()
    assert (norm.grad == 0).all()
    free = torch.tensor([2.5, 7.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda n: shrinkage(n, 2.0, 0.3), free)


def test_root_has_derivatives_of_every_order_at_zero_too() -> None:
    x = torch.tensor([0.0, 4.0], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(root(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert (root(x).tolist(), slope.tolist(), bend.tolist()) == ([0.0, 2.0], [0.0, 0.25], [0.0, -1 / 32])


def test_norm_has_derivatives_of_every_order_at_zero_too() -> None:
    matrix = torch.zeros(2, 3, 4, dtype=F64, requires_grad=True)
    with torch.no_grad():
        matrix[0].normal_()
    assert torch.autograd.gradgradcheck(norm, matrix[:1].detach().requires_grad_())
    (slope,) = torch.autograd.grad(norm(matrix).sum(), matrix, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum() + slope.sum(), matrix)
    assert bend.isfinite().all()
    assert (slope[1] == 0).all()
    assert (bend[1] == 0).all()


@DTYPES
def test_logit(dtype: torch.dtype) -> None:
    p = torch.tensor([1e-6, 0.02, 0.2, 0.5, 0.9, 0.999], dtype=dtype)
    torch.testing.assert_close(torch.sigmoid(logit(p)), p)
    torch.testing.assert_close(logit(p), torch.logit(p))
    assert logit(torch.tensor([0.5], dtype=dtype)) == 0


@DTYPES
@pytest.mark.parametrize("columns", [1, 3, 6])
def test_orthonormal(dtype: torch.dtype, columns: int) -> None:
    matrix = torch.randn(6, columns, dtype=dtype)
    Q = orthonormal(matrix)
    assert Q.dtype == dtype
    assert Q.is_contiguous()
    torch.testing.assert_close(Q.mT @ Q, torch.eye(columns, dtype=dtype))
    T = Q.mT @ matrix
    torch.testing.assert_close(Q @ T, matrix)
    torch.testing.assert_close(T, T.triu())
    assert (T.diagonal() > 0).all()
    torch.testing.assert_close(orthonormal(Q), Q)
    upper = torch.rand(columns, columns, dtype=dtype).triu() + torch.eye(columns, dtype=dtype)
    torch.testing.assert_close(orthonormal(matrix @ upper), Q)
    torch.testing.assert_close(orthonormal(-matrix), -Q)


def test_orthonormal_is_differentiable() -> None:
    matrix = torch.randn(5, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(orthonormal, matrix)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_orthonormal_in_half_precision(half: torch.dtype) -> None:
    matrix = torch.randn(6, 3).to(half)
    Q = orthonormal(matrix)
    assert Q.dtype == half
    torch.testing.assert_close(Q, orthonormal(matrix.float()).to(half))


ROOTS = [
    dict(),
    dict(base_plasticity=0.0),
    dict(ltc_enabled=False),
    dict(ltc_surprise_scale=0.0),
    dict(forgetting_rate=0.0, sleep_rate=0.05, min_surprise_for_sleep=0.0),
    dict(kappa=1.0, target_norm=1e-3),
]


@pytest.mark.parametrize("knobs", ROOTS, ids=lambda knobs: "+".join(knobs) or "defaults")
@pytest.mark.parametrize("value", [None, 0.0, 1.0, math.nan], ids=["any", "zero", "constant", "unobserved"])
def test_second_derivatives_where_roots_norms_and_divisors_are_exactly_0(
    value: float | None, knobs: dict[str, Any]
) -> None:
    """U is 0 for the first two steps of a fresh cell, as h = 0 has the key 0; error_var at rest."""
    layer = DREAM(3, 5, 2, backend="reference", missing=True, **knobs).double().eval()
    state = layer.init_state(2)
    state.error_var[1] = 0.0
    x = torch.randn(2, 6, 3, dtype=F64) if value is None else torch.full((2, 6, 3), value, dtype=F64)
    starts = leaves(x, state.h, state.U, torch.ones(2, 6, dtype=F64))
    x, state.h, state.U, spans = starts
    output, trace, new = layer.trace(x, state, torch.tensor([6, 3]), timespans=spans)
    loss = output.sum() + trace.prediction.square().sum() + new.U.square().sum()
    weights = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(loss, [*starts, *weights], create_graph=True)
    sum(slope.square().sum() for slope in slopes).backward()
    for slope, leaf in zip(slopes, [*starts, *weights], strict=True):
        assert slope.isfinite().all()
        assert leaf.grad.isfinite().all()
