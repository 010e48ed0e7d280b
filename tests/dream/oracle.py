"""The DREAM step of docs/dynamics.md in plain NumPy, float64, one sequence at a time.

Slow on purpose: it is the definition that everything else is compared with.

    python dream_oracle.py            # checks golden/*.npz against this file
    python dream_oracle.py --write    # writes them afresh

A case holds `x` (B, T, I; NaN means not observed: call with missing=True), optional `timespans` (B, T), optional `lengths` (B,), the knobs, the parameters as `p_*` (effective values: eta,
tonic, tau and s as used in the equations, V with its columns of length sqrt(rho); cases without K, k and D
have K = 1, k = 0, D = 0), the expected output `y` (B, T, H), the `surprise` of every step (B, T), and the
final state as `s_*`; `prediction`, `forecast` (B, T, I), `deviation` and `u_norm` (B, T) complete the
trace.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

EPS = 1e-6
HALF_PLASTICITY = 0.1
OUTLIER = 5.0
KEY_BLOCK = 16
KNOBS = dict(
    time_step=0.1, forgetting_rate=0.01, base_threshold=0.5, entropy_influence=0.2, surprise_temperature=0.1,
    error_smoothing=0.01, surprise_smoothing=0.01, target_norm=2.0, kappa=0.5, sleep_rate=0.005,
    min_surprise_for_sleep=0.2, ltc_enabled=True,
)


def fresh_state(p, k) -> dict[str, np.ndarray]:
    input_dim, rank = p["V"].shape
    hidden_dim = len(p["tau"])
    return dict(
        h=np.zeros(hidden_dim), U=np.zeros((hidden_dim, rank)), U_target=np.zeros((hidden_dim, rank)),
        adaptive_tau=np.float64(k["base_threshold"]), error_mean=np.zeros(input_dim),
        error_var=np.array(p["error_var_prior"], dtype=float), avg_surprise=np.float64(0.0),
    )


def key(h, p):
    """h K + k, block by block; units beyond the last one are zeros."""
    if "K" not in p:
        return h
    blocks, size, _ = p["K"].shape
    padded = np.concatenate([h, np.zeros(blocks * size - len(h))]).reshape(blocks, size)
    return np.einsum("gi,gij->gj", padded, p["K"]).reshape(-1)[: len(h)] + p["k"]


def predict_next(state, p):
    return p["c"] + state["h"] @ p["C"] + (key(state["h"], p) @ state["U"]) @ p["V"].T


def step(x, state, p, k, timespan=1.0):
    """One step for one row: x (I,), state of one row -> (output (H,), trace of the step, new state)."""
    h, U, Ut = state["h"], state["U"], state["U_target"]
    rho = min(p["V"].shape)
    x_hat = predict_next(state, p)
    seen = ~np.isnan(x)
    x = np.where(seen, x, x_hat)
    e = x - x_hat
    d = np.where(seen, e - state["error_mean"], 0.0)
    r = np.sqrt(np.sum(d**2 / (state["error_var"] + EPS)) / max(seen.sum(), 1))
    relative_var = (state["error_var"] + EPS) / (p["error_var_prior"] + EPS)
    entropy = np.clip(np.mean(0.5 * np.log(2 * np.pi * np.e * relative_var)), 0.0, 2.0)
    z = (r - state["adaptive_tau"] * (1.0 + k["entropy_influence"] * entropy)) / k["surprise_temperature"]
    S = 1.0 / (1.0 + np.exp(-z)) if z >= 0 else np.exp(z) / (1.0 + np.exp(z))
    if not seen.any():
        S = 0.0

    modulated = (p["tonic"] + (1.0 - p["tonic"]) * S) * p["eta"]
    plasticity = modulated / (modulated + HALF_PLASTICITY)
    forget = k["forgetting_rate"] * timespan / (1.0 + k["forgetting_rate"] * timespan)
    q = key(h, p)
    U_new = U - forget * (U - Ut) + np.outer(plasticity * q, e @ p["V"]) / (rho * (1.0 + q @ q))
    norm = np.sqrt(np.sum(U_new**2))
    if norm > k["target_norm"]:
        U_new = U_new * (1.0 - k["kappa"] * (1.0 - k["target_norm"] / norm))

    u = x @ p["B"] + p["b"] + h @ p["A"]
    if "D" in p:
        u = u + np.sqrt(rho) * (key(np.tanh(u), p) @ U_new) @ p["D"]
    u = u + e @ p["W"]
    if k["ltc_enabled"]:
        logit = np.log(k["time_step"] * timespan * (1.0 + p["s"] * S) / p["tau"]) + x @ p["G_x"] + h @ p["G_h"]
        h_new = h + (np.tanh(u) - h) / (1.0 + np.exp(-logit))
    else:
        h_new = np.tanh(u)

    limit = OUTLIER * np.sqrt(state["error_var"] + EPS)
    d = np.clip(d, -limit, limit)
    beta, beta_s, tau_0 = k["error_smoothing"], k["surprise_smoothing"], k["base_threshold"]
    avg = state["avg_surprise"] + beta_s * (S - state["avg_surprise"])
    habituated = state["adaptive_tau"] + beta_s * ((1.0 + tau_0) * min(r, 2.0) - state["adaptive_tau"])
    if not seen.any():
        avg, habituated = state["avg_surprise"], state["adaptive_tau"]
    new = dict(
        h=h_new, U=U_new,
        U_target=Ut + k["sleep_rate"] * avg * (U_new - Ut) if avg > k["min_surprise_for_sleep"] else Ut,
        adaptive_tau=max(tau_0, habituated),
        error_mean=np.where(seen, state["error_mean"] + beta * d, state["error_mean"]),
        error_var=np.where(seen, (1.0 - beta) * (state["error_var"] + beta * d**2), state["error_var"]),
        avg_surprise=avg,
    )
    trace = dict(prediction=x_hat, forecast=predict_next(new, p), surprise=S, deviation=r, u_norm=np.sqrt(np.sum(U_new**2)))
    return h_new, trace, new


def run(x, p, k, timespans=None, lengths=None):
    """x (B, T, I) -> outputs (B, T, H), trace (padded steps are 0), final state; each with a leading batch axis."""
    B, T, I = x.shape
    y = np.zeros((B, T, len(p["tau"])))
    trace = {name: np.zeros((B, T, I)) for name in ("prediction", "forecast")}
    trace |= {name: np.zeros((B, T)) for name in ("surprise", "deviation", "u_norm")}
    finals = []
    for b in range(B):
        state = fresh_state(p, k)
        for t in range(T if lengths is None else int(lengths[b])):
            span = 1.0 if timespans is None else timespans[b, t]
            y[b, t], seen, state = step(x[b, t], state, p, k, span)
            for name, value in seen.items():
                trace[name][b, t] = value
        finals.append(state)
    return y, trace, {name: np.stack([f[name] for f in finals]) for name in finals[0]}


def random_params(rng, I, H, R, eta=0.1, tau_sys=10.0, s=10.0, time_step=0.1):
    q, _ = np.linalg.qr(rng.normal(size=(max(I, R), min(I, R))))
    g = lambda a, b: rng.normal(size=(a, b)) / np.sqrt(a)  # noqa: E731
    return dict(
        C=g(H, I), c=0.1 * rng.normal(size=I), W=g(I, H), B=g(I, H), b=0.1 * rng.normal(size=H), A=g(H, H), G_x=0.5 * g(I, H), G_h=0.5 * g(H, H),
        eta=eta * np.exp(0.3 * rng.normal(size=H)), tonic=rng.uniform(0.02, 0.6, size=H), tau=np.geomspace(time_step / 20, tau_sys, H), s=np.float64(s),
        V=np.sqrt(min(I, R)) * (q if R <= I else q.T), error_var_prior=np.exp(rng.normal(size=I)),
    )


def second_edition(rng, H, R):
    """Learned keys and recall, far from their start."""
    size = min(KEY_BLOCK, H)
    blocks = -(-H // size)
    return dict(
        K=np.eye(size) + 0.5 * rng.normal(size=(blocks, size, size)) / np.sqrt(size), k=0.2 * rng.normal(size=H),
        D=0.5 * rng.normal(size=(R, H)) / np.sqrt(R),
    )


def make_case(seed, B, T, I, H, R, knobs=None, jump=None, timespans=False, lengths=None, second=False, missing=0.0, **param_args):
    rng = np.random.default_rng(seed)
    k = KNOBS | (knobs or {})
    p = random_params(rng, I, H, R, time_step=k["time_step"], **param_args)
    if second:
        p |= second_edition(rng, H, R)
    x = np.cumsum(rng.normal(size=(B, T, I)), axis=1) * 0.3
    if jump is not None:
        x[:, T // 2 :] += jump * rng.normal(size=(B, 1, I))
    if missing:
        x[rng.uniform(size=x.shape) < missing] = np.nan
        x[:, T // 3 : T // 3 + 3] = np.nan  # nothing observed
    spans = rng.uniform(0.25, 4.0, size=(B, T)) if timespans else None
    y, trace, final = run(x, p, k, spans, lengths)
    case = dict(x=x, y=y, **trace, **{f"k_{n}": np.asarray(v) for n, v in k.items()})
    case |= {f"p_{n}": np.asarray(v) for n, v in p.items()} | {f"s_{n}": v for n, v in final.items()}
    if spans is not None:
        case["timespans"] = spans
    if lengths is not None:
        case["lengths"] = np.asarray(lengths)
    return case


CASES = {
    "defaults": dict(seed=1, B=3, T=40, I=5, H=12, R=4),
    "surprised": dict(seed=2, B=4, T=120, I=6, H=16, R=4, jump=6.0, eta=0.3,
                      knobs=dict(base_threshold=0.3, surprise_smoothing=0.1, error_smoothing=0.05)),
    "homeostasis": dict(seed=3, B=2, T=150, I=4, H=10, R=4, jump=10.0, eta=1.0,
                        knobs=dict(target_norm=0.5, kappa=0.7, surprise_smoothing=0.2)),
    "sleep": dict(seed=4, B=3, T=200, I=3, H=8, R=2, jump=8.0, eta=0.5,
                  knobs=dict(sleep_rate=0.05, min_surprise_for_sleep=0.05, surprise_smoothing=0.2)),
    "rank_above_input": dict(seed=5, B=2, T=30, I=3, H=9, R=7, jump=3.0, eta=0.3),
    "univariate": dict(seed=6, B=2, T=64, I=1, H=7, R=1, jump=4.0, eta=0.2),
    "no_liquid_time": dict(seed=7, B=2, T=25, I=4, H=6, R=2, knobs=dict(ltc_enabled=False)),
    "timespans": dict(seed=8, B=2, T=50, I=4, H=11, R=3, timespans=True, jump=5.0, eta=0.2),
    "padded": dict(seed=9, B=4, T=63, I=5, H=12, R=4, jump=4.0, lengths=[63, 1, 40, 17]),
    "one_row_one_step": dict(seed=10, B=1, T=1, I=2, H=3, R=1),
    "keys_and_recall": dict(seed=11, B=3, T=80, I=6, H=32, R=3, jump=4.0, eta=0.5, second=True),
    "tail_block": dict(seed=12, B=2, T=60, I=5, H=37, R=4, jump=4.0, eta=0.8, second=True, knobs=dict(base_threshold=0.3, target_norm=0.8, kappa=0.8)),
    "small_block": dict(seed=13, B=2, T=41, I=3, H=7, R=2, jump=3.0, eta=0.5, second=True, timespans=True),
    "keys_padded_sleep": dict(seed=14, B=4, T=63, I=4, H=18, R=2, jump=5.0, eta=0.5, second=True, lengths=[63, 1, 40, 17],
                              knobs=dict(sleep_rate=0.05, min_surprise_for_sleep=0.05, surprise_smoothing=0.2)),
    "recall_without_liquid_time": dict(seed=15, B=2, T=30, I=4, H=16, R=2, second=True, eta=1.0, knobs=dict(ltc_enabled=False)),
    "missing": dict(seed=16, B=3, T=70, I=5, H=20, R=3, jump=4.0, eta=0.5, second=True, missing=0.3),
    "missing_univariate": dict(seed=17, B=2, T=50, I=1, H=9, R=1, jump=4.0, eta=0.5, second=True, missing=0.5, timespans=True),
}


def main() -> int:
    folder = Path(__file__).parent / "cases"
    if "--write" in sys.argv:
        folder.mkdir(exist_ok=True)
        for name, spec in CASES.items():
            np.savez_compressed(folder / f"{name}.npz", **make_case(**spec))
        return 0
    for name, spec in CASES.items():
        stored, fresh = np.load(folder / f"{name}.npz"), make_case(**spec)
        worst = max(float(np.max(np.abs(np.nan_to_num(stored[n]) - np.nan_to_num(np.asarray(fresh[n], dtype=float))))) for n in stored.files)
        assert worst < 1e-9, (name, worst)
        print(f"{name}: ok (surprise {fresh['surprise'].min():.3f}..{fresh['surprise'].max():.3f}, |U| {np.linalg.norm(fresh['s_U'][0]):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
