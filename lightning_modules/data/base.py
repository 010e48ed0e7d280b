"""`TaskData`: the interface of all data modules."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dream.errors import ConfigError
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.place import Place
from lightning_modules.data.schema import Schema
from lightning_modules.data.series import Missing
from lightning_modules.redaction import redacted

MOST_BATCHES = 1000
"""Batches of each part that the fingerprint of data of an own kind reads."""


class TaskData(L.LightningDataModule, ABC):
    """Base of all data modules.

    The facts that a model is built from, such as the number of columns, are `shape`; the command and
    `TaskModule.for_data` pass it on. Everything else a module takes in `prepare`. What checkpoints record of
    the data is their `schema`; a module that comes from a checkpoint lets its data `follow` that."""

    for_own_files: ClassVar[str]
    """Name of the class that reads a file of one's own, for messages and for `data.path`."""
    set_by_name: ClassVar[tuple[str, ...]] = ()
    """Settings that the set decides and that a file of one's own needs."""

    num_workers: int = 0
    """Processes that prepare batches; 0 prepares them in the main process."""
    missing: Missing = "error"
    """Treatment of missing values; with `model` DREAM reads them as not observed."""
    units: Mapping[str, str] = MappingProxyType({})
    """Measurement unit of columns, by name; of those that are given none, nothing is known."""
    places: Mapping[str, Place] = MappingProxyType({})
    """Rows of each stream that were read already, which a prediction passes over."""
    recorded: Schema | None = None
    """Schema that the data follow; None for data that a model learns from afresh."""

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the Trainer, as of a module: for pickles, copies, and processes that are spawned."""
        return {**vars(self), "trainer": None}

    @property
    def hparams_initial(self) -> Any:
        """Settings that loggers are told, without secrets."""
        return redacted(dict(super().hparams_initial))

    @property
    @abstractmethod
    def shape(self) -> Any:
        """Facts about the data that the task's module is built from: a frozen dataclass."""

    @cached_property
    def schema(self) -> Schema:
        """Facts about the data that a checkpoint records and other data are matched with; by default none."""
        return self.recorded or Schema()

    def follow(self, schema: Schema | None) -> None:
        """Read the data as those that `schema` was taken from: its columns by name and in its order, on its
        scales; with None by themselves. What was read otherwise is dropped.

        Raises:
            DataError: they do not match; where that takes reading them, when they are read.
        """
        if schema == self.recorded or (schema is not None and schema == vars(self).get("schema")):
            return
        if schema is not None:
            schema.require_units(self.units, "the data")
        self.recorded = schema
        self.forget()

    def forget(self) -> None:
        """Drop all that was read or computed, and is kept."""
        for name in list(vars(self)):
            if isinstance(getattr(type(self), name, None), cached_property):
                delattr(self, name)

    def go_on(self, places: Mapping[str, Place]) -> None:
        """Let predictions of each stream begin after its place, for a task that learns from what it predicts.

        Raises:
            ConfigError: there is no such task for these data.
        """
        raise ConfigError(
            "`--learn` must be given for a task that learns from the rows that it predicts, online learning "
            f"or anomaly detection; got data of the class {type(self).__name__}. Leave it out.",
            key="learn",
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the data, as those that the Trainer's module was trained on; Lightning calls it first."""
        module = None if self.trainer is None else self.trainer.lightning_module
        if hasattr(module, "schema"):
            self.follow(module.schema)  # type: ignore[union-attr, arg-type]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Parts of the data, and the checksum of each: saves keep it, and a run resumes on no other.

        The data of a task sum up all that `read` returned, from wherever it came. Data of a kind of their own
        sum up the first 1,000 batches of an epoch of training, of validation and of the test, by one seed:
        they may define something faster, or more thorough.

        Raises:
            DataError: the data cannot be read.
        """
        found = {}
        with isolate_rng():
            for part in ("train", "val", "test"):
                for seeded in (random.seed, np.random.seed, torch.manual_seed):
                    seeded(0)
                with suppress(MisconfigurationException):  # there is no such part
                    loaders = tree_leaves(getattr(self, f"{part}_dataloader")())
                    sums = [[content_sum(batch) for batch in islice(each, MOST_BATCHES)] for each in loaders]
                    found[part] = content_sum(sums)
        return found

    @classmethod
    def kept_for_own_files(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of `set_by_name` that hold for a file of one's own, too, by the settings `given`."""
        return {}

    @property
    def trains(self) -> bool:
        """Whether there is anything to train on before the test, as in all data but some streams."""
        return True

    @property
    def share(self) -> tuple[int, int]:
        """Rank and number of the processes that split each batch, as the attached Trainer has them."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def require_streams(self, name: str, streams: int) -> None:
        """Refuse more processes than streams, some of which would have nothing to read.

        Raises:
            ConfigError: naming the setting that determines the number of streams.
        """
        _, world = self.share
        if streams < world:
            raise ConfigError(
                f"`{name}` must give each of the {world} processes a stream; there are {streams}. Lower "
                "`trainer.devices` or `trainer.num_nodes`, or have more streams.",
                key=name,
            )

    @property
    def drift_rows(self) -> tuple[int, ...]:
        """Rows at which the data are known to change, for pictures; none by default."""
        return ()

    @abstractmethod
    def rows_of(self, batch: Any) -> Tensor:
        """First and last row of the source that each sample of `batch` holds, (N, 2), on its device.

        All samples hold equally many rows, and a whole number of them for each step of the layer.
        """

    @abstractmethod
    def source_of(self, sample: int) -> str:
        """Name the file, stream or generator that a sample of a batch comes from, for messages."""

    def sources(self, batch: Any) -> Callable[[int], str]:
        """Return `source_of` for the samples of `batch`, where their sources differ from batch to batch."""
        return self.source_of

    @abstractmethod
    def describe(self) -> list[tuple[str, str]]:
        """Facts to show before training, as pairs of name and text."""
