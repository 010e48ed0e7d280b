"""`Starts`: all that streams carry at the rows where crops may begin, for all streams together.

Shapes: S streams, T rows, D input columns, E columns of feedback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lightning_modules.online.batches import STRIDE
from lightning_modules.stream import StreamNetwork, StreamState


class Starts:
    """Normaliser, profile and past rows before every `STRIDE`-th row of each stream, without a core's state.

    Args:
        network: Reads the rows.
        rows: (T, D) inputs of each stream.
        feedback: (T, E) feedback of each stream; None if inputs hold the targets.
        stops: Row of each stream before which the last crop begins.
    """

    def __init__(
        self,
        network: StreamNetwork,
        rows: Sequence[Tensor],
        feedback: Sequence[Tensor] | None,
        stops: Sequence[int],
    ) -> None:
        counts = -(-np.array(stops) // STRIDE)
        longest_first = np.argsort(-counts, kind="stable")
        self.places = np.argsort(longest_first)
        """(S,) place of each stream in `states`, where those with the most rows come first."""
        self.states: list[StreamState] = []
        """Before each piece of `STRIDE` rows, of the streams that hold it."""
        device = network.head.weight.device

        def piece(values: Sequence[Tensor], start: int, streams: int) -> Tensor:
            pieces = [values[number][start : start + STRIDE] for number in longest_first[:streams]]
            return torch.stack(pieces).to(device)

        state = replace(network.init_state(int((counts > 0).sum())), core=[])
        for number in range(int(counts.max())):
            self.states.append(state)
            left = int((counts > number + 1).sum())
            if left:
                state = _first(state, left)
                start = number * STRIDE
                known = None if feedback is None else piece(feedback, start, left)
                state = network.relate(piece(rows, start, left), state, known)[1]
        self._named = [state.tensors() for state in self.states]

    def at(self, numbers: Sequence[int], rows: Sequence[int]) -> StreamState:
        """The state before row `rows` of the streams `numbers`, side by side."""
        places = zip(rows, self.places[list(numbers)].tolist(), strict=True)
        parts = [(self._named[row // STRIDE], slice(place, place + 1)) for row, place in places]
        names = self._named[0]
        return self.states[0].with_tensors(
            {name: torch.cat([named[name][part] for named, part in parts]) for name in names}
        )


def _first(state: StreamState, streams: int) -> StreamState:
    return state.with_tensors({name: value[:streams] for name, value in state.tensors().items()})
