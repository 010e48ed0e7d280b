"""One row of each of many streams of one core, read at once: the numbers of each alone, to the bit.

Shapes: N streams, D input columns, C targets, H rows ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dream.errors import DataError
from lightning_modules.stream.learner import StreamLearner
from lightning_modules.stream.rows import ManyRead, Read, RowReader, RowState
from lightning_modules.stream.rules import HeadArrays


def foresee(learners: Sequence[StreamLearner], rows: np.ndarray) -> None:
    """Read the next row of each stream, (N, D), in case that it comes: then it is not read again.

    The learners are of one network, and share what reads a single row. Where rows cannot be read at once,
    nothing happens.
    """
    if (found := _read(learners, rows)) is None:
        return
    reader, read, states = found
    for k, (learner, state) in enumerate(zip(learners, states, strict=True)):
        parts = (part[k].copy() for part in read)  # which hold no memory of the others
        learner.reader.expect(rows[k], Read(*parts, partial(reader.traces, state)), state)


def advance(learners: Sequence[StreamLearner], rows: np.ndarray) -> np.ndarray | None:
    """Predictions (N, H, C) after the next row of each stream, (N, D), which is read; of learners that rest.

    They are of one network, and share its head and what reads a single row. None where rows cannot be read at
    once; nothing has happened then.
    """
    if (found := _read(learners, rows)) is None:
        return None
    _, read, states = found
    network = learners[0].network
    outputs = network.to_targets(HeadArrays(network.head)(read.values))
    scale = np.where(np.isnan(read.scale), 0.0, read.scale)  # without one the level stays
    predictions: np.ndarray = read.level[:, :, None] + scale[:, :, None] * outputs
    for learner, state in zip(learners, states, strict=True):
        learner.reader.move(state)
        learner.row += 1
        learner.memory.first += 1
    return predictions[:, 0]


def _read(
    learners: Sequence[StreamLearner], rows: np.ndarray
) -> tuple[RowReader, ManyRead, list[RowState]] | None:
    first = learners[0].reader.single(learners[0].plasticity)
    if first is None or not first[0].reads_many:
        return None
    reader = first[0]
    states = [state for learner in learners if (state := learner.reader.shared(reader)) is not None]
    if len(states) < len(learners):
        return None
    feedback = np.concatenate([learner.next_feedback for learner in learners])
    try:
        read, after = reader.read_many(rows, feedback, states)
    except DataError:  # of one of them, which tells it when its turn comes
        return None
    return reader, read, after
