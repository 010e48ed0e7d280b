"""No fast weights, fast weights held, and consolidation on demand."""

from __future__ import annotations

import pytest
import torch

from dream import DREAM, DREAMCell, DREAMStack, dream_scan, dream_step
from dream.functional import key
from tests.dream.support import F64, assert_same, cell_with, modules, random_params, random_state, small

PLASTIC = dict(sleep_rate=0.05, min_surprise_for_sleep=0.0, surprise_smoothing=0.2)


def test_base_plasticity_of_zero_means_no_fast_weights() -> None:
    """Lines 1 and 8 leave U out; U and U_target are carried as they are; all else is as with U = 0."""
    config = small(base_plasticity=0.0, **PLASTIC)
    params, state, x = random_params(config), random_state(config, 3), torch.randn(3, 12, 3, dtype=F64)
    output, trace, final = dream_scan(x, state, params, config)
    assert torch.equal(final.U, state.U)
    assert torch.equal(final.U_target, state.U_target)
    assert_same(trace.prediction[:, 0], params.c + state.h @ params.C)
    assert_same(trace.forecast, params.c + output @ params.C)
    assert_same(trace.u_norm, torch.linalg.matrix_norm(state.U)[:, None].expand(3, 12))
    empty = state.clone()
    empty.U.zero_(), empty.U_target.zero_()
    same, seen, _ = dream_scan(x, empty, params, config)
    assert_same([output, *trace[:5]], [same, *seen[:5]])


def test_base_plasticity_of_zero_in_the_modules() -> None:
    for module in modules(base_plasticity=0.0).values():
        cell = next(part for part in module.modules() if isinstance(part, DREAMCell))
        assert (cell.params().eta == 0).all()
    layer = DREAM(3, 5, 2, base_plasticity=0.0)
    assert (layer(torch.randn(2, 9, 3))[1].U == 0).all()


@pytest.mark.parametrize("lengths", [None, torch.tensor([12, 5, 1])])
def test_switched_off_u_is_kept_and_still_predicts(lengths: torch.Tensor | None) -> None:
    config = small(**PLASTIC)
    params, state, x = random_params(config), random_state(config, 3), torch.randn(3, 12, 3, dtype=F64)
    output, trace, final = dream_scan(x, state, params, config, None, lengths, plasticity=False)
    assert torch.equal(final.U, state.U)
    assert torch.equal(final.U_target, state.U_target)
    with_U = params.c + state.h @ params.C + (key(state.h, params)[:, None] @ state.U)[:, 0] @ params.V.T
    assert_same(trace.prediction[:, 0], with_U)
    assert (with_U - params.c - state.h @ params.C).abs().max() > 0.05
    # lambda = kappa = zeta = 0 and a vanishing eta leave U as it is: everything else must be the same run
    still = small(**(PLASTIC | {"sleep_rate": 0.0, "kappa": 0.0, "forgetting_rate": 0.0}))
    reference = dream_scan(
        x, state, params._replace(eta=torch.full((5,), 1e-300, dtype=F64)), still, None, lengths
    )
    assert_same((output, trace, final), reference)
    assert (final.avg_surprise != state.avg_surprise).all()  # the statistics go on


@pytest.mark.parametrize("name", ["cell", "layer", "stack"])
def test_the_switch_on_a_module(name: str) -> None:
    module = modules(**PLASTIC)[name]
    x = 3 * torch.randn(2, 15, 3, dtype=F64)
    run = module.forward_sequence if isinstance(module, DREAMCell) else module.forward

    def grown(state: object) -> bool:
        states = state if isinstance(state, list) else [state]
        return [bool((one.U != 0).any()) for one in states] == [True] * len(states)

    assert module.plasticity_enabled is True
    learnt = run(x)[1]
    assert grown(learnt)
    with module.plasticity(False):
        assert module.plasticity_enabled is False
        kept = run(x, learnt)[1]
    assert module.plasticity_enabled is True
    pairs = zip(kept, learnt, strict=True) if isinstance(kept, list) else [(kept, learnt)]
    for after, before in pairs:
        assert torch.equal(after.U, before.U)
        assert torch.equal(after.U_target, before.U_target)
        assert not torch.equal(after.h, before.h)
    module.plasticity_enabled = False
    assert not grown(run(x)[1])
    with module.plasticity(True):
        assert grown(run(x)[1])
    assert module.plasticity_enabled is False


