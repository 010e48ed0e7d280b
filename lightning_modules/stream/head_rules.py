"""Rules that move the head alone, in NumPy: least squares, and gradient steps over a replay window.

The head is one linear map for each lane, so that its gradient is a product of two matrices.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dream.errors import DREAMError
from dream.ops import native
from lightning_modules.checks import DIVERGED
from lightning_modules.stream.checks import require_gram
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.rules import HeadArrays, Rule, Updates, Weights, moments_like

BETAS = (0.9, 0.999)  # of Adam, as torch has them
EPS = 1e-8


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """1 for the class of each row and 0 elsewhere, (M, `count`), for class numbers (M,)."""
    found = np.zeros((len(classes), count))
    found[np.arange(len(classes)), classes] = 1
    return found


class LeastSquares(Rule):
    """Least squares for the head over all rows so far, each discounted by ``forgetting ** age``.

    The sums and their solution are those of `lightning_modules.stream.following.HeadFit`, for each lane, in
    float64; the prior W_0 are the weights at the start of the stream.

    This is recursive least squares with exponential forgetting whose prior does not fade: directions that the
    stream no longer excites return to W_0 and cannot blow up. A row without any target is left out, and a
    single missing one is taken to be what the head predicts, which corrects nothing. For classification y is
    1 for the class and 0 elsewhere, so that the head estimates the share of each class.

    Each update solves anew. The pull d moves with every row, in all directions at once, so that an update of
    a factor would be of full rank; and there is no factor that could drift: errors of rounding in the sums
    fade as the rows do."""

    def __init__(self, network: StreamNetwork, updates: Updates) -> None:
        self.network = network
        self.forgetting = updates.forgetting
        self.ridge = updates.ridge
        self.prior = np.ascontiguousarray(HeadArrays(network.head).columns())
        lanes, width, _ = self.prior.shape
        self.gram = np.zeros((lanes, width, width))
        """A of each lane; with the compiled kernel what lies before its diagonal means nothing."""
        self.moment = np.zeros(self.prior.shape)

    def weights(self) -> Weights:
        return Weights([self.network.head.weight, self.network.head.bias])

    def update(self, memory: Memory, known: int, new: int, head: HeadArrays) -> None:
        """See `Rule.update`.

        Raises:
            DREAMError: there is no solution, because the features are not finite.
        """
        z, y = self.pairs(memory, known - new, known)
        unknown = np.isnan(y)
        if unknown.any():
            y = np.where(unknown, z @ head.columns(), y)
            z = z * ~unknown.all(-1, keepdims=True)
        kernel = native.kernel()
        if new == 1 and isinstance(kernel, native.Kernel):
            gram, moment = self.gram.copy(), self.moment.copy()
            sums = [gram], [moment], [self.prior]
            (columns,), (is_solved,) = kernel.follow(
                z[None, :, 0], y[None, :, 0], *sums, self.forgetting, self.ridge
            )
            self._take(columns if is_solved else None, known - 1, known, head)
            self.gram, self.moment = gram, moment
        else:
            self._add(z, z, y, self.forgetting**new)
            self.solve(known - new, known, head)

    def catch_up(self, memory: Memory, start: int, stops: Sequence[int], head: HeadArrays) -> None:
        """See `Rule.catch_up`: one sum over all rows, unless targets of a row are known in part.

        Those are filled with what the weights of that time predict.
        """
        if not stops:
            return
        z, y = self.pairs(memory, start, stops[-1])
        unknown = np.isnan(y)
        nothing = unknown.all(-1)
        if (unknown.any(-1) & ~nothing).any():
            super().catch_up(memory, start, stops, head)
            return
        rows, ends = np.arange(start, stops[-1]), np.array(stops)
        later = ends[-1] - ends[np.searchsorted(ends, rows, side="right")]  # rows of later updates
        weight = np.where(nothing, 0.0, self.forgetting**later)[..., None]
        self._add(weight * z, z, np.where(unknown, 0.0, y), self.forgetting ** len(rows))
        self.solve(start, stops[-1], head)

    def pairs(self, memory: Memory, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Features with a 1 for the bias (L, M, F + 1), and wanted outputs (L, M, O), of rows."""
        values, wanted = memory.pairs(start, stop)
        z = np.ones((values.shape[1], values.shape[0], values.shape[2] + 1))
        z[..., :-1] = values.swapaxes(0, 1)
        if self.network.shape.task == "classification":
            return z, one_hot(wanted, self.network.shape.targets)[None]
        return z, wanted.swapaxes(0, 1).astype(np.float64)

    def _add(self, weighted: np.ndarray, z: np.ndarray, y: np.ndarray, discount: float) -> None:
        """Add rows z (L, M, F + 1), in the sums as often as `weighted` says, and y (L, M, O)."""
        transposed = weighted.swapaxes(-1, -2)
        product = np.multiply if z.shape[-2] == 1 else np.matmul  # the same, in half the time, for one row
        self.gram = discount * self.gram + product(transposed, z)
        self.moment = discount * self.moment + product(transposed, y)

    def solve(self, start: int, stop: int, head: HeadArrays) -> None:
        """Solve the head for the sums, of which rows from `start` to before `stop` are the newest.

        Raises:
            DREAMError: there is no solution.
        """
        self._take(solved(self.gram, self.moment, self.prior, self.ridge), start, stop, head)

    def _take(self, columns: np.ndarray | None, start: int, stop: int, head: HeadArrays) -> None:
        """Take weights (L, F + 1, O) that rows have led to.

        Raises:
            DREAMError: there are none.
        """
        if columns is None:
            raise DREAMError(
                f"not finite: the features of rows {start} to {stop - 1} of the stream, to which the head "
                f"cannot be fitted. {DIVERGED}"
            )
        weights = columns.swapaxes(1, 2)
        head.weight[...] = weights[..., :-1]
        head.bias[...] = weights[..., -1]

    def tensors(self) -> dict[str, Tensor]:
        whole = np.triu(self.gram) + np.triu(self.gram, 1).swapaxes(-1, -2)
        arrays = {"prior": self.prior, "gram": whole, "moment": self.moment}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        require_gram("rule.gram", tensors["gram"])
        self.prior, self.gram, self.moment = (
            np.ascontiguousarray(tensors[name].cpu().numpy()) for name in ("prior", "gram", "moment")
        )


