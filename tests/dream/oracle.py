"""The step of docs/dynamics.md in plain NumPy, float64, one sample at a time; and the cases made with it.

Slow on purpose: it is the definition that everything else is compared with, and shares no code with it.

    python -m tests.dream.oracle            # fails if golden/*.npz are not what this file computes
    python -m tests.dream.oracle --write    # writes them afresh

Shapes: N samples, T steps, I inputs, H units, R columns of V; G blocks of m units.

A case holds `x` (N, T, I), NaN where not observed; `timespans` (N, T) and `lengths` (N,) where it has them;
the knobs as `k_*`; the parameters as `p_*`, effective values, those without K, k and D having K = 1, k = 0
and D = 0. Expected are the output `y` (N, T, H), the trace, 0 at padded steps: `prediction` and `forecast`
(N, T, I), `surprise`, `deviation` and `u_norm` (N, T); and the final state as `s_*`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "golden"
EPS, HALF_PLASTICITY, OUTLIER, KEY_BLOCK = 1e-6, 0.1, 5.0, 16
KNOBS = dict(
    time_step=0.1,
    forgetting_rate=0.01,
    base_threshold=0.5,
    entropy_influence=0.2,
    surprise_temperature=0.1,
    error_smoothing=0.01,
    surprise_smoothing=0.01,
    target_norm=2.0,
    kappa=0.5,
    sleep_rate=0.005,
    min_surprise_for_sleep=0.2,
    ltc_enabled=True,
)
Arrays = dict[str, np.ndarray]


def sigmoid(z):
    return 1 / (1 + np.exp(-z)) if np.all(z >= 0) else np.exp(z) / (1 + np.exp(z))


def key(h, P):
    """The key of units h (H,), block by block; zeros stand for units beyond the last."""
    if "K" not in P:
        return h
    G, m, _ = P["K"].shape
    padded = np.concatenate([h, np.zeros(G * m - len(h))]).reshape(G, 1, m)
    return (padded @ P["K"]).reshape(-1)[: len(h)] + P["k"]


def predict_next(state, P):
    """The input that a state expects, (I,)."""
    return P["c"] + state["h"] @ P["C"] + key(state["h"], P) @ state["U"] @ P["V"].T


def step(x, state, P, k, span=1.0):
    """Output, trace and new state of a step, from x (I,), the state of one sample, parameters and knobs."""
    h, U, U_target, threshold, mean, var, avg = state.values()
    V, s, rho = P["V"], P["s"], min(P["V"].shape)
    seen = ~np.isnan(x)

    x_hat = predict_next(state, P)  # 1
    x = np.where(seen, x, x_hat)
    e = x - x_hat  # 2
    d = np.where(seen, e - mean, 0)
    r = np.sqrt(np.sum(d**2 / (var + EPS)) / max(seen.sum(), 1))  # 3
    entropy = np.mean(0.5 * np.log(2 * np.pi * np.e * (var + EPS) / (P["error_var_prior"] + EPS)))
    E = np.clip(entropy, 0, 2)  # 4
    S = sigmoid((r - threshold * (1 + k["entropy_influence"] * E)) / k["surprise_temperature"])  # 5
    S = S if seen.any() else 0.0

    m = (P["tonic"] + (1 - P["tonic"]) * S) * P["eta"]  # 6
    p = m / (m + HALF_PLASTICITY)
    f = k["forgetting_rate"] * span / (1 + k["forgetting_rate"] * span)
    q = key(h, P)
    U = U - f * (U - U_target) + np.outer(p * q, e @ V) / (rho * (1 + q @ q))
    norm = np.linalg.norm(U)
    U = U * (1 - k["kappa"] * max(0, 1 - k["target_norm"] / norm)) if norm else U  # 7

    v = x @ P["B"] + P["b"] + h @ P["A"]  # 8
    u = v + e @ P["W"]
    if "D" in P:
        u = u + np.sqrt(rho) * (key(np.tanh(v), P) @ U) @ P["D"]
    if k["ltc_enabled"]:  # 9
        a = np.log(k["time_step"] * span * (1 + s * S) / P["tau"]) + x @ P["G_x"] + h @ P["G_h"]
        h = h + (np.tanh(u) - h) / (1 + np.exp(-a))
    else:
        h = np.tanh(u)

    limit = OUTLIER * np.sqrt(var + EPS)  # 10
    d = np.clip(d, -limit, limit)
    beta, beta_s, tau_0 = k["error_smoothing"], k["surprise_smoothing"], k["base_threshold"]
    mean, var = mean + beta * d, np.where(seen, (1 - beta) * (var + beta * d**2), var)
    if seen.any():
        avg = avg + beta_s * (S - avg)
        threshold = max(tau_0, threshold + beta_s * ((1 + tau_0) * min(r, 2) - threshold))
    if avg > k["min_surprise_for_sleep"]:  # 11
        U_target = U_target + k["sleep_rate"] * avg * (U - U_target)

    new = dict(zip(state, (h, U, U_target, threshold, mean, var, avg), strict=True))
    forecast, u_norm = predict_next(new, P), np.linalg.norm(U)
    return h, dict(prediction=x_hat, forecast=forecast, surprise=S, deviation=r, u_norm=u_norm), new


def fresh_state(P: Arrays, k: Mapping[str, Any]) -> dict[str, Any]:
    """State of a sample that has seen nothing."""
    fast = np.zeros((len(P["tau"]), P["V"].shape[1]))
    return dict(
        h=fast[:, 0],
        U=fast,
        U_target=fast,
        adaptive_tau=k["base_threshold"],
        error_mean=np.zeros(len(P["V"])),
        error_var=P["error_var_prior"],
        avg_surprise=0.0,
    )


def run(
    x: np.ndarray,
    P: Arrays,
    k: Mapping[str, Any],
    spans: np.ndarray | None = None,
    lengths: Sequence[int] | None = None,
) -> tuple[np.ndarray, Arrays, Arrays]:
    """Outputs (N, T, H), trace and final state of sequences (N, T, I)."""
    N, T, _ = x.shape
    y = np.zeros((N, T, len(P["tau"])))
    trace = {name: np.zeros_like(x) for name in ("prediction", "forecast")}
    trace |= {name: np.zeros((N, T)) for name in ("surprise", "deviation", "u_norm")}
    finals = []
    for n in range(N):
        state = fresh_state(P, k)
        for t in range(T if lengths is None else lengths[n]):
            y[n, t], seen, state = step(x[n, t], state, P, k, 1.0 if spans is None else spans[n, t])
            for name, value in seen.items():
                trace[name][n, t] = value
        finals.append(state)
    return y, trace, {name: np.stack([final[name] for final in finals]) for name in finals[0]}


def random_params(
    rng: np.random.Generator, inputs: int, units: int, rank: int, time_step: float, eta: float
) -> Arrays:
    """Effective parameters in which every term is at work but keys and recall."""

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(size=(rows, columns)) / np.sqrt(rows)

    q, _ = np.linalg.qr(rng.normal(size=(max(inputs, rank), min(inputs, rank))))
    return dict(  # the order is that of the draws
        C=matrix(units, inputs),
        c=0.1 * rng.normal(size=inputs),
        W=matrix(inputs, units),
        B=matrix(inputs, units),
        b=0.1 * rng.normal(size=units),
        A=matrix(units, units),
        G_x=0.5 * matrix(inputs, units),
        G_h=0.5 * matrix(units, units),
        eta=eta * np.exp(0.3 * rng.normal(size=units)),
        tonic=rng.uniform(0.02, 0.6, size=units),
        tau=np.geomspace(time_step / 20, 10.0, units),
        s=np.float64(10.0),
        V=np.sqrt(min(inputs, rank)) * (q if rank <= inputs else q.T),
        error_var_prior=np.exp(rng.normal(size=inputs)),
    )


def random_keys(rng: np.random.Generator, units: int, rank: int) -> Arrays:
    """Keys and recall far from their start."""
    m = min(KEY_BLOCK, units)
    noise = rng.normal(size=(-(-units // m), m, m)) / np.sqrt(m)
    return dict(
        K=np.eye(m) + 0.5 * noise,
        k=0.2 * rng.normal(size=units),
        D=0.5 * rng.normal(size=(rank, units)) / np.sqrt(rank),
    )


def make_case(
    seed: int,
    sizes: tuple[int, int, int, int, int],
    knobs: Mapping[str, Any] | None = None,
    jump: float = 0.0,
    timespans: bool = False,
    lengths: Sequence[int] | None = None,
    keys: bool = False,
    missing: float = 0.0,
    eta: float = 0.1,
) -> Arrays:
    """A case as in a file: random walks whose level jumps in the middle.

    Args:
        seed: of all that is random.
        sizes: N, T, I, H, R.
        knobs: those that differ from `KNOBS`.
        jump: size of the jump.
        timespans: whether they vary.
        lengths: valid steps of each sample.
        keys: whether it has K, k and D.
        missing: share of values that are not observed; in three steps nothing is.
        eta: plasticity.
    """
    rng, (N, T, inputs, units, rank) = np.random.default_rng(seed), sizes
    k = KNOBS | dict(knobs or {})
    P = random_params(rng, inputs, units, rank, k["time_step"], eta)
    if keys:
        P |= random_keys(rng, units, rank)
    x = np.cumsum(rng.normal(size=(N, T, inputs)), axis=1) * 0.3
    if jump:
        x[:, T // 2 :] += jump * rng.normal(size=(N, 1, inputs))
    if missing:
        x[rng.uniform(size=x.shape) < missing] = np.nan
        x[:, T // 3 : T // 3 + 3] = np.nan
    spans = rng.uniform(0.25, 4.0, size=(N, T)) if timespans else None
    y, trace, final = run(x, P, k, spans, lengths)
    case = {"x": x, "y": y, **trace}
    for letter, part in (("k", k), ("p", P), ("s", final)):
        case |= {f"{letter}_{name}": np.asarray(value) for name, value in part.items()}
    case |= {} if spans is None else {"timespans": spans}
    return case | ({} if lengths is None else {"lengths": np.asarray(lengths)})


PADDED = [63, 1, 40, 17]
SLEEPY = dict(sleep_rate=0.05, min_surprise_for_sleep=0.05, surprise_smoothing=0.2)
ALERT = dict(base_threshold=0.3, surprise_smoothing=0.1, error_smoothing=0.05)
CEILING = dict(target_norm=0.5, kappa=0.7, surprise_smoothing=0.2)
LOW = dict(base_threshold=0.3, target_norm=0.8, kappa=0.8)
INSTANT = dict(ltc_enabled=False)
LEARNED = dict(keys=True, eta=0.5, jump=4.0)
CASES: dict[str, dict[str, Any]] = {
    "defaults": dict(seed=1, sizes=(3, 40, 5, 12, 4)),
    "surprised": dict(seed=2, sizes=(4, 120, 6, 16, 4), jump=6.0, eta=0.3, knobs=ALERT),
    "homeostasis": dict(seed=3, sizes=(2, 150, 4, 10, 4), jump=10.0, eta=1.0, knobs=CEILING),
    "sleep": dict(seed=4, sizes=(3, 200, 3, 8, 2), jump=8.0, eta=0.5, knobs=SLEEPY),
    "rank_above_input": dict(seed=5, sizes=(2, 30, 3, 9, 7), jump=3.0, eta=0.3),
    "univariate": dict(seed=6, sizes=(2, 64, 1, 7, 1), jump=4.0, eta=0.2),
    "no_liquid_time": dict(seed=7, sizes=(2, 25, 4, 6, 2), knobs=INSTANT),
    "timespans": dict(seed=8, sizes=(2, 50, 4, 11, 3), timespans=True, jump=5.0, eta=0.2),
    "padded": dict(seed=9, sizes=(4, 63, 5, 12, 4), jump=4.0, lengths=PADDED),
    "one_row_one_step": dict(seed=10, sizes=(1, 1, 2, 3, 1)),
    "keys_and_recall": dict(seed=11, sizes=(3, 80, 6, 32, 3), **LEARNED),
    "tail_block": dict(seed=12, sizes=(2, 60, 5, 37, 4), **LEARNED | dict(eta=0.8), knobs=LOW),
    "small_block": dict(seed=13, sizes=(2, 41, 3, 7, 2), **LEARNED | dict(jump=3.0), timespans=True),
    "keys_padded_sleep": dict(
        seed=14, sizes=(4, 63, 4, 18, 2), **LEARNED | dict(jump=5.0), lengths=PADDED, knobs=SLEEPY
    ),
    "recall_without_liquid_time": dict(seed=15, sizes=(2, 30, 4, 16, 2), keys=True, eta=1.0, knobs=INSTANT),
    "missing": dict(seed=16, sizes=(3, 70, 5, 20, 3), **LEARNED, missing=0.3),
    "missing_univariate": dict(seed=17, sizes=(2, 50, 1, 9, 1), **LEARNED, missing=0.5, timespans=True),
}


def differing() -> list[str]:
    """Cases whose file is not what this file computes, but for the rounding of another machine."""
    names = []
    for name, settings in CASES.items():
        made = make_case(**settings)
        with np.load(FOLDER / f"{name}.npz") as stored:
            same = set(stored.files) == made.keys() and all(
                np.allclose(stored[part], value, rtol=1e-9, atol=1e-9, equal_nan=True)
                for part, value in made.items()
            )
        names += [] if same else [name]
    return names


def main(words: Sequence[str]) -> str | int:
    """Write the files or compare them; 0, or the names of those that differ."""
    if "--write" in words:
        for name, settings in CASES.items():
            np.savez_compressed(FOLDER / f"{name}.npz", **make_case(**settings))
    return "\n".join(differing()) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
