"""`DREAM`: packed, masked and plain sequences, traces, arguments, and how a layer starts."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from dream import DREAM, CheckpointError, DREAMCell, DREAMConfig, DREAMStack, DREAMTrace, ShapeError
from dream.cell import TONIC
from dream.functional import key
from dream.types import key_shape
from tests.dream.support import F64, assert_same, random_state, small

SORTED, UNSORTED = [9, 6, 6, 1], [6, 1, 9, 6]


@pytest.fixture
def layer() -> DREAM:
    return DREAM(3, 5, 2, sleep_rate=0.05, surprise_smoothing=0.1).double().eval()


@pytest.mark.parametrize(("lengths", "enforce"), [(SORTED, True), (SORTED, False), (UNSORTED, False)])
def test_packed_in_packed_out(layer: DREAM, lengths: list[int], enforce: bool) -> None:
    x, start = torch.randn(4, 9, 3, dtype=F64), random_state(small(), 4)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=enforce)
    output, state = layer(packed, start)
    padded, expected = layer.forward_with_mask(x, torch.tensor(lengths), start)
    assert isinstance(output, PackedSequence)
    assert_same(state, expected)  # in the original order
    reference = pack_padded_sequence(padded, torch.tensor(lengths), batch_first=True, enforce_sorted=enforce)
    assert_same(output.data, reference.data)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    for name in ("sorted_indices", "unsorted_indices"):
        ours, theirs = getattr(output, name), getattr(packed, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    last, same = layer(packed, start, return_sequences=False)
    assert_same(last, padded[torch.arange(4), torch.tensor(lengths) - 1])
    assert_same(same, expected)


def test_packed_like_nn_lstm(layer: DREAM) -> None:
    """The output can be unpacked, and rows come back in the order in which they were packed."""
    rows = [torch.randn(length, 3, dtype=F64) for length in UNSORTED]
    output, state = layer(pack_sequence(rows, enforce_sorted=False))
    padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    assert lengths.tolist() == UNSORTED
    for k, row in enumerate(rows):
        alone, final = layer(row[None])
        assert_same(padded[k, : len(row)], alone[0])
        assert_same(state[k], final)


def test_packed_timespans_are_in_the_order_before_packing(layer: DREAM) -> None:
    x, spans, lengths = (
        torch.randn(4, 9, 3, dtype=F64),
        torch.rand(4, 9, dtype=F64) + 0.3,
        torch.tensor(UNSORTED),
    )
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    assert_same(layer(packed, timespans=spans)[1], layer.forward_with_mask(x, lengths, timespans=spans)[1])


def test_packed_gradients_and_errors(layer: DREAM) -> None:
    x = torch.randn(4, 9, 3, dtype=F64, requires_grad=True)
    output, _ = layer(pack_padded_sequence(x, torch.tensor(UNSORTED), batch_first=True, enforce_sorted=False))
    output.data.square().sum().backward()
    for row, length in enumerate(UNSORTED):
        assert (x.grad[row, :length] != 0).all()
        assert (x.grad[row, length:] == 0).all()
    with pytest.raises(ShapeError, match="input_dim=2"):
        layer(pack_sequence([torch.randn(4, 2, dtype=F64)]))


def test_all_steps_or_the_last(layer: DREAM) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    output, state = layer(x)
    assert output.shape == (4, 9, 5)
    last, same = layer(x, return_sequences=False)
    assert_same([last, same], [output[:, -1], state])
    assert_same(state.h, output[:, -1])
    assert_same(layer(x, None, False)[0], last)  # as positional arguments, too


def test_a_mask_and_a_state(layer: DREAM) -> None:
    x, lengths, start = torch.randn(4, 9, 3, dtype=F64), torch.tensor(UNSORTED), random_state(small(), 4)
    output, state = layer.forward_with_mask(x, lengths, start)
    for row, length in enumerate(UNSORTED):
        alone, final = layer(x[row : row + 1, :length], start[row])
        assert_same([output[row, :length], state[row]], [alone[0], final])
        assert (output[row, length:] == 0).all()
    for kind in (torch.int32, torch.int16, torch.uint8):
        assert_same(layer.forward_with_mask(x, lengths.to(kind), start), (output, state))


def test_full_lengths_are_no_lengths(layer: DREAM) -> None:
    x = torch.randn(4, 9, 3, dtype=F64)
    assert_same(layer.forward_with_mask(x, torch.full((4,), 9)), layer(x))


def test_the_trace(layer: DREAM) -> None:
    x, lengths, spans = (
        torch.randn(4, 9, 3, dtype=F64),
        torch.tensor(UNSORTED),
        torch.rand(4, 9, dtype=F64) + 0.3,
    )
    output, trace, state = layer.trace(x, lengths=lengths, timespans=spans)
    assert_same((output, state), layer.forward_with_mask(x, lengths, timespans=spans))
    assert isinstance(trace, DREAMTrace)
    assert set(trace._fields) == {"prediction", "forecast", "surprise", "deviation", "u_norm", "error"}
    for row, length in enumerate(UNSORTED):
        assert_same(trace.error[row, :length], x[row, :length] - trace.prediction[row, :length])
        assert_same(trace.forecast[row, : length - 1], trace.prediction[row, 1:length])
        assert_same(trace.forecast[row, length - 1], layer.predict_next(state)[row])
        assert_same(trace.u_norm[row, length - 1], state.U[row].norm())
    assert ((trace.surprise > 0) & (trace.surprise < 1)).sum() == sum(UNSORTED)


def test_single_steps_with_timespans() -> None:
    cell = DREAMCell(small()).double().eval()
    x, spans, state = torch.randn(2, 7, 3, dtype=F64), torch.rand(2, 7, dtype=F64) + 0.3, cell.init_state(2)
    whole, final = cell.forward_sequence(x, state, timespans=spans)
    for t in range(7):
        output, state = cell(x[:, t], state, spans[:, t])
        assert_same(output, whole[:, t])
    assert_same(state, final)
    assert_same(
        cell.forward_sequence(x, cell.init_state(2), return_all=False, timespans=spans)[0], whole[:, -1]
    )
    assert_same(cell.forward_sequence(x, cell.init_state(2), False)[0], cell.forward_sequence(x)[0][:, -1])


def test_from_config() -> None:
    config = DREAMConfig.preset("anomaly_detection", input_dim=3, rank=2)
    layer = DREAM.from_config(config, check_inputs=False)
    assert layer.get_config() == config
    assert layer(torch.full((1, 2, 3), torch.nan))[0].isnan().any()
    assert DREAM().get_config() == DREAMConfig()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DREAMConfig)])
def test_every_field_is_an_argument(field: str) -> None:
    value: Any = {bool: False, int: 7, float: 0.31}[type(getattr(DREAMConfig(), field))]
    config = DREAM(**{field: value}).get_config()
    assert config == DREAMConfig(**{field: value})
    assert getattr(config, field) == value


def test_arguments_outside_the_config_are_keywords() -> None:
    parameters = inspect.signature(DREAM).parameters
    for name, default in (("backend", "auto"), ("check_inputs", True), ("missing", False)):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default
        assert name not in {field.name for field in dataclasses.fields(DREAMConfig)}


@pytest.mark.parametrize(("i", "h", "r"), [(3, 5, 2), (3, 5, 7), (4, 1, 4), (1, 6, 1)])
def test_how_a_layer_starts(i: int, h: int, r: int) -> None:
    config = DREAMConfig(
        input_dim=i, hidden_dim=h, rank=r, base_plasticity=0.15, ltc_tau_sys=8.0, time_step=0.05
    )
    params = DREAMCell(config).params()
    assert {name: tuple(part.shape) for name, part in params._asdict().items()} == {
        "C": (h, i),
        "c": (i,),
        "W": (i, h),
        "B": (i, h),
        "b": (h,),
        "A": (h, h),
        "G_x": (i, h),
        "G_h": (h, h),
        "V": (i, r),
        "eta": (h,),
        "tonic": (h,),
        "tau": (h,),
        "surprise_scale": (),
        "error_var_prior": (i,),
        "K": (1, h, h),
        "k": (h,),
        "D": (r, h),
    }
    assert list(params._fields) == [
        *(
            "C",
            "c",
            "W",
            "B",
            "b",
            "A",
            "G_x",
            "G_h",
            "V",
            "eta",
            "tonic",
            "tau",
            "surprise_scale",
            "error_var_prior",
            "K",
            "k",
            "D",
        )
    ]
    for part in (params.c, params.b, params.G_x, params.G_h, params.k, params.D):
        assert (part == 0).all()
    assert torch.equal(params.K[0], torch.eye(h))
    for part in (params.C, params.W, params.B):  # Xavier uniform
        assert 0 < part.abs().max() <= math.sqrt(6 / (i + h))
    torch.testing.assert_close(params.A @ params.A.T, torch.eye(h), atol=1e-5, rtol=0)
    gram = params.V.T @ params.V if r <= i else params.V @ params.V.T
    torch.testing.assert_close(gram, min(i, r) * torch.eye(min(i, r)), atol=1e-5, rtol=0)
    torch.testing.assert_close(params.eta, torch.full((h,), 0.15))
    torch.testing.assert_close(params.tonic, torch.full((h,), 0.2))
    assert TONIC == 0.2
    expected = torch.logspace(math.log10(0.05 / 20), math.log10(8.0), h) if h > 1 else torch.tensor([8.0])
    torch.testing.assert_close(params.tau, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(params.surprise_scale, torch.tensor(10.0))
    assert (params.error_var_prior == 1).all()


@pytest.mark.parametrize(("hidden", "shape"), [(1, (1, 1, 1)), (16, (1, 16, 16)), (37, (3, 16, 16))])
def test_the_blocks_of_keys(hidden: int, shape: tuple[int, ...]) -> None:
    """Every block starts as 1, so that the key is the state; the last one is padded with zeros."""
    cell = DREAMCell(small(hidden_dim=hidden))
    assert cell.K.shape == key_shape(hidden) == shape
    assert torch.equal(cell.K, torch.eye(shape[1]).expand(shape))
    h = torch.randn(4, hidden)
    assert torch.equal(key(h, cell.params()), h)
    torch.nn.init.normal_(cell.K), torch.nn.init.normal_(cell.k)
    whole = torch.block_diag(*cell.K)[:hidden, :hidden]
    torch.testing.assert_close(key(h, cell.params()), h @ whole + cell.k)


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_what_is_learned_and_what_is_kept(rank: int) -> None:
    cell = DREAMCell(small(rank=rank))
    fixed = {"V"} if rank >= 3 else set()
    assert {name for name, _ in cell.named_buffers()} == {"error_var_prior", "prior_updates"} | fixed
    learned = {
        "C",
        "c",
        "W",
        "B",
        "b",
        "A",
        "G_x",
        "G_h",
        "log_eta",
        "logit_tonic",
        "log_tau",
        "log_surprise_scale",
        "K",
        "k",
        "D",
    }
    learned |= {"V_raw"} - {"V_raw" if fixed else ""}
    assert {name for name, _ in cell.named_parameters()} == learned
    assert all(parameter.requires_grad for parameter in cell.parameters())


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("rank", [2, 5])
def test_weights_of_the_first_edition_are_refused(rank: int, strict: bool) -> None:
    """Such a cell had no keys and no D, and V as a buffer at any rank."""
    for module in (DREAMCell(small(rank=rank)), DREAM(3, 5, rank), DREAMStack(3, [5, 4], rank)):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        first = {
            name.replace("V_raw", "V"): value + 1
            for name, value in before.items()
            if name.split(".")[-1] not in ("K", "k", "D")
        }
        place = next(name for name in first if name.endswith("C"))
        with pytest.raises(
            CheckpointError, match=rf"second edition; {place} is of the first edition .* Train again, or stay"
        ):
            module.load_state_dict(first, strict=strict)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        module.load_state_dict(before)


def test_effective_parameters_stay_in_range_whatever_the_optimiser_does() -> None:
    cell = DREAMCell(small()).double()
    for value in (-50.0, 50.0):
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.fill_(value)
        params = cell.params()
        assert (params.eta > 0).all()
        assert (params.tau > 0).all()
        assert params.surprise_scale >= 0
        assert ((params.tonic >= 0) & (params.tonic <= 1)).all()
        assert cell.forward_sequence(torch.randn(2, 9, 3, dtype=F64))[0].abs().max() <= 1.0


def test_repr_tells_the_sizes() -> None:
    assert "3, 5, rank=2" in repr(DREAM(3, 5, 2))
