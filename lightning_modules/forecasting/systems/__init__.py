"""Driven systems: forecast the output of one that was never seen before, from what it has done so far.

`generator` draws Wiener-Hammerstein systems and inputs for them, `circuit` reads a real one, `data` makes
sequences of them, `reference` forecasts them without training, `module` is the task, and `plots` shows the
error as a sequence goes on."""

from lightning_modules.forecasting.systems.circuit import circuit
from lightning_modules.forecasting.systems.data import SystemBatch, SystemsData, SystemsShape
from lightning_modules.forecasting.systems.generator import WienerHammerstein, excitation
from lightning_modules.forecasting.systems.module import SystemsModule, SystemsSettings

__all__ = [
    "SystemBatch",
    "SystemsData",
    "SystemsModule",
    "SystemsSettings",
    "SystemsShape",
    "WienerHammerstein",
    "circuit",
    "excitation",
]
