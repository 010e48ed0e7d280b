"""A head that follows a stream by least squares: its sums, their solution, and a pass over known rows.

The rule `LeastSquares` follows a stream with it, and training goes back through it: one computation.

Shapes: N crops, T rows, M new rows, L lanes, F features of a lane, O outputs of a lane. A row's features are
followed by a 1 for the bias.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dream.errors import DREAMError
from lightning_modules.checks import DIVERGED
from lightning_modules.stream.network import Head


class HeadFit(NamedTuple):
    """Sums over all rows so far, each discounted by ``forgetting ** age``, in float64.

    With features z, wanted outputs y and discount g, for m new rows: ``A' = g^m A + sum z z^T``,
    ``B' = g^m B + sum z y^T``; the weights are ``W = (A' + d I)^-1 (B' + d W_0)``,
    ``d = 1 + ridge mean(diag A')``. Differentiable in z, y and W_0. Source: Haykin, Adaptive Filter Theory,
    2002, chapter 9.
    """

    gram: Tensor
    """A, (..., L, F + 1, F + 1)."""
    moment: Tensor
    """B, (..., L, F + 1, O)."""

    @staticmethod
    def fresh(prior: Tensor) -> HeadFit:
        """Sums over no row, for weights like `prior` (..., L, F + 1, O)."""
        return HeadFit(prior.new_zeros(*prior.shape[:-1], prior.shape[-2]), torch.zeros_like(prior))

    def add(self, values: Tensor, wanted: Tensor, weights: Tensor, forgetting: float) -> HeadFit:
        """Add new rows.

        Args:
            values: (..., M, L, F) features, oldest first.
            wanted: (..., M, L, O) wanted outputs; NaN where one is missing: it is taken to be what `weights`
                (..., L, F + 1, O) predict, which corrects nothing. A row without any is left out.
            weights: The present weights.
            forgetting: g.
        """
        z = with_one(values.transpose(-3, -2).to(self.gram))
        y = wanted.transpose(-3, -2).to(self.gram)
        unknown = y.isnan()
        y = torch.where(unknown, z @ weights.to(z), y)
        z = z * ~unknown.all(-1, keepdim=True)
        discount = forgetting ** z.shape[-2]
        return HeadFit(discount * self.gram + z.mT @ z, discount * self.moment + z.mT @ y)

    def solve(self, prior: Tensor, ridge: float, place: str) -> Tensor:
        """Weights (..., L, F + 1, O).

        Args:
            prior: W_0, (..., L, F + 1, O).
            ridge: Pull towards `prior`, as a share of the features' mean square.
            place: The newest rows, for messages.

        Raises:
            DREAMError: there is no solution, because the features are not finite.
        """
        pull = 1 + ridge * self.gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        identity = torch.eye(self.gram.shape[-1], dtype=self.gram.dtype, device=self.gram.device)
        try:
            factor = torch.linalg.cholesky(self.gram + pull * identity)
        except torch.linalg.LinAlgError as error:
            raise DREAMError(
                f"not finite: the features of {place}, to which the head cannot be fitted. {DIVERGED}"
            ) from error
        return torch.cholesky_solve(self.moment + pull * prior, factor)


def with_one(values: Tensor) -> Tensor:
    """Features (..., F) with a 1 for the bias, (..., F + 1)."""
    return torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1)


def followed(
    head: Head, values: Tensor, wanted: Tensor, lag: int, every: int, forgetting: float, ridge: float
) -> Tensor:
    """Outputs (N, T, L, O) of a head that starts each crop at its own weights and follows its rows.

    Before every row t that is a multiple of `every`, the weights are solved again from the rows up to
    t - lag, as `lightning_modules.stream.StreamLearner` does. Gradients reach the features of all rows, those
    that are fitted and those that are predicted from, and the head's weights, which are the prior.

    Args:
        head: The head; not changed.
        values: (N, T, L, F) features.
        wanted: (N, T, L, O) wanted outputs, NaN where one is missing.
        lag: Rows after which a row may be learnt from, at least 1.
        every: Rows between two updates.
        forgetting: Discount per row of age.
        ridge: Pull towards the head's weights, as a share of the features' mean square.
    """
    steps = values.shape[1]
    prior = weights = head.columns().double().expand(len(values), -1, -1, -1)
    fit, learnt, outputs = HeadFit.fresh(prior), 0, []
    for row in range(0, steps, every):
        known = row - lag + 1
        if known > learnt:
            fit = fit.add(values[:, learnt:known], wanted[:, learnt:known], weights, forgetting)
            weights = fit.solve(prior, ridge, "a crop")
            learnt = known
        z = with_one(values[:, row : row + every]).transpose(1, 2)
        outputs.append((z @ weights.to(z)).transpose(1, 2))
    return torch.cat(outputs, 1)
