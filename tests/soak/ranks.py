"""Several processes train like one: gradients of every step, a run that is stopped and goes on, its end if a
process is killed, throughput.

``python -m tests.soak.ranks`` prints the figures. Each of the `CASES` has batches that do not divide evenly,
with a last one too small to give every process a sample, or streams of unequal length. There is no dropout,
since each process draws its own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dream import DREAMConfig
from experiments import launch
from experiments.benchmarks import ranks as benchmark
from experiments.benchmarks.ranks import TORCHRUN, quiet_trainer
from lightning_modules import (
    AnomalyModule,
    ClassificationModule,
    ForecastingModule,
    LanguageModule,
    OnlineModule,
    SequenceModule,
    SpeechModule,
)
from lightning_modules.anomaly import AnomalyData, AnomalyShape, AnomalyStream
from lightning_modules.base import TaskModule
from lightning_modules.classification import GaussianClasses, Motions
from lightning_modules.data import TaskData
from lightning_modules.data.series import Series
from lightning_modules.forecasting import DriftingLoad
from lightning_modules.forecasting.systems import SystemsData, SystemsModule
from lightning_modules.language import LanguageData
from lightning_modules.language.data import Text
from lightning_modules.online import DriftingStream
from lightning_modules.run import checkpoints
from lightning_modules.run.loops import make_resumable
from lightning_modules.run.saving import SaveProgress
from lightning_modules.speech import ToneWords
from lightning_modules.stream import Reading
from tests.experiments.support import DREAM, ENVIRONMENT, SMALL, start
from tests.soak import processes

ROOT = Path(__file__).parents[2]
CONFIG = DREAMConfig(hidden_dim=64, rank=4, base_plasticity=0.2)
EPOCHS = 2
LIMITS = {"float64": 1e-9, "float32": 1e-5}
"""Largest difference allowed between the gradients of a step, relative to the largest gradient."""


class Gaps(DriftingLoad):
    """A load with one value in seven missing."""

    def read(self) -> Series:
        series = super().read()
        series.values[np.random.default_rng(0).random(series.values.shape) < 1 / 7] = np.nan
        return series


class Uneven(AnomalyData):
    """Three streams of unequal length."""

    def read(self) -> list[AnomalyStream]:
        random = np.random.default_rng(0)
        lengths = {240: 120, 300: 150, 420: 200}
        return [
            AnomalyStream(str(n), random.normal(size=(n, 2)).cumsum(0), ("a", "b"), known)
            for n, known in lengths.items()
        ]


class Noise(LanguageData):
    """A text of random letters."""

    def read(self) -> dict[str, Text]:
        return {"train": Text("noise", np.random.default_rng(0).integers(97, 101, 700, np.uint8).tobytes())}


def forecasting(**options: Any) -> tuple[TaskModule, TaskData]:
    """Forecasting of 53 windows in batches of 13, or of `batch_size` streams."""
    core = options.pop("core", "dream")
    small = dict(feeders=2, rows=120, look_back=16, horizon=4, season=8, split=[0.6, 0.2, 0.2], batch_size=13)
    data = Gaps(**small | {"missing": "mask"} | options)  # type: ignore[arg-type]
    return ForecastingModule.for_data(data, config=CONFIG, patch=4, dropout=0.0, core=core), data


def anomaly() -> tuple[TaskModule, TaskData]:
    """Anomaly detection in three streams; no loss depends on the second layer."""
    return AnomalyModule(CONFIG, AnomalyShape(2), hidden_dims=[8, 6]), Uneven(train_chunk=50, chunk=100)


def online() -> tuple[TaskModule, TaskData]:
    """Online learning from 17 crops in batches of 8."""
    data = DriftingStream(
        "forecasting", length=300, columns=3, horizon=3, crop=32, context=8, crops=17, batch_size=8
    )
    return OnlineModule.for_data(data, config=CONFIG, reading=Reading("running", 0.05, lags=2)), data


def language() -> tuple[TaskModule, TaskData]:
    """Language modelling with a batch of five."""
    data = Noise("chars", batch_size=5, steps=20, validation=0.1)
    return LanguageModule.for_data(data, config=replace(CONFIG, input_dim=8)), data


def speech(**options: Any) -> tuple[TaskModule, TaskData]:
    """Speech: 16 utterances of unequal length in batches of 5, or strings of them in batches of 3."""
    data = ToneWords(**{"words": 3, "voices": 3, "takes": 3, "batch_size": 5, "stack": 3} | options)
    return SpeechModule.for_data(data, config=CONFIG, dropout=0.0, mask=0.0, noise=0.0), data


def classification() -> tuple[TaskModule, TaskData]:
    """Classification: 17 sequences that draw their own classes, in batches of 5."""
    data = GaussianClasses(width=4, traits=2, pool=20, ways=3, shots=3, episodes=17, batch_size=5)
    return ClassificationModule.for_data(data, config=CONFIG), data


def sequences() -> tuple[TaskModule, TaskData]:
    """Whole sequences: 19 of unequal length in batches of 5."""
    data = Motions(people=5, takes=1, validation=0.3, batch_size=5)
    return SequenceModule.for_data(data, config=CONFIG, dropout=0.0, noise=0.0), data


def systems() -> tuple[TaskModule, TaskData]:
    """Driven systems: 17 sequences in batches of 5."""
    data = SystemsData(steps=20, ahead=[1, 3], systems=17, validation_systems=7, skip=4, batch_size=5)
    return SystemsModule.for_data(data, config=CONFIG), data


STREAMS = "forecasting, streams"
"""Case that is stopped after `STOP` steps and goes on."""
STOP = 2
RESUMED = f"{STREAMS}, stopped and resumed"

CASES: dict[str, Callable[[], tuple[TaskModule, TaskData]]] = {
    "forecasting, windows": forecasting,
    "forecasting, windows, gradients of 2 batches": forecasting,
    STREAMS: lambda: forecasting(streams=True, stride=8, rows=300, batch_size=3),
    "forecasting, streams, GRU": lambda: forecasting(
        streams=True, stride=8, rows=300, batch_size=3, core="gru"
    ),
    "anomaly": anomaly,
    "language": language,
    "online": online,
    "classification": classification,
    "classification, sequences": sequences,
    "systems": systems,
    "speech": speech,
    "speech, strings": lambda: speech(task="recognition", string=[1, 2], batch_size=3),
}


OWN = ", a Trainer of one's own"
"""End of the name of a case that an `own_trainer` trained."""


class Trace(NamedTuple):
    """Record of a training."""

    gradients: list[Tensor]
    """All gradients before each optimiser step, in one vector."""
    weights: Tensor
    """All weights and buffers after the last step, in one vector."""
    metrics: dict[str, float]
    """Metrics that were logged last."""


class _Record(L.Callback):
    def __init__(self) -> None:
        self.gradients: list[Tensor] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        found = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(found).double().cpu())


def own_trainer(model: TaskModule, **options: Any) -> L.Trainer:
    """A Trainer as a program of one's own builds it, which knows nothing of our data."""
    off = {f"enable_{what}": False for what in ("progress_bar", "model_summary", "checkpointing")}
    strategy = "ddp_find_unused_parameters_true" if model.unreached else "ddp"
    own = dict(accelerator="cpu", devices=int(os.environ["LOCAL_WORLD_SIZE"]), strategy=strategy)
    return L.Trainer(**own, **off, logger=False, reload_dataloaders_every_n_epochs=1, **options)


