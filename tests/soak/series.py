"""Ten thousand series of 200 rows in one table: `python -m tests.soak.series`.

A process each reads, trains on and forecasts 100 and 10,000 series. The table of the second is a hundred
times as large; memory may grow by what its numbers take, and not during the training."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("tests.soak.series")

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 200
BYTES_A_ROW = 150
"""That memory may grow by: value, time, id and standardised value of a row, and what sorting them takes."""
WHILE_TRAINING = 30 << 20


def written(folder: Path, count: int) -> Path:
    """A long table of weekly waves, each of a size of its own, one series after another."""
    draw = np.random.default_rng(0)
    time_stamps = pd.date_range("2024-01-01", periods=ROWS).strftime("%Y-%m-%d")
    path = folder / f"{count}.csv"
    with path.open("w") as file:
        file.write("unique_id,ds,y\n")
        for number in range(count):
            wave = np.sin(np.arange(ROWS) * 2 * np.pi / 7 + draw.uniform(0, 6))
            values = 10 ** draw.uniform(0, 4) * (2 + wave + 0.3 * draw.normal(size=ROWS))
            file.writelines(
                f"s{number:05d},{stamp},{value:.3f}\n"
                for stamp, value in zip(time_stamps, values, strict=True)
            )
    return path


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(path: str, steps: int) -> dict[str, float]:
    """Read, train, test and forecast; returns seconds and peaks of memory."""
    import lightning as L

    from dream import DREAMConfig
    from lightning_modules import ForecastingModule
    from lightning_modules.forecasting import TableData

    figures: dict[str, float] = {"imported": peak()}
    data = TableData(path=path, look_back=28, horizon=7, batch_size=64)
    module = ForecastingModule.for_data(data, config=DREAMConfig(hidden_dim=16, rank=2), patch=7)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=20,
        limit_test_batches=50,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.monotonic()
    data.setup()
    figures |= {"reading_s": time.monotonic() - start, "read": peak()}
    start = time.monotonic()
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    figures |= {"training_s": time.monotonic() - start, "trained": peak()}
    start = time.monotonic()
    table = module.prediction_table(trainer.predict(module, data))
    return figures | {"forecast_s": time.monotonic() - start, "peak": peak(), "lines": len(table)}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Compare the processes; returns their figures, by the number of series."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.series", description=__doc__)
    parser.add_argument("--series", type=int, nargs=2, default=[100, 10_000])
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args(arguments)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in asked.series:
            path = written(Path(folder), count)
            call = f"work({str(path)!r}, {asked.steps})"
            code = f"import json; from tests.soak.series import work; print(json.dumps({call}))"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found[str(count)] = json.loads(done.stdout.splitlines()[-1])
            print(count, found[str(count)], flush=True)  # noqa: T201
            assert found[str(count)]["lines"] == 7 * count
    few, many = found.values()
    grown = many["peak"] - few["peak"]
    print(f"{grown / 2**20:.0f} MiB more")  # noqa: T201
    assert grown < BYTES_A_ROW * ROWS * (asked.series[1] - asked.series[0])
    assert many["trained"] - many["read"] < WHILE_TRAINING
    return found
