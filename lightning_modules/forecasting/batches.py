"""From the tables of one series to batches: windows that stand alone, and streams that go on from batch to
batch.

Shapes: N rows of a batch, T rows of the series, D inputs (targets, covariates, known covariates, ages), C
targets, L look-back, H horizon, K origins in one batch of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dream.errors import DataError
from lightning_modules.data.order import EpochOrder


class WindowBatch(NamedTuple):
    """Windows of one series, or the next rows of streams."""

    past: Tensor
    """(N, L, D) inputs; of a stream (N, L + K stride, D), the first L rows being those before the new
    ones."""
    future: Tensor
    """(N, H, C) targets of the rows right after `past`; NaN where they are not known. Of a stream (N, K, H,
    C)."""
    origin: Tensor
    """(N,) int64: the row of the series that `future` starts with. Of a stream (N, K)."""
    reset: Tensor | None = None
    """(N,) bool, only for streams: True where this row of the batch starts a new stream and carried state
    must go."""
    known: Tensor | None = None
    """(N, H, covariates) values of the known covariates beside `future`; of a stream (N, K, H,
    covariates)."""
    timespans: Tensor | None = None
    """(N, rows of `past`) time since the row before, in units of the median training step."""
    spare: bool = False
    """True where nothing of this batch counts: it keeps a process in step whose part of the batch is
    empty."""

    def afresh(self, look_back: int) -> WindowBatch:
        """The windows of `look_back` rows that end at each origin, N K of them, without carried state."""
        if self.reset is None:
            return self
        stride = (self.past.shape[1] - look_back) // self.origin.shape[1]
        past = self.past[:, stride:].unfold(1, look_back, stride).transpose(2, 3).flatten(0, 1)
        spans = self.timespans
        return WindowBatch(
            past,
            self.future.flatten(0, 1),
            self.origin.flatten(),
            None,
            None if self.known is None else self.known.flatten(0, 1),
            None if spans is None else spans[:, stride:].unfold(1, look_back, stride).flatten(0, 1),
        )


class Tables(NamedTuple):
    """What batches are cut from, all standardised."""

    values: Tensor
    """(T, D) inputs without gaps."""
    targets: Tensor
    """(T + H, C) targets; NaN where they are missing and after the end."""
    known: Tensor | None = None
    """(rows, covariates) known covariates, beyond the end of the series as far as they are known."""
    timespans: Tensor | None = None
    """(T,) time since the row before, in units of the median training step."""

    def cut(self, past: Tensor, origin: Tensor, horizon: int, reset: Tensor | None = None) -> WindowBatch:
        """The batch whose past has the row numbers `past` (N, rows), and whose futures start at `origin`."""
        ahead = origin.unsqueeze(-1) + torch.arange(horizon)
        known = None if self.known is None else self.known[ahead]
        timespans = None if self.timespans is None else self.timespans[past]
        return WindowBatch(self.values[past], self.targets[ahead], origin, reset, known, timespans)


class WindowDataset(Dataset[WindowBatch]):
    """Every window, stride 1, whose future lies inside `rows`; the past may reach back before `rows`."""

    def __init__(self, tables: Tables, look_back: int, horizon: int, rows: slice) -> None:
        self.tables, self.look_back, self.horizon = tables, look_back, horizon
        self.origins = range(max(rows.start, look_back), rows.stop - horizon + 1)

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, indices: list[int]) -> WindowBatch:
        """These windows; for none of them a spare one, whose future is unknown."""
        origin = torch.tensor([self.origins[index] for index in indices or [0]])
        batch = self.tables.cut(origin[:, None] + torch.arange(-self.look_back, 0), origin, self.horizon)
        return (
            batch if indices else batch._replace(future=torch.full_like(batch.future, torch.nan), spare=True)
        )


class StreamDataset(Dataset[WindowBatch]):
    """Lanes that go on from item to item, with an origin every `stride` rows.

    Lane i begins at row ``starts[i]``, before which `look_back` rows are shown; its origins are
    ``starts[i] + stride, starts[i] + 2 stride, ...``. Item t of a phase holds the next `chunk` origins of
    every lane (the last may hold fewer); in phase p everything lies p rows earlier. Items are numbered phase
    by phase.

    Args:
        tables: What is cut.
        look_back: Rows shown before the new ones.
        horizon: Rows to forecast at each origin.
        starts: (N,) the row at which each lane begins in phase 0.
        stride: Rows between origins.
        origins: Origins of each lane.
        chunk: Origins in an item.
        phases: Number of phases.
    """

    def __init__(
        self,
        tables: Tables,
        look_back: int,
        horizon: int,
        starts: Tensor,
        stride: int,
        origins: int,
        chunk: int,
        phases: int = 1,
    ) -> None:
        self.tables, self.look_back, self.horizon = tables, look_back, horizon
        self.starts, self.stride, self.origins, self.chunk, self.phases = (
            starts,
            stride,
            origins,
            chunk,
            phases,
        )
        self.chunks = -(-origins // chunk)

    def shared(self, rank: int, world: int) -> StreamDataset:
        """These streams, of whose lanes this process takes every `world`-th from number `rank` on."""
        self.starts = self.starts[rank::world]
        return self

    def __len__(self) -> int:
        return self.chunks * self.phases

    def __getitem__(self, index: int) -> WindowBatch:
        """The next rows of every lane."""
        phase, item = divmod(range(len(self))[index], self.chunks)
        first = item * self.chunk
        count = min(self.chunk, self.origins - first)
        begin = (self.starts - phase + first * self.stride)[:, None]
        past = begin + torch.arange(-self.look_back, count * self.stride)
        origin = begin + self.stride * torch.arange(1, count + 1)
        return self.tables.cut(past, origin, self.horizon, torch.full((len(begin),), item == 0))


def training_streams(
    tables: Tables, look_back: int, horizon: int, rows: slice, lanes: int, stride: int
) -> StreamDataset:
    """`lanes` adjacent lanes that fill the training part `rows`, an item holding as many origins as fit a
    look-back.

    What does not fill an item is left out at the old end, and serves for phases, so that the origins of one
    epoch need not be those of the next.

    Raises:
        DataError: `rows` are too few for one item.
    """
    chunk = max(look_back // stride, 1)
    available = rows.stop - rows.start - look_back - horizon
    chunks = max(available - stride + 1, 0) // (lanes * chunk * stride) or max(available, 0) // (
        lanes * chunk * stride
    )
    if chunks == 0:
        needed = look_back + lanes * chunk * stride + horizon
        raise DataError(
            f"{lanes} streams need look_back + batch_size * {chunk * stride} + horizon = {needed} training "
            "rows; there "
            f"are {rows.stop - rows.start}. Lower `batch_size`, `stride` or `look_back`."
        )
    lane = chunks * chunk * stride
    first = rows.stop - horizon - lanes * lane
    starts = first + lane * torch.arange(lanes)
    phases = min(first - rows.start - look_back, stride - 1) + 1
    return StreamDataset(tables, look_back, horizon, starts, stride, chunks * chunk, chunk, phases)


def rolling_stream(
    tables: Tables, look_back: int, horizon: int, first: int, last: int, stride: int, chunk: int, warm_up: int
) -> StreamDataset:
    """One lane with an origin every `stride` rows from row `first` to at most row `last`.

    It begins about `warm_up` rows before `first`, or as early as the series allows, so that the state at
    `first` knows more than one look-back; the origins of those items lie before `first`, and no item holds
    origins of both kinds."""
    first = max(first, look_back + stride)
    before = min(warm_up, first - stride - look_back) // (chunk * stride) * chunk
    start = torch.tensor([first - (before + 1) * stride])
    return StreamDataset(
        tables, look_back, horizon, start, stride, before + (last - first) // stride + 1, chunk
    )


def one_phase(streams: StreamDataset) -> EpochOrder:
    """The items of one phase in order, another phase each epoch."""

    def items(generator: torch.Generator) -> Callable[[int], int]:
        first = int(torch.randint(streams.phases, (), generator=generator)) * streams.chunks
        return lambda number: first + number

    return EpochOrder(streams.chunks, items)
