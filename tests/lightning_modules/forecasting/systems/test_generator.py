"""Random Wiener-Hammerstein systems, their inputs, and the circuit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dream import DataError
from lightning_modules.forecasting.systems import WienerHammerstein, circuit, excitation
from lightning_modules.forecasting.systems.generator import filtered, linear_block, sequence


def test_a_filter_is_a_sum_over_its_response() -> None:
    random = np.random.default_rng(0)
    u, response = random.standard_normal(40), random.standard_normal(7)
    expected = [sum(response[k - 1] * u[t - k] for k in range(1, 8) if t >= k) for t in range(40)]
    np.testing.assert_allclose(filtered(u, response), expected, atol=1e-12)


def test_blocks_are_stable_and_of_the_order_that_their_poles_have() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        response = linear_block(random)
        assert np.abs(response[-10:]).max() < 1e-2 * np.abs(response).max()
        # a sum of at most one real and three complex pairs of poles obeys a recurrence of order 7
        rows = np.lib.stride_tricks.sliding_window_view(response[:60], 8)
        singular = np.linalg.svd(rows, compute_uv=False)
        assert singular[-1] < 1e-10 * singular[0]


def test_the_output_does_not_depend_on_the_newest_two_inputs_nor_on_later_ones() -> None:
    system = WienerHammerstein.draw(np.random.default_rng(2))
    u = excitation(np.random.default_rng(3), 300)
    changed = u.copy()
    changed[200:] *= -1  # the scale of x is that of the whole, so it must not move
    before, after = (filtered(system.static(filtered(v, system.first)), system.second) for v in (u, changed))
    np.testing.assert_allclose(before[:202], after[:202], atol=1e-9)
    assert np.abs(before[202:] - after[202:]).max() > 1e-3


def test_inputs_have_variance_1_and_a_cut_off() -> None:
    for seed in range(10):
        u = excitation(np.random.default_rng(seed), 4096)
        assert u.std() == pytest.approx(1)
        power = np.abs(np.fft.rfft(u)) ** 2
        share = np.linspace(0, 1, len(power))
        assert power[share > 0.62].sum() < 1e-12 * power.sum()
        assert power[share < 0.15].mean() > 1.5 * power.mean()


def test_sequences_are_scaled_and_the_same_bit_for_bit() -> None:
    u, y = sequence(np.random.default_rng(4), 500, 0.0)
    again = sequence(np.random.default_rng(4), 500, 0.0)
    assert np.array_equal(u, again[0])
    assert np.array_equal(y, again[1])
    assert (y.mean(), y.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    noisy = sequence(np.random.default_rng(4), 500, 0.3)[1]
    assert (noisy - y).std() == pytest.approx(0.3, rel=0.15)


@pytest.mark.data
def test_the_circuit_is_driven_throughout() -> None:
    u, y = circuit()
    assert len(u) == len(y) == 83_000
    for values in (u, y):
        parts = values.reshape(83, 1000)
        assert (parts.std(1) > 0.7).all()
        assert values.std() == pytest.approx(1, abs=0.03)


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="run `dream data get wiener_hammerstein`"):
        circuit()
    path = tmp_path / "wiener_hammerstein/WienerHammerBenchmark.csv"
    path.parent.mkdir()
    path.write_text('"uBenchMark","yBenchMark","fs",\n0.1,0.2,51200,\n')
    with pytest.raises(DataError, match=r"must hold 188,000 rows of numbers; it holds 1"):
        circuit()
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="WienerHammerBenchmark"):
        circuit()
