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


def test_one_row_is_added_to_the_sums(kernel: native.Kernel) -> None:
    gram, moment, _ = sums(3, 33, 5)
    z, y = np.random.default_rng(0).standard_normal((3, 1, 33)), moment[:, :1]
    before = gram.copy()
    found = kernel.add(gram, moment, z, y, 0.9)
    np.testing.assert_array_equal(gram, before)
    np.testing.assert_allclose(found[0], 0.9 * gram + z.swapaxes(1, 2) @ z, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[1], 0.9 * moment + z.swapaxes(1, 2) @ y, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found[0], found[0].swapaxes(1, 2))


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
