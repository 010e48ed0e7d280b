"""The limits that must hold, one by one: the table of docs/dynamics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dream import DREAM, DREAMConfig, DREAMParams, DREAMState, dream_scan, dream_step
from tests.dream.support import (
    DIFFERENTIABLE,
    F32,
    F64,
    assert_same,
    loop,
    random_params,
    random_state,
    small,
)

FAR = 1e9  # a threshold that nothing reaches


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.3),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.5),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.1),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.5),
        lambda parameters: torch.optim.NAdam(parameters, lr=0.1),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam"],
)
@pytest.mark.parametrize(("rank", "dtype"), [(1, F64), (4, F64), (4, F32), (6, F64), (9, F64)])
def test_the_filter_stays_semi_orthogonal(rank: int, dtype: torch.dtype, optimizer: Any) -> None:
    """V^T V = rho where it is learned; where R >= I, V V^T = rho and V never moves."""
    layer = DREAM(6, 8, rank).to(dtype)
    start = layer.cell.params().V.detach().clone()
    update, x = optimizer(layer.parameters()), torch.randn(4, 12, 6, dtype=dtype)
    for _ in range(5):
        update.zero_grad()
        output, trace, _ = layer.trace(x)
        (output.square().sum() + trace.forecast.square().sum()).backward()
        update.step()
    V = layer.cell.params().V
    gram, rho = (V.T @ V, rank) if rank < 6 else (V @ V.T, 6)
    rounding = 1e-12 if dtype == F64 and rank < 6 else 1e-5  # the fixed one was made in float32
    assert_same(gram, rho * torch.eye(rho, dtype=dtype), atol=rho * rounding, rtol=rounding)
    assert torch.equal(V, start) == (rank >= 6)


def test_an_upper_triangular_factor_of_the_raw_filter_changes_nothing() -> None:
    """V_raw T with a positive diagonal: no value, and no gradient of another parameter."""
    layer, x = DREAM(6, 8, 4).double(), torch.randn(3, 12, 6, dtype=F64)
    upper = torch.randn(4, 4, dtype=F64).triu(1) + torch.diag(torch.rand(4, dtype=F64) + 0.2)

    def run() -> list[Any]:
        layer.zero_grad()
        result = layer.eval().trace(x)
        (result[0].square().sum() + result[1].forecast.sum()).backward()
        learned = [p.grad.clone() for name, p in layer.named_parameters() if name != "cell.V_raw"]
        return [result, learned, layer.cell.params().V]

    before = run()
    with torch.no_grad():
        layer.cell.V_raw.copy_(layer.cell.V_raw @ upper)
    assert_same(run(), before, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("rank", [2, 3, 7])
def test_without_liquid_time_and_error_drive_it_is_nn_rnn(rank: int) -> None:
    """W = 0 and D = 0: values and gradients."""
    rnn = nn.RNN(3, 5, batch_first=True).double()
    model = DREAM(3, 5, rank, ltc_enabled=False).double()
    cell = model.cell
    with torch.no_grad():
        cell.W.zero_(), cell.D.zero_()
        cell.K.normal_(), cell.k.normal_(), cell.C.normal_()  # without effect on the output
        cell.B.copy_(rnn.weight_ih_l0.T)
        cell.A.copy_(rnn.weight_hh_l0.T)
        cell.b.copy_(rnn.bias_ih_l0 + rnn.bias_hh_l0)
    x = torch.randn(4, 30, 3, dtype=F64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, state = model(ours)
    expected, last = rnn(theirs)
    assert_same([output, state.h], [expected, last[0]])
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_same(
        [ours.grad, cell.B.grad, cell.A.grad, cell.b.grad],
        [theirs.grad, rnn.weight_ih_l0.grad.T, rnn.weight_hh_l0.grad.T, rnn.bias_hh_l0.grad],
    )
    assert state.U.abs().max() > 0.01  # the fast weights learn beside it


@pytest.mark.parametrize("knobs", [{}, dict(ltc_enabled=False), dict(kappa=0.9, target_norm=0.1)])
def test_a_step_with_nothing_observed_is_free_running(knobs: dict[str, Any]) -> None:
    """The state moves as if x had been x_hat, without surprise; U by decay and lines 7 and 11 only."""
    config = small(sleep_rate=0.1, min_surprise_for_sleep=0.5, error_smoothing=0.1, **knobs)
    params, state = random_params(config), random_state(config, 4)
    nothing = torch.full((4, 3), torch.nan, dtype=F64)
    output, trace, new = dream_step(nothing, state, params, config, missing=True)
    assert_same(
        [trace.error, trace.surprise, trace.deviation],
        [torch.zeros(4, 3, dtype=F64)] + [torch.zeros(4, dtype=F64)] * 2,
    )
    for name in ("adaptive_tau", "error_mean", "error_var", "avg_surprise"):
        assert torch.equal(getattr(new, name), getattr(state, name)), name

    decayed = state.U - config.forgetting_rate / (1 + config.forgetting_rate) * (state.U - state.U_target)
    size = torch.linalg.matrix_norm(decayed)[:, None, None]
    excess = (1 - config.target_norm / size).clamp_min(0)
    assert_same(new.U, decayed * (1 - config.kappa * excess))
    asleep = state.avg_surprise * (state.avg_surprise > 0.5)
    moved = state.U_target + 0.1 * asleep[:, None, None] * (new.U - state.U_target)
    assert_same(new.U_target, moved)
    assert not torch.equal(new.U_target, state.U_target)

    calm = replace(config, base_threshold=FAR)  # x_hat itself, where no threshold is reached
    far = replace(state, adaptive_tau=torch.full((4,), FAR, dtype=F64))
    expected, _, same = dream_step(trace.prediction, far, params, calm)
    assert_same([output, new.U], [expected, same.U])


@pytest.mark.parametrize("span", [None, 0.25, 7.0])
def test_unsurprised_fast_weights_decay_towards_their_target(span: float | None) -> None:
    config = small(base_threshold=FAR, kappa=0.0, sleep_rate=0.0, forgetting_rate=0.05)
    params = random_params(config)._replace(tonic=torch.zeros(5, dtype=F64))
    state = random_state(config, 3)
    spans = None if span is None else torch.full((3, 10), span, dtype=F64)
    _, trace, final = dream_scan(torch.randn(3, 10, 3, dtype=F64), state, params, config, spans)
    assert trace.surprise.max() == 0.0
    factor = 1.0 / (1.0 + 0.05 * (1.0 if span is None else span))
    assert_same(final.U - final.U_target, (state.U - state.U_target) * factor**10)
    assert_same(final.U_target, state.U_target)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_full_homeostasis_never_lets_the_norm_above_its_target(scale: float, dtype: torch.dtype) -> None:
    config = small(kappa=1.0, target_norm=0.7, hidden_dim=16, rank=3)
    params = random_params(config, dtype=dtype)
    x = scale * torch.randn(4, 60, 3, dtype=dtype)
    state = random_state(config, 4, dtype=dtype)
    for t in range(60):
        _, trace, state = dream_step(x[:, t], state, params, config)
        rounding = 1e-12 if dtype == F64 else 1e-5
        assert (torch.linalg.matrix_norm(state.U) <= 0.7 * (1.0 + rounding)).all()
        torch.testing.assert_close(
            trace.u_norm, torch.linalg.matrix_norm(state.U), rtol=1e-3 * rounding**0.5, atol=0.0
        )
    assert torch.linalg.matrix_norm(state.U).max() > 0.5  # the ceiling is reached


def test_no_homeostasis() -> None:
    x = torch.randn(3, 40, 3, dtype=F64)
    runs = {}
    for kappa, target in [(0.0, 1e-3), (0.0, 1e6), (0.5, 1e-3)]:
        config = small(kappa=kappa, target_norm=target)
        runs[kappa, target] = dream_scan(x, random_state(config, 3), random_params(config), config)
    assert_same(runs[0.0, 1e-3], runs[0.0, 1e6])
    assert (runs[0.0, 1e-3][1].u_norm > 1.5 * runs[0.5, 1e-3][1].u_norm).all()


def test_homeostasis_is_the_identity_up_to_its_target() -> None:
    x = torch.randn(3, 40, 3, dtype=F64)
    below, none = small(kappa=0.9, target_norm=1e3), small(kappa=0.0)
    params, state = random_params(none), random_state(none, 3)
    assert_same(dream_scan(x, state, params, below), dream_scan(x, state, params, none))


def test_homeostasis_shrinks_what_is_above() -> None:
    """|U'| = (1 - kappa) |U"| + kappa target where |U"| > target, in the direction of U"."""
    free, held = small(kappa=0.0), small(kappa=0.3, target_norm=0.2)
    params, state, x = random_params(free), random_state(free, 4), torch.randn(4, 3, dtype=F64)
    (_, _, loose), (_, trace, tight) = dream_step(x, state, params, free), dream_step(x, state, params, held)
    before, after = torch.linalg.matrix_norm(loose.U), torch.linalg.matrix_norm(tight.U)
    assert (before > 0.2).all()
    assert_same([after, trace.u_norm], [0.7 * before + 0.3 * 0.2] * 2)
    assert_same(tight.U / after[:, None, None], loose.U / before[:, None, None])


