"""A sequence as one vector, which a head reads to tell its class, and its variations in training.

Shapes: N samples, T steps of the longest, I inputs, W values that are pooled, K means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Read = Literal["last", "mean", "deviation", "attention", "error"]
QUERIES = 4
"""K, means of `attention`."""
_FLOOR = 1e-5  # of a variance, whose root has no derivative at 0


def step_scores(values: Tensor, lengths: Tensor) -> Tensor:
    """`values` (N, T, K), -inf past the end of each sample, whose steps are `lengths` (N,): logarithms of the
    weights of the steps in each mean."""
    past_end = torch.arange(values.shape[1], device=values.device) >= lengths.unsqueeze(-1)
    return values.masked_fill(past_end.unsqueeze(-1), -math.inf)


def weighted_means(seen: Tensor, scores: Tensor) -> Tensor:
    """(N, K W) means of `seen` (N, T, W) over the steps, weighted by the softmax of `scores` (N, T, K)."""
    return torch.einsum("ntk,ntw->nkw", scores.softmax(1), seen).flatten(1)


class Pooling(nn.Module):
    """One vector for each sequence, from the output z_t of its core and the error e_t of its predictions.

    Parts of it, side by side, over the valid steps:

    | `reads` | part |
    |---|---|
    | `last` | z of the last step |
    | `mean` | mean of z_t |
    | `deviation` | standard deviation of z_t |
    | `attention` | four means, in which step t has the weight softmax_t(z_t q_k) |
    | `error` | mean of abs(e_t) for each input |

    Args:
        reads: The parts.
        width: W, width of z_t.
        inputs: I, width of e_t.
    """

    def __init__(self, reads: Sequence[Read], width: int, inputs: int) -> None:
        super().__init__()
        self.reads = tuple(reads)
        self.queries = nn.Linear(width, QUERIES, bias=False) if "attention" in reads else None
        sizes = {"attention": QUERIES * width, "error": inputs}
        self.width = sum(sizes.get(read, width) for read in reads)
        """Width of the vector."""

    def forward(self, output: Tensor, error: Tensor, lengths: Tensor) -> Tensor:
        """(N, width) from `output` (N, T, W) and `error` (N, T, I) of samples with `lengths` (N,)."""
        even = step_scores(torch.zeros_like(output[..., :1]), lengths)
        mean = weighted_means(output, even)
        found = []
        for read in self.reads:
            if read == "last":
                found.append(output[torch.arange(len(output), device=output.device), lengths - 1])
            elif read == "mean":
                found.append(mean)
            elif read == "deviation":
                variance = weighted_means((output - mean.unsqueeze(1)).square(), even)
                found.append((variance + _FLOOR).sqrt())
            elif read == "error":
                found.append(weighted_means(error.abs(), even))
            else:
                assert self.queries is not None
                found.append(weighted_means(output, step_scores(self.queries(output), lengths)))
        return torch.cat(found, -1)


def varied(features: Tensor, lengths: Tensor, noise: float, mask: float) -> Tensor:
    """`features` (N, T, I) of samples with `lengths` (N,), with random noise and a random stretch hidden.

    Args:
        features: Standardised, so that 0 is the mean.
        lengths: Valid steps of each sample.
        noise: Deviation of the noise.
        mask: Longest stretch that becomes 0, as a share of the length.
    """
    if noise:
        features = features + noise * torch.randn_like(features)
    if mask:
        share, place = torch.rand(2, len(features), 1, device=features.device)
        long = mask * share * lengths.unsqueeze(-1)
        start = place * (lengths.unsqueeze(-1) - long)
        step = torch.arange(features.shape[1], device=features.device)
        hidden = (step >= start) & (step < start + long)
        features = features.masked_fill(hidden.unsqueeze(-1), 0.0)
    return features
