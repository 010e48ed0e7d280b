"""The processes of a run, its ranks: their number, what they exchange, and the samples of each.

The samples of a global batch, or the streams that a run carries, are dealt out like cards: of W ranks, rank r
has those numbered r, r + W, r + 2 W, ... Without other processes every function here is the identity.

Shapes: M samples of all ranks together, G samples that belong together and so to one rank, such as the
channels of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dream import DREAMState

Item = TypeVar("Item")
Samples = TypeVar("Samples", Tensor, DREAMState)


def world_size() -> int:
    """Number W of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0 to W - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(value: Item) -> list[Item]:
    """Return the `value` of every rank, in their order, to every rank; anything that can be pickled."""
    found: list[Item | None] = [None] * world_size()
    if len(found) == 1:
        return [value]
    dist.all_gather_object(found, value)
    return cast("list[Item]", found)


def anywhere(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether `flag` is set on any rank, for decisions that all must take at the same step, such as to stop.

    `device` is that of the model, since NCCL connects GPUs only.
    """
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def mean(values: Tensor) -> Tensor:
    """Mean of `values` over the ranks, in floating point and without a gradient.

    DDP averages gradients. So a loss that is the mean over M samples, of which this rank has some, is the sum
    over its samples divided by ``mean(their number)``: the average over ranks is then the sum over all
    samples divided by M.
    """
    dtype = torch.promote_types(values.dtype, torch.promote_types(torch.float32, torch.get_default_dtype()))
    together = values.detach().to(dtype, copy=True)
    if world_size() > 1:
        dist.all_reduce(together)
        together /= world_size()
    return together


@torch.no_grad()
def mean_over_ranks_(tensors: Sequence[Tensor], weight: float | Tensor = 1.0) -> None:
    """Replace `tensors` in place by their mean over the ranks, weighted by each rank's `weight`.

    Ranks of weight 0 receive the mean of the others. All tensors go in one message, in float64.
    """
    if world_size() == 1 or not tensors:
        return
    device = tensors[0].device
    weight = torch.as_tensor(weight, dtype=torch.float64, device=device).reshape(1)
    message = torch.cat([*(tensor.double().flatten() * weight for tensor in tensors), weight])
    dist.all_reduce(message)
    parts = (message[:-1] / message[-1]).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def dealt(samples: int, world: int, group: int = 1) -> Tensor:
    """Global numbers (samples,) of rank 0's samples, then of rank 1's, ..., dealt in groups of `group`."""
    groups = torch.arange(samples).view(-1, group)
    return torch.cat([groups[first::world].flatten() for first in range(world)])


def whole(own: Samples, group: int = 1) -> Samples:
    """Return the samples (M, ...) of all ranks in their global order to every rank, on the CPU.

    A checkpoint holds these, so that any number of ranks can resume from it: see `mine`.

    Args:
        own: This rank's samples: a tensor whose first axis they are, or a state.
        group: G, samples that belong to one rank.
    """
    parts = gather(own.detach().to("cpu"))
    together = DREAMState.cat(parts) if isinstance(own, DREAMState) else torch.cat(parts)
    return together[torch.argsort(dealt(_count(together), world_size(), group))]


def mine(everything: Samples, group: int = 1) -> Samples:
    """This rank's samples of `everything` (M, ...), the inverse of `whole`."""
    groups = torch.arange(_count(everything)).view(-1, group)
    return everything[groups[rank() :: world_size()].flatten()]


def _count(samples: Tensor | DREAMState) -> int:
    return samples.batch_size if isinstance(samples, DREAMState) else len(samples)
