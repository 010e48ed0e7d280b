"""The definition of the scan: a loop over the step of `dream.functional`; slow, and right on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from dream import functional as F
from dream.config import DREAMConfig
from dream.errors import ShapeError
from dream.numerics import full_precision
from dream.ops.padding import without_padding
from dream.state import DREAMState, where
from dream.types import DREAMParams, DREAMTrace


def refusal(x: Tensor, config: DREAMConfig) -> str | None:
    """None: it serves every call."""
    return None


def scan(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None,
    lengths: Tensor | None,
    plasticity: bool,
    missing: bool,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """See `dream.scan.dream_scan`. Products with the input are computed for all steps before the loop."""
    if isinstance(x.shape[1], torch.SymInt) and torch.compiler.is_exporting():
        raise ShapeError(
            "`x` must have a fixed number of steps to be exported, since its loop is unrolled; got a free "
            "one. Export a step, with dream.export.step(layer), or leave the time axis out of dynamic_shapes."
        )
    if x.shape[1] == 0:
        return _no_steps(x, state, params, config, timespans, plasticity, missing)
    x, timespans, valid = without_padding(x, timespans, lengths)
    spans = None if timespans is None else timespans.mT
    seen = F.read_input(x.transpose(0, 1), params, config, spans, missing)
    with full_precision(x.device.type):
        outputs, results = [], []
        for t, inputs in enumerate(seen.unbind()):
            result = F.advance(inputs, state, params, config, plasticity)
            state = result.state if valid is None else where(valid[:, t], result.state, state)
            outputs.append(state.h)
            results.append(result)
        last_forecast = F.predict_next(state, params, config)

    prediction = torch.stack([r.prediction for r in results], 1)
    output = torch.stack(outputs, 1)
    trace = DREAMTrace(
        prediction=prediction,
        forecast=torch.cat([prediction[:, 1:], last_forecast.unsqueeze(1)], 1),
        error=torch.stack([r.error for r in results], 1),
        surprise=torch.stack([r.surprise for r in results], 1),
        deviation=torch.stack([r.deviation for r in results], 1),
        u_norm=torch.stack([r.u_norm for r in results], 1),
    )
    if valid is None:
        return output, trace, state

    def blank(part: Tensor) -> Tensor:
        return torch.where(valid.view(*valid.shape, *[1] * (part.dim() - 2)), part, 0.0)

    return blank(output), DREAMTrace(*map(blank, trace)), state


def _no_steps(
    x: Tensor,
    state: DREAMState,
    params: DREAMParams,
    config: DREAMConfig,
    timespans: Tensor | None,
    plasticity: bool,
    missing: bool,
) -> tuple[Tensor, DREAMTrace, DREAMState]:
    """The state as it is, and arrays (N, 0, ...) made of a step of no samples, so that gradients, zeros,
    reach all that those of a sequence reach."""
    spans = None if timespans is None else timespans.reshape(0, 1)
    output, trace, _ = scan(
        x.reshape(0, 1, x.shape[2]), state[:0], params, config, spans, None, plasticity, missing
    )

    def shaped(part: Tensor) -> Tensor:
        return part.reshape(len(x), 0, *part.shape[2:])

    return shaped(output), DREAMTrace(*map(shaped, trace)), state
