"""Finite in, finite out: what is too large is refused by row; what is just small enough gives finite numbers
everywhere.

Shapes: N = 3 rows, T = 63 steps, I = 7, H = 21, R = 3.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dream import DREAM, DataError
from dream.numerics import largest, norm
from tests.dream.support import CPU_BACKENDS, F32, F64, tensors

DTYPES = pytest.mark.parametrize("dtype", [F32, F64])
KNOBS: dict[str, dict[str, Any]] = {
    "default": {},
    "strict": dict(kappa=1.0, target_norm=0.5, sleep_rate=0.05, min_surprise_for_sleep=0.0),
    "free": dict(kappa=0.0, error_smoothing=0.4),
    "instant": dict(ltc_enabled=False),
    "no fast weights": dict(base_plasticity=0.0),
}


def layer(backend: str, dtype: torch.dtype, **knobs: Any) -> DREAM:
    torch.manual_seed(0)
    return DREAM(7, 21, 3, backend=backend, **knobs).to(dtype).train()


def huge(size: float, dtype: torch.dtype) -> Tensor:
    """Signs that change at random, with stretches of nothing and of next to nothing."""
    x = size * torch.randn(3, 63, 7, dtype=F64, generator=torch.Generator().manual_seed(1)).sign()
    x[0, :20], x[1, 10:20] = 0.0, 1e-40
    return x.to(dtype).requires_grad_()


@DTYPES
def test_the_largest(dtype: torch.dtype) -> None:
    most = torch.tensor(largest(dtype), dtype=F64)
    inside, outside = (most * (1 - 1e-7)).to(dtype), (most * (1 + 1e-7)).to(dtype)
    assert inside.square().isfinite()
    assert outside.square().isinf()


@DTYPES
def test_a_norm_whose_squares_overflow(dtype: torch.dtype) -> None:
    matrix = torch.randn(4, 5, 3, dtype=dtype, requires_grad=True)
    plain = torch.linalg.vector_norm(matrix, dim=(-2, -1))
    torch.testing.assert_close(norm(matrix), plain, rtol=2e-7 if dtype == F32 else 1e-15, atol=0)
    big = 1e3 * largest(dtype)
    torch.testing.assert_close(norm(matrix * big), plain * big, rtol=1e-6, atol=0)
    slope = torch.autograd.grad(norm(matrix * big).sum() / big, matrix)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(plain.sum(), matrix)[0])
    assert (norm(torch.zeros(2, 3, 4, dtype=dtype)) == 0).all()


@DTYPES
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("share", [1e-9, 0.06, 0.97])  # of the largest: 1.8e10, 1e18 and 1.8e19 in float32
def test_large_but_legal_input(backend: str, dtype: torch.dtype, knobs: str, share: float) -> None:
    """Outputs, traces, states and priors are finite, and so is every gradient that the dtype can hold."""
    module, x, state = layer(backend, dtype, **KNOBS[knobs]), huge(share * largest(dtype), dtype), None
    for _ in range(3):
        output, trace, state = module.trace(x, state)
        for name, tensor in tensors([output, trace, state]).items():
            assert tensor.isfinite().all(), name
        assert output.abs().max() <= 1
        (output.sum() + 1e-3 * trace.prediction.mean() + 1e-3 * trace.forecast.mean()).backward()
        state = state.detach()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name
    assert x.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in module.buffers())


@pytest.mark.parametrize("knobs", KNOBS)
@DTYPES
def test_the_backends_agree_on_it(dtype: torch.dtype, knobs: str) -> None:
    """At first; one sign of a huge sum that rounding decides leads them apart later."""
    results = []
    for backend in CPU_BACKENDS:
        output, trace, state = layer(backend, dtype, **KNOBS[knobs]).trace(
            huge(0.97 * largest(dtype), dtype)[:, :24]
        )
        assert trace.deviation.max() <= 1e15 * (1 + 1e-6)
        results.append([output, trace.prediction, trace.deviation, trace.u_norm, state.error_var])
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            size = max(float(expected.detach().abs().max()), 1.0)
            torch.testing.assert_close(got / size, expected / size, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_after_a_huge_spike(backend: str) -> None:
    """The row goes on, and the row beside it does not notice."""
    module, x = layer(backend, F32).eval(), torch.randn(2, 400, 7)
    calm = module.trace(x)[1]
    x[0, 100] = 1.8e19
    _, trace, state = module.trace(x)
    assert all(tensor.isfinite().all() for tensor in tensors([trace, state]).values())
    assert trace.surprise[0, 100] == 1
    for got, expected in zip(trace, calm, strict=True):
        torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("spans", [1e-30, 1e18])
def test_extreme_spans(backend: str, spans: float) -> None:
    module, x = layer(backend, F32, forgetting_rate=5.0), torch.randn(3, 20, 7, requires_grad=True)
    timespans = torch.full((3, 20), spans, requires_grad=True)
    output, state = module(x, timespans=timespans)
    output.sum().backward()
    assert all(
        tensor.isfinite().all() for tensor in tensors([output, state, x.grad, timespans.grad]).values()
    )


@DTYPES
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_too_large_is_refused(dtype: torch.dtype, sign: float) -> None:
    module, x = layer("auto", dtype), torch.randn(4, 6, 7, dtype=dtype)
    x[2, 3, 5] = sign * largest(dtype) * 1.001
    with pytest.raises(
        DataError, match=r"`x` must be at most 1\..*square.*1 of 24 steps.*row 2, step 3. Scale"
    ):
        module(x)
    with pytest.raises(DataError, match=r"`x` must be at most .* the first at row 2\. Scale"):
        module.cell(x[:, 3])
    lengths = torch.tensor([6, 4, 3, 1])
    assert module.forward_with_mask(x, lengths)[0].isfinite().all()  # in the padding it is nobody's business
    with pytest.raises(DataError, match="row 2, step 3"):
        module.forward_with_mask(x, lengths + torch.tensor([0, 0, 1, 0]))
    x[2, 3, 5] = sign * largest(dtype) * 0.999
    assert module(x)[0].isfinite().all()
    spans = torch.ones(4, 6, dtype=dtype)
    spans[1, 4] = largest(dtype) * 1.001
    with pytest.raises(DataError, match=r"`timespans` must be at most .*row 1, step 4. Scale"):
        module(x, timespans=spans)


def test_nan_is_named_before_size() -> None:
    x = torch.randn(4, 6, 7)
    x[1, 2, 0], x[3, 0, 0] = math.nan, 1e20
    with pytest.raises(
        DataError, match=r"`x` must be finite; 2 of 24 steps are not, the first at row 1, step 2"
    ):
        layer("auto", F32)(x)
