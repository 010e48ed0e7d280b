"""Every snippet of the guide, as it stands there (cuda becomes cpu, ... is filled in), and every
signature."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_type_hints

import pytest
import torch

import dream
from dream import DREAM, DREAMCell, DREAMConfig, DREAMStack, DREAMState

# name: (source, what must hold afterwards)
SNIPPETS: dict[str, tuple[str, str]] = {
    "config": (
        """
from dream import DREAMConfig
config = DREAMConfig(
input_dim=64,
hidden_dim=256,
rank=16,
ltc_enabled=True,
base_plasticity=0.15,
)
""",
        "config.base_plasticity == 0.15 and config.input_dim == 64",
    ),
    "cell": (
        """
from dream import DREAMCell, DREAMConfig
config = DREAMConfig(input_dim=64, hidden_dim=128)
cell = DREAMCell(config)
""",
        "cell.get_config() is config",
    ),
    "cell.init_state": (
        "state = cell.init_state(batch_size=32, device='cpu')",
        "state.shape()['h'] == (32, 128)",
    ),
    "cell.forward": (
        """
x = torch.randn(32, 64) # (batch, input)
output, new_state = cell(x, state)
""",
        "output.shape == (32, 128) and torch.equal(new_state.h, output) and (state.h == 0).all()",
    ),
    "cell.forward_sequence": (
        """
x_seq = torch.randn(32, 50, 64) # (batch, time, input)
output, final_state = cell.forward_sequence(x_seq, state)
""",
        "output.shape == (32, 50, 128) and torch.equal(final_state.h, output[:, -1])",
    ),
    "layer": (
        """
from dream import DREAM
model = DREAM(
input_dim=64,
hidden_dim=128,
rank=8,
ltc_enabled=True
)
""",
        "model.get_config().rank == 8",
    ),
    "layer.init_state": (
        "state = model.init_state(batch_size=32, device='cpu')",
        "state.U.shape == (32, 128, 8)",
    ),
    "layer.forward": (
        """
# Return all timesteps
x = torch.randn(32, 50, 64)
output, state = model(x, return_sequences=True) # (32, 50, 128)
every = output
# Return only final output
output, state = model(x, return_sequences=False) # (32, 128)
""",
        "every.shape == (32, 50, 128) and output.shape == (32, 128)",
    ),
    "layer.forward_with_mask": (
        """
x = torch.randn(32, 100, 64) # padded
lengths = torch.tensor([45, 67, 89, *range(50, 79)]) # actual lengths
output, state = model.forward_with_mask(x, lengths)
""",
        "output.shape == (32, 100, 128) and (output[0, 45:] == 0).all() and (output[0, :45] != 0).all()",
    ),
    "stack": (
        """
from dream import DREAMStack
model = DREAMStack(
input_dim=64,
hidden_dims=[128, 128, 64], # 3 layers
rank=8,
dropout=0.1
)
""",
        "len(model.layers) == 3",
    ),
    "stack.forward": (
        """
x = torch.randn(32, 50, 64)
output, states = model(x)
# output: (32, 50, 64) - final layer output
# states: list of 3 DREAMState objects
""",
        "output.shape == (32, 50, 64) and len(states) == 3 and isinstance(states, list)",
    ),
    "state.detach": (
        """
# Process chunk
output, state = model(chunk, state)
# Detach for truncated BPTT
state = state.detach()
""",
        "output.requires_grad and not state.h.requires_grad and not state.U.requires_grad",
    ),
    "state.to": ("state = state.to('cpu')", "state.U.device.type == 'cpu'"),
    "state.shape": (
        """
shapes = state.shape()
# {'h': (32, 128), 'U': (32, 128, 8), ...}
""",
        "shapes['h'] == (32, 128) and shapes['U'] == (32, 128, 8) and len(shapes) == 7",
    ),
    "state components": (
        """
# Hidden state
hidden = state.h # (batch, hidden_dim)
# Fast weights
fast_weights = state.U # (batch, hidden_dim, rank)
# Average surprise (adaptation metric)
surprise = state.avg_surprise # (batch,)
# Error statistics
error_mean = state.error_mean # (batch, input_dim)
error_var = state.error_var # (batch, input_dim)
""",
        "[t.shape for t in (hidden, fast_weights, surprise, error_mean, error_var)]"
        " == [(32, 128), (32, 128, 8), (32,), (32, 64), (32, 64)]",
    ),
    "reset_parameters": (
        "before = model.cell.C.clone()\n"
        "model.apply(lambda m: m.reset_parameters() if hasattr(m, 'reset_parameters') else None)",
        "not torch.equal(model.cell.C, before)",
    ),
    "get_config": (
        "config = model.get_config()",
        "type(config).__name__ == 'DREAMConfig' and config.hidden_dim == 128",
    ),
    "exceptions": (
        """
from dream import DREAMError
try:
    model = DREAM(input_dim=-1) # Invalid dimension
except DREAMError as e:
    print(f"DREAM error: {e}")
    caught = str(e)
