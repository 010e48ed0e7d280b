"""`StreamReader`: reads the next rows of one stream, many in torch, a single one in NumPy.

Shapes: T rows, D input columns, E feedback columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.rows import Read, RowReader, RowState, as_tensor
from lightning_modules.stream.state import StreamState


class _Ahead(NamedTuple):
    """A row that was read before it came."""

    row: bytes
    before: RowState
    read: Read
    after: RowState


class StreamReader:
    """Reads one stream, whose state it carries.

    A single row is read in NumPy where the core has a faster way for it, and once: what was read of a row
    before it came is kept, for the case that the same row comes next.

    Args:
        network: The network that reads.
        fixed: Whether its slow weights stay; a single row is read in torch otherwise.
    """

    def __init__(self, network: StreamNetwork, fixed: bool) -> None:
        self.network = network
        self.fixed = fixed
        self._state: StreamState | RowState = network.init_state()
        self._row_reader: RowReader | None = None
        self._ahead: _Ahead | None = None

    @property
    def state(self) -> StreamState:
        """Everything that the stream carries in the network."""
        state = self._state
        if isinstance(state, RowState):
            assert self._row_reader is not None
            return self._row_reader.end(state)
        return state

    @state.setter
    def state(self, state: StreamState) -> None:
        self._state = state

    def __getstate__(self) -> dict[str, Any]:
        # what was made ready for single rows points into memory that a copy does not share
        return vars(self) | {"_state": self.state, "_row_reader": None, "_ahead": None}

    def read(self, rows: np.ndarray, feedback: np.ndarray, plasticity: bool) -> Read:
        """Read the next rows, (T, D), with their feedback (T, E).

        Args:
            rows, feedback: As `StreamNetwork.features` takes them.
            plasticity: Whether the fast weights learn.
        """
        read, self._state = self._read(rows, feedback, plasticity)
        return read

    def foresee(self, row: np.ndarray, feedback: np.ndarray, plasticity: bool) -> Read:
        """Read a row, (1, D), that may come next; the state stays."""
        read, after = self._read(row, feedback, plasticity)
        if isinstance(after, RowState):
            self.expect(row, read, after)
        return read

    def single(self, plasticity: bool) -> tuple[RowReader, RowState] | None:
        """The reader of a single row, and the state that it starts from; None where torch reads it."""
        if (reader := self._ready(plasticity)) is None:
            return None
        if not isinstance(self._state, RowState):
            self._state = reader.start(self._state)
        return reader, self._state

    def shared(self, reader: RowReader) -> RowState | None:
        """The state that a reader of several streams, whose weights are as they were, starts from; None if
        this stream has another."""
        if self._row_reader is not reader:
            return None
        if not isinstance(self._state, RowState):
            self._state = reader.start(self._state)
        return self._state

    def move(self, state: RowState) -> None:
        """Go on from the state after a row that was read together with those of other streams."""
        self._state = state

    def expect(self, row: np.ndarray, read: Read, after: RowState) -> None:
        """Keep what was read of a row, (D,), in case that it comes."""
        assert isinstance(self._state, RowState)
        self._ahead = _Ahead(row.tobytes(), self._state, read, after)

    def share(self, reader: RowReader | None) -> None:
        """Read single rows by the reader of other streams of the same core, whose weights stay."""
        self._row_reader = reader

    def signals(self) -> tuple[float, float]:
        """Running surprise and norm of the fast weights of the first layer, means over lanes."""
        if isinstance(self._state, RowState):
            assert self._row_reader is not None
            return self._row_reader.signals(self._state)
        layer = self._state.core[0]
        return float(layer.avg_surprise.mean()), float(layer.U.flatten(1).norm(dim=1).mean())

    def _read(
        self, rows: np.ndarray, feedback: np.ndarray, plasticity: bool
    ) -> tuple[Read, StreamState | RowState]:
        if len(rows) == 1 and (single := self.single(plasticity)) is not None:
            reader, before = single
            ahead = self._ahead
            if ahead is not None and ahead.before is before and ahead.row == rows.tobytes():
                return ahead.read, ahead.after
            return reader.read(rows[0], feedback[0], before)
        like = self.network.head.weight
        with torch.no_grad(), self.network.core.plasticity(plasticity):
            features, state = self.network.features(
                as_tensor(rows, like)[None], self.state, as_tensor(feedback, like)[None]
            )
        return Read.of(features), state

    def _ready(self, plasticity: bool) -> RowReader | None:
        """The reader of a single row, made again where the weights have changed; None if there is none."""
        if not self.fixed:
            return None
        if self._row_reader is None or not self._row_reader.serves(plasticity):
            self._state, self._ahead = self.state, None
            self._row_reader = RowReader.of(self.network, plasticity)
        return self._row_reader