def test_without_sleep_the_target_never_moves() -> None:
    x = 5 * torch.randn(3, 50, 3, dtype=F64)
    for rate in (0.0, 0.05):
        config = small(sleep_rate=rate, min_surprise_for_sleep=0.0)
        state = random_state(config, 3)
        final = dream_scan(x, state, random_params(config), config)[2]
        assert torch.equal(final.U_target, state.U_target) == (rate == 0.0)


def test_sleep_moves_the_target_only_of_rows_surprised_enough() -> None:
    config = small(sleep_rate=0.1, min_surprise_for_sleep=0.5, surprise_smoothing=0.0)
    state = random_state(config, 4)
    state.avg_surprise = torch.tensor([0.2, 0.5, 0.51, 0.9], dtype=F64)
    _, _, new = dream_step(torch.randn(4, 3, dtype=F64), state, random_params(config), config)
    moved = state.U_target + 0.1 * state.avg_surprise[:, None, None] * (new.U - state.U_target)
    assert torch.equal(new.U_target[:2], state.U_target[:2])
    assert_same(new.U_target[2:], moved[2:])


@pytest.mark.parametrize("rank", [2, 3, 6])
def test_a_repeated_input_is_learnt_monotonically(rank: int) -> None:
    config = small(forgetting_rate=0.0, kappa=0.0, rank=rank)
    params, state = random_params(config), random_state(config, 4)
    x, h, errors = 3 * torch.randn(4, 3, dtype=F64), state.h, []
    for _ in range(80):
        _, trace, state = dream_step(x, state, params, config)
        errors.append((trace.error @ params.V).norm(dim=-1))
        state.h = h
    seen = torch.stack(errors)
    assert (seen[1:] <= seen[:-1] * (1 + 1e-12) + 1e-13).all()
    assert (seen[-1] < 0.3 * seen[0]).all()


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("time_step", [1e-8, 0.1, 1e8])
@pytest.mark.parametrize(
    ("weights", "inputs"), [(1e-6, 1.0), (1.0, 1e6), (1e4, 1e4), (1e12, 1e12), (1.0, 1e25)]
)
@pytest.mark.parametrize("kappa", [0.5, 1.0])
def test_the_hidden_state_stays_within_one(
    weights: float, inputs: float, time_step: float, kappa: float, dtype: torch.dtype
) -> None:
    config = small(time_step=time_step, kappa=kappa)
    params = random_params(config, dtype=dtype)
    big = {name: weights * getattr(params, name) for name in ("C", "c", "W", "B", "b", "A", "G_x", "G_h")}
    x = inputs * torch.randn(3, 25, 3, dtype=dtype)
    output, trace, final = dream_scan(x, random_state(config, 3, dtype=dtype), params._replace(**big), config)
    assert output.abs().max() <= 1.0
    assert all(tensor.isfinite().all() for _, tensor in final.items())
    assert all(part.isfinite().all() for part in trace)


