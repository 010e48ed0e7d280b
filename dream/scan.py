"""`dream_scan`: the step over a whole sequence, by whichever backend is asked for."""

from __future__ import annotations

from torch import Tensor

from dream import checks
from dream.config import DREAMConfig
from dream.ops import registry
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace


def dream_scan(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
    *,
    plasticity: bool = True,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """`dream.functional.dream_step` over a sequence, by whichever backend is asked for.

    Past its length a row freezes: its output and trace are 0, its state stays, and nothing that lies in the padding,
    NaN included, has any effect on values or gradients.

    Args:
        x: (N, T, I), input, in units of the data.
        state: N rows; not changed.
        params: effective parameters.
        config: knobs.
        timespans: (N, T), time since the previous step, in steps; 1 if None.
        lengths: (N,), valid steps of each row, from 1 to T; T if None.
        backend: ``"auto"`` for the fastest that can serve this call, or a name of `dream.ops.registry.BACKENDS`.
        plasticity: False keeps U as it is: it still predicts, but neither learns, decays nor sleeps.

    Returns:
        output: (N, T, H).
        trace: (N, T, ...).
        state: the state of every row after its last valid step.

    Raises:
        ShapeError, DataError, StateError: an argument of a wrong shape, dtype or device; lengths below 1 or above T.
        ConfigError: an unknown backend, or one that cannot serve this call; the message says why.
    """
    x, lengths = checks.sequence(x, params.C, config, timespans, lengths)
    checks.state_of(state, config, x)
    scan = registry.choose(backend, x, config)
    return scan(x, state, params, config, timespans, lengths, plasticity)
