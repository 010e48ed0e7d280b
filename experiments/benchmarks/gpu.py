"""Speed of a DREAM layer on a GPU beside nn.LSTM of the same input and hidden size, and the reference loop.

``python -m experiments.benchmarks.gpu`` prints a table and writes every timing as JSON. It needs torch,
Triton and what `dream` itself needs, nothing else of this project. A figure is the median over the repeats,
a ratio that of two medians; both layers follow ``torch.backends.cudnn.allow_tf32``. Kernels are compiled
first, by as many processes as there are processors.

Shapes: N samples, T steps, I input features, H hidden units, R rank.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dream import DREAM, DREAMCell, DREAMConfig

SIZES = [(64, 256, 16), (39, 256, 16), (20, 128, 16), (10, 128, 8), (300, 512, 32)]  # I, H, R
SAMPLES = (32, 512)
STEPS = 100
LONG = [((64, 256, 16), 32), ((64, 256, 16), 512)]  # at `LONG_STEPS`
LONG_STEPS = 1000
PRECISIONS = {"tf32": True, "float32": False}
REPEATS, WARM_UP, SECONDS = 11, 3, 0.5


def timed(call: Callable[[], object], repeats: int = REPEATS, warm_up: int = WARM_UP) -> float:
    """Median milliseconds of a call, by the device's own clock; fewer repeats where they exceed `SECONDS`."""
    begin = time.perf_counter()
    for _ in range(warm_up):
        call()
    torch.cuda.synchronize()
    each = (time.perf_counter() - begin) / max(warm_up, 1)
    times = []
    for _ in range(max(2, min(repeats, int(SECONDS / max(each, 1e-9))))):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    return round(statistics.median(times), 4)


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph, whose launches cost the host nothing."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def passes(model: nn.Module, x: Tensor, hidden: int) -> dict[str, Callable[[], object]]:
    """A training step without its optimiser, and a forward pass."""
    incoming = torch.randn(*x.shape[:2], hidden, device=x.device)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        model(x)[0].backward(incoming)

    def infer() -> None:
        with torch.no_grad():
            model(x)

    return {"train": train, "infer": infer}


