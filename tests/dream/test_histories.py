"""States and inputs that no gradient flows through: an error of our own, where torch's would come later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dream import DataError, DREAMCell, StateError
from tests.dream.support import CPU_BACKENDS, F64, assert_same, modules

X = torch.randn(2, 5, 3, dtype=F64)


def made(name: str, backend: str) -> Any:
    module = modules()[name]
    for part in module.modules():
        if isinstance(part, DREAMCell):
            part.backend = backend
    return module


def call(module: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    return module.forward_sequence(x, state) if isinstance(module, DREAMCell) else module(x, state)


def detached(state: Any) -> Any:
    return [one.detach() for one in state] if isinstance(state, list) else state.detach()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["cell", "layer", "stack"])
def test_a_state_with_the_history_of_an_earlier_backward(name: str, backend: str) -> None:
    module = made(name, backend)
    output, state = call(module, X)
    output.sum().backward()
    with pytest.raises(StateError, match=r"`state` must not carry the history .* Use state\.detach\(\)"):
        call(module, X, state)
    call(module, X, detached(state))[0].sum().backward()
    with torch.no_grad():  # which needs no graph
        call(module, X, state)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_graph_that_is_kept_may_go_on(backend: str) -> None:
    module = made("layer", backend)
    output, state = call(module, X)
    output.sum().backward(retain_graph=True)
    output, _ = call(module, X, state)
    output.sum().backward()


def test_single_steps_with_a_history() -> None:
    cell = made("cell", "auto")
    output, state = cell(X[:, 0])
    output.sum().backward()
    with pytest.raises(StateError, match="history of a graph that a backward has freed"):
        cell(X[:, 1], state)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["cell", "layer", "stack"])
def test_a_state_of_inference_mode(name: str, backend: str) -> None:
    module = made(name, backend)
    with torch.inference_mode():
        _, state = call(module, X)
        expected, _ = call(module, X, state)
    with pytest.raises(
        StateError, match=r"`state` must not come from torch.inference_mode .* state\.clone\(\)"
    ):
        call(module, X, state)
    cloned = [one.clone() for one in state] if isinstance(state, list) else state.clone()
    output, _ = call(module, X, cloned)
    output.sum().backward()
    with torch.no_grad():
        assert_same(call(module, X, state)[0], expected.clone())
    module.requires_grad_(False)  # then there is nothing to keep for a backward
    assert_same(call(module, X, state)[0], expected.clone())


def test_an_input_of_inference_mode() -> None:
    layer = made("layer", "auto")
    with torch.inference_mode():
        x = X + 1.0
    with pytest.raises(DataError, match=r"`x` must not come from torch.inference_mode .* Use x\.clone\(\)"):
        layer(x)
    layer(x.clone())[0].sum().backward()
