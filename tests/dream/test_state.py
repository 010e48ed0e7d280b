"""`DREAMState`: shapes, copies, rows, and the ways in which PyTorch carries it about."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from dream import DREAM, DREAMCell, DREAMConfig, DREAMStack, DREAMState, StateError
from tests.dream.support import F32, F64, assert_same, random_state, small

FIELDS = ["h", "U", "U_target", "adaptive_tau", "error_mean", "error_var", "avg_surprise"]


@pytest.mark.parametrize("rows", [1, 2, 32])
def test_the_seven_fields_and_their_shapes(rows: int) -> None:
    config = small(hidden_dim=7, rank=2)
    expected = {
        "h": (rows, 7),
        "U": (rows, 7, 2),
        "U_target": (rows, 7, 2),
        "adaptive_tau": (rows,),
        "error_mean": (rows, 3),
        "error_var": (rows, 3),
        "avg_surprise": (rows,),
    }
    cell = DREAMCell(config)
    fresh = cell.init_state(rows)
    after = cell.forward_sequence(torch.randn(rows, 4, 3), fresh)[1]
    stepped = cell(torch.randn(rows, 3), after)[1]
    for state in (fresh, after, stepped):
        assert [field.name for field in dataclasses.fields(state)] == FIELDS
        assert state.shape() == expected
        assert list(state.shape()) == FIELDS
        assert state.batch_size == rows


@pytest.mark.parametrize("dtype", [None, F32, F64])
def test_a_fresh_row(dtype: torch.dtype | None) -> None:
    config = small(base_threshold=0.4)
    cell = DREAMCell(config)
    cell.error_var_prior.copy_(torch.tensor([1.0, 2.0, 3.0]))
    state = cell.init_state(2, dtype=dtype)
    assert {tensor.dtype for _, tensor in state.items()} == {dtype or F32}
    for name in ("h", "U", "U_target", "error_mean", "avg_surprise"):
        assert (getattr(state, name) == 0).all()
    torch.testing.assert_close(state.adaptive_tau, torch.full((2,), 0.4, dtype=dtype or F32))
    assert state.error_var.tolist() == [[1.0, 2.0, 3.0]] * 2
    state.error_var.mul_(5.0)
    assert cell.error_var_prior.tolist() == [1.0, 2.0, 3.0]
    assert cell.init_state(2, device="cpu").h.device.type == "cpu"
    assert cell.init_state(2, torch.device("meta"), F64).h.device.type == "meta"
    assert cell.double().init_state(2).h.dtype == F64


@pytest.mark.parametrize("rows", [-1, 2.0, "2", None, True])
def test_bad_batch_size(rows: Any) -> None:
    for module in (DREAMCell(small()), DREAM(3, 5, 2), DREAMStack(3, [5], 2)):
        with pytest.raises(StateError, match="`batch_size` must be an integer from 0; got"):
            module.init_state(rows)


def test_detach_clone_and_to() -> None:
    config = small()
    x = torch.randn(2, 4, 3, requires_grad=True)
    state = DREAMCell(config).forward_sequence(x)[1]
    assert state.h.requires_grad
    assert state.U.requires_grad
    detached = state.detach()
    assert not any(tensor.requires_grad for _, tensor in detached.items())
    assert_same(detached, state.map(torch.Tensor.detach), atol=0, rtol=0)
    assert state.h.requires_grad
    cloned = state.clone()
    assert cloned.h.requires_grad
    assert all(
        a.data_ptr() != b.data_ptr() for (_, a), (_, b) in zip(cloned.items(), state.items(), strict=True)
    )
    wide = detached.to(dtype=F64)
    assert {tensor.dtype for _, tensor in wide.items()} == {F64}
    assert_same(wide.to(dtype=F32), detached, atol=0, rtol=0)
    for moved in (state.to("meta"), state.to(torch.device("meta")), state.to(device="meta", dtype=F64)):
        assert {tensor.device.type for _, tensor in moved.items()} == {"meta"}
    assert {tensor.dtype for _, tensor in state.to("cpu", F64).items()} == {F64}
    assert {tensor.dtype for _, tensor in state.to(F64).items()} == {F64}
    with pytest.raises(StateError, match=r"`dtype` must be floating.*got torch.int64"):
        state.to(dtype=torch.int64)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (1, [1]),
        (-1, [3]),
        (0, [0]),
        (np.int64(2), [2]),
        (torch.tensor(2), [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        ([3, 0, 3], [3, 0, 3]),
        (torch.tensor([2, 1]), [2, 1]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        ([True, False, False, True], [0, 3]),
        (np.array([2, 1]), [2, 1]),
    ],
    ids=str,
)
def test_rows(rows: Any, kept: list[int]) -> None:
    state = random_state(small(), 4)
    selected = state[rows]
    assert selected.batch_size == len(kept)
    for name, tensor in selected.items():
        assert torch.equal(tensor, torch.stack([getattr(state, name)[k] for k in kept])), name


@pytest.mark.parametrize("rows", [4, -5, [0, 4], torch.tensor([True, False]), torch.tensor([7])], ids=str)
def test_rows_that_are_not_there(rows: Any) -> None:
    with pytest.raises(StateError, match=r"`rows`.*4 rows"):
        random_state(small(), 4)[rows]


def test_cat() -> None:
    config = small()
    state = random_state(config, 5)
    assert_same(DREAMState.cat([state[:2], state[2], state[3:]]), state, atol=0, rtol=0)
    joined = DREAMState.cat([state])
    joined.h.add_(1.0)
    assert_same(state, random_state(config, 5))
    with pytest.raises(StateError, match="at least one"):
        DREAMState.cat([])
    for other in (
        random_state(small(hidden_dim=6), 1),
        random_state(small(rank=3), 1),
        state.to(dtype=F32),
        state.to("meta"),
    ):
        with pytest.raises(StateError, match="`states` must agree"):
            DREAMState.cat([state, other])


def test_reset() -> None:
    config = small()
    state, fresh = random_state(config, 4), DREAMCell(config).double().init_state(4)
    before = state.clone()
    new = state.reset(torch.tensor([True, False, True, False]), fresh)
    for name, tensor in new.items():
        assert torch.equal(tensor[[0, 2]], getattr(fresh, name)[[0, 2]]), name
        assert torch.equal(tensor[[1, 3]], getattr(before, name)[[1, 3]]), name
    assert_same(state, before, atol=0, rtol=0)
    state.U[0] = torch.nan
    assert state.reset(torch.tensor([True, False, False, False]), fresh).U.isfinite().all()


@pytest.mark.parametrize(
    "mask", [torch.tensor([1, 0, 1, 0]), torch.tensor([True]), torch.ones(4, 1).bool()], ids=str
)
def test_reset_refuses_other_masks(mask: torch.Tensor) -> None:
    state = random_state(small(), 4)
    with pytest.raises(StateError, match=r"`mask` must be a boolean tensor \(4,\); got"):
        state.reset(mask, state)


def test_reset_refuses_other_states() -> None:
    state, mask = random_state(small(), 4), torch.ones(4, dtype=torch.bool)
    for other in (
        random_state(small(), 3),
        random_state(small(rank=3), 4),
        state.to(dtype=F32),
        state.to("meta"),
    ):
        with pytest.raises(StateError, match="`fresh` must match"):
            state.reset(mask, other)


def test_copies() -> None:
    state = random_state(small(), 3)
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert_same(twin, state, atol=0, rtol=0)
        twin.h.add_(1.0)
    assert_same(state, random_state(small(), 3))


def test_torch_save_and_load_with_safe_defaults(tmp_path: Path) -> None:
    state = DREAM(3, 5, 2)(torch.randn(2, 4, 3))[1].detach()
    torch.save({"state": state, "list": [state]}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt")
    assert_same([loaded["state"], *loaded["list"]], [state, state], atol=0, rtol=0)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert_same(torch.load(buffer, weights_only=True), state, atol=0, rtol=0)


def test_pytrees() -> None:
    state = random_state(small(), 3)
    doubled = pytree.tree_map(lambda tensor: 2 * tensor, {"a": [state]})["a"][0]
    assert isinstance(doubled, DREAMState)
    assert_same(doubled, state.map(lambda tensor: 2 * tensor), atol=0, rtol=0)
    leaves, spec = pytree.tree_flatten(state)
    assert len(leaves) == 7
    assert_same(pytree.tree_unflatten(leaves, spec), state, atol=0, rtol=0)


def test_it_goes_through_collectives(process_group: None) -> None:
    state = random_state(small(), 2)
    gathered: list[Any] = [None]
    dist.all_gather_object(gathered, state)
    assert_same(gathered[0], state, atol=0, rtol=0)


def test_map_and_items() -> None:
    state = random_state(small(), 2)
    assert [name for name, _ in state.items()] == FIELDS
    assert all(tensor is getattr(state, name) for name, tensor in state.items())
    assert_same(state.map(torch.neg).map(torch.neg), state, atol=0, rtol=0)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("change", ["rows", "width", "dtype", "device"])
def test_check_names_the_field(name: str, change: str) -> None:
    config, state = small(), random_state(small(), 4)
    tensor = getattr(state, name)
    bad = {
        "rows": tensor[:3],
        "width": tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor[:, :-1],
        "dtype": tensor.float(),
        "device": tensor.to("meta"),
    }[change]
    setattr(state, name, bad)
    with pytest.raises(StateError, match=rf"`state\.{name}` must be .*; got .*init_state\(4\)"):
        state.check(config, torch.zeros(4, 3, dtype=F64))


def test_a_state_is_made_for_its_config_only() -> None:
    layer = DREAM.from_config(DREAMConfig(input_dim=3, hidden_dim=5, rank=2))
    for other in (small(hidden_dim=6), small(rank=3), small(input_dim=4)):
        with pytest.raises(StateError):
            layer(torch.randn(2, 4, 3), DREAMCell(other).init_state(2))


def test_data_parallel_scatters_and_gathers_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy between devices is torch's and needs several: only that is replaced, by a plain
    concatenation."""
    from torch.nn.parallel import scatter_gather

    monkeypatch.setattr(
        scatter_gather.Gather, "apply", lambda _device, dim, *tensors: torch.cat(tensors, dim)
    )
    state = DREAM(3, 5, 2)(torch.randn(4, 6, 3))[1]
    whole = scatter_gather.gather([state[:1], state[1:]], "cpu")
    assert isinstance(whole, DREAMState)
    for (name, tensor), (_, expected) in zip(whole.items(), state.items(), strict=True):
        assert torch.equal(tensor, expected), name
    assert next(iter(state)) is state.h
    assert len([*state]) == 7


@pytest.mark.gpu
def test_data_parallel_gathers_states_on_a_device() -> None:
    from torch.nn.parallel import gather

    state = DREAM(3, 5, 2)(torch.randn(4, 6, 3))[1].detach().to("cuda:0")
    whole = gather([state[:1], state[1:]], "cuda:0")
    assert torch.equal(whole.U, state.U)