class _Stop(L.Callback):
    """SIGTERM in step `STOP`."""

    def __init__(self, saving: SaveProgress) -> None:
        self.saving = saving

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == STOP - 1:
            self.saving.signals.received = signal.SIGTERM


def train(
    name: str, double: bool, own: bool = False, stopped_in: Path | None = None, resumes: bool = False
) -> Trace:
    """Train one of the `CASES`, with the other processes, if any.

    Args:
        name: Name of the case.
        double: Whether in double precision.
        own: Whether by an `own_trainer`.
        stopped_in: Folder with the save of a run that is stopped after `STOP` steps, within an epoch.
        resumes: Whether to go on from there instead.
    """
    torch.manual_seed(0)
    model, data = CASES[name]()
    record, saving = _Record(), SaveProgress(keep=9)
    saving.folder = stopped_in
    stopping = [] if stopped_in is None else [saving] if resumes else [saving, _Stop(saving)]
    trainer = (own_trainer if own else quiet_trainer)(
        model,
        callbacks=[record, *stopping],
        max_epochs=EPOCHS,
        accumulate_grad_batches=2 if name.endswith("of 2 batches") else 1,
        precision="64-true" if double else "32-true",
    )
    if stopped_in is None:
        trainer.fit(model, datamodule=data)
    else:
        make_resumable(trainer, saving)
        save = stopped_in / checkpoints.STEP.format(STOP)
        with saving.signals, suppress(SIGTERMException):
            trainer.fit(model, datamodule=data, ckpt_path=save if resumes else None, weights_only=resumes)
    weights = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    return Trace(record.gradients, weights, {k: float(v) for k, v in trainer.callback_metrics.items()})


