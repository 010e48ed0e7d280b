"""Streams that try to break a layer or a learner: `python -m tests.soak.hostile --steps 100000`.

All kinds are legal: the square of every value is finite in float32. The output must be finite to the last
step, or a DREAMError that names the row."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from dream import DREAM, DREAMConfig, DREAMError
from dream.numerics import largest
from lightning_modules.learners import DREAMAnomalyDetector, DREAMClassifier, DREAMForecaster, DREAMRegressor
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.waiting import waiting

COLUMNS = 3
CHUNK = 500
LARGEST = 0.999 * largest(torch.float32)


def _flips(random: np.random.Generator, rows: int) -> np.ndarray:
    """Stretches of 97 rows with different levels and scales."""
    regimes = rows // 97 + 1
    level = random.normal(0, 100, (regimes, COLUMNS))
    scale = 10.0 ** random.uniform(-6, 6, (regimes, COLUMNS))
    which = np.arange(rows) // 97
    return level[which] + scale[which] * random.standard_normal((rows, COLUMNS))


def _spikes(random: np.random.Generator, rows: int) -> np.ndarray:
    """Noise, with a spike of 1e6 in one row of fifty."""
    values = random.standard_normal((rows, COLUMNS))
    values[random.random(rows) < 0.02] += 1e6 * random.choice([-1.0, 1.0])
    return values


def _huge(random: np.random.Generator, rows: int) -> np.ndarray:
    """Stretches of 1, of the largest legal number, and of all sizes in between, with random signs."""
    size = np.where(np.arange(rows) // 40 % 3 == 0, 1.0, LARGEST ** random.random(rows))
    size[np.arange(rows) // 40 % 3 == 1] = LARGEST
    return size[:, None] * random.choice([-1.0, 1.0], (rows, COLUMNS))


KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "constants": lambda random, rows: np.full((rows, COLUMNS), 7.25),
    "zeros": lambda random, rows: np.zeros((rows, COLUMNS)),
    "spikes of 1e6": _spikes,
    "denormals": lambda random, rows: 1e-42 * random.standard_normal((rows, COLUMNS)),
    "alternating signs": lambda random, rows: (
        1e3 * np.where(np.arange(rows) % 2, -1.0, 1.0)[:, None] * np.ones(COLUMNS)
    ),
    "regime flips": _flips,
    "huge legal values": _huge,
}


def pieces(kind: str, steps: int, seed: int) -> Iterator[np.ndarray]:
    """A stream of a kind, (steps, COLUMNS) in all, in pieces of at most `CHUNK` rows."""
    random = np.random.default_rng(seed)
    for start in range(0, steps, CHUNK):
        yield KINDS[kind](random, min(CHUNK, steps - start))


def through_layer(steps: int, backend: str = "auto", train: bool = False, **knobs: Any) -> dict[str, Any]:
    """Feed a layer all kinds as samples of one batch, with long and short gaps; `train` also optimises it."""
    torch.manual_seed(0)
    layer = DREAM(COLUMNS, 16, 2, backend=backend, **{"error_smoothing": 0.1, "kappa": 0.5} | knobs).train(
        train
    )
    optimizer = torch.optim.SGD(layer.parameters(), 1e-3)
    streams = [pieces(kind, steps, seed) for seed, kind in enumerate(KINDS)]
    gaps = torch.Generator().manual_seed(1)
    state, h, u, finite = None, 0.0, 0.0, True
    for chunk in zip(*streams, strict=True):
        x = torch.from_numpy(np.stack(chunk)).float()
        spans = 10.0 ** (12 * torch.rand(x.shape[:2], generator=gaps) - 4)
        spans[:, 1:] = torch.where(torch.rand(spans[:, 1:].shape, generator=gaps) < 0.9, 1.0, spans[:, 1:])
        with torch.set_grad_enabled(train):
            output, trace, state = layer.trace(x, state, timespans=spans)
        if train:
            optimizer.zero_grad()
            output.square().mean().backward()
            finite &= all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
        state = state.detach()
        finite &= all(bool(part.isfinite().all()) for part in (output, *trace, *state, *layer.buffers()))
        h = max(h, float(output.detach().abs().max()))
        u = max(u, float(trace.u_norm.max()))
    return {
        "steps": steps,
        "rows": len(KINDS),
        "largest |h|": h,
        "largest |U|": u,
        "finite": finite,
        "refused": [],
    }


def _stream(steps: int, first: str) -> Iterator[np.ndarray]:
    """One stream with a piece of each kind in turn, again and again, from kind `first` on."""
    start = list(KINDS).index(first)
    order = [*list(KINDS)[start:], *list(KINDS)[:start]]
    kinds = [pieces(kind, steps, seed) for seed, kind in enumerate(order)]
    left = steps
    while left > 0:
        for kind in kinds:
            part = next(kind, np.zeros((0, COLUMNS)))[:left]
            left -= len(part)
            if len(part):
                yield part


def through_learner(
    steps: int,
    task: str = "forecasting",
    rule: str = "least_squares",
    first: str = "constants",
    **updates: Any,
) -> dict[str, Any]:
    """Feed a `StreamLearner` one stream of all kinds, with missing values."""
    torch.manual_seed(0)
    random = np.random.default_rng(9)
    forecasting = task == "forecasting"
    targets = {"forecasting": COLUMNS, "regression": 1, "classification": 3}[task]
    network = StreamNetwork(
        Shape(task, COLUMNS, targets, 2 if forecasting else 1),  # type: ignore[arg-type]
        Reading("differences" if forecasting else "running", 0.01, lags=2),
        DREAMConfig(hidden_dim=16, rank=2),
    )
    learner = StreamLearner(network, Updates(rule, **{"every": 25, "lr": 1e-2, "replay": 50} | updates))  # type: ignore[arg-type]
    u, finite, refused, done = 0.0, True, [], 0
    for part in _stream(steps, first):
        rows = torch.from_numpy(np.where(random.random(part.shape) < 0.01, np.nan, part))
        wanted = {
            "forecasting": None,
            "regression": torch.from_numpy(part[:, :1] * random.standard_normal((len(part), 1)).clip(-1, 1)),
            "classification": torch.from_numpy(random.integers(0, 3, len(part))),
        }[task]
        try:
            seen = learner.process(rows, wanted)
        except DREAMError as error:
            refused.append(str(error))
            continue
        done += len(part)
        u = max(u, float(seen.u_norm.max()))
        finite &= bool(seen.predictions.isfinite().all()) and bool(seen.surprise.isfinite().all())
    finite &= all(
        bool(value.isfinite().all())
        for name, value in learner.tensors().items()
        if name.startswith("network")
    )
    return {"steps": done, "rows": 1, "largest |U|": u, "finite": finite, "refused": refused}


def through_objects(steps: int) -> dict[str, Any]:
    """Feed the row-by-row learners one stream of all kinds."""
    config = DREAMConfig(hidden_dim=8, rank=2)
    forecaster, detector = DREAMForecaster(config=config), DREAMAnomalyDetector(config=config, window=100)
    regressor, classifier = DREAMRegressor(config=config), DREAMClassifier(config=config)
    finite, refused, done = True, [], 0
    for part in _stream(steps, "constants"):
        for values in part.tolist():
            x = dict(zip("abc", values, strict=True))
            outputs: list[float] = []
            try:
                forecaster.learn_one({"a": x["a"]}, {"b": x["b"]})
                outputs += forecaster.forecast()[0].values()
                outputs.append(detector.score_one(x))
                detector.learn_one(x)
                outputs.append(regressor.predict_one(x))
                regressor.learn_one(x, x["c"])
                classifier.learn_one(x, x["a"] > 0)
                outputs += classifier.predict_proba_one(x).values()
                done += 1
            except DREAMError as error:
                refused.append(str(error))
            finite &= all(np.isfinite(outputs))
    return {"steps": done, "rows": 1, "finite": finite, "refused": refused}


def require_named(name: str, seen: dict[str, Any]) -> None:
    """Check that every refusal of a part names a row, and that the part did not refuse everything.

    Raises:
        AssertionError: otherwise.
    """
    nameless = [message for message in seen["refused"] if not re.search(r"\brows? \d", message)]
    assert not nameless, f"{name}: a refusal without a row: {nameless[0]}"
    assert seen["steps"] > 0, f"{name}: everything was refused, first with: {seen['refused'][:1]}"


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run every part, print its figures and return them.

    Raises:
        AssertionError: something was not finite, a refusal names no row, or a part refused everything.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    steps: int = parser.parse_args(arguments).steps
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "layer": lambda: through_layer(steps),
        "layer without homeostasis": lambda: through_layer(steps, kappa=0.0),
        "layer, training": lambda: through_layer(steps // 10, train=True),
        "layer, reference": lambda: through_layer(steps // 50, backend="reference"),
        "learner, forecasting": lambda: through_learner(steps, forgetting=0.999, trust=0.99),
        "learner, regression": lambda: through_learner(steps, "regression", forgetting=0.999),
        "learner, classification": lambda: through_learner(steps, "classification"),
        "learner, adam, denormals first": lambda: through_learner(steps // 5, rule="adam", first="denormals"),
        "learner, sgd, denormals first": lambda: through_learner(
            steps // 5, "regression", "sgd", "denormals"
        ),
        "objects": lambda: through_objects(steps // 200),
    }
    figures = {}
    print(f"kinds: {', '.join(KINDS)}")  # noqa: T201
    with waiting("hostile streams") as tell:
        for name, run in parts.items():
            start = time.monotonic()
            figures[name] = run() | {"seconds": round(time.monotonic() - start, 1)}
            print(name, figures[name], flush=True)  # noqa: T201
            tell(len(figures) / len(parts))
    lost = [name for name, seen in figures.items() if not seen["finite"]]
    assert not lost, f"not finite: {', '.join(lost)}"
    for name, seen in figures.items():
        require_named(name, seen)
    return figures


if __name__ == "__main__":
    main()
