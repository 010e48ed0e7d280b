"""`DREAMState`: everything that a DREAM layer carries from one step to the next, and its shapes.

Shapes: N samples, H `hidden_dim`, R `rank`, I `input_dim`.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dream.config import DREAMConfig
from dream.errors import CheckpointError, DREAMError, DREAMWarning, StateError
from dream.numerics import largest
from dream.sealed import read_sealed, write_sealed

KIND = {"format": "dream-state", "version": "3"}  # 1 had no checksum, 2 was of the first edition of the cell


@dataclass(eq=False, init=False)
class DREAMState:
    """State of a DREAM layer, one row of every tensor for each sample.

    Every method returns a new state; none changes this one. Registered with torch's pytrees and with
    ``torch.load(weights_only=True)``.

    Attributes:
        h: (N, H), hidden state; in [-1, 1].
        U: (N, H, R), fast weights.
        U_target: (N, H, R), what U decays to.
        adaptive_tau: (N,), habituated surprise threshold, in usual deviations; > 0.
        error_mean: (N, I), running mean of the prediction error, in units of the data.
        error_var: (N, I), its running variance, in squared units; >= 0, where a stream rests it reaches 0.
        avg_surprise: (N,), running mean of the surprise, in [0, 1).
    """

    h: Tensor
    U: Tensor
    U_target: Tensor
    adaptive_tau: Tensor
    error_mean: Tensor
    error_var: Tensor
    avg_surprise: Tensor

    def __init__(
        self,
        h: Tensor | Iterable[Tensor],
        U: Tensor | None = None,
        U_target: Tensor | None = None,
        adaptive_tau: Tensor | None = None,
        error_mean: Tensor | None = None,
        error_var: Tensor | None = None,
        avg_surprise: Tensor | None = None,
    ) -> None:
        """Take seven tensors, or one iterable of them, as `torch.nn.parallel.gather` passes."""
        given = (h, U, U_target, adaptive_tau, error_mean, error_var, avg_surprise)
        tensors = given if isinstance(h, Tensor) or not isinstance(h, Iterable) else tuple(h)
        if len(tensors) != len(given) or not all(isinstance(tensor, Tensor) for tensor in tensors):
            names = ", ".join(field.name for field in dataclasses.fields(self))
            raise StateError(
                f"`DREAMState` needs seven tensors: {names}. init_state(batch_size) makes a fresh state."
            )
        self.h, self.U, self.U_target = tensors[:3]
        self.adaptive_tau, self.error_mean, self.error_var, self.avg_surprise = tensors[3:]

    @classmethod
    def fresh(cls, config: DREAMConfig, batch_size: int, error_var: Tensor) -> DREAMState:
        """State of `batch_size` samples that have seen nothing.

        Dtype and device are those of `error_var` (I,), the error variance expected.

        Raises:
            StateError: `batch_size` is not an integer from 0.
        """
        if not is_count(batch_size, least=0):
            raise StateError(f"`batch_size` must be an integer from 0; got {batch_size!r}.")
        if not error_var.is_floating_point():
            raise StateError(f"`dtype` must be floating, such as torch.float32; got {error_var.dtype}.")

        def zeros(*shape: int) -> Tensor:
            return error_var.new_zeros(shape)

        shapes = cls.shapes(config, batch_size)
        return cls(
            h=zeros(*shapes["h"]),
            U=zeros(*shapes["U"]),
            U_target=zeros(*shapes["U_target"]),
            adaptive_tau=error_var.new_full(shapes["adaptive_tau"], config.base_threshold),
            error_mean=zeros(*shapes["error_mean"]),
            error_var=error_var.detach().expand(shapes["error_var"]).clone(),
            avg_surprise=zeros(*shapes["avg_surprise"]),
        )

    @staticmethod
    def shapes(config: DREAMConfig, batch_size: int) -> dict[str, tuple[int, ...]]:
        """The shape of each field for a configuration and a number of samples."""
        n, i, h, r = batch_size, config.input_dim, config.hidden_dim, config.rank
        return {
            "h": (n, h),
            "U": (n, h, r),
            "U_target": (n, h, r),
            "adaptive_tau": (n,),
            "error_mean": (n, i),
            "error_var": (n, i),
            "avg_surprise": (n,),
        }

    @property
    def batch_size(self) -> int:
        """N, the number of samples."""
        if self.h.is_nested:
            raise StateError("`state.h` must be a dense tensor; got a nested one. Give each sample a row.")
        return self.h.shape[0]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs of field name and tensor, in order."""
        for name in self.__dataclass_fields__:
            yield name, getattr(self, name)

    def __iter__(self) -> Iterator[Tensor]:
        return (tensor for _, tensor in self.items())

    def shape(self) -> dict[str, tuple[int, ...]]:
        """The shape of every field."""
        return {name: tuple(tensor.shape) for name, tensor in self.items()}

    def map(self, function: Callable[[Tensor], Tensor]) -> DREAMState:
        """A state whose every tensor is `function` of this one's."""
        return DREAMState(**{name: function(tensor) for name, tensor in self.items()})

    def detach(self) -> DREAMState:
        """The same values without their history, for truncated back-propagation through time."""
        return self.map(Tensor.detach)

    def clone(self) -> DREAMState:
        """A copy that shares no memory with this one."""
        return self.map(Tensor.clone)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> DREAMState:
        """A copy on another device or in another floating dtype.

        Raises:
            StateError: `dtype` is not floating.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise StateError(f"`dtype` must be floating, such as torch.float32; got {dtype}.")
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> DREAMState:
        """Some samples: an index, a slice, a list or a tensor of indices, or a mask (N,); N stays an axis.

        Raises:
            StateError: a sample that is not there, or a mask of another length.
        """
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.h.device).reshape(-1)
        if isinstance(index, Tensor) and not index.numel() and index.is_floating_point():  # an empty list
            index = index.long()
        try:
            return self.map(lambda tensor: tensor[index])
        except IndexError as error:
            raise StateError(f"`rows` must select among {self.batch_size} rows; {error}.") from None

    @staticmethod
    def cat(states: Sequence[DREAMState]) -> DREAMState:
        """The samples of several states, one after another.

        Raises:
            StateError: no state, or states of different dimensions, dtypes or devices.
        """
        if not states:
            raise StateError("`states` must hold at least one DREAMState; got none.")
        first = states[0]
        for state in states[1:]:
            for (name, a), (_, b) in zip(first.items(), state.items(), strict=True):
                if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype or a.device != b.device:
                    raise StateError(
                        f"`states` must agree but for the number of rows; `{name}` is {_kind(a)} and "
                        f"{_kind(b)}."
                    )
        return DREAMState(
            **{name: torch.cat([getattr(s, name) for s in states]) for name, _ in first.items()}
        )

    def reset(self, mask: Tensor, fresh: DREAMState) -> DREAMState:
        """The samples of `fresh` where `mask` (N,) is True, those of this state elsewhere.

        Raises:
            StateError: a mask that is not boolean (N,), or a `fresh` that does not match this state.
        """
        if mask.dtype != torch.bool or mask.shape != (self.batch_size,):
            raise StateError(f"`mask` must be a boolean tensor ({self.batch_size},); got {_kind(mask)}.")
        for (name, a), (_, b) in zip(self.items(), fresh.items(), strict=True):
            if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
                raise StateError(
                    f"`fresh` must match this state; `{name}` is {_kind(b)} instead of {_kind(a)}."
                )
        return where(mask, fresh, self)

    def check(self, config: DREAMConfig, like: Tensor) -> None:
        """Refuse a state that does not fit `config` and the N, dtype and device of `like` (N, ...).

        Raises:
            StateError: naming the field, what was expected and what came.
        """
        rows, dtype, device, dense = (
            like.shape[0] if like.dim() else 1,
            like.dtype,
            like.device,
            torch.strided,
        )
        for name, shape in self.shapes(config, rows).items():
            tensor = getattr(self, name)
            odd = tensor.is_nested or tensor.layout != dense
            if odd or tensor.shape != shape or tensor.dtype != dtype or tensor.device != device:
                raise StateError(
                    f"`state.{name}` must be {shape}, {dtype}, {device}; got {_kind(tensor)}. Make "
                    f"a fresh one with init_state({rows}), or use state[rows] or state.to(...)."
                )

    def sound(self) -> Tensor:
        """(N,) whether every value of a sample is finite, and its statistics are ones that a layer reaches.

        adaptive_tau must be above 0, error_var at least 0 and small enough to go on from, avg_surprise from 0
        to 1. h and U may be those of any recurrent core.
        """
        parts = []
        for name, tensor in self.items():
            low, high, _ = _range_of(name, tensor.dtype)
            values = _comparable(tensor)
            within = (values >= low) & (values <= high)
            parts.append(within.all(tuple(range(1, within.dim()))) if within.dim() > 1 else within)
        return torch.stack(parts).all(0)

    def require_sound(self) -> None:
        """Refuse a state with a sample that is not `sound`.

        Raises:
            StateError: naming the field, the range and the first value outside of it.
        """
        for name, tensor in self.items():
            if not tensor.is_floating_point():
                raise StateError(f"`state.{name}` must be floating; got {tensor.dtype}.")
            low, high, rule = _range_of(name, tensor.dtype)
            values = _comparable(tensor)
            if not values.numel():
                continue
            least, most = torch.aminmax(values)
            if not (least.item() >= low and most.item() <= high):  # neither holds for NaN
                place = (~((values >= low) & (values <= high))).nonzero()[0].tolist()
                raise StateError(
                    f"`state.{name}` must be {rule}; {values[tuple(place)]:g} stands at {place}. Reset that "
                    "sample with init_state, or go back to an earlier state."
                )

    def save(self, path: str | os.PathLike[str], config: DREAMConfig) -> None:
        """Write this state and the configuration that it belongs to, with a checksum, as safetensors.

        An old file is replaced whole.

        Raises:
            StateError: the state does not fit `config`, or holds values that no layer reaches.
            CheckpointError: the file cannot be written; what was there before is untouched.
        """
        self.check(config, self.h)
        self.require_sound()
        write_sealed(path, KIND | {"config": config.to_json()}, dict(self.items()))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], config: DREAMConfig, device: str | torch.device = "cpu"
    ) -> DREAMState:
        """Read a state that `save` wrote, for a layer configured as `config`.

        Raises:
            CheckpointError: no such file, damaged, of another kind or version, made for other dimensions, or
                with values that no layer reaches.

        Warns:
            DREAMWarning: it was made with other knobs; they are named.
        """
        header, tensors = read_sealed(path, "DREAMState.save", KIND)
        try:
            saved = DREAMConfig.from_json(header.get("config", ""))
        except DREAMError as error:
            raise CheckpointError(
                f"`path` must hold a configuration; that of {path} is damaged: {error}"
            ) from None
        differing = {
            name: f"{value!r} in the file, {getattr(config, name)!r} here"
            for name, value in dataclasses.asdict(saved).items()
            if value != getattr(config, name)
        }
        listed = "; ".join(f"`{name}` {what}" for name, what in differing.items())
        if differing.keys() & {"input_dim", "hidden_dim", "rank"}:
            raise CheckpointError(f"`config` must have the dimensions of {path}: {listed}.")
        names = {field.name for field in dataclasses.fields(cls)}
        if tensors.keys() != names:
            raise CheckpointError(
                f"{path} must hold exactly the fields {sorted(names)}; got {sorted(tensors)}."
            )
        state = cls(**tensors).to(device)
        try:
            state.check(config, state.h)
            state.require_sound()
            if bool((state.h.abs() > 1 + _rounding(state.h.dtype)).any()):
                raise StateError("`state.h` must lie in [-1, 1].")
        except StateError as error:
            raise CheckpointError(f"{path} is inconsistent: {error}") from None
        if differing:
            warnings.warn(f"{path} was saved with other knobs: {listed}.", DREAMWarning, stacklevel=2)
        return state


def is_count(value: object, least: int = 1) -> bool:
    """Whether `value` is an integer from `least`, Python's, NumPy's, or that of a traced shape."""
    return (
        isinstance(value, (int, np.integer, torch.SymInt))
        and not isinstance(value, bool)
        and bool(value >= least)
    )


def state_bytes(config: DREAMConfig, samples: int) -> int:
    """Bytes of a state of so many samples, at 4 for each number; 0 for what is no number of samples."""
    each = config.hidden_dim * (1 + 2 * config.rank) + 2 * config.input_dim + 2
    return 4 * samples * each if is_count(samples) else 0


def where(mask: Tensor, a: DREAMState, b: DREAMState) -> DREAMState:
    """The samples of `a` where `mask` (N,) is True, those of `b` elsewhere."""

    def choose(name: str, x: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, getattr(b, name))

    return DREAMState(**{name: choose(name, x) for name, x in a.items()})


def _comparable(tensor: Tensor) -> Tensor:
    """Its values, in a dtype that torch can compare."""
    return tensor.detach() if tensor.dtype in (torch.float32, torch.float64) else tensor.detach().float()


def _rounding(dtype: torch.dtype) -> float:
    return 8 * torch.finfo(dtype).eps


@cache
def _range_of(name: str, dtype: torch.dtype) -> tuple[float, float, str]:
    """Least and largest value of a field, and both in words; NaN and inf lie in no range."""
    most = torch.finfo(dtype).max
    # from a larger variance line 10 of the equations could overflow, see `dream.functional.moved_prior`
    widest = largest(dtype) ** 2 / 3
    ranges = {
        "adaptive_tau": (torch.finfo(dtype).tiny, most, "finite and positive"),
        "error_var": (0.0, widest, f"from 0 to {widest:.1e}"),
        "avg_surprise": (0.0, 1 + _rounding(dtype), "from 0 to 1"),
    }
    return ranges.get(name, (-most, most, "finite"))


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    shape = "nested" if tensor.is_nested else str(tuple(tensor.shape))
    return f"{shape}, {tensor.dtype}, {tensor.device}{layout}"


pytree.register_dataclass(DREAMState, serialized_type_name="dream.DREAMState")
torch.serialization.add_safe_globals([DREAMState])
