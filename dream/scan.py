"""`dream_step` and `dream_scan`: check the arguments, choose a backend, call it.

Shapes: N samples, T steps, I `input_dim`, H `hidden_dim`.
"""

from __future__ import annotations

from torch import Tensor

from dream import checks
from dream import functional as F
from dream.config import DREAMConfig
from dream.numerics import full_precision
from dream.ops import registry
from dream.state import DREAMState
from dream.types import DREAMParams, DREAMTrace


def dream_step(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None = None,
    *,
    missing: bool = False,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """One step of N samples: the equations of `dream.functional.advance`, with every argument checked.

    Args:
        x: (N, I), input, in units of the data (standardise it); (I,) is one sample without a batch.
        state: N samples; not changed.
        params: effective parameters.
        config: knobs.
        timespans: (N,), time since the previous step, in steps; 1 if None.
        missing: NaN in `x` was not observed: the step reads what it predicts in its place.

    Returns:
        output: (N, H), the new hidden state, in [-1, 1].
        trace: what was seen: prediction, forecast and error (N, I), surprise, deviation and u_norm (N,).
        state: the new state.

    Raises:
        ShapeError, DataError, StateError: an argument of a wrong shape, dtype or device.
    """
    x, timespans, alone = checks.step_input(x, timespans, params.C, config)
    checks.parameters(params, config, x)
    checks.state_of(state, config, x, alone)
    checks.differentiable(x, state, params)
    with full_precision(x.device.type):
        seen = F.read_input(x, params, config, timespans, missing)
        new, prediction, error, surprise, deviation, u_norm = F.advance(seen, state, params, config)
        forecast = F.predict_next(new, params, config)
    trace = DREAMTrace(prediction, forecast, error, surprise, deviation, u_norm)
    return (new.h[0], trace.alone(), new) if alone else (new.h, trace, new)


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
    missing: bool = False,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """`dream_step` over a sequence, by whichever backend is asked for.

    Past its length a sample freezes: its output and trace are 0, its state stays, and nothing that lies in
    the padding, NaN included, has any effect on values or gradients.

    Args:
        x: (N, T, I), input, in units of the data; (T, I) is one sample without a batch, whose output and
            trace have no axis N, and whose state has N = 1.
        state: N samples; not changed.
        params: effective parameters.
        config: knobs.
        timespans: (N, T), time since the previous step, in steps; 1 if None.
        lengths: (N,), valid steps of each sample, from 0 to T; T if None.
        backend: ``"auto"`` for the fastest that can serve this call, or a name of
            `dream.ops.registry.BACKENDS`.
        plasticity: False keeps U as it is: it still predicts and is recalled from, but neither learns, decays
            nor sleeps.
        missing: NaN in `x` was not observed: the step reads what it predicts in its place.

    Returns:
        output: (N, T, H).
        trace: (N, T, ...).
        state: the state of every sample after its last valid step.

    Raises:
        ShapeError, DataError, StateError: an argument of a wrong shape, dtype or device; lengths below 0 or
            above T.
        ConfigError: an unknown backend, or one that cannot serve this call; the message says why.
    """
    x, timespans, lengths, alone = checks.sequence(x, params, config, timespans, lengths)
    checks.state_of(state, config, x, alone)
    checks.differentiable(x, state, params)
    chosen = registry.choose(backend, x, config)
    output, trace, final = chosen.scan(x, state, params, config, timespans, lengths, plasticity, missing)
    return (output[0], trace.alone(), final) if alone else (output, trace, final)
