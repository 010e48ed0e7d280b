"""No samples, no steps, only padding, and one sample without a batch: legal everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dream import DREAM, DREAMCell, DREAMState, StateError, dream_scan, dream_step
from tests.dream.support import (
    CPU_BACKENDS,
    F64,
    assert_same,
    modules,
    random_params,
    random_state,
    rows_of,
    small,
    tensors,
)

NAMES = ("cell", "layer", "stack")


def made(name: str, backend: str, missing: bool = False) -> nn.Module:
    module = modules(sleep_rate=0.05, min_surprise_for_sleep=0.0)[name]
    module.missing = missing
    for part in module.modules():
        if isinstance(part, DREAMCell):
            part.backend = backend
    return module


def trace(
    module: nn.Module, x: Tensor, state: Any = None, lengths: Tensor | None = None, spans: Any = None
) -> Any:
    if isinstance(module, DREAMCell):
        return module.scan(x, state, spans, lengths)
    return module.trace(x, state, lengths, timespans=spans)


def carried(module: nn.Module, samples: int) -> Any:
    """States of some samples in the middle of a stream, as leaves that want gradients."""
    state = trace(module, torch.randn(samples or 1, 9, 3, dtype=F64))[2]
    states = state if isinstance(state, list) else [state]
    states = [one[:samples].map(lambda part: part.detach().requires_grad_()) for one in states]
    return states if isinstance(state, list) else states[0]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (3, 5)])
@pytest.mark.parametrize("learns", [True, False])
def test_nothing_read_is_nothing_changed(
    name: str, backend: str, shape: tuple[int, int], learns: bool
) -> None:
    """Outputs are empty or 0, gradients 0, state and prior stay; of (3, 5) all is padding."""
    module = made(name, backend)
    state = carried(module, shape[0])
    module.train()
    module.plasticity_enabled = learns
    before = {key: value.clone() for key, value in module.state_dict().items()}
    x = torch.full((*shape, 3), torch.nan, dtype=F64, requires_grad=True)
    spans = torch.ones(shape, dtype=F64, requires_grad=True)
    output, seen, new = trace(module, x, state, torch.zeros(shape[0]).long(), spans)
    for path, part in tensors([output, seen]).items():
        assert part.shape[:2] == shape, path
        assert (part == 0).all(), path
    assert_same(new, state, atol=0.0, rtol=0.0)
    sum(part.sum() for part in tensors([output, seen, new]).values()).backward()
    assert (x.grad == 0).all()
    assert (spans.grad == 0).all()
    for parameter in module.parameters():
        assert parameter.grad is None or (parameter.grad == 0).all()
    for path, start in tensors(state).items():
        if path.endswith((".h", ".U")):
            assert (start.grad == 1).all(), path
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_gradients_reach_every_parameter(backend: str, shape: tuple[int, int]) -> None:
    """So that a process with an empty share of a batch takes part in the average."""
    module = made("stack", backend)
    trace(module, torch.zeros(*shape, 3, dtype=F64))[0].sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [False, True])
def test_some_samples_of_no_steps(name: str, backend: str, missing: bool) -> None:
    """Beside others, in blocks of any kind: each is as alone; the prior moves by what was read."""
    lengths = [0, 3, 0, 9, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0]
    module, twin = made(name, backend, missing=missing).train(), made(name, backend, missing=missing).train()
    x, state = torch.randn(17, 9, 3, dtype=F64), carried(module.eval(), 17)
    read = [n for n, length in enumerate(lengths) if length]
    result = trace(module.train(), x, state, torch.tensor(lengths))
    some = [one[read] for one in state] if isinstance(state, list) else state[read]
    assert_same(
        rows_of(result, read), rows_of(trace(twin, x[read], some, torch.tensor([3, 9, 1, 5])), slice(None))
    )
    none = [n for n, length in enumerate(lengths) if not length]
    assert_same(rows_of(result[2], none), rows_of(state, none), atol=0.0, rtol=0.0)
    assert_same(list(module.buffers()), list(twin.buffers()))


@pytest.mark.parametrize("name", NAMES)
def test_the_last_output_of_no_steps_is_the_state(name: str) -> None:
    module = made(name, "auto")
    state, nothing = carried(module, 3), torch.zeros(3, 0, 3, dtype=F64)
    call = module.forward_sequence if isinstance(module, DREAMCell) else module
    last, new = call(nothing, state, False)
    assert_same([last, new], [(state[-1] if isinstance(state, list) else state).h, state])
    assert call(torch.zeros(0, 3, dtype=F64), None, False)[0].tolist() == [0.0] * last.shape[1]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_sample_without_a_batch(name: str, backend: str) -> None:
    """(T, I), as `torch.nn.LSTM` takes it: no axis N in what comes out, and a state of N = 1."""
    module, x, spans = made(name, backend), torch.randn(9, 3, dtype=F64), torch.rand(9, dtype=F64) + 0.3
    start = carried(module, 1)
    for lengths in (None, torch.tensor(4), torch.tensor(0)):
        output, seen, state = trace(module, x, start, lengths, spans)
        batch = None if lengths is None else lengths[None]
        whole, expected, end = trace(module, x[None], start, batch, spans[None])
        assert_same(rows_of([output, seen], slice(None)), rows_of([whole, expected], 0))
        assert_same(state, end)
    call = module.forward_sequence if isinstance(module, DREAMCell) else module
    assert call(x)[0].shape == (9, 4 if name == "stack" else 5)
    assert_same(call(x, None, False)[0], call(x[None], None, False)[0][0])


@pytest.mark.parametrize("grad", [True, False])
def test_single_steps(grad: bool) -> None:
    cell, x = made("cell", "auto"), torch.randn(3, dtype=F64)
    with torch.set_grad_enabled(grad):
        start = carried(cell, 1)
        output, state = cell(x, start)
        expected, end = cell(x[None], start)
        assert_same([output, state], [expected[0], end])
        assert_same(
            cell(x, timespans=torch.tensor(2.0, dtype=F64))[1],
            cell(x[None], timespans=torch.full((1,), 2.0, dtype=F64))[1],
        )
        output, state = cell(x.new_zeros(0, 3))
        assert (output.shape, state.batch_size) == ((0, 5), 0)
        with pytest.raises(StateError, match="no batch axis; got 2, and `x` \\(3,\\)"):
            cell(x, cell.init_state(2))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_functions(backend: str) -> None:
    config = small()
    params, x = random_params(config), torch.randn(9, 3, dtype=F64)
    start = random_state(config, 1)
    output, seen, state = dream_scan(x, start, params, config, backend=backend)
    whole, expected, end = dream_scan(x[None], start, params, config, backend=backend)
    assert_same([output, *seen, state], [whole[0], *rows_of(expected, 0), end])
    output, seen, state = dream_step(x[0], start, params, config)
    whole, expected, end = dream_step(x[:1], start, params, config)
    assert_same([output, *seen, state], [whole[0], *rows_of(expected, 0), end])
    for shape in ((0, 4), (1, 0)):
        output, seen, state = dream_scan(torch.zeros(*shape, 3, dtype=F64), start[: shape[0]], params, config)
        assert output.shape == (*shape, 5)
        assert seen.error.shape == (*shape, 3)
        assert_same(state, start[: shape[0]])


def test_a_stepper_of_no_samples() -> None:
    layer = DREAM(3, 5, 2)
    steps = layer.stepper(4)
    assert steps is not None
    after = steps(steps.start(layer.init_state(0)))
    assert steps.output(after).shape == (0, 5)
    assert steps.state(after).shape() == layer.init_state(0).shape()
    assert steps.trace(after).error.shape == (0, 1, 3)


def test_a_state_of_no_samples(tmp_path: Path) -> None:
    cell = DREAMCell(small())
    state, some = cell.init_state(0), random_state(small(), 3, dtype=torch.float32)
    assert state.sound().shape == (0,)
    assert_same(some[[]], state)
    assert_same(some[torch.zeros(3, dtype=torch.bool)], state)
    assert_same(DREAMState.cat([state, some]), some)
    assert cell.predict_next(state).shape == (0, 3)
    assert_same(cell.consolidate(state), state)
    assert_same(state.reset(torch.zeros(0, dtype=torch.bool), state), state)
    state.save(tmp_path / "state", cell.config)
    assert_same(DREAMState.load(tmp_path / "state", cell.config), state)
    with pytest.raises(StateError, match="`rows` must select among 3 rows"):
        some[torch.zeros(0, dtype=torch.bool)]
