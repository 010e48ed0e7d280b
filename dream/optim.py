"""Optimiser groups for models that hold DREAM layers."""

from __future__ import annotations

from itertools import compress
from operator import not_
from typing import Any

from torch import nn

from dream.cell import DREAMCell


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters of `module`, for any torch optimiser, with weight decay on matrices only.

    Everything of one dimension or none goes without: eta, tau, tonic share and surprise scale, which are
    learned as logarithms and logits and must never be pulled towards 0, and all biases and normalisation
    scales. So do the keys K of fast weights, which start at 1, and V_raw, whose length means nothing.

    Args:
        module: any module, DREAM or not.
        weight_decay: the decay of the matrices.

    Returns:
        Two groups, with decay and without; a group without parameters is left out.

    Example:
        >>> import torch, dream
        >>> groups = parameter_groups(dream.DREAM(8, 16, 4), weight_decay=0.01)
        >>> [group["weight_decay"] for group in groups]
        [0.01, 0.0]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    cells = [cell for cell in module.modules() if isinstance(cell, DREAMCell)]
    free = {id(getattr(cell, name, None)) for cell in cells for name in ("K", "V_raw")}
    decayed = [p.dim() > 1 and id(p) not in free for p in trainable]
    groups = [
        {"params": list(compress(trainable, decayed)), "weight_decay": weight_decay},
        {"params": list(compress(trainable, map(not_, decayed))), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
