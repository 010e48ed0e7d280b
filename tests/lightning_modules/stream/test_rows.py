"""One row read in NumPy: everything that the network reads of it in torch, and once only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dream import DataError, DREAMConfig
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.rows import RowReader, RowState

ROWS = 40
TASKS = {
    "forecasting": Shape("forecasting", 3, 2, 4, season=6),
    "lags": Shape("forecasting", 1, 1, 2, season=5, lags=3),
    "regression": Shape("regression", 2, 2),
    "classification": Shape("classification", 2, 3),
}
READINGS = {
    "running": Reading("running", 0.05, lags=[0, 2], means=[5], profile_rate=0.2),
    "differences": Reading("differences", 0.0, means=[2, 7], output=False),
    "none": Reading("none", lags=4, forecast=False, profile_rate=0.1),
    "channels": Reading("differences", 0.1, True, lags=[0, 3], means=[3], profile_rate=0.2),
}


def network(task: str, reading: str, core: Any = "dream") -> StreamNetwork:
    torch.manual_seed(3)
    made = StreamNetwork(TASKS[task], READINGS[reading], DREAMConfig(hidden_dim=6, rank=2), core, [6, 5])
    return made.double().eval()


def stream(task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and feedback with gaps: in the first row, alone, and whole rows."""
    shape, generator = TASKS[task], torch.Generator().manual_seed(1)
    rows = torch.randn(ROWS, shape.inputs, dtype=torch.float64, generator=generator).cumsum(0)
    rows[torch.rand(rows.shape, generator=generator) < 0.2] = torch.nan
    rows[[0, 9, 10]] = torch.nan
    rows[20:26, 0] = 1.5
    feedback = torch.randn(ROWS, shape.feedback, dtype=torch.float64, generator=generator)
    if shape.task == "classification":
        feedback = torch.eye(shape.targets, dtype=torch.float64)[feedback.argmax(1)]
    feedback[:3] = torch.nan
    return rows, feedback


def test_a_state_that_goes_from_torch_to_numpy_leaves_nothing_behind() -> None:
    net = network("forecasting", "running")
    reader = RowReader.of(net, plasticity=True)
    assert reader is not None
    state = reader.start(reader.end(reader.start(net.init_state())))
    assert all(part.base is None for part in (*state.seasonal, state.window, state.recent))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("reading", READINGS)
