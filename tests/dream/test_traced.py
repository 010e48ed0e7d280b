"""Whatever torch traces a module with works with the defaults: torch.compile, torch.export, torch.func."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from dream import DREAM, DREAMState, ShapeError
from tests.dream.support import F64, assert_same

LENGTHS, SPANS = torch.tensor([3, 2]), torch.tensor([[1.0, 0.5, 2.0], [0.3, 1.0, 1.0]], dtype=F64)


class Calls(nn.Module):
    """Every call of a layer that reads a sequence."""

    def __init__(self, layer: DREAM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        output, state = self.layer(x)
        padded = self.layer.forward_with_mask(x, LENGTHS, state, timespans=SPANS)
        return output, padded, self.layer.trace(x), self.layer.predict_next(state)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 3, dtype=F64)


@pytest.mark.parametrize(
    ("backend", "training", "missing"),
    [("cpu", True, True), ("cpu", False, False), ("reference", True, False)],
)
def test_one_graph_with_the_defaults(backend: str, training: bool, missing: bool, x: Tensor) -> None:
    """Values are checked by plain calls alone, and the prior moves within the graph."""
    layer, twin = (
        DREAM(3, 5, 2, backend=backend, missing=missing).double().train(training) for _ in range(2)
    )
    twin.load_state_dict(layer.state_dict())
    torch._dynamo.reset()
    compiled = torch.compile(Calls(layer), backend="eager", fullgraph=True)
    assert_same(compiled(x), Calls(twin)(x))
    assert_same(layer.cell.error_var_prior, twin.cell.error_var_prior)
    assert int(layer.cell.prior_updates) == (3 if training else 0)


@pytest.mark.parametrize("checked", [True, False])
def test_a_step_is_exported_for_any_number_of_samples(checked: bool, x: Tensor) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = DREAM(3, 5, 2, check_inputs=checked).double().eval().cell

        def forward(self, x: Tensor, *fields: Tensor) -> tuple[Tensor, ...]:
            output, state = self.cell(x, DREAMState(*fields))
            return output, *state

    one, samples = Step(), {0: torch.export.Dim("N", min=1)}
    with torch.no_grad():
        arguments = (x[:, 0], *one.cell.init_state(2))
        program = torch.export.export(one, arguments, dynamic_shapes=(samples, (samples,) * 7)).module()
        for n in (1, 7):
            x, state = torch.randn(n, 3, dtype=F64), one.cell.init_state(n)
            assert_same(program(x, *state), one(x, *state))


def test_a_sequence_is_exported_unrolled_or_refused(x: Tensor) -> None:
    layer = DREAM(3, 5, 2).double().eval()
    with torch.no_grad():
        program = torch.export.export(layer, (x[:, :2],), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
        assert not any("dream" in str(node.target) for node in program.graph.nodes)  # an operator of ours
        longer = torch.randn(5, 2, 3, dtype=F64)
        assert_same(program.module()(longer)[0], layer(longer)[0])
        with pytest.raises(ShapeError, match=r"fixed number of steps .* dream\.export\.step"):
            torch.export.export(layer, (x,), dynamic_shapes=({1: torch.export.Dim("T", min=2)},))


def test_the_prior_moves_only_where_a_transform_knows_it(x: Tensor) -> None:
    """In training; within vmap over an ensemble each member's moves."""
    layers = [DREAM(3, 5, 2).double() for _ in range(2)]
    layer = layers[0]
    weights = dict(layer.named_parameters())
    mapped = vmap(lambda sample: layer(sample[None])[0][0])(x)
    slope = grad(lambda given: functional_call(layer, given, (x,))[0].square().sum())(weights)["cell.B"]
    assert int(layer.cell.prior_updates) == 0
    parameters, buffers = stack_module_state(layers)
    both = vmap(lambda p, b: functional_call(layer, (p, b), (x,))[0])(parameters, buffers)
    assert buffers["cell.prior_updates"].tolist() == [1, 1]
    output = layer(x)[0]
    assert_same([mapped, both[0]], [output, output])
    assert int(layer.cell.prior_updates) == 1
    layer.cell.error_var_prior.fill_(1.0)
    output.square().sum().backward()
    assert_same(slope, layer.cell.B.grad)
