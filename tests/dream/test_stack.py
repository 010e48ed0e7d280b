"""`DREAMStack`: layers of any width one on another, dropout between them, and every method of `DREAM`."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from dream import DREAM, ConfigError, DREAMConfig, DREAMStack, DREAMState, DREAMTrace, StateError
from tests.dream.support import F64, assert_same, random_state, small

LENGTHS = torch.tensor([6, 1, 9, 6])


@pytest.fixture
def stack() -> DREAMStack:
    return DREAMStack(3, [5, 8, 4], 2, dropout=0.4, surprise_smoothing=0.1, sleep_rate=0.05).double().eval()


def by_hand(stack: DREAMStack, x: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[Any, ...]:
    """Layer after layer, without dropout."""
    traces, states = [], []
    for layer in stack.layers:
        x, trace, state = layer.trace(x, lengths=lengths)
        traces.append(trace)
        states.append(state)
    return x, traces, states


def test_each_layer_reads_the_output_of_the_one_below(stack: DREAMStack) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    expected = by_hand(stack, x, LENGTHS)
    assert_same(stack.trace(x, lengths=LENGTHS), expected)
    assert_same(stack.forward_with_mask(x, LENGTHS), (expected[0], expected[2]))
    output, states = stack(x)
    assert_same((output, states), by_hand(stack, x)[::2])
    assert output.shape == (4, 9, 4)
    assert isinstance(states, list)
    assert [state.shape()["h"] for state in states] == [(4, 5), (4, 8), (4, 4)]
    assert [state.shape()["error_mean"] for state in states] == [(4, 3), (4, 5), (4, 8)]
    assert all(isinstance(state, DREAMState) for state in states)
    last, _ = stack(x, return_sequences=False)
    assert_same(last, output[:, -1])


@pytest.mark.parametrize("widths", [[6], [1, 9], [4, 4, 4, 4], (7, 2)])
def test_any_widths(widths: Any) -> None:
    stack = DREAMStack(3, widths, 2)
    assert [(c.input_dim, c.hidden_dim) for c in stack.get_config()] == list(
        zip([3, *widths], widths, strict=False)
    )
    assert stack(torch.randn(2, 5, 3))[0].shape == (2, 5, widths[-1])
    assert [len(state.h[0]) for state in stack.init_state(2)] == list(widths)


def test_one_layer_is_that_layer() -> None:
    stack = DREAMStack(3, [5], 2, dropout=0.5).double().train()
    layer = DREAM(3, 5, 2).double().train()
    layer.load_state_dict(stack.layers[0].state_dict())
    x = torch.randn(2, 9, 3, dtype=F64)
    output, (state,) = stack(x)
    assert_same([output, state], list(layer(x)))  # no dropout after the last layer


def test_dropout_in_training_mode_only(stack: DREAMStack) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    assert_same(stack(x), stack(x))
    twin = copy.deepcopy(stack).train()
    first, states = stack.train()(x)
    second, others = twin(x)
    assert (first - second).abs().max() > 1e-3
    assert_same(states[0], others[0])  # what the data meets first is not dropped


def test_dropout_lies_between_layers_and_nowhere_else() -> None:
    """Dropped and rescaled is what the second layer reads; the output itself is whole."""
    stack = DREAMStack(3, [5, 4], 2, dropout=0.5).double().train()
    seen: list[torch.Tensor] = []
    original = stack.layers[1].scan
    stack.layers[1].scan = lambda x, *rest: (seen.append(x), original(x, *rest))[1]
    x = torch.randn(4, 30, 3, dtype=F64)
    below = stack.layers[0].eval()(x)[0]
    output, _ = stack(x)
    (between,) = seen
    dropped = between == 0
    assert 0.35 < dropped.double().mean() < 0.65
    assert_same(between[~dropped], 2 * below[~dropped])
    assert (output != 0).all()
    again = DREAMStack(3, [5, 4], 2, dropout=0.0).double().train()
    assert_same(again.dropout(below), below)


def test_packed_sequences(stack: DREAMStack) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    output, states = stack(packed)
    padded, expected = stack.forward_with_mask(x, LENGTHS)
    assert isinstance(output, PackedSequence)
    reference = pack_padded_sequence(padded, LENGTHS, batch_first=True, enforce_sorted=False)
    assert_same(output.data, reference.data)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    assert torch.equal(output.sorted_indices, packed.sorted_indices)
    assert_same(states, expected)
    assert_same(stack(packed, return_sequences=False)[0], padded[torch.arange(4), LENGTHS - 1])


def test_nan_in_the_padding(stack: DREAMStack) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    clean = stack.trace(x, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        x[row, length:] = torch.nan
    assert_same(stack.trace(x, lengths=LENGTHS), clean)


def test_chunks_with_states_and_timespans(stack: DREAMStack) -> None:
    x, spans = torch.randn(4, 9, 3, dtype=F64), torch.rand(4, 9, dtype=F64) + 0.3
    whole, states = stack(x, timespans=spans)
    first, between = stack(x[:, :4], timespans=spans[:, :4])
    second, final = stack(x[:, 4:], between, timespans=spans[:, 4:])
    assert_same([torch.cat([first, second], 1), *final], [whole, *states])
    assert (whole - stack(x)[0]).abs().max() > 1e-4


def test_the_forecast_is_that_of_the_first_layer(stack: DREAMStack) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    _, traces, states = stack.trace(x)
    assert isinstance(traces, list)
    assert all(isinstance(trace, DREAMTrace) for trace in traces)
    forecast = stack.predict_next(states)
    assert forecast.shape == (4, 3)
    assert_same(forecast, traces[0].forecast[:, -1])
    assert_same(traces[0].error, x - traces[0].prediction)
    assert_same(forecast, stack.layers[0].predict_next(states[0]))


def test_every_method_of_the_layer() -> None:
    methods = {name for name, _ in inspect.getmembers(DREAM) if not name.startswith("_")} - set(
        dir(nn.Module)
    )
    assert {"trace", "forward_with_mask", "init_state", "predict_next", "consolidate", "plasticity"} < methods
    assert methods - {"stepper"} <= set(dir(DREAMStack))  # which is of one layer
    for name in ("trace", "forward_with_mask", "forward", "init_state", "consolidate"):
        ours, theirs = (
            list(inspect.signature(getattr(kind, name)).parameters) for kind in (DREAMStack, DREAM)
        )
        assert ours == theirs, name


@pytest.mark.parametrize("state", [random_state(small(), 4), [], [random_state(small(), 4)] * 2])
def test_a_state_for_each_layer(stack: DREAMStack, state: Any) -> None:
    got = "one DREAMState" if isinstance(state, DREAMState) else f"a list of {len(state)}"
    with pytest.raises(StateError, match=f"`state` must be a list of 3 DREAMState.*; got {got}"):
        stack(torch.randn(4, 9, 3, dtype=F64), state)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan"), "0.1", True, None])
def test_bad_dropout(dropout: Any) -> None:
    with pytest.raises(ConfigError, match="`dropout` must be a number from 0 to below 1; got") as caught:
        DREAMStack(3, [5], 2, dropout=dropout)
    assert caught.value.key == "dropout"


@pytest.mark.parametrize("widths", [[], (), None, 5, "55", 5.0])
def test_bad_widths(widths: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"`hidden_dims` must list the width of each layer.*; got"
    ) as caught:
        DREAMStack(3, widths, 2)
    assert caught.value.key == "hidden_dims"


@pytest.mark.parametrize("widths", [[5, 0], [5, -1], [5, 2.5], [5, True]])
def test_bad_width_of_a_layer(widths: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"hidden_dim.*must .*; got"):
        DREAMStack(3, widths, 2)


def test_the_layers_argument_is_not_the_stacks() -> None:
    with pytest.raises(ConfigError, match="`hidden_dim` is not an argument of DREAMStack; use `hidden_dims`"):
        DREAMStack(3, [5], 2, hidden_dim=5)


def test_knobs_reach_every_layer_and_defaults_are_the_configs() -> None:
    stack = DREAMStack(3, [5, 4], 2, base_threshold=0.4, ltc_enabled=False)
    assert [(c.base_threshold, c.ltc_enabled, c.rank) for c in stack.get_config()] == [(0.4, False, 2)] * 2
    assert DREAMStack().get_config() == [DREAMConfig()]


def test_reset_parameters_reaches_every_layer() -> None:
    stack = DREAMStack(3, [5, 4], 2)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(3.0)
    stack.reset_parameters()
    assert not any((parameter == 3.0).all() for parameter in stack.parameters())


class Marked(DREAMStack):
    """A stack that builds more than its layers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mark = 1


def test_a_subclass_is_built_through_its_own_init() -> None:
    stack = Marked.from_config(small(), [4, 3], dropout=0.1)
    assert (stack.mark, [layer.hidden_dim for layer in stack.get_config()]) == (1, [4, 3])
    assert isinstance(DREAM.from_config(small()), DREAM)