def peak(call: Callable[[], object]) -> float:
    """Most MiB that a call takes."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def sequences(
    size: tuple[int, int, int], samples: int, steps: int, backend: str, loop: bool
) -> dict[str, Any]:
    """Timings of one size, in ms, ratios to nn.LSTM, and memory in MiB."""
    i, h, r = size
    x = torch.randn(samples, steps, i, device="cuda")
    models: dict[str, nn.Module] = {
        "lstm": nn.LSTM(i, h, batch_first=True).cuda(),
        "dream": DREAM(i, h, r, backend=backend, check_inputs=False).cuda(),
    }
    found: dict[str, Any] = {"size": size, "N": samples, "T": steps}
    for precision, allowed in PRECISIONS.items():
        torch.backends.cudnn.allow_tf32 = allowed
        for name, model in models.items():
            for does, call in passes(model, x, h).items():
                found[f"{name} {does} {precision}"] = timed(call)
                if does == "train" and precision == "tf32":
                    found[f"{name} memory"] = peak(call)
        for does in ("train", "infer"):
            mine, theirs = (found[f"{name} {does} {precision}"] for name in ("dream", "lstm"))
            found[f"ratio {does} {precision}"] = round(mine / theirs, 3)
    torch.backends.cudnn.allow_tf32 = True
    if loop:
        model = DREAM(i, h, r, backend="reference", check_inputs=False).cuda()
        call = passes(model, x, h)["train"]
        found["loop train"] = timed(call, repeats=2, warm_up=1)
        found["loop to dream"] = round(found["loop train"] / found["dream train tf32"], 1)
    return found


@torch.no_grad()
def streams(size: tuple[int, int, int], backend: str) -> dict[str, Any]:
    """Microseconds of one step at N = 1, state in and out, eager and as a CUDA graph; of nn.LSTMCell too."""
    i, h, r = size
    x = torch.randn(1, i, device="cuda")
    config = DREAMConfig(input_dim=i, hidden_dim=h, rank=r)
    cell = DREAMCell(config, backend=backend, check_inputs=False).cuda().eval()
    state = cell.init_state(1)
    lstm = nn.LSTMCell(i, h).cuda()
    start = torch.zeros(1, h, device="cuda"), torch.zeros(1, h, device="cuda")
    found: dict[str, Any] = {"size": size, "N": 1, "T": 1}
    for name, call in {"lstm": lambda: lstm(x, start), "dream": lambda: cell(x, state)}.items():
        found[f"{name} step"] = round(1e3 * timed(call, repeats=101, warm_up=20), 1)
        try:
            found[f"{name} step, graph"] = round(1e3 * timed(graphed(call), repeats=101), 1)
        except RuntimeError as error:
            found[f"{name} step, graph"] = str(error).splitlines()[0]
    return found


def repeated(backend: str) -> dict[str, Any]:
    """Whether N = 512 has the same bits each time: outputs and every gradient, four times."""
    i, h, r = SIZES[0]
    model = DREAM(i, h, r, backend=backend).cuda()
    x = torch.randn(512, STEPS, i, device="cuda", requires_grad=True)
    seen: list[list[Tensor]] = []
    for _ in range(4):
        model.zero_grad(set_to_none=True)
        x.grad = None
        model.eval()
        output = model(x)[0]
        output.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert x.grad is not None
        seen.append([output.detach().clone(), x.grad.clone(), *(part.clone() for part in gradients)])
    same = all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))
    return {"repeats": len(seen), "same bits": same}


def compiled(job: tuple[tuple[int, int, int], int, bool, str]) -> None:
    """One training step and one pass without gradients of one size, in one precision."""
    (i, h, r), samples, allowed, backend = job
    torch.backends.cudnn.allow_tf32 = allowed
    model = DREAM(i, h, r, backend=backend, check_inputs=False).cuda()
    for call in passes(model, torch.randn(samples, STEPS, i, device="cuda"), h).values():
        call()
    torch.cuda.synchronize()


def compile_all(backend: str) -> float:
    """Compile the kernels of all sizes, which stay on the disk; the seconds that it took."""
    begin = time.perf_counter()
    jobs = [(*job, backend) for job in itertools.product(SIZES, SAMPLES, PRECISIONS.values())]
    with multiprocessing.get_context("spawn").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
        pool.map(compiled, sorted(jobs, reverse=True), chunksize=1)  # the largest takes longest
    return round(time.perf_counter() - begin, 1)


def main() -> None:
    """Take all timings, print them, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="triton", help="implementation to time")
    parser.add_argument("--seconds", type=float, default=240, help="start no timing after so long")
    default = Path(os.environ.get("OUT", "runs/benchmarks"), "gpu.json")
    parser.add_argument("--output", type=Path, default=default, help="file that gets every timing")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    results: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "backend": asked.backend,
        "seconds of compiling": compile_all(asked.backend),
        "rows": [],
    }
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    jobs: list[Callable[[], dict[str, Any]]] = [lambda: repeated(asked.backend)]
    for samples in SAMPLES:
        for size in SIZES:
            loop = samples == SAMPLES[0] or size == SIZES[-1]
            jobs.append(lambda s=size, n=samples, q=loop: sequences(s, n, STEPS, asked.backend, q))  # type: ignore[misc]
    jobs += [lambda s=size: streams(s, asked.backend) for size in SIZES]  # type: ignore[misc]
    jobs += [lambda s=size, n=n: sequences(s, n, LONG_STEPS, asked.backend, False) for size, n in LONG]  # type: ignore[misc]
    print(f"{results['card']}, torch {results['torch']}, backend {asked.backend}", flush=True)  # noqa: T201
    for job in jobs:
        if time.perf_counter() - begin > asked.seconds:
            print("out of time")  # noqa: T201
            break
        try:
            row = job()
        except Exception as error:  # the rest of the table is worth having
            row = {"failed": repr(error)[:300]}
        results["rows"].append(row)
        asked.output.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")
        print(json.dumps(row, allow_nan=False), flush=True)  # noqa: T201
    print(f"wrote {asked.output} after {time.perf_counter() - begin:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
