"""`ForecastStep`: one row of an online run as a function of tensors alone, from its unit to the forecast.

Shapes: N streams, D input columns, C targets, H rows ahead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dream import DREAMStack
from dream.errors import ConfigError
from dream.export import Step, constant, next_
from lightning_modules.data.place import StreamEnd
from lightning_modules.online.module import NEWEST, OnlineModule
from lightning_modules.stream.state import StreamState


class ForecastStep(Step):
    """Reads a row and forecasts the next ones, as the run's first mode does while its head rests.

    The normaliser, the profile and, if the mode lets them, the fast weights go on learning. The head stays as
    `end` or the checkpoint has it, and so does the record by which forecasts are shrunk (`updates.trust`).

    Args:
        module: The run's, with its weights and schema.
        end: Where its stream ended: head and weights as the stream has taught them, and the state that a user
            starts from. None for those of the checkpoint, and a stream that has not begun.

    Raises:
        ConfigError: the module does not forecast, its core is not DREAM, or without `end` there is no record
            to shrink its forecasts by.
        CheckpointError: `end` is of other settings.
    """

    def __init__(self, module: OnlineModule, end: StreamEnd | None) -> None:
        super().__init__()
        if module.shape.task != "forecasting" or not isinstance(module.core, DREAMStack):
            what = (
                f"{module.shape.task}, {module.title}" if module.shape.task != "forecasting" else module.title
            )
            raise ConfigError(
                f"an online run can be exported if it forecasts with DREAM; this is {what}. Train such a run."
            )
        if module.schema is not None and module.schema.series:
            raise ConfigError(
                f"an online run can be exported if it is of one stream; this one has "
                f"{len(module.schema.series)} series, each with scales of its own. Train on the rows of one."
            )
        mode = module.modes[0]
        learner = module.make_learner(mode)
        if end is not None:
            learner.load({name: value for name, value in end.tensors.items() if name != NEWEST})
        elif learner.trust is not None:
            raise ConfigError(
                "forecasts with `updates.trust` are shrunk by a record, which a stream makes; there is none. "
                "Test the run, or let `dream predict --learn` read rows."
            )
        assert module.schema is not None
        self.network = constant(learner.network)
        self.plasticity = learner.plasticity
        targets = module.schema.columns["targets"]
        columns = (*targets, *module.schema.columns["covariates"])
        shrunk = torch.ones(()) if learner.trust is None else torch.as_tensor(learner.trust.factor())
        self.register_buffer("shrunk", shrunk)
        scales = module.schema.scales
        mean, scale = zip(*(scales.get(name, (0.0, 1.0)) for name in columns), strict=True)
        self.register_buffer("column_mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("column_scale", torch.tensor(scale, dtype=torch.float64))
        self._start = learner.state
        held = {name: field for name, field in self._split(learner.state).items() if field.numel()}
        self.inputs = ("x", *held)
        self.outputs = ("forecast", *next_(held))
        self.facts = {"columns": list(columns), "targets": list(targets), "horizon": module.shape.horizon}

    def init_state(self, batch_size: int) -> dict[str, Tensor]:
        start = self._split(self._start)
        return {name: start[name].repeat_interleave(batch_size, 0) for name in self.inputs[1:]}

    def example(self, batch_size: int) -> list[Tensor]:
        return [self.get_buffer("column_mean").repeat(batch_size, 1)]

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One row.

        Args:
            x: (N, D), float64, in measurement units; NaN where a value is missing.
            state: N streams, by the names of `init_state`.

        Returns:
            results: ``forecast`` (N, H, C), float64, in measurement units.
            new_state: the state after the row.
        """
        network, mean, scale = self.network, self.get_buffer("column_mean"), self.get_buffer("column_scale")
        rows = ((x - mean) / scale).unsqueeze(1)
        with network.core.plasticity(self.plasticity):
            features, new = network.features(rows, self._joined(state, x.shape[0]))
        values = network.to_data(network.outputs(features) * self.get_buffer("shrunk"), features).squeeze(1)
        after, targets = self._split(new), slice(network.shape.targets)
        forecast = values * scale[targets] + mean[targets]
        return {"forecast": forecast}, {name: after[name] for name in self.inputs[1:]}

    def _split(self, state: StreamState) -> dict[str, Tensor]:
        """The fields of a state, with a stream's lanes in an axis of their own."""
        fields, lanes = state.tensors(), self.network.lanes
        own = {
            name: f.unflatten(0, (-1, lanes)) if name.startswith("core.") else f for name, f in fields.items()
        }
        return {name.replace(".", "_"): field for name, field in own.items()}

    def _joined(self, fields: dict[str, Tensor], streams: int) -> StreamState:
        """The state whose fields `_split` returned; those that hold nothing need not be given."""
        tensors = {}
        for name, like in self._start.tensors().items():
            key, core = name.replace(".", "_"), name.startswith("core.")
            if key in fields:
                tensors[name] = fields[key].flatten(0, 1) if core else fields[key]
            else:
                tensors[name] = like.new_zeros(
                    (streams * (self.network.lanes if core else 1), *like.shape[1:])
                )
        return self._start.with_tensors(tensors)
