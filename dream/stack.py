"""`DREAMStack`: several DREAM layers, each reading the output of the one below.

Shapes: N samples, T steps, I `input_dim`, H_k width of layer k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise
from numbers import Real
from typing import Any, Self

import torch
from torch import Tensor, nn

from dream import checks, memory
from dream.config import DREAMConfig, changed
from dream.errors import ConfigError, StateError
from dream.layer import DREAM, SequenceModule
from dream.state import DREAMState, is_count
from dream.types import DREAMTrace, weight_bytes


def _widths(hidden_dims: Sequence[int]) -> Sequence[int]:
    """Return `hidden_dims` if it lists the width of at least one layer."""
    if not isinstance(hidden_dims, Sequence) or isinstance(hidden_dims, str) or not hidden_dims:
        raise ConfigError(
            f"`hidden_dims` must list the width of each layer, such as [128, 64]; got {hidden_dims!r}.",
            key="hidden_dims",
        )
    if not all(map(is_count, hidden_dims)):
        raise ConfigError(
            f"`hidden_dims` must hold positive integers; got {hidden_dims!r}.", key="hidden_dims"
        )
    return hidden_dims


class DREAMStack(SequenceModule[list[DREAMState], list[DREAMTrace]]):
    """Stack of DREAM layers, with dropout between them in training mode.

    State and trace are lists, one entry for each layer. What is expected of the data is the forecast of the
    first layer, the only one that reads the data itself.

    Args:
        input_dim: I, number of input features.
        hidden_dims: width of each layer, first to last.
        rank: R, rank of each layer's fast weights.
        dropout: share of each layer's output that is dropped on its way to the next, in [0, 1); not after the
            last.
        backend: implementation of the scan: ``"auto"``, or a name in `dream.ops.registry.BACKENDS`.
        check_inputs: refuse NaN, inf and timespans that are not positive; one pass over the input for each
            call.
        missing: NaN in the input was not observed: the step reads what it predicts in its place.
        **config: the other fields of `DREAMConfig`, the same for all layers.

    Raises:
        ConfigError: a dimension, knob or backend that is not allowed; no layer; dropout outside [0, 1).

    Example:
        >>> model = DREAMStack(input_dim=64, hidden_dims=[128, 128, 64], rank=8, dropout=0.1)
        >>> output, states = model(torch.randn(32, 50, 64))
        >>> output.shape, len(states)
        (torch.Size([32, 50, 64]), 3)
    """

    def __init__(
        self,
        input_dim: int = DREAMConfig.input_dim,
        hidden_dims: Sequence[int] = (DREAMConfig.hidden_dim,),
        rank: int = DREAMConfig.rank,
        dropout: float = 0.0,
        *,
        backend: str = "auto",
        check_inputs: bool = True,
        missing: bool = False,
        **config: Any,
    ) -> None:
        if "hidden_dim" in config:
            raise ConfigError(
                "`hidden_dim` is not an argument of DREAMStack; use `hidden_dims`.", key="hidden_dim"
            )
        widths = _widths(hidden_dims)
        knobs = DREAMConfig(input_dim=input_dim, hidden_dim=widths[0], rank=rank, **config)
        self._build(knobs, widths, dropout, backend, check_inputs, missing)

    def _build(
        self,
        config: DREAMConfig,
        widths: Sequence[int],
        dropout: float,
        backend: str,
        check_inputs: bool,
        missing: bool,
    ) -> None:
        super().__init__()
        if isinstance(dropout, bool) or not isinstance(dropout, (Real, float)) or not 0 <= float(dropout) < 1:
            raise ConfigError(
                f"`dropout` must be a number from 0 to below 1; got {dropout!r}.", key="dropout"
            )
        sizes = [config.input_dim, *widths]
        with memory.enough(
            lambda: (
                f"`hidden_dim`={max(widths)}{f' in {len(widths)} layers' if len(widths) > 1 else ''}, "
                f"`input_dim`={config.input_dim} and `rank`={config.rank}"
            ),
            "Lower the largest of them.",
            sum(weight_bytes(i, h, config.rank) for i, h in pairwise(sizes)),
            key="hidden_dim",
        ):
            self._make(config, sizes, dropout, backend, check_inputs, missing)

    def _make(
        self,
        config: DREAMConfig,
        sizes: Sequence[int],
        dropout: float,
        backend: str,
        check_inputs: bool,
        missing: bool,
    ) -> None:
        self.dropout: nn.Module = nn.Dropout(float(dropout))
        self.layers: nn.ModuleList = nn.ModuleList(
            DREAM.from_config(
                changed(config, input_dim=i, hidden_dim=h),
                backend=backend,
                check_inputs=check_inputs and k == 0,  # what a layer puts out is finite, and there
                missing=missing and k == 0,
            )
            for k, (i, h) in enumerate(pairwise(sizes))
        )

    @classmethod
    def from_config(
        cls,
        config: DREAMConfig,
        hidden_dims: Sequence[int] | None = None,
        dropout: float = 0.0,
        *,
        backend: str = "auto",
        check_inputs: bool = True,
        missing: bool = False,
    ) -> Self:
        """Return a stack whose layers share a whole configuration but for their widths.

        A subclass with an `__init__` of its own is built through that.

        Args:
            config: the first layer's input and every layer's knobs.
            hidden_dims: width of each layer, first to last; one layer of `config.hidden_dim` if None.
            dropout: see `DREAMStack`.
            backend: see `DREAMStack`.
            check_inputs: see `DREAMStack`.
            missing: see `DREAMStack`.

        Raises:
            ConfigError: `config` is not a DREAMConfig; no layer; a width, dropout or backend that is not
                allowed.

        Example:
            >>> stack = DREAMStack.from_config(DREAMConfig.preset("anomaly_detection"), [64, 32])
            >>> [(layer.input_dim, layer.hidden_dim) for layer in stack.get_config()]
            [(20, 64), (64, 32)]
        """
        checks.configuration(config)
        widths = [config.hidden_dim] if hidden_dims is None else _widths(hidden_dims)
        if cls.__init__ is not DREAMStack.__init__:  # a subclass may build more than a stack
            knobs = {name: value for name, value in asdict(config).items() if name != "hidden_dim"}
            own: dict[str, Any] = {"backend": backend, "check_inputs": check_inputs, "missing": missing}
            return cls(hidden_dims=widths, dropout=dropout, **own, **knobs)
        stack = cls.__new__(cls)
        stack._build(config, widths, dropout, backend, check_inputs, missing)
        return stack

    def _layers(self) -> Iterator[DREAM]:
        for layer in self.layers:
            assert isinstance(layer, DREAM)
            yield layer

    def _states(self, state: Sequence[DREAMState]) -> Sequence[DREAMState]:
        if not isinstance(state, (list, tuple)) or len(state) != len(self.layers):
            got = (
                f"a list of {len(state)}"
                if isinstance(state, (list, tuple))
                else f"one {type(state).__name__}"
            )
            raise StateError(
                f"`state` must be a list of {len(self.layers)} DREAMState, one for each layer; got {got}."
            )
        return state

    @property
    def output_dim(self) -> int:
        """Width of the output: that of the last layer."""
        return self.get_config()[-1].hidden_dim

    @property
    def check_inputs(self) -> bool:
        """Whether NaN, inf and timespans that are not positive are refused."""
        return next(self._layers()).check_inputs

    @check_inputs.setter
    def check_inputs(self, enabled: bool) -> None:
        next(self._layers()).check_inputs = enabled

    @property
    def missing(self) -> bool:
        """Whether NaN in the data was not observed, rather than refused."""
        return next(self._layers()).missing

    @missing.setter
    def missing(self, enabled: bool) -> None:
        next(self._layers()).missing = enabled

    @property
    def plasticity_enabled(self) -> bool:
        """Whether the fast weights of any layer learn; setting it sets all layers."""
        return any(layer.plasticity_enabled for layer in self._layers())

    @plasticity_enabled.setter
    def plasticity_enabled(self, enabled: bool) -> None:
        for layer in self._layers():
            layer.plasticity_enabled = enabled

    @contextmanager
    def plasticity(self, enabled: bool) -> Iterator[None]:
        """Within ``with stack.plasticity(False):`` the fast weights of all layers stay as they are."""
        with ExitStack() as switches:
            for layer in self._layers():
                switches.enter_context(layer.plasticity(enabled))
            yield

    def scan(
        self, x: Tensor, lengths: Tensor | None, state: Sequence[DREAMState] | None, timespans: Tensor | None
    ) -> tuple[Tensor, list[DREAMTrace], list[DREAMState]]:
        """See `SequenceModule.scan`."""
        traces, states = [], []
        starts = [None] * len(self.layers) if state is None else self._states(state)
        for k, (layer, before) in enumerate(zip(self._layers(), starts, strict=True)):
            x, trace, after = layer.scan(x if k == 0 else self.dropout(x), lengths, before, timespans)
            traces.append(trace)
            states.append(after)
        return x, traces, states

    def init_state(
        self, batch_size: int, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> list[DREAMState]:
        """Fresh states, one for each layer; see `DREAMCell.init_state`."""
        return [layer.init_state(batch_size, device, dtype) for layer in self._layers()]

    def predict_next(self, state: Sequence[DREAMState]) -> Tensor:
        """The data expected next, (N, I): the first layer's forecast."""
        return next(self._layers()).predict_next(self._states(state)[0])

    def consolidate(self, state: Sequence[DREAMState], steps: int = 1) -> list[DREAMState]:
        """Sleep on demand, in every layer; see `DREAMCell.consolidate`."""
        pairs = zip(self._layers(), self._states(state), strict=True)
        return [layer.consolidate(one, steps) for layer, one in pairs]

    def reset_parameters(self) -> None:
        """Start every layer afresh."""
        for layer in self._layers():
            layer.reset_parameters()

    def get_config(self) -> list[DREAMConfig]:
        """The configuration of each layer."""
        return [layer.get_config() for layer in self._layers()]

    def _settings(self) -> dict[str, Any]:
        assert isinstance(self.dropout, nn.Dropout)
        widths = {"hidden_dims": [one.hidden_dim for one in self.get_config()], "dropout": self.dropout.p}
        return next(self._layers())._settings() | widths

    @classmethod
    def _from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls.from_config(DREAMConfig(**settings.pop("config")), **settings)
