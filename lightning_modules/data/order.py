"""In which order an epoch goes through its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_modules import ranks

Item = TypeVar("Item")
_ROUNDS = 6
_POOL = 8  # batches that are sorted together


class EpochOrder(Sampler[Any]):
    """What to ask a data set for, batch by batch: a function of seed and epoch, whatever was drawn before.

    So an epoch can go on from any of its batches: set `first`, which the next iteration starts with. An order
    takes no memory, however many items there are.

    Args:
        batches: Batches in an epoch.
        keys: Given a generator of the epoch's own, a function from the number of a batch to its key.
    """

    def __init__(self, batches: int, keys: Callable[[torch.Generator], Callable[[int], Any]]) -> None:
        self.batches, self.keys = batches, keys
        self.seed = torch.initial_seed()
        """That of the run: the last that torch was seeded with."""
        self.epoch, self.first = 0, 0
        self.part: slice | None = None

    def shared(self, rank: int, world: int) -> EpochOrder:
        """This order, of whose keys, which must be lists, this process takes every `world`-th item from
        number `rank` on.

        So the batches of all processes together are those of one; the part of a short one may be empty.
        """
        self.part = slice(rank, None, world)
        return self

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is of this epoch; the Trainer calls it. A new epoch starts with its first
        batch."""
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
    """Every item, from the first to the last, in lists of `batch_size`."""
    return _of_indices(count, batch_size, lambda _: np.asarray)


def one_by_one(count: int) -> EpochOrder:
    """Every item, from the first to the last."""
    return EpochOrder(count, lambda _: int)


def shuffled(count: int, batch_size: int) -> EpochOrder:
    """Every item once, in lists of `batch_size`."""
    return _of_indices(count, batch_size, lambda generator: permutation(count, generator))


def drawn(count: int, draws: int, batch_size: int) -> EpochOrder:
    """`draws` items of `count`, with replacement, in lists of `batch_size`; no batch where there are none to
    draw."""
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
    """The `count` items of an epoch, each once, in lists of `batch_size` that are of similar `size`, in
    random order.

    `items`, given the epoch's generator, puts them together, in random order.
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
    """A function from places to items, 0 to `count` - 1, that gives every item once.

    A Feistel network permutes the numbers below the next square, and walks on from those that are none of
    ours (Black and Rogaway, Ciphers with arbitrary finite domains, 2002)."""
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
    """The batches ``dataset[key]`` in this order. It draws nothing from the global generators."""
    order.seed = ranks.gather(order.seed)[0]  # processes draw apart, but take their shares of one order
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
