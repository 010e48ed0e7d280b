"""Wiener-Hammerstein systems drawn at random, and inputs that drive them; NumPy only.

Shapes: T steps, K steps of an impulse response, M hidden units of the nonlinearity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

MEMORY = 256
"""K: after as many steps the slowest pole has decayed to 4e-4."""
SLOWEST, FASTEST = 0.97, 0.5
"""Modulus of the poles, at most and at least."""
LOWPASS, BROAD = 0.1 * np.pi, 0.5 * np.pi
"""Range of the bound of their phases: a block that follows slow inputs only, or one for half of all."""
PAIRS = 3
"""Pairs of poles of a linear block, at most."""
HIDDEN = 32
STRENGTH = (0.2, 2.0)
"""Range of the deviation of the slopes of a nonlinearity: nearly linear, or with several turns."""
LOWEST, HIGHEST = 0.15, 0.5
"""Range of the cut-off of an input, as a share of the highest frequency that the steps can hold."""


@dataclass(frozen=True, eq=False)
class WienerHammerstein:
    """A linear block, a static nonlinearity and a linear block in a row.

        x = h_1 * u,  w_t = sum_j v_j tanh(a_j x_t / dev(x) + b_j),  y = h_2 * w

    The blocks are stable, and strictly proper: y_t depends on u_(t-2) and earlier. x is scaled to variance 1
    before the nonlinearity. Source of the class and of the idea to learn it from random members: Forgione,
    Pura and Piga, From system models to class models: an in-context learning paradigm, 2023.
    """

    first: np.ndarray
    """h_1 (K,), response of the first block 1, 2, ... steps after an impulse"""
    second: np.ndarray
    """h_2 (K,)"""
    slopes: np.ndarray
    """a (M,)"""
    offsets: np.ndarray
    """b (M,)"""
    weights: np.ndarray
    """v (M,)"""

    @classmethod
    def draw(cls, random: np.random.Generator) -> Self:
        """A random system."""
        return cls(
            linear_block(random),
            linear_block(random),
            np.exp(random.uniform(*np.log(STRENGTH))) * random.standard_normal(HIDDEN),
            random.standard_normal(HIDDEN),
            random.standard_normal(HIDDEN),
        )

    def static(self, x: np.ndarray) -> np.ndarray:
        """Output (T,) of the nonlinearity for `x` (T,)."""
        shaped: np.ndarray = np.tanh(x[:, None] * self.slopes + self.offsets) @ self.weights
        return shaped

    def respond(self, u: np.ndarray) -> np.ndarray:
        """Output (T,) for the input `u` (T,), from rest, in the system's own scale."""
        x = filtered(u, self.first)
        return filtered(self.static(x / x[len(x) // 4 :].std()), self.second)


def linear_block(random: np.random.Generator) -> np.ndarray:
    """Impulse response (K,) of a random stable block with a real pole and 1 to `PAIRS` pairs of poles.

    ``h_k = Re sum_m c_m p_m^(k-1)``, with the moduli of the poles p uniform, their phases uniform up to a
    bound that is random itself, `LOWPASS` to `BROAD`, and c normal.
    """
    pairs = int(random.integers(1, PAIRS, endpoint=True))
    modulus = random.uniform(FASTEST, SLOWEST, pairs + 1)
    phase = random.uniform(0, random.uniform(LOWPASS, BROAD), pairs + 1)
    phase[0] = 0.0  # the real pole
    residues = random.standard_normal(pairs + 1) + 1j * random.standard_normal(pairs + 1)
    poles = modulus * np.exp(1j * phase)
    response: np.ndarray = (residues * poles ** np.arange(MEMORY)[:, None]).real.sum(1)
    return response


def filtered(u: np.ndarray, response: np.ndarray) -> np.ndarray:
    """``y_t = sum_k h_k u_(t-k)``, k = 1, 2, ...: `u` (T,) through a block with this `response` (K,)."""
    size = len(u) + len(response)
    spectrum = np.fft.rfft(u, size) * np.fft.rfft(response, size)
    return np.concatenate([[0.0], np.fft.irfft(spectrum, size)[: len(u) - 1]])


def excitation(random: np.random.Generator, steps: int) -> np.ndarray:
    """Normal noise (T,) of variance 1 below a random cut-off, falling off over the next fifth of it.

    The circuit of `circuit` is driven by such an input, with a cut-off of some 0.3.
    """
    cut = random.uniform(LOWEST, HIGHEST)
    share = np.linspace(0, 1, steps // 2 + 1)
    gain = 0.5 * (1 + np.cos(np.pi * ((share - cut) / (0.2 * cut)).clip(0, 1)))
    noise = np.fft.irfft(gain * np.fft.rfft(random.standard_normal(steps)), steps)
    result: np.ndarray = noise / noise.std()
    return result


def sequence(random: np.random.Generator, steps: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Input and output (T,) of a random system, both of mean 0 and variance 1, after it has left its rest.

    Args:
        random: Generator of system, input and noise.
        steps: T
        noise: Deviation of the white noise that is added to the output.
    """
    u = excitation(random, MEMORY + steps)
    y = WienerHammerstein.draw(random).respond(u)[MEMORY:]
    y = (y - y.mean()) / y.std() + noise * random.standard_normal(steps)
    return u[MEMORY:], y
