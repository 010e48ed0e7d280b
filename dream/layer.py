"""`DREAM`: a DREAM layer over sequences, called like `torch.nn.LSTM` with ``batch_first=True``.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Generic, Self, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dream import checks
from dream.cell import DREAMCell
from dream.config import DREAMConfig
from dream.hub import Pretrained
from dream.ops import registry
from dream.ops.stepping import Stepper
from dream.state import DREAMState
from dream.types import DREAMTrace

S = TypeVar("S")  # the state: one DREAMState, or a list of them
Tr = TypeVar("Tr")  # the trace: one DREAMTrace, or a list of them


class SequenceModule(Pretrained, Generic[S, Tr]):
    """Base of a layer and a stack: padded, masked and packed input, all steps or the last one."""

    @abstractmethod
    def scan(
        self, x: Tensor, lengths: Tensor | None, state: S | None, timespans: Tensor | None
    ) -> tuple[Tensor, Tr, S]:
        """Output (N, T, H), trace and final state of a padded batch."""

    @overload
    def forward(
        self,
        x: Tensor,
        state: S | None = None,
        return_sequences: bool = True,
        *,
        timespans: Tensor | None = None,
    ) -> tuple[Tensor, S]: ...
    @overload
    def forward(
        self,
        x: PackedSequence,
        state: S | None = None,
        return_sequences: bool = True,
        *,
        timespans: Tensor | None = None,
    ) -> tuple[PackedSequence | Tensor, S]: ...
    def forward(
        self,
        x: Tensor | PackedSequence,
        state: S | None = None,
        return_sequences: bool = True,
        *,
        timespans: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, S]:
        """Process a sequence.

        Args:
            x: (N, T, I), input, in units of the data (standardise it); or a PackedSequence; or (T, I), one
                sample without a batch, whose output has no axis N, and whose state has N = 1.
            state: N samples, not changed, in the order of the batch before packing; fresh ones if None.
            return_sequences: the outputs of all steps, or each sample's last, which is the h of its state.
            timespans: (N, T), time since the previous step, in steps; 1 if None. For a PackedSequence (N,
                longest), samples in the order before packing.

        Returns:
            output: (N, T, H), packed like `x` if that is packed; (N, H) for `return_sequences=False`.
            state: the state of every sample after its last step.

        Raises:
            ShapeError, DataError, StateError: an argument that does not fit, or holds NaN or inf.
        """
        if not isinstance(x, PackedSequence):
            output, _, new = self.scan(x, None, state, timespans)
            return (output if return_sequences else _last(new).reshape(*output.shape[:-2], -1)), new
        checks.tensor("x.data", x.data)
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        output, _, new = self.scan(padded, lengths, state, timespans)
        if not return_sequences:
            return _last(new), new
        order = x.sorted_indices
        if order is not None:
            output, lengths = output.index_select(0, order), lengths.index_select(0, order.cpu())
        packed = pack_padded_sequence(output, lengths, batch_first=True)
        return PackedSequence(packed.data, x.batch_sizes, order, x.unsorted_indices), new

    def forward_with_mask(
        self, x: Tensor, lengths: Tensor, state: S | None = None, *, timespans: Tensor | None = None
    ) -> tuple[Tensor, S]:
        """Process a padded batch; what lies in the padding, NaN included, has no effect.

        Args:
            x: (N, T, I), padded input; or (T, I), as in `forward`.
            lengths: (N,), valid steps of each sample, from 0 to T; () of one without a batch.
            state: N samples, not changed; fresh ones if None.
            timespans: (N, T), time since the previous step, in steps; 1 if None.

        Returns:
            output: (N, T, H), zeros at padded positions.
            state: the state of every sample after its last valid step.

        Raises:
            ShapeError, DataError, StateError: an argument that does not fit, or holds NaN or inf in its valid
                part.
        """
        output, _, new = self.scan(x, lengths, state, timespans)
        return output, new

    def trace(
        self,
        x: Tensor,
        state: S | None = None,
        lengths: Tensor | None = None,
        *,
        timespans: Tensor | None = None,
    ) -> tuple[Tensor, Tr, S]:
        """Process a padded batch as `forward_with_mask` does, and trace it: predictions, errors, surprise.

        Returns:
            output: (N, T, H).
            trace: see `dream.DREAMTrace`; a list of one for each layer from a stack.
            state: the state of every sample after its last valid step.
        """
        return self.scan(x, lengths, state, timespans)


def _last(state: Any) -> Tensor:
    """The last output of each sample, (N, H), from the final state of a layer or a stack."""
    last: DREAMState = state[-1] if isinstance(state, list) else state
    return last.h


class DREAM(SequenceModule[DREAMState, DREAMTrace]):
    """A recurrent layer with liquid time constants, whose fast weights learn while it reads.

    At each step the layer predicts its input, measures how surprising the error is in units of what this
    sequence is used to, lets its fast weights learn from it, and moves its state at a pace that surprise and
    a gate set. The equations are in `dream.functional.advance`.

    Args:
        input_dim: I, number of input features.
        hidden_dim: H, size of the state and of the output.
        rank: R, rank of the fast weights.
        backend: implementation of the scan: ``"auto"``, or a name in `dream.ops.registry.BACKENDS`.
        check_inputs: refuse NaN, inf and timespans that are not positive; one pass over the input for each
            call.
        missing: NaN in the input was not observed: the step reads what it predicts in its place.
        **config: the other fields of `DREAMConfig`.

    Raises:
        ConfigError: a dimension, knob or backend that is not allowed.

    Example:
        >>> model = DREAM(input_dim=64, hidden_dim=128, rank=8)
        >>> output, state = model(torch.randn(32, 50, 64))
        >>> output.shape, state.U.shape
        (torch.Size([32, 50, 128]), torch.Size([32, 128, 8]))
    """

    def __init__(
        self,
        input_dim: int = DREAMConfig.input_dim,
        hidden_dim: int = DREAMConfig.hidden_dim,
        rank: int = DREAMConfig.rank,
        *,
        backend: str = "auto",
        check_inputs: bool = True,
        missing: bool = False,
        **config: Any,
    ) -> None:
        knobs = DREAMConfig(input_dim=input_dim, hidden_dim=hidden_dim, rank=rank, **config)
        self._build(knobs, backend, check_inputs, missing)

    def _build(self, config: DREAMConfig, backend: str, check_inputs: bool, missing: bool) -> None:
        super().__init__()
        self.cell = DREAMCell(config, backend=backend, check_inputs=check_inputs, missing=missing)

    @classmethod
    def from_config(
        cls,
        config: DREAMConfig,
        *,
        backend: str = "auto",
        check_inputs: bool = True,
        missing: bool = False,
    ) -> Self:
        """Return a layer with a whole configuration; a subclass with an `__init__` is built through it.

        Raises:
            ConfigError: `config` is not a DREAMConfig, or the backend is unknown.

        Example:
            >>> DREAM.from_config(DREAMConfig.preset("anomaly_detection")).get_config().base_threshold
            0.3
        """
        if cls.__init__ is not DREAM.__init__:  # a subclass may build more than a layer
            return cls(**asdict(config), backend=backend, check_inputs=check_inputs, missing=missing)
        layer = cls.__new__(cls)
        layer._build(config, backend, check_inputs, missing)
        return layer

    @property
    def plasticity_enabled(self) -> bool:
        """False keeps U as it is: it still predicts, but neither learns, decays nor sleeps."""
        return self.cell.plasticity_enabled

    @plasticity_enabled.setter
    def plasticity_enabled(self, enabled: bool) -> None:
        self.cell.plasticity_enabled = enabled

    @property
    def check_inputs(self) -> bool:
        """Whether NaN, inf and timespans that are not positive are refused."""
        return self.cell.check_inputs

    @check_inputs.setter
    def check_inputs(self, enabled: bool) -> None:
        self.cell.check_inputs = enabled

    @property
    def missing(self) -> bool:
        """Whether NaN in the input was not observed, rather than refused."""
        return self.cell.missing

    @missing.setter
    def missing(self, enabled: bool) -> None:
        self.cell.missing = enabled

    def plasticity(self, enabled: bool) -> AbstractContextManager[None]:
        """Within ``with layer.plasticity(False):`` the fast weights stay as they are; they still predict."""
        return self.cell.plasticity(enabled)

    def scan(
        self, x: Tensor, lengths: Tensor | None, state: DREAMState | None, timespans: Tensor | None
    ) -> tuple[Tensor, DREAMTrace, DREAMState]:
        """See `SequenceModule.scan`."""
        return self.cell.scan(x, state, timespans, lengths)

    def init_state(
        self, batch_size: int, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> DREAMState:
        """See `DREAMCell.init_state`."""
        return self.cell.init_state(batch_size, device, dtype)

    def predict_next(self, state: DREAMState) -> Tensor:
        """See `DREAMCell.predict_next`."""
        return self.cell.predict_next(state)

    def stepper(self, samples: int) -> Stepper | None:
        """Steps of N samples without gradients, for callers that take one after another.

        None where the backend has no faster way than `DREAMCell.forward`.
        """
        cell = self.cell
        make = registry.choose(cell.backend, cell.C, cell.config).stepper
        if make is None:
            return None
        sources = [*cell.parameters(), *cell.buffers()]
        return make(cell._learned(), sources, cell.config, samples, cell.plasticity_enabled, cell.missing)

    def consolidate(self, state: DREAMState, steps: int = 1) -> DREAMState:
        """See `DREAMCell.consolidate`."""
        return self.cell.consolidate(state, steps)

    def reset_parameters(self) -> None:
        """See `DREAMCell.reset_parameters`."""
        self.cell.reset_parameters()

    def get_config(self) -> DREAMConfig:
        """The configuration that this layer was made from."""
        return self.cell.config

    def _settings(self) -> dict[str, Any]:
        cell = self.cell
        switches = {name: getattr(cell, name) for name in ("backend", "check_inputs", "missing")}
        return {"config": asdict(cell.config)} | switches

    @classmethod
    def _from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls.from_config(DREAMConfig(**settings.pop("config")), **settings)
