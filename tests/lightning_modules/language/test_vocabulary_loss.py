"""The loss of a large vocabulary is PyTorch's, in parts of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_modules.language import vocabulary_loss
from lightning_modules.language.vocabulary_loss import tied_loss, tied_nats


def drawn(tokens: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features, weight, bias = (
        torch.randn(shape, dtype=torch.float64) for shape in ((tokens, 3), (11, 3), (11,))
    )
    targets = torch.randint(11, (tokens,))
    targets[2] = -1
    return features.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


@pytest.mark.parametrize("scores", [1, 22, 33, 10**6])
def test_value_and_gradients(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_loss, "SCORES", scores)
    features, weight, bias, targets = inputs = drawn()
    expected = cross_entropy(features @ weight.T + bias, targets, ignore_index=-1, reduction="none")
    assert torch.allclose(tied_nats(*inputs), expected, rtol=1e-12)
    assert not tied_nats(*inputs).requires_grad
    found = tied_loss(*inputs)
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-12)
    ours = torch.autograd.grad(3 * found, (features, weight, bias))
    theirs = torch.autograd.grad(3 * expected.sum(), (features, weight, bias))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_numerical_gradients() -> None:
    *inputs, targets = drawn()
    assert torch.autograd.gradcheck(lambda *tensors: tied_loss(*tensors, targets), inputs)


def test_half_precision_features_under_autocast() -> None:
    features, weight, bias, targets = (part.float() if part.is_floating_point() else part for part in drawn())
    half = features.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = tied_loss(half, weight, bias, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(tied_nats(half.float(), weight, bias, targets).sum().item(), rel=1e-6)
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
