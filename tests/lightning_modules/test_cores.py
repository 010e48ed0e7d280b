"""The cores: rivals of DREAM keep its contract, have its size, and are what their names say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dream import DREAMConfig, DREAMState
from dream.errors import ConfigError, DataError, StateError
from lightning_modules.cores import (
    BaselineCore,
    LinearCore,
    RecurrentCore,
    build_core,
    trainable,
    upper_errors,
)

CONFIG = DREAMConfig(input_dim=3, hidden_dim=16, rank=2, error_smoothing=0.1, surprise_smoothing=0.05)
NAMES = ("dream", "lstm", "gru", "rnn", "linear")
RIVALS = NAMES[1:]


def rows(steps: int = 12) -> Tensor:
    return torch.randn(3, steps, 3, generator=torch.Generator().manual_seed(1))


def equal(a: DREAMState, b: DREAMState) -> None:
    for (name, x), (_, y) in zip(a.items(), b.items(), strict=True):
        torch.testing.assert_close(x, y, msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_the_whole(name: str) -> None:
    core, x = build_core(name, CONFIG).eval(), rows()
    output, traces, states = core.trace(x)
    first, seen, middle = core.trace(x[:, :5])
    second, then, final = core.trace(x[:, 5:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), output)
    for field in ("prediction", "forecast", "error", "surprise", "deviation", "u_norm"):
        joined = torch.cat([getattr(seen[0], field), getattr(then[0], field)], 1)
        torch.testing.assert_close(joined, getattr(traces[0], field), msg=field)
    equal(final[0], states[0])
    torch.testing.assert_close(core.predict_next(states), traces[0].forecast[:, -1])
    assert output.shape == (3, 12, core.output_dim)


@pytest.mark.parametrize("name", RIVALS)
def test_padding_leaves_no_mark(name: str) -> None:
    core, x = build_core(name, CONFIG).eval(), rows()
    padded = x.clone()
    padded[1, 5:] = torch.nan
    output, (trace,), (state,) = core.trace(padded, lengths=torch.tensor([12, 5, 12]))
    alone, (own,), (end,) = core.trace(x[1:2, :5])
    torch.testing.assert_close(output[1:2, :5], alone)
    torch.testing.assert_close(trace.deviation[1:2, :5], own.deviation)
    equal(state[1], end)
    assert float(output.detach()[1, 5:].abs().max()) == 0
    assert float(trace.error.detach()[1, 5:].abs().max()) == 0


@pytest.mark.parametrize("name", RIVALS)
def test_the_gate_is_dreams(name: str) -> None:
    """A rival that can't learn and a DREAM layer whose errors are the same measure the same surprise."""
    x = rows(30)
    dream = build_core("dream", DREAMConfig(input_dim=3, hidden_dim=4, rank=2, base_plasticity=0.0)).eval()
    core = build_core(name, DREAMConfig(input_dim=3, hidden_dim=4, rank=2)).eval()
    with torch.no_grad():
        next(iter(dream.layers)).cell.C.zero_()
        core.readout.weight.zero_()
        core.readout.bias.zero_()
        _, (expected,), (after,) = dream.trace(x)
        _, (trace,), (state,) = core.trace(x)
    torch.testing.assert_close(trace.deviation, expected.deviation)
    torch.testing.assert_close(trace.surprise, expected.surprise)
    torch.testing.assert_close(state.adaptive_tau, after.adaptive_tau)
    torch.testing.assert_close(state.error_var, after.error_var)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("hidden_dims", [[64], [24, 24]])
def test_a_rival_has_the_parameters_of_dream(name: str, hidden_dims: list[int]) -> None:
    config = DREAMConfig(input_dim=7, hidden_dim=64, rank=4)
    budget = trainable(build_core("dream", config, hidden_dims))
    core = build_core(name, config, hidden_dims)
    assert 0.93 * budget < trainable(core) <= budget
    assert isinstance(core, RecurrentCore)
    assert core.cells.num_layers == len(hidden_dims)


def test_the_lstm_is_torchs() -> None:
    core = build_core("lstm", CONFIG)
    assert isinstance(core, RecurrentCore)
    assert isinstance(core.cells, nn.LSTM)
    x = rows()
    output, _, _ = core.trace(x)
    expected, _ = core.cells(torch.cat([x, torch.zeros(3, 12, 1)], -1))
    torch.testing.assert_close(output, expected)


