"""`SaveFigures`: the figures of a test, as files and in the tracked run."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dream import sums
from lightning_modules.base import TaskModule, run_folder
from lightning_modules.checks import require


class SaveFigures(L.Callback):
    """Callback that writes the module's figures to ``figures/NAME.png`` in the run's folder after a test, and
    logs them.

    Args:
        dpi: Dots per inch of the files.

    Raises:
        ConfigError: `dpi` is not from 10 to 1000.
    """

    def __init__(self, dpi: int = 120) -> None:
        require("dpi", dpi, 10 <= dpi <= 1000, "a whole number from 10 to 1000")
        self.dpi = dpi
        self.paths: list[Path] = []

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        folder = run_folder(trainer)
        self.paths = []
        for name, figure in pl_module.figures().items():
            drawn = BytesIO()
            figure.savefig(drawn, dpi=self.dpi)
            path = sums.write_atomic(folder, f"figures/{name}.png", drawn.getvalue())
            self.paths.append(path)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"figures/{name}", [str(path)])