def train_all(double: bool) -> dict[str, Trace]:
    """Train all `CASES`, and where torchrun started several processes again by an `own_trainer`."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {
        name + OWN * own: train(name, double, own) for name in CASES for own in (False, True)[: 1 + several]
    }


def in_processes(count: int, double: bool, stopped_in: Path | None = None) -> dict[str, Trace]:
    """Run `train_all` in `count` processes of one thread on this host, by gloo; return the traces of rank 0.

    With a folder for its save, `STREAMS` is also stopped and goes on; the trace `RESUMED` begins there.

    With more threads the initial weights, which are orthogonalised, would differ in the last digits.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "traces.pt"
        command = ["-m", "tests.soak.ranks", f"--out={out}", *["--double"] * double]
        command += [] if stopped_in is None else [f"--stopped-in={stopped_in}"]
        start, environment = [*TORCHRUN, f"--nproc-per-node={count}"], {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*start, *command], env=environment, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return {name: Trace(*trace) for name, trace in torch.load(out, weights_only=True).items()}


def difference(one: Trace, other: Trace) -> float:
    """Largest difference between the gradients of a step, relative to the largest gradient of that step."""
    assert len(one.gradients) == len(other.gradients)
    pairs = zip(one.gradients, other.gradients, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


class Family:
    """A command and all its descendants, recognised by a mark in their environment (Linux)."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.log = folder / f"{self.mark}.log"
        with self.log.open("w") as log:
            environment = {**os.environ, "DREAM_FAMILY": self.mark, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def members(self) -> dict[int, dict[str, str]]:
        """Environments of the living processes, by process id."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                environment = dict(word.split("=", 1) for word in words if "=" in word)
                if environment.get("DREAM_FAMILY") == self.mark:
                    found[int(path.parent.name)] = environment
        return found

    def rank(self, number: int) -> int:
        """Process id of this rank on its host."""
        return next(pid for pid in self.members() if self._rank(pid) == number)

    def _rank(self, pid: int) -> int | None:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        runs = "experiments.cli" in words and "torch.distributed.run" not in words
        return int(self.members()[pid].get("LOCAL_RANK", "0")) if runs else None

    def end(self) -> None:
        """Kill all that are left."""
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def until(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until `holds`; return the seconds it took.

    Raises:
        TimeoutError: it does not hold within `seconds`.
    """
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"waited {seconds} s")
        time.sleep(0.1)
    return time.monotonic() - start


class Ending(NamedTuple):
    """End of a run after one of its processes was killed."""

    seconds: float
    """Time from the kill until the last process was gone."""
    code: int
    said: str
    """Its output."""


def kill(victim: int, torchrun: bool, folder: Path, *flags: str) -> Ending:
    """Start a fit of two processes, by torchrun or the Trainer, and kill one after the first checkpoint."""
    command = ["-m", "experiments.cli", "fit", *flags, "--run.name=killed", f"--run.folder={folder}"]
    devices = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.max_epochs=100000"]
    start = [*TORCHRUN, "--nproc-per-node=2"] if torchrun else [sys.executable]
    family = Family([*start, *command, *devices], folder)
    try:
        until(lambda: any(folder.glob("killed/checkpoints/*.ckpt")), 120)
        os.kill(family.rank(victim), signal.SIGKILL)
        seconds = until(lambda: family.process.poll() is not None and not family.members(), 60)
        return Ending(seconds, family.process.returncode, family.log.read_text())
    finally:
        family.end()


def stop_and_resume(folder: Path) -> float:
    """Stop a fit of two processes after its first save; let it go on as two and as one.

    Returns:
        Largest relative difference of a metric from those of one process that was never stopped.

    Raises:
        AssertionError: It did not end by the signal, or not go on, or the metrics are others.
    """
    streams = ["--data.streams=true", "--data.stride=8", "--data.batch_size=3"]
    command = ["fit", "-c", "forecasting", *SMALL, "--model.dropout=0", *streams, "--trainer.max_epochs=12"]
    two = [*command, "--trainer.devices=2", "--run.wandb=disabled", "--run.name=two"]
    process = start(*two, folder=folder)
    try:
        until(lambda: any(folder.glob("runs/two/checkpoints/step-*.ckpt")), 120)
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 143, said
    shutil.copytree(folder / "runs" / "two", folder / "runs" / "one")
    together = [*DREAM, *two, "--resume"]
    subprocess.run(together, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert processes.run(folder, [*command, "--run.name=one", "--resume"]) == 0
    assert processes.run(folder, [*command, "--run.name=whole"]) == 0
    whole, *others = (
        [json.loads(line) for line in processes.left(folder / "runs" / name)["metrics"]]
        for name in ("whole", "two", "one")
    )
    worst = 0.0
    for other in others:
        for ours, theirs in zip(other, whole, strict=True):
            assert ours.keys() == theirs.keys()
            apart = (abs(ours[name] - value) / max(abs(value), 1e-9) for name, value in theirs.items())
            worst = max(worst, *apart)
    assert worst < 1e-3, worst
    return worst


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Print and return the figures.

    Raises:
        AssertionError: a promise does not hold.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak.ranks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--double", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stopped-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.out:
        launch.end_with_parent(for_good=True)
        traces = train_all(arguments.double)
        if (folder := arguments.stopped_in) is not None:
            train(STREAMS, arguments.double, stopped_in=folder)
            traces[RESUMED] = train(STREAMS, arguments.double, stopped_in=folder, resumes=True)
        if launch.is_first():
            torch.save({name: tuple(trace) for name, trace in traces.items()}, arguments.out)
        return {}
    console = Console()
    figures: dict[str, Any] = {"difference of gradients": {}, "killed": {}}
    table = Table("", *LIMITS, title="largest relative difference of a gradient, 2 processes and 1")
    runs = {kind: [in_processes(count, kind == "float64") for count in (1, 2)] for kind in LIMITS}
    for name in runs["float64"][1]:
        alone = name.removesuffix(OWN)
        found = {kind: difference(one[alone], two[name]) for kind, (one, two) in runs.items()}
        figures["difference of gradients"][name] = found
        table.add_row(name, *(f"{value:.1e}" for value in found.values()))
        assert all(value < LIMITS[kind] for kind, value in found.items()), found
    console.print(table)
    for torchrun in (True, False):
        for victim in (0, 1):
            with tempfile.TemporaryDirectory() as folder:
                ending = kill(victim, torchrun, Path(folder), "-c", "forecasting", "--run.wandb=disabled")
            how = f"rank {victim} killed, started by {'torchrun' if torchrun else 'the Trainer'}"
            figures["killed"][how] = {"seconds": round(ending.seconds, 1), "code": ending.code}
            console.print(f"{how}: all gone after {ending.seconds:.1f} s, code {ending.code}")
            assert ending.code != 0
    with tempfile.TemporaryDirectory() as folder:
        figures["difference of metrics, stopped and resumed"] = worst = stop_and_resume(Path(folder))
    console.print(f"stopped and resumed as 2 processes and as 1: largest relative difference {worst:.1e}")
    figures["windows a second"] = speeds = benchmark.speeds(repeats=3, steps=40)
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in benchmark.ratios(speeds).items())
    console.print(f"throughput: {ratios}")
    return figures


if __name__ == "__main__":
    main()
