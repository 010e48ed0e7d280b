"""`NaNGuard`: keep batches whose loss, gradients or fast weights are not finite from moving any weight.

Shapes: N samples of the batch, M of the layer's batch (a multiple of N), T steps, P parameters with a
gradient.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from dream.cell import DREAMCell
from dream.errors import ConfigError, DREAMError
from dream.files import LONGEST_NAME, is_name
from lightning_modules.base import TaskModule, is_logging_step
from lightning_modules.checks import DIVERGED, require
from lightning_modules.data.base import TaskData

log = logging.getLogger(__name__)

SHOWN = 4  # samples that a message lists


class PassFlags(NamedTuple):
    """Flags of one forward and backward pass, kept on the device."""

    loss: Tensor
    """() bool: the loss is not finite."""
    lost: list[Tensor]
    """(M, T) bool for each layer: surprise or |U| is not finite."""
    rows: Tensor | None
    """(N, 2) first and last row of the source; None where the data do not know."""
    source: Callable[[int], str] | None
    """Name of the source of each sample."""


class StepFlags(NamedTuple):
    """Flags of one optimiser step, kept on the device."""

    number: int
    bad: Tensor
    """() bool, the same on all processes."""
    gradients: Tensor
    """(P,) bool: the norm of the gradient is not finite."""
    names: list[str]
    """(P,) of the parameters."""
    passes: list[PassFlags]


class NaNGuard(L.Callback):
    """Callback that keeps NaN and inf out of weights, optimiser, priors and carried states, and reports their
    origin.

    A step is bad if its loss, the norm of its gradients, or the surprise or norm of U of any sample and layer
    is not finite. This is one flag on the device, which the optimiser reads (`found_inf`, as from a gradient
    scaler): a bad step leaves weights, moments and step count unchanged, bit for bit, and the layers' priors
    are restored. A stream whose state is lost continues from the state before (`TaskModule.carry`). With
    several processes, a step that is bad on one is bad on all.

    The device is waited for once per logging step (``--trainer.log_every_n_steps``) and at the end of an
    epoch. Then ``guard/skipped``, the bad steps so far, is logged, and each bad one is reported: its number,
    what was not finite (loss, gradients by parameter, layers), and the rows of the source. While training,
    the guard replaces the layers' own `check_inputs`, which would wait in every step.

    If `lr` is far too large, a step with finite loss and gradients can still leave weights that are not
    finite. The same wait detects it, and the run stops. No save holds such weights, and none is written after
    a step for which the run must stop.

    A monitored metric that is not finite after a validation is reported the same way, and `BestCheckpoint`
    ignores it.

    Args:
        on_bad_batch: What to do about a bad step: `skip` it and continue, or `stop` the run at the next
            logging step. In either case the weights are those of the steps before it.
        max_skipped: Bad steps in a row after which `skip` stops too, since the run is lost.

    Raises:
        ConfigError: a setting is not allowed.
    """

    def __init__(self, on_bad_batch: Literal["skip", "stop"] = "skip", max_skipped: int = 10) -> None:
        require("on_bad_batch", on_bad_batch, on_bad_batch in ("skip", "stop"), "skip or stop")
        require("max_skipped", max_skipped, max_skipped >= 1, "at least 1")
        self.on_bad_batch = on_bad_batch
        self.max_skipped = max_skipped
        self.skipped = 0
        """Bad steps so far."""
        self.in_a_row = 0
        """Bad steps since the last good one."""
        self._error: str | None = None
        self._data: TaskData | None = None
        self._rows: Tensor | None = None
        self._source: Callable[[int], str] | None = None
        self._before: list[tuple[Tensor, Tensor]] = []
        self._passes: list[PassFlags] = []
        self._steps: list[StepFlags] = []
        self._kept: dict[str, Tensor] = {}
        self._checked: list[DREAMCell] = []

    def state_dict(self) -> dict[str, Any]:
        self._count()
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
        self.in_a_row = state_dict["in_a_row"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save after a step for which the run must stop; nothing is written yet."""
        self._require_none()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            if not all(group.get("fused") for group in optimizer.param_groups):
                raise ConfigError(
                    "the optimiser must be able to rest on a flag, as AdamW(..., fused=True) is; got "
                    f"{type(optimizer).__name__} without `fused`. Give it fused=True, or leave NaNGuard out."
                )
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._data = data if isinstance(data, TaskData) else None
        self._passes = []
        self._steps = []
        self._before = []
        self._error = None
        self._kept = {
            name: value for name, value in pl_module.state_dict().items() if value.is_floating_point()
        }
        self._release(pl_module)

    def _release(self, module: nn.Module) -> None:
        """Switch the layers' own checks off."""
        cells = (part for part in module.modules() if isinstance(part, DREAMCell))
        self._checked = [cell for cell in cells if cell.check_inputs]
        for cell in self._checked:
            cell.check_inputs = False

    def _restore(self) -> None:
        for cell in self._checked:
            cell.check_inputs = True
        self._checked = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rows = None if self._data is None else self._data.rows_of(batch)
        self._source = None if self._data is None else self._data.sources(batch)
        if not self._before:
            self._before = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, TaskModule)
        lost = [~(seen.surprise.detach() + seen.u_norm.detach()).isfinite() for seen in pl_module.observed]
        self._passes.append(PassFlags(~loss.detach().isfinite(), lost, self._rows, self._source))

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, TaskModule)
        named = [
            (name, weight.grad) for name, weight in pl_module.named_parameters() if weight.grad is not None
        ]
        norms = torch.stack(torch._foreach_norm([gradient for _, gradient in named]))
        pl_module.gradient_norm = torch.linalg.vector_norm(norms)
        flags = [~pl_module.gradient_norm.isfinite()]
        flags += [flag for seen in self._passes for flag in (seen.loss, *(lost.any() for lost in seen.lost))]
        found = torch.stack(flags).any().float()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        bad = found > 0
        optimizer.found_inf = found  # type: ignore[attr-defined]
        for buffer, before in self._before:
            buffer.copy_(torch.where(bad, before, buffer))
        number, names = trainer.global_step + 1, [name for name, _ in named]
        self._steps.append(StepFlags(number, bad, ~norms.isfinite(), names, self._passes))
        self._passes = []
        self._before = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logging_step(trainer):
            self._look(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end(trainer, pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._end(trainer, pl_module)

    def _end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        self._restore()
        pl_module.gradient_norm = None
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "found_inf"):
                del optimizer.found_inf

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._release(pl_module)
        value = trainer.callback_metrics.get(pl_module.monitor)
        if value is None or math.isfinite(value):
            return
        message = (
            f"`{pl_module.monitor}` of the validation after step {trainer.global_step} is {float(value)}"
        )
        if self.on_bad_batch == "stop":
            raise DREAMError(
                f"{message}. The weights are finite: look at the validation rows, or lower `lr`."
            )
        log.warning("%s; it is no candidate for the best checkpoint.", message)

    def _look(self, pl_module: L.LightningModule) -> None:
        """Report the bad steps since the last report.

        Raises:
            DREAMError: the run must stop.
        """
        self._count()
        self._require_none()
        pl_module.log("guard/skipped", float(self.skipped))

    def _require_none(self) -> None:
        if self._error is not None:
            raise DREAMError(self._error)

    def _count(self) -> None:
        """Wait for the flags since the last count; count the bad steps and log or keep the errors."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        weights = [~value.isfinite().all() for value in self._kept.values()]
        found = torch.stack([*(step.bad for step in steps), *weights]).tolist()  # the one wait
        flags, lost = found[: len(steps)], found[len(steps) :]
        for step, bad in zip(steps, flags, strict=True):
            self.in_a_row = self.in_a_row + 1 if bad else 0
            self.skipped += bad
            if not bad or self._error is not None:
                continue
            message = f"step {step.number}: {self._description(step)}"
            if self.on_bad_batch == "stop":
                self._error = (
                    f"{message}. The step moved no weight. Repair the rows, lower `lr`, or set "
                    "nan_guard.on_bad_batch=skip."
                )
            elif self.in_a_row > self.max_skipped:
                self._error = (
                    f"{message}. It is bad step {self.in_a_row} in a row, more than `nan_guard.max_skipped` "
                    "allows. None of them moved a weight. Repair the rows, or lower `lr`."
                )
            else:
                log.warning("%s. Skipped; %d so far.", message, self.skipped)
        if any(lost) and self._error is None:
            named = [name for name, bad in zip(self._kept, lost, strict=True) if bad]
            self._error = (
                f"after step {steps[-1].number} these values are not finite: those of {_shown(named)}. "
                f"{DIVERGED}"
            )

    def _description(self, step: StepFlags) -> str:
        """Tensors of a bad step that are not finite, and the rows of the source in its batch."""
        wrong = ["the loss"] if any(bool(seen.loss) for seen in step.passes) else []
        named = [name for name, bad in zip(step.names, step.gradients.tolist(), strict=True) if bad]
        if named:
            wrong.append(f"the gradient of {_shown(named)}")
        layers = sorted({k for seen in step.passes for k, lost in enumerate(seen.lost) if bool(lost.any())})
        wrong += [f"surprise and norm of U of layer {k}" for k in layers]
        if not wrong:
            return "something on another process is not finite"
        places = [place for seen in step.passes for place in self._places(seen)]
        shown = "; ".join(places[:SHOWN]) + (f"; {len(places) - SHOWN} more" if len(places) > SHOWN else "")
        return f"not finite: {', '.join(wrong)}. In the batch: {shown or 'rows that the data cannot name'}"

    def _places(self, seen: PassFlags) -> list[str]:
        """Rows of the source at which layers were lost or, if none was, all rows of the batch."""
        if seen.rows is None or seen.source is None:
            return []
        rows = seen.rows.tolist()
        layers = [layer.reshape(len(rows), -1, layer.shape[-1]).any(1) for layer in seen.lost]
        lost = torch.stack(layers).any(0)  # (N, T)
        found = []
        for sample, ((first, last), steps) in enumerate(zip(rows, lost.tolist(), strict=True)):
            if True in steps:
                each = (last - first + 1) // len(steps)
                start = first + steps.index(True) * each
                at = f"row {start}" if each == 1 else f"rows {start} to {start + each - 1}"
                found.append(f"{seen.source(sample)}, from {at} on")
        return found or [f"{seen.source(sample)}, rows {a} to {b}" for sample, (a, b) in enumerate(rows)]


def _shown(names: list[str]) -> str:
    return f"`{names[0]}`" + (f" and of {len(names) - 1} more" if len(names) > 1 else "")


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, in which a metric that is not finite is never among the best.

    Nor does a name lead out of its folder: the slash of a metric in it, as in ``{val/mse}``, becomes a dash.
    """

    def _format_checkpoint_name(self, *args: Any, **kwargs: Any) -> str:
        name = super()._format_checkpoint_name(*args, **kwargs).replace("/", "-").replace("\\", "-")
        require(
            "checkpoint.filename",
            name,
            is_name(name),
            f"the name of a file, not . or .., of at most {LONGEST_NAME} bytes",
        )
        return name

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        if current is not None and not bool(current.isfinite()):
            return False
        return super().check_monitor_top_k(trainer, current)
