"""Cell, layer and stack keep the contract."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dream import DREAM, DREAMCell, DREAMConfig, DREAMStack
from tests.dream.contract import WIDTH, Contract


class TestCell(Contract):
    def make(self, *, backend: str = "auto", missing: bool = False, **knobs: Any) -> DREAMCell:
        config = DREAMConfig(**{"input_dim": WIDTH, "hidden_dim": 7, "rank": 2, **knobs})
        return DREAMCell(config, backend=backend, missing=missing)

    def sequence(self, module: DREAMCell, x: Tensor, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        state = module.init_state(len(x)) if state is None else state
        return module.forward_sequence(x, state, **kwargs)

    def traced(self, module: DREAMCell, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Any, Any]:
        return module.scan(x, None, None, lengths)


class TestLayer(Contract):
    def make(self, **knobs: Any) -> DREAM:
        return DREAM(WIDTH, **{"hidden_dim": 7, "rank": 2, **knobs})

    def sequence(self, module: DREAM, x: Tensor, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        return module(x, state, **kwargs)

    def traced(self, module: DREAM, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Any, Any]:
        return module.trace(x, lengths=lengths)


class TestStack(Contract):
    def make(self, *, hidden_dim: int = 7, **knobs: Any) -> DREAMStack:
        return DREAMStack(WIDTH, [hidden_dim, 4], **{"rank": 2, **knobs})

    def sequence(self, module: DREAMStack, x: Tensor, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        return module(x, state, **kwargs)

    def traced(self, module: DREAMStack, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Any, Any]:
        return module.trace(x, lengths=lengths)