def test_the_linear_core_holds_the_last_rows() -> None:
    core = build_core("linear", CONFIG).eval()
    assert isinstance(core, LinearCore)
    x = rows()
    output, _, _ = core.trace(x)
    torch.testing.assert_close(output[:, 7].view(3, core.steps, 3), x[:, 8 - core.steps : 8])
    assert float(output[:, 0, :-3].abs().max()) == 0


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_time_between_steps_counts(name: str) -> None:
    core, x = build_core(name, CONFIG).eval(), rows()
    plain, _, _ = core.trace(x)
    ones, _, _ = core.trace(x, timespans=torch.ones(3, 12))
    twice, _, _ = core.trace(x, timespans=torch.full((3, 12), 2.0))
    torch.testing.assert_close(ones, plain, rtol=0, atol=0)
    assert float((twice - plain).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", RIVALS)
def test_its_predictions_learn(name: str) -> None:
    torch.manual_seed(0)
    core = build_core(name, CONFIG)
    steps = torch.arange(40).float()
    x = torch.stack([torch.sin(0.7 * steps + phase) for phase in (0.0, 1.0, 2.0)], -1).expand(2, -1, -1)
    optimizer = torch.optim.Adam(core.parameters(), 0.03)
    losses = []
    for _ in range(60):
        _, (trace,), _ = core.trace(x)
        loss = trace.error.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert isinstance(core, BaselineCore)
    assert int(core.prior_updates) == 60
    assert float(core.error_var_prior.mean()) < 1


def test_what_does_not_fit_is_refused() -> None:
    core = build_core("lstm", CONFIG)
    with pytest.raises(
        ConfigError, match=r"`core` must be dream, lstm, .*; got .lstn.\. Did you mean `lstm`"
    ):
        build_core("lstn", CONFIG)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="`x` must be finite"):
        core.trace(torch.full((1, 2, 3), torch.nan))
    with pytest.raises(StateError, match=r"`state.h` must be \(3, "):
        core.trace(rows(), build_core("gru", CONFIG).init_state(3))


def test_one_overflowing_error_does_not_stay_in_the_prior() -> None:
    core = build_core("linear", CONFIG).train()
    core.trace(torch.full((1, 2, 3), 1.8e19))
    assert core.error_var_prior.isfinite().all()
    assert (core.error_var_prior >= 1).all()


def test_upper_layers_are_asked_for_what_they_read_and_not_for_easier_inputs() -> None:
    core = build_core("dream", CONFIG, [16, 7]).double().eval()
    first, second = core.layers
    lengths = torch.tensor([12, 5, 9])
    _, traces, _ = core.trace(rows().double(), lengths=lengths)
    found = upper_errors(traces)
    h, _, _ = first.trace(rows().double(), lengths=lengths)
    expected = (second.trace(h, lengths=lengths)[1].prediction - h).square().mean(-1)
    valid = torch.arange(12) < lengths[:, None]
    torch.testing.assert_close(found, torch.where(valid, expected, 0.0))

    still = core.trace(rows().double()[:, :1])[1]  # at the first step nothing below has reached a prediction
    gradients = torch.autograd.grad(upper_errors(still).sum(), first.parameters(), allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_one_layer_has_no_upper_errors() -> None:
    _, traces, _ = build_core("dream", CONFIG).trace(rows())
    assert torch.equal(upper_errors(traces), torch.zeros(3, 12))


@pytest.mark.parametrize("name", NAMES)
def test_no_steps_and_no_samples_are_no_change(name: str) -> None:
    """Samples of length 0 beside others, no step at all, and an empty batch."""
    core, x = build_core(name, CONFIG), rows()
    _, _, start = core.eval().trace(x)
    prior = core.state_dict()
    output, (trace, *_), (state, *_) = core.train().trace(x, start, torch.tensor([0, 5, 0]))
    equal(state[[0, 2]], start[0][[0, 2]])
    assert float(output.detach()[[0, 2]].abs().max()) == 0
    for shape, lengths in (((3, 0), None), ((3, 4), torch.zeros(3, dtype=torch.long)), ((0, 5), None)):
        core.load_state_dict(prior)
        before = {key: value.clone() for key, value in prior.items()}
        some = [one[: shape[0]] for one in start]
        output, (trace, *_), (state, *_) = core.trace(torch.zeros(*shape, 3), some, lengths)
        assert output.shape == (*shape, core.output_dim)
        assert trace.error.shape == (*shape, 3)
        equal(state, some[0])
        assert all(torch.equal(value, before[key]) for key, value in core.state_dict().items())