@pytest.mark.parametrize("rank", [2, 6])
def test_the_liquid_step_converges_with_order_one(rank: int) -> None:
    """Line 9 with u, S and the gate held: k sub-steps of dt / k against the exponential of the continuous
    solution."""
    config = small(
        rank=rank,
        base_plasticity=0.0,
        error_smoothing=0.0,
        surprise_smoothing=0.0,
        surprise_temperature=2.0,
        time_step=0.5,
    )
    params = random_params(config)
    held = {name: torch.zeros_like(getattr(params, name)) for name in ("C", "W", "A", "G_h")}
    params = params._replace(**held, tau=torch.linspace(4.0, 9.0, 5, dtype=F64))
    state, x = random_state(config, 3), torch.randn(3, 3, dtype=F64)
    S = dream_step(x, state, params, config)[1].surprise
    assert S.min() > 0.02
    effective = params.tau * torch.exp(-(x @ params.G_x)) / (1.0 + params.surprise_scale * S[:, None])
    goal = torch.tanh(x @ params.B + params.b)
    exact = goal + (state.h - goal) * torch.exp(-config.time_step / effective)
    counts, errors = [64, 128, 256, 512], []
    for k in counts:
        spans = torch.full((3, k), 1.0 / k, dtype=F64)
        final = dream_scan(x[:, None].expand(-1, k, -1), state, params, config, spans)[2]
        errors.append((final.h - exact).abs().max().item())
    assert math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0]) == pytest.approx(1.0, abs=0.05)


