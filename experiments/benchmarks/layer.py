"""Cost of a DREAM layer beside nn.LSTM of the same input and hidden size: time, memory, growth with T and N.

``python -m experiments.benchmarks.layer`` prints the tables and writes every single timing as JSON. All
models of a row are timed alternately in one process; a figure is the median over the repeats, a ratio that of
two medians. Shapes: N samples, T steps, I input features, H hidden units, R rank.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.layer")

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dream import DREAM, DREAMCell, DREAMConfig
from lightning_modules.run.tracking import write_results
from lightning_modules.waiting import waiting

SIZES = [(39, 256, 16), (10, 128, 8), (20, 128, 16), (300, 512, 32), (64, 256, 16)]  # I, H, R
USUAL = (32, 100)  # N, T
LONG = (8, 1000)
STREAM = (1, 2000)
MIDDLE = (64, 256, 16)
GROWTH = {"T": [(32, t) for t in (50, 100, 200, 400, 800)], "N": [(n, 100) for n in (8, 16, 32, 64, 128)]}
MEMORY = (32, 1000)
DOES = {"train": "Forward and backward", "infer": "Forward, no_grad"}
PASSES = tuple(DOES)
WARM_UP = 2


class Case(NamedTuple):
    """One line of a table."""

    size: tuple[int, int, int]
    batch: tuple[int, int]
    does: str  # forward and backward ("train"), or forward without gradients ("infer")

    def __str__(self) -> str:
        i, h, r = self.size
        n, t = self.batch
        return f"I={i} H={h} R={r} N={n} T={t} {self.does}"


def models(size: tuple[int, int, int], every: bool) -> dict[str, nn.Module]:
    """nn.LSTM and the models measured beside it; with `every`, also other layers that users may choose."""
    i, h, r = size
    made: dict[str, nn.Module] = {
        "nn.LSTM": nn.LSTM(i, h, batch_first=True),
        "DREAM": DREAM(i, h, r),
        "DREAM, no fast weights": DREAM(i, h, r, base_plasticity=0.0),
    }
    if every:
        made["nn.GRU"] = nn.GRU(i, h, batch_first=True)
        try:
            from ncps.torch import CfC
        except ImportError:
            pass
        else:
            made["ncps CfC"] = CfC(i, h, batch_first=True)
        made["DREAM, reference loop"] = DREAM(i, h, r, backend="reference")
    return made


def call(model: nn.Module, case: Case) -> Callable[[], None]:
    """One pass of `model` over a batch of noise."""
    x = torch.randn(*case.batch, case.size[0])
    if case.does == "train":
        model.train()

        def work() -> None:
            model.zero_grad()
            model(x)[0].sum().backward()
    else:
        model.eval()

        @torch.no_grad()
        def work() -> None:
            model(x)

    return work


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(
    works: dict[str, Callable[[], None]], repeats: int, slow: int, tick: Callable[[], None]
) -> dict[str, list[float]]:
    """Milliseconds of each repeat, all works in turn; `slow` repeats where one takes ten times the first."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    first = next(iter(works))
    for k in range(WARM_UP + repeats):
        for name, work in works.items():
            values = taken[name]
            if k >= WARM_UP + slow and statistics.median(values) > 10 * statistics.median(taken[first]):
                continue
            values.append(timed(work) * 1e3)
        tick()
    return {name: values[WARM_UP:] for name, values in taken.items()}


def streaming(steps: int) -> dict[str, Callable[[], None]]:
    """`steps` steps of one row without gradients, by nn.LSTMCell and by DREAMCell."""
    i, h, r = MIDDLE
    lstm, cell = nn.LSTMCell(i, h).eval(), DREAMCell(DREAMConfig(input_dim=i, hidden_dim=h, rank=r)).eval()
    x = torch.randn(steps, 1, i)

    @torch.no_grad()
    def theirs() -> None:
        state = lstm(x[0])
        for row in x:
            state = lstm(row, state)

    @torch.no_grad()
    def ours() -> None:
        state = cell.init_state(1)
        for row in x:
            state = cell(row, state)[1]

    return {"nn.LSTM": theirs, "DREAM": ours}


