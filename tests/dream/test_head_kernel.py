"""What moves a head in the compiled kernel, against NumPy."""

import numpy as np
import pytest

from dream.ops import native


@pytest.fixture(scope="module")
def kernel() -> native.Kernel:
    found = native.kernel()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def sums(lanes: int, n: int, o: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(n)
    z = draw.standard_normal((lanes, 2 * n, n))
    return z.swapaxes(1, 2) @ z, draw.standard_normal((lanes, n, o)), draw.standard_normal((lanes, n, o))


@pytest.mark.parametrize(("n", "o"), [(1, 1), (2, 3), (4, 4), (5, 1), (8, 8), (33, 9), (107, 20)])
def test_solutions_are_those_of_lapack(kernel: native.Kernel, n: int, o: int) -> None:
    gram, moment, prior = sums(3, n, o)
    pull = 1 + 0.1 * np.trace(gram, axis1=1, axis2=2)[:, None, None] / n
    wanted = np.linalg.solve(gram + pull * np.eye(n), moment + pull * prior)
    found = kernel.solve(gram, moment, prior, 0.1)
    assert found is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
    alone = kernel.solve(gram[1], moment[1], prior[1], 0.1)
    np.testing.assert_array_equal(alone, found[1])


@pytest.mark.parametrize("value", [-3.0, np.nan, np.inf])
def test_a_matrix_without_a_factor_has_no_solution(kernel: native.Kernel, value: float) -> None:
    gram, moment, prior = sums(2, 7, 2)
    gram[1] = np.diag(np.full(7, value))
    found = kernel.solve(gram, moment, prior, 0.0)
    assert found is None or not np.isfinite(found).all()


@pytest.mark.parametrize(("n", "o"), [(1, 1), (5, 3), (33, 9), (83, 2)])
def test_a_row_is_learnt_in_place_and_alone_as_among_others(kernel: native.Kernel, n: int, o: int) -> None:
    draw = np.random.default_rng(n)
    gram, moment, prior = (part.reshape(2, 3, n, -1) for part in sums(6, n, o))
    z, y = draw.standard_normal((2, 3, n)), draw.standard_normal((2, 3, o))
    sum_z = 0.9 * gram + z[..., None] * z[..., None, :]
    sum_y = 0.9 * moment + z[..., None] * y[..., None, :]
    wanted = kernel.solve(sum_z, sum_y, prior, 0.1)
    assert wanted is not None
    lower = np.tril(np.ones((n, n), bool), -1)
    before = np.where(lower, np.nan, gram)  # what lies there means nothing
    for some in ([0, 1], [1]):
        grams, moments = [before[k].copy() for k in some], [moment[k].copy() for k in some]
        found, solved = kernel.follow(z[some], y[some], grams, moments, [prior[k] for k in some], 0.9, 0.1)
        assert solved.all()
        np.testing.assert_allclose(found, wanted[some], rtol=1e-9, atol=1e-12)
        for k, own in zip(some, grams, strict=True):
            np.testing.assert_allclose(np.triu(own), np.triu(sum_z[k]), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments, sum_y[some], rtol=1e-12, atol=1e-12)
        if len(some) > 1:
            among = found[1], grams[1], moments[1]
    for part, other in zip(among, (found[0], grams[0], moments[0]), strict=True):
        np.testing.assert_array_equal(part, other)


def test_a_row_that_has_no_solution_changes_nothing(kernel: native.Kernel) -> None:
    gram, moment, prior = (part.reshape(2, 1, 9, -1) for part in sums(2, 9, 2))
    z, y = np.ones((2, 1, 9)), np.ones((2, 1, 2))
    z[0, 0, 3] = np.inf
    grams, moments = list(gram.copy()), list(moment.copy())
    _, solved = kernel.follow(z, y, grams, moments, list(prior), 0.9, 0.1)
    assert solved.tolist() == [False, True]
    np.testing.assert_array_equal(grams[0], gram[0])
    np.testing.assert_array_equal(moments[0], moment[0])


@pytest.mark.parametrize(
    ("n", "o", "lag", "discount", "ridge", "pull"),
    [
        (33, 4, 1, 0.999, 1e-3, 0),
        (9, 2, 3, 0.95, 0.1, 1),
        (12, 3, 30, 0.999, 1e-6, 1),
        (5, 1, 1, 0.5, 0.1, 1),
    ],
)
def test_rows_are_predicted_with_the_weights_of_their_time(
    kernel: native.Kernel, n: int, o: int, lag: int, discount: float, ridge: float, pull: float
) -> None:
    draw, rows = np.random.default_rng(n), 53
    z, y = draw.standard_normal((2, rows + lag, n)), draw.standard_normal((2, rows, o))
    z[:, 20] *= 1000  # a block ends before it
    learns = draw.random((2, rows)) < 0.8
    gram, moment, prior = np.zeros((2, n, n)), np.zeros((2, n, o)), pull * draw.standard_normal((2, n, o))
    wanted, sum_z, sum_y = [], gram, moment
    for row in range(rows):
        learnt = z[:, row, :, None] * learns[:, row, None, None]
        sum_z = discount * sum_z + learnt * learnt.swapaxes(1, 2)
        sum_y = discount * sum_y + learnt * y[:, row, None]
        weights = kernel.solve(sum_z, sum_y, prior, ridge)
        assert weights is not None
        wanted.append((z[:, row + lag, None] @ weights)[:, 0])
    held = gram.copy(), moment.copy()
    found = kernel.foretell(z, learns, y, *held, prior, lag, discount, ridge)
    np.testing.assert_allclose(found, np.stack(wanted, 1), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(np.triu(held[0]), np.triu(sum_z), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(held[1], sum_y, rtol=1e-11, atol=1e-11)
    z[:, 31 + lag :], y[:, 31:] = 1e3, -1e3  # no bit of a prediction depends on a later row
    other = kernel.foretell(z, learns, y, gram.copy(), moment.copy(), prior, lag, discount, ridge)
    assert found is not None
    assert other is not None
    np.testing.assert_array_equal(found[:, :31], other[:, :31])
    z[0, 3, 0] = np.nan
    assert kernel.foretell(z, learns, y, gram.copy(), moment.copy(), prior, lag, discount, ridge) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("replay", [1, 4])
def test_steps_are_against_the_gradient(kernel: native.Kernel, dtype: type, replay: int) -> None:
    draw = np.random.default_rng(1)
    values, classes = draw.standard_normal((20, 37)).astype(dtype), draw.integers(0, 3, 20)
    weight, bias = draw.standard_normal((3, 37)).astype(dtype), draw.standard_normal(3).astype(dtype)
    wanted = weight.astype(np.float64), bias.astype(np.float64)
    stops = np.arange(1, 21)
    windows = np.stack([np.maximum(stops - replay, 0), stops])
    for start, stop in windows.T:
        for _ in range(2):
            z = values[start:stop].astype(np.float64)
            shares = np.exp(z @ wanted[0].T + wanted[1])
            shares /= shares.sum(1, keepdims=True)
            slope = (shares - np.eye(3)[classes[start:stop]]) / len(z)
            wanted = wanted[0] - 0.05 * slope.T @ z, wanted[1] - 0.05 * slope.sum(0)
    kernel.descend(values, classes, windows, 2, 0.05, weight, bias)
    accuracy = 1e-5 if dtype is np.float32 else 1e-12
    np.testing.assert_allclose(weight, wanted[0], rtol=accuracy, atol=accuracy)
    np.testing.assert_allclose(bias, wanted[1], rtol=accuracy, atol=accuracy)
