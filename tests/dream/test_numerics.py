"""The delicate arithmetic: finite values and derivatives where the textbook forms have none."""

from __future__ import annotations

import math

import pytest
import torch

from dream.numerics import logit, root, shrinkage
from tests.dream.support import F32, F64

DTYPES = pytest.mark.parametrize("dtype", [F32, F64])


@DTYPES
def test_root(dtype: torch.dtype) -> None:
    square = torch.tensor([0.0, 1e-30, 1e-4, 1.0, 9.0, 1e30], dtype=dtype, requires_grad=True)
    value = root(square)
    torch.testing.assert_close(value, square.detach().sqrt())
    value.sum().backward()
    expected = torch.tensor([0.0, *(0.5 / math.sqrt(s) for s in (1e-30, 1e-4, 1.0, 9.0, 1e30))], dtype=dtype)
    torch.testing.assert_close(square.grad, expected)
    assert square.grad[0] == 0.0


def test_root_of_a_vanishing_mean_has_no_gradient() -> None:
    x = torch.zeros(4, 3, dtype=F64, requires_grad=True)
    root(x.square().mean(-1)).sum().backward()
    assert (x.grad == 0).all()
    away = torch.randn(4, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: root(a.square().mean(-1)), away)


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


@DTYPES
def test_logit(dtype: torch.dtype) -> None:
    p = torch.tensor([1e-6, 0.02, 0.2, 0.5, 0.9, 0.999], dtype=dtype)
    torch.testing.assert_close(torch.sigmoid(logit(p)), p)
    torch.testing.assert_close(logit(p), torch.logit(p))
    assert logit(torch.tensor([0.5], dtype=dtype)) == 0
