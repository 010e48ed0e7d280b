"""What was not observed: how every way into the layer takes NaN, and what it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from dream import DREAM, DataError, DREAMCell, DREAMStack, dream_scan, dream_step
from tests.dream.support import (
    CPU_BACKENDS,
    F64,
    assert_same,
    cell_with,
    loop,
    modules,
    random_params,
    random_state,
    small,
)

LIVELY = dict(sleep_rate=0.05, min_surprise_for_sleep=0.0, surprise_smoothing=0.1, error_smoothing=0.1)


def gaps(rows: int = 3, steps: int = 20) -> Tensor:
    x = torch.randn(rows, steps, 3, dtype=F64)
    x[torch.rand_like(x) < 0.4] = torch.nan
    x[:, steps // 2] = torch.nan
    return x


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_cell_layer_stack_and_functions_take_it_alike(rank: int, backend: str) -> None:
    config = small(**LIVELY, rank=rank)
    params, start, x = random_params(config), random_state(config, 3), gaps()
    spans = torch.rand(3, 20, dtype=F64) + 0.3
    expected = loop(x, start, params, config, spans, missing=True)
    assert all(part.isfinite().all() for part in (expected[0], *expected[1]))
    assert_same(dream_scan(x, start, params, config, spans, backend=backend, missing=True), expected)
    cell = cell_with(config, params, backend=backend, missing=True)
    assert_same(cell.scan(x, start, spans), expected)
    layer = DREAM.from_config(config, backend=backend, missing=True).double().eval()
    layer.load_state_dict({f"cell.{name}": value for name, value in cell.state_dict().items()})
    assert_same(layer.trace(x, start, timespans=spans), expected)
    stack = DREAMStack.from_config(config, [5, 4], backend=backend, missing=True).double().eval()
    stack.layers[0].load_state_dict(layer.state_dict())
    output, traces, states = stack.trace(x, [start, stack.layers[1].init_state(3)], timespans=spans)
    assert_same([traces[0], states[0]], expected[1:])
    assert_same([output, traces[1]], stack.layers[1].trace(expected[0], timespans=spans)[:2])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("gradients", [False, True])
def test_single_steps_are_the_sequence(rows: int, gradients: bool, backend: str) -> None:
    config = small(**LIVELY, hidden_dim=18)
    cell = cell_with(config, random_params(config), backend=backend, missing=True)
    x, state = gaps(rows), random_state(config, rows)
    with torch.set_grad_enabled(gradients):
        expected, final = cell.forward_sequence(x, state)
        for t in range(x.shape[1]):
            output, state = cell(x[:, t], state)
            assert_same(output, expected[:, t])
    assert_same(state, final)


def test_it_is_what_was_predicted_that_is_read() -> None:
    """Where surprise has no effect, state and fast weights move as if x had been x_hat; mean and variance of
    its error stay, and the deviation is the mean over what was seen."""
    config = small(**LIVELY)
    params, state = random_params(config), random_state(config, 3)
    params = params._replace(tonic=torch.ones(5, dtype=F64), surprise_scale=torch.zeros((), dtype=F64))
    x, seen = torch.randn(3, 3, dtype=F64), torch.tensor([True, False, True])
    _, filled, expected = dream_step(
        torch.where(seen, x, dream_step(x, state, params, config)[1].prediction), state, params, config
    )
    x[:, 1] = torch.nan
    _, trace, new = dream_step(x, state, params, config, missing=True)
    assert_same(
        [new.h, new.U, trace.error, trace.forecast], [expected.h, expected.U, filled.error, filled.forecast]
    )
    for name in ("error_mean", "error_var"):
        before, after, other = (getattr(part, name) for part in (state, new, expected))
        assert torch.equal(after[:, 1], before[:, 1])
        assert_same(after[:, seen], other[:, seen])
    usual = (trace.error - state.error_mean).square() / (state.error_var + 1e-6)
    assert_same(trace.deviation, usual[:, seen].mean(-1).sqrt())


def test_the_error_is_zero_where_nothing_was_seen() -> None:
    module, x = DREAM(3, 5, 2, missing=True).double(), gaps()
    _, trace, _ = module.trace(x)
    assert_same(trace.error, torch.where(x.isnan(), 0.0, x - trace.prediction))


def test_packed_sequences() -> None:
    layer, x, lengths = DREAM(3, 5, 2, missing=True).double().eval(), gaps(), torch.tensor([6, 20, 1])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, state = layer(packed, return_sequences=False)
    padded, same = layer.forward_with_mask(x, lengths)
    assert_same([output, state], [padded[torch.arange(3), lengths - 1], same])


@pytest.mark.parametrize("name", ["cell", "layer", "stack"])
def test_the_keyword_can_be_changed(name: str) -> None:
    module, x = modules()[name], gaps()
    run = module.forward_sequence if isinstance(module, DREAMCell) else module.forward
    assert module.missing is False
    with pytest.raises(DataError, match=r"`x` must be finite; .* Fill or drop them first"):
        run(x)
    module.missing = True
    assert run(x)[0].isfinite().all()
    if isinstance(module, DREAMStack):  # what the first layer puts out is all there
        assert [layer.missing for layer in module.layers] == [True, False]


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_infinity_is_no_gap(value: float) -> None:
    cell, x = DREAMCell(small(), missing=True).double(), gaps()
    x[1, 4, 2] = value
    with pytest.raises(DataError, match=r"`x` must be finite; 1 of 60 steps are not, .* row 1, step 4"):
        cell.forward_sequence(x)
    with pytest.raises(DataError, match=r"`x` must be finite; 1 of 3 steps are not, .* row 1"):
        cell(x[:, 4])


def test_a_number_too_large_beside_a_gap_is_named_as_such() -> None:
    x = gaps().float()
    x[1, 4] = torch.tensor([torch.nan, 1e20, 0.0])
    with pytest.raises(DataError, match=r"`x` must be at most 1\..*square.*1 of 60 .*row 1, step 4. Scale"):
        DREAMCell(small(), missing=True).forward_sequence(x)


def test_gaps_under_autocast() -> None:
    layer, x = DREAM(3, 5, 2, missing=True), gaps().float()
    expected = layer.eval()(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x)
    torch.testing.assert_close(output, expected, atol=0.08, rtol=0.0)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in state)


def test_a_stream_of_gaps_stays_finite_and_forgets_no_statistics() -> None:
    """Free running without end: the state stays in range, and U decays to its target."""
    config = small(**LIVELY)
    params, state = random_params(config), random_state(config, 2)
    nothing = torch.full((2, 3000, 3), torch.nan, dtype=F64)
    output, trace, final = dream_scan(nothing, state, params, config, missing=True)
    assert output.abs().max() <= 1
    assert all(part.isfinite().all() for part in trace)
    assert_same([final.error_mean, final.error_var], [state.error_mean, state.error_var])
    torch.testing.assert_close(final.U, final.U_target, atol=1e-6, rtol=0)