""",
        "'input_dim' in caught and '-1' in caught",
    ),
    "tuning: start with defaults": (
        """
config = DREAMConfig(
input_dim=64,
hidden_dim=256,
rank=16,
)
""",
        "config == DREAMConfig(input_dim=64)",
    ),
    "tuning: monitor": (
        """
# During training
print(f"Loss: {loss.item():.4f}")
print(f"Surprise: {state.avg_surprise.mean().item():.4f}")
print(f"U norm: {state.U.norm().item():.4f}")
""",
        "True",
    ),
}


@pytest.fixture
def names() -> dict[str, Any]:
    """Names that a reader of the guide has at hand by then."""
    layer = DREAM(input_dim=64, hidden_dim=128, rank=8)
    cell = DREAMCell(DREAMConfig(input_dim=64, hidden_dim=128))
    chunk = torch.randn(32, 2, 64)
    output, state = layer(chunk)
    return {
        "torch": torch,
        "DREAM": DREAM,
        "DREAMCell": DREAMCell,
        "DREAMConfig": DREAMConfig,
        "DREAMStack": DREAMStack,
        "cell": cell,
        "model": layer,
        "state": state.detach(),
        "chunk": chunk,
        "loss": output.square().mean(),
    }


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets(name: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    source, holds = SNIPPETS[name]
    if name.startswith("cell."):
        names["state"] = names["cell"].init_state(32)
    if name == "stack.forward":
        exec(SNIPPETS["stack"][0], names)
    exec(source, names)
    assert eval(holds, names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == source.count("print(")


def test_state_fields_and_their_shapes() -> None:
    hints = get_type_hints(DREAMState)
    expected = ["h", "U", "U_target", "adaptive_tau", "error_mean", "error_var", "avg_surprise"]
    assert list(hints) == expected
    assert set(hints.values()) == {torch.Tensor}


def test_type_aliases() -> None:
    assert dream.Tensor is torch.Tensor
    assert get_args(dream.DREAMOutput) == (torch.Tensor, DREAMState)


NONE = None
# callable: the guide's parameters with defaults (... for none)
SIGNATURES: dict[Any, dict[str, Any]] = {
    DREAMCell.__init__: {"config": ...},
    DREAMCell.init_state: {"batch_size": ..., "device": NONE, "dtype": NONE},
    DREAMCell.forward: {"x": ..., "state": ...},
    DREAMCell.forward_sequence: {"x_seq": ..., "state": ..., "return_all": True},
    DREAMCell.reset_parameters: {},
    DREAMCell.get_config: {},
    DREAM.__init__: {"input_dim": ..., "hidden_dim": ..., "rank": ...},
    DREAM.init_state: {"batch_size": ..., "device": NONE, "dtype": NONE},
    DREAM.forward: {"x": ..., "state": NONE, "return_sequences": True},
    DREAM.forward_with_mask: {"x": ..., "lengths": ..., "state": NONE},
    DREAM.reset_parameters: {},
    DREAM.get_config: {},
    DREAMStack.__init__: {"input_dim": ..., "hidden_dims": ..., "rank": ..., "dropout": ...},
    DREAMStack.forward: {"x": ..., "state": NONE},
    DREAMStack.forward_with_mask: {"x": ..., "lengths": ..., "state": NONE},
    DREAMState.detach: {},
    DREAMState.to: {"device": ...},
    DREAMState.shape: {},
    # the issue's own
    DREAMCell.predict_next: {"state": ...},
    DREAMCell.consolidate: {"state": ..., "steps": 1},
    DREAMState.reset: {"mask": ..., "fresh": ...},
    DREAMState.save: {"path": ..., "config": ...},
    DREAMState.load: {"path": ..., "config": ...},
    dream.dream_step: {"x": ..., "state": ..., "params": ..., "config": ..., "timespans": NONE},
    dream.dream_scan: {
        "x": ...,
        "state": ...,
        "params": ...,
        "config": ...,
        "timespans": NONE,
        "lengths": NONE,
        "backend": "auto",
    },
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures(function: Any) -> None:
    """The guide's parameters come first, by its names, in its order, with its defaults; whatever else is
    optional."""
    parameters = {
        name: p for name, p in inspect.signature(function).parameters.items() if name not in ("self", "cls")
    }
    expected = SIGNATURES[function]
    assert list(parameters)[: len(expected)] == list(expected)
    for name, default in expected.items():
        assert parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert default is ... or parameters[name].default == default, name
    for name, parameter in list(parameters.items())[len(expected) :]:
        optional = parameter.default is not inspect.Parameter.empty
        assert optional or parameter.kind is inspect.Parameter.VAR_KEYWORD, name


@pytest.mark.parametrize("kind", [DREAM, DREAMStack])
def test_constructors_have_the_defaults_of_the_config(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    for name in ("input_dim", "rank", *(["hidden_dim"] if kind is DREAM else [])):
        assert parameters[name].default == getattr(DREAMConfig(), name)
    assert any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    assert all(issubclass(kind, torch.nn.Module) for kind in (DREAM, DREAMCell, DREAMStack))
