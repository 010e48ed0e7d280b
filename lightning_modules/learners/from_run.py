"""Runs as row objects take them: the trained module, where its test ended, and the object that it gives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from pydantic import FiniteFloat, PositiveFloat, TypeAdapter

from dream.errors import CheckpointError, ConfigError, DREAMWarning, nearest, shown
from dream.files import inside
from dream.runs import FOLDER, LATEST, newest_run
from lightning_modules.anomaly import AnomalyModule
from lightning_modules.base import TaskModule
from lightning_modules.checks import require
from lightning_modules.data.categories import Category
from lightning_modules.data.dates import UNKNOWN, time_stamps
from lightning_modules.data.place import StreamEnd
from lightning_modules.data.schema import Schema
from lightning_modules.data.series import Missing, Scaler
from lightning_modules.forecasting import ForecastingModule
from lightning_modules.online import OnlineModule
from lightning_modules.run import checkpoints, streams

State = Literal["end", "fresh"]
Source = str | os.PathLike[str] | TaskModule
MODULES: dict[str, type[TaskModule]] = {
    cls.__name__: cls for cls in (AnomalyModule, ForecastingModule, OnlineModule)
}
"""Tasks that row objects go on with, by their name in checkpoints."""
OBJECTS = {
    "forecaster": "DREAMForecaster",
    "classifier": "DREAMClassifier",
    "regressor": "DREAMRegressor",
    "anomaly detector": "DREAMAnomalyDetector",
}
"""Class of a row object by its `kind`."""
TIME = "time"
"""Name of the column of time stamps, where a run's data had it as an index."""
NAMED = 10
"""Streams that a message names."""
_KINDS = {"forecasting": "forecaster", "classification": "classifier", "regression": "regressor"}


class Run(NamedTuple):
    """A trained module that a row object goes on with."""

    module: TaskModule
    schema: Schema
    """By which its rows are read."""
    end: StreamEnd | None
    """Where its stream goes on; None for a new one."""
    source: str
    """Its name in messages."""


@dataclass(frozen=True)
class Times:
    """How the rows of a run lie in time."""

    steps: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """See `Schema.steps`."""
    frequency: str | None = None
    zone: str | None = None
    form: str | None = None
    calendar: tuple[str, ...] = ()
    """Parts of the calendar that it reads."""
    timespans: bool = False
    """Whether it reads the time between rows."""

    @property
    def read(self) -> bool:
        """Whether its numbers depend on time stamps."""
        return bool(self.calendar) or self.timespans

    def stamps(self, given: Sequence[Any], column: str, before: np.datetime64 | None) -> np.ndarray:
        """Time stamps of the next rows, datetime64[ns] (T,), as the run's data have them.

        Raises:
            DataError: one is none, or not after the one `before` it.
        """
        values = pd.Series(list(given), name=column)
        schema = Schema(zone=self.zone, time_format=self.form)
        stamps = schema.stamps(UNKNOWN)
        form = stamps.formats(values)[0]
        return time_stamps(values, form, Path("the stream"), before, stamps.zone)[0]


@dataclass(frozen=True)
class Origin:
    """Facts that a row object has from its run, besides weights and the settings of its own class."""

    targets: tuple[str, ...]
    """Columns that are predicted; for a classifier, its classes."""
    scales: dict[str, tuple[FiniteFloat, PositiveFloat]]
    """Mean and deviation by which the run's data standardise each column; none where they do not."""
    missing: Missing
    """Treatment of missing values by the run's data."""
    plasticity: bool = True
    """Whether the fast weights learn on."""
    delay: int = 0
    """Rows by which targets come late."""
    hidden_dims: list[int] | None = None
    dropout: float = 0.0
    backend: str = "auto"
    window: dict[str, Any] | None = None
    """Arguments of a `ForecastingModule`, whose forecasts are of the last rows alone; None for a stream."""
    known: tuple[str, ...] = ()
    """Columns of a window that are known for the rows ahead, too."""
    time_column: str = TIME
    """Column of time stamps."""
    times: Times | None = None
    """None where rows had no time stamps."""
    categories: dict[str, Category] = field(default_factory=dict)
    """Columns of words, of which the run reads indicators."""

    @classmethod
    def from_plain(cls, plain: Any) -> Origin | None:
        """The facts whose ``asdict`` was written as JSON.

        Raises:
            ValueError: it is damaged.
        """
        return None if plain is None else TypeAdapter(cls).validate_python(plain)

    @classmethod
    def of_stream(cls, run: Run, targets: tuple[str, ...], plasticity: bool) -> Origin:
        """The facts of a run of the online task."""
        module, settings = run.module, run.module.settings
        assert isinstance(module, OnlineModule)
        if run.schema.series:
            raise ConfigError(
                "`source` must be a run of one stream, since a row object does not know which series a row "
                f"is of; {run.source} has {len(run.schema.series)} series, each with scales of its own. "
                "Predict with `dream predict`, or train on the rows of one.",
                key="source",
            )
        return cls(
            targets,
            run.schema.scales,
            module.missing,
            plasticity,
            module.shape.label_delay,
            settings.hidden_dims,
            settings.dropout,
            settings.backend,
            time_column=run.schema.time_column or TIME,
            categories=run.schema.categories,
        )

    def scaler(self, columns: list[str] | tuple[str, ...]) -> Scaler | None:
        """Scaler of these columns; None where rows are not standardised."""
        if not self.scales:
            return None
        mean, scale = zip(*(self.scales[name] for name in columns), strict=True)
        return Scaler(np.array(mean), np.array(scale))


