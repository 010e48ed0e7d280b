"""The error variance that a fresh row expects: when it moves, by how much, and what it reaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dream import DREAM, DREAMCell, DREAMStack, dream_scan
from tests.dream.support import F64, assert_same, modules, small


def batch(rows: int = 3, steps: int = 8, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, steps, 3, dtype=F64)


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.4])
def test_the_rule_over_several_calls(beta: float) -> None:
    """var_0 += max(beta, 1 / (k + 1)) (mean of e^2 over all valid steps of the batch - var_0)."""
    layer = DREAM(3, 5, 2, error_smoothing=beta).double().train()
    prior = torch.ones(3, dtype=F64)
    for k, lengths in enumerate([None, torch.tensor([8, 2, 5]), None, torch.tensor([1, 1, 3]), None]):
        x = batch(scale=1.0 + k)
        _, trace, _ = layer.trace(x, lengths=lengths)
        valid = torch.ones(3, 8, dtype=torch.bool) if lengths is None else torch.arange(8) < lengths[:, None]
        mean_square = trace.error.detach()[valid].square().mean(0)
        prior = prior + max(beta, 1 / (k + 1)) * (mean_square - prior)
        assert_same(layer.cell.error_var_prior, prior)
    assert (layer.init_state(2).error_var == layer.cell.error_var_prior).all()
    assert layer.get_config().error_smoothing == beta


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_the_rule_where_some_was_not_observed(beta: float) -> None:
    """The mean of each channel is over the steps at which it was observed; one that never was keeps its own;
    a call without an observed step moves nothing and is not counted."""
    layer = DREAM(3, 5, 2, error_smoothing=beta, missing=True).double().train()
    prior = torch.ones(3, dtype=F64)
    for calls, lengths in enumerate((None, torch.tensor([8, 2, 5]), None, None, torch.tensor([1, 1, 3]))):
        x = batch(scale=1.0 + calls)
        x[torch.rand_like(x) < 0.3] = torch.nan
        x[..., calls % 3] = torch.nan
        layer(torch.full((2, 4, 3), torch.nan, dtype=F64))
        assert_same(layer.cell.error_var_prior, prior)
        assert layer.cell.prior_updates == calls
        _, trace, _ = layer.trace(x, lengths=lengths)
        seen = ~x.isnan()
        if lengths is not None:
            seen &= (torch.arange(8) < lengths[:, None])[..., None]
        counts = seen.sum((0, 1))
        mean_square = (trace.error.detach().square() * seen).sum((0, 1)) / counts.clamp_min(1)
        weight = max(beta, 1 / (calls + 1))
        prior = torch.where(counts > 0, prior + weight * (mean_square - prior), prior)
        assert_same(layer.cell.error_var_prior, prior)
        assert layer.cell.prior_updates == calls + 1
    assert (prior != 1).all()


def test_the_padding_of_missing_values_is_not_counted() -> None:
    layers = [DREAM(3, 5, 2, missing=missing).double() for missing in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = batch()
    x[1, 2:] = torch.nan
    for layer in layers:
        layer.train().forward_with_mask(x, torch.tensor([8, 2, 8]))
    assert_same(*(layer.cell.error_var_prior for layer in layers))


def test_padding_with_nan_does_not_reach_it() -> None:
    layer = DREAM(3, 5, 2).train()
    x = torch.randn(2, 6, 3)
    x[1, 2:] = torch.nan
    layer.forward_with_mask(x, torch.tensor([6, 2]))
    assert layer.cell.error_var_prior.isfinite().all()
    assert (layer.cell.error_var_prior != 1).all()


@pytest.mark.parametrize("name", ["cell", "layer", "stack"])
def test_it_moves_in_training_mode_only(name: str) -> None:
    module = modules()[name]
    run = module.forward_sequence if isinstance(module, DREAMCell) else module.forward
    cells = [part for part in module.modules() if isinstance(part, DREAMCell)]
    before = [cell.error_var_prior.clone() for cell in cells]
    run(batch())
    assert all(torch.equal(cell.error_var_prior, old) for cell, old in zip(cells, before, strict=True))
    module.train()
    run(batch())
    assert all((cell.error_var_prior != old).all() for cell, old in zip(cells, before, strict=True))
    module.eval()
    moved = [cell.error_var_prior.clone() for cell in cells]
    run(batch())
    assert all(torch.equal(cell.error_var_prior, old) for cell, old in zip(cells, moved, strict=True))


def test_every_call_on_a_sequence_moves_it() -> None:
    layer = DREAM(3, 5, 2).double().train()
    stack = DREAMStack(3, [5], 2).double().train()
    x, lengths = batch(), torch.tensor([8, 3, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    for module in (layer, stack):
        cell = next(part for part in module.modules() if isinstance(part, DREAMCell))
        for call in (
            lambda m=module: m(x),
            lambda m=module: m(x, return_sequences=False),
            lambda m=module: m.forward_with_mask(x, lengths),
            lambda m=module: m.trace(x),
            lambda m=module: m(packed),
            lambda m=module: m(x[:, :1]),
        ):
            before = cell.error_var_prior.clone()
            call()
            assert not torch.equal(cell.error_var_prior, before)


def test_single_steps_forecasts_and_pure_functions_do_not_move_it() -> None:
    cell = DREAMCell(small()).double().train()
    _, state = cell(batch()[:, 0])
    cell.predict_next(state)
    cell.consolidate(state)
    dream_scan(batch(), state, cell.params(), cell.config)
    assert (cell.error_var_prior == 1).all()


def test_it_never_acts_within_the_call_that_moves_it() -> None:
    layer = DREAM(3, 5, 2).double()
    x = batch()
    quiet = layer.eval().trace(x)
    learning = layer.train().trace(x)
    assert_same(learning, quiet)
    after = layer.eval().trace(x)
    assert (after[0] - quiet[0]).abs().max() > 1e-6


def test_a_given_state_keeps_its_own_variance() -> None:
    layer = DREAM(3, 5, 2).double().train()
    state = layer.init_state(3)
    layer(batch())
    assert (state.error_var == 1).all()


def test_it_is_saved_with_its_count_and_starts_afresh() -> None:
    layer = DREAM(3, 5, 2).double().train()
    layer(batch()), layer(batch())
    twin = DREAM(3, 5, 2).double().train()
    twin.load_state_dict(layer.state_dict())
    x = batch()
    layer(x), twin(x)
    assert torch.equal(layer.cell.error_var_prior, twin.cell.error_var_prior)
    layer.reset_parameters()
    assert (layer.cell.error_var_prior == 1).all()
    _, trace, _ = layer.trace(x)
    # k counts from 0 again
    assert_same(layer.cell.error_var_prior, trace.error.detach().square().mean((0, 1)))


def test_it_carries_no_gradient_and_shares_no_history() -> None:
    layer = DREAM(3, 5, 2).double().train()
    x = batch()
    first, _ = layer(x)
    second, _ = layer(x)
    (first.sum() + second.sum()).backward()  # the buffer that moved in between is no part of the graph
    assert layer.cell.error_var_prior.grad_fn is None


def test_an_error_whose_square_overflows_does_not_stay() -> None:
    layer = DREAM(4, 8, 2).train()
    x = torch.randn(2, 3, 4)
    layer(x)
    before = layer.cell.error_var_prior.clone()
    x[:, 1] = 1.8e19  # allowed, but two such squares add up to more than float32 holds
    layer(x)
    assert layer.cell.error_var_prior.isfinite().all()
    torch.testing.assert_close(layer.cell.error_var_prior, before)
    assert layer.eval()(torch.randn(2, 3, 4))[0].isfinite().all()