def test_a_row_in_numpy_is_the_row_in_torch(task: str, reading: str) -> None:
    if reading == "channels" and TASKS[task].task != "forecasting":
        pytest.skip("only forecasting has channels")
    net, (rows, feedback) = network(task, reading), stream(task)
    reader = RowReader.of(net, plasticity=True)
    assert reader is not None
    state = reader.start(net.init_state())
    with torch.no_grad():
        whole, final = net.features(rows[None], net.init_state(), feedback[None])
    for k in range(ROWS):
        before = reader.end(state).tensors()
        kept = {name: value.clone() for name, value in before.items()}
        read, state = reader.read(rows[k].numpy(), feedback[k].numpy(), state)
        for name, value in before.items():
            assert torch.equal(value.nan_to_num(7), kept[name].nan_to_num(7)), f"{name} was changed in place"
        for name, part in zip(("values", "level", "scale"), read, strict=False):
            expected = getattr(whole, name)[0, k]
            torch.testing.assert_close(
                torch.from_numpy(part)[0], expected, equal_nan=True, msg=f"{name}, row {k}"
            )
        for layer, trace in zip(whole.traces, read.traces(), strict=True):
            for name, value in trace._asdict().items():
                torch.testing.assert_close(value[:, 0], getattr(layer, name)[:, k], msg=f"{name}, row {k}")
    for name, value in reader.end(state).tensors().items():
        torch.testing.assert_close(value, final.tensors()[name], equal_nan=True, msg=name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("reading", READINGS)
def test_a_row_of_many_streams_is_that_of_each_alone_to_the_bit(
    task: str, reading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reading == "channels" and TASKS[task].task != "forecasting":
        pytest.skip("only forecasting has channels")
    monkeypatch.setitem(READINGS, reading, replace(READINGS[reading], profile_rate=0.0))
    reader, (rows, feedback) = RowReader.of(network(task, reading), plasticity=True), stream(task)
    assert reader is not None
    assert reader.reads_many
    states = [reader.start(reader.network.init_state())] * 4
    for k in range(ROWS - 5):
        places = [min(k + step, ROWS - 1) for step in (0, 5, 1, 3)][: 2 + k % 3]
        many, after = reader.read_many(rows[places].numpy(), feedback[places].numpy(), states[: len(places)])
        for n, place in enumerate(places):
            alone, state = reader.read(rows[place].numpy(), feedback[place].numpy(), states[n])
            for ours, theirs in zip(many, alone, strict=False):
                np.testing.assert_array_equal(ours[n], theirs)
            for ours, theirs in zip(flat(after[n]), flat(state), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        states = [*after, *states[len(places) :]]


def flat(state: RowState) -> list[np.ndarray]:
    return [state.columns, *state.seasonal, *state.core, state.window, state.recent]


def test_rivals_and_cores_in_training_are_read_in_torch() -> None:
    assert RowReader.of(network("lags", "running", "lstm"), True) is None
    assert RowReader.of(network("lags", "running").train(), True) is None
    slow = network("lags", "running")
    for layer in slow.core.layers:
        layer.cell.backend = "reference"
    assert RowReader.of(slow, True) is None


def learner(task: str = "regression", **settings: Any) -> StreamLearner:
    return StreamLearner(network(task, "running"), Updates("least_squares"), **settings)


def counted(what: StreamLearner, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Rows that are read from now on."""
    rows, read = [], RowReader.read

    def reads(self: RowReader, row: np.ndarray, *rest: Any) -> Any:
        rows.append(row.tobytes())
        return read(self, row, *rest)

    monkeypatch.setattr(RowReader, "read", reads)
    return rows


def test_a_row_that_was_predicted_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = stream("regression")
    targets = torch.ones(ROWS, 2, dtype=torch.float64)
    asked, quiet = learner(), learner()
    read = counted(asked, monkeypatch)
    for k in range(20):
        asked.peek(rows[k])
        asked.process(rows[k : k + 1], targets[k : k + 1])
    assert len(read) == 20
    for k in range(20):
        quiet.process(rows[k : k + 1], targets[k : k + 1])
    other, same = asked.tensors(), quiet.tensors()
    assert all(torch.equal(other[name].nan_to_num(7), same[name].nan_to_num(7)) for name in same)
    read.clear()
    asked.peek(rows[20])
    asked.peek(rows[21])  # another one: the first is not what comes next
    asked.process(rows[20:21], targets[20:21])
    quiet.process(rows[20:21], targets[20:21])
    assert len(read) == 4
    assert torch.equal(asked.peek(rows[22]), quiet.peek(rows[22]))


def test_what_was_read_is_forgotten_where_state_or_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = stream("forecasting")
    what, other = learner("forecasting"), learner("forecasting")
    what.process(rows[:20])
    other.process(rows[:25])
    read = counted(what, monkeypatch)
    what.peek(rows[30])
    what.load(other.tensors())
    assert torch.equal(what.peek(rows[30]), other.peek(rows[30]))
    with torch.no_grad():
        for one in (what, other):
            one.network.core.layers[0].cell.C.mul_(2.0)
            one.network.core.layers[1].cell.V_raw.mul_(-1.0)
    assert torch.equal(what.peek(rows[30]), other.peek(rows[30]))
    what.plasticity = other.plasticity = False
    assert torch.equal(what.process(rows[32:33]).predictions, other.process(rows[32:33]).predictions)
    assert torch.equal(what.state.core[0].U, other.state.core[0].U)
    assert len(read) == 7


def test_a_state_that_is_not_finite_makes_no_gap() -> None:
    """A known value that comes to be NaN is refused, and nothing is changed."""
    rows, _ = stream("forecasting")
    what = learner("forecasting")
    what.process(rows[:20])
    what.state.normalizer.mean.fill_(torch.nan)
    before = what.tensors()
    with pytest.raises(DataError, match="`x` must be finite"):
        what.process(torch.ones(1, 3, dtype=torch.float64))
    for name, value in what.tensors().items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)), name
