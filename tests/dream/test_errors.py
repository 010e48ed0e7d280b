"""Bad tensors given to cell, layer, stack and functions: which error, and a message with argument, expected,
got, remedy."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dream import (
    DREAM,
    DataError,
    DREAMCell,
    DREAMError,
    DREAMParams,
    DREAMStack,
    DREAMState,
    ShapeError,
    StateError,
    dream_scan,
    dream_step,
)
from tests.dream.support import F32, F64, modules, small

N, T = 4, 6


def scan(config: Any, params: DREAMParams, x: Tensor, state: Any = None, **kwargs: Any) -> Any:
    state = DREAMCell(config).init_state(N) if state is None else state
    return dream_scan(x, state, params, config, **kwargs)


@functools.cache
def sequence_calls(half: torch.dtype | None = None) -> dict[str, Callable[..., Any]]:
    """Everything that takes (N, T, 3), with keywords state, lengths and timespans; float32 unless told."""
    made = {name: module.to(half or F32) for name, module in modules().items()}
    params = made["cell"].params()
    return {
        "cell": made["cell"].scan,
        "layer": made["layer"].trace,
        "stack": lambda x, state=None, **kw: made["stack"].trace(
            x, state=None if state is None else [state] * 2, **kw
        ),
        "scan": lambda x, state=None, **kw: scan(small(), params, x, state, **kw),
    }


def fresh(rows: int = N, **changes: Any) -> DREAMState:
    return DREAMCell(small(**changes)).init_state(rows)


def good(*shape: int) -> Tensor:
    return torch.randn(shape or (N, T, 3))


def spoiled(value: float, row: int = 2, step: int = 3) -> Tensor:
    x = good()
    x[row, step, 1] = value
    return x


def spans(value: float) -> Tensor:
    span = torch.ones(N, T)
    span[1, 4] = value
    return span


X_SHAPE = r"`x` must be \(batch, time, 3\).*; got "
# name: (error, arguments, argument-expected-got, remedy)
CASES: dict[str, tuple[type[DREAMError], dict[str, Any], str, str]] = {
    "no batch, many states": (
        StateError,
        dict(x=good(N, 3), state=fresh(N)),
        r"`state` must be of 1 sample where `x` has no batch axis; got 4, and `x` \(4, 3\)",
        r"x\.unsqueeze\(1\)",
    ),
    "1 dimension": (ShapeError, dict(x=good(3)), X_SHAPE + r"\(3,\)\.", r"[Bb]atch comes first"),
    "4 dimensions": (
        ShapeError,
        dict(x=good(N, T, 3, 1)),
        X_SHAPE + r"\(4, 6, 3, 1\)\.",
        r"[Bb]atch comes first",
    ),
    "features": (ShapeError, dict(x=good(N, T, 5)), X_SHAPE + r"\(4, 6, 5\)", r"input_dim=5"),
    "integers": (
        DataError,
        dict(x=torch.ones(N, T, 3).long()),
        r"`x` must be floating; got torch\.int64",
        r"x\.to\(torch\.float32\)",
    ),
    "booleans": (
        DataError,
        dict(x=torch.ones(N, T, 3).bool()),
        r"`x` must be floating; got torch\.bool",
        r"x\.to\(torch\.float32\)",
    ),
    "complex": (
        DataError,
        dict(x=good().to(torch.complex64)),
        r"`x` must be floating; got torch\.complex64",
        r"x\.to\(",
    ),
    "float64": (
        DataError,
        dict(x=good().double()),
        r"`x` must have .*torch\.float32; got torch\.float64",
        r"x\.to\(torch\.float32\)",
    ),
    "bfloat16": (
        DataError,
        dict(x=good().bfloat16()),
        r"`x` must have .*torch\.float32; got torch\.bfloat16",
        r"x\.to\(",
    ),
    "device": (DataError, dict(x=good().to("meta")), r"`x` must be on .*cpu; got meta", r"x\.to\('cpu'\)"),
    "lengths below": (
        DataError,
        dict(lengths=torch.tensor([6, 0, -2, 1])),
        r"`lengths` must lie between 0 and 6.*; got -2",
        r"Count the valid steps",
    ),
    "lengths above": (
        DataError,
        dict(lengths=torch.tensor([6, 7, 1, 1])),
        r"`lengths` must lie between 0 and 6.*; got 7",
        r"pad `x`",
    ),
    "lengths shape": (
        ShapeError,
        dict(lengths=torch.tensor([6, 1])),
        r"`lengths` must be \(4,\).*; got \(2,\)",
        r"\. [A-Z]\w+ ",
    ),
    "lengths column": (
        ShapeError,
        dict(lengths=torch.ones(N, 1).long()),
        r"`lengths` must be \(4,\).*; got \(4, 1\)",
        r"\. [A-Z]\w+ ",
    ),
    "lengths floats": (
        DataError,
        dict(lengths=torch.ones(N)),
        r"`lengths` must be integers; got torch\.float32",
        r"lengths\.long\(\)",
    ),
    "lengths mask": (
        DataError,
        dict(lengths=torch.ones(N).bool()),
        r"`lengths` must be integers; got torch\.bool",
        r"Use ",
    ),
    "spans shape": (
        ShapeError,
        dict(timespans=torch.ones(N)),
        r"`timespans` must be \(4, 6\).*; got \(4,\)",
        r"\. [A-Z]\w+ ",
    ),
    "spans dtype": (
        DataError,
        dict(timespans=torch.ones(N, T).double()),
        r"`timespans` must be torch\.float32.*; got torch\.float64",
        r"\.to\(",
    ),
    "spans integers": (
        DataError,
        dict(timespans=torch.ones(N, T).long()),
        r"`timespans` must be torch\.float32.*; got torch\.int64",
        r"\.to\(",
    ),
    "state rows": (
        StateError,
        dict(state=fresh(2)),
        r"`state\.h` must be \(4, 5\).*; got \(2, 5\)",
        r"init_state\(4\).*state\[rows\]",
    ),
    "state dtype": (
        StateError,
        dict(state=fresh().to(dtype=F64)),
        r"`state\.h` must be .*float32.*; got .*float64",
        r"state\.to\(",
    ),
    "state device": (
        StateError,
        dict(state=fresh().to("meta")),
        r"`state\.h` must be .*cpu; got .*meta",
        r"state\.to\(",
    ),
    "state width": (
        StateError,
        dict(state=fresh(hidden_dim=6)),
        r"`state\.h` must be \(4, 5\).*; got \(4, 6\)",
        r"init_state",
    ),
    "state rank": (
        StateError,
        dict(state=fresh(rank=3)),
        r"`state\.U` must be \(4, 5, 2\).*; got \(4, 5, 3\)",
        r"init_state",
    ),
}
VALUES: dict[str, tuple[dict[str, Any], str, str]] = {
    "nan": (dict(x=spoiled(torch.nan)), r"`x` must be finite; 1 of 24 .*row 2, step 3", r"Fill or drop"),
    "inf": (dict(x=spoiled(torch.inf)), r"`x` must be finite; 1 of 24 .*row 2, step 3", r"Fill or drop"),
    "-inf": (dict(x=spoiled(-torch.inf)), r"`x` must be finite; 1 of 24 .*row 2, step 3", r"Fill or drop"),
    "span 0": (
        dict(timespans=spans(0.0)),
        r"`timespans` must be finite and positive; 1 of 24 .*row 1, step 4",
        r"Fill or drop",
    ),
    "span -1": (
        dict(timespans=spans(-1.0)),
        r"`timespans` must be finite and positive.*row 1, step 4",
        r"Fill or drop",
    ),
    "span nan": (
        dict(timespans=spans(torch.nan)),
        r"`timespans` must be finite and positive.*row 1, step 4",
        r"Fill or drop",
    ),
    "span inf": (
        dict(timespans=spans(torch.inf)),
        r"`timespans` must be finite and positive.*row 1, step 4",
        r"Fill or drop",
    ),
}


def assert_message(error: BaseException, stated: str, remedy: str) -> None:
    message = str(error)
    found = re.search(stated, message)
    assert found, message
    assert re.search(remedy, message[found.end() - 1 :]), f"no remedy: {message}"


@pytest.mark.parametrize("call", ["cell", "layer", "stack", "scan"])
@pytest.mark.parametrize("case", CASES)
def test_sequences(case: str, call: str) -> None:
    kind, arguments, stated, remedy = CASES[case]
    if call == "stack" and case == "state width":
        stated = r"`state\.h` must be .*; got \(4, 6\)"
    with pytest.raises(kind) as caught:
        sequence_calls()[call](**{"x": good(), **arguments})
    assert_message(caught.value, stated, remedy)
    assert isinstance(caught.value, DREAMError)


@pytest.mark.parametrize("call", ["cell", "layer", "stack"])
@pytest.mark.parametrize("case", VALUES)
def test_values(case: str, call: str) -> None:
    arguments, stated, remedy = VALUES[case]
    with pytest.raises(DataError) as caught:
        sequence_calls()[call](**{"x": good(), **arguments})
    assert_message(caught.value, stated, remedy)


@pytest.mark.parametrize("call", ["cell", "layer", "stack"])
def test_values_in_the_padding_are_nobodys_business(call: str) -> None:
    lengths = torch.tensor([6, 4, 3, 1])
    output = sequence_calls()[call](spoiled(torch.nan), lengths=lengths, timespans=spans(-1.0))[0]
    assert output.isfinite().all()
    with pytest.raises(DataError, match="row 2, step 2"):
        sequence_calls()[call](spoiled(torch.nan, step=2), lengths=lengths)


STEPS: dict[str, tuple[type[DREAMError], dict[str, Any], str, str]] = {
    "time axis": (
        ShapeError,
        dict(x=good()),
        r"`x` must be \(batch, 3\); got \(4, 6, 3\)",
        r"Remove the time axis",
    ),
    "features": (ShapeError, dict(x=good(N, 2)), r"`x` must be \(batch, 3\); got \(4, 2\)", r"input_dim=2"),
    "integers": (
        DataError,
        dict(x=torch.ones(N, 3).long()),
        r"`x` must be floating; got torch\.int64",
        r"x\.to\(",
    ),
    "float64": (DataError, dict(x=good(N, 3).double()), r"`x` must have .*; got torch\.float64", r"x\.to\("),
    "spans shape": (
        ShapeError,
        dict(timespans=torch.ones(N, 1)),
        r"`timespans` must be \(4,\).*; got \(4, 1\)",
        r"\. [A-Z]\w+ ",
    ),
    "state rows": (
        StateError,
        dict(state=fresh(2)),
        r"`state\.h` must be \(4, 5\).*; got \(2, 5\)",
        r"init_state\(4\)",
    ),
    "state dtype": (
        StateError,
        dict(state=fresh().to(dtype=F64)),
        r"`state\.h` must be .*; got .*float64",
        r"state\.to\(",
    ),
}


@pytest.mark.parametrize("call", ["cell", "step"])
@pytest.mark.parametrize("case", STEPS)
def test_single_steps(case: str, call: str) -> None:
    kind, arguments, stated, remedy = STEPS[case]
    cell = DREAMCell(small())
    given = {"x": good(N, 3), "state": fresh(), **arguments}
    with pytest.raises(kind) as caught:
        cell(**given) if call == "cell" else dream_step(**given, params=cell.params(), config=small())
    assert_message(caught.value, stated, remedy)


@pytest.mark.parametrize(
    ("x", "span", "stated"),
    [
        (torch.nan, 1.0, r"`x` must be finite; 1 of 4 .*row 2"),
        (torch.inf, 1.0, r"`x` must be finite; 1 of 4 .*row 2"),
        (0.0, 0.0, r"`timespans` must be finite and positive; 1 of 4 .*row 1"),
        (0.0, torch.nan, r"`timespans` must be finite and positive; 1 of 4 .*row 1"),
    ],
)
def test_values_in_single_steps(x: float, span: float, stated: str) -> None:
    inputs, timespans = good(N, 3), torch.ones(N)
    inputs[2, 0], timespans[1] = x, span
    with pytest.raises(DataError) as caught:
        DREAMCell(small())(inputs, fresh(), timespans)
    assert_message(caught.value, stated, "Fill or drop")
    DREAMCell(small(), check_inputs=False)(inputs, fresh(), timespans)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", ["cell", "layer", "stack", "scan"])
def test_half_precision_parameters(call: str, half: torch.dtype) -> None:
    for x in (good(), good().to(half)):
        with pytest.raises(DataError) as caught:
            sequence_calls(half)[call](x)
        assert_message(
            caught.value,
            rf"parameters must be float32 or float64; got {half}",
            r"\.float\(\) and torch\.autocast",
        )


def test_checking_values_can_be_switched_off() -> None:
    bad = spoiled(torch.nan)
    for module in (DREAM(3, 5, 2, check_inputs=False), DREAMStack(3, [5, 4], 2, check_inputs=False)):
        output, _ = module(bad)
        assert output[2, 4:].isnan().all()
        assert output[:2].isfinite().all()
        with pytest.raises(ShapeError):  # shapes are checked all the same
            module(good(3))
    assert DREAMCell(small(), check_inputs=False).forward_sequence(bad)[0].isnan().any()
