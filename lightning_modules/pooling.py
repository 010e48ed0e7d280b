"""What a head reads of a sequence whose class it tells, and how training varies the sequence.

Shapes: N samples, T steps of the longest, I inputs, W values that are pooled, K means.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Reads = Literal["last", "mean", "mean_and_deviation", "attention", "error"]
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

    | `reads` | vector |
    |---|---|
    | `last` | z of the last valid step |
    | `mean` | mean of z_t over the valid steps |
    | `mean_and_deviation` | that, and the deviation of z_t |
    | `attention` | four means, in which step t has the weight softmax_t(z_t q_k) |
    | `error` | mean of z_t, and mean of abs(e_t) for each input |

    Args:
        reads: What is read.
        width: W, width of z_t.
        inputs: I, width of e_t.
    """

    def __init__(self, reads: Reads, width: int, inputs: int) -> None:
        super().__init__()
        self.reads = reads
        self.queries = nn.Linear(width, QUERIES, bias=False) if reads == "attention" else None
        sizes = (width, width, 2 * width, QUERIES * width, width + inputs)
        self.width = dict(zip(get_args(Reads), sizes, strict=True))[reads]
        """Width of the vector."""

    def forward(self, output: Tensor, error: Tensor, lengths: Tensor) -> Tensor:
        """(N, width) from `output` (N, T, W) and `error` (N, T, I) of samples with `lengths` (N,)."""
        if self.reads == "last":
            return output[torch.arange(len(output), device=output.device), lengths - 1]
        values = output[..., :1] * 0 if self.queries is None else self.queries(output)
        scores = step_scores(values, lengths)
        if self.reads == "error":
            output = torch.cat([output, error.abs()], -1)
        means = weighted_means(output, scores)
        if self.reads != "mean_and_deviation":
            return means
        variance = weighted_means((output - means.unsqueeze(1)).square(), scores)
        return torch.cat([means, (variance + _FLOOR).sqrt()], -1)


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
