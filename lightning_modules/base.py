"""`TaskModule`: what all tasks share: optimiser and schedule, carried state, and what callbacks may look at.

Shapes: N rows of the batch, T steps.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from dream import DREAMConfig, DREAMState, DREAMTrace, parameter_groups
from dream.errors import ConfigError
from dream.state import where
from lightning_modules import ranks
from lightning_modules.checks import DIVERGED as DIVERGED
from lightning_modules.checks import require
from lightning_modules.checks import require_finite as require_finite
from lightning_modules.cores import CoreName, build_core, title

Schedule = Literal["cosine", "constant"]

FROM_DATA = {
    "channels": "channels",
    "covariate_count": "covariates",
    "known_count": "known",
    "calendar_count": "calendar",
    "aged_count": "aged",
    "look_back": "look_back",
    "horizon": "horizon",
    "season": "season",
    "task": "task",
    "inputs": "inputs",
    "label_delay": "label_delay",
    "symbols": "symbols",
}
"""What a model takes from its data: attribute of the data, argument of the model."""


class Observation(NamedTuple):
    """What a layer showed in the last batch, without history; in a test, of the steps that are scored."""

    surprise: Tensor
    """(N, T)"""
    u_norm: Tensor
    """(N, T)"""
    threshold: Tensor
    """(N,) habituated threshold after the last step"""
    lengths: Tensor | None = None
    """(N,) valid steps of each row; None for T"""
    streams: bool = False
    """Whether rows are streams that go on side by side from batch to batch; otherwise they are read one after
    the other."""

    @property
    def valid(self) -> Tensor:
        """(N, T) which steps are no padding"""
        if self.lengths is None:
            return torch.ones_like(self.surprise, dtype=torch.bool)
        return torch.arange(self.surprise.shape[1], device=self.surprise.device) < self.lengths.unsqueeze(1)

    def mean(self, values: Tensor) -> Tensor:
        """() mean of `values` (N, T) over the steps that are no padding; never waits for the device"""
        if self.lengths is None:
            return values.mean()
        return torch.where(self.valid, values, 0.0).sum() / self.lengths.sum().clamp_min(1)

    @property
    def last_u_norm(self) -> Tensor:
        """(N,) norm of U after the last valid step of each row"""
        if self.lengths is None:
            return self.u_norm[:, -1]
        return self.u_norm.gather(1, (self.lengths - 1).clamp_min(0).unsqueeze(1)).squeeze(1)


class TaskModule(L.LightningModule, ABC):
    """Base of all tasks: a core in `self.stack`, DREAM or a rival of it, trained with AdamW, state carried
    over streams.

    Weight decay touches matrices only (`dream.parameter_groups`). The learning rate rises linearly over the
    first `warmup` share of the steps and then follows half a cosine down to 1 % of `lr`, or stays. Gradient
    clipping is the Trainer's (``--trainer.gradient_clip_val``).

    State: a batch that carries a reset mask continues the rows of the batch before it. `carried` hands the
    stack its states, detached, rows fresh where the mask says so; it is cleared at the start of every epoch
    and around validation.

    Args:
        lr: Peak learning rate.
        weight_decay: AdamW's decay of the weight matrices.
        schedule: Learning rate after the warm-up: `cosine` down to 1 % or `constant`.
        warmup: Share of all steps in which the learning rate rises.
    """

    monitor: ClassVar[str] = "val/loss"
    """The metric that picks the best checkpoint."""
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"
    """Whether the best is the lowest or the highest."""
    higher_is_better: ClassVar[frozenset[str]] = frozenset()
    """The metrics of the table of results in which more is better; in all others less is."""
    unranked: ClassVar[frozenset[str]] = frozenset()
    """The metrics of which neither more nor less is better, such as coverage."""
    speaks: ClassVar[bool] = False
    """Whether a prediction writes to the terminal as it goes, where a progress bar would be in its way."""

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: Literal["cosine", "constant"] = "cosine",
        warmup: float = 0.05,
    ) -> None:
        super().__init__()
        require("lr", lr, 0 < lr < math.inf, "a finite number above 0")
        require("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number of at least 0")
        require("schedule", schedule, schedule in ("cosine", "constant"), "cosine or constant")
        require("warmup", warmup, 0 <= warmup < 1, "a share of the steps from 0 to below 1")
        self.lr, self.weight_decay, self.schedule, self.warmup = lr, weight_decay, schedule, warmup
        self.observed: list[Observation] = []
        self.results: dict[str, dict[str, float]] = {}
        """Test results: model, then metric, then value."""
        self.gradient_norm: Tensor | None = None
        """() norm of all gradients before they are clipped, where a callback has computed it already."""
        self.earlier: dict[str, Any] | None = None
        """What the `test_progress` of a test was that the next one goes on with."""
        self.rows_per_stream = 1
        """Rows of the carried states that belong to one stream of the data, and so to one process."""
        self._states: list[DREAMState] | None = None
        self.steps_read: int | Tensor = 0
        """Valid steps that the layers read in the last batch, over its rows."""

    @classmethod
    def for_data(cls, data: L.LightningDataModule, **settings: Any) -> Self:
        """A module for `data`, which give what they know, such as the number of columns; the other arguments
        are `settings`.

        Raises:
            ConfigError: a setting that the data give.
            DataError: the data cannot be read.
        """
        known = {argument: name for name, argument in FROM_DATA.items() if argument in default_arguments(cls)}
        for argument in known.keys() & settings:
            raise ConfigError(f"`{argument}` is given by the data; leave it out here.", key=argument)
        return cls(**{argument: getattr(data, name) for argument, name in known.items()}, **settings)

    def make_core(
        self, core: CoreName, config: DREAMConfig, hidden_dims: list[int] | None, dropout: float, backend: str
    ) -> None:
        """Set `self.stack`, what reads the sequence, and `self.title`, its name in tables; see
        `build_core`."""
        self.stack = build_core(core, config, hidden_dims, dropout, backend)
        self.title = title(core, config)

    def save_settings(self, config: DREAMConfig, **settings: Any) -> None:
        """Keep `config` and the other arguments of ``__init__`` as plain values, so that any checkpoint loads
        safely.

        They are not logged from here: the command logs the whole configuration.
        """
        self.save_hyperparameters({**settings, "config": asdict(config)}, logger=False)

    def carried(self, reset: Tensor | None, rows: int) -> list[DREAMState] | None:
        """The states to start a batch of `rows` rows from: None (fresh ones) for windows, the carried ones
        for streams.

        `reset` (rows,) is True where a row starts a new stream, and None where rows are independent windows.
        """
        if reset is None:
            return None
        fresh = self.stack.init_state(rows)
        if self._states is None or self._states[0].batch_size != rows:
            return fresh
        return [state.reset(reset, new) for state, new in zip(self._states, fresh, strict=True)]

    def carry(self, states: list[DREAMState], reset: Tensor | None) -> None:
        """Keep the states at the end of a batch for the next one, if it is one of streams.

        A row whose new state is not finite goes on from what it had before the batch.
        """
        if reset is not None:
            before = self.carried(reset, len(reset))
            assert before is not None
            self._states = [
                where(finite(state), state.detach(), old) for state, old in zip(states, before, strict=True)
            ]

    def forget_states(self) -> None:
        """The next batch starts afresh."""
        self._states = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        carried = self._states and [ranks.whole(state, self.rows_per_stream) for state in self._states]
        checkpoint["carried"] = carried and [dict(state.items()) for state in carried]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        carried = checkpoint["carried"]
        if carried is not None and self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._states = [ranks.mine(DREAMState(**tensors), self.rows_per_stream) for tensors in carried]

    def test_progress(self) -> dict[str, Any] | None:
        """What a test needs to go on after this batch: tensors and plain values, in dictionaries and lists.
        None where a test starts over."""
        return None

    def on_train_start(self) -> None:
        if self._states is not None:
            self._states = [state.to(self.device) for state in self._states]

    def on_train_epoch_start(self) -> None:
        self.forget_states()

    def on_validation_epoch_start(self) -> None:
        self.forget_states()

    def on_validation_epoch_end(self) -> None:
        self.forget_states()

    def observe(
        self,
        traces: list[DREAMTrace],
        states: list[DREAMState],
        lengths: Tensor | None = None,
        streams: bool = False,
    ) -> None:
        """Leave what the layers showed in this batch, whose rows have `lengths` (N,), T if None, where
        callbacks find it."""
        self.steps_read = traces[0].surprise.numel() if lengths is None else lengths.sum()
        self.observed = [
            Observation(trace.surprise, trace.u_norm, state.adaptive_tau, lengths, streams)
            for trace, state in zip(traces, states, strict=True)
        ]

    @abstractmethod
    def prepare(self, data: L.LightningDataModule) -> None:
        """Take from the data what the task needs to know; called before anything runs or is written.

        Raises:
            ConfigError, DataError: the data and this module do not fit together.
        """

    def refuse_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other data than those that this is prepared for, where that can be told.

        Raises:
            CheckpointError: saying what differs.
        """

    def setup(self, stage: str) -> None:
        self.prepare(self.trainer.datamodule)  # type: ignore[attr-defined]

    @property
    def unreached(self) -> bool:
        """Whether some of the trainable parameters are in no loss, so that processes must not wait for their
        gradients."""
        return False

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The terms of the training loss for a batch; ``loss`` is what is minimised.

        Of several processes each sees its part of the batch. The mean of a term over the processes must be
        its value for the whole batch, so a mean over rows is their sum divided by `ranks.mean` of their
        number."""

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
        """The error variances that fresh rows expect, which a batch has moved: the layers themselves never
        communicate."""
        return [buffer for name, buffer in self.stack.named_buffers() if name.endswith("error_var_prior")]

    @property
    def run_folder(self) -> Path | None:
        """Where a test leaves its files: the folder that the Trainer was given, made if it is not there; None
        where it was given none, or another process writes. Nobody wants them in the working directory."""
        folder = Path(self.trainer.default_root_dir)
        if folder == Path.cwd() or not self.trainer.is_global_zero:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @abstractmethod
    def write_predictions(self, predictions: list[Any], folder: Path) -> list[Path]:
        """Write what `predict_step` gave for each batch into `folder`; the paths."""

    def log_results(self, results: dict[str, dict[str, float]]) -> None:
        """Log test results, the module's own as ``test/METRIC`` and others as ``test/MODEL/METRIC``; keep the
        table."""
        self.results = results
        own = next(iter(results), None)
        for model, metrics in results.items():
            prefix = "test" if model == own else f"test/{model}"
            # float64, since the squared errors of legal values can be beyond float32
            wide = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
            self.log_dict({f"{prefix}/{name}": value for name, value in wide.items()})

    def figures(self) -> dict[str, Figure]:
        """Pictures of the last test, by file name; empty where there was none."""
        return {}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As the Trainer is told; a norm that is known already is not computed again."""
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
        # fused: faster, and a flag on the device can make it rest (see NaNGuard)
        optimizer = torch.optim.AdamW(parameter_groups(self, self.weight_decay), lr=self.lr, fused=True)
        optimizer._step_supports_amp_scaling = False  # or float16 could not be clipped
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        rising = max(round(self.warmup * total), 1)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            if self.schedule == "constant":
                return 1.0
            progress = min((step - rising) / max(total - rising, 1), 1.0)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def default_arguments(cls: object) -> dict[str, Any]:
    """The defaults of the arguments of a module, and of those that it passes on to the modules that it
    derives from."""
    assert isinstance(cls, type)
    assert issubclass(cls, TaskModule)
    bases = cls.__mro__[cls.__mro__.index(TaskModule) :: -1]
    return {
        name: parameter.default
        for base in bases
        for name, parameter in inspect.signature(base).parameters.items()
    }


def finite(state: DREAMState) -> Tensor:
    """(N,) whether all that a row carries is finite."""
    return torch.stack([part.detach().reshape(len(part), -1).isfinite().all(1) for part in state]).all(0)


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether this batch is one that ``--trainer.log_every_n_steps`` asks to log."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by the Trainer's logger connector
    return trainer.global_step % every == 0