def solved(gram: np.ndarray, moment: np.ndarray, prior: np.ndarray, ridge: float) -> np.ndarray | None:
    """Weights (..., F + 1, O) of the sums, see `HeadFit.solve`; None where there is no finite solution."""
    kernel = native.kernel()
    solve = _solved if isinstance(kernel, str) else kernel.solve
    found = solve(gram, moment, prior, ridge)
    return found if found is not None and np.isfinite(found).all() else None


def _solved(gram: np.ndarray, moment: np.ndarray, prior: np.ndarray, ridge: float) -> np.ndarray | None:
    """`solved` without the compiled kernel; None where the matrix is not positive definite."""
    width = gram.shape[-1]
    matrix = gram.copy()
    diagonal = matrix.reshape(*gram.shape[:-2], -1)[..., :: width + 1]  # a view
    pull = 1 + ridge * diagonal.mean(-1, keepdims=True)
    diagonal += pull
    try:
        factor = torch.from_numpy(np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        return None
    right = torch.from_numpy(moment + pull[..., None] * prior)
    columns: np.ndarray = torch.cholesky_solve(right, factor).numpy()
    return columns


class HeadSteps(Rule):
    """Gradient steps on the head, over the features as they were when their rows were read.

    The loss is that of `lightning_modules.stream.rules.head_loss`, the steps are those of torch's SGD and
    Adam (Kingma and Ba, Adam, 2015), whose names the moments have.
    """

    def __init__(self, network: StreamNetwork, updates: Updates) -> None:
        self.network = network
        self.steps = updates.steps
        self.replay = updates.replay
        self.lr = updates.lr
        self.adam = updates.rule == "adam"
        self.moments: dict[str, np.ndarray] = {}
        """Adam's, of the weight as ``0.`` and of the bias as ``1.``; none before the first step."""

    def weights(self) -> Weights:
        return Weights([self.network.head.weight, self.network.head.bias])

    def oldest(self, known: int) -> int:
        return known - self.replay

    def update(self, memory: Memory, known: int, new: int, head: HeadArrays) -> None:
        self.catch_up(memory, known - new, [known], head)

    def catch_up(self, memory: Memory, start: int, stops: Sequence[int], head: HeadArrays) -> None:
        """See `Rule.catch_up`: features and targets are looked up once."""
        if not stops:
            return
        first = max(stops[0] - self.replay, memory.first)
        values, wanted = memory.pairs(first, stops[-1])
        ends = np.array(stops)
        windows = np.stack([np.maximum(ends - self.replay, memory.first), ends]) - first
        kernel, labels = native.kernel(), self.network.shape.task == "classification"
        if labels and not self.adam and isinstance(kernel, native.Kernel) and values.itemsize >= 4:
            kernel.descend(values[:, 0], wanted, windows, self.steps, self.lr, head.weight[0], head.bias[0])
            return
        for begin, end in windows.T.tolist():
            self._descend(values[begin:end], wanted[begin:end], head)

    def _descend(self, values: np.ndarray, wanted: np.ndarray, head: HeadArrays) -> None:
        for _ in range(self.steps):
            slope = self._slope(head(values), wanted)
            gradients = slope.transpose(1, 2, 0) @ values.swapaxes(0, 1), slope.sum(0)
            for number, (weight, gradient) in enumerate(
                zip((head.weight, head.bias), gradients, strict=True)
            ):
                weight -= self.lr * (self._scaled(number, gradient) if self.adam else gradient)

    def _slope(self, outputs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Derivative of the mean loss by `outputs` (M, L, O)."""
        if self.network.shape.task == "classification":
            shares = np.exp(outputs - np.maximum.reduce(outputs, -1, keepdims=True))
            shares /= np.add.reduce(shares, -1, keepdims=True)
            shares[np.arange(len(wanted)), 0, wanted] -= 1
            return shares / np.float32(len(wanted))
        known = ~np.isnan(wanted)
        return np.where(known, outputs - wanted, 0) * outputs.dtype.type(2 / max(known.sum(), 1))

    def _scaled(self, number: int, gradient: np.ndarray) -> np.ndarray:
        """Adam's direction for weight `number`; moves its moments on."""
        nothing = np.zeros_like(gradient)
        before = [self.moments.get(f"{number}.{name}", nothing) for name in ("exp_avg", "exp_avg_sq")]
        step = int(self.moments.get(f"{number}.step", 0)) + 1
        mean = before[0] + (1 - BETAS[0]) * (gradient - before[0])
        square = BETAS[1] * before[1] + (1 - BETAS[1]) * gradient * gradient
        moved = {"step": np.array(step, np.float32), "exp_avg": mean, "exp_avg_sq": square}
        self.moments = self.moments | {f"{number}.{name}": value for name, value in moved.items()}
        usual = np.sqrt(square) / math.sqrt(1 - BETAS[1] ** step) + EPS
        return mean / usual / (1 - BETAS[0] ** step)

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value) for name, value in self.moments.items()}

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.adam or not tensors:
            return {}
        weights = (self.network.head.weight, self.network.head.bias)
        return {
            f"{number}.{name}": value
            for number, weight in enumerate(weights)
            for name, value in moments_like(weight).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.moments = {name: value.cpu().numpy() for name, value in tensors.items()}
