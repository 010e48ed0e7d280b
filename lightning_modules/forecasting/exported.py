"""`WindowStep`: the forecast of a window as a function of tensors alone, in measurement units.

Shapes: N windows, L look-back, D inputs, H horizon, C targets, Q quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dream import DREAMStack
from dream.errors import ConfigError
from dream.export import Step, constant
from lightning_modules.data.place import StreamEnd
from lightning_modules.forecasting.module import ForecastingModule


class WindowStep(Step):
    """Forecasts from the last L rows, with a fresh state, as the run does; there is no state between calls.

    Args:
        module: The run's, with its weights and schema.
        end: None; for the call that other tasks have.

    Raises:
        ConfigError: its core is not DREAM, or it reads more than the columns of a file.
    """

    def __init__(self, module: ForecastingModule, end: StreamEnd | None = None) -> None:
        super().__init__()
        shape, schema = module.shape, module.schema
        if not isinstance(module.core, DREAMStack):
            raise ConfigError(f"a forecaster can be exported if its core is DREAM; this is {module.title}.")
        assert schema is not None
        if schema.settings.get("scaling") == "series":
            raise ConfigError(
                "a forecaster can be exported if it scales all rows alike; this one scales each series by "
                "itself. Train with `data.scaling=global`."
            )
        reads = {
            "`known_covariates`, `calendar` or `static`": shape.known > 0,
            "`missing: mask`": shape.aged > 0,
            "`missing: model`": module.core.missing,
            "`timespans`": bool(schema.settings.get("timespans")),
            "`lags`": schema.settings.get("lags", 1) > 1,
        }
        if more := [name for name, read in reads.items() if read]:
            raise ConfigError(
                "a forecaster can be exported if it reads the columns of a file and nothing else; this has "
                f"{' and '.join(more)}. Train without."
            )
        self.module = constant(module)
        self.module.observe = lambda *_, **__: None  # type: ignore[method-assign] # nobody looks on
        columns = [*schema.columns["targets"], *schema.columns["covariates"]]
        mean, scale = zip(*(schema.scales[name] for name in columns), strict=True)
        self.register_buffer("column_mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("column_scale", torch.tensor(scale, dtype=torch.float64))
        levels = module.settings.levels
        self.inputs, self.outputs = ("x",), ("forecast", *(["quantiles"] if levels else []))
        self.facts = {
            "columns": columns,
            "targets": columns[: shape.channels],
            "look_back": shape.look_back,
            "horizon": shape.horizon,
            "levels": levels,
        }

    def init_state(self, batch_size: int) -> dict[str, Tensor]:
        return {}

    def example(self, batch_size: int) -> list[Tensor]:
        return [self.get_buffer("column_mean").repeat(batch_size, self.module.shape.look_back, 1)]

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Forecast.

        Args:
            x: (N, L, D), float64, in measurement units, without NaN.
            state: Empty.

        Returns:
            results: ``forecast`` (N, H, C) and, with levels, ``quantiles`` (N, H, C, Q), float64, in
                measurement units.
            new_state: empty.
        """
        mean, scale = self.get_buffer("column_mean"), self.get_buffer("column_scale")
        found = self.module(((x - mean) / scale).to(self.module.dtype))
        mean, scale = (part[: self.module.shape.channels] for part in (mean, scale))
        results = {"forecast": found.future * scale + mean}
        if found.quantiles is not None:
            results["quantiles"] = found.quantiles * scale.unsqueeze(1) + mean.unsqueeze(1)
        return results, {}