UNTRAINED = Origin((), {}, "model")
"""Facts of an object that comes from no run."""


def kind_of(module: TaskModule) -> str:
    """The `kind` of row object that goes on with a module, a key of `OBJECTS`.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(module, OnlineModule):
        return _KINDS[module.shape.task]
    if isinstance(module, ForecastingModule):
        return "forecaster"
    if isinstance(module, AnomalyModule):
        return "anomaly detector"
    raise _no_object(type(module).__name__)


def checkpoint_of(source: str | os.PathLike[str]) -> Path:
    """The checkpoint of a source, see `read_module`.

    Raises:
        CheckpointError: there is none.
    """
    path = newest_run(Path(FOLDER)) if source == LATEST else Path(source)
    try:
        path = inside(path, "checkpoints", "best.ckpt") if path.is_dir() else path
    except OSError as error:
        raise CheckpointError(f"`source` must be a run's folder or a checkpoint: {error}.") from None
    if not path.is_file():
        raise CheckpointError(
            f"`source` must be a run's folder, a checkpoint file or a module; {path} does not exist."
        )
    return path


def read_module(source: str | os.PathLike[str]) -> TaskModule:
    """The trained module of a run, on the CPU.

    Args:
        source: A run's folder, whose best checkpoint is taken, `LATEST` for the newest in `FOLDER`, or a
            checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged or of an earlier format.
        ConfigError: no row object goes on with its task.
    """
    path = checkpoint_of(source)
    checkpoint = checkpoints.read(path, links=True)
    checkpoints.require_complete(checkpoint, path)
    task = checkpoint["dream"]["task"]
    if task not in MODULES:
        raise _no_object(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DREAMWarning)  # advice for training
        return MODULES[task].load_from_checkpoint(path.resolve(), map_location="cpu")


def read_run(source: Source, state: State, kind: str, stream: str | None = None) -> Run:
    """The run that an object of this `kind` goes on with.

    Args:
        source, state: See `OnlineObject.from_run`.
        kind: A key of `OBJECTS`.
        stream: Name of the stream that is gone on with, where there are several.

    Raises:
        CheckpointError: see `read_module` and `run_of`.
        ConfigError: `source` is none, or see `run_of`.
    """
    if not isinstance(source, TaskModule | str | os.PathLike):
        raise ConfigError(
            f"`source` must be a run's folder, a checkpoint file or a module; got {shown(source)}.",
            key="source",
        )
    module = source if isinstance(source, TaskModule) else read_module(source)
    return run_of(module, source, state, kind, stream)


def run_of(module: TaskModule, source: Source, state: State, kind: str, stream: str | None = None) -> Run:
    """The run of a module that was read from `source`, or is it; see `read_run`.

    Raises:
        CheckpointError: there is no end to go on from.
        ConfigError: `state` is none, `stream` is none of the run's, another object goes on with such runs,
            the core is not DREAM, or the module has neither been trained nor tested.
    """
    require("state", state, state in get_args(State), "end or fresh")
    path = None if isinstance(source, TaskModule) else checkpoint_of(source)
    name = "the module" if isinstance(source, TaskModule) else os.fspath(source)
    if (wanted := kind_of(module)) != kind:
        raise ConfigError(
            f"`source` must be a run that a {OBJECTS[kind]} goes on with; {name} gives a {OBJECTS[wanted]}. "
            f"Use {OBJECTS[wanted]}.from_run.",
            key="source",
        )
    if module.settings.core != "dream":
        raise ConfigError(
            f"`source` must have DREAM as its core, which row objects go on with; {name} has {module.title}.",
            key="source",
        )
    schema = module.data_schema
    if not schema.columns:
        raise ConfigError(
            f"`source` must know the columns of its data; {name} knows none. Fit or test it first.",
            key="source",
        )
    if state == "fresh":
        return Run(module, schema, None, name)
    ends = module.ends if path is None else streams.newest(path, module.ends)
    if not ends:
        raise CheckpointError(
            f"{name} does not hold where its own test ended, for it was not tested. Begin a new stream with "
            "state='fresh', or test it: `dream test` keeps the end in the run, a Trainer in the module."
        )
    return Run(module, schema, ends[named_stream(list(ends), stream)], name)


def named_stream(names: Sequence[str], stream: str | None) -> str:
    """The one of a run's streams that is meant: the one there is, or the one that is named.

    Raises:
        ConfigError: `stream` is none of them, or must be given.
    """
    if stream is None and len(names) == 1:
        return names[0]
    if stream is not None and stream in names:
        return stream
    known = ", ".join(names[:NAMED]) or "none"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    got = "none is named" if stream is None else f"got {stream!r}"
    remedy = "" if stream is None else f" {nearest(stream, names)}"
    raise ConfigError(f"`stream` must be one of the run's, {known}{more}; {got}.{remedy}", key="stream")


def _no_object(task: str) -> ConfigError:
    return ConfigError(
        f"`source` must be a run of {', '.join(sorted(MODULES))}, which row objects go on with; this is of "
        f"{task}. A task of your own that derives from one of them is given as a module: "
        f"{task}.load_from_checkpoint(path).",
        key="source",
    )
