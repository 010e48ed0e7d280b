"""Order of the batches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_modules import ranks

Item = TypeVar("Item")
_ROUNDS = 6
_POOL = 8  # batches whose items are sorted by size together


class EpochOrder(DistributedSampler[Any]):  # or a Trainer would deal out once more what is shared already
    """Keys of a data set, one for each batch, as a function of seed and epoch alone.

    So an epoch can resume at any batch: set `first`, and the next iteration starts with it. An order takes no
    memory, however many items there are.

    Args:
        batches: Batches in an epoch.
        keys: Takes the epoch's generator and returns a function from the number of a batch to its key.
    """

    def __init__(self, batches: int, keys: Callable[[torch.Generator], Callable[[int], Any]]) -> None:
        self.batches = batches
        self.keys = keys
        self.seed = torch.initial_seed()
        """Seed of the run: the last that torch was seeded with."""
        self.epoch = 0
        self.first = 0
        self.part: slice | None = None

    def shared(self, rank: int, world: int) -> EpochOrder:
        """Limit this order to one process: every `world`-th item of each key (a list), from number `rank` on.

        The batches of all processes together are those of one; the part of a short batch may be empty.
        """
        self.part = slice(rank, None, world)
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the next iteration's epoch, as the Trainer does; a new epoch starts with its first batch."""
        self.first = self.first if epoch == self.epoch else 0
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0])
        )
        first, self.first = self.first, 0
        keys = self.keys(generator)
        for key in map(keys, range(first, self.batches)):
            yield key if self.part is None else key[self.part]


def in_order(count: int, batch_size: int) -> EpochOrder:
    """Every item in order, in lists of `batch_size`."""
    return _of_indices(count, batch_size, lambda _: np.asarray)


def one_by_one(count: int) -> EpochOrder:
    """Every item in order, as batches of their own."""
    return EpochOrder(count, lambda _: int)


def shuffled(count: int, batch_size: int) -> EpochOrder:
    """Every item once in random order, in lists of `batch_size`."""
    return _of_indices(count, batch_size, lambda generator: permutation(count, generator))


def drawn(count: int, draws: int, batch_size: int) -> EpochOrder:
    """`draws` of `count` items, with replacement, in lists of `batch_size`; no batch without items."""
    if count == 0:
        return in_order(0, batch_size)

    def indices(generator: torch.Generator) -> Callable[[range], np.ndarray]:
        items = torch.randint(count, (draws,), generator=generator).numpy()
        return lambda places: items[places.start : places.stop]

    return _of_indices(draws, batch_size, indices)


def similar(
    count: int,
    items: Callable[[torch.Generator], Sequence[Item]],
    size: Callable[[Item], int],
    batch_size: int,
) -> EpochOrder:
    """Every item once, in lists of `batch_size` items of similar size, which come in random order.

    Args:
        count: Items of an epoch.
        items: Takes the epoch's generator and returns the items, in random order.
        size: Returns the size of an item.
        batch_size: Items of a batch.
    """

    def batches(generator: torch.Generator) -> Callable[[int], list[Item]]:
        drawn, pool = items(generator), _POOL * batch_size
        ordered = [
            item for start in range(0, count, pool) for item in sorted(drawn[start : start + pool], key=size)
        ]
        place = torch.randperm(-(-count // batch_size), generator=generator).tolist()
        return lambda number: ordered[place[number] * batch_size : (place[number] + 1) * batch_size]

    return EpochOrder(-(-count // batch_size), batches)


def permutation(count: int, generator: torch.Generator) -> Callable[[range], np.ndarray]:
    """A random permutation of 0 to `count` - 1, as a function from places to items.

    A Feistel network permutes the numbers below the next square, and is applied again to those that are not
    below `count` (Black and Rogaway, Ciphers with arbitrary finite domains, 2002)."""
    side = np.uint64(math.isqrt(max(count - 1, 0)) + 1)
    keys = torch.randint(1 << 62, (_ROUNDS,), generator=generator).numpy().astype(np.uint64)

    def mixed(numbers: np.ndarray) -> np.ndarray:
        left, right = numbers // side, numbers % side
        for key in keys:
            spread = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)  # constants of splitmix64
            spread = (spread ^ spread >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, (left + (spread >> np.uint64(32))) % side
        return left * side + right

    def items(places: range) -> np.ndarray:
        found = mixed(np.arange(places.start, places.stop, dtype=np.uint64))
        while (outside := found >= count).any():
            found[outside] = mixed(found[outside])
        return found.astype(np.int64)

    return items


def _of_indices(
    total: int, batch_size: int, indices: Callable[[torch.Generator], Callable[[range], np.ndarray]]
) -> EpochOrder:
    def batches(generator: torch.Generator) -> Callable[[int], list[int]]:
        items = indices(generator)
        return lambda number: items(range(total)[number * batch_size : (number + 1) * batch_size]).tolist()

    return EpochOrder(-(-total // batch_size), batches)


def loader(
    dataset: Sequence[Item] | Dataset[Item], order: EpochOrder, num_workers: int = 0
) -> DataLoader[Item]:
    """The batches ``dataset[key]`` in this order; draws nothing from the global generators."""
    order.seed = ranks.gather(order.seed)[0]  # processes are seeded apart, but share one order
    return DataLoader(
        dataset=cast("Dataset[Item]", dataset),
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(torch.initial_seed()),
        collate_fn=_same,
    )


def _same(batch: Item) -> Item:
    return batch
