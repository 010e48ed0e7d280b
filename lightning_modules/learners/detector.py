"""`DREAMAnomalyDetector`: how unusual each row of a stream is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from dream import DREAMConfig
from dream.errors import CheckpointError, DataError
from lightning_modules.anomaly import AnomalyModule, AnomalyShape
from lightning_modules.anomaly.scores import AnomalyScore, RunningScale, carried_tensors, load_carried
from lightning_modules.anomaly.settings import AnomalySettings
from lightning_modules.anomaly.watcher import WEIGHTS, Watcher
from lightning_modules.calls import alone, whole
from lightning_modules.checks import require_int
from lightning_modules.cores import build_core
from lightning_modules.data.series import carry_forward
from lightning_modules.data.truth import is_truth
from lightning_modules.learners.base import AT_ONCE, OnlineObject
from lightning_modules.learners.from_run import TIME, Origin, Run, Source, State, named_stream, read_run
from lightning_modules.learners.values import Row, Table
from lightning_modules.stream import LAYER, Moves, Reading, Shape, Updates
from lightning_modules.stream.checks import require_like
from lightning_modules.stream.state import part


class Judgement(NamedTuple):
    """Judgement of a row, before it is learnt."""

    score: float
    """From 0 to 1."""
    alarm: float
    """Strength of the alarm, 0 for none."""
    measure: str | None
    """Measure that was most improbable, of `lightning_modules.anomaly.scores.MEASURES`; None if none was."""
    column: str | None
    """Its column; None for a measure of all columns together, such as surprise."""
    flag: bool = False
    """Whether the score is above the threshold of the detector."""
    raised: bool = False
    """Whether the row is flagged and has an alarm."""


@dataclass(frozen=True)
class Watch:
    """Facts about the run that a detector goes on with, besides its weights."""

    settings: dict[str, Any]
    """Those of its `AnomalyModule`."""
    shape: dict[str, Any]
    """Columns and lags."""
    training: int
    """Rows of the training part of its stream."""
    threshold: float
    """Score above which a row of its stream is flagged."""

    def watcher(self, config: DREAMConfig, weights: Mapping[str, Tensor]) -> Watcher:
        """A watcher of a new stream, whose core has these weights."""
        settings = AnomalySettings(**self.settings)
        with torch.random.fork_rng(devices=[]):  # the weights below take the place of those that it draws
            core = build_core(settings.core, config, settings.hidden_dims, settings.dropout, settings.backend)
        dtypes = [value.dtype for value in weights.values() if value.is_floating_point()]
        core.to(dtypes[0])
        core.load_state_dict(weights)
        return Watcher(core, settings, AnomalyShape(**self.shape), self.training)


NOT_YET = Judgement(0.0, 0.0, None, None)


class DREAMAnomalyDetector(OnlineObject):
    """Scores each row by how improbable its deviation from the forecast is, given the recent past.

    The score is that of the anomaly task, `AnomalyScore`, with the measures of the forecast and of the data:
    0.1 for each decade of tail probability, so that 0.3 is a row such as one in a thousand. Rows are scored
    before they are learnt, so that an anomaly is compared with the past alone. What was not observed
    has no score, and a row in which nothing was scores 0.

    `from_run` goes on with what `dream fit` has trained: the layer's own prediction, its surprise and the
    settings of the run take the place of the head that learns here, and rows above the threshold of the run
    are flagged. A detector that began untrained has no threshold, and flags nothing.

    Args:
        config, reading, updates, moves, seed, lags: See `OnlineObject`.
        window: Rows after which the past of scales and tails fades.

    Example:
        >>> model = DREAMAnomalyDetector(window=100)
        >>> for k in range(300):
        ...     model = model.learn_one({"a": (k * 37 % 100) / 100})
        >>> model.score_one({"a": 9.0}) > 0.5 > 0.2 > model.score_one({"a": 0.5})
        True
    """

    kind = "anomaly detector"

    def __init__(
        self,
        config: DREAMConfig = LAYER,
        reading: Reading = Reading(rate=0.01, lags=4),  # noqa: B008 - frozen
        updates: Updates = Updates("least_squares", forgetting=0.999),  # noqa: B008 - frozen
        moves: Moves = "head",
        seed: int = 0,
        window: int = 1000,
        lags: int = 1,
    ) -> None:
        super().__init__(config, reading, updates, moves, seed, lags)
        require_int("window", window)
        self.window = window
        self.expected: np.ndarray | None = None
        """(D,) forecast of the next row."""
        self._judged: tuple[bytes, RunningScale, tuple[Judgement, RunningScale, AnomalyScore]] | None = None
        """The row that was judged last, the scale before it, and what came out."""
        self.watch: Watch | None = None
        """The run that it goes on with; None where it began untrained."""
        self._watcher: Watcher | None = None
        self._watched: tuple[bytes, Watcher, tuple[Judgement, Watcher]] | None = None
        """The row that was judged last, what read the rows before it, and what came out."""

    @classmethod
    def from_run(cls, source: Source, state: State = "end", stream: str | None = None) -> Self:
        """Go on with what a run has trained; see `OnlineObject.from_run`.

        Rows are scored as `AnomalyModule` scores them.

        Args:
            source, state: See `OnlineObject.from_run`. A new stream has the threshold from the training part
                of the run's, and the same gap between alarms; where the run does not adapt, as many of its
                rows teach.
            stream: Name of the run's stream that is gone on with, where it has several; with `fresh`, whose
                threshold it is.

        Raises:
            CheckpointError: see `OnlineObject.from_run`; or it holds no threshold.
            ConfigError: see there; or `stream` is none of the run's, or must be given.
        """
        return cls._of_run(read_run(source, state, cls.kind, stream), stream)

    @classmethod
    def _of_run(cls, run: Run, stream: str | None = None) -> Self:
        module = run.module
        assert isinstance(module, AnomalyModule)
        if run.end is not None:
            training, threshold = run.end.place.training, run.end.facts.get("threshold")
        elif module.thresholds:
            name = named_stream(list(module.thresholds), stream)
            training, threshold = module.training_rows[name], module.thresholds[name]
        else:
            raise CheckpointError(
                f"{run.source} holds no threshold: no validation of its training read whole training parts. "
                "Go on with the stream of its test, state='end', or train again."
            )
        if not isinstance(threshold, float):
            raise CheckpointError(f"{run.source} must hold the threshold of its stream; got {threshold!r}.")
        shape, settings = asdict(module.shape), asdict(module.settings)
        new = cls(module.config, lags=module.shape.lags)
        origin = Origin((), {}, module.missing, time_column=run.schema.time_column or TIME)
        new._settle_columns(list(run.schema.columns["columns"]), origin)
        new.watch = Watch(settings, shape, training, threshold)
        new._watcher = new.watch.watcher(module.config, module.core.state_dict())
        if run.end is not None:
            new._watcher.resume(run.end.tensors, run.end.place.rows)
        return new

    @property
    def threshold(self) -> float | None:
        """Score above which a row is flagged; None where it is not known, without a run."""
        return None if self.watch is None else self.watch.threshold

    @property
    def started(self) -> bool:
        return self._watcher is not None or super().started

    def _as_in_run(self, rows: np.ndarray, origin: Origin) -> np.ndarray:
        assert self._watcher is not None
        self._tell_missing(rows, origin, "it is read as not observed")
        fills = origin.missing == "ffill" and np.isnan(rows).any()
        return carry_forward(rows, self._watcher.last) if fills else rows

    def _shape(self) -> Shape:
        return Shape("forecasting", len(self.columns), len(self.columns), lags=self.lags)

    def _extra(self) -> dict[str, Any]:
        run = {} if self.watch is None else {"watch": asdict(self.watch)}
        return {"arguments": {"window": self.window}} | run

    def _set_extra(self, extra: Mapping[str, Any]) -> None:
        if "watch" in extra:
            self.watch = TypeAdapter(Watch).validate_python(extra["watch"])

    def _held(self, core: bool = True) -> dict[str, Tensor]:
        return super()._held(core) if self._watcher is None else self._watcher.tensors(core)

    def _hold(self, tensors: Mapping[str, Tensor], core: bool = True) -> None:
        if self.watch is None:
            super()._hold(tensors, core)
            return
        watcher = self._watcher
        if core or watcher is None:
            watcher = self.watch.watcher(self.config, part(tensors, WEIGHTS))
        watcher = watcher.copy()
        watcher.load({name: value for name, value in tensors.items() if not name.startswith(WEIGHTS)})
        self._watcher = watcher

    def _shared(self) -> list[Any]:
        return super()._shared() if self._watcher is None else [self._watcher.core]

    def _share(self, first: OnlineObject) -> None:
        if self._watcher is None:
            super()._share(first)
            return
        assert isinstance(first, DREAMAnomalyDetector)
        assert first._watcher is not None
        self._watcher.share(first._watcher)

    def _signals(self) -> tuple[float, float] | None:
        return super()._signals() if self._watcher is None else self._watcher.signals()

    def _make_scoring(self) -> None:
        self.scale = RunningScale(1, len(self.columns), self.window)
        self.score = AnomalyScore(1, len(self.columns), self.window, np.ones(1, dtype=int))

    def _tensors(self) -> dict[str, Tensor]:
        assert self.expected is not None
        return carried_tensors(self.scale, self.score) | {"expected": torch.from_numpy(self.expected)}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._make_scoring()
        like = torch.zeros(len(self.columns), dtype=torch.float64)
        scoring = {name: value for name, value in tensors.items() if name != "expected"}
        require_like({name: tensors[name] for name in tensors.keys() - scoring.keys()}, {"expected": like})
        load_carried(self.scale, self.score, scoring)
        self.expected = tensors["expected"].numpy()

    def _judge(self, row: np.ndarray, expected: np.ndarray) -> tuple[Judgement, RunningScale, AnomalyScore]:
        """Judgement of `row` (D,), forecast as `expected` (D,), and what scale and score learn from it.

        It is kept, for the case that the same row is learnt next.
        """
        if self._judged is not None:
            given, before, judged = self._judged
            if before is self.scale and given == row.tobytes():
                return judged
        scale, score = self.scale.copy(), self.score.copy()
        value, alarm = _scored(row[None], expected[None], scale, score)
        judged = self._judgement(value[0], alarm[0], score), scale, score
        self._judged = row.tobytes(), self.scale, judged
        return judged

    def _judgement(self, value: float, alarm: float, score: AnomalyScore) -> Judgement:
        measure, place = score.cause_of(0) if value > 0 else (None, None)
        column = None if place is None else self.columns[place]
        flag = self.threshold is not None and bool(value > self.threshold)
        return Judgement(float(value), float(alarm), measure, column, flag, flag and bool(alarm > 0))

    def _look(self, row: np.ndarray, watcher: Watcher) -> tuple[Judgement, Watcher]:
        """Judgement of `row` (D,) by a run's model, and that model after the row; kept as in `_judge`."""
        if self._watched is not None:
            given, before, found = self._watched
            if before is watcher and given == row.tobytes():
                return found
        after = watcher.copy()
        (value,), (alarm,) = after.read(row[None])
        found = self._judgement(value, alarm, after.score), after
        self._watched = row.tobytes(), watcher, found
        return found

    @classmethod
    def _learn_together(cls, detectors: Sequence[DREAMAnomalyDetector], rows: np.ndarray) -> list[Judgement]:
        """Judge, then learn the next row (N, D) of each of N streams of one run, as alone.

        None is judged where rows cannot be read at once.
        """
        watchers = [detector._watcher for detector in detectors if detector._watcher is not None]
        whole = len(watchers) == len(rows)  # and so of one run
        found = Watcher.together(watchers, rows) if whole else None
        judged = []
        for detector, score, alarm, after in zip(detectors, *found, strict=True) if found else ():
            judged.append(detector._judgement(score, alarm, after.score))
            detector._watcher = after
        return judged

    @alone
    def score_one(self, x: Row) -> float:
        """Score of row `x` if it came next, from 0 to 1; 0 while too few rows are known.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        return self.judge_one(x).score

    @alone
    def judge_one(self, x: Row) -> Judgement:
        """Score of row `x` if it came next, its alarm, and the measure and column that made it so high.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        row = self._row(x)
        if self._watcher is not None:
            return self._look(row, self._watcher)[0]
        return NOT_YET if self.expected is None else self._judge(row, self.expected)[0]

    @whole
    def learn_one(self, x: Row) -> DREAMAnomalyDetector:
        """Read row `x` and learn from it what is usual.

        Raises:
            DataError: the columns are others, or a value is not allowed.
        """
        self._learn(self._row(x, fix=True)[None])
        return self

    @whole
    def learn_many(self, x: Table) -> DREAMAnomalyDetector:
        """Read a table of rows, oldest first, and learn from it: as `learn_one` of each row, but faster.

        Args:
            x: A DataFrame, or a list of rows.

        Raises:
            DataError: the columns are others, a value is not allowed, or there is no row.
        """
        rows = self._table(x)
        if not len(rows):
            raise DataError("`x` must hold at least one row; got none.")
        for start in range(0, len(rows), AT_ONCE):
            self._learn(rows[start : start + AT_ONCE])
        return self

    def _learn(self, rows: np.ndarray) -> None:
        if self._watcher is not None:
            if len(rows) == 1:
                _, self._watcher = self._look(rows[0], self._watcher)
                return
            watcher = self._watcher.copy()
            watcher.read(rows)
            self._watcher = watcher
            return
        if self.expected is None:
            self._make_scoring()
            for name in filter(is_truth, self.columns):
                self._warn(
                    f"column `{name}` is watched like any other; if it tells the anomalies, leave it out of "
                    "the rows, or the detector reads the truth."
                )
            self.expected = np.where(np.isnan(rows[0]), 0.0, rows[0])
        forecasts = self._start().advance(rows)[0][:, 0]
        if len(rows) == 1:
            _, self.scale, self.score = self._judge(rows[0], self.expected)
        else:
            scale, score = self.scale.copy(), self.score.copy()
            _scored(rows, np.concatenate([self.expected[None], forecasts[:-1]]), scale, score)
            self.scale, self.score = scale, score
        self.expected = forecasts[-1]


def _scored(
    rows: np.ndarray, expected: np.ndarray, scale: RunningScale, score: AnomalyScore
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and alarms (T,) of `rows` (T, D), forecast as `expected` (T, D); `scale` and `score` learn."""
    learning = np.ones((1, len(rows)), dtype=bool)
    x, _, prediction = scale.read(rows[None], learning, expected[None])
    assert prediction is not None
    (scores,), (alarms,) = score.read(x, prediction, np.zeros((1, len(rows), 2)), learning)
    return scores, alarms
