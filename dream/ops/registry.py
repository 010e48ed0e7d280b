"""Which implementation of `dream_scan` serves a call, and why the others do not."""

from __future__ import annotations

import importlib
import logging
from typing import NamedTuple, Protocol

from torch import Tensor

from dream.config import DREAMConfig
from dream.errors import ConfigError
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

log = logging.getLogger(__name__)


class Scan(Protocol):
    """An implementation: arguments checked, `lengths` None where no row is padded."""

    def __call__(
        self,
        x: Tensor,
        state: DREAMState,
        params: DREAMParams,
        config: DREAMConfig,
        timespans: Tensor | None,
        lengths: Tensor | None,
        plasticity: bool,
        /,
    ) -> tuple[Tensor, DREAMTrace, DREAMState]: ...


class Backend(NamedTuple):
    """A module, imported when first asked, with `scan` and `refusal`: None, or why it can't serve a call."""

    module: str

    def refusal(self, x: Tensor, config: DREAMConfig) -> str | None:
        reason: str | None = importlib.import_module(self.module).refusal(x, config)
        return reason

    def load(self) -> Scan:
        scan: Scan = importlib.import_module(self.module).scan
        return scan


BACKENDS: dict[str, Backend] = {  # fastest first; the last serves everything
    "cpu": Backend("dream.ops.cpu"),
    "reference": Backend("dream.ops.reference"),
}

_reported: set[tuple[str, str]] = set()


def check_name(name: str) -> str:
    """`name`, if it is ``"auto"`` or a backend.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(name, str) or (name != "auto" and name not in BACKENDS):
        raise ConfigError(
            f"`backend` must be {' or '.join(('auto', *BACKENDS))}; got {name!r}.",
            key="backend",
        )
    return name


def choose(name: str, x: Tensor, config: DREAMConfig) -> Scan:
    """The implementation called `name`, or for ``"auto"`` the first that serves; each refusal is logged once.

    Raises:
        ConfigError: no such backend, or the one named cannot serve this call.
    """
    check_name(name)
    if name != "auto":
        reason = BACKENDS[name].refusal(x, config)
        if reason is not None:
            raise ConfigError(f"`backend`={name!r} cannot serve this call: {reason}. Use backend='auto'.", key="backend")
        return BACKENDS[name].load()
    for candidate, backend in BACKENDS.items():
        reason = backend.refusal(x, config)
        if reason is None:
            return backend.load()
        if (candidate, reason) not in _reported:
            _reported.add((candidate, reason))
            log.warning("backend %s is not used: %s", candidate, reason)
    raise AssertionError("the reference backend serves every call")