def chunked(
    x: Tensor,
    spans: Tensor,
    state: DREAMState,
    sizes: Sequence[int],
    params: DREAMParams,
    config: DREAMConfig,
) -> list[Tensor | DREAMState]:
    """The scan in pieces, each from the state that the one before left."""
    parts = []
    for piece, span in zip(x.split(list(sizes), 1), spans.split(list(sizes), 1), strict=True):
        output, trace, state = dream_scan(piece, state, params, config, span)
        parts.append((output, *trace))
    return [*(torch.cat(part, 1) for part in zip(*parts, strict=True)), state]


@pytest.mark.parametrize("sizes", [(17,), (1, 16), (5, 5, 7), (1,) * 17])
def test_a_sequence_is_its_chunks_is_its_steps(sizes: tuple[int, ...]) -> None:
    config = small(sleep_rate=0.05, surprise_smoothing=0.1, error_smoothing=0.1, target_norm=0.5)
    params, state = random_params(config), random_state(config, 3)
    x, spans = torch.randn(3, 17, 3, dtype=F64), torch.rand(3, 17, dtype=F64) * 3 + 0.1
    output, trace, final = dream_scan(x, state, params, config, spans)
    assert_same(chunked(x, spans, state, sizes, params, config), [output, *trace, final])
    assert_same(loop(x, state, params, config, spans), (output, trace, final))


@pytest.mark.parametrize("filling", [0.0, 1e30, math.nan, math.inf])
def test_a_padded_row_is_the_row_alone(filling: float) -> None:
    """Output, trace, final state, and every gradient, whatever lies in the padding of input and timespans."""
    config, lengths = small(sleep_rate=0.05, surprise_smoothing=0.1, target_norm=0.5), [9, 1, 4]
    start = random_state(config, 3)
    x = torch.randn(3, 9, 3, dtype=F64)
    spans = torch.rand(3, 9, dtype=F64) + 0.5
    for row, length in enumerate(lengths):
        x[row, length:] = filling
        spans[row, length:] = filling
    weights = [torch.randn(3, 9, 5, dtype=F64), *(torch.randn(3, 9, 3, dtype=F64) for _ in range(3))]

    def run(rows: slice, steps: int, padded: bool) -> tuple[Any, list[Tensor]]:
        params = random_params(config)
        for tensor in params:
            tensor.requires_grad_()
        inputs = x[rows, :steps].clone().requires_grad_()
        state = start[rows]
        state.h.requires_grad_(), state.U.requires_grad_()
        known = torch.tensor(lengths) if padded else None
        result = dream_scan(inputs, state, params, config, spans[rows, :steps], known)
        parts = (result[0], result[1].prediction, result[1].forecast, result[1].error)
        loss = sum((part * weight[rows, :steps]).sum() for part, weight in zip(parts, weights, strict=True))
        (loss + result[2].h.sum() + result[2].U.square().sum()).backward()
        learned = [getattr(params, name).grad for name in DIFFERENTIABLE]
        return result, [*learned, inputs.grad, state.h.grad, state.U.grad]

    (output, trace, final), grads = run(slice(None), 9, padded=True)
    totals = [torch.zeros_like(grad) for grad in grads[:-3]]
    for row, length in enumerate(lengths):
        (alone, seen, last), own = run(slice(row, row + 1), length, padded=False)
        assert_same(
            [output[row, :length], *(part[row, :length] for part in trace)],
            [alone[0], *(part[0] for part in seen)],
        )
        assert all((part[row, length:] == 0).all() for part in (output, *trace))
        assert_same(final[row], last)
        assert_same(
            [grads[-3][row, :length], grads[-2][row], grads[-1][row]], [own[-3][0], own[-2][0], own[-1][0]]
        )
        assert (grads[-3][row, length:] == 0).all()
        totals = [total + grad for total, grad in zip(totals, own[:-3], strict=True)]
    assert_same(grads[:-3], totals, atol=1e-11)


