"""`DREAMMonitor`: log surprise, norm of U and more in training, as the guide's tuning workflow recommends."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dream.cell import DREAMCell
from lightning_modules import ranks
from lightning_modules.base import TaskModule, is_logging_step

SURPRISED = 0.5  # surprise above which a step counts as surprising


class DREAMMonitor(L.Callback):
    """Callback that logs, for each layer k at each logging step, as ``dream/layer_k/...``:

    - ``surprise``: mean over samples and steps, without padding;
    - ``surprised``: share of steps with surprise above 0.5;
    - ``u_norm``: mean over samples of |U| after the last step;
    - ``threshold``: mean habituated threshold;
    - ``plasticity`` and ``tonic``: means of the learned eta and the tonic share (layers with fast weights).

    The progress bar shows surprise and |U| of the first layer beside the loss. Between logging steps
    (``--trainer.log_every_n_steps``) nothing is computed."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TaskModule)
        if not is_logging_step(trainer):
            return
        cells = [module for module in pl_module.core.modules() if isinstance(module, DREAMCell)]
        for k, seen in enumerate(pl_module.observed):
            shown = {"surprise": seen.mean(seen.surprise), "u_norm": seen.last_u_norm.mean()}
            values: dict[str, Tensor] = shown | {
                "surprised": seen.mean((seen.surprise > SURPRISED).to(torch.float32)),
                "threshold": seen.threshold.mean(),
            }
            if k < len(cells) and cells[k].config.base_plasticity > 0:  # a rival of DREAM has no cells
                params = cells[k].params()
                values |= {"plasticity": params.eta.detach().mean(), "tonic": params.tonic.detach().mean()}
            ranks.mean_over_ranks_(list(values.values()), pl_module.steps_read)
            pl_module.log_dict({f"dream/layer_{k}/{name}": value for name, value in values.items()})
            if k == 0:
                pl_module.log_dict(shown, prog_bar=True, logger=False)
