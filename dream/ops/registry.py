"""Which implementation of `dream_scan` serves a call, and why the others do not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from dream.config import DREAMConfig
from dream.errors import ConfigError
from dream.ops import cpu, reference
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
    """An implementation, and a verifier: None, or why it can't serve a call."""

    scan: Scan
    refusal: Callable[[Tensor, DREAMConfig], str | None]


BACKENDS: dict[str, Backend] = {  # fastest first; the last serves everything
    "cpu": Backend(cpu.scan, cpu.refusal),
    "reference": Backend(reference.scan, reference.refusal),
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
            raise ConfigError(
                f"`backend`={name!r} cannot serve this call: {reason}. Use backend='auto'.", key="backend"
            )
        return BACKENDS[name].scan
    for candidate, backend in BACKENDS.items():
        reason = backend.refusal(x, config)
        if reason is None:
            return backend.scan
        if (candidate, reason) not in _reported:
            _reported.add((candidate, reason))
            log.warning("backend %s is not used: %s", candidate, reason)
    raise AssertionError("the reference backend serves every call")
