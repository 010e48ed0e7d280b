"""DREAM: Dynamic Recall and Elastic Adaptive Memory, a recurrent PyTorch layer that keeps learning while it
reads.

Example:
    >>> import torch
    >>> from dream import DREAM
    >>> model = DREAM(input_dim=8, hidden_dim=64, rank=8)
    >>> output, state = model(torch.randn(4, 100, 8))
    >>> model.predict_next(state).shape
    torch.Size([4, 8])
"""

from torch import Tensor

from dream.cell import DREAMCell
from dream.config import DREAMConfig
from dream.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DREAMError,
    DREAMWarning,
    ShapeError,
    StateError,
)
from dream.layer import DREAM
from dream.optim import parameter_groups
from dream.scan import dream_scan, dream_step
from dream.stack import DREAMStack
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

__version__ = "0.1.0"

DREAMOutput = tuple[Tensor, DREAMState]

__all__ = [
    "DREAM",
    "CheckpointError",
    "ConfigError",
    "DREAMCell",
    "DREAMConfig",
    "DREAMError",
    "DREAMOutput",
    "DREAMParams",
    "DREAMStack",
    "DREAMState",
    "DREAMTrace",
    "DREAMWarning",
    "DataError",
    "ShapeError",
    "StateError",
    "Tensor",
    "__version__",
    "dream_scan",
    "dream_step",
    "parameter_groups",
]
