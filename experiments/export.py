"""`dream export`: the step of a run as a file that needs no dream: ONNX, or a torch program."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dream import DREAMStack, __version__, export
from dream.errors import CheckpointError, ConfigError
from dream.files import inside
from experiments import ending, folders, wording
from experiments.invocation import configs
from experiments.invocation.arguments import checkpoint_file
from experiments.run import DREAMCLI
from lightning_modules.anomaly import AnomalyModule
from lightning_modules.anomaly.exported import ScoreStep
from lightning_modules.base import TaskModule
from lightning_modules.data.place import StreamEnd
from lightning_modules.forecasting import ForecastingModule
from lightning_modules.forecasting.exported import WindowStep
from lightning_modules.learners.from_run import named_stream
from lightning_modules.online import OnlineModule
from lightning_modules.online.exported import ForecastStep
from lightning_modules.run import checkpoints, streams

STEPS: dict[str, tuple[type[TaskModule], Callable[[Any, StreamEnd | None], export.Step]]] = {
    "lightning_modules.OnlineModule": (OnlineModule, ForecastStep),
    "lightning_modules.AnomalyModule": (AnomalyModule, ScoreStep),
    "lightning_modules.ForecastingModule": (ForecastingModule, WindowStep),
}
"""Class of the model and its step, by the name in the configuration of a run."""
FORMATS = {"onnx": ("model.onnx", export.to_onnx), "torch": ("model.pt2", export.to_torch)}
"""Name of the file in the folder of the run, and what writes it."""


def main(argv: list[str]) -> int:
    """Run ``dream export`` with these arguments, and print the path of the file; return the exit code.

    Raises:
        ConfigError: a run of a task or of settings whose step no file can hold, or packages that are missing.
        CheckpointError: there is no such run, or it is damaged or of an earlier version.
    """
    parser = argparse.ArgumentParser(
        "dream export",
        description="The step of a run as one file that runs without dream: a row in, a forecast or score "
        "out, and the state, which goes on learning. For online forecasts, anomalies, forecasts of windows.",
    )
    parser.add_argument("run", metavar="RUN", help=f"a run's folder, a checkpoint in it, or {folders.LATEST}")
    parser.add_argument(
        "--format", choices=FORMATS, required=True, help="onnx, for any runtime, or torch, a torch program"
    )
    names = " or ".join(name for name, _ in FORMATS.values())
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"where it goes; {names} in the run's folder if not given"
    )
    parser.add_argument(
        "--stream",
        metavar="NAME",
        help="of an anomaly run with several streams: the one that it goes on with; else it begins a new one",
    )
    folders.add_run_folder(parser)
    arguments = parser.parse_args(argv)
    wording.set_up()
    DREAMCLI.require_output(arguments.output)
    run = folders.latest(arguments.runs) if arguments.run == folders.LATEST else arguments.run
    checkpoint = checkpoint_file(str(run), "best")
    home = checkpoint.parent.parent
    name, write = FORMATS[arguments.format]
    path = arguments.output or home / name
    step = step_of(home, checkpoint, arguments.stream)
    ending.say(f"note: {path} is being made, which may take half a minute.")
    write(step, path)
    print(path)  # noqa: T201
    return 0


def step_of(home: Path, checkpoint: Path, stream: str | None = None) -> export.Step:
    """The step of a run, from where its stream ended; and say what learns in it.

    Args:
        home: Folder of the run.
        checkpoint: Its weights.
        stream: Name of the stream, where it has several; None begins a new one then.

    Raises:
        ConfigError, CheckpointError: see `main`.
    """
    if not (home / folders.CONFIG).is_file():
        raise ConfigError(
            f"`RUN` must be a run's folder or a checkpoint in it; {checkpoint} lies in none. Name a run."
        )
    folders.require_as_written(home)
    content = configs.read(inside(home, folders.CONFIG)).content
    try:
        task, rolling = content["model"]["class_path"], content["data"].get("init_args", {}).get("rolling")
    except (LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{home / folders.CONFIG} must name classes of model and data, as it was written. Put it back."
        ) from None
    if task not in STEPS:
        raise ConfigError(
            f"`RUN` must forecast a stream, score anomalies or forecast from windows ({', '.join(STEPS)}); "
            f"{home} is of {task}, which has no step that a file could hold."
        )
    kind, make = STEPS[task]
    held = checkpoints.read(checkpoint, kind.__name__)
    checkpoints.require_complete(held, checkpoint)
    module = kind.load_from_checkpoint(checkpoint, "cpu").eval()
    if not isinstance(module, OnlineModule) and isinstance(module.core, DREAMStack):
        module.core.missing = module.missing == "model"
    if rolling:
        raise ConfigError(
            f"`RUN` must forecast from windows; {home} has `data.rolling`, whose forecasts depend on all "
            "rows before. Train without, or as an online run."
        )
    ends = streams.newest(checkpoint, module.ends)
    end = next(iter(ends.values())) if len(ends) == 1 else None
    if stream is not None:
        end = ends[named_stream(list(ends), stream)]
    one = make(module, end)
    schema = module.schema
    if schema is None:
        raise CheckpointError(f"{checkpoint} must hold the schema of its data; there is none. Train again.")
    one.facts |= {
        "task": task,
        "version": __version__,
        "units": schema.units,
        "frequency": None if schema.steps is None else schema.steps[1] / 1e9,
        "missing": module.missing,
    }
    if not isinstance(module, ForecastingModule):
        one.facts["after"] = None if end is None else end.place.name()
        begins, weights = "begins a new stream", "as the checkpoint has them"
        if end is not None:
            begins, weights = f"goes on where the stream of {home} ended, {end.place}", "as they were there"
        rest = f"; head and slow weights stay {weights}" if isinstance(module, OnlineModule) else ""
        ending.say(f"note: the file {begins}; fast weights and statistics go on learning{rest}.")
    return one
