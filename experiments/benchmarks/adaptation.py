"""Error of a layer that keeps learning and of a frozen LSTM of as many parameters when the rule changes.

``python -m experiments.benchmarks.adaptation`` trains both to predict the next row of streams that follow one
rule, then lets them read new streams, in which the rule is replaced by another and comes back. No trained
weight changes while they read: DREAM has its fast weights, the LSTM its state. It prints the error in each
stretch, mean over the seeds, draws error, surprise and norm of U over time, and writes all of it as JSON.

A stream follows ``x_t = 0.9 Q x_(t-1) + e_t``, Q a random rotation (the rule) and e_t normal with variance 1
- 0.9^2 = 0.19 in each of six columns: x keeps variance 1 under every rule, and nobody can err by less than
0.19. Each seed draws its own rules, streams and weights. DREAM is the preset `fast_adaptation` with 64 units.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.adaptation")

import argparse
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from dream import DREAMConfig
from dream.files import write_atomic
from experiments.benchmarks.adaptation_plot import adaptation
from experiments.summary import table
from lightning_modules.cores import build_core, trainable
from lightning_modules.run.tracking import write_results
from lightning_modules.waiting import waiting

COLUMNS = 6
MEMORY = 0.9
NOISE = 1 - MEMORY**2
STEPS = 300  # of the optimiser
BATCH = 32  # streams
TRAINED_ON = 128  # steps of a stream
CHANGES = (400, 1200, 1600)  # steps at which the other rule comes, the first comes back, the stream ends
WARM_UP = 50  # first steps, which no figure counts
NAMES = {"DREAM": "dream", "LSTM, frozen": "lstm"}
RESTING = "DREAM, plasticity off"


def rotation(random: torch.Generator) -> Tensor:
    """A rule: a random rotation of the columns, (D, D)."""
    return torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, generator=random))[0]


def streams(rules: Sequence[Tensor], ends: Sequence[int], count: int, random: torch.Generator) -> Tensor:
    """`count` streams (N, T, D) that follow each of `rules` up to the step in `ends`."""
    x, seen = torch.randn(count, COLUMNS, generator=random), []
    for rule, (first, last) in zip(rules, pairwise((0, *ends)), strict=True):
        for _ in range(first, last):
            x = MEMORY * x @ rule.mT + NOISE**0.5 * torch.randn(x.shape, generator=random)
            seen.append(x)
    return torch.stack(seen, 1)


class SeedCurves(NamedTuple):
    """Figures of one seed at every step, each the mean over the streams."""

    errors: dict[str, np.ndarray]
    """Squared error of each model, (T,), mean over the columns."""
    surprise: np.ndarray
    """(T,) of DREAM"""
    u_norm: np.ndarray
    """(T,) of DREAM"""
    parameters: dict[str, int]
    """Trainable ones of each model."""


def run(seed: int, steps: int) -> SeedCurves:
    """Train with `seed`, then read the streams in which the rule changes."""
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    usual, other = rotation(random), rotation(random)
    config = DREAMConfig.preset("fast_adaptation", input_dim=COLUMNS, hidden_dim=64, rank=COLUMNS)
    models = {name: build_core(core, config) for name, core in NAMES.items()}  # type: ignore[arg-type] # a dict of str
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=3e-3) for name, model in models.items()}
    with waiting(f"seed {seed}: training") as tell:
        for step in range(steps):
            x = streams([usual], [TRAINED_ON], BATCH, random)
            for name, model in models.items():
                optimizers[name].param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
                loss = model.trace(x)[1][0].error.square().mean()
                optimizers[name].zero_grad()
                loss.backward()
                optimizers[name].step()
            tell((step + 1) / steps)
    errors: dict[str, np.ndarray] = {}
    with torch.no_grad():
        x = streams([usual, other, usual], CHANGES, BATCH, random)
        traces = {name: model.eval().trace(x)[1][0] for name, model in models.items()}
        with models["DREAM"].plasticity(False):
            traces[RESTING] = models["DREAM"].trace(x)[1][0]
    for name, trace in traces.items():
        errors[name] = trace.error.square().mean((0, 2)).double().numpy()
    own = traces["DREAM"]
    counts = {name: trainable(model) for name, model in models.items()}
    return SeedCurves(
        errors, own.surprise.mean(0).double().numpy(), own.u_norm.mean(0).double().numpy(), counts
    )


def stretches(errors: np.ndarray) -> dict[str, float]:
    """Mean error of each stretch.

    Of `errors` (T,): before the change, in the 20 steps after it and much later, and the same for the return
    of the first rule.
    """
    change, back, end = CHANGES
    spans = {
        "before": (WARM_UP, change),
        "change, +20": (change, change + 20),
        "+200 to +800": (change + 200, back),
        "return, +20": (back, back + 20),
        "+200 to +400": (back + 200, end),
    }
    return {name: float(errors[first:last].mean()) for name, (first, last) in spans.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.adaptation", description=__doc__.split("\n\n")[0]
    )
    out = Path("runs/benchmarks/adaptation.json")
    parser.add_argument("--seeds", type=int, default=3, help="0 to N - 1 (default: 3)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of training (default: {STEPS})")
    parser.add_argument("--out", type=Path, default=out, help="where the JSON goes, and a .png beside it")
    arguments = parser.parse_args(argv)
    console = Console()
    seeds = range(max(arguments.seeds, 1))
    runs = [run(seed, arguments.steps) for seed in seeds]
    errors = {name: np.stack([found.errors[name] for found in runs]) for name in runs[0].errors}  # (seeds, T)
    surprise, u_norm = (
        np.stack([found.surprise for found in runs]),
        np.stack([found.u_norm for found in runs]),
    )
    results = {name: stretches(values.mean(0)) for name, values in errors.items()}
    cells = {name: {span: f"{value:.3f}" for span, value in row.items()} for name, row in results.items()}
    console.print(table(cells, f"squared error, mean of {len(seeds)} seeds", console))
    every = {name: [stretches(row) for row in values] for name, values in errors.items()}
    facts = {
        "seeds": list(seeds),
        "steps": arguments.steps,
        "parameters": runs[0].parameters,
        "every_seed": every,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_results(arguments.out, results, **facts)
    drawn = BytesIO()
    adaptation(errors, surprise, u_norm, CHANGES[:-1], NOISE).savefig(drawn, dpi=120)
    picture = write_atomic(arguments.out.with_suffix(".png"), drawn.getvalue())
    console.print(f"every figure: {arguments.out}\nthe picture: {picture}")
    return 0
