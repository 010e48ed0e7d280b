"""`SaveFigures`: the figures of a test, as files and in the tracked run."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dream.files import write_atomic
from lightning_modules.base import TaskModule


class SaveFigures(L.Callback):
    """Callback that writes the module's figures to ``figures/NAME.png`` in the run's folder after a test, and
    logs them.

    Args:
        dpi: Dots per inch of the files.
    """

    def __init__(self, dpi: int = 120) -> None:
        self.dpi = dpi
        self.paths: list[Path] = []

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        folder = Path(trainer.default_root_dir) / "figures"
        self.paths = []
        for name, figure in pl_module.figures().items():
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.png"
            drawn = BytesIO()
            figure.savefig(drawn, dpi=self.dpi)
            write_atomic(path, drawn.getvalue())
            self.paths.append(path)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"figures/{name}", [str(path)])