def peak_memory(name: str) -> float | None:
    """MiB that one forward and backward pass of a fresh process adds to what it had; None where the system
    can't tell."""
    command = [sys.executable, "-W", "ignore", "-m", "experiments.benchmarks.layer", "--peak-of", name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return float(said) if said else None


def print_peak(name: str) -> None:
    """Print the figure of `peak_memory`: highest resident size during a pass, less the size before it."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return

    def resident(field: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024

    model = models(MIDDLE, every=False)[name]
    call(model, Case(MIDDLE, (2, 3), "train"))()
    work = call(model, Case(MIDDLE, MEMORY, "train"))
    reset.write_text("5")
    before = resident("VmRSS")
    work()
    print(resident("VmHWM") - before)  # noqa: T201


def line(sizes: list[int], times: list[float]) -> dict[str, float]:
    """Least squares of time = start + each * size, in milliseconds, and the share of the variance that it
    explains."""
    each, start = np.polyfit(sizes, times, 1)
    residual = np.array(times) - (start + each * np.array(sizes))
    return {"start": float(start), "each": float(each), "r2": float(1 - residual.var() / np.var(times))}


def table(title: str, rows: dict[str, dict[str, float]], names: list[str]) -> Table:
    """Milliseconds, and ratios to nn.LSTM."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("I, H, R", no_wrap=True)
    for name in names:
        shown.add_column(name, justify="right")
    for label, medians in rows.items():
        base = medians["nn.LSTM"]
        shown.add_row(
            label, *(f"{medians[n]:.2f} ms\n{medians[n] / base:.2f}" if n in medians else "" for n in names)
        )
    return shown


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.layer", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--repeats", type=int, default=11, help="timings of each figure, after two that warm up (default: 11)"
    )
    parser.add_argument(
        "--slow-repeats", type=int, default=3, help="of what takes over ten times an LSTM (default: 3)"
    )
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/layer.json"), help="where the JSON goes"
    )
    parser.add_argument("--peak-of", metavar="MODEL", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.peak_of:
        print_peak(arguments.peak_of)
        return 0

    usual = [Case(size, USUAL, does) for does in PASSES for size in SIZES]
    long = [Case(size, batch, does) for batch in (LONG, STREAM) for does in PASSES for size in SIZES]
    growth = {axis: [Case(MIDDLE, batch, "train") for batch in batches] for axis, batches in GROWTH.items()}
    cases = [*usual, *long, *growth["T"], *growth["N"]]
    timings: dict[str, dict[str, list[float]]] = {}
    console = Console()
    ticks, total = count(1), (len(cases) + 1) * (WARM_UP + arguments.repeats)
    with waiting("timing") as tell:

        def tick() -> None:
            tell(next(ticks) / total)

        for case in cases:
            works = {
                name: call(model, case) for name, model in models(case.size, every=case in usual).items()
            }
            timings[str(case)] = alternate(works, arguments.repeats, arguments.slow_repeats, tick)
        timings["500 streaming steps"] = alternate(
            streaming(500), arguments.repeats, arguments.slow_repeats, tick
        )
    medians = {row: {name: statistics.median(v) for name, v in of.items()} for row, of in timings.items()}
    memory = {name: peak_memory(name) for name in models(MIDDLE, every=False)}

    names = list(models(MIDDLE, every=True))
    for batch in (USUAL, LONG, STREAM):
        for does in PASSES:
            rows = {", ".join(map(str, size)): medians[str(Case(size, batch, does))] for size in SIZES}
            title = f"{DOES[does]}, N = {batch[0]}, T = {batch[1]}: median, and its ratio to nn.LSTM"
            console.print(table(title, rows, names if batch == USUAL else names[:3]))
    stepping = {", ".join(map(str, MIDDLE)): medians["500 streaming steps"]}
    console.print(
        table("500 times one row and one step, no_grad (nn.LSTMCell, DREAMCell)", stepping, names[:2])
    )
    fits = {}
    for axis, grown in growth.items():
        sizes = [case.batch[1 if axis == "T" else 0] for case in grown]
        for name in names[:2]:
            fits[f"{name} in {axis}"] = fit = line(sizes, [medians[str(case)][name] for case in grown])
            formula = f"{fit['start']:.2f} ms + {fit['each']:.4f} ms {axis}"
            console.print(
                f"{name}, forward and backward: {formula} for {axis} = {sizes} (R2 {fit['r2']:.4f})"
            )
    base = memory["nn.LSTM"]
    for name, peak in memory.items():
        if peak is not None and base:
            console.print(
                f"{name}: peak memory of forward and backward, N, T = {MEMORY}: {peak:.0f} MiB, "
                f"{peak / base:.2f}"
            )
    ratios = {row: {name: value / of["nn.LSTM"] for name, value in of.items()} for row, of in medians.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_results(
        arguments.out,
        ratios,
        seed=0,
        milliseconds=timings,
        growth=fits,
        peak_mib=memory,
        processor=_processor(),
    )
    console.print(f"every timing: {arguments.out}")
    return 0


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
