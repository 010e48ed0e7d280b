"""One row of each of many streams of one core, read and learnt at once: to the bit as each alone.

Shapes: N streams, D input columns, L lanes, F features of a lane, O outputs of a lane, C targets, H rows
ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from dream.errors import DataError
from dream.ops import native
from lightning_modules.stream.head_rules import LeastSquares
from lightning_modules.stream.learner import StreamLearner
from lightning_modules.stream.memory import relative
from lightning_modules.stream.rows import ManyRead, Read, RowReader, RowState

AT_ONCE = 256  # streams that are taken together


class _Row(NamedTuple):
    """A row of each of N streams that was read, and is not taken yet."""

    rows: np.ndarray
    """(N, D)."""
    reader: RowReader
    read: ManyRead
    states: list[RowState]
    """State of each stream after it."""

    def some(self, places: Sequence[int]) -> _Row:
        """Those of some streams."""
        read = ManyRead(*(part[places] for part in self.read))
        return _Row(self.rows[places], self.reader, read, [self.states[place] for place in places])


def advance(learners: Sequence[StreamLearner], rows: np.ndarray, take: bool = True) -> dict[int, np.ndarray]:
    """Take the next row of each stream, (N, D), where that is faster for many; others do not change.

    A row that is not taken is read, so that it is not read again when it comes alone.

    Args:
        learners: Of one core, which share what reads a single row.
        rows: Values that are allowed.
        take: Whether rows may be taken; they are only read otherwise.

    Returns:
        The prediction (H, C) after each row that was taken, by its place.
    """
    if (row := _read(learners, rows)) is None:
        return {}
    taken: dict[int, np.ndarray] = {}
    resting = [place for place, learner in enumerate(learners) if take and learner.rests]
    following = [place for place, learner in enumerate(learners) if take and learner.follows]
    for step, places in ((_rest, resting), (_follow, following)):
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            found = step([learners[place] for place in some], row.some(some))
            taken |= {some[place]: prediction for place, prediction in found.items()}
    for place, (learner, state) in enumerate(zip(learners, row.states, strict=True)):
        if place not in taken:
            values, level, scale = (part[place].copy() for part in row.read)  # no memory of the others
            alone = Read(values, level, scale, partial(row.reader.traces, state))
            learner.reader.expect(rows[place], alone, state)
    return taken


def _read(learners: Sequence[StreamLearner], rows: np.ndarray) -> _Row | None:
    first = learners[0].reader.single(learners[0].plasticity)
    if first is None or not first[0].reads_many:
        return None
    reader = first[0]
    states = [state for learner in learners if (state := learner.reader.shared(reader)) is not None]
    if len(states) < len(learners):
        return None
    feedback = np.concatenate([learner.next_feedback for learner in learners])
    try:
        return _Row(rows, reader, *reader.read_many(rows, feedback, states))
    except DataError:  # of one of them, which tells it when its turn comes
        return None


def _rest(learners: Sequence[StreamLearner], row: _Row) -> dict[int, np.ndarray]:
    """Predictions after a row of streams that only read."""
    heads = [learner.head.current() for learner in learners]
    weights, biases = (np.stack(parts) for parts in zip(*((h.weight, h.bias) for h in heads), strict=True))
    for learner, state in zip(learners, row.states, strict=True):
        learner.reader.move(state)
        learner.row += 1
        learner.memory.first += 1
    return _predictions(learners[0], row.read, weights, biases)


def _follow(learners: Sequence[StreamLearner], row: _Row) -> dict[int, np.ndarray]:
    """Predictions after a row of streams whose heads learn by least squares from the row whose targets it
    completes; not of those that miss a target, or whose head cannot be solved.

    The sums of least squares move on where they lie: copying them takes longer than all else. So a stream is
    left half done where Ctrl-C ends this, and `Streams` goes on no more."""
    network = learners[0].network
    held = [learner.memory.held for learner in learners]
    level, scale, values = (np.stack([one[name][0] for one in held]) for name in ("level", "scale", "values"))
    targets = np.stack([one["targets"][1:] for one in held])
    new = row.rows[:, None, : network.shape.targets]
    future = np.concatenate([targets, new], 1)[:, : network.shape.horizon]
    y = network.to_lanes(relative(future, level, scale)).astype(values.dtype)  # (N, L, O)
    known = np.flatnonzero(~np.isnan(y).any((1, 2)))
    kernel = native.kernel()
    if not len(known) or isinstance(kernel, str):
        return {}
    rules = [rule for learner in learners if isinstance(rule := learner.rule, LeastSquares)]
    z = np.ones((len(known), network.lanes, values.shape[-1] + 1))
    z[..., :-1] = values[known]
    some = [rules[place] for place in known.tolist()]
    sums = [rule.gram for rule in some], [rule.moment for rule in some], [rule.prior for rule in some]
    columns, solved = kernel.follow(z, y[known], *sums, rules[0].forgetting, rules[0].ridge)
    places = known[solved].tolist()
    both = columns[solved].swapaxes(-1, -2).astype(values.dtype)  # (N, L, O, F + 1)
    weights, biases = np.ascontiguousarray(both[..., :-1]), both[..., -1]
    learners, row = [learners[place] for place in places], row.some(places)
    kept = row.rows, new[places, 0], *row.read
    for k, (learner, state) in enumerate(zip(learners, row.states, strict=True)):
        head = learner.head.current()
        head.weight[...], head.bias[...] = weights[k], biases[k]
        head.write()
        learner.memory.pass_on([value[k] for value in kept])
        learner.reader.move(state)
        learner.row += 1
        learner.learnt += 1
    found = _predictions(learners[0], row.read, weights, biases)
    return {places[k]: prediction for k, prediction in found.items()}


def _predictions(
    learner: StreamLearner, read: ManyRead, weights: np.ndarray, biases: np.ndarray
) -> dict[int, np.ndarray]:
    """Prediction (H, C) of each stream by a head of its own, (N, L, O, F) and (N, L, O)."""
    lanes = read.values.swapaxes(-3, -2) @ weights.swapaxes(-1, -2)
    outputs = learner.network.to_targets(lanes.swapaxes(-3, -2) + biases[:, None])
    scale = np.where(np.isnan(read.scale), 0.0, read.scale)  # without one the level stays
    predictions = read.level[:, :, None] + scale[:, :, None] * outputs
    return {k: prediction[0].copy() for k, prediction in enumerate(predictions)}
