"""`OnlineObject`: rows as dictionaries, a learner that the first row starts, and files.

Shapes: D input columns, H rows ahead, C targets (classes for classification).
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dream import DREAMConfig
from dream.errors import CheckpointError, DataError, DREAMError, nearest, shown, warn
from dream.sealed import read_sealed, write_sealed
from lightning_modules.calls import Whole, alone
from lightning_modules.checks import require, require_int
from lightning_modules.data.categories import expanded, expanded_row
from lightning_modules.data.columns import require_lags
from lightning_modules.data.frames import as_pandas
from lightning_modules.data.series import Scaler, carry_forward
from lightning_modules.learners.from_run import UNTRAINED, Origin, Run, Source, State, read_run
from lightning_modules.learners.values import Row, Table, by_name, number, numbers, texts
from lightning_modules.online import OnlineModule
from lightning_modules.online.module import NEWEST
from lightning_modules.stream import Moves, Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.checks import require_like

VERSION = 3  # 2 and 1 were of the first edition of the cell
AT_ONCE = 4096  # rows of a table that are learnt together
WARNINGS = 20  # of one object


class OnlineObject(Whole):
    """Base of the objects that learn row by row: a `StreamLearner` that the first row starts.

    Rows are dictionaries from column name to number, which may be one of Python, NumPy, pandas or torch, or a
    text as a CSV file holds it. The first row that is learnt from fixes the columns, whose order in later
    rows does not matter; a column that comes later is left out, with a warning. None, NaN, an empty text or
    an absent column was not observed: the layer reads what it predicts in its place, no statistic of the
    column moves, and a row in which nothing was observed is a row like any other. A prediction changes
    nothing.
    Any thread may use an object: calls wait for each other. A call that an error or Ctrl-C ends changes
    nothing.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of its input.
        reading: How rows are normalised, and which values the head receives.
        updates: How and when the weights are updated.
        moves: Which weights `updates` changes: the head's, or all. The fast weights learn in either case.
        seed: Seed of the first weights. Nothing else is random, and the global generators are left alone.
        lags: For a single input column: its values that the layer reads in each row, the present one and the
            lags - 1 before it. `reading.lags` are those that the head reads.
    """

    kind: ClassVar[str]
    """Name of the class in files."""

    def __init__(
        self,
        config: DREAMConfig,
        reading: Reading,
        updates: Updates,
        moves: Moves = "head",
        seed: int = 0,
        lags: int = 1,
    ) -> None:
        require("config", type(config).__name__, isinstance(config, DREAMConfig), "a DREAMConfig")
        require("moves", moves, moves in get_args(Moves), "head or all")
        require("seed", seed, isinstance(seed, int), "a whole number")
        self.config = config
        self.reading = reading
        self.updates = updates
        self.moves = moves
        self.seed = seed
        self.lags = require_int("lags", lags)
        self.columns: list[str] = []
        self.learner: StreamLearner | None = None
        self.origin: Origin | None = None
        """Facts of the run that it goes on with; None where it began untrained."""
        self._scaler: Scaler | None = None
        self._target_scaler: Scaler | None = None
        self._told: frozenset[str] = frozenset()
        """Warnings that were given."""

    @classmethod
    def from_run(cls, source: Source, state: State = "end") -> Self:
        """Go on with what a run has trained.

        Rows are read as the run's data were: columns by name, on their scales, with the same treatment of
        missing values. What learns on is what the first of the run's modes names. `source` stays as it is.

        Args:
            source: A run's folder, whose best checkpoint is taken; ``latest``, the newest one in ``runs``; a
                checkpoint file; or a module that was fitted or tested.
            state: `end` goes on from the newest state of the stream, with all that it carried: where
                ``dream predict --learn`` has brought it, or else after the last row of the run's own test.
                The next row gets the numbers that these would have given it. `fresh` begins a new stream with
                the trained weights.

        Raises:
            CheckpointError: there is no such run, it is damaged, or of an earlier format; or with `end` it
                was not tested.
            ConfigError: another class goes on with such runs, or the core is not DREAM.
        """
        return cls._of_run(read_run(source, state, cls.kind))

    @classmethod
    def _of_run(cls, run: Run) -> Self:
        """The object that goes on with a run of the online task.

        Raises:
            ConfigError, CheckpointError: see `from_run`.
        """
        module = run.module
        assert isinstance(module, OnlineModule)
        mode, settings = module.modes[0], module.settings
        updates, moves = module.updates_of(mode)
        new = cls(
            module.config, settings.reading, updates, moves, lags=module.shape.lags, **cls._arguments(run)
        )
        new.learner = module.make_learner(mode, torch.device("cpu"))
        if run.end is not None:
            new.learner.load({name: value for name, value in run.end.tensors.items() if name != NEWEST})
        else:
            new.learner.learning = moves == "all" or "head" in mode
        roles = run.schema.columns
        targets = roles.get("targets", ())
        inputs = roles.get("inputs") or (*targets, *roles.get("covariates", ()))
        new._settle_columns(
            list(inputs),
            Origin.of_stream(run, tuple(run.schema.vocabulary or targets), new.learner.plasticity),
        )
        return new

    @classmethod
    def _arguments(cls, run: Run) -> dict[str, Any]:
        """Arguments of ``__init__`` that only this class has, for an object that goes on with a run."""
        return {}

    def _settle_columns(self, columns: list[str], origin: Origin | None) -> None:
        """Set the columns, and how a run's data had them."""
        self.columns, self.origin = columns, origin
        if origin is not None and origin.scales:
            self._scaler = origin.scaler(columns)
            if self.kind != "classifier":
                self._target_scaler = origin.scaler(origin.targets)

    @classmethod
    def _kind(cls) -> dict[str, str]:
        """The part of a file's header that marks it as one of this class."""
        return {"format": "dream-learner", "version": str(VERSION), "kind": cls.kind}

    @abstractmethod
    def _shape(self) -> Shape:
        """Task and sizes of the learner, once the columns are known."""

    def _extra(self) -> dict[str, Any]:
        """Further content of a file, as JSON: `arguments` of ``__init__``, and facts learnt from the rows."""
        return {}

    def _set_extra(self, extra: Mapping[str, Any]) -> None:
        """Restore the facts that `_extra` returned."""

    def _tensors(self) -> dict[str, Tensor]:
        """Tensors of a file besides the learner's."""
        return {}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `_tensors` returned."""
        require_like(tensors, {})

    @property
    def time_column(self) -> str | None:
        """Column in which rows may hold their time stamps, as those of the run did; None without a run."""
        return None if self.origin is None else self.origin.time_column

    @property
    def started(self) -> bool:
        """Whether it knows its columns and can go on from row to row."""
        return self.learner is not None

    def _held(self, core: bool = True) -> dict[str, Tensor]:
        """All that `_hold` needs, by name, in the object's memory; the core's weights only with `core`."""
        return {} if self.learner is None else self.learner._carried(core) | self._tensors()

    def _hold(self, tensors: Mapping[str, Tensor], core: bool = True) -> None:
        """Go on from what `_held` returned for an object of the same settings, with the same `core`."""
        of_learner = {name: value for name, value in tensors.items() if StreamLearner.owns(name)}
        self._start().load(of_learner, core)
        self._load_tensors({name: value for name, value in tensors.items() if name not in of_learner})

    def _shared(self) -> list[Any]:
        """Parts that many streams of this object may share, since no row changes them."""
        assert self.learner is not None
        network = self.learner.network
        return [network.core, network.head] if self.learner.rests else [network.core]

    def _share(self, first: OnlineObject) -> None:
        """Read single rows with what `first`, which has the same core, made ready for them."""
        assert self.learner is not None
        assert first.learner is not None
        single = first.learner.reader.single(first.learner.plasticity)
        self.learner.reader.share(None if single is None else single[0])

    def _signals(self) -> tuple[float, float] | None:
        """Running surprise and norm of the fast weights of the first layer; None without any."""
        return None if self.learner is None else self.learner.reader.signals()

    def _note(self) -> Any:
        return None if self.learner is None else self.learner._note(), self._content()

    def _recover(self, note: Any) -> None:
        learner, own = note
        vars(self).update(own)
        if self.learner is not None:
            self.learner._recover(learner)

    def _start(self) -> StreamLearner:
        """The learner; built if this is the first row."""
        if self.learner is None:
            require_lags(self.lags, self.columns)
            own = self.origin or UNTRAINED
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                layers = own.hidden_dims, own.dropout, own.backend
                network = StreamNetwork(self._shape(), self.reading, self.config, "dream", *layers)
            self.learner = StreamLearner(network, self.updates, self.moves, own.plasticity, own.delay)
        return self.learner

    def _row(self, x: Row, fix: bool = False) -> np.ndarray:
        """The values of `x` in the order of the columns, (D,); with `fix` the first row fixes the columns.

        Raises:
            DataError: the first row is empty, a value is not a number, or out of all proportion to those of
                the run's training.
        """
        values = self._values(x, fix)
        return values if self.origin is None else self._as_in_run(values[None], self.origin)[0]

    def _as_in_run(self, rows: np.ndarray, origin: Origin) -> np.ndarray:
        """Rows (T, D) that come next, as the run's data would have them: standardised, filled.

        Raises:
            DataError: a value is out of all proportion to those of the run's training.
        """
        learner = self._start()
        self._tell_missing(rows, origin, "it is read as not observed")
        if self._scaler is not None:
            rows = self._scaler.standardise(rows, self.columns, "the stream", first=learner.row)
        if origin.missing == "ffill" and np.isnan(rows).any():
            past = learner.state.normalizer
            unknown = 0.0 if origin.scales else np.nan  # the mean of the training rows, where there were any
            before = torch.where(past.count > 0, past.last, unknown)[0].cpu().numpy()
            rows = carry_forward(rows, before)
        return rows

    def _values(self, x: Row, fix: bool) -> np.ndarray:
        """See `_row`, as they were given."""
        named = by_name("x", x)
        if not named and not self.columns:
            raise DataError(
                "`x` must be a dictionary that names the columns in the first row; got {}. Give None where a "
                "value is not known."
            )
        if self.origin is not None and self.origin.categories:
            named = expanded_row(named, self.origin.categories)
        columns = self.columns or list(named)
        self._tell_new(named, columns)
        values = [number("x", named.get(name), name) for name in columns]
        if fix:
            self.columns = columns
        return np.array(values)

    def _table(self, x: Table) -> np.ndarray:
        """The rows of `x` in the order of the columns, (T, D); the first row fixes the columns.

        Raises:
            DataError: it is no table, two columns have one name, or a value is not a number.
        """
        x = as_pandas(x)
        if not isinstance(x, pd.DataFrame):
            if isinstance(x, str | Mapping | pd.Series) or not isinstance(x, Iterable):
                raise DataError(f"`x` must be a DataFrame or a list of rows; got {shown(x)}.")
            given_rows = [self._values(row, fix=True) for row in x]
            table = np.stack(given_rows) if given_rows else np.zeros((0, len(self.columns)))
            return table if self.origin is None else self._as_in_run(table, self.origin)
        if self.origin is not None and self.origin.categories:
            words = self.origin.categories
            x = x.assign(**{name: None for name in words if name not in x})
            x, _ = expanded(x, [*words], words)
        given = {str(column): x.iloc[:, place] for place, column in enumerate(x.columns)}
        if len(given) < x.shape[1]:
            raise DataError(f"`x` must hold each column once; got {shown(list(x.columns))}.")
        self.columns = self.columns or list(given)
        self._tell_new(given, self.columns)
        rows = np.full((len(x), len(self.columns)), np.nan)
        for place, column in enumerate(self.columns):
            if column in given:
                rows[:, place] = numbers("x", given[column], column)
        return rows if self.origin is None else self._as_in_run(rows, self.origin)

    def _tell_missing(self, rows: np.ndarray, origin: Origin, instead: str) -> None:
        """Warn of a missing value that the run's data would have refused; `instead` is what becomes of it."""
        if origin.missing == "error" and np.isnan(rows).any():
            self._warn(f"a value is missing, which the run's data refused (`data.missing=error`); {instead}.")

    def _tell_new(self, named: Iterable[str], columns: list[str]) -> None:
        """Warn of a column that the first row, or the run, did not have."""
        for name in named:
            if name in columns or name == self.time_column:
                continue
            if self.origin is not None:
                self._warn(f"`{name}` is left out: the run did not read it. {nearest(name, columns)}")
            else:
                self._warn(
                    f"`{name}` is left out: the first row did not have it, which fixes the columns. "
                    f"{nearest(name, columns)} Name every column in the first row, with None where its value "
                    "is not known."
                )

    def _in_units(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions (..., C) of the network in the units of the rows that were given."""
        return predictions if self._target_scaler is None else self._target_scaler.inverse(predictions)

    def _warn(self, message: str) -> None:
        """Give a warning once; none after the first `WARNINGS`."""
        if message not in self._told and len(self._told) < WARNINGS:
            self._told |= {message}
            warn(message, "dream", "lightning_modules")

    def _learn_table(self, rows: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
        """Learn rows (T, D) from their targets; returns predictions of the last ones, (H, C) each.

        Raises:
            DataError: there is none.
        """
        if not len(rows):
            raise DataError("`x` must hold at least one row; got none.")
        learner, predictions = self._start(), np.zeros(0)
        for start in range(0, len(rows), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            known = None if targets is None else targets[part]
            predictions, _ = learner.advance(rows[part], known, wanted=False)
        return predictions

    @alone
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a safetensors file, whole or not at all; `load` resumes from it exactly.

        Raises:
            CheckpointError: the file cannot be written.
        """
        write_sealed(path, *self._sealed())

    def _sealed(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Header and tensors of a file that holds everything."""
        settings = dict(
            config=asdict(self.config),
            reading=asdict(self.reading),
            updates=asdict(self.updates),
            moves=self.moves,
            seed=self.seed,
            lags=self.lags,
            extra=self._extra(),
        )
        if self.origin is not None:
            settings["origin"] = asdict(self.origin)
        plain = {"settings": settings, "columns": self.columns}
        header = self._kind() | {name: json.dumps(part, allow_nan=False) for name, part in plain.items()}
        return header, self._held()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The object that `save` wrote.

        Raises:
            CheckpointError: the file does not exist, is damaged, is of another kind or version, or holds what
                no such object does.
        """
        header, tensors = read_sealed(path, f"save of a {cls.__name__}", cls._kind())
        try:
            return cls._restored(header, tensors)
        except (
            DREAMError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            MemoryError,
        ) as error:
            raise CheckpointError(f"{os.fspath(path)} is inconsistent: {error}") from None

    @classmethod
    def _restored(cls, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Self:
        """The object of a file's content; any error means that no `save` wrote it."""
        settings = json.loads(header["settings"])
        extra, origin = settings.pop("extra"), settings.pop("origin", None)
        settings |= dict(
            config=DREAMConfig(**settings["config"]),
            reading=Reading(**settings["reading"]),
            updates=Updates(**settings["updates"]),
        )
        new = cls(**settings, **extra.get("arguments", {}))
        new._settle_columns(texts("columns", json.loads(header["columns"])), Origin.from_plain(origin))
        new._set_extra(extra)
        if tensors:
            new._hold(tensors)
        return new
