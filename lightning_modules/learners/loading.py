"""`load`: the row object of a file, a run or a checkpoint, whatever its class."""

from __future__ import annotations

import warnings
from pathlib import Path

from dream.errors import CheckpointError, ConfigError, DREAMWarning
from dream.sealed import read_sealed
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.detector import DREAMAnomalyDetector
from lightning_modules.learners.forecaster import DREAMForecaster
from lightning_modules.learners.from_run import State, kind_of, read_module, run_of
from lightning_modules.learners.supervised import DREAMClassifier, DREAMRegressor

CLASSES: dict[str, type[OnlineObject]] = {
    cls.kind: cls for cls in (DREAMForecaster, DREAMClassifier, DREAMRegressor, DREAMAnomalyDetector)
}


def load(source: Path, state: State, stream: str | None = None) -> OnlineObject:
    """The row object that a file holds, or that goes on with a run or a checkpoint.

    Args:
        source: A file, a run's folder or a checkpoint.
        state: Where each stream of a run begins: see `OnlineObject.from_run`.
        stream: Of an anomaly run with several streams: see `DREAMAnomalyDetector.from_run`.

    Raises:
        CheckpointError: it is neither, or damaged; or the run does not hold where its test ended.
        ConfigError: no row object goes on with such runs; or `stream` names one where there are none.
    """
    if source.is_dir() or source.suffix == ".ckpt":
        module = read_module(source)
        cls = CLASSES[kind_of(module)]
        run = run_of(module, source, state, cls.kind, stream)
        if issubclass(cls, DREAMAnomalyDetector):
            return cls._of_run(run, stream)
        if stream is None:
            return cls._of_run(run)
    if stream is not None:
        raise ConfigError(f"`--stream` is for anomaly runs with several streams; {source} is none.")
    header, _ = read_sealed(source, "the `save` of a row object", {"format": "dream-learner"})
    if (kind := header.get("kind", "")) not in CLASSES:
        raise CheckpointError(f"{source} holds a row object of an unknown kind; got {kind!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DREAMWarning)  # advice for training
        return CLASSES[kind].load(source)