def test_timespans_of_one_are_no_timespans() -> None:
    config = small()
    params, state, x = random_params(config), random_state(config, 3), torch.randn(3, 20, 3, dtype=F64)
    ones = torch.ones(3, 20, dtype=F64)
    assert_same(dream_scan(x, state, params, config, ones), dream_scan(x, state, params, config))
    other = dream_scan(x, state, params, config, 2 * ones)[0]
    assert (other - dream_scan(x, state, params, config)[0]).abs().max() > 1e-3


def test_permuting_rows_permutes_results() -> None:
    config = small(sleep_rate=0.05, surprise_smoothing=0.1)
    params, state, x = random_params(config), random_state(config, 5), torch.randn(5, 20, 3, dtype=F64)
    lengths, order = torch.tensor([20, 3, 7, 12, 1]), torch.tensor([3, 0, 4, 2, 1])
    output, trace, final = dream_scan(x, state, params, config, None, lengths)
    permuted = dream_scan(x[order], state[order], params, config, None, lengths[order])
    assert_same(permuted, (output[order], type(trace)(*(part[order] for part in trace)), final[order]))


@pytest.mark.parametrize("kappa", [0.15, 0.5])
def test_fast_weights_are_bounded_under_an_adversary(kappa: float) -> None:
    """Each step the worst of many hidden states, inputs and surprises goes on; above kappa = 0.14 |U| stays
    bounded.

    The delta rule preconditioned by unit stretches U by at most 2 / sqrt(3); homeostasis takes the share
    kappa of what exceeds the target."""
    config = small(
        kappa=kappa, target_norm=1.0, forgetting_rate=0.0, hidden_dim=4, rank=2, base_plasticity=1.0
    )
    params = random_params(config)._replace(
        eta=torch.tensor([1e6, 1e6, 1e-2, 1e-6], dtype=F64),
        tonic=torch.tensor([1.0, 0.0, 0.5, 0.0], dtype=F64),
    )
    generator = torch.Generator().manual_seed(3)
    rows = 96
    state = random_state(config, 1)[[0] * rows]
    stretch, ceiling, norm, highest = 2 / math.sqrt(3), 0.0, torch.zeros(()), 0.0
    for _ in range(250):
        state.h = (
            torch.randn(rows, 4, dtype=F64, generator=generator).sign()
            * torch.rand(rows, 1, generator=generator).double()
        )
        state.h[:, 0] *= torch.rand(rows, generator=generator).double()
        state.adaptive_tau = torch.where(torch.rand(rows, generator=generator) < 0.5, 0.5, FAR).double()
        x = 2 * torch.rand(rows, 3, dtype=F64, generator=generator) - 1
        _, trace, after = dream_step(x, state, params, config)
        push = 0.5 * ((x - params.c - state.h @ params.C) @ params.V).norm(dim=-1).max().item()
        ceiling = max(ceiling, ((1 - kappa) * push + kappa * 1.0) / (1 - (1 - kappa) * stretch))
        norm, worst = trace.u_norm.max(0)
        highest = max(highest, norm.item())
        state = after[[int(worst)] * rows]
    assert 1.0 < highest <= ceiling
