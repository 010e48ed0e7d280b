"""One step of a layer as a function of tensors alone, and the files that hold it: a torch program, or ONNX.

The step is exported with its state as input and output, so that fast weights and statistics go on learning
wherever the file runs. Neither kind of file needs this package.

Shapes: N samples, I `input_dim`, H `hidden_dim`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from io import BufferedRandom
from typing import Any

import torch
from torch import Tensor, nn

from dream import functional as F
from dream.cell import DREAMCell
from dream.errors import CheckpointError, ConfigError
from dream.files import atomic
from dream.layer import DREAM
from dream.numerics import full_precision
from dream.stack import DREAMStack
from dream.state import DREAMState
from dream.types import DREAMParams

METADATA = "dream"
"""Key of a file's metadata, under which `Step.about` stands as JSON."""
SAMPLES = 3  # with which a program is traced; N stays free


class Step(nn.Module):
    """One step of a layer or a stack as it is now: its parameters are constants, the filter V by its value.

    What is called needs no class of this package: the state is a dictionary of tensors. No value is checked;
    NaN in x spreads into the state, unless the layer has ``missing=True``.

    Args:
        layer: What is copied; it may change or go afterwards.
        timespans: Whether a step takes the time since the previous one.

    Attributes:
        inputs: Names of the tensors that it takes, in order.
        outputs: Names of the tensors that it returns, in order; those of the new state begin with ``next_``.

    Raises:
        ConfigError: `layer` is neither a DREAM nor a DREAMStack.

    Example:
        >>> one = step(DREAM(4, 8, 2))
        >>> results, state = one(torch.zeros(1, 4), one.init_state(1))
        >>> results["forecast"].shape
        torch.Size([1, 4])
    """

    def __init__(self, layer: DREAM | DREAMStack, *, timespans: bool = False) -> None:
        super().__init__()
        if not isinstance(layer, DREAM | DREAMStack):
            raise ConfigError(
                f"`layer` must be a DREAM or a DREAMStack; got {type(layer).__name__}. Give the layer inside."
            )
        layers = (
            [layer] if isinstance(layer, DREAM) else [one for one in layer.layers if isinstance(one, DREAM)]
        )
        self.timespans = timespans
        self.cells = nn.ModuleList(_Cell(one.cell) for one in layers)
        places = [""] if isinstance(layer, DREAM) else [f"_{k}" for k in range(len(layers))]
        self._fields = [[f"{name}{place}" for name in DREAMState.__dataclass_fields__] for place in places]
        fields = [name for one in self._fields for name in one]
        self.inputs = ("x", *fields, *(("timespans",) if timespans else ()))
        self.outputs = ("output", "forecast", *(f"next_{name}" for name in fields))

    def init_state(self, batch_size: int) -> dict[str, Tensor]:
        """The state of `batch_size` samples that have seen nothing.

        Raises:
            StateError: `batch_size` is not a positive integer.
        """
        return {
            name: part
            for names, cell in zip(self._fields, self._cells(), strict=True)
            for name, part in zip(names, cell.init_state(batch_size), strict=True)
        }

    def forward(
        self, x: Tensor, state: dict[str, Tensor], timespans: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step.

        Args:
            x: (N, I), input, in units of the data.
            state: N samples, by the names of `init_state`; for a stack those of layer k end in ``_k``.
            timespans: (N,), time since the previous step, in steps; 1 if None.

        Returns:
            results: ``output`` (N, H) and ``forecast`` (N, I), the input that is expected next.
            new_state: the state after the step, by the same names.
        """
        new, forecast = {}, None
        for names, cell in zip(self._fields, self._cells(), strict=True):
            after, expected = cell(x, DREAMState(*(state[name] for name in names)), timespans)
            new.update(zip(names, after, strict=True))
            forecast = expected if forecast is None else forecast
            x = after.h
        assert forecast is not None
        return {"output": x, "forecast": forecast}, new

    def about(self) -> dict[str, Any]:
        """What a file says of itself: names, dtype, configurations, and of each field of the state the shape
        of a sample and the value that a fresh one starts from.
        """
        start = self.init_state(1)
        return {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "dtype": str(start["h" if "h" in start else "h_0"].dtype).removeprefix("torch."),
            "state": {
                name: {"shape": list(part.shape[1:]), "start": _start(name, part[0])}
                for name, part in start.items()
            },
            "config": [asdict(cell.config) for cell in self._cells()],
        }

    def _cells(self) -> list[_Cell]:
        return [cell for cell in self.cells if isinstance(cell, _Cell)]


def step(layer: DREAM | DREAMStack, *, timespans: bool = False) -> Step:
    """Return one step of a layer as a function of tensors alone; see `Step`."""
    return Step(layer, timespans=timespans)


def program(one: Step) -> torch.export.ExportedProgram:
    """Trace a step for any number of samples."""
    state = one.init_state(SAMPLES)
    x = next(iter(state.values())).new_zeros(SAMPLES, one._cells()[0].config.input_dim)
    samples = {0: torch.export.Dim("N", min=1)}
    arguments: list[Any] = [x, state]
    shapes: list[Any] = [samples, dict.fromkeys(state, samples)]
    if one.timespans:
        arguments.append(x.new_ones(SAMPLES))
        shapes.append(samples)
    with torch.no_grad():
        return torch.export.export(one, tuple(arguments), dynamic_shapes=tuple(shapes), strict=False)


def to_torch(one: Step, path: str | os.PathLike[str]) -> None:
    """Write a step as a torch program, which ``torch.export.load(path).module()`` calls as `Step` is called.

    `Step.about` stands in it as JSON, the extra file `METADATA`. An old file is replaced whole.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    with _written(path) as file:
        torch.export.save(program(one), file, extra_files={METADATA: json.dumps(one.about())})


def to_onnx(one: Step, path: str | os.PathLike[str]) -> None:
    """Write a step as ONNX, whose inputs and outputs have the names of `Step.inputs` and `Step.outputs`.

    `Step.about` stands in its metadata as JSON, under the key `METADATA`. An old file is replaced whole.

    Raises:
        ConfigError: the packages that write ONNX are not installed.
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"ONNX needs the packages onnx and onnxscript; {' and '.join(lacking)} cannot be imported. "
            "Install them with pip install 'dream-memory[export]'."
        )
    with _written(path) as file:
        made = torch.onnx.export(
            program(one), dynamo=True, input_names=one.inputs, output_names=one.outputs, verbose=False
        )
        assert made is not None
        made.model.metadata_props[METADATA] = json.dumps(one.about())
        file.write(made.model_proto.SerializeToString())


class _Cell(nn.Module):
    """The equations of one step with the effective parameters of a cell, as buffers."""

    def __init__(self, cell: DREAMCell) -> None:
        super().__init__()
        self.config, self.missing, self.plasticity = cell.config, cell.missing, cell.plasticity_enabled
        for name, value in zip(DREAMParams._fields, cell.params(), strict=True):
            self.register_buffer(name, value.detach().clone())

    def init_state(self, batch_size: int) -> DREAMState:
        return DREAMState.fresh(self.config, batch_size, self.get_buffer("error_var_prior"))

    def forward(self, x: Tensor, state: DREAMState, timespans: Tensor | None) -> tuple[DREAMState, Tensor]:
        params = DREAMParams(*(self.get_buffer(name) for name in DREAMParams._fields))
        with full_precision(x.device.type):
            seen = F.read_input(x, params, self.config, timespans, self.missing)
            new = F.advance(seen, state, params, self.config, self.plasticity).state
            return new, F.predict_next(new, params, self.config)


def _start(name: str, fresh: Tensor) -> float | list[float]:
    """The value of a fresh field, which all its places share but those of the error variance."""
    values: list[float] = fresh.flatten().tolist()
    return values if name.startswith("error_var") else values[0]


@contextmanager
def _written(path: str | os.PathLike[str]) -> Iterator[BufferedRandom]:
    """Open a file as `dream.files.atomic` does, before anything is computed for it."""
    try:
        with atomic(path) as file:
            yield file
    except OSError as error:
        raise CheckpointError(
            f"`path` must be a file that can be written; {os.fspath(path)}: {error.strerror}. Use another "
            "name, or make its folder."
        ) from None
