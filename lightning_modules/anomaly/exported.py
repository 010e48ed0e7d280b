"""`ScoreStep`: one row of an anomaly run as a function of tensors alone, from its unit to the score.

Shapes: N streams, C columns, K measures, G rows of the longest gap between alarms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dream import DREAMStack, DREAMState
from dream.errors import ConfigError
from dream.export import Step, constant, next_
from lightning_modules.anomaly.module import AnomalyModule
from lightning_modules.anomaly.scores import (
    BURST_ROWS,
    DECADES,
    DIFFERENCE_LIMIT,
    DRIFT_ROWS,
    GATE_MEASURES,
    LEVEL_LIMIT,
    STRAIGHT,
    TAIL_CLIP,
    TAIL_PRIOR,
    TAIL_SHARE,
    WARM_UP,
)
from lightning_modules.data.columns import lagged
from lightning_modules.data.place import StreamEnd
from lightning_modules.stream.state import part

Fields = dict[str, Tensor]


class ScoreStep(Step):
    """Reads a row, scores and judges it; fast weights, running scales and tails learn from it.

    The equations are those of `lightning_modules.anomaly.scores`, in tensors. Threshold and gap of a stream
    are in its state, since they are its own. A new one starts with those of the stream that the run was
    trained on; where there are several, without a threshold (NaN), which flags nothing.

    Args:
        module: The run's, with its weights and schema.
        end: Where its stream ended: the state that a user starts from; None for a stream that has not begun.
        stream: Name of a trained stream, whose threshold and gap a new one has.

    Raises:
        ConfigError: its core is not DREAM, or it learns in its training part only, which no file knows.
        CheckpointError: `end` is of other settings.
    """

    def __init__(self, module: AnomalyModule, end: StreamEnd | None, stream: str | None = None) -> None:
        super().__init__()
        if not isinstance(module.core, DREAMStack):
            raise ConfigError(f"an anomaly run can be exported if its core is DREAM; this is {module.title}.")
        if not module.settings.adapt:
            raise ConfigError(
                "an anomaly run can be exported if it adapts all along; with `adapt: false` it learns in its "
                "training part only, which a file does not know. Train with --model.adapt=true."
            )
        assert module.schema is not None
        self.core, self.settings = constant(module.core), module.settings
        columns = list(module.schema.columns["columns"])
        self.channels = len(columns)
        limits = torch.tensor([LEVEL_LIMIT, DIFFERENCE_LIMIT], dtype=torch.float64)
        self.register_buffer("limit", limits.repeat_interleave(self.channels))
        names = list(module.thresholds) if stream is None else [stream]
        gaps = {
            name: max(round(self.settings.gap * module.training_rows[name]), 1) for name in module.thresholds
        }
        fresh = self._fresh(module.shape.lags - 1, max((gaps[name] for name in names), default=1))
        if len(names) == 1:
            fresh["score_threshold"][:] = module.thresholds[names[0]]
        self._start = fresh
        if end is not None:
            score = module.resumed(end).score  # refuses what is of other settings
            held = {
                name.removeprefix("state.").replace(".", "_"): value for name, value in end.tensors.items()
            }
            gap, rows = int(score.gap[0]), int(score.rows[0])
            held["score_threshold"] = torch.full((1,), end.facts["threshold"], dtype=torch.float64)
            held |= {f"score_{name}": held[f"score_{name}"].double() for name in ("rows", "gap")}
            held["score_recent"] = held["score_recent"].roll(-((rows + 1) % gap), 1)  # a ring there
            self._start = {name: held[name] for name in fresh}
        fields = [name for name, value in self._start.items() if value.numel()]
        self.inputs = ("x", *fields)
        self.outputs = ("score", "threshold", "flag", "alarm", *next_(fields))
        self.facts = {"columns": columns, "thresholds": dict(module.thresholds), "gaps": gaps}

    def _fresh(self, lags: int, gap: int) -> Fields:
        """The state of a stream that has not begun, (1, ...) each."""
        columns = self.channels
        gates = sum(name in GATE_MEASURES for name in self.settings.measures)
        measures = columns * (len(self.settings.measures) - gates) + gates
        parts = {
            "scale": {"rows": 2 * columns, "last": columns, "mean": 2 * columns, "var": 2 * columns},
            "tail": dict.fromkeys(("rows", "mean", "quantile", "count", "sum", "squares"), measures),
            "score": {"burst": columns, "drift": columns},
        }
        fields = {
            f"{owner}_{name}": torch.zeros(1, width, dtype=torch.float64)
            for owner, widths in parts.items()
            for name, width in widths.items()
        }
        fields["score_rows"] = torch.zeros(1, dtype=torch.float64)
        fields["score_gap"] = torch.full((1,), float(gap), dtype=torch.float64)
        fields["score_threshold"] = torch.full((1,), torch.nan, dtype=torch.float64)
        fields["score_recent"] = torch.full((1, gap), -1.0, dtype=torch.float64)
        fields["recent"] = torch.zeros(1, lags, 1, dtype=torch.float64)
        states = enumerate(self.core.init_state(1))
        return fields | {f"core_{k}_{name}": value for k, state in states for name, value in state.items()}

    def init_state(self, batch_size: int) -> Fields:
        return {name: self._start[name].repeat_interleave(batch_size, 0) for name in self.inputs[1:]}

    def example(self, batch_size: int) -> list[Tensor]:
        return [torch.zeros(batch_size, self.channels, dtype=torch.float64)]

    def forward(self, x: Tensor, state: Fields) -> tuple[Fields, Fields]:
        """One row.

        Args:
            x: (N, C), float64, in measurement units; NaN where a value is missing.
            state: N streams, by the names of `init_state`.

        Returns:
            results: ``score`` (N,), float64, in [0, 1]; the ``threshold`` (N,) of each stream; bool (N,)
                ``flag`` above it, and ``alarm`` where a flagged row is the peak.
            new_state: the state after the row.
        """
        relative, scale = self._relative(x, part(state, "scale_"))
        read, recent = relative, {}
        if "recent" in state:
            past, lags = lagged(relative[:, None, :1], state["recent"])
            read, recent = torch.cat([relative, past[:, 0]], 1), {"recent": lags}
        core_states = [DREAMState(**part(state, f"core_{k}_")) for k in range(len(self.core.layers))]
        inputs = read.clamp(-LEVEL_LIMIT, LEVEL_LIMIT).to(core_states[0].h)
        _, (trace, *_), core = self.core.trace(inputs.unsqueeze(1), core_states)
        prediction = trace.prediction[:, 0, : 2 * self.channels].double()
        gate = torch.cat([trace.deviation, trace.surprise], 1).double()
        before = part(state, "score_")
        measures, score = self._measures(relative, prediction, gate, before)
        improbable, tail = self._decades(measures, part(state, "tail_"))
        decades = improbable.amax(1)
        verdict, seen = self._verdict(decades, before)
        score |= seen
        new = recent | {
            f"core_{k}_{name}": value for k, one in enumerate(core) for name, value in one.items()
        }
        for name, fields in (("scale", scale), ("score", score), ("tail", tail)):
            new |= {f"{name}_{field}": value for field, value in fields.items()}
        return verdict, {name: new[name] for name in self.inputs[1:]}

    def _verdict(self, decades: Tensor, state: Fields) -> tuple[Fields, Fields]:
        """Results of rows with so many decades (N,), see `AnomalyScore`; and their new state."""
        recent, gap, threshold = state["recent"], state["gap"], state["threshold"]
        places = torch.arange(recent.shape[1], device=recent.device)  # the newest row last
        within = torch.where(places >= recent.shape[1] - gap.unsqueeze(1), recent, -1.0)
        rows = state["rows"] + 1
        rarity = decades - 0.5 * rows.clamp_min(WARM_UP).log10()
        score = (decades / DECADES).clamp_max(1.0)
        flag = score > threshold
        results = {
            "score": score,
            "threshold": threshold.clone(),
            "flag": flag,
            "alarm": flag & (decades > within.amax(1)) & (rarity > 0),
        }
        recent = torch.cat([recent[:, 1:], decades.unsqueeze(1)], 1)
        return results, {"rows": rows, "gap": gap.clone(), "threshold": threshold.clone(), "recent": recent}

    def _relative(self, values: Tensor, state: Fields) -> tuple[Tensor, Fields]:
        """Levels, then differences (N, 2 C), see `RunningScale`; and its new state."""
        rows, last, mean, var = (state[name] for name in ("rows", "last", "mean", "var"))
        differences = values - torch.where(rows[:, : self.channels] > 0, last, values)
        x = torch.cat([values, differences], 1)
        known = var > 0
        z = torch.where(known, (x - mean) / torch.where(known, var, 1.0).sqrt(), 0.0)
        limit = self.get_buffer("limit")
        seen = x.isfinite()
        rate = seen * (rows + 1).reciprocal().clamp_min(1 / self.settings.memory)
        away = torch.where(seen, x - mean, 0.0)
        new = {
            "rows": rows + seen,
            "last": torch.where(values.isinf(), last, values),
            "mean": mean + rate * away,
            "var": (1 - rate) * (var + rate * away * away),
        }
        return torch.where(x.isnan(), torch.nan, torch.minimum(torch.maximum(z, -limit), limit)), new

    def _measures(self, x: Tensor, prediction: Tensor, gate: Tensor, state: Fields) -> tuple[Tensor, Fields]:
        """The measures (N, K) of a row, NaN where there is none, see `AnomalyScore`; and its new state."""
        columns, observed = self.channels, ~x.isnan()
        levels, known = x[:, :columns], observed[:, :columns]
        squares = torch.where(observed, x - prediction, 0.0).square()
        count = known.double() + observed[:, columns:]
        error = ((squares[:, :columns] + squares[:, columns:]) / count.clamp_min(1)).sqrt()
        burst, drift = state["burst"], state["drift"]
        burst = torch.where(known, burst + (error - burst) / BURST_ROWS, burst)
        drift = torch.where(known, drift + (levels - drift) / DRIFT_ROWS, drift)
        seen = {"error": error, "burst": burst, "level": levels.abs(), "drift": drift.abs()}
        seen = {name: torch.where(known, values, torch.nan) for name, values in seen.items()}
        gate = torch.where(known.any(1, keepdim=True), gate, torch.nan)
        seen |= {name: gate[:, place : place + 1] for place, name in enumerate(GATE_MEASURES)}
        return torch.cat([seen[name] for name in self.settings.measures], 1), {"burst": burst, "drift": drift}

    def _decades(self, a: Tensor, state: Fields) -> tuple[Tensor, Fields]:
        """Improbabilities (N, K) of measures (N, K), see `TailProbability`; and its new state."""
        names = ("rows", "mean", "quantile", "count", "sum", "squares")
        rows, mean, quantile, count, total, squares = (state[name] for name in names)
        memory, measured = self.settings.tail_memory, ~a.isnan()
        a = torch.where(measured, a, 0.0)
        excess = a - quantile
        weight = count + TAIL_PRIOR
        usual = (total + TAIL_PRIOR * mean) / weight
        var = ((squares + 2 * TAIL_PRIOR * mean.square()) / weight - usual.square()).clamp_min(1e-12)
        shape = (0.5 * (1 - usual.square() / var)).clamp_min(0.0)
        beyond = excess.clamp_min(0.0) / (usual * (1 - shape)).clamp_min(1e-9)
        heavy = shape > STRAIGHT
        nepers = torch.where(heavy, (shape * beyond).log1p() / torch.where(heavy, shape, 1.0), beyond)
        rarest = -math.log10(TAIL_SHARE)
        below = rarest * (a / quantile.clamp_min(1e-9)).clamp_max(1.0)
        tail = torch.where(excess > 0, nepers / math.log(10) + rarest, below)
        decades = torch.where(measured & (rows >= WARM_UP), tail, 0.0)
        rate = measured * (rows + 1).reciprocal().clamp_min(1 / memory)
        mean = mean + rate * (a - mean)
        step = rate * mean / TAIL_SHARE
        above = ((excess + 0.5 * step) / step.clamp_min(1e-30)).clamp(0.0, 1.0)
        moved = quantile + step * (above - TAIL_SHARE)
        moved = torch.where(rows < 10, torch.maximum(quantile, a), moved.clamp_min(0.0))
        counts = (measured & (rows >= WARM_UP // 2)) * above
        largest = TAIL_CLIP * torch.maximum(total / count.clamp_min(1.0), mean)
        excess, most = torch.minimum(excess.clamp_min(0.0), largest), TAIL_SHARE * memory
        kept = 1 - counts * (count - (most - 1)).clamp(0.0, 1.0) / most
        new = (
            rows + measured,
            mean,
            torch.where(measured, moved, quantile),
            kept * count + counts,
            kept * total + counts * excess,
            kept * squares + counts * excess.square(),
        )
        return decades, dict(zip(names, new, strict=True))
