"""One step of a layer as a function of tensors alone, and the files that hold it: a torch program, or ONNX.

The step is exported with its state as input and output, so that fast weights and statistics go on learning
wherever the file runs. Neither kind of file needs this package.

Shapes: N samples, I `input_dim`, H `hidden_dim`.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from io import BufferedRandom
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dream.cell import DREAMCell
from dream.errors import CheckpointError, ConfigError
from dream.files import atomic
from dream.layer import DREAM
from dream.stack import DREAMStack
from dream.state import DREAMState
from dream.types import DREAMParams

Module = TypeVar("Module", bound=nn.Module)
METADATA = "dream"
"""Key of a file's metadata, under which `Step.about` stands as JSON."""
SAMPLES = 3  # with which a program is traced; N stays free


class Step(nn.Module, ABC):
    """One step as a function of tensors alone: what a file can hold.

    What is called needs no class of this package: the state is a dictionary of tensors, with N samples first.
    No value is checked.

    Attributes:
        inputs: Names of the tensors that it takes, in order: ``x``, the fields of the state, others.
        outputs: Names of the tensors that it returns, in order: its results, then the fields of the new
            state, which begin with ``next_``.
        facts: More that a file says of itself, plain values by name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    facts: dict[str, Any]

    @abstractmethod
    def init_state(self, batch_size: int) -> dict[str, Tensor]:
        """The state of `batch_size` samples that a file's user starts from."""

    @abstractmethod
    def example(self, batch_size: int) -> list[Tensor]:
        """``x``, then what comes after the state, for so many samples: shapes and dtypes to trace with."""

    def about(self) -> dict[str, Any]:
        """Return what a file says of itself: names, dtype of ``x``, facts, and of each field of the state the
        dtype, the shape of a sample, and the value that it starts from: one number if all its places share
        it, None for NaN.
        """
        state = self.init_state(1).items()
        return {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "dtype": _dtype(self.example(1)[0]),
            "state": {
                name: {"shape": list(part.shape[1:]), "dtype": _dtype(part), "start": _start(part[0])}
                for name, part in state
            },
            **self.facts,
        }


class LayerStep(Step):
    """One step of a layer or a stack as it is now: its parameters are constants, the filter V by its value.

    NaN in x spreads into the state, unless the layer has ``missing=True``.

    Args:
        layer: What is copied; it may change or go afterwards.
        timespans: Whether a step takes the time since the previous one.

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
        self.outputs = ("output", "forecast", *next_(fields))
        self.facts = {"config": [asdict(one.cell.config) for one in layers]}

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

    def example(self, batch_size: int) -> list[Tensor]:
        cell = self._cells()[0]
        x = cell.error_var_prior.new_zeros(batch_size, cell.config.input_dim)
        return [x, *([x.new_ones(batch_size)] if self.timespans else [])]

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
        new: dict[str, Tensor] = {}
        forecast = None
        for names, cell in zip(self._fields, self._cells(), strict=True):
            x, after = cell(x, DREAMState(*(state[name] for name in names)), timespans)
            new.update(zip(names, after, strict=True))
            forecast = cell.predict_next(after) if forecast is None else forecast
        assert forecast is not None
        return {"output": x, "forecast": forecast}, new

    def _cells(self) -> list[_Cell]:
        return [cell for cell in self.cells if isinstance(cell, _Cell)]


def step(layer: DREAM | DREAMStack, *, timespans: bool = False) -> LayerStep:
    """Return one step of a layer as a function of tensors alone; see `LayerStep`."""
    return LayerStep(layer, timespans=timespans)


def constant(module: Module) -> Module:
    """Return a copy of `module`, in inference, whose layers have their parameters as constants, V by its
    value: what a `Step` of a larger model is built of."""
    new = copy.deepcopy(module).eval().requires_grad_(False)
    for part in list(new.modules()):
        if isinstance(part, DREAM):
            part.cell = _Cell(part.cell)
    return new


def next_(fields: Iterable[str]) -> list[str]:
    """Names of the new state's fields among the outputs of a step."""
    return [f"next_{name}" for name in fields]


def program(one: Step) -> torch.export.ExportedProgram:
    """Trace a step for any number of samples."""
    state, (x, *others) = one.init_state(SAMPLES), one.example(SAMPLES)
    samples = {0: torch.export.Dim("N", min=1)}
    shapes = (samples, dict.fromkeys(state, samples), *(samples for _ in others))
    with torch.no_grad():
        return torch.export.export(one, (x, state, *others), dynamic_shapes=shapes, strict=False)


def to_torch(one: Step, path: str | os.PathLike[str]) -> None:
    """Write a step as a torch program, which ``torch.export.load(path).module()`` calls as `Step` is called.

    `Step.about` stands in it as JSON, the extra file `METADATA`. An old file is replaced whole.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    with _written(path) as file, _quiet():
        torch.export.save(program(one), file, extra_files={METADATA: _metadata(one)})


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
    with _written(path) as file, _quiet():
        made = torch.onnx.export(
            program(one), dynamo=True, input_names=one.inputs, output_names=one.outputs, verbose=False
        )
        assert made is not None
        made.model.metadata_props[METADATA] = _metadata(one)
        file.write(made.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without what torch and the writers of ONNX say of themselves: packages that they do without,
    calls that they deprecate."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class _Cell(DREAMCell):
    """A cell whose effective parameters are constants, as buffers."""

    def __init__(self, cell: DREAMCell) -> None:
        nn.Module.__init__(self)
        self.config, self.missing, self.plasticity_enabled = (
            cell.config,
            cell.missing,
            cell.plasticity_enabled,
        )
        self.backend, self.check_inputs = "reference", False
        for name, value in zip(DREAMParams._fields, cell.params(), strict=True):
            self.register_buffer(name, value.detach().clone())
        self.eval()

    def params(self) -> DREAMParams:
        return DREAMParams(*(self.get_buffer(name) for name in DREAMParams._fields))


def _metadata(one: Step) -> str:
    return json.dumps(one.about(), allow_nan=False)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _start(field: Tensor) -> Any:
    """The value of a field that all its places share, or else a nested list; None for NaN."""
    values, one = field.flatten(), field.flatten()[:1]
    shared = bool(((values == one) | (values.isnan() & one.isnan())).all())
    return _plain(one.item() if shared else field.tolist())


def _plain(value: Any) -> Any:
    """A number or nested list of numbers with None for NaN, which JSON does not have."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value != value else value


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
