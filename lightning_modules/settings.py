"""`TaskSettings`: settings that all tasks share, one field each, with the text that help shows for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dream.errors import ConfigError
from lightning_modules.checks import require
from lightning_modules.cores import CoreName

T = TypeVar("T")


@dataclass(frozen=True)
class TaskSettings:
    """Settings that every task has: its core, and how its weights are trained."""

    core: CoreName = "dream"
    """The recurrent core: DREAM, or a rival of as many parameters, see `build_core`."""
    hidden_dims: list[int] | None = None
    """Width of each layer of the core; one layer of `config.hidden_dim` if not given."""
    dropout: float = 0.0
    """Share of values dropped in training, between layers and before the head where the task has one."""
    lr: float = 3e-3
    """Peak learning rate."""
    weight_decay: float = 0.01
    """AdamW's weight decay, of matrices only."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: `cosine` down to 1 % of `lr`, or `constant`."""
    warmup: float = 0.05
    """Share of the optimiser's steps over which the learning rate rises to `lr`."""
    backend: str = "auto"
    """Implementation of DREAM's scan, see `dream.ops.registry`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is not None:
                raise ConfigError(
                    f"`{field.name}` must have a value; got None. Leave it out for its default.",
                    key=field.name,
                )
            if isinstance(value, list):
                object.__setattr__(self, field.name, list(value))  # the caller's list may change later
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            if choices and getattr(self, name) not in choices:
                rule = f"{', '.join(choices[:-1])} or {choices[-1]}"
                raise ConfigError(f"`{name}` must be {rule}; got {getattr(self, name)!r}.", key=name)
        require("dropout", self.dropout, 0 <= self.dropout < 1, "a share from 0 to below 1")
        require("lr", self.lr, 0 < self.lr < math.inf, "a finite number above 0")
        decay = self.weight_decay
        require("weight_decay", decay, 0 <= decay < math.inf, "a finite number of at least 0")
        require("warmup", self.warmup, 0 <= self.warmup < 1, "a share of the steps from 0 to below 1")


@dataclass(frozen=True)
class PredictiveSettings(TaskSettings):
    """Settings of the tasks whose loss has a term for the core's own predictions of its input."""

    prediction_weight: float = 0.1
    """Weight of the loss of each layer's own predictions of its input, summed over the layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = self.prediction_weight
        require("prediction_weight", weight, 0 <= weight < math.inf, "a finite number of at least 0")


def as_instance(cls: type[T], value: Any, name: str = "shape") -> T:
    """Return `value`, or the `cls` built from it if it is a dictionary, as in a checkpoint or YAML file.

    Raises:
        ConfigError: it is neither; naming the argument `name`.
    """
    made = cls(**value) if isinstance(value, Mapping) else value
    if not isinstance(made, cls):
        raise ConfigError(
            f"`{name}` must be a {cls.__name__} or a dictionary of its fields; got {value!r}.", key=name
        )
    return made
