"""What a head reads of a sequence."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.labelled.pooling import QUERIES, Pooling, Read

LENGTHS = torch.tensor([3, 1, 5])


def test_each_part_is_that_of_the_valid_steps() -> None:
    torch.manual_seed(0)
    output, error = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    reads: list[Read] = ["last", "mean", "deviation", "error", "attention"]
    pooling = Pooling(reads, 4, 2)
    found = pooling(output, error, LENGTHS)
    assert found.shape == (3, pooling.width) == (3, 3 * 4 + 2 + QUERIES * 4)
    for sample, length in enumerate(LENGTHS.tolist()):
        z = output[sample, :length]
        weights = (z @ pooling.queries.weight.T).softmax(0)  # type: ignore[union-attr]
        expected = [
            z[-1],
            z.mean(0),
            (z.var(0, correction=0) + 1e-5).sqrt(),
            error[sample, :length].abs().mean(0),
            (weights.T @ z).flatten(),
        ]
        torch.testing.assert_close(found[sample], torch.cat(expected))


@pytest.mark.parametrize("read", ["last", "mean", "deviation", "attention", "error"])
def test_the_padding_has_no_effect_and_no_gradient(read: Read) -> None:
    output, error = torch.randn(3, 5, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    Pooling([read], 4, 4)(output, error, LENGTHS).square().sum().backward()
    used = error if read == "error" else output
    assert used.grad is not None
    assert used.grad.isfinite().all()
    assert (used.grad[0, 3:] == 0).all()
    assert (used.grad[1, 1:] == 0).all()
