"""The backends: which implementation serves a call, and why the others do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dream.config import DREAMConfig
from dream.errors import ConfigError
from dream.ops import cpu, reference, triton
from dream.ops.stepping import Stepper
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace

log = logging.getLogger(__name__)


class ScanFunction(Protocol):
    """`dream.scan.dream_scan` for arguments that are checked, `lengths` None where no sample is padded."""

    def __call__(
        self,
        x: Tensor,
        state: DREAMState,
        params: DREAMParams,
        config: DREAMConfig,
        timespans: Tensor | None,
        lengths: Tensor | None,
        plasticity: bool,
        missing: bool,
        /,
    ) -> tuple[Tensor, DREAMTrace, DREAMState]: ...


class StepFunction(Protocol):
    """One step of one sample without gradients, for arguments that are checked: the state after it.

    The parameters come as they are learned: in the order of `DREAMParams`, but eta, tau and surprise scale
    as logarithms and tonic as a logit; None for a surprise scale of 0. `owner` is whose parameters they are:
    what stays the same from one step of an owner to the next may be prepared once.
    """

    def __call__(
        self,
        x: Tensor,
        state: DREAMState,
        learned: Sequence[Tensor | None],
        config: DREAMConfig,
        timespans: Tensor | None,
        plasticity: bool,
        missing: bool,
        owner: object,
        /,
    ) -> DREAMState: ...


class ParametersFunction(Protocol):
    """V, eta, tonic, tau and surprise scale of a cell as `DREAMParams` has them, differentiable, from V_raw
    (None where V is not learned, and then V is None), log_eta, logit_tonic, log_tau and the scale's
    logarithm."""

    def __call__(
        self, V_raw: Tensor | None, learned: Sequence[Tensor], config: DREAMConfig, /
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]: ...


class Backend(NamedTuple):
    """An implementation of the scan."""

    scan: ScanFunction
    refusal: Callable[[Tensor, DREAMConfig], str | None]
    """Why it cannot serve a call, or None."""
    step: StepFunction | None = None
    """None where it has no faster way than the equations as they are."""
    stepper: type[Stepper] | None = None
    """Steps of the same samples one after another; None likewise."""
    device: str | None = None
    """The type of device it is made for; None for any."""
    parameters: ParametersFunction | None = None
    """None where it has no faster way than torch."""
    fresh_scan: Callable[..., tuple[Tensor, DREAMTrace, DREAMState]] | None = None
    """`scan` with None for the state of fresh samples; None where a state has to be made."""
    move_prior: Callable[[Tensor, Tensor, Tensor, int, float], None] | None = None
    """Move a prior in place, from moves so far, sums of squares, their number and `error_smoothing`; see
    `dream.functional.moved_prior`. None where torch does it."""


BACKENDS: dict[str, Backend] = {  # fastest first; the last serves everything
    "cpu": Backend(cpu.scan, cpu.refusal, cpu.step, Stepper, device="cpu"),
    "triton": Backend(
        *(triton.scan, triton.refusal, triton.step, None, "cuda"),
        *(triton.parameters, triton.scan, triton.move_prior),
    ),
    "reference": Backend(reference.scan, reference.refusal),
}

_reported: set[tuple[str, str]] = set()


def check_name(name: str) -> str:
    """Return `name` if it is ``"auto"`` or a backend.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(name, str) or (name != "auto" and name not in BACKENDS):
        raise ConfigError(
            f"`backend` must be {' or '.join(('auto', *BACKENDS))}; got {name!r}.",
            key="backend",
        )
    return name


def choose(name: str, x: Tensor, config: DREAMConfig) -> Backend:
    """Return the backend called `name`, or for ``"auto"`` the first that serves; log each refusal once.

    It goes without saying that one made for another device is not used where there is one for this.

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
        return BACKENDS[name]
    for candidate, backend in BACKENDS.items():
        reason = backend.refusal(x, config)
        if reason is None:
            return backend
        # a logger is nothing that a program could be traced through
        if torch.compiler.is_compiling() or (candidate, reason) in _reported:
            continue
        if backend.device in (None, x.device.type) or not _made_for(x.device.type):
            _reported.add((candidate, reason))
            log.warning("backend %s is not used: %s", candidate, reason)
    raise AssertionError("the reference backend serves every call")


def parameters_of(name: str, like: Tensor, config: DREAMConfig) -> ParametersFunction | None:
    """How the backend called `name` makes the parameters of a cell; None for torch's way."""
    if torch.compiler.is_compiling():
        return None
    for candidate, backend in BACKENDS.items():
        asked = name == candidate or (name == "auto" and backend.device == like.device.type)
        if asked and backend.parameters is not None and backend.refusal(like, config) is None:
            return backend.parameters
    return None


def _made_for(device: str) -> bool:
    return any(backend.device == device for backend in BACKENDS.values())
