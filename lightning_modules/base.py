"""`TaskModule`, the base of all tasks: settings, optimiser and schedule, carried state, results.

Shapes: N samples of the batch, T steps.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_type_hints

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from dream import DREAMConfig, DREAMStack, DREAMState, DREAMTrace, parameter_groups
from dream.errors import CheckpointError, ConfigError
from dream.files import write_atomic
from dream.state import where
from lightning_modules import ranks
from lightning_modules.checks import require_finite
from lightning_modules.cores import BaselineCore, build_core, fit_to_width, title
from lightning_modules.data.base import TaskData
from lightning_modules.settings import TaskSettings, as_instance


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


class TaskModule(L.LightningModule, ABC):
    """Base of all tasks: trains a core, DREAM or a rival of it, and carries its state over streams.

    The optimiser is AdamW, whose weight decay touches matrices only (`dream.parameter_groups`). The learning
    rate rises linearly over the first `warmup` share of the steps and then follows half a cosine down to 1 %
    of `lr`, or stays. Gradient clipping is the Trainer's (``--trainer.gradient_clip_val``).

    State: a batch with a reset mask continues the samples of the batch before it. `carried` returns the
    core's states, detached, and fresh where the mask is True; they are dropped at the start of every epoch
    and around validation.

    A task derives from it: its settings are a `TaskSettings`, the facts about its data a frozen dataclass
    that the data return as `shape`. Both are kept in checkpoints as plain values.

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
    data: TaskData
    """Data that the module was prepared for; set by `prepare`."""
    settings: TaskSettings
    vocabulary: Any = None
    """Symbols or classes by number, from the data or a checkpoint; None before either is there, and in tasks
    without any."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if TaskModule not in cls.__bases__ and "settings" in vars(cls).get("__annotations__", {}):
            raise ConfigError(
                f"`{cls.__name__}.settings` must stay those of the task it derives from; got another class. "
                "Declare settings of its own as arguments of its `__init__`, beside **settings."
            )

    def __init__(self, config: DREAMConfig, shape: Any, settings: TaskSettings) -> None:
        super().__init__()
        self.config = as_instance(DREAMConfig, config, "config")
        self.shape = shape
        self.settings = settings
        self.observed: list[Observation] = []
        self.results: dict[str, dict[str, float]] = {}
        """Test results: model, then metric, then value."""
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

    def save_arguments(self) -> None:
        """Save the arguments of ``__init__`` as plain values, so that any checkpoint loads safely.

        They are not logged here: the command logs the whole configuration.
        """
        plain = {"config": asdict(self.config), "shape": asdict(self.shape), **asdict(self.settings)}
        self.save_hyperparameters(plain, logger=False)

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

        A sample whose new state is not finite resumes from its state before the batch.
        """
        if reset is not None:
            before = self.carried(reset, states[0].batch_size)
            assert before is not None
            self._states = [
                where(finite(state), state.detach(), old) for state, old in zip(states, before, strict=True)
            ]

    def forget_states(self) -> None:
        """Drop all carried states: the next batch starts from fresh ones."""
        self._states = None
        self.held = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        carried = [ranks.whole(state, self._per_stream) for state in self._states or []]
        checkpoint["carried"] = [dict(state.items()) for state in carried]
        checkpoint["samples_per_stream"] = self._per_stream
        checkpoint["vocabulary"] = self.plain_vocabulary()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_checkpoint(checkpoint)
        self.vocabulary = self.read_vocabulary(checkpoint["vocabulary"])
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and checkpoint["carried"]:
            self._per_stream = checkpoint["samples_per_stream"]
            carried = [DREAMState(**tensors) for tensors in checkpoint["carried"]]
            self._states = [ranks.mine(state, self._per_stream) for state in carried]

    def plain_vocabulary(self) -> Any:
        """Return the vocabulary as plain values for a checkpoint, whose numbers mean nothing without it."""
        return self.vocabulary

    def read_vocabulary(self, plain: Any) -> Any:
        """Return the vocabulary that `plain_vocabulary` turned into plain values."""
        return plain

    def other_vocabulary(self, learnt: Any) -> str:
        """Return the message that refuses a checkpoint with the vocabulary `learnt`."""
        return f"the checkpoint knows {learnt}; the data hold {self.vocabulary}."

    def refuse_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose vocabulary differs from that of the data.

        Raises:
            CheckpointError: naming the difference.
        """
        learnt = self.read_vocabulary(checkpoint["vocabulary"])
        if self.vocabulary and self.vocabulary != learnt:
            raise CheckpointError(self.other_vocabulary(learnt))

    def on_train_start(self) -> None:
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

        Raises:
            ConfigError, DataError: the data and this module do not fit together.
        """
        self.require_data(type(data))
        assert isinstance(data, TaskData)
        self.data = data

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
        folder = Path(self.trainer.default_root_dir)
        if folder == Path.cwd() or not self.trainer.is_global_zero:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_test_files(self, folder: Path) -> None:
        """Write the tables (.csv) and texts (.txt) of a test, which the report shows; none by default."""

    def on_test_end(self) -> None:
        if folder := self.run_folder:
            self.write_test_files(folder)

    @property
    def predictions_file(self) -> str:
        """Name of the file that predictions are written to."""
        return "predictions.csv"

    def prediction_table(self, predictions: list[Any]) -> pd.DataFrame:
        """Results of `predict_step` for every batch as a table.

        Raises:
            ConfigError: the task does not define it, and so predicts nothing.
        """
        raise ConfigError(
            f"{type(self).__name__} writes no predictions: define `predict_step` and `prediction_table`."
        )

    def write_predictions(self, predictions: list[Any], folder: Path) -> list[Path]:
        """Write the `prediction_table` into `folder`; return the paths, none if nothing was predicted."""
        if not predictions:
            return []
        table = self.prediction_table(predictions).to_csv(index=False)
        return [write_atomic(folder / self.predictions_file, table)]

    def log_results(self, results: dict[str, dict[str, float]]) -> None:
        """Log and keep test results, the module's own as ``test/METRIC``, others as ``test/MODEL/METRIC``."""
        self.results = results
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

    def configure_optimizers(self) -> Any:
        # fused: faster, and a flag on the device can make it skip a step (see NaNGuard)
        optimizer = torch.optim.AdamW(
            parameter_groups(self, self.settings.weight_decay), lr=self.settings.lr, fused=True
        )
        optimizer._step_supports_amp_scaling = False  # or float16 could not be clipped
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        rising = max(round(self.settings.warmup * total), 1)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            if self.settings.schedule == "constant":
                return 1.0
            progress = min((step - rising) / max(total - rising, 1), 1.0)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def finite(state: DREAMState) -> Tensor:
    """(N,) True where all parts of a sample's state are finite."""
    return torch.stack([part.detach().reshape(len(part), -1).isfinite().all(1) for part in state]).all(0)


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether this batch is to be logged, by ``--trainer.log_every_n_steps``."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by the Trainer's logger connector
    return trainer.global_step % every == 0