@pytest.mark.parametrize("name", ["cell", "layer", "stack"])
def test_the_switch_is_restored_after_an_exception(name: str) -> None:
    module = modules()[name]
    with pytest.raises(RuntimeError, match="inside"), module.plasticity(False):
        raise RuntimeError("inside")
    assert module.plasticity_enabled is True


def test_the_switch_of_a_stack_restores_each_layer() -> None:
    stack = DREAMStack(3, [5, 4], 2)
    stack.layers[0].plasticity_enabled = False
    with stack.plasticity(True):
        assert [layer.plasticity_enabled for layer in stack.layers] == [True, True]
    assert [layer.plasticity_enabled for layer in stack.layers] == [False, True]


def test_the_single_step_obeys_the_switch() -> None:
    config = small(**PLASTIC)
    cell = cell_with(config, random_params(config))
    state, x = random_state(config, 3), torch.randn(3, 3, dtype=F64)
    with cell.plasticity(False):
        output, new = cell(x, state)
    assert torch.equal(new.U, state.U)
    assert torch.equal(new.U_target, state.U_target)
    expected = dream_scan(x[:, None], state, cell.params(), config, plasticity=False)[2]
    assert_same([output, new], [expected.h, expected])
    learnt = dream_step(x, state, cell.params(), config)[2]
    assert not torch.equal(learnt.U, state.U)
    assert (learnt.h - output).abs().max() > 1e-3  # which recalls what it has just learnt


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_consolidation_on_demand(steps: int) -> None:
    """Line 11 without its threshold, `steps` times."""
    config = small(sleep_rate=0.3, min_surprise_for_sleep=1.0)
    cell, state = DREAMCell(config).double(), random_state(config, 4)
    expected = state.U_target.clone()
    for _ in range(steps):
        expected = expected + 0.3 * state.avg_surprise[:, None, None] * (state.U - expected)
    new = cell.consolidate(state, steps=steps)
    assert_same(new.U_target, expected)
    for name, tensor in new.items():
        assert name == "U_target" or torch.equal(tensor, getattr(state, name))
    assert (new.U_target - state.U_target).abs().max() > 0.01
    assert_same(state, random_state(config, 4))


def test_consolidation_keeps_the_gradients_of_h_and_u() -> None:
    """The consolidation target is a measurement without a gradient; h and U still carry theirs."""
    config = small()
    cell = DREAMCell(config).double()
    x = torch.randn(2, 4, 3, dtype=F64, requires_grad=True)
    state = cell.consolidate(cell.forward_sequence(x)[1])
    assert state.h.requires_grad
    assert state.U.requires_grad
    assert not state.U_target.requires_grad


def test_consolidation_of_layer_and_stack() -> None:
    made = modules(sleep_rate=0.3)
    x = 3 * torch.randn(2, 15, 3, dtype=F64)
    layer, stack = made["layer"], made["stack"]
    state = layer(x)[1]
    assert_same(layer.consolidate(state, 3), layer.cell.consolidate(state, 3))
    states = stack(x)[1]
    each = [part.consolidate(one, 3) for part, one in zip(stack.layers, states, strict=True)]
    assert_same(stack.consolidate(states, 3), each)


def test_without_fast_weights_there_is_nothing_to_consolidate() -> None:
    cell = DREAMCell(small(base_plasticity=0.0))
    state = cell.init_state(2)
    state.U, state.avg_surprise = torch.ones_like(state.U), torch.ones_like(state.avg_surprise)
    after = cell.consolidate(state, steps=10)
    assert torch.equal(after.U_target, state.U_target)
    assert torch.equal(after.U, state.U)
