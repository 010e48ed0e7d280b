"""`TaskModule`, the base of all tasks: settings, optimiser and schedule, carried state, results.

Shapes: N samples of the batch, T steps.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, NamedTuple, Self, get_type_hints
from weakref import WeakSet

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.parsing import collect_init_args
from matplotlib.figure import Figure
from torch import Tensor

from dream import DREAMConfig, DREAMStack, DREAMState, DREAMTrace, checks, parameter_groups, sums
from dream.errors import CheckpointError, ConfigError, StateError
from dream.files import inside, write_atomic
from dream.hub import Card, Pretrained
from dream.state import where
from lightning_modules import ranks
from lightning_modules.checks import gone, require_finite
from lightning_modules.cores import BaselineCore, build_core, fit_to_width, title
from lightning_modules.data.base import TaskData
from lightning_modules.data.frames import as_pandas, in_kind
from lightning_modules.data.place import StreamEnd, from_plain, plain
from lightning_modules.data.schema import Schema
from lightning_modules.data.series import Missing
from lightning_modules.redaction import redacted, require_given
from lightning_modules.settings import TaskSettings, as_instance
from lightning_modules.tables import csv_text

_seen: WeakSet[L.Trainer] = WeakSet()


def run_folder(trainer: L.Trainer) -> Path:
    """Folder of the Trainer's files, made when it is first asked for, and never again.

    Raises:
        DataError: it was deleted or moved away since.
    """
    folder = Path(trainer.default_root_dir)
    if trainer not in _seen:
        folder.mkdir(parents=True, exist_ok=True)
        _seen.add(trainer)
    elif not folder.is_dir():
        raise gone(folder)
    return folder


class Observation(NamedTuple):
    """Surprise and fast weights of a layer in the last batch, detached; in a test, of scored steps only."""

    surprise: Tensor
    """(N, T)"""
    u_norm: Tensor
    """(N, T)"""
    threshold: Tensor
    """(N,) habituated threshold after the last step"""
    lengths: Tensor | None = None
    """(N,) valid steps of each sample; None if all T are valid"""
    streams: bool = False
    """Whether samples are streams that continue side by side from batch to batch; otherwise they are
    independent, and count one after the other."""

    @property
    def valid(self) -> Tensor:
        """(N, T) True for valid steps, False for padding"""
        if self.lengths is None:
            return torch.ones_like(self.surprise, dtype=torch.bool)
        return torch.arange(self.surprise.shape[1], device=self.surprise.device) < self.lengths.unsqueeze(1)

    def mean(self, values: Tensor) -> Tensor:
        """() mean of `values` (N, T) over the valid steps; never waits for the device"""
        if self.lengths is None:
            return values.mean()
        return torch.where(self.valid, values, 0.0).sum() / self.lengths.sum().clamp_min(1)

    @property
    def last_u_norm(self) -> Tensor:
        """(N,) norm of U after the last valid step of each sample"""
        if self.lengths is None:
            return self.u_norm[:, -1]
        return self.u_norm.gather(1, (self.lengths - 1).clamp_min(0).unsqueeze(1)).squeeze(1)


class TaskModule(L.LightningModule, Pretrained):
    """Base of all tasks: trains a core, DREAM or a rival of it, and carries its state over streams.

    The optimiser is AdamW, whose weight decay touches matrices only (`dream.parameter_groups`). The learning
    rate rises linearly over the first `warmup` share of the steps and then follows half a cosine down to 1 %
    of `lr`, or stays. Gradient clipping is the Trainer's (``--trainer.gradient_clip_val``).

    State: a batch with a reset mask continues the samples of the batch before it. `carried` returns the
    core's states, detached, and fresh where the mask is True; they are dropped at the start of every epoch
    and around validation.

    A task derives from it: its settings are a `TaskSettings`, the facts about its data a frozen dataclass
    that the data return as `shape`. Both are kept in checkpoints as plain values, and so is the data's
    `schema`, which all data are read by from then on.

    Args:
        config: The DREAM layer.
        shape: Facts about the data, from `TaskData.shape`.
        settings: All other settings.
    """

    accepts: ClassVar[type[TaskData]]
    """Class of data that the task reads."""
    monitor: ClassVar[str] = "val/loss"
    """Metric that picks the best checkpoint."""
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"
    """Whether the best checkpoint is the one with the lowest or the highest value."""
    higher_is_better: ClassVar[frozenset[str]] = frozenset()
    """Metrics in the table of results of which higher is better; of all others lower is."""
    unranked: ClassVar[frozenset[str]] = frozenset()
    """Metrics that are not ranked, since neither higher nor lower is better, such as coverage."""

    core: DREAMStack | BaselineCore
    settings: TaskSettings
    vocabulary: Any = None
    """Symbols or classes by number, from the data or a checkpoint; None before either is there, and in tasks
    without any."""
    data: TaskData | None = None
    """Data that the module was prepared for; set by `prepare`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        declared = [base for base in cls.__mro__ if "settings" in vars(base).get("__annotations__", {})]
        if cls in declared and declared[1:] != [TaskModule]:
            raise ConfigError(
                f"`{cls.__name__}.settings` must stay those of the task it derives from; got another class. "
                "Declare settings of its own as arguments of its `__init__`, beside **settings."
            )

    def __init__(self, config: DREAMConfig, shape: Any, settings: TaskSettings) -> None:
        super().__init__()
        self.config = as_instance(DREAMConfig, config, "config")
        self.shape = shape
        self.schema: Schema | None = None
        """Facts about the data that the weights were trained on, from the training or a checkpoint. Set
        to None before a fit, its data are read as the first of these weights are."""
        self.ends: dict[str, StreamEnd] = {}
        """Where each stream of the last test ended, or of the test of the run that wrote a checkpoint, by its
        name; none where there was no test, or no stream."""
        self.missing: Missing = "error"
        """Treatment of missing values by the data that it was last prepared for, or of a checkpoint."""
        self.settings = settings
        self.observed: list[Observation] = []
        self.may_have_ended = False
        """Whether the next fit resumes a run that may have trained all its steps already."""
        self._trained = False
        self.results: dict[str, dict[str, float]] = {}
        """Results of the last test, or of that of the run that wrote a checkpoint: model, then metric, then
        value."""
        self.by_series: dict[str, dict[str, float]] = {}
        """The module's own test results of each of several series: id, then metric, then value."""
        self.gradient_norm: Tensor | None = None
        """() norm of all gradients before clipping, if a callback has computed it already."""
        self.steps_read: int | Tensor = 0
        """Valid steps that the layers read in the last batch, summed over its samples."""
        self._states: list[DREAMState] | None = None
        self._per_stream = 1
        self.held: dict[str, list[DREAMState]] = {}
        """States of each of `variants`, carried through a test."""
        self._validation_sums: list[Tensor] = []

    @classmethod
    def for_data(cls, data: TaskData, **settings: Any) -> Self:
        """Build a module for `data`, which determine its `shape`; all other arguments are `settings`.

        Raises:
            ConfigError: a setting that the data determine.
            DataError: the data cannot be read.
        """
        shape = data.shape
        for name in ("shape", *(field.name for field in fields(shape))):
            if name in settings:
                raise ConfigError(f"`{name}` is given by the data; leave it out here.", key=name)
        return cls(shape=shape, **settings)

    @classmethod
    def settings_class(cls) -> type[TaskSettings]:
        """Class of `settings`."""
        found: type[TaskSettings] = get_type_hints(cls)["settings"]
        return found

    @classmethod
    def default_config(cls) -> DREAMConfig:
        """Layer of a module that is built without one."""
        signatures = (inspect.signature(base).parameters for base in cls.__mro__)
        found: DREAMConfig = next(names["config"].default for names in signatures if "config" in names)
        return found

    @classmethod
    def require_data(cls, kind: type) -> None:
        """Refuse a class of data that the task does not read.

        Raises:
            ConfigError: naming the class that it reads.
        """
        if not issubclass(kind, cls.accepts):
            wanted = cls.accepts.__name__
            article = "an" if wanted[0] in "AEIOU" else "a"
            remedy = f"Try {cls.accepts.for_own_files}"
            raise ConfigError(
                f"`data` must be {article} {wanted}; got {kind.__name__}. {remedy}.", key="data"
            )

    def make_core(self, input_dim: int | None = None) -> DREAMStack | BaselineCore:
        """Build the core for inputs of width `input_dim`, by default the config's, and save all arguments."""
        settings = self.settings
        width = self.config.input_dim if input_dim is None else input_dim
        self.config = fit_to_width(self.config, width)
        self.save_arguments()
        return build_core(
            settings.core, self.config, settings.hidden_dims, settings.dropout, settings.backend
        )

    @property
    def hparams_initial(self) -> Any:
        """Settings that loggers are told, without secrets."""
        return redacted(dict(super().hparams_initial))

    def save_arguments(self) -> None:
        """Save the arguments of ``__init__`` as plain values, so that any checkpoint loads safely.

        Those that a derived class adds are saved where they are plain; others are given again to
        `load_from_checkpoint`. Nothing is logged here: the command logs the whole configuration.
        """
        require_given(asdict(self.settings), "model")
        plain = {"config": asdict(self.config), "shape": asdict(self.shape), **asdict(self.settings)}
        frame = inspect.currentframe()
        assert frame is not None
        for given in collect_init_args(frame, [], classes=(TaskModule,)):
            added = given.keys() - plain.keys()
            plain |= {name: given[name] for name in sorted(added) if _is_plain(given[name])}
        self.save_hyperparameters(plain, logger=False)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[Any],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **settings: Any,
    ) -> Self:
        """Return the module in a checkpoint, as Lightning's method of that name, but run no code in the file.

        Args:
            checkpoint_path: A file on this machine.
            map_location: Device for the weights; where they were, if not given.
            hparams_file: YAML file with settings that beat those in the checkpoint.
            strict: Whether the weights must be those of the module and no others; they must, if not given.
            weights_only: True; nothing else is done.
            **settings: Settings that beat those in the checkpoint.

        Raises:
            CheckpointError: It is an address, damaged, no checkpoint, or names classes to build.
            ConfigError: `weights_only` is False.
        """
        from lightning_modules.run import checkpoints  # which knows this class

        if weights_only is False:
            raise ConfigError(
                "`weights_only` must be True, since a checkpoint runs nothing; got False. Leave it out.",
                key="weights_only",
            )
        if not isinstance(checkpoint_path, str | Path):
            raise CheckpointError(
                f"`checkpoint_path` must be a file; got {type(checkpoint_path).__name__}. Write it to one."
            )
        path = checkpoints.local(checkpoint_path)
        checkpoints.require_plain(checkpoints.load(path).get("hyper_parameters", {}), path)
        return super().load_from_checkpoint(
            path, map_location, hparams_file, strict, weights_only=True, **settings
        )

    @property
    def title(self) -> str:
        """Name of the core in tables."""
        return title(self.settings.core, self.config)

    @property
    def variants(self) -> dict[str, bool]:
        """Rows of the table of results from these weights, own row first, and whether fast weights learn."""
        plastic = self.settings.core == "dream" and self.config.base_plasticity > 0
        return {self.title: True} | ({f"{self.title}, plasticity off": False} if plastic else {})

    @contextmanager
    def variant(self, name: str) -> Iterator[None]:
        """Context in which the core computes one of `variants`."""
        with self.core.plasticity(self.variants[name] and self.core.plasticity_enabled):
            yield

    def carried(self, reset: Tensor | None, samples: int) -> list[DREAMState] | None:
        """States to start a batch from: None (fresh ones) for windows, the carried ones for streams.

        Args:
            reset: (streams,) True where a new stream starts; None where samples are independent windows.
            samples: N, a multiple of the number of streams: each may have several samples, in succession.
        """
        if reset is None:
            return None
        self._per_stream = samples // len(reset)
        fresh = self.core.init_state(samples)
        if self._states is None or self._states[0].batch_size != samples:
            return fresh
        reset = reset.repeat_interleave(self._per_stream)
        return [state.reset(reset, new) for state, new in zip(self._states, fresh, strict=True)]

    def carry(self, states: list[DREAMState], reset: Tensor | None) -> None:
        """Keep the states at the end of a batch of streams for the next one; for windows do nothing.

        A sample whose new state is not sound (`DREAMState.sound`) resumes from its state before the batch.
        """
        if reset is not None:
            before = self.carried(reset, states[0].batch_size)
            assert before is not None
            self._states = [
                where(state.sound(), state.detach(), old) for state, old in zip(states, before, strict=True)
            ]

    def forget_states(self) -> None:
        """Drop all carried states: the next batch starts from fresh ones."""
        self._states = None
        self.held = {}

    @property
    def data_schema(self) -> Schema:
        """Schema of the data that it was prepared for, or of a checkpoint; an empty one before either."""
        return (self.schema if self.data is None else self.data.schema) or Schema()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        carried = [ranks.whole(state, self._per_stream) for state in self._states or []]
        checkpoint["carried"] = [dict(state.items()) for state in carried]
        checkpoint["samples_per_stream"] = self._per_stream
        checkpoint["schema"] = self.data_schema.plain()
        checkpoint["missing"] = self.missing
        checkpoint["streams"] = plain(self.ends)
        checkpoint["results"] = self.results
        for name in (self.CHECKPOINT_HYPER_PARAMS_KEY, TaskData.CHECKPOINT_HYPER_PARAMS_KEY):
            if settings := checkpoint.get(name):
                kept = {"shape": settings["shape"]} if "shape" in settings else {}  # may be named by the data
                checkpoint[name] = type(settings)(redacted(dict(settings)) | kept)

    def _settings(self) -> dict[str, Any]:
        schema = self.schema if self.data is None else self.data.schema
        return {
            "arguments": redacted(dict(self.hparams)),
            "schema": (schema or Schema()).plain(),
            "missing": self.missing,
        }

    @classmethod
    def _from_settings(cls, settings: dict[str, Any]) -> Self:
        new = cls(**settings["arguments"])
        new.adopt(Schema.from_plain(settings["schema"]))
        new.missing = settings["missing"]
        return new

    def _card(self) -> Card:
        schema = self.schema or Schema()
        columns = [f"{role}: {', '.join(names)}" for role, names in schema.columns.items() if names]
        return Card("Columns that it reads: " + "; ".join(columns) if columns else "", figures=self.results)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.adopt(Schema.from_plain(checkpoint.get("schema")))
        self.missing = checkpoint.get("missing", "error") if self.data is None else self.data.missing
        self.ends = from_plain(checkpoint.get("streams", {}), "the checkpoint")
        self.results = dict(checkpoint.get("results", {}))
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and checkpoint["carried"]:
            self._per_stream = checkpoint["samples_per_stream"]
            carried = [DREAMState(**tensors) for tensors in checkpoint["carried"]]
            for state in carried:
                try:
                    state.require_sound()
                except StateError as error:
                    raise CheckpointError(
                        f"the states that the checkpoint carries are damaged: {error}"
                    ) from None
            self._states = [ranks.mine(state, self._per_stream) for state in carried]

    def adopt(self, schema: Schema) -> None:
        """Read all data by `schema`, that of the data which the weights were trained on.

        Raises:
            DataError: the data that the module was prepared for do not match it.
        """
        self.schema = schema
        if schema.vocabulary is not None:
            self.vocabulary = self.read_vocabulary(schema.vocabulary)
        if self.data is not None:
            self.prepare(self.data)

    def read_vocabulary(self, plain: Any) -> Any:
        """Return the vocabulary of a schema, which holds plain values."""
        return plain

    def on_fit_start(self) -> None:
        self._trained = False

    def on_fit_end(self) -> None:
        """Refuse a fit that trained no step, whose results would be those of the weights before.

        Raises:
            ConfigError: there was something to train on.
        """
        trains = self.data is not None and self.data.trains
        if trains and not self._trained and not self.may_have_ended:
            raise ConfigError(
                "the fit trained no step: the checkpoint that it went on with has reached `max_epochs` or "
                "`max_steps`, or the Trainer's limits leave no batch. Raise them; `dream fit --from` trains "
                "`max_epochs` more from its weights."
            )

    def on_train_start(self) -> None:
        self.schema = None if self.data is None else self.data.schema
        self.ends, self.results = {}, {}  # of other weights from now on
        if self._states is not None:
            self._states = [state.to(self.device) for state in self._states]

    def on_train_epoch_start(self) -> None:
        self.forget_states()

    def on_validation_epoch_start(self) -> None:
        self.forget_states()
        self._validation_sums = []

    def add_validation(self, total: Tensor, count: Tensor) -> None:
        """Add the sum () of a batch's values and their number () to the mean that is logged as `monitor`."""
        self._validation_sums.append(torch.stack([total, count]))

    def on_validation_epoch_end(self) -> None:
        self.forget_states()
        if self._validation_sums:
            total, count = ranks.mean(torch.stack(self._validation_sums).sum(0))
            self.log(self.monitor, total / count)

    def on_test_epoch_start(self) -> None:
        self.forget_states()

    def require_finite_outputs(
        self, outputs: Mapping[str, Tensor | np.ndarray], place: Callable[[int], str]
    ) -> None:
        """Refuse outputs that are not finite, see `require_finite`, except in the validations of a fit.

        There NaNGuard reports them, and a later epoch may be better.

        Raises:
            DREAMError: naming the outputs, and the place of the first.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            require_finite(outputs, place)

    def observe(
        self,
        traces: list[DREAMTrace],
        states: list[DREAMState],
        lengths: Tensor | None = None,
        streams: bool = False,
    ) -> None:
        """Set `observed` and `steps_read` for callbacks; samples have `lengths` (N,) steps, T if None."""
        self.steps_read = traces[0].surprise.numel() if lengths is None else lengths.sum()
        self.observed = [
            Observation(trace.surprise, trace.u_norm, state.adaptive_tau, lengths, streams)
            for trace, state in zip(traces, states, strict=True)
        ]

    def prepare(self, data: L.LightningDataModule) -> None:
        """Take from the data what the task needs; called before anything runs or is written.

        Data for weights that were trained already follow their `schema`.

        Raises:
            ConfigError, DataError: the data and this module do not fit together.
        """
        self.require_data(type(data))
        assert isinstance(data, TaskData)
        data.follow(self.schema)
        self._require_shape(data)
        self.data, self.missing = data, data.missing

    def _require_shape(self, data: TaskData) -> None:
        """Refuse data of another shape than the module was built for."""
        own, theirs = asdict(self.shape), asdict(data.shape)
        if own != theirs:
            changed = [
                f"`{name}` is {theirs.get(name)!r}, not {value!r}"
                for name, value in own.items()
                if theirs.get(name) != value
            ]
            raise ConfigError(
                f"the data must have the shape that the model was built for; {', '.join(changed)}. Give the "
                "data the same columns and settings, or build a model for them with `for_data`."
            )

    def setup(self, stage: str) -> None:
        self.prepare(self.trainer.datamodule)  # type: ignore[attr-defined]
        self._require_whole_weights()
        if self.trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ConfigError(
                "`overfit_batches` is not for these tasks, which order their batches themselves; got "
                f"{self.trainer.overfit_batches}. Set `limit_train_batches`.",  # type: ignore[attr-defined]
                key="overfit_batches",
            )

    def _require_whole_weights(self) -> None:
        """Refuse a strategy by which the processes would not train as one does.

        Raises:
            ConfigError: it shards the weights, or waits for gradients that never come.
        """
        strategy = self.trainer.strategy
        name = type(strategy).__name__
        if isinstance(strategy, SingleDeviceStrategy):
            return
        if not isinstance(strategy, DDPStrategy) or isinstance(strategy, DeepSpeedStrategy):
            raise ConfigError(
                "`strategy` must be `auto` or `ddp`: what these tasks clip, decay and save are whole "
                f"weights; got {name}.",
                key="strategy",
            )
        patient = ("find_unused_parameters", "static_graph")
        trains = self.trainer.state.fn == TrainerFn.FITTING and self.unreached
        if trains and not any(strategy._ddp_kwargs.get(option) for option in patient):
            raise ConfigError(
                "`strategy` must be `ddp_find_unused_parameters_true` for this model, some of whose "
                f"parameters are in no loss; got {name} without it.",
                key="strategy",
            )

    @property
    def unreached(self) -> bool:
        """Whether some trainable parameters are in no loss, so that no process waits for their gradients."""
        return False

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the terms of the training loss of a batch, of which ``loss`` is minimised.

        Each of several processes sees its part of the batch. The mean of a term over the processes must be
        its value for the whole batch, so a mean over samples is their sum divided by `ranks.mean` of their
        number.
        """

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._require_dense(batch)
        self._trained = True

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._require_dense(batch)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._require_dense(batch)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._require_dense(batch)

    @staticmethod
    def _require_dense(batch: Any) -> None:
        """Refuse a batch with tensors that are not dense.

        Raises:
            DataError: naming the part of the batch.
        """
        parts = batch._asdict() if hasattr(batch, "_asdict") else {}
        for name, value in parts.items():
            if isinstance(value, Tensor):
                checks.tensor(f"batch.{name}", value)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        terms = self.losses(batch)
        if getattr(batch, "spare", False):
            self.steps_read = 0
        ranks.mean_over_ranks_(self._priors(), self.steps_read)
        values = ranks.mean(torch.stack(list(terms.values())))
        for name, value in zip(terms, values, strict=True):
            self.log(f"train/{name}", value, prog_bar=name == "loss", on_step=True, on_epoch=False)
        return terms["loss"]

    def _priors(self) -> list[Tensor]:
        """Error variances of fresh states, which the batch has moved: layers themselves never communicate."""
        return [buffer for name, buffer in self.core.named_buffers() if name.endswith("error_var_prior")]

    @property
    def run_folder(self) -> Path | None:
        """Folder for the files of a test: the one that the Trainer was given, created if it is missing.

        None in all processes but the first, and if the Trainer was given none: nobody wants the files in the
        working directory.
        """
        if Path(self.trainer.default_root_dir) == Path.cwd() or not self.trainer.is_global_zero:
            return None
        return run_folder(self.trainer)

    def write_test_files(self, folder: Path) -> None:
        """Write the tables (.csv) and texts (.txt) of a test, which the report shows; none by default."""

    def on_test_end(self) -> None:
        if folder := self.run_folder:
            with sums.written_by_task(folder):
                self.write_test_files(folder)

    @property
    def predictions_file(self) -> str:
        """Name of the file that predictions are written to."""
        return "predictions.csv"

    def prediction_table(self, predictions: list[Any]) -> pd.DataFrame:
        """Results of `predict_step` for every batch as a table, `in_kind`.

        Raises:
            ConfigError: the task does not define it, and so predicts nothing.
        """
        raise ConfigError(
            f"{type(self).__name__} writes no predictions: define `predict_step` and `prediction_table`."
        )

    def in_kind(self, table: pd.DataFrame) -> Any:
        """A table of the library of that which the data were given, such as polars; else as it is."""
        return in_kind(table, getattr(self.data, "kind", "pandas"))

    def predictions_text(self, predictions: list[Any]) -> str | bytes:
        """Content of the file of predictions: the `prediction_table`."""
        return csv_text(as_pandas(self.prediction_table(predictions)))

    def write_predictions(self, predictions: list[Any], folder: Path) -> list[Path]:
        """Write the predictions into `folder`; return the paths, none if nothing was predicted."""
        if not predictions:
            return []
        return [write_atomic(inside(folder, self.predictions_file), self.predictions_text(predictions))]

    def log_results(self, results: dict[str, dict[str, float]]) -> None:
        """Log and keep test results, the module's own as ``test/METRIC``, others as ``test/MODEL/METRIC``."""
        self.results = {
            model: {name: float(value) for name, value in metrics.items()}
            for model, metrics in results.items()
        }
        own = next(iter(results), None)
        for model, metrics in results.items():
            prefix = "test" if model == own else f"test/{model}"
            # float64, since the squared errors of legal values can be beyond float32
            wide = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
            self.log_dict({f"{prefix}/{name}": value for name, value in wide.items()})

    def figures(self) -> dict[str, Figure]:
        """Return figures of the last test by file name; none if there was no test."""
        return {}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the Trainer's settings, without computing a norm that is known already."""
        if (
            self.gradient_norm is None
            or not gradient_clip_val
            or gradient_clip_algorithm not in (None, "norm")
        ):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, self.gradient_norm)

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return groups of parameters for the optimiser; one without a learning rate of its own has `lr`."""
        return parameter_groups(self, self.settings.weight_decay)

    def configure_optimizers(self) -> Any:
        # fused: faster, and a flag on the device can make it skip a step (see NaNGuard)
        optimizer = torch.optim.AdamW(self.optimizer_groups(), lr=self.settings.lr, fused=True)
        optimizer._step_supports_amp_scaling = False  # or float16 could not be clipped
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError(
                "`max_epochs` or `max_steps` of the Trainer must be given: the learning rate falls until the "
                "last step; got neither.",
                key="max_epochs",
            )
        total = max(int(steps), 1)
        rising = max(round(self.settings.warmup * total), 1)
        # no closure, with which a fitted module could not be pickled; a partial keeps nothing in checkpoints
        factor = partial(_share_of_lr, rising=rising, total=total, schedule=self.settings.schedule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _share_of_lr(step: int, rising: int, total: int, schedule: str) -> float:
    """Learning rate at a step as a share of its peak: it rises for some steps and falls until the last."""
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    progress = min((step - rising) / max(total - rising, 1), 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return all(map(_is_plain, parts))
    return value is None or type(value) in (bool, int, float, str)


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether this batch is to be logged, by ``--trainer.log_every_n_steps``."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by the Trainer's logger connector
    return trainer.global_step % every == 0
