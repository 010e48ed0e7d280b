"""Batches of series: independent windows, and streams that continue from batch to batch.

Several series lie in the tables one after another; no window and no stream reaches from one into the next.

Shapes: N samples of a batch, T rows of all series, D inputs (targets, covariates, known covariates, ages), C
targets, L look-back, H horizon, K origins in one batch of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dream.errors import DataError
from lightning_modules.data.order import EpochOrder


class WindowBatch(NamedTuple):
    """Windows of series, or the next rows of streams."""

    past: Tensor
    """(N, L, D) inputs, filled; of streams (N, L + K stride, D): L rows read before, then the new ones."""
    future: Tensor
    """(N, H, C) targets of the rows after `past`, NaN where unknown; of streams (N, K, H, C)."""
    origin: Tensor
    """(N,) int64 number of the row with which `future` starts; of streams (N, K)."""
    reset: Tensor | None = None
    """(N,) bool: True where a sample starts a new stream, from a fresh state; None for windows."""
    known: Tensor | None = None
    """(N, H, covariates) known covariates of the rows of `future`; of streams (N, K, H, covariates)."""
    timespans: Tensor | None = None
    """(N, rows of `past`) time since the row before, in units of the median training step."""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""
    observed: Tensor | None = None
    """(N, rows of `past`, D) bool: False where an input was not observed, and `past` holds what a rival of
    DREAM reads there; None if all were, or the policy is not `model`."""

    def afresh(self, look_back: int) -> WindowBatch:
        """The N K windows of `look_back` rows that end at the origins, to be read without carried state."""
        if self.reset is None:
            return self
        stride = (self.past.shape[1] - look_back) // self.origin.shape[1]

        def windows(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[:, stride:].unfold(1, look_back, stride).flatten(0, 1)

        past, observed = windows(self.past), windows(self.observed)  # (N K, D, L)
        assert past is not None
        return WindowBatch(
            past.transpose(1, 2),
            self.future.flatten(0, 1),
            self.origin.flatten(),
            None,
            None if self.known is None else self.known.flatten(0, 1),
            windows(self.timespans),
            observed=None if observed is None else observed.transpose(1, 2),
        )


def together(windows: Sequence[WindowBatch]) -> WindowBatch:
    """One batch of several of windows."""
    if len(windows) == 1:
        return windows[0]
    observed = None
    if any(each.observed is not None for each in windows):  # of those without, all values were
        parts = (
            torch.ones_like(w.past, dtype=torch.bool) if w.observed is None else w.observed for w in windows
        )
        observed = torch.cat(list(parts))
    found = {
        name: None if any(part is None for part in parts) else torch.cat(parts)
        for name in ("past", "future", "origin", "known", "timespans")
        for parts in [[getattr(each, name) for each in windows]]
    }
    return WindowBatch(**found, observed=observed)  # type: ignore[arg-type]


class Tables(NamedTuple):
    """Standardised series, from which batches are cut."""

    values: Tensor
    """(T, D) inputs without gaps."""
    targets: Tensor
    """(T + H, C) targets; NaN where they are missing, and after the end."""
    known: Tensor | None = None
    """(rows, covariates) known covariates, including all rows known beyond the end of the series."""
    timespans: Tensor | None = None
    """(T,) time since the row before, in units of the median training step."""
    observed: Tensor | None = None
    """(T, D) bool, False where an input was not observed; None if all were, or the policy is not `model`."""

    def cut(self, past: Tensor, origin: Tensor, horizon: int, reset: Tensor | None = None) -> WindowBatch:
        """Batch with the rows `past` (N, rows), whose futures start at the rows `origin`."""
        ahead = origin.unsqueeze(-1) + torch.arange(horizon)
        known = None if self.known is None else self.known[ahead]
        timespans = None if self.timespans is None else self.timespans[past]
        observed = None if self.observed is None else self.observed[past]
        values, future = self.values[past], self.targets[ahead]
        return WindowBatch(values, future, origin, reset, known, timespans, observed=observed)


def joined(parts: Sequence[Tables], spans: Sequence[int]) -> Tables:
    """The tables of several series, one after another, each of which takes `spans` rows.

    Rows after those of a series are unknown; no window holds them.
    """
    if len(parts) == 1:
        return parts[0]

    def whole(name: str) -> Tensor | None:
        tables = [getattr(part, name) for part in parts]
        known = [table for table in tables if table is not None]
        if not known:
            return None
        fill = True if known[0].dtype == torch.bool else torch.nan  # all are observed where none is missing
        made = known[0].new_full((sum(spans), *known[0].shape[1:]), fill)
        first = 0
        for table, span in zip(tables, spans, strict=True):
            if table is not None:
                made[first : first + len(table)] = table
            first += span
        return made

    return Tables(**{name: whole(name) for name in Tables._fields})  # type: ignore[arg-type]


class WindowDataset(Dataset[WindowBatch]):
    """All windows, stride 1, whose future begins in one of the ranges `origins`, one after another."""

    def __init__(self, tables: Tables, look_back: int, horizon: int, origins: Sequence[range]) -> None:
        self.tables = tables
        self.look_back = look_back
        self.horizon = horizon
        self.first = torch.tensor([each.start for each in origins])
        self.stop = torch.tensor([len(each) for each in origins]).cumsum(0)
        """(S,) number of the window after the last of each series."""

    def __len__(self) -> int:
        return int(self.stop[-1])

    def __getitem__(self, indices: list[int]) -> WindowBatch:
        """Batch of these windows; without any, a spare one whose future is unknown."""
        numbers = torch.tensor(indices or [0])
        series = torch.searchsorted(self.stop, numbers, right=True)
        origin = self.first[series] + numbers - torch.where(series > 0, self.stop[series - 1], 0)
        batch = self.tables.cut(origin[:, None] + torch.arange(-self.look_back, 0), origin, self.horizon)
        if indices:
            return batch
        return batch._replace(future=torch.full_like(batch.future, torch.nan), spare=True)


class StreamDataset(Dataset[WindowBatch]):
    """N streams, in items that continue each other, with an origin every `stride` rows.

    Stream i begins at row ``starts[i]``, with the `look_back` rows before it shown as well; its origins are
    ``starts[i] + stride, starts[i] + 2 stride, ...``. Item t of a phase holds the next `chunk` origins of
    every stream (the last item may hold fewer). In phase p everything lies p rows earlier. Items are numbered
    phase by phase.

    Args:
        tables: Series to cut.
        look_back: Rows shown before the new ones.
        horizon: Rows to forecast at each origin.
        starts: (N,) the row at which each stream begins in phase 0.
        stride: Rows between origins.
        origins: Origins of each stream.
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
        self.tables = tables
        self.look_back = look_back
        self.horizon = horizon
        self.starts = starts
        self.stride = stride
        self.origins = origins
        self.chunk = chunk
        self.phases = phases
        self.chunks = -(-origins // chunk)

    def shared(self, rank: int, world: int) -> StreamDataset:
        """Keep every `world`-th stream, from number `rank` on: the share of this process."""
        self.starts = self.starts[rank::world]
        return self

    def __len__(self) -> int:
        return self.chunks * self.phases

    def __getitem__(self, index: int) -> WindowBatch:
        """The next rows of every stream."""
        phase, item = divmod(range(len(self))[index], self.chunks)
        first = item * self.chunk
        count = min(self.chunk, self.origins - first)
        begin = (self.starts - phase + first * self.stride)[:, None]
        past = begin + torch.arange(-self.look_back, count * self.stride)
        origin = begin + self.stride * torch.arange(1, count + 1)
        return self.tables.cut(past, origin, self.horizon, torch.full((len(begin),), item == 0))


def training_streams(
    tables: Tables, look_back: int, horizon: int, rows: slice, streams: int, stride: int
) -> StreamDataset:
    """`streams` adjacent streams that fill the training part `rows`; an item spans about a look-back.

    Rows that do not fill an item are left out at the beginning. They make room for the phases, so that the
    origins differ from epoch to epoch.

    Raises:
        DataError: `rows` are too few for one item.
    """
    chunk = max(look_back // stride, 1)
    available = rows.stop - rows.start - look_back - horizon
    item = streams * chunk * stride
    chunks = max(available - stride + 1, 0) // item or max(available, 0) // item
    if chunks == 0:
        raise DataError(
            f"{streams} streams need look_back + batch_size * {chunk * stride} + horizon = "
            f"{look_back + item + horizon} training rows; there are {rows.stop - rows.start}. Lower "
            "`batch_size`, `stride` or `look_back`."
        )
    length = chunks * chunk * stride
    first = rows.stop - horizon - streams * length
    starts = first + length * torch.arange(streams)
    phases = min(first - rows.start - look_back, stride - 1) + 1
    return StreamDataset(tables, look_back, horizon, starts, stride, chunks * chunk, chunk, phases)


class StreamsInTurn(Dataset[WindowBatch]):
    """Groups of streams, one after another; each begins anew."""

    def __init__(self, groups: Sequence[StreamDataset]) -> None:
        self.groups = groups
        self.stop = np.cumsum([len(group) for group in groups])
        """(groups,) number of the item after the last of each."""

    def __len__(self) -> int:
        return int(self.stop[-1])

    def __getitem__(self, index: int) -> WindowBatch:
        group = int(np.searchsorted(self.stop, index, side="right"))
        return self.groups[group][index - (int(self.stop[group - 1]) if group else 0)]


def panel_streams(
    tables: Tables, look_back: int, horizon: int, parts: Sequence[slice], streams: int, stride: int
) -> list[StreamDataset]:
    """A stream for each series, up to `streams` side by side, of the training `parts` of all.

    Those side by side are of similar length. They have as many origins as the shortest of them, the last ones
    of each, and as `training_streams` makes them phases.

    Raises:
        DataError: no part is long enough for an item.
    """
    chunk = max(look_back // stride, 1)
    least = look_back + chunk * stride + horizon
    enough = [part for part in parts if part.stop - part.start >= least]
    enough.sort(key=lambda part: part.stop - part.start)
    if not enough:
        raise DataError(
            f"a stream needs look_back + {chunk * stride} + horizon = {least} training rows; no series has "
            "as many. Lower `stride` or `look_back`."
        )
    groups = []
    for some in (enough[first : first + streams] for first in range(0, len(enough), streams)):
        available = some[0].stop - some[0].start - look_back - horizon
        origins = available // (chunk * stride) * chunk
        starts = torch.tensor([part.stop - horizon - origins * stride for part in some])
        phases = min(available - origins * stride, stride - 1) + 1
        groups.append(StreamDataset(tables, look_back, horizon, starts, stride, origins, chunk, phases))
    return groups


def rolling_stream(
    tables: Tables, look_back: int, horizon: int, first: int, last: int, stride: int, chunk: int, warm_up: int
) -> StreamDataset:
    """One stream with an origin every `stride` rows from row `first` to at most row `last`.

    It begins about `warm_up` rows before `first`, or as early as the series allows, so that the state at
    `first` has seen more than one look-back. All origins of the items that warm it up lie before `first`; no
    item holds origins of both kinds."""
    first = max(first, look_back + stride)
    before = min(warm_up, first - stride - look_back) // (chunk * stride) * chunk
    start = torch.tensor([first - (before + 1) * stride])
    return StreamDataset(
        tables, look_back, horizon, start, stride, before + (last - first) // stride + 1, chunk
    )


def groups_at_random(streams: StreamsInTurn) -> EpochOrder:
    """Order that reads the groups in a random order, and of each the items of a random phase in turn."""
    groups = streams.groups
    first = [0, *streams.stop[:-1].tolist()]

    def items(generator: torch.Generator) -> Callable[[int], int]:
        places: list[int] = []
        order = torch.randperm(len(groups), generator=generator).tolist() if len(groups) > 1 else [0]
        for number in order:
            phase = int(torch.randint(groups[number].phases, (), generator=generator))
            begin = first[number] + phase * groups[number].chunks
            places += range(begin, begin + groups[number].chunks)
        return places.__getitem__

    return EpochOrder(sum(group.chunks for group in groups), items)
