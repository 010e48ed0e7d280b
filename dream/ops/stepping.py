"""`Stepper`: one step after another of a few samples by the compiled kernel, without torch in between.

The kernel takes some microseconds for a step of one sample, and the tensors around it ten times as long. Here
the weights are made ready once, and a state is one array.

Shapes: N samples, I `input_dim`, H `hidden_dim`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from dream import checks
from dream.config import DREAMConfig
from dream.ops import native
from dream.ops.cpu import STATE, single_steps
from dream.state import DREAMState
from dream.types import DREAMTrace

SEEN = ("error", "surprise", "deviation", "u_norm", "prediction")
"""Parts of an array after the state; the prediction is followed by the forecast."""


class Stepper:
    """Steps of N samples on the CPU, without gradients; the weights do not change meanwhile.

    A step takes and returns an array (N, ...): for each sample the fields of `DREAMState` one after another,
    then what was seen. It never changes one that it took or returned, and one object is to be used by one
    thread at a time.

    Each sample is a call of its own, so that its numbers are the same to the last bit at any N and place.

    Args:
        learned: Parameters as `dream.ops.registry.StepFunction` takes them.
        sources: The tensors that they are or were computed from, which tell whether they have changed.
        config: The knobs.
        samples: N at most.
        plasticity: Whether the fast weights learn.
        missing: NaN in x was not observed.
    """

    def __init__(
        self,
        learned: Sequence[Tensor | None],
        sources: Sequence[Tensor],
        config: DREAMConfig,
        samples: int,
        plasticity: bool,
        missing: bool,
    ) -> None:
        like = sources[0]
        checks.parameters(learned, config, like)
        kernel = native.kernel()
        assert isinstance(kernel, native.Kernel), kernel  # the backend's `refusal` comes first
        self.samples = samples
        self.dtype = np.dtype(np.float32 if like.dtype == torch.float32 else np.float64)
        self._torch_dtype = like.dtype
        self._kernel = kernel
        self._sources = list(sources)
        self._before = self._key()
        # `_held` keeps the parameters that `_scan` points to
        self._scan, self._held = single_steps(kernel, learned, config, plasticity, missing, forecasts=True)
        inputs = config.input_dim
        alone = {name: shape[1:] for name, shape in DREAMState.shapes(config, 1).items()}
        self._shapes: dict[str, tuple[int, ...]] = alone | {
            "error": (inputs,),
            **dict.fromkeys(("surprise", "deviation", "u_norm"), ()),
            "prediction": (2, inputs),
        }
        """Shape of each part of a sample."""
        ends = list(accumulate(map(math.prod, self._shapes.values())))
        self._slices = {
            name: slice(start, stop)
            for name, start, stop in zip(self._shapes, [0, *ends], ends, strict=False)
        }
        self._size = ends[-1]
        x = self.x = np.zeros((samples, inputs), self.dtype)
        """(samples, I) input of the next step, whose first N rows are to be filled in; NaN where it was not
        observed."""
        self._x_at = x.ctypes.data
        self._scan.x_sample = self._scan.x_step = inputs
        # every field has 8 bytes, so that pointers to the parts of an array are set all at once
        self._words = np.frombuffer(memoryview(self._scan), np.int64)
        names = [name for name, *_ in self._scan._fields_]
        offsets = {name: part.start * self.dtype.itemsize for name, part in self._slices.items()}
        self._takes = np.array([names.index(name) for name in STATE])
        self._takes_from = np.array([offsets[name] for name in STATE])
        gives = {f"{name}_": offsets[name] for name in STATE} | {name: offsets[name] for name in SEEN}
        gives["output"] = offsets["h"]
        self._gives = np.array([names.index(name) for name in gives])
        self._gives_from = np.array(list(gives.values()))

    def _key(self) -> list[tuple[int, int]]:
        return [(part.data_ptr(), 0 if part.is_inference() else part._version) for part in self._sources]

    @property
    def stale(self) -> bool:
        """Whether the weights have changed, so that another object must be made."""
        return self._key() != self._before

    def __call__(self, before: np.ndarray) -> np.ndarray:
        """Take the step that `x` leads to from a state.

        Raises:
            MemoryError: there is not enough for the working copies of the weights.
        """
        after = np.empty((len(before), self._size), self.dtype)
        takes, gives, x, stride = before.ctypes.data, after.ctypes.data, self._x_at, after.strides[0]
        for sample in range(len(before)):
            self._scan.x = x + sample * self.x.strides[0]
            self._words[self._takes] = self._takes_from + (takes + sample * stride)
            self._words[self._gives] = self._gives_from + (gives + sample * stride)
            self._kernel.forward(self._scan, self._torch_dtype)
        return after

    def output(self, after: np.ndarray) -> np.ndarray:
        """(N, H) of a step."""
        return self.part(after, "h")

    def forecast(self, after: np.ndarray) -> np.ndarray:
        """(N, I) of the input after a step."""
        forecast: np.ndarray = self.part(after, "prediction")[:, 1]
        return forecast

    def place(self, name: str) -> int:
        """Column of an array in which a part begins."""
        return self._slices[name].start

    def part(self, after: np.ndarray, name: str) -> np.ndarray:
        """(N, ...) of a step: a field of the state, or what was seen."""
        return after[:, self._slices[name]].reshape(len(after), *self._shapes[name])

    def trace(self, after: np.ndarray) -> DREAMTrace:
        """Trace of a step as one of a sequence, (N, 1, ...)."""
        parts = {name: torch.from_numpy(self.part(after, name)) for name in SEEN}
        prediction, forecast = parts.pop("prediction").unbind(1)
        parts |= {"prediction": prediction, "forecast": forecast}
        return DREAMTrace(**{name: part.unsqueeze(1) for name, part in parts.items()})

    def start(self, state: DREAMState) -> np.ndarray:
        """The array of a state, as after a step."""
        before = np.zeros((state.batch_size, self._size), self.dtype)
        for name, part in state.items():
            before[:, self._slices[name]] = (
                part.detach().numpy().reshape(len(before), math.prod(part.shape[1:]))
            )
        return before

    def state(self, after: np.ndarray) -> DREAMState:
        """The state after a step, which shares the array's memory."""
        return DREAMState(**{name: torch.from_numpy(self.part(after, name)) for name in STATE})
